"""What a gain between two logs was made of: format, share of strategies, accuracy within them; problem by problem, pass@k.

The unit is the problem, paired where both logs have it, each with equal weight however many samples it has. An interval says how well these two
policies are known on such problems; it says nothing of further training runs, which a log cannot show.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from controlarm.analysis import coverage
from controlarm.analysis.bands import Band, crossover, curve_band, difference_band
from controlarm.analysis.boundary import Tries, pass_curves
from controlarm.analysis.contrasts import ROUNDING
from controlarm.analysis.decomposition import Strategies, kitagawa
from controlarm.analysis.folder import RIGHT, UNKNOWN
from controlarm.audit.samples import Samples
from controlarm.audit.verdicts import NOT_GRADED, Verdicts

LEVEL = 0.95
PATHS = ("code_code", "code_words", "words_code", "words_words")
"""Strategy before, then after."""
COVERED = 0.9
"""pass@k goes to the largest k that so many of the problems have samples for, on both sides."""
MOST_TRIES = 1024


class Side(NamedTuple):
    """Completions that are compared, one policy's."""

    samples: Samples
    verdicts: Verdicts
    chosen: Bool[np.ndarray, " row"]


class Means(NamedTuple):
    """Per problem, over its samples of known verdicts; [problem] each."""

    num: Int[np.ndarray, " problem"]
    strict: Float[np.ndarray, " problem"]
    lenient: Float[np.ndarray, " problem"]
    code: Float[np.ndarray, " problem"]
    code_strict: Float[np.ndarray, " problem"]
    """Samples that are code and strictly right, as a share of all."""
    code_lenient: Float[np.ndarray, " problem"]


def matched(before: Side, after: Side) -> tuple[str, np.ndarray, np.ndarray, int]:
    """How problems are told to be the same, and for each side the index of each of its rows among the common ones (-1: not common).

    By prompt, or by id where more problems agree in that: templates differ between logs, ids between trainers.
    """
    best: tuple[str, dict[str, int]] = ("prompt", {})
    for how in ("prompt", "id"):
        names = [_names(side, how) for side in (before, after)]
        common = {
            n: i for i, n in enumerate(sorted(set(names[0].values()) & set(names[1].values())))
        }
        if len(common) > len(best[1]):
            best = how, common
    how, common = best
    columns = []
    for side in (before, after):
        lookup = np.full(len(side.samples.problems) + 1, -1)
        for number, name in _names(side, how).items():
            lookup[number] = common.get(name, -1)
        columns.append(np.where(side.chosen, lookup[side.samples.problem], -1))
    return how, columns[0], columns[1], len(common)


def _names(side: Side, how: str) -> dict[int, str]:
    """The name of each problem of the chosen rows."""
    samples = side.samples
    numbers = np.unique(samples.problem[side.chosen]).tolist()
    named = samples.prompts if how == "prompt" else samples.ids
    return {n: name.strip() for n in numbers if (name := named[n]) is not None and name.strip()}


def means(side: Side, problem: Int[np.ndarray, " row"], num: int) -> Means:
    """Means of each problem; NaN where no sample has both verdicts."""
    strict, lenient, _ = side.verdicts
    known = (problem >= 0) & (strict >= 0) & (strict != UNKNOWN) & (lenient != UNKNOWN)
    where = problem[known]
    count = np.bincount(where, minlength=num)
    code = side.samples.look("has_python")[known]
    right, rightly = strict[known] == RIGHT, lenient[known] == RIGHT

    def mean(flags: Bool[np.ndarray, " row"]) -> Float[np.ndarray, " problem"]:
        total = np.bincount(where, weights=flags, minlength=num)
        return np.divide(total, count, out=np.full(num, np.nan), where=count > 0)

    return Means(
        count, mean(right), mean(rightly), mean(code), mean(code & right), mean(code & rightly)
    )


def _take(table: Means, chosen: Bool[np.ndarray, " problem"]) -> Means:
    return Means(*(column[chosen] for column in table))


def _strategies(code: float, right_code: float, right: float) -> Strategies:
    return Strategies(
        code,
        right_code / code if code > ROUNDING else float("nan"),
        (right - right_code) / (1 - code) if code < 1 - ROUNDING else float("nan"),
    )


class Part(NamedTuple):
    """A part of the gain with its interval over problems; NaN where there is none."""

    estimate: float
    low: float
    high: float


def jackknife(
    whole: Float[np.ndarray, " part"], left_out: Sequence[Float[np.ndarray, "_ _"]]
) -> list[Part]:
    """Estimates with t intervals from leaving out each problem in turn (Tukey 1958); for a mean it is the usual t interval.

    Args:
        whole: the estimates.
        left_out: [problem, part] of each independent set of problems: their variances add, with the degrees of freedom of the smaller.
    """
    least = min(len(values) for values in left_out)
    if least < 2:
        return [Part(float(v), float("nan"), float("nan")) for v in whole]
    variance = sum(
        (len(v) - 1) / len(v) * np.square(v - v.mean(axis=0)).sum(axis=0) for v in left_out
    )
    half = stats.t.isf((1 - LEVEL) / 2, least - 1) * np.sqrt(variance)
    return [Part(float(v), float(v - h), float(v + h)) for v, h in zip(whole, half, strict=True)]


SPLIT = ("gain", "format", "share", "within", "gain_lenient")
"""Strict gain = format + share + within; lenient gain = share + within."""


def _parts(before: Float[np.ndarray, " mean"], after: Float[np.ndarray, " mean"]) -> list[float]:
    """The split from the means (strict, lenient, code, code and leniently right) of both sides."""
    gain, lenient = after[0] - before[0], after[1] - before[1]
    split = kitagawa(*(_strategies(m[2], m[3], m[1]) for m in (before, after)))
    return [gain, gain - lenient, split.share_effect, split.accuracy_effect, lenient]


def split(before: Means, after: Means, paired: bool = True) -> dict[str, Part]:
    """Format, share shift and accuracy within strategy; they add up to the strict gain.

    Format is what the strict gain has beyond the lenient one: answers that were right before and are now where they were asked for. The lenient
    gain is split after Kitagawa (``analysis.decomposition.kitagawa``), strategies told by the word "python". Unpaired sides have
    problems of their own, and the variances of both add.
    """
    tables = [
        np.stack([m.strict, m.lenient, m.code, m.code_lenient], axis=1) for m in (before, after)
    ]
    centres = [t.mean(axis=0) for t in tables]
    whole = np.array(_parts(*centres))
    without = [
        (t.sum(axis=0) - t) / (len(t) - 1) if len(t) > 1 else np.empty((0, 4)) for t in tables
    ]
    if paired:
        left_out = [np.array([_parts(b, a) for b, a in zip(*without, strict=True)])]
    else:
        left_out = [
            np.array([_parts(b, centres[1]) for b in without[0]]),
            np.array([_parts(centres[0], a) for a in without[1]]),
        ]
    return dict(zip(SPLIT, jackknife(whole, left_out), strict=True))


def partition(before: Means, after: Means) -> dict[str, dict[str, float]]:
    """Problems by strategy before → after, and those strictly right in each cell (arXiv:2506.10947, Figure 7).

    With one completion a problem, as there, each problem is in one cell. With more, it is shared out over all pairs of a completion before and one after,
    each pair weighing the same: a cell then holds the expected number of problems of a randomly drawn pair.
    """
    cells = {}
    for path in PATHS:
        first, second = path.split("_")
        uses, right = [], []
        for side, strategy in ((before, first), (after, second)):
            code = strategy == "code"
            uses.append(side.code if code else 1 - side.code)
            right.append(side.code_strict if code else side.strict - side.code_strict)
        cells[path] = {
            "num_problems": float((uses[0] * uses[1]).sum()),
            "right_before": float((right[0] * uses[1]).sum()),
            "right_after": float((uses[0] * right[1]).sum()),
        }
    total = sum(c["right_after"] - c["right_before"] for c in cells.values())
    for cell in cells.values():
        cell["change"] = cell["right_after"] - cell["right_before"]
        cell["share_of_gain"] = cell["change"] / total if abs(total) > ROUNDING else float("nan")
    return cells


def tries(side: Side, problem: Int[np.ndarray, " row"], num: int, most: int | None = None) -> Tries:
    """Samples and strictly right samples of each problem; with ``most``, of a keyed choice of so many of each."""
    strict = side.verdicts.strict
    known = np.flatnonzero((problem >= 0) & (strict != NOT_GRADED) & (strict != UNKNOWN))
    known = known[np.lexsort((side.samples.order[known], problem[known]))]
    where = problem[known]
    if most is not None:
        starts = np.searchsorted(where, np.arange(num))
        rank = np.arange(len(where)) - starts[where]
        known, where = known[rank < most], where[rank < most]
    right = (strict[known] == RIGHT).astype(float)
    return Tries(
        np.bincount(where, minlength=num),
        np.bincount(where, weights=right, minlength=num).astype(int),
    )


def _ks(before: Tries, after: Tries) -> list[int]:
    """Powers of two up to what `COVERED` of the problems have on both sides."""
    least = np.minimum(before.num_samples, after.num_samples)
    most = int(min(np.quantile(least, 1 - COVERED, method="lower"), MOST_TRIES)) if len(least) else 0  # fmt: skip
    return [2**i for i in range(max(most, 1).bit_length())]


def compare(before: Side, after: Side) -> dict[str, Any]:
    """All that two logs say about one gain; ``note`` says why a part is missing.

    Raises:
        ValueError: no problem is common to both.
    """
    how, rows_before, rows_after, num = matched(before, after)
    if not num:
        raise ValueError(_nothing_common(before, after))
    tables = means(before, rows_before, num), means(after, rows_after, num)
    both = (tables[0].num > 0) & (tables[1].num > 0)
    found: dict[str, Any] = {
        "matched_by": how, "num_common": num, "num_compared": int(both.sum()),
        "only_before": _num_problems(before) - num, "only_after": _num_problems(after) - num,
    }  # fmt: skip
    if not both.any():
        return found | {
            "note": "no common problem has a gold answer and a known verdict in both logs"
        }
    first, second = (_take(t, both) for t in tables)
    found["before"], found["after"] = _accuracies(first), _accuracies(second)
    found["split"] = {name: part._asdict() for name, part in split(first, second).items()}
    found["partition"] = partition(first, second)
    found["pass_at_k"], found["solvable"] = _reach(
        before, after, _within(rows_before, both), _within(rows_after, both), int(both.sum())
    )
    return found


def unpaired(before: Side, after: Side) -> dict[str, Any]:
    """The split of a gain between two sets of problems, as between the ends of a training log that asks each problem once.

    Harder problems at one end look like a loss: what is told is how the log changed, not how a policy did.
    """
    tables = []
    for side in (before, after):
        numbers, rows = np.unique(side.samples.problem[side.chosen], return_inverse=True)
        problem = np.full(len(side.samples), -1)
        problem[side.chosen] = rows
        table = means(side, problem, len(numbers))
        tables.append(_take(table, table.num > 0))
    found: dict[str, Any] = {"matched_by": None, "num_common": 0, "num_compared": 0}
    if not all(len(t.num) for t in tables):
        return found | {"note": "one end has no gold answer with a known verdict"}
    return found | {
        "num_compared": min(len(t.num) for t in tables),
        "before": _accuracies(tables[0]),
        "after": _accuracies(tables[1]),
        "split": {n: p._asdict() for n, p in split(tables[0], tables[1], paired=False).items()},
        "note": "the two ends have other problems: the change may be one of their difficulty",
    }


def _within(rows: Int[np.ndarray, " row"], chosen: Bool[np.ndarray, " problem"]) -> np.ndarray:
    """Indices among the chosen problems only."""
    place = np.append(np.where(chosen, np.cumsum(chosen) - 1, -1), -1)
    return place[rows]


def _accuracies(table: Means) -> dict[str, float]:
    strict, lenient, code = (float(m.mean()) for m in (table.strict, table.lenient, table.code))
    told = _strategies(code, float(table.code_strict.mean()), strict)
    return {
        "num_samples": int(table.num.sum()), "accuracy": strict, "lenient_accuracy": lenient, "code_share": code,
        "code_accuracy": told.code_accuracy, "words_accuracy": told.words_accuracy,
    }  # fmt: skip


def _reach(
    before: Side, after: Side, rows_before: np.ndarray, rows_after: np.ndarray, num: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """pass@k of both with bands, their crossing, and the 2×2 table of who solves what."""
    counts = tries(before, rows_before, num), tries(after, rows_after, num)
    ks = _ks(*counts)
    enough = np.minimum(counts[0].num_samples, counts[1].num_samples) >= ks[-1]
    curves = [pass_curves(Tries(c.num_samples[enough], c.num_right[enough]), ks) for c in counts]
    difference = difference_band(curves[0], curves[1], ks, level=LEVEL)
    crossing = crossover(difference)
    passed = {
        "ks": ks, "num_problems": int(enough.sum()), "left_out": int((~enough).sum()),
        "before": _band(curve_band(curves[0], ks, level=LEVEL)),
        "after": _band(curve_band(curves[1], ks, level=LEVEL)),
        "difference": _band(difference),
        "crossover": {"outcome": crossing.outcome, "k": crossing.estimate, "interval": crossing.interval},
    }  # fmt: skip
    most = ks[-1]
    few = [tries(s, r, num, most) for s, r in ((before, rows_before), (after, rows_after))]
    solved = [coverage.solved(Tries(c.num_samples[enough], c.num_right[enough]), most) for c in few]
    cells = coverage.table(solved[0], solved[1])
    solvable = {
        "num_samples": most, "num_problems": cells.num_problems,
        "smallest_visible": coverage.smallest_visible(most),
        "cells": {name: {"count": s.part, "share": s.value, "low": s.low, "high": s.high} for name, s in cells.shares(LEVEL).items()},
        **coverage.support(cells)._asdict(),
    }  # fmt: skip
    return passed, solvable


def _band(band: Band) -> dict[str, Sequence[float]]:
    return {name: [float(v) for v in getattr(band, name)] for name in ("estimate", "low", "high")}


def _num_problems(side: Side) -> int:
    return len(np.unique(side.samples.problem[side.chosen]))


def _nothing_common(before: Side, after: Side) -> str:
    shown = [repr(next(iter(_names(s, "prompt").values()), "nothing"))[:80] for s in (before, after)]  # fmt: skip
    return (
        f"{before.samples.log.path} and {after.samples.log.path} have no problem in common, by prompt or by id (first prompts: {shown[0]} and "
        f"{shown[1]}); give logs of the same problems, or name the field that holds the problem with --prompt, or its id with --id"
    )
