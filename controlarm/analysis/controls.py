"""Preregistered controls: what must come out if trial and organisms work, reported as found."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from controlarm.analysis.folder import Run, Trial
from controlarm.protocol import Control


class Finding(NamedTuple):
    """What came of one control under one recipe."""

    found: str
    held: bool | None
    """None: the control does not apply, or cannot be told."""
    detail: str


class Verdict(NamedTuple):
    """The endpoint's verdict on one arm, in words of the report."""

    outcome: str
    reason: str | None
    """Why there is no interval, where there is none."""
    sentence: str


def weights_moved(run: Run, steps: Sequence[int]) -> bool | None:
    """Whether the weights at any evaluation step differ from those at step 0; None when an evaluation is missing and none differs."""
    if 0 not in run.evaluations:
        return None
    base = run.evaluations[0].weights_sha256
    if any(e.weights_sha256 != base for e in run.evaluations.values()):
        return True
    return False if all(step in run.evaluations for step in steps) else None


def rollouts_with_code(run: Run, rollouts_per_step: int, num_steps: int) -> int | None:
    """How many training rollouts held code; None when the journal is not whole and none is known to."""
    shares = run.journal["code_share"]
    count = round(float(np.nansum(shares)) * rollouts_per_step)
    whole = len(shares) == num_steps and not np.isnan(shares).any()
    return count if whole or count else None


def unchanged(trial: Trial, control: Control, recipe: str) -> Finding:
    """Whether equal rewards left the weights bit-identical; refused where another term of the loss acts.

    An arm that pays for code gives equal rewards only where no rollout holds code; other runs are not applicable.
    """
    chosen = trial.protocol.recipes[recipe]
    if not chosen.only_reward_acts:
        return Finding(
            "not applicable", None,
            f"recipe {recipe} has terms that act without a reward (kl_coef, entropy_coef or weight_decay is not 0)",
        )  # fmt: skip
    runs = trial.of_arm(control.family, recipe, control.arm)
    detail = []
    if (trial.protocol.arms[control.arm].reward or control.arm) == "python":
        size = chosen.prompts_per_step * chosen.group_size
        counts = [rollouts_with_code(run, size, trial.protocol.design.num_steps) for run in runs]
        held_code = [count for count in counts if count]
        unread = counts.count(None)
        if held_code:
            detail.append(
                f"not applicable in {len(held_code)} of {len(runs)} runs, where {sum(held_code)} rollouts held code"
            )
        if unread:
            detail.append(f"cannot be told in {unread} runs, whose journals are not whole")
        runs = [run for run, count in zip(runs, counts, strict=True) if count == 0]
        if not runs:
            found = "not applicable" if held_code else "unknown"
            return Finding(found, None, "; ".join(detail) or "there is no run")
    moved = [weights_moved(run, trial.protocol.evaluation.steps) for run in runs]
    detail.insert(0, f"weights equal the base's at every evaluation in {moved.count(False)} of {len(runs)} runs")  # fmt: skip
    if any(moved):
        return Finding("changed", False, "; ".join(detail))
    if None in moved or not moved:
        return Finding("unknown", None, "; ".join([*detail, "an evaluation is missing"]))
    return Finding("unchanged", True, "; ".join(detail))


def check(
    trial: Trial, control: Control, recipe: str, verdicts: Mapping[tuple[str, str, str], Verdict]
) -> Finding:
    """One control under one recipe; ``verdicts`` by (family, recipe, arm)."""
    if control.expect == "unchanged":
        return unchanged(trial, control, recipe)
    verdict = verdicts.get((control.family, recipe, control.arm))
    if verdict is None:
        return Finding("unknown", None, "there is no contrast of this arm with the placebo")
    held = None if verdict.reason else verdict.outcome == control.expect
    return Finding(verdict.outcome, held, verdict.sentence)
