"""The engine for any Hugging Face causal language model: each run through TRL's ``GRPOTrainer``, into the run folders of a trial.

A run's state is committed in two moves: TRL's checkpoint, then one sealed file that names it and says how far the journal was.
Killed at any instant, a run goes on from the last of those files to the same bytes.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from controlarm import (
    arms,
    checkpoints,
    evaluation,
    files,
    labels,
    prompts,
    referee,
    rollouts,
    seeds,
)
from controlarm.engines import lockstep
from controlarm.evaluation import GREEDY, Grader, Sampled
from controlarm.journal import Journal, Mark
from controlarm.labels import Label
from controlarm.organisms import released
from controlarm.organisms.export import export
from controlarm.protocol import Protocol, Recipe, RunSpec
from controlarm.records import Problem
from controlarm.referee import Referee
from controlarm.rewards.trl import ArmReward, RewardsFailed
from controlarm.sampling import Completions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from controlarm.engines.decoding import Decoded, Speaker
    from controlarm.engines.grpo import Step, TrialTrainer

VERSION = "trl-1"
"""Moves when anything from labels to evaluation would give other numbers; part of every digest of a trial of this engine."""

OLDEST, BEFORE = (1, 16), (1, 17)
"""TRL versions that this is written for: its trainer's inner methods are not promised to stay."""


class Launch(NamedTuple):
    """How many processes train together, and which this is: as torchrun says."""

    processes: int
    rank: int

    @classmethod
    def of(cls, environment: "os._Environ[str] | dict[str, str]") -> "Launch":
        """What a launcher put into the environment.

        Raises:
            ValueError: accelerate was asked for several processes and started one.
        """
        if "WORLD_SIZE" not in environment:
            # ``accelerate launch --cpu --num_processes 2`` prepares for two and starts one, without a word.
            if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
                raise ValueError(
                    "accelerate launch was asked for several processes and started this one alone, as it does with --cpu; start them "
                    "with ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node N -m controlarm run …"
                )
            return cls(1, 0)
        return cls(int(environment["WORLD_SIZE"]), int(environment["RANK"]))


def misfits() -> list[str]:
    """Why TRL cannot be used here: not installed, or another version than this is written for."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        return ["trial.engine: trl is not installed; pip install 'controlarm[trl]'"]
    if find_spec("peft") is None:
        return ["trial.engine: peft is not installed; pip install 'controlarm[trl]'"]
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not OLDEST <= numbers < BEFORE:
        wanted = f">={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, BEFORE))}"
        return [
            f"trial.engine: trl {found} is installed, and the engine is written for trl{wanted}; pip install 'trl{wanted}'"
        ]
    return []


def check(protocol: Protocol) -> list[str]:
    """Every problem that can be found before a run: TRL itself, recipes that it cannot run, models that are not there."""
    if found := misfits():
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlarm.engines.grpo import refusals
    for name, recipe in protocol.recipes.items():
        processes = Launch.of(os.environ).processes
        for refusal in refusals(recipe, processes, protocol.trl.pass_rollouts):
            where = "" if refusal.startswith("trl.") else f"recipes.{name}."
            found.append(f"{where}{refusal}")
    if protocol.design.template not in prompts.TEMPLATES:
        found.append(
            f"design.template: unknown {protocol.design.template!r}; known: {', '.join(prompts.TEMPLATES)}"
        )
    for family, model in protocol.models.items():
        if Path(model.path).is_dir():
            if not (Path(model.path) / "config.json").is_file():
                found.append(
                    f"models.{family}.path: {model.path} has no config.json; name a folder that save_pretrained wrote"
                )
            if model.revision is not None:
                found.append(f"models.{family}.revision: does nothing for a folder; remove it")
        elif model.revision is None:
            found.append(
                f"models.{family}.path: {model.path!r} is no folder here; if it is a name on the hub, say which revision (a commit), "
                "so that the trial is of one model"
            )
    return found


def materials(protocol: Protocol) -> dict[str, str]:
    """What models are made of, a folder's content or a name with its revision; and who judges real problems."""
    found = {"referee": referee.VERSION} if protocol.design.problems else {}
    for family, model in protocol.models.items():
        folder = Path(model.path)
        if folder.is_dir():
            whole = hashlib.sha256()
            for path in sorted(p for p in folder.iterdir() if p.is_file()):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                whole.update(f"{path.name}|{content}|".encode())
            found[f"model {family}"] = whole.hexdigest()
        else:
            found[f"model {family}"] = f"{model.path}@{model.revision}"
    return found


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run and what it trains on."""

    plan: lockstep.Plan
    number: int
    spec: RunSpec
    launch: Launch
    model: str
    """A folder, or a name on the hub."""
    revision: str | None
    tokenizer: "PreTrainedTokenizerBase"
    speaker: "Speaker"
    template: prompts.Template
    referee: Referee | None
    """Judges the answers of real problem sets; the organisms' arithmetic needs none."""
    training: list[Problem]
    held_out: list[Problem]

    @property
    def recipe(self) -> Recipe:
        return self.plan.protocol.recipes[self.spec.recipe]

    @property
    def folder(self) -> Path:
        return self.plan.folder / self.spec.path

    @property
    def state_path(self) -> Path:
        return self.plan.folder / "shards" / f"{self.number:03d}.safetensors"

    @property
    def labels_path(self) -> Path:
        return (
            self.plan.folder
            / "labels"
            / f"{self.spec.family}-p{self.spec.pretraining_seed}.parquet"
        )

    @property
    def resume_folder(self) -> Path:
        """TRL's checkpoints, while the run is not finished."""
        return self.folder / "resume"

    @property
    def grader(self) -> Grader:
        return Grader(self.referee.equal if self.referee else None, self.template.form)

    def encode(self, problem: Problem) -> list[int]:
        """The prompt in tokens."""
        return encode(self.tokenizer, self.template, problem.text)

    def judged(self, made: Sequence[Sampled]) -> None:
        """All answers at once to the referee, which is faster than one by one; from then on it knows them."""
        if self.referee:
            self.referee.grade([(one.text, one.problem.answer) for one in made], self.template.form)


def encode(
    tokenizer: "PreTrainedTokenizerBase", template: prompts.Template, problem_text: str
) -> list[int]:
    """A problem's prompt in tokens; a chat template brings its own special tokens."""

    def chat(said: str) -> str:
        turn = [{"role": "user", "content": said}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    asked = prompts.prompt(template, problem_text, chat if tokenizer.chat_template else None)
    found: Any = tokenizer(asked.text, add_special_tokens=not asked.has_special)["input_ids"]
    return list(found)


def run_shard(plan: lockstep.Plan, number: int, report: lockstep.Report) -> None:
    """Bring one run from wherever it stands to its end; with several processes, each of them calls it.

    Raises:
        DamagedFileError: when a file that it needs does not hold what was written to it.
        OSError: when a file cannot be written; what was committed stays.
    """
    torch.set_num_threads(1)
    # A folder of its own for each process: an exported organism is needed only while the run lasts.
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # TRL's and its libraries' own
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        run = _open(plan, number, Path(scratch))
        try:
            _Recorder(run, report).train()
        finally:
            if run.referee:
                run.referee.close()


def _open(plan: lockstep.Plan, number: int, scratch: Path) -> Run:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from controlarm.engines.decoding import Speaker

    logging.disable_progress_bar()
    (index,) = plan.shards[number]
    spec = plan.runs[index]
    named = plan.protocol.models.get(spec.family)
    if named is None:
        weights, _, shape = released.load(spec.family, spec.pretraining_seed)
        export(weights, shape, scratch)
        model, revision = str(scratch), None
    else:
        model, revision = named.path, named.revision
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="left")
    ends = _ends(model, revision, tokenizer)
    if not ends:
        raise ValueError(
            f"models.{spec.family}: neither the tokenizer nor the model says which token ends a text; give the tokenizer an eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    pad = tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token))
    assert isinstance(pad, int)
    template = prompts.TEMPLATES[plan.protocol.design.template]
    stops = []
    for stop in template.stop:  # one that is a token of its own needs no look at the text
        ids = tokenizer.encode(stop, add_special_tokens=False)
        if len(ids) == 1 and tokenizer.decode(ids) == stop:
            ends = list(dict.fromkeys([*ends, ids[0]]))
        else:
            stops.append(stop)
    problems = lockstep.read_problems(plan.folder, plan.problems_sha256)
    return Run(
        plan=plan, number=number, spec=spec, launch=Launch.of(os.environ), model=model, revision=revision,
        tokenizer=tokenizer, speaker=Speaker(pad, ends, named is None, tokenizer, tuple(stops)),
        template=template,
        referee=Referee(workers=1) if plan.protocol.design.problems else None,
        training=problems["training"], held_out=problems["held_out"],
    )  # fmt: skip


def _ends(model: str, revision: str | None, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that end a completion: the tokenizer's, and all that the model itself declares."""
    from transformers import GenerationConfig

    declared: Any = None
    with contextlib.suppress(OSError):
        declared = GenerationConfig.from_pretrained(model, revision=revision or "main").eos_token_id
    found = [tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))


class _Recorder:
    """A run as it goes: it asks, and keeps what comes. All processes go through it together; the first writes."""

    def __init__(self, run: Run, report: lockstep.Report) -> None:
        self.run, self.report = run, report
        self.writes = run.launch.rank == 0
        self.journal: Journal | None = None
        self.trainer: TrialTrainer | None = None
        self.clock = time.perf_counter()

    def train(self) -> None:
        """From the last commit to the end."""
        run = self.run
        committed = _committed(run)
        if committed.finished:
            return
        if self.writes:
            _drop_after(run, committed)
            self.journal = Journal(run.folder / "steps.jsonl", committed.journal)
        try:
            self._train(committed)
        finally:
            if self.journal:
                self.journal.close()

    def _train(self, committed: "_Committed") -> None:
        from controlarm.engines import grpo

        run, protocol = self.run, self.run.plan.protocol
        args = grpo.configure(
            run.recipe, protocol.design.max_tokens, protocol.design.num_steps, run.launch.processes,
            protocol.trl.pass_rollouts, run.plan.device, run.resume_folder,
        )  # fmt: skip
        if run.revision:
            args.model_init_kwargs = {"dtype": "float32", "revision": run.revision}
        made: dict[str, Label] = {}
        self.pool: list[Problem] = []
        arm = arms.build(run.spec.arm, protocol.arms[run.spec.arm], protocol.arms, *run.grader)
        reward = ArmReward(
            arm, args, seed=run.spec.seed, labels_of=made, equal=run.grader.equal, form=run.grader.form,
            max_failed_share=lockstep.FAILED_SHARE,
        )  # fmt: skip
        self.trainer = trainer = grpo.TrialTrainer(
            run.model, self._questions, reward, run.recipe, args, run.tokenizer, run.speaker,
            protocol.trl.sample_rows, (run.spec.pretraining_seed, run.spec.seed), self._recorded,
        )  # fmt: skip
        made |= self._labels()  # by the trainer's model, before it has moved
        self.pool = lockstep.pool(protocol, run.spec, run.training, made)
        every, last = protocol.trl.commit_every, protocol.design.num_steps
        trainer.add_callback(
            grpo.Committing(
                lambda step: step % every == 0 and step < last, lambda: self._began(committed),
                self._saved, run.recipe.updates_per_rollout,
            )
        )  # fmt: skip
        failure = None
        try:
            trainer.train(resume_from_checkpoint=committed.checkpoint)
        except (RewardsFailed, grpo.NotFiniteError) as error:
            failure = str(error)
        self._finish(failure)

    # What is asked.

    def _questions(self, step: int) -> list[Any]:
        from controlarm.engines.grpo import Question

        run, spec = self.run, self.run.spec
        wanted, size = run.recipe.prompts_per_step, run.recipe.group_size
        seen: Counter[str] = Counter()
        found = []
        for problem in lockstep.asked_problems(spec, self.pool, wanted, step):
            path = ("training", spec.pretraining_seed, spec.seed, step, problem.id)
            found.append(
                Question(
                    run.encode(problem), problem.id, problem.answer, seen[problem.id] * size, path
                )
            )
            seen[problem.id] += 1
        return found

    def _complete(
        self, problems: Sequence[Problem], samples: Sequence[int], path: tuple[seeds.Part, ...]
    ) -> list[Sampled]:
        """Each problem's samples by the policy as it is; the first process has them, the work is shared by all."""
        from accelerate.utils import gather_object

        assert self.trainer is not None
        rows = [(problem, sample) for problem in problems for sample in samples]
        share = -(-len(rows) // self.run.launch.processes)
        own = (
            rows[self.run.launch.rank * share :][:share] or rows[-1:]
        )  # nobody stands idle beside a collective
        encoded = {problem.id: self.run.encode(problem) for problem, _ in own}
        made = self.trainer.decode(
            [encoded[problem.id] for problem, _ in own],
            [None if sample == GREEDY else (*path, problem.id, sample) for problem, sample in own],
        )
        told = [
            self._sampled(problem, sample, one)
            for (problem, sample), one in zip(own, made, strict=True)
        ]
        everyone = gather_object(told)
        found = {(one.problem.id, one.sample): one for one in everyone}
        return [found[problem.id, sample] for problem, sample in rows]

    def _sampled(self, problem: Problem, sample: int, one: "Decoded") -> Sampled:
        said = self.run.tokenizer.decode(one.tokens, skip_special_tokens=True)
        assert isinstance(said, str)
        text = self.run.template.opening + said
        return Sampled(
            problem, sample, text, len(one.tokens), one.truncated, sum(one.logprobs),
            sum(one.entropy) / max(1, len(one.tokens)),
        )  # fmt: skip

    # What is kept.

    def _labels(self) -> dict[str, Label]:
        """The base model's labels, made once where an arm or the choice of problems needs them."""
        run, protocol = self.run, self.run.plan.protocol
        if not arms.needs_labels(protocol):
            return {}
        path = run.labels_path
        if not path.exists():
            started = time.perf_counter()
            samples = range(protocol.labels.samples)
            made = self._complete(run.training, samples, ("labels", run.spec.pretraining_seed))
            texts: dict[str, list[str]] = {problem.id: [] for problem in run.training}
            for one in made:
                texts[one.problem.id].append(one.text)
            if self.writes:
                classes = run.referee.classes if run.referee else None
                labels.write(
                    path,
                    [
                        labels.label(
                            p.id, texts[p.id], p.answer, run.grader.equal, classes, run.grader.form
                        )
                        for p in run.training
                    ],
                )
            self._tell("labelled", 0, started)
        self._together()
        return {row.problem_id: row for row in labels.read(path)}

    def _began(self, committed: "_Committed") -> None:
        if committed.step == 0:
            self._evaluate(0)
        self.clock = time.perf_counter()

    def _evaluate(self, step: int) -> None:
        run, protocol = self.run, self.run.plan.protocol
        started = time.perf_counter()
        table, sha256 = None, self._weights_sha256()
        name = f"step-{step:06d}.parquet"
        if step == 0 and (known := _known_base(run, sha256)):
            table = known
        if table is None:
            # The noise of evaluation does not depend on the step, so a checkpoint is compared with its base draw by draw.
            path = ("evaluation", run.spec.pretraining_seed, run.spec.seed)
            samples = [GREEDY, *range(protocol.evaluation.samples)]
            made = self._complete(run.held_out, samples, path)
            run.judged(made)
            table = evaluation.table(made, run.grader)
        if self.writes:
            table = table.replace_schema_metadata({"weights_sha256": sha256})
            files.write_table(run.folder / "evaluations" / name, table)
        self._together()
        self._tell("evaluated", step, started)

    def _weights_sha256(self) -> str:
        assert self.trainer is not None
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return checkpoints.tensors_sha256(dict(model.named_parameters()))

    def _recorded(self, step: int, happened: "Step | None") -> None:
        protocol = self.run.plan.protocol
        line: dict[str, Any] = {}
        if happened is not None:
            line = self._record(happened)
        self._tell("trained", step, self.clock, line)
        if step in protocol.evaluation.steps:
            self._evaluate(step)
        self.clock = time.perf_counter()

    def _record(self, happened: "Step") -> dict[str, Any]:
        """The journal's line of a step, and its rollouts where the protocol says so."""
        run, protocol, recipe = self.run, self.run.plan.protocol, self.run.recipe
        step, size = happened.step, recipe.group_size
        problems = {problem.id: problem for problem in self.pool}
        questions = self._questions(step)
        made = [
            self._sampled(
                problems[questions[i // size].problem_id],
                questions[i // size].first_sample + i % size,
                one,
            )
            for i, one in enumerate(happened.made)
        ]
        run.judged(made)
        line = (
            {"step": step}
            | rollouts.facts(made, happened.rewards, run.grader)
            | happened.metrics
            | lockstep.coefficients(recipe)
        )
        every, last = protocol.logging.rollouts_every, protocol.design.num_steps
        if step % every == 0 or step in (1, last):
            files.write_table(
                run.folder / "rollouts" / f"step-{step:06d}.parquet",
                rollouts.table(
                    made,
                    _padded(happened.made, size),
                    0,
                    happened.rewards.ravel(),
                    _mean_advantages(happened),
                    run.grader,
                ),
            )
        assert self.journal is not None
        self.journal.append(line)
        return line

    def _saved(self, step: int, checkpoint: str) -> None:
        """TRL's state is on disk: from now on a stopped run goes on from here."""
        if self.writes:
            self._commit(
                {"step": step, "finished": False, "checkpoint": checkpoint, "failures": {}}
            )
        self._together()

    def _finish(self, failure: str | None) -> None:
        """The weights are kept in Hugging Face's form, unless the run failed; nothing remains to resume from."""
        run = self.run
        step = run.plan.protocol.design.num_steps
        if failure is None:
            assert self.trainer is not None
            self.trainer.save(run.folder / "model")
        if self.writes:
            failures = {}
            if failure is not None:
                assert self.trainer is not None
                step = self.trainer.step - 1
                failures = {"0": failure}
                files.write_json(run.folder / "failed.json", {"step": step, "reason": failure})
            self._commit({"step": step, "finished": True, "checkpoint": None, "failures": failures})
            shutil.rmtree(run.resume_folder, ignore_errors=True)
        self._together()

    def _commit(self, facts: dict[str, Any]) -> None:
        assert self.journal is not None
        facts["journals"] = [self.journal.mark()]
        checkpoints.write(
            self.run.state_path, {"active": torch.tensor([not facts["failures"]])}, facts
        )

    def _together(self) -> None:
        """No process goes on before the first has written."""
        assert self.trainer is not None
        self.trainer.accelerator.wait_for_everyone()

    def _tell(
        self, stage: str, step: int, since: float, line: dict[str, Any] | None = None
    ) -> None:
        if not self.writes:
            return
        shown = ("reward", "accuracy", "code_share", "entropy")
        told = {self.run.spec.path: {name: line.get(name) for name in shown}} if line else {}
        self.report(
            {
                "shard": self.run.number,
                "stage": stage,
                "step": step,
                "seconds": time.perf_counter() - since,
                "runs": told,
            }
        )


class _Committed(NamedTuple):
    """Where a run stands."""

    step: int
    finished: bool
    checkpoint: str | None
    """Folder of TRL's state."""
    journal: Mark | None


def _committed(run: Run) -> _Committed:
    if not run.state_path.exists():
        return _Committed(0, False, None, None)
    _, facts = checkpoints.read(run.state_path)
    folder = facts["checkpoint"] and str(run.resume_folder / facts["checkpoint"])
    return _Committed(facts["step"], facts["finished"], folder, Mark(*facts["journals"][0]))


def _drop_after(run: Run, committed: _Committed) -> None:
    """Remove what was written after the last commit: it will be made again, the same."""
    lockstep.drop_after(run.folder, committed.step if committed.journal else -1)
    for path in run.resume_folder.glob("checkpoint-*"):
        if str(path) != committed.checkpoint:
            shutil.rmtree(path)


def _known_base(run: Run, sha256: str) -> Any:  # noqa: ANN401  a table or nothing
    """The base's evaluation, where another arm of the same unit has made it already: the same model and noise."""
    for arm in run.plan.protocol.arms:
        path = (
            run.plan.folder
            / run.spec._replace(arm=arm).path
            / "evaluations"
            / "step-000000.parquet"
        )
        if arm != run.spec.arm and path.exists():
            table = files.read_table(path, None)
            if (table.schema.metadata or {}).get(b"weights_sha256") == sha256.encode():
                return table
    return None


def _padded(made: "Sequence[Decoded]", group: int) -> Completions:
    """[1, prompt, sample, token], as the table of rollouts reads them."""
    longest = max(len(one.tokens) for one in made)

    def spread(rows: list[list[Any]], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=dtype).view(
            1, -1, group, longest
        )

    return Completions(
        spread([one.tokens for one in made], torch.int64),
        spread([one.logprobs for one in made], torch.float32),
        spread([one.entropy for one in made], torch.float32),
    )


def _mean_advantages(happened: "Step") -> np.ndarray:
    """One a rollout: the mean over its tokens, where they differ."""
    if happened.advantages.shape[1] == 1:
        return happened.advantages[:, 0]
    lengths = np.array([len(one.tokens) for one in happened.made])
    return happened.advantages.sum(1) / np.maximum(lengths, 1)
