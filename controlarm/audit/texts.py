"""What completions look like, whether or not anybody knows the answers: by side, and over the steps of a log."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from controlarm.analysis.folder import NO_ANSWER, RIGHT, UNKNOWN
from controlarm.audit.gain import Side
from controlarm.audit.samples import HOW
from controlarm.audit.scores import paid

LOOPING = 0.5
"""rep-4 above this is called looping."""
MOST_BINS = 200
"""Points of a curve; more steps are taken together, so many at a time that they are not more."""


def describe(side: Side) -> dict[str, Any]:
    """Counts and means over the chosen completions; a mean over nothing is NaN."""
    samples, chosen = side.samples, side.chosen
    rows = np.flatnonzero(chosen)
    per_problem = np.bincount(samples.problem[rows])
    per_problem = per_problem[per_problem > 0]
    graded = rows[side.verdicts.strict[rows] >= 0]
    how = samples.look("how")[rows]
    logged = samples.truncated[rows]
    repeats = samples.look("repetition")[rows]
    lengths = samples.length[rows]
    return {
        "num_samples": len(rows), "num_problems": len(per_problem),
        "samples_per_problem": [int(v) for v in (per_problem.min(), np.median(per_problem), per_problem.max())] if len(per_problem) else None,
        "num_graded": len(graded), "without_gold": len(rows) - len(graded),
        "unknown": int((side.verdicts.lenient[graded] == UNKNOWN).sum()),
        "accuracy": _right(side, "strict", graded), "lenient_accuracy": _right(side, "lenient", graded),
        "boxed_share": _mean(samples.look("boxed")[rows] != -1),
        "no_answer_share": _mean(how == -1),
        "answer_stands": {name: _mean(how == i) for i, name in enumerate(HOW)},
        "code_share": _mean(samples.look("has_python")[rows]), "parsed_code_share": _mean(samples.look("code_parses")[rows]),
        "length": {name: float(q) for name, q in zip(("q05", "median", "q95"), np.quantile(lengths, (0.05, 0.5, 0.95)), strict=True)} if len(rows) else None,
        "num_tokens": _mean(samples.num_tokens[rows]),
        "truncated_share": _mean(np.where(logged < 0, np.nan, logged)), "ends_open_share": _mean(samples.look("ends_open")[rows]),
        "repetition": _mean(repeats), "looping_share": _mean(repeats > LOOPING),
        "distinct_share": len(np.unique(samples.text[rows])) / len(rows) if len(rows) else float("nan"),
    }  # fmt: skip


def _right(side: Side, notion: str, rows: Int[np.ndarray, " chosen"]) -> float:
    """Mean over problems of their shares of right samples; unknown ones are left out."""
    verdicts = getattr(side.verdicts, notion)[rows]
    known = verdicts != UNKNOWN
    where = side.samples.problem[rows][known]
    count = np.bincount(where)
    total = np.bincount(where, weights=verdicts[known] == RIGHT)
    return _mean(total[count > 0] / count[count > 0])


def _mean(values: np.ndarray) -> float:
    values = values.astype(float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def curves(side: Side) -> dict[str, Any] | None:
    """Means over the rows of each step, or of neighbouring steps together; None of a log of fewer than two steps."""
    samples = side.samples
    stepped = side.chosen & (samples.step >= 0)
    steps, place = np.unique(samples.step[stepped], return_inverse=True)
    if len(steps) < 2:
        return None
    width = -(-len(steps) // MOST_BINS)
    bins = place // width
    num = int(bins.max()) + 1
    strict, lenient = (getattr(side.verdicts, n)[stepped] for n in ("strict", "lenient"))

    def over(values: Float[np.ndarray, " row"]) -> list[float]:
        known = ~np.isnan(values)
        count = np.bincount(bins[known], minlength=num)
        total = np.bincount(bins[known], weights=values[known], minlength=num)
        return np.divide(total, count, out=np.full(num, np.nan), where=count > 0).tolist()

    def look(name: str, flag: Callable[[np.ndarray], np.ndarray] = lambda v: v) -> list[float]:
        return over(flag(samples.look(name)[stepped]).astype(float))

    def judged(verdicts: np.ndarray) -> Float[np.ndarray, " row"]:
        return np.where((verdicts < 0) | (verdicts == UNKNOWN), np.nan, verdicts == RIGHT)

    logged = samples.truncated[stepped]
    found: dict[str, Any] = {
        "steps": steps[::width].tolist(), "steps_together": width,
        "num_samples": np.bincount(bins, minlength=num).tolist(),
        "accuracy": over(judged(strict)), "lenient_accuracy": over(judged(lenient)),
        "no_answer_share": over(np.where(lenient < 0, np.nan, lenient == NO_ANSWER)),
        "boxed_share": look("boxed", lambda v: v != -1), "code_share": look("has_python"), "parsed_code_share": look("code_parses"),
        "length": over(samples.length[stepped].astype(float)), "num_tokens": over(samples.num_tokens[stepped]),
        "truncated_share": over(np.where(logged < 0, np.nan, logged)),
        "repetition": look("repetition"), "looping_share": over(_looping(samples.look("repetition")[stepped])),
        "scores": {},
    }  # fmt: skip
    groups = samples.step[stepped] * len(samples.problems) + samples.problem[stepped]
    for name, values in samples.scores.items():
        values = np.where(side.chosen, values, np.nan)
        threshold, high = paid(values)
        own, high = values[stepped], high[stepped]
        right = judged(strict)
        found["scores"][name] = {
            "mean": over(own), "equal_groups": _equal_groups(own, groups, bins, num), "threshold": threshold,
            "tpr": over(np.where(np.isnan(own) | (right != 1), np.nan, high)),
            "fpr": over(np.where(np.isnan(own) | (right != 0), np.nan, high)),
        }  # fmt: skip
        both = found["scores"][name]
        both["youden"] = [t - f for t, f in zip(both["tpr"], both["fpr"], strict=True)]
    return found


def _looping(values: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    return np.where(np.isnan(values), np.nan, values > LOOPING)


def _equal_groups(
    values: Float[np.ndarray, " row"], groups: Int[np.ndarray, " row"], bins: Int[np.ndarray, " row"], num: int
) -> list[float]:  # fmt: skip
    """Share of the groups (one problem at one step, two completions or more) whose scores are all equal, by bin."""
    known: Bool[np.ndarray, " row"] = ~np.isnan(values)
    names, place, count = np.unique(groups[known], return_inverse=True, return_counts=True)
    if not len(names):
        return [float("nan")] * num
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(low, place, values[known])
    np.maximum.at(high, place, values[known])
    where = np.zeros(len(names), dtype=int)
    where[place] = bins[known]
    several = count > 1
    total = np.bincount(where[several], minlength=num)
    equal = np.bincount(where[several], weights=(low == high)[several], minlength=num)
    return np.divide(equal, total, out=np.full(num, np.nan), where=total > 0).tolist()
