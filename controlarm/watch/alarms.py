"""What should make somebody look: five faults that a journal shows while there is still time to stop.

An alarm is a condition on the last `WINDOW` steps of a run. It is no verdict: `docs/watch.md` has each definition, and what
it does not see.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view

from controlarm.protocol import Protocol
from controlarm.watch.reader import Watched

WINDOW = 5
"""Steps in succession that a condition is about."""
TRUNCATED = 0.2
"""Share of rollouts without an end: from here on what is learnt is mostly to be shorter, or nothing."""
SAMPLER_GAP = 0.05
"""Mean |log-probability of trainer - of sampler|, nats a token: a quarter of the usual clip range is not the policy's doing."""

Journal = Mapping[str, Float[np.ndarray, " step"]]
Steps = Bool[np.ndarray, " step"]


def _every(condition: Steps) -> Steps:
    """Where the condition has held for a whole window."""
    found = np.zeros(len(condition), dtype=bool)
    if condition.any() and len(condition) >= WINDOW:
        found[WINDOW - 1 :] = sliding_window_view(condition, WINDOW).all(axis=1)
    return found


def _at_least(values: Float[np.ndarray, " step"], bound: float) -> Steps:
    """Where the mean over a whole window reaches a bound; a missing value makes no alarm."""
    found = np.zeros(len(values), dtype=bool)
    if (values >= bound).any() and len(values) >= WINDOW:
        found[WINDOW - 1 :] = sliding_window_view(values, WINDOW).mean(axis=1) >= bound
    return found


def constant_reward(journal: Journal) -> Steps:
    """Every rollout of a step was paid the same."""
    return _every(journal["reward_sd"] == 0)


def equal_groups(journal: Journal) -> Steps:
    """Every group was paid alike, though not all groups the same."""
    return np.logical_and(
        _every(journal["equal_groups"] == 1), np.logical_not(constant_reward(journal))
    )


def truncation(journal: Journal) -> Steps:
    """Many rollouts reached the longest length without an end."""
    return _at_least(journal["truncated_share"], TRUNCATED)


def sampler_gap(journal: Journal) -> Steps:
    """Sampler and trainer do not agree on the probabilities of what was sampled."""
    return _at_least(journal["sampler_gap_mean"], SAMPLER_GAP)


def failing_reward(journal: Journal) -> Steps:
    """A reward raised, or was no number, in the window or what there is of it."""
    failed = journal["reward_failures"] > 0
    if not failed.any():
        return failed
    before = np.concatenate([np.zeros(WINDOW - 1, dtype=bool), failed])
    return np.array(sliding_window_view(before, WINDOW).any(axis=1))


ALARMS: dict[str, tuple[Callable[[Journal], Steps], str, str]] = {
    "failing_reward": (failing_reward, "failing reward", "rewards raised or were no number; those rollouts teach nothing"),
    "constant_reward": (constant_reward, "constant reward", "all rollouts of a step were paid the same, so nothing can be learnt"),
    "equal_groups": (equal_groups, "equal groups", "no group had two different rewards, so nothing can be learnt within groups"),
    "truncation": (truncation, "truncation", f"{TRUNCATED:.0%} of the rollouts or more reached the longest length"),
    "sampler_gap": (sampler_gap, "sampler gap", f"sampler and trainer differ by {SAMPLER_GAP:g} nats a token or more"),
}  # fmt: skip
"""Name → condition, name in words, what it says; the worst first."""
BY_DESIGN = ("constant_reward", "equal_groups")
"""Alarms that are no news of an arm that is meant to teach nothing."""


class Alarm(NamedTuple):
    """A condition that held in some runs of an arm."""

    name: str
    family: str
    recipe: str
    arm: str
    num_runs: int
    """In which it held at some time."""
    num_on: int
    """In which it holds at the last step."""
    of: int
    """Runs that have begun."""
    first: int
    last: int
    """Steps at which the latest stretch of it began and ended, over those runs."""


def teaches_nothing(protocol: Protocol, family: str, arm: str) -> bool:
    """Whether equal rewards are what the protocol says to expect: a constant arm, or a control that leaves the weights unchanged."""
    pays = protocol.arms[arm].reward or arm if arm in protocol.arms else arm
    expected = {(c.family, c.arm) for c in protocol.controls if c.expect == "unchanged"}
    return pays == "constant" or (family, arm) in expected


def stretch(condition: Steps) -> tuple[int, int] | None:
    """First and last index of the latest stretch on which a condition holds.

    >>> stretch(np.array([True, False, True, True, False]))
    (2, 3)
    """
    on = np.flatnonzero(condition)
    if not len(on):
        return None
    breaks = np.flatnonzero(np.diff(on) > 1)
    return int(on[breaks[-1] + 1] if len(breaks) else on[0]), int(on[-1])


def alarms(protocol: Protocol, runs: Iterable[Watched]) -> list[Alarm]:
    """All alarms, in the order of `ALARMS`, then of the plan; runs of an arm together."""
    cases: dict[tuple[str, str, str], list[Watched]] = {}
    for run in runs:
        if run.step:
            cases.setdefault((run.spec.family, run.spec.recipe, run.spec.arm), []).append(run)
    found = []
    for name, (condition, _, _) in ALARMS.items():
        for (family, recipe, arm), members in cases.items():
            if name in BY_DESIGN and teaches_nothing(protocol, family, arm):
                continue
            spans = []
            for run in members:
                if (span := stretch(condition(run.journal))) is not None:
                    first, last = (int(run.journal["step"][i]) for i in span)
                    spans.append((first, last, last == run.step))
            if spans:
                found.append(
                    Alarm(name, family, recipe, arm, len(spans), sum(on for *_, on in spans), len(members),
                          min(first for first, *_ in spans), max(last for _, last, _ in spans))
                )  # fmt: skip
    return found
