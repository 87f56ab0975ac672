"""What is kept of a step's rollouts: the journal's numbers that need texts, and the table of the rollouts themselves."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from controlarm import evaluation
from controlarm.evaluation import EXACT, VERDICT_FIELDS, Grader, judge, verdict_columns, writable
from controlarm.grading import normalise
from controlarm.sampling import Completions


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean, or NaN of nothing (null in the journal)."""
    return float(np.mean(values)) if len(values) else math.nan


def facts(
    made: Sequence[evaluation.Sampled], rewards: np.ndarray, grader: Grader = EXACT
) -> dict[str, Any]:
    """The journal's numbers that need texts: true accuracy beside the reward, in every arm."""
    said = [judge(one.text, one.problem, grader) for one in made]
    flat = rewards.ravel()
    paid = ~np.isnan(flat)
    right = np.array([s.grade.strict == "right" for s in said])
    known = np.array([s.grade.strict != "unknown" for s in said])
    lenient_known = np.array([s.grade.lenient != "unknown" for s in said])
    lenient = np.array([s.grade.lenient == "right" for s in said])
    code = np.array([s.has_python for s in said])
    whole = ~np.isnan(rewards).any(-1)
    equal = np.array([row.min() == row.max() for row in rewards[whole]])
    return {
        "reward": _mean(flat[paid]),
        "reward_sd": float(np.std(flat[paid])) if paid.any() else math.nan,
        "reward_code": _mean(flat[paid & code]),
        "reward_words": _mean(flat[paid & ~code]),
        "reward_failures": int((~paid).sum()),
        "accuracy": _mean(right[known]),
        "lenient_accuracy": _mean(lenient[lenient_known]),
        "tpr": _mean(flat[paid & known & right]),
        "fpr": _mean(flat[paid & known & ~right]),
        "code_share": _mean(code),
        "parsed_code_share": _mean([s.code_parses for s in said]),
        "boxed_share": _mean([s.grade.boxed is not None for s in said]),
        "truncated_share": _mean([one.truncated for one in made]),
        "unknown_share": _mean(~known),
        "num_tokens": _mean([one.num_tokens for one in made]),
        "entropy": _mean([one.entropy for one in made]),
        "equal_groups": _mean(equal),
        "answer_entropy": _mean(_answer_entropies(said, len(rewards))),
    }


def _answer_entropies(said: Sequence[evaluation.Judgement], num_groups: int) -> list[float]:
    """Entropy in nats of each group's answers, as equal as the grader's normal form makes them; no answer is one, too."""
    size = len(said) // num_groups
    answers = [None if s.grade.answer is None else normalise(s.grade.answer) for s in said]
    found = []
    for start in range(0, len(answers), size):
        counts = np.array(list(Counter(answers[start : start + size]).values())) / size
        found.append(float(-(counts * np.log(counts)).sum()))
    return found


SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("entropy", pa.float64()),
        ("truncated", pa.bool_()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        *VERDICT_FIELDS,
    ]
)


def table(
    made: Sequence[evaluation.Sampled],
    completions: Completions,
    run: int,
    rewards: np.ndarray,
    advantages: np.ndarray,
    grader: Grader = EXACT,
) -> pa.Table:
    """One run's rollouts of one step, one row each: the rollout file of ``docs/formats.md``."""
    tokens = completions.tokens[run].flatten(0, 1).tolist()
    logprobs = completions.logprobs[run].flatten(0, 1).tolist()
    rows = []
    for i, one in enumerate(made):
        rows.append(
            {
                "problem_id": one.problem.id,
                "sample": one.sample,
                "text": one.text,
                "tokens": tokens[i][: one.num_tokens],
                "logprobs": logprobs[i][: one.num_tokens],
                "entropy": one.entropy,
                "truncated": one.truncated,
                "reward": rewards[i],
                "advantage": advantages[i],
                **verdict_columns(judge(one.text, one.problem, grader)),
            }
        )
    return pa.Table.from_pylist([writable(row) for row in rows], schema=SCHEMA)
