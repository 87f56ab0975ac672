"""What happened during training, read from the journals: curves, what each arm paid for, how the labels were."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from controlarm.analysis.folder import Run
from controlarm.analysis.metrics import mean

TRAINING_CURVES: dict[str, str] = {
    "reward": "reward", "entropy": "entropy", "train_accuracy": "accuracy",
    "train_code_share": "code_share", "clip_low": "clip_low", "clip_high": "clip_high",
    "grad_norm": "grad_norm", "equal_groups": "equal_groups", "num_tokens": "num_tokens",
    "sampler_gap_max": "sampler_gap_max",
}  # fmt: skip
"""Name in the report and column of the journal; ``train_`` sets apart what is also measured on held-out problems."""

MOST_POINTS = 60
"""Points of a training curve in the report; longer journals are averaged over windows."""


class Curve(NamedTuple):
    """A curve: each value is the mean over the steps since the previous point."""

    steps: list[int]
    values: list[float]


def training_curve(run: Run, name: str, most: int = MOST_POINTS) -> Curve:
    """A column of the journal, thinned to at most ``most`` points. NaN (null) stays a gap."""
    steps, values = run.journal["step"], run.journal[TRAINING_CURVES[name]]
    if len(steps) <= most:
        return Curve([int(s) for s in steps], [float(v) for v in values])
    windows = np.array_split(np.arange(len(steps)), most)
    return Curve([int(steps[w[-1]]) for w in windows], [mean(values[w]) for w in windows])


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

    def over_runs(name: str) -> float:
        return mean(np.array([mean(run.journal[name]) for run in runs], dtype=float))

    return Paid(
        reward=over_runs("reward"),
        reward_code=over_runs("reward_code"),
        reward_words=over_runs("reward_words"),
        tpr=over_runs("tpr"),
        fpr=over_runs("fpr"),
        equal_groups=over_runs("equal_groups"),
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
