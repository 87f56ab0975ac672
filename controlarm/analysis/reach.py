"""Does an arm solve what its base cannot, or only what its base solves anyway with more tries? One answer a case, of the trial's own samples.

The unit is the problem: curves are averaged over the training units first, so a band holds for these checkpoints on further problems, and says nothing of
further training runs. Base and arm are compared on the units that both have.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from controlarm.analysis import bands, boundary, coverage
from controlarm.analysis.bands import Band, Crossover
from controlarm.analysis.boundary import Tries
from controlarm.analysis.coverage import SamplingGap, Support, Table
from controlarm.analysis.folder import NO_DERIVATION, RIGHT, UNKNOWN, VALID, Completions
from controlarm.protocol import Unit

Curves = Float[np.ndarray, "problem k"]
Side = Literal["above", "below", "not told apart"]

REPLICATES = 1000
"""Draws of a band's bootstrap: a report has a band a case, and these move its bounds by some 3 % of its width."""


def by_answer(samples: Completions) -> Tries:
    """Right answers, strict; samples of unknown verdict are not drawn."""
    return boundary.tries(samples.strict == RIGHT, samples.strict != UNKNOWN)


def by_derivation(samples: Completions) -> Tries:
    """Valid derivations, whether boxed or not; what cannot be followed is not valid."""
    return boundary.tries(samples.derived == VALID)


def has_derivations(parts: Iterable[Completions]) -> bool:
    """Whether any derivation could be followed. Where none can, as with problems of another kind, that none is valid says nothing."""
    return any((part.derived != NO_DERIVATION).any() for part in parts)


def over_models(curves: Mapping[Unit, Curves]) -> Curves:
    """Mean over units where there is a value, a model's training seeds first, as in ``contrasts.top_units``; NaN where there is none."""
    by_model: dict[int, list[Curves]] = {}
    for unit in sorted(curves):
        by_model.setdefault(unit.pretraining_seed, []).append(curves[unit])
    return _mean([_mean(own) for own in by_model.values()])


def _mean(members: Sequence[Curves]) -> Curves:
    stacked = np.stack(members)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))  # fmt: skip


def share_interval(
    part: int, whole: int, num_units: int, level: float = 0.95
) -> tuple[float, float]:
    """Clopper and Pearson's interval of ``part`` of ``whole``, pairs of a problem and a unit, where a problem is evidence once.

    Units share their problems, so pairs are no independent trials: the interval is that of the same share of ``whole/num_units`` problems (an effective sample
    size, Korn & Graubard 1998), ``coverage.share`` where there is one unit. NaN of nothing.
    """
    problems = whole / num_units
    count = problems * (part / whole) if whole else 0.0
    return coverage.clopper_pearson(count, problems, level)


class Comparison(NamedTuple):
    """An arm against its base on the same units, problems and numbers of tries."""

    num_units: int
    num_samples: int
    band: Band
    """Of arm - base, mean over units; unit problem."""
    crossover: Crossover
    same: bool
    """Every problem is solved exactly as often by both, in every unit."""
    solvable: Table
    """Pairs of a problem and a unit by who has any right sample, summed over units."""
    without_all_samples: int
    """Pairs left out of ``solvable``: a verdict is unknown, so one side has fewer tries."""
    support: Support
    gap: SamplingGap
    new_to_trained: float
    """Pairs that one half of the base's tries miss and as many of the arm's others solve; NaN with fewer than two samples."""
    new_to_base: float
    """The same of the base's own other half: what sampling alone makes new."""


def compare(
    base: Mapping[Unit, Completions],
    trained: Mapping[Unit, Completions],
    ks: Sequence[int],
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
) -> Comparison | None:
    """Everything about one case; None without a unit that has both. ``ks`` increase.

    Exchanging base and arm changes the signs of the difference and of NSCR, and the places of what only one of them solves.
    """
    units = sorted(base.keys() & trained.keys())
    if not units:
        return None
    num_samples = base[units[0]].strict.shape[1]
    before: dict[Unit, Curves] = {}
    after: dict[Unit, Curves] = {}
    once: dict[Unit, Curves] = {}
    cells = np.zeros(4, int)
    left_out, new_to_trained, new_to_base = 0, 0.0, 0.0
    same = True
    for unit in units:
        ours, theirs = by_answer(base[unit]), by_answer(trained[unit])
        curves = [boundary.pass_curves(counts, ks) for counts in (ours, theirs)]
        known = ~np.isnan(curves[0] + curves[1])
        before[unit], after[unit] = (np.where(known, c, np.nan) for c in curves)
        once[unit] = boundary.pass_curves(theirs, [1])
        same = same and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        whole = (ours.num_samples == num_samples) & (theirs.num_samples == num_samples)
        left_out += int((~whole).sum())
        own = [
            coverage.solved(Tries(c.num_samples[whole], c.num_right[whole]), num_samples)
            for c in (ours, theirs)
            if whole.any()
        ]
        cells += np.array(coverage.table(*own) if own else Table(0, 0, 0, 0))
        trained_new, base_new = _new(base[unit], trained[unit])
        new_to_trained, new_to_base = new_to_trained + trained_new, new_to_base + base_new
    first, second = over_models(before), over_models(after)
    band = bands.difference_band(first, second, ks, level=level, replicates=replicates)
    solvable = Table(*map(int, cells))
    base_at_most, trained_once = (boundary.mean_curve(c) for c in (first, over_models(once)))
    gap = SamplingGap(float(base_at_most[-1]), float(trained_once[0]), int(ks[-1]))
    return Comparison(
        len(units), num_samples, band, bands.crossover(band), same, solvable, left_out, coverage.support(solvable),
        gap, new_to_trained, new_to_base,
    )  # fmt: skip


def _new(base: Completions, trained: Completions) -> tuple[float, float]:
    if base.strict.shape[1] < 2:
        return float("nan"), float("nan")
    found = coverage.nested(base.strict == RIGHT, trained.strict == RIGHT)
    return found.new_to_trained, found.new_to_base


def side(band: Band, at: int) -> Side:
    """Where the difference lies at one of the band's k, by the band."""
    if band.low[at] > 0:
        return "above"
    return "below" if band.high[at] < 0 else "not told apart"


def crossing(where: str, arm: str, found: Comparison) -> str:
    """Whether the base overtakes the arm, in a sentence that names its unit.

    Example: ``coder: the base overtakes python at k = 16 (95 % band over problems: 8 to 32).``
    """
    band, cross = found.band, found.crossover
    first, last = int(band.ks[0]), int(band.ks[-1])
    of = f"{100 * band.level:.0f} % band over problems"
    tried = f"k from {first} to {last}" if first < last else f"k = {first}"
    if found.same:
        return f"{where}: {arm} solves every problem exactly as often as its base."
    if cross.outcome == "established" and cross.interval:
        low, high = cross.interval
        near = low if low == high else f"{low} to {high}"
        at = cross.estimate if cross.estimate is not None else near
        return f"{where}: the base overtakes {arm} at k = {at} ({of}: {near})."
    if cross.outcome == "undetermined" and cross.interval:
        low, high = cross.interval
        near = f"k = {low}" if low == high else f"k = {low} to {high}"
        guess = f", by the estimate at k = {cross.estimate}" if cross.estimate is not None else ""
        return f"{where}: whether the base overtakes {arm} at {tried} is not decided; the {of} admits a crossing at {near}{guess}, and admits none."
    at_first, at_last = side(band, 0), side(band, -1)
    ends = f"{_lies(at_first)} at k = {first}"
    if first < last:
        ends += f" and {'' if at_first == at_last else _lies(at_last) + ' '}at k = {last}"
    return f"{where}: no crossing of {arm} and its base at {tried}; {arm} {ends} ({of})."


def _lies(place: Side) -> str:
    return "is not told apart from it" if place == "not told apart" else f"lies {place} it"
