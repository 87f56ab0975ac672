"""The default engine: a shard of runs trained together on one thread, from base weights to evaluated checkpoints.

A shard's state is committed in one file, all its runs at once; journals are cut back to that commit when it resumes.
Killed at any instant, it therefore goes on to the same bytes.
"""

import contextlib
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from controlarm import arms, checkpoints, evaluation, files, labels, probes, rollouts, seeds
from controlarm.evaluation import GREEDY, Grid, Row
from controlarm.files import DamagedFileError
from controlarm.journal import Journal, Mark
from controlarm.labels import Label
from controlarm.organisms import released, tokenizer
from controlarm.organisms.transformer import Shape, Weights
from controlarm.protocol import Protocol, Recipe, RunSpec
from controlarm.records import Problem
from controlarm.sampling import Completions
from controlarm.train import Prompts, Settings, State, Step, train
from controlarm.update import VALUE, compute_weights, text_weights

VERSION = "lockstep-4"
"""Moves when anything from labels to evaluation would give other numbers; part of every digest."""

FAILED_SHARE = 0.05
"""A run stops when more than this share of a step's rewards failed."""

COMMIT_EVERY = 10
"""Steps between commits; evaluation steps and the last are always committed."""


class Plan(NamedTuple):
    """What is fixed for all shards before the first step; from ``plan.json``."""

    folder: Path
    protocol: Protocol
    runs: list[RunSpec]
    shards: list[list[int]]
    prompt_length: int
    compiled: bool
    device: str
    problems_sha256: str


Report = Callable[[dict[str, Any]], None]
"""Receives progress: ``stage``, ``step``, ``seconds`` and the runs' newest numbers."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The runs of one shard and what they train on."""

    plan: Plan
    number: int
    specs: list[RunSpec]
    grid: Grid
    shape: Shape
    base: Weights
    """float32, every run's own base."""
    arms: list[arms.Arm]
    pools: list[list[Problem]]
    """Training problems of each run."""
    labels: list[dict[str, Label]]
    held_out: list[Problem]

    @property
    def recipe_name(self) -> str:
        return self.specs[0].recipe

    @property
    def settings(self) -> Settings:
        recipe = self.plan.protocol.recipes[self.recipe_name]
        return Settings(recipe, self.shape, self.plan.compiled)

    def folder(self, run: int) -> Path:
        """A run's folder."""
        return self.plan.folder / self.specs[run].path

    @property
    def state_path(self) -> Path:
        return self.plan.folder / "shards" / f"{self.number:03d}.safetensors"


def run_shard(plan: Plan, number: int, report: Report) -> None:
    """Bring one shard from wherever it stands to its end.

    Raises:
        DamagedFileError: when a file that it needs does not hold what was written to it.
        OSError: when a file cannot be written; what was committed stays.
    """
    torch.set_num_threads(1)
    problems = read_problems(plan.folder, plan.problems_sha256)
    shard = _open(plan, number, problems, report)
    state = State.start(shard.base, shard.settings.recipe)
    with contextlib.ExitStack() as opened:
        journals, finished = _resume(shard, state, opened)
        if not finished:
            _go_on(shard, state, journals, report)


def _go_on(shard: Shard, state: State, journals: Sequence[Journal], report: Report) -> None:
    """From the last commit to the end."""
    plan = shard.plan
    if state.step == 0:
        started = time.perf_counter()
        _evaluate_base(shard)
        report(_progress(shard, 0, "evaluated", time.perf_counter() - started))
        _probe_bases(shard, report)
    base = compute_weights(shard.base, shard.settings.recipe)
    last = plan.protocol.design.num_steps
    clock = time.perf_counter()
    for step in train(
        state, last, functools.partial(_prompts, shard), functools.partial(_pay, shard),
        shard.settings, base,
    ):  # fmt: skip
        newest = _record(shard, state, step, journals)
        evaluates = step.step in plan.protocol.evaluation.steps
        report(_progress(shard, step.step, "trained", time.perf_counter() - clock, newest))
        clock = time.perf_counter()
        if evaluates:
            _evaluate(shard, state)
            report(_progress(shard, step.step, "evaluated", time.perf_counter() - clock))
            clock = time.perf_counter()
        if step.step == last:
            _probe_runs(shard, state, report)
        if evaluates or step.step % COMMIT_EVERY == 0 or step.step == last:
            _commit(shard, state, journals, finished=step.step == last)


def read_problems(folder: Path, sha256: str) -> dict[str, list[Problem]]:
    """Problems by split, from ``problems.parquet``.

    Raises:
        DamagedFileError: when the file's hash is not the plan's.
    """
    path = folder / "problems.parquet"
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedFileError(path, "its content is not what plan.json says was written")
    found: dict[str, list[Problem]] = {"training": [], "held_out": []}
    for row in pq.read_table(pa.BufferReader(content)).to_pylist():
        found[row["split"]].append(Problem(id=row["id"], text=row["text"], answer=row["answer"]))
    return found


def _open(plan: Plan, number: int, problems: dict[str, list[Problem]], report: Report) -> Shard:
    protocol = plan.protocol
    specs = [plan.runs[i] for i in plan.shards[number]]
    recipe = protocol.recipes[specs[0].recipe]
    bases, shape = {}, Shape()
    for spec in specs:
        key = (spec.family, spec.pretraining_seed)
        if key not in bases:
            weights, _, shape = released.load(*key)
            bases[key] = {name: w.to(plan.device) for name, w in weights.items()}
    made = {}
    for key, weights in bases.items():
        started = time.perf_counter()
        made[key] = _labels(plan, key, weights, problems["training"], shape)
        report(
            {
                "stage": "labelled",
                "shard": number,
                "step": 0,
                "seconds": time.perf_counter() - started,
            }
        )
    keyed = [(s.family, s.pretraining_seed) for s in specs]
    tables = {name: arms.build(name, arm, protocol.arms) for name, arm in protocol.arms.items()}
    return Shard(
        plan=plan,
        number=number,
        specs=specs,
        grid=_grid(plan, recipe),
        shape=shape,
        base={name: torch.cat([bases[k][name] for k in keyed]) for name in bases[keyed[0]]},
        arms=[tables[spec.arm] for spec in specs],
        pools=[
            pool(protocol, spec, problems["training"], made[k])
            for spec, k in zip(specs, keyed, strict=True)
        ],
        labels=[made[k] for k in keyed],
        held_out=problems["held_out"],
    )


def _grid(plan: Plan, recipe: Recipe) -> Grid:
    return Grid(
        recipe.prompts_per_step,
        recipe.group_size,
        plan.prompt_length,
        plan.protocol.design.max_tokens,
    )


def _labels(
    plan: Plan,
    base: tuple[str, int],
    weights: Weights,
    problems: Sequence[Problem],
    shape: Shape,
) -> dict[str, Label]:
    """The base model's labels, made once and kept.

    Always in the shapes and precision of the protocol's first recipe, so that they do not depend on which shard came
    first.
    """
    path = plan.folder / "labels" / f"{base[0]}-p{base[1]}.parquet"
    if not path.exists():
        recipe = next(iter(plan.protocol.recipes.values()))
        grid = _grid(plan, recipe)
        rows = evaluation.rows_of(problems, range(plan.protocol.labels.samples), grid.group)
        made = evaluation.spread(
            compute_weights(weights, recipe), len(plan.protocol.arms), rows, ("labels", base[1]),
            grid, shape, plan.compiled,
        )  # fmt: skip
        texts: dict[str, list[str]] = {problem.id: [] for problem in problems}
        for one in made:
            texts[one.problem.id].append(one.text)
        labels.write(path, [labels.label(p.id, texts[p.id], p.answer) for p in problems])
    return {row.problem_id: row for row in labels.read(path)}


def pool(
    protocol: Protocol, spec: RunSpec, problems: Sequence[Problem], made: dict[str, Label]
) -> list[Problem]:
    """The problems that a run trains on: all, or those whose majority label is wrong, or a single one."""
    kept = list(problems)
    if protocol.design.restrict == "majority_wrong":
        kept = [p for p in kept if labels.majority_is_wrong(made[p.id], p.answer)]
        if not kept:
            raise ValueError(
                f"design.restrict: {spec.family}-p{spec.pretraining_seed} has no training problem whose majority "
                'label is wrong; raise design.num_problems or say restrict = "all"'
            )
    arm = protocol.arms[spec.arm]
    if (arm.reward or spec.arm) != "one_shot":
        return kept
    wanted = arm.problem or labels.one_shot_problem([made[p.id] for p in kept])
    chosen = [p for p in kept if p.id == wanted]
    if not chosen:
        raise ValueError(f"arms.{spec.arm}.problem: {wanted!r} is not among the training problems")
    return chosen


def _asked(shard: Shard, run: int, step: int) -> list[Row]:
    """A run's prompts at a step: the pool in a keyed order, epoch after epoch; a repeated problem draws new samples.

    With dynamic sampling they are those of all batches that the step may ask for.
    """
    recipe = shard.settings.recipe
    wanted = shard.grid.prompts * max(1, recipe.dynamic_sampling)
    greedy = (GREEDY,) if recipe.asks_greedy else ()
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for problem in asked_problems(shard.specs[run], shard.pools[run], wanted, step):
        first = seen[problem.id] * shard.grid.group
        seen[problem.id] += 1
        rows.append(Row(problem, (*range(first, first + shard.grid.group), *greedy)))
    return rows


def asked_problems(
    spec: RunSpec, problems: Sequence[Problem], wanted: int, step: int
) -> list[Problem]:
    """The problems of a step: a keyed order of the pool, epoch after epoch."""
    found = []
    for place in range((step - 1) * wanted, step * wanted):
        epoch, index = divmod(place, len(problems))
        order = _order(spec.pretraining_seed, spec.seed, epoch, len(problems))
        found.append(problems[order[index]])
    return found


def _batch(shard: Shard, run: int, step: int, number: int) -> list[Row]:
    """The prompts of one batch within a step."""
    size = shard.grid.prompts
    return _asked(shard, run, step)[number * size : (number + 1) * size]


@functools.lru_cache(maxsize=64)
def _order(pretraining_seed: int, seed: int, epoch: int, num_problems: int) -> tuple[int, ...]:
    rng = seeds.generator("problem-order", pretraining_seed, seed, epoch)
    return tuple(rng.permutation(num_problems).tolist())


def _prompts(shard: Shard, step: int, number: int) -> Prompts:
    rows = [_batch(shard, run, step, number) for run in range(len(shard.specs))]
    paths = [("training", spec.pretraining_seed, spec.seed, step) for spec in shard.specs]
    tokens, noise = evaluation.ask(rows, paths, shard.grid)
    return Prompts(tokens.to(shard.plan.device), noise.to(shard.plan.device))


def _pay(
    shard: Shard, step: int, number: int, completions: Completions
) -> tuple[np.ndarray, dict[int, str]]:
    """Every run's rewards by its arm, and the runs whose rewards failed too often."""
    runs, num_prompts, group, _ = completions.tokens.shape
    rewards = np.zeros((runs, num_prompts, group))
    reasons: dict[int, str] = {}
    for run, arm in enumerate(shard.arms):
        messages: list[str] = []
        tokens = completions.tokens[run].tolist()
        for p, row in enumerate(_batch(shard, run, step, number)):
            label = shard.labels[run][row.problem.id]
            payment = arm.payment(
                arms.GroupView(
                    problem_id=row.problem.id,
                    texts=[tokenizer.decode(ids) for ids in tokens[p]],
                    answer=row.problem.answer,
                    majority=label.majority,
                    incorrect=label.incorrect,
                    seed=shard.specs[run].seed,
                    step=step,
                    samples=row.samples,
                )
            )
            rewards[run, p] = payment.rewards
            messages += payment.failures
        failed = np.isnan(rewards[run]).mean()
        if failed > FAILED_SHARE:
            reasons[run] = f"{failed:.0%} of the step's rewards failed; the first: {messages[0]}"
    return rewards, reasons


def _record(
    shard: Shard, state: State, step: Step, journals: Sequence[Journal]
) -> list[dict[str, Any]]:
    """Journal every run's step and keep its rollouts where the protocol says so; returns the lines."""
    protocol = shard.plan.protocol
    recipe = shard.settings.recipe
    every, last = protocol.logging.rollouts_every, protocol.design.num_steps
    keeps = step.step % every == 0 or step.step in (1, last)
    lines = []
    for run, journal in enumerate(journals):
        if not bool(state.active[run]):
            _note_failure(shard, state, run)
            lines.append({})
            continue
        asked, taken = _asked(shard, run, step.step), step.rollouts
        rows = [
            Row(asked[i].problem, asked[i].samples[: shard.grid.group]) for i in taken.chosen[run]
        ]
        made = evaluation.unpack(rows, taken.completions, run)
        rewards, advantages = taken.rewards[run].ravel(), step.advantages[run].ravel()
        facts = rollouts.facts(made, taken.rewards[run])
        line = {"step": step.step} | facts | step.metrics[run] | coefficients(recipe)
        if keeps:
            path = shard.folder(run) / "rollouts" / f"step-{step.step:06d}.parquet"
            files.write_table(
                path, rollouts.table(made, taken.completions, run, rewards, advantages)
            )
        journal.append(line)
        lines.append(line)
    return lines


def coefficients(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe stands in each line of the journal."""
    return {
        "learning_rate": recipe.learning_rate,
        "epsilon_low": recipe.epsilon_low,
        "epsilon_high": recipe.epsilon_high,
        "policy_coef": recipe.policy_coef,
        "kl_coef": recipe.kl_coef,
        "entropy_coef": recipe.entropy_coef,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "updates": recipe.updates_per_rollout,
    }


def _note_failure(shard: Shard, state: State, run: int) -> None:
    path = shard.folder(run) / "failed.json"
    if not path.exists():
        files.write_json(path, {"step": state.step, "reason": state.failures[run]})


def _evaluation_rows(shard: Shard) -> list[Row]:
    samples = [GREEDY, *range(shard.plan.protocol.evaluation.samples)]
    return evaluation.rows_of(shard.held_out, samples, shard.grid.group)


def _evaluation_path(spec: RunSpec) -> tuple[seeds.Part, ...]:
    """The noise of evaluation does not depend on the step, so a checkpoint is compared with its base draw by draw."""
    return ("evaluation", spec.pretraining_seed, spec.seed)


def _write_evaluation(
    shard: Shard, run: int, step: int, made: Sequence[evaluation.Sampled], sha256: str
) -> None:
    table = evaluation.table(made).replace_schema_metadata({"weights_sha256": sha256})
    files.write_table(shard.folder(run) / "evaluations" / f"step-{step:06d}.parquet", table)


def _own(weights: Weights, run: int) -> Weights:
    return {name: w[run : run + 1].detach() for name, w in weights.items() if name != VALUE}


def _evaluate_base(shard: Shard) -> None:
    """Step 0: each base once, dealt over the shard's slots; its runs share the result."""
    recipe = shard.settings.recipe
    made: dict[tuple[str, int, int], list[evaluation.Sampled]] = {}
    for run, spec in enumerate(shard.specs):
        key = (spec.family, spec.pretraining_seed, spec.seed)
        if key not in made:
            base = compute_weights(_own(shard.base, run), recipe)
            made[key] = evaluation.spread(
                base, len(shard.specs), _evaluation_rows(shard), _evaluation_path(spec),
                shard.grid, shard.shape, shard.plan.compiled,
            )  # fmt: skip
        sha256 = checkpoints.tensors_sha256(_own(shard.base, run))
        _write_evaluation(shard, run, 0, made[key], sha256)


def _evaluate(shard: Shard, state: State) -> None:
    """All runs on the held-out problems; the last step's weights are kept."""
    weights = text_weights(state.weights, shard.settings.recipe)
    rows = _evaluation_rows(shard)
    paths = [_evaluation_path(spec) for spec in shard.specs]
    made = evaluation.complete(
        weights, [rows] * len(shard.specs), paths, shard.grid, shard.shape, shard.plan.compiled
    )
    for run, spec in enumerate(shard.specs):
        if not bool(state.active[run]):
            continue
        own = _own(state.weights, run)
        _write_evaluation(shard, run, state.step, made[run], checkpoints.tensors_sha256(own))
        if state.step == shard.plan.protocol.design.num_steps:
            path = shard.folder(run) / "checkpoints" / f"step-{state.step:06d}.safetensors"
            checkpoints.write(path, own, {"run": spec._asdict(), "step": state.step})


def _base_subject(shard: Shard, spec: RunSpec, base: Weights) -> probes.Subject:
    """A base to be probed. All of one pretrained model share problems and noise."""
    asked = shard.plan.protocol.probes
    compute = compute_weights(base, shard.settings.recipe)
    return probes.Subject(
        policy=compute,
        policy_master=base,
        base=compute,
        base_master=base,
        problems=shard.held_out[: asked.num_problems],
        samples=asked.samples,
        path=("probes", spec.pretraining_seed),
        prompt_length=shard.plan.prompt_length,
        max_tokens=shard.grid.max_tokens,
        shape=shard.shape,
    )


def _write_probes(folder: Path, kinds: Sequence[str], subject: probes.Subject) -> None:
    for kind in kinds:
        files.write_table(folder / "probes" / f"{kind}.parquet", probes.PROBES[kind](subject))


def _probe_bases(shard: Shard, report: Report) -> None:
    """Each base once, whichever shard comes first; always in the precision of the protocol's first recipe."""
    protocol = shard.plan.protocol
    if shard.recipe_name != next(iter(protocol.recipes)):
        return
    for run, spec in enumerate(shard.specs):
        home = shard.plan.folder / "bases" / f"{spec.family}-p{spec.pretraining_seed}"
        missing = [
            k for k in protocol.probes.base if not (home / "probes" / f"{k}.parquet").exists()
        ]
        if missing:
            started = time.perf_counter()
            _write_probes(home, missing, _base_subject(shard, spec, _own(shard.base, run)))
            report(_progress(shard, 0, "probed", time.perf_counter() - started))


def _probe_runs(shard: Shard, state: State, report: Report) -> None:
    """Every run that got to its end."""
    kinds = shard.plan.protocol.probes.kinds
    if not kinds:
        return
    started = time.perf_counter()
    bases: dict[tuple[str, int], probes.Subject] = {}
    for run, spec in enumerate(shard.specs):
        if not bool(state.active[run]):
            continue
        key = (spec.family, spec.pretraining_seed)
        if key not in bases:
            bases[key] = _base_subject(shard, spec, _own(shard.base, run))
        own = _own(state.weights, run)
        policy = compute_weights(own, shard.settings.recipe)
        _write_probes(shard.folder(run), kinds, bases[key].trained(policy, own))
    report(_progress(shard, state.step, "probed", time.perf_counter() - started))


def _commit(shard: Shard, state: State, journals: Sequence[Journal], finished: bool) -> None:
    """All runs of the shard at once. A finished shard keeps no optimiser: its weights stand in the runs' checkpoints."""
    facts = {
        "step": state.step,
        "finished": finished,
        "journals": [journal.mark() for journal in journals],
        "failures": {str(run): reason for run, reason in state.failures.items()},
    }
    tensors = {"active": state.active} if finished else state.tensors()
    checkpoints.write(shard.state_path, tensors, facts)


def _resume(shard: Shard, state: State, opened: contextlib.ExitStack) -> tuple[list[Journal], bool]:
    """Restore the last commit, if any, and cut everything written after it; ``opened`` will close the journals."""

    def journal(run: int, mark: Mark | None) -> Journal:
        path = shard.folder(run) / "steps.jsonl"
        return opened.enter_context(contextlib.closing(Journal(path, mark)))

    runs = range(len(shard.specs))
    if not shard.state_path.exists():
        for run in runs:
            drop_after(shard.folder(run), -1)
        return [journal(run, None) for run in runs], False
    tensors, facts = checkpoints.read(shard.state_path)
    journals = [journal(run, Mark(*facts["journals"][run])) for run in runs]
    if facts["finished"]:
        return journals, True
    failures = {int(run): reason for run, reason in facts["failures"].items()}
    state.restore(facts["step"], tensors, failures)
    for run in runs:
        drop_after(shard.folder(run), facts["step"])
    return journals, False


def drop_after(folder: Path, step: int) -> None:
    """Remove step files later than a step: they will be made again, the same."""
    for path in [*folder.glob("*/step-*.parquet"), *folder.glob("*/step-*.safetensors")]:
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    failed = folder / "failed.json"
    if failed.exists() and files.read_json(failed)["step"] > step:
        failed.unlink()


def _progress(
    shard: Shard, step: int, stage: str, seconds: float, lines: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    shown = ("reward", "accuracy", "code_share", "entropy")
    return {
        "shard": shard.number,
        "stage": stage,
        "step": step,
        "seconds": seconds,
        "runs": {
            shard.specs[run].path: {name: line.get(name) for name in shown}
            for run, line in enumerate(lines)
        },
    }
