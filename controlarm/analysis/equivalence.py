"""Do two trials of one protocol say the same? The difference of their contrasts, unit by unit, and whether it is equivalent to 0.

Overlapping intervals would not do: they overlap the more, the less was measured. Two one-sided tests (D. J. Schuirmann, J.
Pharmacokinet. Biopharm. 15, 1987) ask for evidence that the difference is small.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scipy import stats

from controlarm.analysis import contrasts, tables
from controlarm.analysis.folder import Trial
from controlarm.protocol import Unit


class Equivalence(NamedTuple):
    """Two one-sided t tests of a mean of paired differences against a margin."""

    mean: float
    low: float
    """Of the two-sided interval at level 1 - 2 alpha: with alpha = 0.05 the 90 % interval."""
    high: float
    p: float
    """The larger of the two one-sided p values; below alpha exactly where the interval lies within the margin."""
    equivalent: bool
    num_units: int


def equivalence(differences: Sequence[float], margin: float, alpha: float = 0.05) -> Equivalence:
    """Whether the mean of paired differences lies within ± margin.

    Differences that are all exactly 0 are equivalent; too few of them, or all equal to another number, leave it open.

    >>> equivalence([0.01, -0.01, 0.02, 0.0], margin=0.04).equivalent
    True
    """
    found = contrasts.estimate(differences)
    low, high = contrasts.t_interval(found, 1 - 2 * alpha)
    if found.note is not None:
        return Equivalence(found.mean, low, high, math.nan, False, found.num_units)
    if found.sd == 0:
        return Equivalence(0.0, 0.0, 0.0, 0.0, True, found.num_units)
    nearest = (margin - abs(found.mean)) / found.se
    return Equivalence(
        found.mean, float(low), float(high), float(stats.t.sf(nearest, found.df)),
        bool(-margin < low and high < margin), found.num_units,
    )  # fmt: skip


class Compared(NamedTuple):
    """One contrast in both trials."""

    recipe: str
    family: str
    arm: str
    """Against the placebo."""
    units: list[tuple[Unit, float, float]]
    """The contrast in each trial."""
    found: Equivalence
    """Of second minus first."""


def compare(first: Trial, second: Trial) -> Iterator[Compared]:
    """The endpoint's contrast of every arm with the placebo, second trial minus first, within the protocol's margin.

    Raises:
        ValueError: the trials differ in more than their names, questions and engines.
    """
    one, other = (_design(trial) for trial in (first, second))
    if one != other:
        differing = sorted(key for key in one if one[key] != other[key])
        raise ValueError(
            f"{first.path}, {second.path}: their protocols differ in {', '.join(differing)}; compare two trials of one protocol"
        )
    end = first.protocol.endpoint
    for case in tables.cases(first):
        if case[2] == end.placebo:
            continue
        per_unit = [
            {d.unit: d.difference for d in tables.contrast_of(trial, case, end.placebo, end.metric).differences}
            for trial in (first, second)
        ]  # fmt: skip
        units = [
            (u, per_unit[0][u], per_unit[1][u])
            for u in sorted(per_unit[0].keys() & per_unit[1].keys())
        ]
        found = equivalence([b - a for _, a, b in units], end.margin)
        yield Compared(case[1], case[0], case[2], units, found)


def _design(trial: Trial) -> dict[str, object]:
    return trial.protocol.model_dump(mode="json", exclude={"trial"})


def identical(first: Trial, second: Trial) -> dict[tuple[str, str], float]:
    """(recipe, arm) → share of the endpoint's held-out answers that both trials gave, word for word."""
    found = {}
    step = first.protocol.endpoint.step
    for family, recipe, arm in tables.cases(first):
        mine, theirs = (trial.cell(family, recipe, arm, step) for trial in (first, second))
        same = [
            bool(a == b)
            for unit in mine.keys() & theirs.keys()
            for a, b in zip(
                mine[unit].sampled.answer.ravel(), theirs[unit].sampled.answer.ravel(), strict=True
            )
        ]
        found[recipe, arm] = sum(same) / len(same) if same else math.nan
    return found
