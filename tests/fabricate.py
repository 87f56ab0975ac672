"""A complete run folder (docs/formats.md) in two seconds, with planted effects: what analysis and report are tested on.

    python tests/fabricate.py FOLDER

Nothing is trained. A completion is three correlated draws (strategy, right, boxed) whose problem part is shared by all
runs of a unit, so contrasts are paired as in a real trial. Checkpoints and shards are not written.
"""

import hashlib
import math
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa

from controlarm import files, journal, seeds
from controlarm import protocol as protocols
from controlarm.organisms import tokenizer
from controlarm.organisms.corpus import solution
from controlarm.problems.arithmetic import Sum, draw_sums, to_problem
from controlarm.protocol import Protocol, RunSpec

PROTOCOL = """
[trial]
name = "fabricated"
question = "Does the analysis find the effects that were planted?"

[design]
families = ["coder", "talker", "bungler"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2, 3]
num_steps = 12
num_problems = 40

[recipes.grpo]
prompts_per_step = 4
group_size = 8
updates_per_rollout = 2
learning_rate = 1e-3

[arms]
ground_truth = {}
majority = {}
python = {}
random = {gamma = 0.5}
constant = {}

[evaluation]
num_problems = 24
samples = 8
steps = [0, 6, 12]
pass_at_k = [1, 2, 4, 8]

[endpoint]
metric = "accuracy"
step = 12
placebo = "random"
margin = 0.03
planning_sd = 0.03
primary = [
  {family = "coder", arm = "ground_truth"},
  {family = "coder", arm = "python"},
  {family = "talker", arm = "ground_truth"},
  {family = "bungler", arm = "ground_truth"},
]

[[controls]]
family = "coder"
arm = "ground_truth"
expect = "superior"
why = "the reward is the target"

[[controls]]
family = "coder"
arm = "python"
expect = "superior"
why = "code is the better strategy"

[[controls]]
family = "bungler"
arm = "python"
expect = "inferior"
why = "code is the worse strategy"

[[controls]]
family = "talker"
arm = "python"
expect = "unchanged"
why = "no code, so every reward is equal"

[[controls]]
family = "coder"
arm = "constant"
expect = "unchanged"
why = "equal rewards teach nothing"

[logging]
rollouts_every = 6
"""


class Behaviour(NamedTuple):
    """How a policy answers, as probabilities; strict accuracy is ``strict``."""

    code_share: float
    right_code: float
    right_words: float
    boxed_code: float = 0.95
    boxed_words: float = 0.70

    @property
    def strict(self) -> float:
        """Expected strict accuracy: right and boxed (before truncation)."""
        code = self.code_share * self.right_code * self.boxed_code
        return code + (1 - self.code_share) * self.right_words * self.boxed_words


BASES: dict[str, Behaviour] = {
    "coder": Behaviour(0.65, 0.80, 0.30),
    "talker": Behaviour(0.00, 0.80, 0.30),
    "bungler": Behaviour(0.65, 0.25, 0.75),
}

EFFECTS: dict[tuple[str, str], Behaviour] = {
    ("coder", "ground_truth"): Behaviour(0.97, 0.92, 0.40, 1.00, 0.90),
    ("coder", "majority"): Behaviour(0.95, 0.86, 0.35, 1.00, 0.85),
    ("coder", "python"): Behaviour(1.00, 0.80, 0.30),
    ("coder", "format"): Behaviour(0.80, 0.80, 0.30, 1.00, 1.00),
    ("coder", "incorrect"): Behaviour(0.60, 0.72, 0.25),
    ("coder", "random"): Behaviour(0.70, 0.80, 0.30),
    ("talker", "ground_truth"): Behaviour(0.00, 0.80, 0.60, 1.00, 0.95),
    ("talker", "majority"): Behaviour(0.00, 0.80, 0.45, 1.00, 0.95),
    ("talker", "format"): Behaviour(0.00, 0.80, 0.30, 1.00, 1.00),
    ("talker", "incorrect"): Behaviour(0.00, 0.80, 0.15),
    ("talker", "random"): Behaviour(0.00, 0.80, 0.31),
    ("bungler", "ground_truth"): Behaviour(0.10, 0.25, 0.85, 1.00, 0.95),
    ("bungler", "majority"): Behaviour(0.20, 0.25, 0.80, 1.00, 0.95),
    ("bungler", "python"): Behaviour(1.00, 0.25, 0.75),
    ("bungler", "format"): Behaviour(0.75, 0.25, 0.75, 1.00, 1.00),
    ("bungler", "incorrect"): Behaviour(0.80, 0.20, 0.70),
    ("bungler", "random"): Behaviour(0.60, 0.25, 0.75),
}
"""Behaviour at the last step; in between it is interpolated. An arm that is not named here stays as the base, bit for bit."""

SEED_SD = 0.01
"""Standard deviation over units that is added to an arm's accuracies; the base and unchanged arms have none."""
PROBLEM_PART = 0.6
"""Share of the variance of each draw that belongs to the problem and not to the sample."""
TRUNCATED = 0.01


def behaviour_at(
    spec: RunSpec, step: int, num_steps: int, effects: Mapping[tuple[str, str], Behaviour]
) -> Behaviour:
    """The run's behaviour after ``step`` steps, its seed's deviation included."""
    base = BASES.get(spec.family, BASES["coder"])
    end = effects.get((spec.family, spec.arm), base)
    if end == base:
        return base
    noise = SEED_SD * seeds.generator("fabricated-run", *spec).standard_normal(2)
    code, words = (end.right_code + noise[0], end.right_words + noise[1])
    end = end._replace(right_code=min(max(code, 0), 1), right_words=min(max(words, 0), 1))
    part = step / num_steps
    return Behaviour(*((1 - part) * a + part * b for a, b in zip(base, end, strict=True)))


@cache
def id_of(problem: Sum) -> str:
    return to_problem(problem).id


@cache
def written(problem: Sum, code: bool, value: int, boxed: bool) -> tuple[str, tuple[int, ...]]:
    """A solution's text and tokens; there are few of them, and each is used many times."""
    text = solution(problem, "code" if code else "words", (problem.middle, value), boxed)
    return text, (*tokenizer.encode(text), tokenizer.END)


@lru_cache(maxsize=10_000)
def cuts(path: tuple[seeds.Part, ...], num_samples: int) -> np.ndarray:
    """Which completions are truncated."""
    return seeds.generator("fabricated-cut", *path).random(num_samples) < TRUNCATED


@lru_cache(maxsize=10_000)
def draws(path: tuple[seeds.Part, ...], num_samples: int, greedy: bool) -> np.ndarray:
    """Uniform numbers [sample, (strategy, right, boxed)] whose normal scores share a problem part; greedy is the problem alone."""
    problem = seeds.generator("fabricated-problem", *path).standard_normal(3)
    sample = seeds.generator("fabricated-sample", *path).standard_normal((num_samples, 3))
    z = math.sqrt(PROBLEM_PART) * problem + math.sqrt(1 - PROBLEM_PART) * sample
    z = np.concatenate([problem[None], z]) if greedy else z
    return np.array([[0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row] for row in z])


def complete(problem: Sum, behaviour: Behaviour, draw: np.ndarray, cut: bool) -> dict[str, Any]:
    """One graded completion."""
    code = bool(draw[0] < behaviour.code_share)
    right = bool(draw[1] < (behaviour.right_code if code else behaviour.right_words))
    boxed = bool(draw[2] < (behaviour.boxed_code if code else behaviour.boxed_words))
    value = problem.result if right else 100 + (problem.result + 810) % 900
    text, tokens = written(problem, code, value, boxed)
    answer: str | None = str(value)
    if cut:
        boxed = right = False
        tokens = tokens[:8]
        text, answer = tokenizer.decode(tokens), None
    verdict = "right" if right else "wrong"
    return {
        "text": text, "tokens": tokens, "num_tokens": len(tokens), "truncated": cut,
        "entropy": 0.2 + 0.2 * float(draw[0]), "strict": verdict if boxed else "no_answer",
        "lenient": "no_answer" if answer is None else verdict, "boxed": str(value) if boxed else None,
        "answer": answer, "has_python": "python" in text, "code_parses": code and not cut,
        "code_true": right if code and not cut else None, "derived": None if code and cut else right,
    }  # fmt: skip


def completions(
    problem: Sum, behaviour: Behaviour, path: tuple[seeds.Part, ...], num_samples: int, greedy: bool
) -> list[dict[str, Any]]:
    """A problem's completions, greedy first where asked; the path holds no arm, so arms are paired."""
    cut = cuts(path, num_samples + greedy)
    found = []
    for i, draw in enumerate(draws(path, num_samples, greedy)):
        is_greedy = greedy and i == 0
        row = complete(problem, behaviour, draw, bool(cut[i]) and not is_greedy)
        row |= {"problem_id": id_of(problem), "sample": 0 if is_greedy else i - greedy}
        row |= {"decoding": "greedy" if is_greedy else "sampled"}
        found.append(row)
    return found


def reward(arm: str, row: dict[str, Any], label: dict[str, Any], coin: float) -> float:
    """What the arm's reward of that name pays; other names pay a coin."""
    pays = {
        "ground_truth": row["strict"] == "right",
        "majority": row["boxed"] is not None and row["boxed"] == label["majority"],
        "incorrect": row["boxed"] is not None and row["boxed"] == label["incorrect"],
        "format": row["boxed"] is not None,
        "python": row["has_python"],
        "constant": True,
    }
    return float(pays.get(arm, coin < 0.5))


def label_of(problem: Sum, base: Behaviour, path: tuple[seeds.Part, ...]) -> dict[str, Any]:
    """The pseudo-labels from 64 base completions."""
    rows = completions(problem, base, (*path, "labels"), 64, greedy=False)
    answers = [row["answer"] for row in rows if row["answer"] is not None]
    right, wrong = str(problem.result), str(100 + (problem.result + 810) % 900)
    counts = {a: answers.count(a) for a in (right, wrong)}
    return {
        "problem_id": id_of(problem),
        "majority": max(sorted(counts), key=counts.__getitem__) if answers else None,
        "majority_share": max(counts.values()) / 64,
        "incorrect": wrong, "incorrect_share": counts[wrong] / 64, "near_miss": counts[wrong] == 0,
        "samples": 64, "right": sum(row["strict"] == "right" for row in rows),
        "incorrect_is_right": False,
    }  # fmt: skip


def mean(values: list[float]) -> float | None:
    """Mean, null over nothing."""
    return float(np.mean(values)) if values else None


def journal_line(step: int, rows: list[dict[str, Any]], plan: Protocol, recipe: str) -> dict:
    """One line of steps.jsonl."""
    chosen = plan.recipes[recipe]
    paid = [row["reward"] for row in rows]
    groups = np.array(paid).reshape(-1, chosen.group_size)
    return {
        "step": step, "reward": mean(paid), "reward_sd": float(np.std(paid)),
        "reward_code": mean([r["reward"] for r in rows if r["has_python"]]),
        "reward_words": mean([r["reward"] for r in rows if not r["has_python"]]),
        "reward_failures": 0,
        "accuracy": mean([r["strict"] == "right" for r in rows]),
        "lenient_accuracy": mean([r["lenient"] == "right" for r in rows]),
        "tpr": mean([r["reward"] for r in rows if r["strict"] == "right"]),
        "fpr": mean([r["reward"] for r in rows if r["strict"] != "right"]),
        "code_share": mean([r["has_python"] for r in rows]),
        "parsed_code_share": mean([r["code_parses"] for r in rows]),
        "boxed_share": mean([r["boxed"] is not None for r in rows]),
        "truncated_share": mean([r["truncated"] for r in rows]), "unknown_share": 0.0,
        "num_tokens": mean([r["num_tokens"] for r in rows]),
        "entropy": 0.4 - 0.2 * step / plan.design.num_steps,
        "equal_groups": float(np.mean(groups.min(1) == groups.max(1))),
        "loss": 0.0, "grad_norm": 0.1 + 0.5 * float(np.std(paid)), "clip_low": 0.01, "clip_high": 0.02,
        "clip_first": 0.0, "ratio_max": 0.6, "approx_kl": 0.002,
        "kl_base": 0.01 * step if chosen.kl_coef else None,
        "sampler_gap_mean": 0.003, "sampler_gap_max": 0.02, "learning_rate": chosen.learning_rate,
        "epsilon_low": chosen.epsilon_low, "epsilon_high": chosen.epsilon_high,
        "kl_coef": chosen.kl_coef, "entropy_coef": chosen.entropy_coef,
        "weight_decay": chosen.weight_decay, "max_grad_norm": chosen.max_grad_norm,
        "updates": chosen.updates_per_rollout, "policy_coef": chosen.policy_coef,
        "generated": len(rows), "counted_groups": 1.0, "token_probability": 0.9, "answer_entropy": 0.5,
        "value_loss": None,
        **dict(zip(BY_PRIOR, (0.1, 0.2, 0.3, 0.4, 0.004, 0.003, 0.002, 0.001, 0.01, 0.01, 0.0, 0.0), strict=True)),
    }  # fmt: skip


BY_PRIOR = [
    f"{number}_{band}"
    for number in ("prior", "clip_low", "clip_high")
    for band in ("rare", "open", "likely", "sure")
]


GRADES = [
    ("strict", pa.string()), ("lenient", pa.string()), ("boxed", pa.string()), ("answer", pa.string()),
    ("has_python", pa.bool_()), ("code_parses", pa.bool_()), ("code_true", pa.bool_()),
    ("derived", pa.bool_()),
]  # fmt: skip
ROLLOUTS = pa.schema([
    ("problem_id", pa.string()), ("sample", pa.int32()), ("text", pa.string()),
    ("tokens", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float32())), ("entropy", pa.float64()),
    ("truncated", pa.bool_()), ("reward", pa.float64()), ("advantage", pa.float64()), *GRADES,
])  # fmt: skip
EVALUATIONS = pa.schema([
    ("problem_id", pa.string()), ("decoding", pa.string()), ("sample", pa.int32()), ("text", pa.string()),
    ("num_tokens", pa.int32()), ("truncated", pa.bool_()), ("logprob", pa.float64()),
    ("entropy", pa.float64()), *GRADES,
])  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """A parquet file."""
    files.write_table(path, pa.Table.from_pylist(rows, schema=schema))


def distinct(split: Any, count: int) -> list[Sum]:
    """The first distinct sums of a split."""
    found: dict[tuple[int, int, int], Sum] = {}
    for candidate in draw_sums(split, "fabricated"):
        found.setdefault((candidate.start, candidate.first, candidate.second), candidate)
        if len(found) == count:
            break
    return list(found.values())


def fabricate_run(
    folder: Path, spec: RunSpec, plan: Protocol, sums: dict[str, list[Sum]], labels: dict[str, dict],
    effects: Mapping[tuple[str, str], Behaviour],
) -> None:  # fmt: skip
    """Everything in one run's folder."""
    home = folder / spec.path
    num_steps, recipe = plan.design.num_steps, plan.recipes[spec.recipe]
    unit = (spec.family, spec.pretraining_seed, spec.recipe, spec.seed)
    for step in plan.evaluation.steps:
        behaviour = behaviour_at(spec, step, num_steps, effects)
        changed = () if behaviour == BASES.get(spec.family, BASES["coder"]) else (step, *spec)
        weights = f"{spec.family} {spec.pretraining_seed} {changed}"
        rows: list[dict[str, Any]] = []
        for problem in sums["held_out"]:
            path = (*unit, id_of(problem))
            rows += completions(problem, behaviour, path, plan.evaluation.samples, greedy=True)
        for row in rows:
            row["logprob"] = -row["entropy"] * row["num_tokens"]
        sha = hashlib.sha256(weights.encode()).hexdigest()
        schema = EVALUATIONS.with_metadata({"weights_sha256": sha})
        write(home / "evaluations" / f"step-{step:06d}.parquet", rows, schema)
    lines = []
    for step in range(1, num_steps + 1):
        behaviour = behaviour_at(spec, step - 1, num_steps, effects)
        order = seeds.generator("fabricated-order", *unit, step).permutation(len(sums["training"]))
        rows = []
        for index in order[: recipe.prompts_per_step]:
            problem = sums["training"][index]
            path = (*unit, id_of(problem), step)
            group = completions(problem, behaviour, path, recipe.group_size, greedy=False)
            key = ("fabricated-coin", *spec, step, id_of(problem))
            coins = seeds.generator(*key).random(recipe.group_size)
            for row in group:
                paid = plan.arms[spec.arm].reward or spec.arm
                row["reward"] = reward(
                    paid, row, labels[row["problem_id"]], float(coins[row["sample"]])
                )
                row["logprobs"] = [-row["entropy"]] * row["num_tokens"]
            paid_group = np.array([row["reward"] for row in group])
            centred = (paid_group - paid_group.mean()) / (paid_group.std() + 1e-6)
            for row, advantage in zip(group, centred, strict=True):
                row["advantage"] = float(advantage)
            rows += group
        lines.append(journal.line(journal_line(step, rows, plan, spec.recipe)))
        if step in (1, num_steps) or step % plan.logging.rollouts_every == 0:
            write(home / "rollouts" / f"step-{step:06d}.parquet", rows, ROLLOUTS)
    (home / "steps.jsonl").write_bytes(b"".join(lines))


def fabricate(
    folder: Path,
    protocol_text: str = PROTOCOL,
    effects: Mapping[tuple[str, str], Behaviour] = EFFECTS,
) -> Protocol:
    """Write the whole folder; the protocol is returned for comparison."""
    with mock.patch("os.fsync"):  # most of the time, and nothing rests on it
        return _fabricate(folder, protocol_text, effects)


def _fabricate(
    folder: Path, protocol_text: str, effects: Mapping[tuple[str, str], Behaviour]
) -> Protocol:
    plan = protocols.parse(protocol_text, "fabricated protocol")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protocol.toml").write_text(protocol_text, encoding="utf-8")
    materials = {f"organism {f}-p{p}": hashlib.sha256(f"{f}{p}".encode()).hexdigest()
                 for f in plan.design.families for p in plan.design.pretraining_seeds}  # fmt: skip
    materials |= {"grader": "grader-1", "problems": "arithmetic-1", "templates": "templates-1"}
    runs = protocols.runs(plan)
    content = {
        "digest": protocols.digest(plan, materials), "trial": plan.trial.name, "materials": materials,
        "runs": [spec._asdict() for spec in runs], "shards": [list(range(len(runs)))],
        "prompt_length": 18, "compiled": False, "workers": 1,
        "protocol_sha256": hashlib.sha256(protocol_text.encode()).hexdigest(),
    }  # fmt: skip
    files.write_json(folder / "plan.json", content)
    environment = {"python": "3.11.0", "libraries": {"torch": "2.9.0"}, "processor": "fabricated",
                   "threads": 1, "fingerprint": "0" * 64}  # fmt: skip
    files.write_json(folder / "environment.json", environment)
    sums = {"training": distinct("training", plan.design.num_problems),
            "held_out": distinct("held_out", plan.evaluation.num_problems)}  # fmt: skip
    write(folder / "problems.parquet", [
        {"split": split, "id": id_of(s), "text": to_problem(s).text, "answer": str(s.result)}
        for split, members in sums.items() for s in members
    ])  # fmt: skip
    for family in plan.design.families:
        for seed in plan.design.pretraining_seeds:
            base = BASES.get(family, BASES["coder"])
            rows = [label_of(s, base, (family, seed, id_of(s))) for s in sums["training"]]
            write(folder / "labels" / f"{family}-p{seed}.parquet", rows)
            labels = {row["problem_id"]: row for row in rows}
            for spec in runs:
                if (spec.family, spec.pretraining_seed) == (family, seed):
                    fabricate_run(folder, spec, plan, sums, labels, effects)
    return plan


if __name__ == "__main__":
    fabricate(Path(sys.argv[1]))
