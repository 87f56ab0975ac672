"""One example may be enough to train on: which one, when it has nothing more to teach, and what still comes after that.

The historical variance score (arXiv:2504.20571) ranks problems by how much a policy's accuracy on them varied over
an earlier training run. Post-saturation generalisation is its name for a held-out gain after the training problem is solved.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from controlarm import files
from controlarm.analysis.contrasts import Estimate, over_units, t_interval
from controlarm.protocol import Unit

Id = TypeVar("Id", int, str)

THRESHOLD = 0.95
"""Training accuracy that counts as saturated."""

WINDOW = 10
"""Points of the training curve, one after another, that must reach the threshold."""

nan = float("nan")


def history(run: Path) -> dict[str, list[float]]:
    """Training accuracy of each problem, epoch by epoch, from the rollouts that a run kept (a run folder's ``rollouts/step-*.parquet``).

    A problem's e-th value is the mean strict verdict of its rollouts in the e-th step that asked it; samples of unknown verdict are left out, and a step
    that has no other is NaN. Archives hold no rollouts: this needs the run folder.

    Raises:
        ValueError: a step's rollouts were not kept, so that epochs would be missing.
        DamagedFileError: a file is not what was written.
    """
    paths = sorted((run / "rollouts").glob("step-*.parquet"))
    kept = [int(path.stem.removeprefix("step-")) for path in paths]
    if not kept or kept != list(range(1, len(kept) + 1)):
        raise ValueError(
            f"{run / 'rollouts'}: holds the rollouts of {len(kept)} steps, and not of every one from 1 on; an accuracy history needs "
            "a run folder whose trial says logging.rollouts_every = 1"
        )
    found: dict[str, list[float]] = {}
    for path in paths:
        table = files.read_table(path, ("problem_id", "strict"))
        groups: dict[str, list[str]] = {}
        columns = (table[name].to_pylist() for name in ("problem_id", "strict"))
        for problem_id, verdict in zip(*columns, strict=True):
            groups.setdefault(problem_id, []).append(verdict)
        for problem_id, verdicts in groups.items():
            known = [verdict == "right" for verdict in verdicts if verdict != "unknown"]
            found.setdefault(problem_id, []).append(statistics.fmean(known) if known else nan)
    return found


class Example(NamedTuple):
    """One problem's place in the ranking. NaN: no epoch has an accuracy."""

    problem_id: int | str
    variance: float
    """Over epochs, divisor their number: the historical variance score."""
    mean_accuracy: float
    num_epochs: int
    """Epochs with an accuracy."""


def rank(accuracies: Mapping[Id, Sequence[float]]) -> list[Example]:
    """Problems by descending historical variance score; π_j of the paper is entry j - 1.

    Ties go to the smaller id, integers by value and strings by character. Sums are exact (rational), so the order of epochs cannot make or break a tie. The
    standard deviation gives the same order; the unbiased variance does not, where problems were seen in unequal numbers of epochs. An epoch without an
    accuracy (NaN) is left out; a problem without any epoch is ranked last.

    Args:
        accuracies: of each problem, mean accuracy of its rollouts in each epoch, in [0, 1]; lists may differ in length.

    Raises:
        ValueError: an accuracy outside [0, 1].
    """
    found = []
    for problem_id in sorted(accuracies):
        known = [float(value) for value in accuracies[problem_id] if value == value]
        if not all(0 <= value <= 1 for value in known):
            raise ValueError(f"accuracies of problem {problem_id} must be shares in [0, 1]; found {min(known)} to {max(known)}")  # fmt: skip
        variance = statistics.pvariance(known) if known else nan
        found.append(Example(problem_id, variance, statistics.fmean(known) if known else nan, len(known)))  # fmt: skip
    # Sorting is stable: ties stay in the order of their ids.
    return sorted(found, key=lambda e: -e.variance if e.num_epochs else np.inf)


def rank_over_models(histories: Iterable[Mapping[Id, Sequence[float]]]) -> list[Example]:
    """Problems by the mean of their historical variance scores over the runs of several models: one example for all of them.

    Variance is taken within each run, so that models that merely differ in level do not make a problem vary. Ties go to the smaller id; ``num_epochs`` is their sum.

    Raises:
        ValueError: no run, runs of other problems, or a problem without an accuracy in one of them.
    """
    ranked = [{e.problem_id: e for e in rank(each)} for each in histories]
    if not ranked or any(each.keys() != ranked[0].keys() for each in ranked):
        raise ValueError(
            f"{len(ranked)} runs were given; a ranking over models needs at least one, and the same problems in all"
        )
    found = []
    for problem_id in ranked[-1]:
        own = [each[problem_id] for each in ranked]
        if not all(e.num_epochs for e in own):
            raise ValueError(f"problem {problem_id} has no accuracy in one of the runs; train long enough to meet every problem")  # fmt: skip
        found.append(Example(
            problem_id, statistics.fmean(e.variance for e in own), statistics.fmean(e.mean_accuracy for e in own),
            sum(e.num_epochs for e in own),
        ))  # fmt: skip
    return sorted(found, key=_by_variance)


def _by_variance(e: Example) -> tuple[float, int | str]:
    return (-e.variance, e.problem_id)


def example(accuracies: Mapping[Id, Sequence[float]], j: int) -> Example:
    """π_j, counted from 1: the problem with the j-th largest historical variance score."""
    if not 1 <= j <= len(accuracies):
        raise ValueError(f"there are {len(accuracies)} examples; ask for one from 1 to {len(accuracies)}, not {j}")  # fmt: skip
    return rank(accuracies)[j - 1]


def saturation_step(
    steps: Float[np.ndarray, " step"],
    accuracy: Float[np.ndarray, " step"],
    threshold: float = THRESHOLD,
    window: int = WINDOW,
) -> float:
    """First step from which training accuracy is at least ``threshold`` at ``window`` points in succession; NaN when there is none.

    A point without a value (NaN) does not show saturation, and a curve that ends before the window is full is not saturated.
    """
    if window < 1:
        raise ValueError(f"a window holds at least 1 point, not {window}")
    if len(accuracy) < window:
        return nan
    high = accuracy >= threshold  # NaN compares as False
    full = np.lib.stride_tricks.sliding_window_view(high, window).all(axis=1)
    return float(steps[full.argmax()]) if full.any() else nan


def post_saturation_gain(
    saturated: float,
    steps: Float[np.ndarray, " evaluation"],
    held_out: Float[np.ndarray, " evaluation"],
) -> float:
    """Held-out metric at the last evaluation minus at the first one at or after the saturation step.

    Nothing that was gained before saturation is counted: between two evaluations the later one stands. NaN when training never saturated
    (``saturated`` is NaN), or when only the last evaluation follows, or when either value is missing.
    """
    after = np.flatnonzero(steps >= saturated)  # NaN compares as False
    if len(after) < 2:
        return nan
    return float(held_out[after[-1]] - held_out[after[0]])


class PostSaturation(NamedTuple):
    """Saturation and what came after it, over units. Units that never saturate are out of both means and counted."""

    step: Estimate
    step_interval: tuple[float, float]
    """95 %, t over top units."""
    gain: Estimate
    gain_interval: tuple[float, float]
    """95 %, t over top units."""
    num_units: int
    num_saturated: int
    num_gains: int
    """Saturated units with a later evaluation to compare with."""


def over_saturated_units(
    saturated: Mapping[Unit, float], gains: Mapping[Unit, float]
) -> PostSaturation:
    """Estimates of ``saturation_step`` and ``post_saturation_gain``, one number a unit, NaN where there is none.

    The gain is that of runs that saturate: whether the others would have gained is not known, so read it beside how many did.
    """
    if saturated.keys() != gains.keys():
        raise ValueError(
            "every unit needs a saturation step and a gain; write NaN where there is none"
        )
    step_known = {unit: value for unit, value in saturated.items() if not np.isnan(value)}
    gain_known = {unit: value for unit, value in gains.items() if not np.isnan(value)}
    step, gain = over_units(step_known), over_units(gain_known)
    return PostSaturation(
        step, t_interval(step, 0.95), gain, t_interval(gain, 0.95),
        len(saturated), len(step_known), len(gain_known),
    )  # fmt: skip
