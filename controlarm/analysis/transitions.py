"""Did a training curve jump, climb, drift or stay? Told by fits under correlated noise, for a random walk looks like a transition too.

Four shapes: constant, linear, step (two levels), logistic. Neighbouring points of a training curve are not independent,
and least squares that takes them to be finds transitions in curves that only wander. So each shape is fitted by least
squares of the whitened curve (Prais and Winsten 1954): noise is autoregressive of first order, with a coefficient φ from 0
to .99 that is chosen for each shape by its likelihood. Of n points, shapes are compared by

    BIC = n log(RSS_φ / (n - k - 1)) - log(1 - φ²) + k log n,

with the unbiased variance, as shapes that fit better also flatter the noise. k is 1, 2, 4 and 5: a change-point is paid for
twice, since it is searched for and not given (Zhang and Siegmund 2007). All this costs power against small changes, and is
meant to: with φ up to .8 and 20 points or more about one curve in twenty is falsely said to change, with a random walk of
20 points one in nine. How often it is on the curves of a trial is not assumed but measured, on its A/A curves, by
``false_detections``: that rate belongs beside every verdict.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from controlarm.analysis.contrasts import ROUNDING
from controlarm.analysis.coverage import clopper_pearson

Shape = Literal["constant", "linear", "step", "logistic"]
Verdict = Literal["constant", "linear", "step", "logistic", "unknown"]

PENALTY: dict[Shape, int] = {"constant": 1, "linear": 2, "step": 4, "logistic": 5}
"""k: parameters as BIC counts them, simplest first; what all shapes have, φ and the variance, is left out."""

FEWEST_POINTS = 12
"""Below, four parameters and a correlation fit anything: the shape is unknown."""

PHIS = np.array([*np.linspace(0, 0.9, 19), 0.93, 0.95, 0.97, 0.98, 0.99])
"""Correlations tried. Negative ones count as 0: they would only make a verdict bolder."""

TEN_TO_NINETY = 2 * float(np.log(9))
"""Width of a logistic in its scales: it goes from 10 % to 90 % of the change in 2 log 9 of them."""

NARROWEST = 0.25
"""Shortest width that is tried, in shortest sampling intervals: at most a point at its very centre lies between the levels."""

NUM_WIDTHS = 16

FINER = np.array([0, -0.25, 0.25, -0.5, 0.5, -0.75, 0.75, -1, 1])
NUM_REFINEMENTS = 7
"""Offsets in cells of the grid before, the best point first so that ties stay where they are; each round is four times finer."""

ZOOM, NUM_ZOOMS = 21, 3
"""Grid lines a side, and how often the grid is drawn anew, in the search for a logistic's intervals."""

LARGEST_STEP = 1e15

SMALLEST_VARIANCE = 1e-12
"""Of noise, as a share of the squared range: below it a fit is perfect, and BIC compares penalties alone."""

nan = float("nan")


class Fit(NamedTuple):
    """One shape's best fit: level + rise · g(step), g from 0 to 1."""

    shape: Shape
    bic: float
    level: float
    """Where the curve starts (g = 0)."""
    rise: float
    """Change from g = 0 to g = 1; 0 for a constant. Of a line, the change over the whole curve."""
    at: float
    """Change-point (half-way between two steps) or centre; NaN for constant and linear."""
    width: float
    """Steps from 10 % to 90 % of a logistic's change; 0 for a step; NaN for others."""
    phi: float
    """First-order correlation of the noise."""
    sd: float
    """Standard deviation of the whitened residuals."""


class Transition(NamedTuple):
    """Verdict on one curve. Undefined numbers are NaN."""

    verdict: Verdict
    fits: Mapping[Shape, Fit]
    margin: float
    """BIC of the runner-up minus BIC of the verdict; of a step or logistic that cannot be told apart, the runner-up is of the other shapes."""
    change_point: float
    change_interval: tuple[float, float]
    """95 %: last step that may lie before the change, first step that may lie after it; of a logistic, of its centre."""
    width: float
    """Of the fitted logistic, in steps, where the verdict is step or logistic."""
    width_interval: tuple[float, float]
    """95 %; it begins at 0 where the data do not exclude a step."""
    indistinguishable: bool
    """The fitted logistic is shorter than one sampling interval, so it is a step to these data, and the verdict says step."""
    note: str | None = None
    """Why the shape is unknown, or why step and logistic are indistinguishable."""


class _Grid(NamedTuple):
    """Unit curves g, one a row, and what their whitened products need; depends on the steps alone."""

    g: Float[np.ndarray, "curve point"]
    at: Float[np.ndarray, " curve"]
    width: Float[np.ndarray, " curve"]
    num_steps: int
    """Rows 0 to num_steps - 1 are steps, the rest logistics."""
    own: Float[np.ndarray, "curve 3"]
    with_one: Float[np.ndarray, "curve 3"]


def _products(
    a: Float[np.ndarray, "... point"], b: Float[np.ndarray, "... point"]
) -> Float[np.ndarray, "... 3"]:
    """Sums of which every whitened product is made: aᵀΩ⁻¹b = s₀ + φ² s₁ - φ s₂, for noise of first order (Ω⁻¹ has three diagonals)."""
    ab = a * b
    cross = a[..., 1:] * b[..., :-1] + a[..., :-1] * b[..., 1:]
    return np.stack([ab.sum(-1), ab[..., 1:-1].sum(-1), cross.sum(-1)], axis=-1)


_POWERS = np.stack([np.ones_like(PHIS), PHIS**2, -PHIS])


def _minus_two_log_likelihood(
    y: Float[np.ndarray, " point"],
    g: Float[np.ndarray, "curve point"] | None,
    own: Float[np.ndarray, "curve 3"] | None = None,
    with_one: Float[np.ndarray, "curve 3"] | None = None,
) -> Float[np.ndarray, "curve phi"]:
    """Of y = level + rise · g + noise, levels at their best, for every curve and correlation; without g, of a constant."""
    one = np.ones_like(y)
    yy, y1, oo = (_products(a, b) @ _POWERS for a, b in ((y, y), (y, one), (one, one)))
    rss = (yy - y1**2 / oo)[None, :]
    if g is not None:
        own = _products(g, g) if own is None else own
        with_one = _products(g, one[None, :]) if with_one is None else with_one
        gg, g1, gy = own @ _POWERS, with_one @ _POWERS, _products(g, y[None, :]) @ _POWERS
        # The variance of g that its level does not take; g is never constant, so it is above 0 but for rounding.
        left = np.maximum(gg - g1**2 / oo, 1e-300)
        rss = rss - (gy - g1 * y1 / oo) ** 2 / left
    variance = np.maximum(rss / len(y), SMALLEST_VARIANCE)
    return len(y) * np.log(variance) - np.log1p(-(PHIS**2))


def _penalty(shape: Shape, num_points: int) -> float:
    """What BIC adds to -2 log L, whose variance is RSS/n."""
    k = PENALTY[shape]
    return k * float(np.log(num_points)) + num_points * float(
        np.log(num_points / (num_points - k - 1))
    )


def _logistic(
    steps: Float[np.ndarray, " point"],
    at: Float[np.ndarray, " curve"],
    width: Float[np.ndarray, " curve"],
) -> Float[np.ndarray, "curve point"]:
    return special.expit((steps - at[:, None]) / (width[:, None] / TEN_TO_NINETY))


def _narrowest(t: Float[np.ndarray, " point"]) -> float:
    """Shortest width that is tried, where the mean sampling interval is 1."""
    return NARROWEST * max(float(np.diff(t).min()), 1e-3)


@lru_cache(maxsize=8)
def _grid(steps: tuple[float, ...]) -> _Grid:
    """Every step, and logistics centred at points and at thirds between them, in log-spaced widths up to the length of the curve."""
    t = np.array(steps)
    middles = (t[1:] + t[:-1]) / 2
    jumps = (t > middles[:, None]).astype(float)
    centres = np.interp(np.arange(3 * len(t) - 2) / 3, np.arange(len(t)), t)
    widths = np.geomspace(_narrowest(t), t[-1] - t[0], NUM_WIDTHS)
    at, width = _mesh(centres, widths)
    g = np.concatenate([jumps, _logistic(t, at, width)])
    at = np.concatenate([middles, at])
    width = np.concatenate([np.zeros(len(middles)), width])
    ones = np.ones((1, len(t)))
    return _Grid(g, at, width, len(middles), _products(g, g), _products(g, ones))


def _levels(
    y: Float[np.ndarray, " point"], g: Float[np.ndarray, " point"] | None, phi: float
) -> tuple[float, float, float]:
    """Level, rise and standard deviation of the whitened residuals, by least squares of the whitened curve."""
    design = np.ones((len(y), 1)) if g is None else np.stack([np.ones_like(g), g], axis=1)
    whitened, target = _whitened(design, phi), _whitened(y[:, None], phi)[:, 0]
    found = np.linalg.lstsq(whitened, target, rcond=None)[0]
    sd = float(np.sqrt(np.mean((target - whitened @ found) ** 2)))
    return float(found[0]), 0.0 if g is None else float(found[1]), sd


def _whitened(
    columns: Float[np.ndarray, "point column"], phi: float
) -> Float[np.ndarray, "point column"]:
    """Each point less φ times the one before; the first, which has none, is scaled to the same variance."""
    return np.concatenate([np.sqrt(1 - phi**2) * columns[:1], columns[1:] - phi * columns[:-1]])


def _mesh(
    *axes: Float[np.ndarray, " _"],
) -> tuple[Float[np.ndarray, " curve"], Float[np.ndarray, " curve"]]:
    """Every pair of a centre and a width."""
    at, width = np.meshgrid(*axes, indexing="ij")
    return at.ravel(), width.ravel()


def _refined(
    t: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"], at: float, width: float
) -> tuple[float, float]:
    """Centre and width off the grid: ever finer grids around the best so far, within the first one's bounds; a minimiser that cannot fail."""
    bounds = ((0.0, float(t[-1])), (float(np.log(_narrowest(t))), float(np.log(t[-1]))))
    best = (at, float(np.log(width)))
    cell = (float(np.diff(t).max()) / 3, (bounds[1][1] - bounds[1][0]) / (NUM_WIDTHS - 1))
    for _ in range(NUM_REFINEMENTS):
        sides = zip(best, cell, bounds, strict=True)
        axes = [np.clip(b + c * FINER, low, high) for b, c, (low, high) in sides]
        ats, widths = _mesh(*axes)
        first = int(_minus_two_log_likelihood(y, _logistic(t, ats, np.exp(widths))).min(axis=1).argmin())  # fmt: skip
        best = (float(ats[first]), float(widths[first]))
        cell = (cell[0] / 4, cell[1] / 4)
    return best[0], float(np.exp(best[1]))


STEP_QUANTILE = -2 * float(np.log(1 - np.sqrt(0.95)))
"""95 % point of the likelihood ratio of a change-point, P(ratio < x) = (1 - exp(-x/2))² (Hansen 2000, Econometrica 68:575): 7.35, not 3.84."""


def _limit(shape: Literal["step", "logistic"], num_points: int) -> float:
    """How much -2 log L may lie above its smallest value within a 95 % interval.

    As a ratio of residual sums it is 1 + q/df, exact for a linear model without correlation; q is Hansen's for a step, F(1, df)'s for a logistic.
    """
    df = num_points - PENALTY[shape] - 1
    quantile = STEP_QUANTILE if shape == "step" else float(stats.f.ppf(0.95, 1, df))
    return num_points * float(np.log1p(quantile / df))


def _intervals(
    t: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    at: Float[np.ndarray, " curve"],
    width: Float[np.ndarray, " curve"],
    loss: Float[np.ndarray, " curve"],
    limit: float,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Profile-likelihood intervals of a logistic's centre and width: the sides of the box around all that is within ``limit`` of the best.

    The box is found on the given curves and then gridded anew, until its sides are known to a twentieth.
    """
    bounds = np.array([(at.min(), at.max()), np.log([width.min(), width.max()])])
    points = np.stack([at, np.log(width)])
    summit, best = points[:, loss.argmin()], loss.min()
    cell = np.array([np.diff(np.unique(axis)).max(initial=0.0) for axis in points])
    for _ in range(NUM_ZOOMS):
        kept = points[:, loss <= best + limit + ROUNDING]
        box = np.stack([kept.min(axis=1) - cell, kept.max(axis=1) + cell], axis=1)
        box = np.clip(box, bounds[:, :1], bounds[:, 1:])
        # The best point is on every grid, so that no grid can miss the region, however narrow it is.
        axes = [
            np.append(np.linspace(side[0], side[1], ZOOM), own)
            for side, own in zip(box, summit, strict=True)
        ]
        points = np.stack(_mesh(*axes))
        curves = _logistic(t, points[0], np.exp(points[1]))
        loss = _minus_two_log_likelihood(y, curves).min(axis=1)
        if loss.min() < best:
            summit, best = points[:, loss.argmin()], loss.min()
        cell = np.array([axis[1] - axis[0] for axis in axes])
    kept = points[:, loss <= best + limit + ROUNDING]
    low = np.maximum(kept.min(axis=1) - cell / 2, bounds[:, 0])
    high = np.minimum(kept.max(axis=1) + cell / 2, bounds[:, 1])
    return (float(low[0]), float(high[0])), (float(np.exp(low[1])), float(np.exp(high[1])))


def transition(
    steps: Float[np.ndarray, " step"], values: Float[np.ndarray, " value"]
) -> Transition:
    """How the curve ``values`` over ``steps`` changes.

    Points without a value (NaN) are left out. A curve of fewer than ``FEWEST_POINTS`` points is of unknown shape; one whose values are all
    equal is constant. Correlation is between neighbouring points, so an uneven grid of steps is taken as it comes.

    The interval of a step's change-point holds the change-points that a likelihood-ratio test at 5 % does not reject; it is one stretch,
    from the step before the first of them to the step after the last. Simulated steps are covered in 95 % of cases and, where they are large,
    in nearly all, as steps come one at a time; centre and width of a logistic in 95 % without correlation, in 90 % with φ = .5. Where a
    transition is so small that it is rarely found, the intervals of those that are found cover less often (``tests/test_analysis_transitions.py``).

    A step is never shown to be instantaneous: ``width_interval`` says how long a transition the data would still allow.

    Raises:
        ValueError: steps and values differ in length, steps do not increase, or a value is infinite.
    """
    t, y = _checked(steps, values)
    if len(y) < FEWEST_POINTS:
        note = f"{len(y)} points; a shape needs at least {FEWEST_POINTS}"
        return _without_change("unknown", {}, nan, note)
    # Unit scale and length: the verdict depends on neither, and no square overflows.
    size = float(np.abs(y).max())
    unit = y / size if size > 0 else y
    spread = float(unit.max() - unit.min())
    if spread <= ROUNDING:
        level = float(y[0])
        flat = Fit("constant", -float("inf"), level, 0.0, nan, nan, 0.0, 0.0)
        return _without_change("constant", {"constant": flat}, nan, None)
    origin, scale = float(unit.mean()), spread
    unit = (unit - origin) / scale
    start, interval = float(t[0]), float(t[-1] - t[0]) / (len(t) - 1)
    even = (t - start) / interval

    grid = _grid(tuple(even.tolist()))
    loss = _minus_two_log_likelihood(unit, grid.g, grid.own, grid.with_one).min(axis=1)
    jump = int(loss[: grid.num_steps].argmin())
    best = grid.num_steps + int(loss[grid.num_steps :].argmin())
    centre, width = _refined(even, unit, float(grid.at[best]), float(grid.width[best]))

    curves: dict[Shape, tuple[Float[np.ndarray, " point"] | None, float, float]] = {
        "constant": (None, nan, nan),
        "linear": (even / even[-1], nan, nan),
        "step": (grid.g[jump], float(grid.at[jump]), 0.0),
        "logistic": (_logistic(even, np.array([centre]), np.array([width]))[0], centre, width),
    }
    fits: dict[Shape, Fit] = {}
    for shape, (g, at, wide) in curves.items():
        by_phi = _minus_two_log_likelihood(unit, None if g is None else g[None, :])[0]
        phi = float(PHIS[by_phi.argmin()])
        level, rise, sd = _levels(unit, g, phi)
        fits[shape] = Fit(
            shape, float(by_phi.min()) + _penalty(shape, len(y)),
            (level * scale + origin) * size, rise * scale * size, start + at * interval, wide * interval,
            phi, sd * scale * size,
        )  # fmt: skip

    # Simplest first: of equal fits the one with fewer parameters.
    ranked = sorted(fits.values(), key=lambda fit: fit.bic)
    verdict = ranked[0].shape
    if verdict in ("constant", "linear"):
        return _without_change(verdict, fits, ranked[1].bic - ranked[0].bic, None)

    below = max(int(np.searchsorted(even, centre, side="right")) - 1, 0)
    around = float(np.diff(even)[min(below, len(even) - 2)])
    indistinguishable = width < around
    if indistinguishable:
        verdict = "step"
    others = [fit for fit in ranked if fit.shape != verdict]
    if indistinguishable:
        others = [fit for fit in others if fit.shape != "logistic"]
    margin = others[0].bic - ranked[0].bic

    ats, widths = grid.at[grid.num_steps :], grid.width[grid.num_steps :]
    smooth = np.append(loss[grid.num_steps :], fits["logistic"].bic - _penalty("logistic", len(y)))
    (low, high), (narrow, wide) = _intervals(
        even,
        unit,
        np.append(ats, centre),
        np.append(widths, width),
        smooth,
        _limit("logistic", len(y)),
    )
    if narrow <= widths.min() * (1 + ROUNDING):
        narrow = 0.0
    change_point = fits[verdict].at
    if verdict == "step":
        kept = np.flatnonzero(loss[: grid.num_steps] <= loss[jump] + _limit("step", len(y)))
        low, high = float(even[kept[0]]), float(even[kept[-1] + 1])
    note = "the transition is shorter than one sampling interval: step and logistic are indistinguishable"
    return Transition(
        verdict, fits, margin, change_point, (start + low * interval, start + high * interval),
        width * interval, (narrow * interval, wide * interval),
        indistinguishable, note if indistinguishable else None,
    )  # fmt: skip


def _without_change(
    verdict: Verdict, fits: Mapping[Shape, Fit], margin: float, note: str | None
) -> Transition:
    return Transition(verdict, fits, margin, nan, (nan, nan), nan, (nan, nan), False, note)


def _checked(
    steps: Float[np.ndarray, " step"], values: Float[np.ndarray, " value"]
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " known"]]:
    """Points that have a value."""
    if len(steps) != len(values):
        raise ValueError(f"a curve has one value a step; there are {len(steps)} steps and {len(values)} values")  # fmt: skip
    if np.isinf(values).any():
        at = int(np.flatnonzero(np.isinf(values))[0])
        raise ValueError(f"value {at} of the curve is infinite; write NaN where there is none")
    if not (np.abs(steps) <= LARGEST_STEP).all() or (np.diff(steps) <= 0).any():
        raise ValueError(f"the steps of a curve must increase and be at most {LARGEST_STEP:g}; sort its points and drop doubles")  # fmt: skip
    known = ~np.isnan(values)
    return steps[known], values[known]


class FalseDetections(NamedTuple):
    """How often curves without a transition are said to have one."""

    rate: float
    """NaN without a curve of known shape."""
    interval: tuple[float, float]
    """Clopper and Pearson (1934), 95 %."""
    num_detected: int
    num_curves: int
    """Of known shape."""
    num_unknown: int
    verdicts: Mapping[Verdict, int]


def false_detections(
    curves: Sequence[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
) -> FalseDetections:
    """Share of A/A curves (steps, values) whose verdict is step or logistic.

    An A/A curve is one where nothing can change: of an arm that pays equal rewards, or the difference between two runs of one arm. Curves
    of one trial must be independent for the interval to hold: one a unit.
    """
    verdicts: Counter[Verdict] = Counter(
        transition(steps, values).verdict for steps, values in curves
    )
    unknown = verdicts["unknown"]
    detected, count = verdicts["step"] + verdicts["logistic"], len(curves) - unknown
    rate = detected / count if count else nan
    return FalseDetections(rate, clopper_pearson(detected, count), detected, count, unknown, dict(verdicts))  # fmt: skip
