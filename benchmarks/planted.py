"""Simulated evaluations with a known effect, as noisy as a record says that real ones are. No model, no torch.

A run's chance to solve a problem is a logit: the problem's (from the record's base), the effect, a shift of the whole run,
and a shift of this run on this problem. Samples are drawn from it with noise that runs of a unit partly share, as
common random numbers do. What comes out has the form that evaluations have, and goes through the same analysis.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from controlarm import seeds
from controlarm.analysis.contrasts import UnitDifference, unit_differences
from controlarm.analysis.metrics import PerSample
from controlarm.protocol import Unit

Graded = Mapping[Unit, PerSample]
"""One arm of one family: samples of every problem, by unit; 1 right, 0 not, NaN unknown."""


class Noise(NamedTuple):
    """What a record shows of how two runs of one unit differ when their rewards say the same."""

    share: np.ndarray
    """[model, problem] of the base's samples that are right, kept off 0 and 1."""
    num_samples: int
    sd: float
    """Standard deviation of a unit difference: all of the following together."""
    problem_se: float
    """Of one unit's difference over problems, root mean square over units: samples, and what runs do to single problems."""
    sampling_se: float
    """Of one unit's difference over samples alone."""


def noise(differences: list[UnitDifference], base: Graded) -> Noise:
    """Read it off the differences of two arms that pay the same, and their base."""
    models: dict[int, list[PerSample]] = {}
    for unit, grid in sorted(base.items()):
        models.setdefault(unit.pretraining_seed, []).append(grid)
    pooled = [np.concatenate(grids, axis=1) for grids in models.values()]
    return Noise(
        share=np.array([(np.nansum(g, axis=1) + 0.5) / (g.shape[1] + 1) for g in pooled]),
        num_samples=next(iter(base.values())).shape[1],
        sd=float(np.std([d.difference for d in differences], ddof=1)),
        problem_se=root_mean_square([d.problem_se for d in differences]),
        sampling_se=root_mean_square([d.sampling_se for d in differences]),
    )


def root_mean_square(values: list[float]) -> float:
    """Of standard errors, to speak of several at once."""
    return float(np.sqrt(np.mean(np.square(values))))


def collapse(chance: np.ndarray, drop: float) -> np.ndarray:
    """The shift of a run: one in four loses ``drop``, the others nothing."""
    return np.where(chance < 0.25, -drop, 0.0)


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "normal": lambda chance: special.ndtri(chance),
    "skewed": lambda chance: 1 + np.log(chance),  # an exponential tail towards loss
    "heavy": lambda chance: special.stdtrit(3, chance) / np.sqrt(3),  # Student's t with 3 df
}
"""Quantile functions of a run's shift with mean 0 and standard deviation 1."""


class World(NamedTuple):
    """Where effects are planted: how runs scatter, on the scale of logits."""

    noise: Noise
    placebo_shift: float
    """Standard deviation of the placebo runs' shift, normal."""
    arm_shift: float
    shape: str
    """Of the arm's shift: a key of ``SHAPES``."""
    problem_shift: float
    """Standard deviation of a run's shift on one problem."""
    coupling: float
    """Share of samples that two runs of a unit draw with the same noise."""
    drop: float = 0.0
    """What one arm's run in four loses beside."""
    spread: float = 0.0
    """Standard deviation of the effect over problems; where it is not 0, every comparison has problems of its own."""


def as_measured(found: Noise) -> World:
    """Runs scatter as in the record: its variance components as logits, to first order."""
    slope = found.share * (1 - found.share)
    common = max(0.0, found.sd**2 - found.problem_se**2)
    single = max(0.0, found.problem_se**2 - found.sampling_se**2) * slope.shape[1]
    shift = float(np.sqrt(common / 2) / slope.mean())
    on_problem = float(np.sqrt(single / 2 / np.square(slope).mean()))
    return World(found, shift, shift, "normal", on_problem, _coupling(found, shift, on_problem))


def _coupling(found: Noise, shift: float, on_problem: float) -> float:
    """So much that samples have the record's share in a difference's variance.

    Of chances a and b, the difference of two samples has the variance a(1 - a) + b(1 - b) where their noise is apart, and less by
    2(min(a, b) - ab) where it is the same.
    """
    size = 2, 200, *found.share.shape
    draw = seeds.generator("coupling").standard_normal((2, *size))
    run = shift * draw[0][..., :1, :1] + on_problem * draw[1]
    a, b = special.expit(special.logit(found.share) + run)
    apart = np.mean(a * (1 - a) + b * (1 - b))
    same = np.mean(2 * (np.minimum(a, b) - a * b))
    drawn = found.share.shape[1] * found.num_samples
    return float(np.clip((apart - found.sampling_se**2 * drawn) / same, 0, 1))


def wide(found: Noise, sd: float, shape: str) -> World:
    """The arm's runs scatter so much more that a unit difference has this standard deviation."""
    world = as_measured(found)
    slope = found.share * (1 - found.share)
    extra = np.sqrt(max(0.0, sd**2 - found.problem_se**2)) / slope.mean()
    return world._replace(placebo_shift=0.0, arm_shift=float(extra), shape=shape)


def collapsing(found: Noise, points: float) -> World:
    """Runs as measured, but that one arm's run in four loses so much accuracy."""
    logits = special.logit(found.share)

    def lost(drop: float) -> float:
        return float(np.mean(found.share - special.expit(logits - drop)))

    drop = optimize.root_scalar(lambda x: lost(x) - points, bracket=(0, 50)).root
    return as_measured(found)._replace(drop=float(drop))


def varying(found: Noise, spread: float) -> World:
    """Runs as measured; an effect that differs between problems by this standard deviation of accuracy, and other problems each time."""
    slope = found.share * (1 - found.share)
    return as_measured(found)._replace(spread=float(spread / np.sqrt(np.square(slope).mean())))


QUANTILES = (np.arange(2000) + 0.5) / 2000


def planted(world: World, effect: float) -> float:
    """The logit whose expected gain in accuracy over the placebo is ``effect``; runs' shifts included."""
    logits = special.logit(world.noise.share).ravel()
    orders = (seeds.generator("planted", i).permutation(QUANTILES) for i in range(3))
    lost, single, varied = (order[:, None] for order in orders)
    run = QUANTILES[:, None]
    on_problem = world.problem_shift * special.ndtri(single)
    arm = world.arm_shift * SHAPES[world.shape](run) + collapse(lost, world.drop) + on_problem
    arm = arm + world.spread * special.ndtri(varied)
    placebo = world.placebo_shift * special.ndtri(run) + on_problem
    null = special.expit(logits + placebo).mean()

    def gain(logit: float) -> float:
        return float(special.expit(logits + logit + arm).mean() - null)

    return float(optimize.root_scalar(lambda x: gain(x) - effect, bracket=(-20, 20)).root)


class Simulated(NamedTuple):
    """Comparisons of ``num_units`` units each: every unit's difference from the placebo and from the base."""

    placebo: list[list[UnitDifference]]
    base: list[list[UnitDifference]]


def simulate(
    world: World, logit: float, num_units: int, num_comparisons: int, rng: np.random.Generator
) -> Simulated:
    """Evaluations of fresh runs in every comparison, analysed as a record's are."""
    found = Simulated([], [])
    units = [Unit(model, 1) for model in range(num_units)]
    for _ in range(num_comparisons):
        arm, placebo, base = evaluations(world, logit, num_units, rng)
        graded = dict(zip(units, arm, strict=True))
        for other, into in ((placebo, found.placebo), (base, found.base)):
            into.append(unit_differences(graded, dict(zip(units, other, strict=True))))
    return found


def evaluations(
    world: World, logit: float, num_units: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples [unit, problem, sample] of arm, placebo and base."""
    share = world.noise.share[np.arange(num_units) % len(world.noise.share)]
    problems = share.shape[1]
    effect = np.full(problems, logit)
    if world.spread:
        share = share[:, rng.integers(problems, size=problems)]
        effect = effect + world.spread * rng.standard_normal(problems)
    logits = special.logit(share)
    chance = rng.random(num_units)
    arm = world.arm_shift * SHAPES[world.shape](rng.random(num_units))
    arm = arm + collapse(chance, world.drop)
    placebo = world.placebo_shift * rng.standard_normal(num_units)
    single = world.problem_shift * rng.standard_normal((2, num_units, problems))
    policies = np.stack(
        [
            logits + effect + arm[:, None] + single[0],
            logits + placebo[:, None] + single[1],
            logits,
        ]
    )
    # A sample takes the common noise or its own; two policies both take the common one with probability `coupling`.
    size = num_units, problems, world.noise.num_samples
    common, own = rng.random(size), rng.random((3, *size))
    shared = rng.random((3, *size)) < np.sqrt(world.coupling)
    drawn = np.where(shared, common, own) < special.expit(policies)[..., None]
    return tuple(drawn.astype(float))
