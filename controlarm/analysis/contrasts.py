"""Arm minus placebo and arm minus base: intervals, p values, verdicts, the smallest effect a trial can see.

The unit is a training run's difference, paired by unit (same pretrained model, seed, problems, sampling noise), never a
problem: problems and samples measure one checkpoint, only further units say what a reward does. Few units leave no
choice but t: a percentile bootstrap over three differences excludes a true zero on one side in about 12 % of trials
where 2.5 % are promised (``tests/test_analysis_contrasts.py`` measures both).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, stats

from controlarm.analysis.metrics import PerSample, per_problem
from controlarm.protocol import Unit

Outcome = Literal["superior", "inferior", "equivalent", "inconclusive"]

UNITS_FOR_FAMILY_CLAIM = 3
"""Distinct pretraining seeds below which a claim is about these models, not their family."""

ROUNDING = 1e-12
"""Below this share of their size (or of 1), differences are equal: shares of a thousand samples differ by 1e-3, sums of them by 1e-16."""


class UnitDifference(NamedTuple):
    """Arm minus other in one unit."""

    unit: Unit
    arm_value: float
    other_value: float
    problem_se: float
    """Standard error of this difference over problems, paired by problem: how well one pair of checkpoints is measured."""
    sampling_se: float
    """The same over samples, the problems held fixed: what the spread over units cannot lie below but by luck. NaN with one sample a problem."""

    @property
    def difference(self) -> float:
        return self.arm_value - self.other_value


class Estimate(NamedTuple):
    """Mean of unit differences. Undefined numbers are NaN."""

    mean: float
    sd: float
    num_units: int
    note: str | None = None
    """Why there is no interval, where there is none."""
    num_means: int = 1
    """Means that the deviation is taken from: 1, or one a model (``within_models``)."""

    @property
    def df(self) -> int:
        return self.num_units - self.num_means

    @property
    def se(self) -> float:
        return self.sd / np.sqrt(self.num_units) if self.num_units > 1 else float("nan")


def estimate(differences: Sequence[float]) -> Estimate:
    """Mean and standard deviation over units.

    Differences that agree but for rounding have no usable spread. All zero means equal outcomes (a constant arm is its base): the
    interval is the point 0. All equal to another number is an accident of the metric's resolution: no interval.
    """
    count = len(differences)
    if count == 0:
        return Estimate(float("nan"), float("nan"), 0, "no unit has both values")
    average = float(np.mean(differences))
    if count == 1:
        return Estimate(average, float("nan"), 1, "one unit: no interval")
    rounding = ROUNDING * max(1.0, *map(abs, differences))
    if max(differences) - min(differences) <= rounding:
        if abs(average) <= rounding:
            return Estimate(0.0, 0.0, count)
        note = "all units differ by exactly the same amount: no interval"
        return Estimate(average, 0.0, count, note)
    return Estimate(average, float(np.std(differences, ddof=1)), count)


def t_interval(e: Estimate, level: float) -> tuple[float, float]:
    """Two-sided interval of the mean: mean ± t(1 - (1 - level)/2; n - 1) · sd/√n."""
    if e.note is not None:
        return float("nan"), float("nan")
    half = float(stats.t.ppf(0.5 + level / 2, e.df)) * e.se
    return e.mean - half, e.mean + half


def lower_bound(e: Estimate, alpha: float) -> float:
    """One-sided lower bound at level ``alpha``."""
    return t_interval(e, 1 - 2 * alpha)[0]


def p_superior(e: Estimate) -> float:
    """One-sided p of "the mean is not above 0".

    Without spread t is undefined: 1 where all differences are 0; else the sign-flip p value, 2^-n for n equal positive ones.
    """
    if e.num_units < 2:
        return float("nan")
    if e.sd == 0:
        return 1.0 if e.mean <= 0 else 0.5**e.num_units
    return float(stats.t.sf(e.mean / e.se, e.df))


def unit_differences(
    arm: Mapping[Unit, PerSample], other: Mapping[Unit, PerSample]
) -> list[UnitDifference]:
    """Pair by unit, and within it by problem: a problem counts where both have a value."""
    found = []
    for unit in sorted(arm.keys() & other.keys()):
        a, b = per_problem(arm[unit]), per_problem(other[unit])
        both = ~(np.isnan(a) | np.isnan(b))
        if not both.any():
            continue
        a, b = a[both], b[both]
        se = float(np.std(a - b, ddof=1) / np.sqrt(len(a))) if len(a) > 1 else float("nan")
        noise = sampling_se(arm[unit][both], other[unit][both])
        found.append(UnitDifference(unit, float(a.mean()), float(b.mean()), se, noise))
    return found


def sampling_se(arm: PerSample, other: PerSample) -> float:
    """Standard error of a difference of means over problems, of fixed problems and checkpoints: samples alone are drawn anew.

    Sample k of both is drawn with the same noise, so the variance within a problem is that of the paired differences. Problems
    where fewer than two pairs are known take the mean variance of the others.
    """
    pairs = arm - other
    known = ~np.isnan(pairs)
    count = known.sum(axis=1)
    enough = count > 1
    if not enough.any():
        return float("nan")
    pairs, known, count = pairs[enough], known[enough], count[enough]
    centred = np.where(known, pairs - per_problem(pairs)[:, None], 0)
    variances = np.square(centred).sum(axis=1) / (count - 1)
    return float(np.sqrt(np.mean(variances / count) / len(arm)))


def top_units(values: Mapping[Unit, float]) -> list[float]:
    """One number a top unit: the pretraining seed, its training seeds averaged.

    With a single pretraining seed the training seeds are the units, and the claim is about that one model.
    """
    by_model: dict[int, list[float]] = {}
    for unit in sorted(values):
        by_model.setdefault(unit.pretraining_seed, []).append(values[unit])
    if len(by_model) == 1:
        return next(iter(by_model.values()))
    return [float(np.mean(members)) for members in by_model.values()]


def sampling_noise(differences: Sequence[UnitDifference]) -> float:
    """What samples alone make of a top unit's difference: ``sampling_se``, averaged as units are, root mean square."""
    by_model: dict[int, list[float]] = {}
    for d in differences:
        by_model.setdefault(d.unit.pretraining_seed, []).append(d.sampling_se**2)
    models = list(by_model.values())
    variances = models[0] if len(models) == 1 else [np.mean(m) / len(m) for m in models]
    return float(np.sqrt(np.mean(variances))) if variances else float("nan")


def by_luck(
    sd: Float[np.ndarray, "*shape"], sampling_se: Float[np.ndarray, "*shape"], num_units: int
) -> Bool[np.ndarray, "*shape"]:
    """Whether units agree more closely than in one case out of twenty, even if nothing but samples made them differ.

    The spread over units contains the samples' noise, so sd²(n - 1)/se² is at least as large as a chi-square. What lies
    in its lowest twentieth is an accident: the interval is too short.
    """
    df = num_units - 1
    return sd**2 * df < stats.chi2.ppf(0.05, df) * sampling_se**2


def over_units(values: Mapping[Unit, float]) -> Estimate:
    """The estimate over top units."""
    return estimate(top_units(values) if values else [])


def within_models(values: Mapping[Unit, float]) -> Estimate:
    """The mean over these pretrained models, each counting alike, with training seeds as the units: nothing is said of other models.

    The deviation is that of seeds around their model's mean, pooled; its degrees of freedom are seeds minus models. It answers what three models
    cannot: is there an effect at all on any model like these, where ``over_units`` asks about their family. Every model needs as many seeds, at least two.
    """
    by_model: dict[int, list[float]] = {}
    for unit in sorted(values):
        by_model.setdefault(unit.pretraining_seed, []).append(values[unit])
    groups = list(by_model.values())
    if not groups:
        return estimate([])
    average = float(np.mean([np.mean(group) for group in groups]))
    count = len(values)
    if len(set(map(len, groups))) > 1 or len(groups[0]) < 2:
        note = "models have not two or more training seeds each, as many for all: no interval"
        return Estimate(average, float("nan"), count, note, len(groups))
    residuals = np.concatenate([np.array(group) - np.mean(group) for group in groups])
    rounding = ROUNDING * max(1.0, *map(abs, values.values()))
    if np.abs(residuals).max() <= rounding:
        return estimate(list(values.values()))
    sd = float(np.sqrt((residuals**2).sum() / (count - len(groups))))
    return Estimate(average, sd, count, None, len(groups))


def family_claim(units: Sequence[Unit]) -> bool:
    """True when there are enough pretrained models to speak of their family."""
    return len({unit.pretraining_seed for unit in units}) >= UNITS_FOR_FAMILY_CLAIM


class Adjusted(NamedTuple):
    """Holm's answer for one comparison."""

    p: float
    level: float
    """One-sided level of the bound to show beside it: the bound is above 0 exactly when ``p`` < alpha."""


def holm(p_values: Sequence[float], alpha: float) -> list[Adjusted]:
    """Holm (1979), step-down: p of rank i is multiplied by m - i + 1 and made monotone.

    The level of rank i is alpha/(m - i + 1), but after the first comparison that fails it stays where it failed. A missing p value
    (NaN) counts as 1: a run that is missing buys the others nothing.
    """
    m = len(p_values)
    p_values = [1.0 if np.isnan(p) else p for p in p_values]
    found: list[Adjusted | None] = [None] * m
    adjusted, level, failed = 0.0, alpha, False
    for rank, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
        adjusted = min(1.0, max(adjusted, (m - rank) * p_values[index]))
        level = level if failed else alpha / (m - rank)
        failed = failed or adjusted >= alpha
        found[index] = Adjusted(adjusted, level)
    return [item for item in found if item is not None]


def intersection_union(versus_placebo: float, versus_base: float) -> float:
    """One p value of "above the placebo and above the base": the larger one (Berger 1982); NaN when either is missing."""
    return float(np.maximum(versus_placebo, versus_base))


def verdict(
    versus_placebo: Estimate, p_both: float, alpha: float, margin: float
) -> tuple[Outcome, str | None]:
    """The verdict and, where there is none to give, the reason.

    superior: ``p_both`` (against placebo and base, Holm-adjusted if primary) < alpha; inferior: upper 95 % bound against the placebo below 0;
    equivalent: 90 % interval within ± margin (two one-sided tests at 5 %); else inconclusive.
    """
    if versus_placebo.note is not None:
        return "inconclusive", versus_placebo.note
    if p_both < alpha:
        return "superior", None
    if t_interval(versus_placebo, 0.95)[1] < 0:
        return "inferior", None
    low, high = t_interval(versus_placebo, 0.90)
    if -margin <= low and high <= margin:
        return "equivalent", None
    return "inconclusive", None


def power(effect: float, sd: float, num_units: int, alpha: float) -> float:
    """Probability that a one-sided t test at ``alpha`` finds a true mean ``effect``: 1 - F(t_crit), noncentral t."""
    df = num_units - 1
    return float(stats.nct.sf(stats.t.isf(alpha, df), df, effect / sd * np.sqrt(num_units)))


def mde(sd: float, num_units: int, alpha: float, m: int = 1, wanted: float = 0.8) -> float:
    """Minimum detectable effect: the true mean found with probability ``wanted`` at the strictest level, alpha/m.

    ``sd`` is the standard deviation of a unit difference: planned before the run, observed after it. NaN below two units, 0
    without spread.
    """
    if num_units < 2 or np.isnan(sd):
        return float("nan")
    if sd == 0:
        return 0.0
    return sd * _detectable_ratio(num_units, alpha / m, wanted)


@lru_cache
def _detectable_ratio(num_units: int, level: float, wanted: float) -> float:
    """The minimum detectable effect in standard deviations."""
    # Solved in units of sd/√n: the critical t with room on both sides, since with 1 df it is in the hundreds.
    units = float(np.sqrt(num_units))
    critical = float(stats.t.isf(level, num_units - 1))
    solution = optimize.root_scalar(
        lambda x: power(x / units, 1.0, num_units, level) - wanted,
        bracket=(0.0, 20 * critical + 20),
    )
    return float(solution.root) / units
