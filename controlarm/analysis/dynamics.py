"""What happened during training, read from the journals: curves and their shapes, entropy, clipping, cost, what each arm paid for, how the labels were."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from controlarm.analysis import laws, saturation, transitions
from controlarm.analysis.folder import Run
from controlarm.analysis.laws import EntropyLaw
from controlarm.analysis.metrics import METRICS, mean, per_problem
from controlarm.analysis.saturation import PostSaturation
from controlarm.analysis.transitions import FalseDetections, Transition, Verdict
from controlarm.protocol import Unit

TRAINING_CURVES: dict[str, str] = {
    "reward": "reward", "entropy": "entropy", "answer_entropy": "answer_entropy",
    "token_probability": "token_probability", "train_accuracy": "accuracy",
    "train_code_share": "code_share", "clip_low": "clip_low", "clip_high": "clip_high",
    "grad_norm": "grad_norm", "equal_groups": "equal_groups", "num_tokens": "num_tokens",
    "sampler_gap_max": "sampler_gap_max", "value_loss": "value_loss",
}  # fmt: skip
"""Name in the report and column of the journal; ``train_`` sets apart what is also measured on held-out problems."""

MAY_CHANGE = ("train_code_share", "train_accuracy")
"""Curves whose shape is told."""

BANDS = ("rare", "open", "likely", "sure")
"""Of a token's probability before the update; ``docs/metrics.md`` has their bounds."""

ROUNDING_OF_ENTROPY = 1e-6
"""An entropy of nothing may come out this much below 0."""

nan = float("nan")

MOST_POINTS = 60
"""Points of a training curve in the report; longer journals are averaged over windows."""

MOST_IN_ALL = 20_000
"""Points of one metric in the report, all runs together: they are most of its size."""


def points_for(num_runs: int) -> int:
    """Points of each training curve in a report of so many runs.

    >>> points_for(63), points_for(500)
    (60, 40)
    """
    return max(2, min(MOST_POINTS, MOST_IN_ALL // max(num_runs, 1)))


class Curve(NamedTuple):
    """A curve: each value is the mean over the steps since the previous point."""

    steps: list[int]
    values: list[float]


def training_curve(run: Run, name: str, most: int = MOST_POINTS) -> Curve:
    """A column of the journal, thinned to at most ``most`` points. NaN (null) stays a gap."""
    steps, values = run.journal["step"], run.journal[TRAINING_CURVES[name]]
    if len(steps) <= most:
        return Curve([int(s) for s in steps], [float(v) for v in values])
    # As np.array_split: the first windows are one longer. All windows of a length are averaged at once.
    length, longer = divmod(len(steps), most)
    ends, means = [], []
    for first, count, size in (
        (0, longer, length + 1),
        (longer * (length + 1), most - longer, length),
    ):
        part = slice(first, first + count * size)
        ends += steps[part].reshape(count, size)[:, -1].astype(int).tolist()
        windows = values[part].reshape(count, size)
        whole = np.logical_not(np.isnan(windows).any(axis=1))
        found = np.array(
            [0.0 if w else mean(window) for w, window in zip(whole, windows, strict=True)]
        )
        found[whole] = windows[whole].mean(axis=1)
        means += found.tolist()
    return Curve(ends, means)


class Shapes(NamedTuple):
    """How one curve changed in the runs of a case."""

    num_runs: int
    verdicts: dict[Verdict, int]
    change_point: float
    """Median over the runs whose verdict is step or logistic; NaN where none is."""
    first_change: float
    last_change: float


def _points(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A curve for the analysis of its shape; a value that is not finite is missing."""
    curve = training_curve(run, name)
    values = np.array(curve.values, dtype=float)
    return np.array(curve.steps, dtype=float), np.where(np.isfinite(values), values, nan)


def shapes(runs: Sequence[Run], name: str) -> Shapes:
    """Verdict on each run's curve (at most ``MOST_POINTS`` points: a longer journal tells the change-point no finer than its windows)."""
    found: list[Transition] = [transitions.transition(*_points(run, name)) for run in runs]
    changes = [t.change_point for t in found if t.verdict in ("step", "logistic")]
    kinds: tuple[Verdict, ...] = ("constant", "linear", "step", "logistic", "unknown")
    verdicts: dict[Verdict, int] = {k: sum(t.verdict == k for t in found) for k in kinds}
    if not changes:
        return Shapes(len(runs), verdicts, nan, nan, nan)
    return Shapes(len(runs), verdicts, float(np.median(changes)), min(changes), max(changes))


def false_shapes(placebo: Sequence[Run], name: str) -> FalseDetections:
    """How often the placebo's runs are said to change. A placebo can really change, as by a shift of strategy: then this is too high."""
    return transitions.false_detections([_points(run, name) for run in placebo])


class EntropyFits(NamedTuple):
    """The entropy law in the runs of a case; medians over the runs where reward rose as entropy fell. Undefined numbers are NaN."""

    num_runs: int
    num_fitted: int
    """Runs with two distinct entropies and rewards: any law fits what is constant."""
    num_at_bound: int
    """Fitted runs where reward did not rise as entropy fell: the law does not hold, and no median counts them."""
    a: float
    b: float
    ceiling: float
    rmse: float
    r2: float
    skill: float
    """Of the forecast from the first third of the steps, median over the same runs."""


def entropy_fits(runs: Sequence[Run]) -> EntropyFits:
    """Fit R = b - a exp(H) to the whole journal of each run, R what the arm paid."""
    fits: list[tuple[EntropyLaw, float]] = []
    for run in runs:
        entropy, reward = run.journal["entropy"], run.journal["reward"]
        usable = (
            (entropy >= -ROUNDING_OF_ENTROPY)
            & (entropy <= laws.LARGEST_ENTROPY)
            & np.isfinite(reward)
        )
        entropy, reward = np.maximum(entropy[usable], 0.0), reward[usable]
        fits.append((laws.entropy_law(entropy, reward), laws.forecast(entropy, reward).skill))
    fitted = [(law, skill) for law, skill in fits if not np.isnan(law.r2)]
    hold = [(law, skill) for law, skill in fitted if not law.at_bound]

    def median(values: Sequence[float]) -> float:
        known = [v for v in values if not np.isnan(v)]
        return float(np.median(known)) if known else nan

    return EntropyFits(
        num_runs=len(runs), num_fitted=len(fitted), num_at_bound=len(fitted) - len(hold),
        a=median([law.a for law, _ in hold]), b=median([law.b for law, _ in hold]),
        ceiling=median([law.ceiling for law, _ in hold]), rmse=median([law.rmse for law, _ in hold]),
        r2=median([law.r2 for law, _ in hold]), skill=median([skill for _, skill in hold]),
    )  # fmt: skip


def saturated(runs: Sequence[Run], metric: str) -> PostSaturation:
    """When training accuracy saturated and what a held-out metric gained afterwards, over the runs' units."""
    steps: dict[Unit, float] = {}
    gains: dict[Unit, float] = {}
    for run in runs:
        steps[run.unit] = saturation.saturation_step(run.journal["step"], run.journal["accuracy"])
        evaluated = sorted(run.evaluations)
        held_out = [mean(per_problem(METRICS[metric](run.evaluations[s]))) for s in evaluated]
        gains[run.unit] = saturation.post_saturation_gain(
            steps[run.unit], np.array(evaluated, dtype=float), np.array(held_out, dtype=float)
        )
    return saturation.over_saturated_units(steps, gains)


def clipped(runs: Sequence[Run]) -> dict[str, float]:
    """Shares of all tokens by the token's probability before the update: how many, clipped below, clipped above; mean over steps, then runs."""
    return {
        name: _over_runs(runs, name)
        for part in ("prior", "clip_low", "clip_high")
        for name in (f"{part}_{band}" for band in BANDS)
    }


class Cost(NamedTuple):
    """Completions that a case's runs had sampled, and those they trained on."""

    generated: int
    trained: int

    @property
    def cost(self) -> float:
        """Sampled for each one trained on; NaN before the first step."""
        return self.generated / self.trained if self.trained else nan


def cost(runs: Sequence[Run], rollouts_per_step: int) -> Cost:
    """Sums over the steps whose count is known."""
    counts = [run.journal["generated"] for run in runs]
    known = sum(int((~np.isnan(c)).sum()) for c in counts)
    return Cost(round(sum(float(np.nansum(c)) for c in counts)), known * rollouts_per_step)


def _over_runs(runs: Sequence[Run], name: str) -> float:
    return mean(np.array([mean(run.journal[name]) for run in runs], dtype=float))


class Paid(NamedTuple):
    """What a reward paid for, mean over the steps where it is defined, then over runs."""

    reward: float
    reward_code: float
    reward_words: float
    tpr: float
    """Mean reward of completions that are right."""
    fpr: float
    """Mean reward of completions that are not."""
    equal_groups: float
    reward_failures: int
    """Sum."""

    @property
    def youden(self) -> float:
        """J = tpr - fpr (Youden 1950): 1 for the truth, 0 for a reward without information, below 0 for one that punishes it."""
        return self.tpr - self.fpr


def paid(runs: Sequence[Run]) -> Paid:
    """What the arm of these runs paid for."""
    return Paid(
        reward=_over_runs(runs, "reward"),
        reward_code=_over_runs(runs, "reward_code"),
        reward_words=_over_runs(runs, "reward_words"),
        tpr=_over_runs(runs, "tpr"),
        fpr=_over_runs(runs, "fpr"),
        equal_groups=_over_runs(runs, "equal_groups"),
        reward_failures=int(sum(np.nansum(run.journal["reward_failures"]) for run in runs)),
    )


class LabelAudit(NamedTuple):
    """Counts over the training problems of one base model's pseudo-labels."""

    problems: int
    majority_right: int
    majority_missing: int
    incorrect_is_right: int
    near_misses: int


def audit(labels: Sequence[Mapping[str, Any]], gold: Mapping[str, str]) -> LabelAudit:
    """Compare labels with the gold answers, as normalised strings."""
    return LabelAudit(
        problems=len(labels),
        majority_right=sum(
            row["majority"] is not None and row["majority"] == gold.get(row["problem_id"])
            for row in labels
        ),
        majority_missing=sum(row["majority"] is None for row in labels),
        incorrect_is_right=sum(bool(row["incorrect_is_right"]) for row in labels),
        near_misses=sum(bool(row["near_miss"]) for row in labels),
    )
