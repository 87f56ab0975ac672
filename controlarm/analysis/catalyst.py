"""Is it pretraining, reward or data that makes the gain? A balanced map of all three.

The catalyst map is a full factorial: share of code in pretraining × quality of the reward × number of training problems, one
gain a unit in every cell.

Units are the blocks. Each unit (pretraining seed and training seed) is in every cell, with its own problems and sampling noise, so
units are independent and cells of a unit are not: models of one pretraining share are the same in all its cells. Every number is
therefore formed within a unit first and its interval is t over units; the error of an effect is its own interaction with units
(as in a repeated-measures analysis of variance), not the spread within cells, which would count one model's luck once a cell.
"""

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from controlarm.analysis.contrasts import ROUNDING, Estimate, estimate, t_interval, top_units
from controlarm.protocol import Unit

FACTORS = ("code_share", "reward_quality", "num_problems")

Cell = tuple[float, float, float]
"""Levels of ``FACTORS``, in this order."""

nan = float("nan")


class CatalystMap(NamedTuple):
    """A full table of gains. Axes of ``gains``: the three factors, then units."""

    levels: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    """Of each factor, rising. Their spacing matters to ``routes`` alone: give log2 of the number of problems to interpolate in it."""
    gains: Float[np.ndarray, "code_share reward_quality num_problems unit"]
    units: tuple[Unit, ...]
    """That went into it; the last axis has one entry a pretraining seed, its training seeds averaged (``contrasts.top_units``)."""
    incomplete: tuple[Unit, ...]
    """Units left out because they lack a cell."""


def catalyst_map(cells: Mapping[Cell, Mapping[Unit, float]]) -> CatalystMap:
    """Arrange the gains of a full factorial; a unit without a gain (or NaN) in any cell is left out of all, and listed.

    Raises:
        ValueError: a combination of levels has no cell, or no unit is complete.
    """
    levels = tuple(tuple(sorted({cell[axis] for cell in cells})) for axis in range(3))
    shape = tuple(len(axis) for axis in levels)
    index = {
        cell: tuple(axis.index(level) for axis, level in zip(levels, cell, strict=True))
        for cell in cells
    }
    if len(cells) != np.prod(shape) or not cells:
        wanted = ((a, b, c) for a in levels[0] for b in levels[1] for c in levels[2])
        missing = next((cell for cell in wanted if cell not in cells), None)
        raise ValueError(f"the map needs every combination of its levels; there are {len(cells)} cells, and {missing} is missing")  # fmt: skip
    everyone = sorted({unit for gains in cells.values() for unit in gains})
    complete = [u for u in everyone if all(not np.isnan(g.get(u, nan)) for g in cells.values())]
    if not complete:
        raise ValueError("no unit has a gain in every cell; the map compares cells within units")
    top = {cell: top_units({u: gains[u] for u in complete}) for cell, gains in cells.items()}
    found = np.empty((*shape, len(next(iter(top.values())))))
    for cell, gains in top.items():
        found[index[cell]] = gains
    left_out = tuple(unit for unit in everyone if unit not in complete)
    return CatalystMap((levels[0], levels[1], levels[2]), found, tuple(complete), left_out)


class Effect(NamedTuple):
    """One row of the analysis of variance. Its own interaction with units is its error."""

    factors: tuple[str, ...]
    ss: float
    """Sum of squares over all cells and units; effects, errors and units add up to the total exactly."""
    df: int
    error_ss: float
    error_df: int
    f: float
    """NaN with one unit or without any error."""
    p: float
    share: float
    """ss / total: what of all variation is this effect, noise in it included."""
    preset_share: float
    """Share of the true variation over the preset levels: (ss - df · error mean square), over its sum over all effects. Unbiased above and below the
    line, so it may be negative; NaN with one unit or where the effects do not exceed noise together. It depends on the levels that were preset."""
    preset_interval: tuple[float, float]
    """95 %, leave-one-unit-out jackknife of ``preset_share``, t with units - 1 df; NaN below three units. Rough: it is a ratio."""


class Variance(NamedTuple):
    """A balanced analysis of variance: exact sums."""

    effects: tuple[Effect, ...]
    """The three factors, their three pairs, and all together; an effect of a factor with one level has df 0 and ss 0."""
    unit_ss: float
    """Between units: some gain more in all cells."""
    total_ss: float
    noise_share: float
    """Units and the effects' errors, of the total."""


def _parts(values: Float[np.ndarray, "..."]) -> dict[tuple[int, ...], Float[np.ndarray, "..."]]:
    """The balanced decomposition: of each set of axes, the part of the table that these and no fewer explain; the parts are orthogonal and sum to the table."""
    axes = range(values.ndim)
    found = {}
    for size in range(values.ndim + 1):
        for kept in combinations(axes, size):
            others = tuple(axis for axis in axes if axis not in kept)
            part = values.mean(axis=others, keepdims=True)
            for smaller, known in found.items():
                if set(smaller) < set(kept):
                    part = part - known
            found[kept] = part
    return found


def _sums_of_squares(values: Float[np.ndarray, "..."]) -> dict[tuple[int, ...], float]:
    # Centred first, so that a large common gain does not leave its rounding in the parts.
    centred = values - values.mean()
    if np.ptp(values) <= ROUNDING * max(1.0, float(np.abs(values).max())):
        centred = np.zeros_like(values)
    parts = _parts(centred)
    return {kept: float(np.sum(part**2)) * values.size / part.size for kept, part in parts.items()}


def _true_variation(gains: Float[np.ndarray, "a b c unit"]) -> dict[tuple[int, ...], float]:
    """Of each effect, its sum of squares less what noise adds to it on average."""
    sums, units = _sums_of_squares(gains), gains.shape[3]
    return {
        kept: ss - sums[(*kept, 3)] / (units - 1) if units > 1 else nan
        for kept, ss in sums.items()
        if kept and 3 not in kept
    }


def _preset_shares(gains: Float[np.ndarray, "a b c unit"]) -> dict[tuple[int, ...], float]:
    true = _true_variation(gains)
    total = sum(true.values())
    above = total > ROUNDING * sum(abs(value) for value in true.values())
    return {kept: value / total if above else nan for kept, value in true.items()}


def variance(table: CatalystMap) -> Variance:
    """How the gains of the map vary: by factor, by pair, by all three, by unit, by noise.

    F is the effect's mean square over the mean square of its interaction with units; with more than two levels its p takes the
    noise of all differences between levels to be alike (sphericity), which few units cannot check: trust the t intervals of
    ``factor_range`` and ``interaction`` first.
    """
    gains = table.gains
    sums, num_units = _sums_of_squares(gains), gains.shape[3]
    total = sum(sums.values())
    shares = _preset_shares(gains)
    # Leave one unit out of three or more: of two, one would remain, which has no noise.
    without = [_preset_shares(np.delete(gains, u, axis=3)) for u in range(num_units)] if num_units > 2 else []  # fmt: skip
    tiny = ROUNDING * total
    effects = []
    for kept in shares:
        df = int(np.prod([gains.shape[axis] - 1 for axis in kept]))
        ss, error_ss, error_df = sums[kept], sums[(*kept, 3)], df * (num_units - 1)
        f = (ss / df) / (error_ss / error_df) if error_df and error_ss > tiny else nan
        pseudo = [num_units * shares[kept] - (num_units - 1) * s[kept] for s in without]
        effects.append(
            Effect(
                tuple(FACTORS[axis] for axis in kept), ss, df, error_ss, error_df,
                f, float(stats.f.sf(f, df, error_df)) if f == f else nan,
                ss / total if total > 0 else nan, shares[kept],
                _interval(pseudo),
            )
        )  # fmt: skip
    noise = sum(ss for kept, ss in sums.items() if 3 in kept)
    return Variance(tuple(effects), sums[(3,)], total, noise / total if total > 0 else nan)


def _interval(values: list[float]) -> tuple[float, float]:
    """95 % t interval; NaN where a value is missing."""
    if len(values) < 2 or np.isnan(values).any():
        return nan, nan
    return t_interval(estimate(values), 0.95)


class FactorRange(NamedTuple):
    """How much one factor moves the gain, the others averaged over their levels."""

    factor: str
    means: tuple[float, ...]
    """Mean gain at each level."""
    range: float
    """Largest minus smallest mean: at least 0, so above the true range on average, by noise."""
    honest: Estimate
    """Over units: gain at the level that is best in the *other* units minus at the one that is worst there. Choosing and measuring on different units, it is
    not above the true range on average, and 0 on average where the factor does nothing. NaN with one unit."""
    honest_interval: tuple[float, float]


def factor_range(table: CatalystMap, factor: str) -> FactorRange:
    """Range of gain over the preset levels of ``factor``, as it is and without the winner's curse."""
    axis = _axis(factor)
    by_level = table.gains.mean(axis=tuple(a for a in range(3) if a != axis))
    means = by_level.mean(axis=1)
    num_units = by_level.shape[1]
    differences = []
    for u in range(num_units) if num_units > 1 else ():
        others = np.delete(by_level, u, axis=1).mean(axis=1)
        differences.append(float(by_level[others.argmax(), u] - by_level[others.argmin(), u]))
    honest = estimate(differences)
    return FactorRange(factor, tuple(means.tolist()), float(np.ptp(means)), honest, t_interval(honest, 0.95))  # fmt: skip


class Interaction(NamedTuple):
    """Whether one factor's effect depends on the other, the third averaged over its levels."""

    factors: tuple[str, str]
    difference: Estimate
    """Over units: (effect of the first at the other's highest level) - (at its lowest), each effect from lowest to highest level."""
    interval: tuple[float, float]


def interaction(table: CatalystMap, first: str, second: str) -> Interaction:
    """The difference of differences between extreme levels, in units of gain, one number a unit."""
    a, b = _axis(first), _axis(second)
    if a == b:
        raise ValueError(f"an interaction is between two factors, not {first} and itself")
    third = ({0, 1, 2} - {a, b}).pop()
    pair = np.moveaxis(table.gains.mean(axis=third, keepdims=True), (a, b, third, 3), (0, 1, 2, 3))
    pair = pair[:, :, 0]
    each = (pair[-1, -1] - pair[0, -1]) - (pair[-1, 0] - pair[0, 0])
    found = estimate(each.tolist())
    return Interaction((first, second), found, t_interval(found, 0.95))


def _axis(factor: str) -> int:
    if factor not in FACTORS:
        raise ValueError(f"there is no factor {factor}; the map has {', '.join(FACTORS)}")
    return FACTORS.index(factor)


class Segment(NamedTuple):
    """Between two neighbouring levels of a factor."""

    start: float
    end: float
    slope: Estimate
    """Gain per unit of the factor, over units."""
    slope_interval: tuple[float, float]


class Route(NamedTuple):
    """What a rise of the gain costs in one factor, the others held where they are."""

    factor: str
    segments: tuple[Segment, ...]
    cost: float
    """Smallest change of the factor, up or down, signed, after which the mean gain is higher by what was asked; inf: not within the preset levels."""
    least: float
    """The same where the gain is at the upper end of its 95 % interval: no smaller change can be excluded to do. NaN without an interval."""
    most: float
    """The same at the lower end: a change that does, with confidence; inf where none does. NaN without an interval."""


def routes(table: CatalystMap, start: Cell, points: float = 0.01) -> tuple[Route, ...]:
    """For each factor, what ``points`` of gain cost from cell ``start``, by interpolation along the preset levels.

    Between levels the gain is taken as a straight line and its interval too, which is too long rather than too short: a standard deviation
    is convex. Beyond the levels nothing is claimed. A factor with one level has no route: its cost is NaN, not inf.

    Args:
        table: the map.
        start: levels of the three factors to start from.
        points: gain to be bought, above 0; .01 is a point of accuracy.
    """
    if not points > 0:
        raise ValueError(f"the gain to be bought must be above 0, not {points}")
    for factor, levels, level in zip(FACTORS, table.levels, start, strict=True):
        if level not in levels:
            raise ValueError(f"{level} is no level of {factor}; the map has {', '.join(map(str, levels))}")  # fmt: skip
    at = [levels.index(level) for levels, level in zip(table.levels, start, strict=True)]
    found = []
    for axis, factor in enumerate(FACTORS):
        x = np.array(table.levels[axis])
        where: list[int | slice] = [*at]
        where[axis] = slice(None)
        gains = table.gains[tuple(where)]
        segments = []
        for i in range(len(x) - 1):
            slope = estimate(((gains[i + 1] - gains[i]) / (x[i + 1] - x[i])).tolist())
            segments.append(Segment(float(x[i]), float(x[i + 1]), slope, t_interval(slope, 0.95)))
        if not segments:
            found.append(Route(factor, (), nan, nan, nan))
            continue
        rises = [estimate((gain - gains[at[axis]]).tolist()) for gain in gains]
        middle = np.array([rise.mean for rise in rises])
        low, high = np.array([t_interval(rise, 0.95) for rise in rises]).T
        # At the start the rise is 0 in every unit: there is nothing to be uncertain of.
        low[at[axis]] = high[at[axis]] = 0.0
        known = not np.isnan([low, high]).any()
        change = x - x[at[axis]]
        found.append(
            Route(
                factor, tuple(segments), _reach(change, middle, points),
                _reach(change, high, points) if known else nan,
                _reach(change, low, points) if known else nan,
            )
        )  # fmt: skip
    return tuple(found)


def _reach(
    change: Float[np.ndarray, " level"], rise: Float[np.ndarray, " level"], points: float
) -> float:
    """Smallest change, either way, where the straight lines through ``rise`` reach ``points``; upwards when both are equal; else inf."""
    best = np.inf
    origin = int(np.flatnonzero(change == 0)[0])
    for direction in (1, -1):
        path = range(origin, len(change) if direction == 1 else -1, direction)
        for here, there in pairwise(path):
            if rise[there] >= points:
                part = (points - rise[here]) / (rise[there] - rise[here])
                reached = float(change[here] + part * (change[there] - change[here]))
                best = reached if abs(reached) < abs(best) else best
                break
    return best
