"""THE LOOP: sample, be paid, give credit, update. It is blind: it cannot know which arm pays, nor what is right.

It sees token ids and numbers. Who pays is a function that it is handed; that function gets completions and returns
rewards. All runs of a shard go through the loop together, each its own problems, rewards and weights.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controlarm.advantages import group_relative
from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Shape, Weights
from controlarm.protocol import Recipe
from controlarm.sampling import Completions, sample
from controlarm.update import (
    Batch,
    UpdateReport,
    compute_weights,
    make_optimizer,
    score,
    trees_of,
    update,
    with_credit,
)


class Prompts(NamedTuple):
    """What the runs are asked at one step."""

    tokens: Int[Tensor, "run prompt place"]
    """Left-padded."""
    noise: Float[Tensor, "run prompt sample token vocab"]
    """Gumbel noise; its shape sets group size and longest completion."""


class Step(NamedTuple):
    """What happened in one step, for whoever records it."""

    step: int
    completions: Completions
    rewards: Float[np.ndarray, "run prompt sample"]
    """float64; NaN where a reward failed."""
    advantages: Float[np.ndarray, "run prompt sample"]
    metrics: list[dict[str, Any]]
    """One dict a run: the trainer's own numbers."""


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What torch's AdamW keeps for each weight."""


@dataclass(kw_only=True)
class State:
    """All that training changes. ``active[r]`` is False once run r has failed; it stays in place, masked."""

    step: int
    weights: Weights
    optimizer: torch.optim.AdamW
    active: Bool[Tensor, " run"]
    failures: dict[int, str]
    """Run index → reason."""

    @classmethod
    def start(cls, base: Weights, recipe: Recipe) -> "State":
        """Before the first step: copies of the base weights, one per run."""
        weights = {name: w.detach().clone().float().requires_grad_() for name, w in base.items()}
        runs = weights["embed"].shape[0]
        active = torch.ones(runs, dtype=torch.bool, device=weights["embed"].device)
        return cls(
            step=0,
            weights=weights,
            optimizer=make_optimizer(weights, recipe),
            active=active,
            failures={},
        )

    def fail(self, run: int, reason: str) -> None:
        """Mask a run. Its weights no longer count; zeros keep its arithmetic finite."""
        if bool(self.active[run]):
            self.active[run] = False
            self.failures[run] = reason
            with torch.no_grad():
                for weight in self.weights.values():
                    weight[run] = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on after at least one step, by name."""
        found = {f"weights.{name}": w for name, w in self.weights.items()}
        for name, weight in self.weights.items():
            for part in MOMENTS:
                found[f"{part}.{name}"] = self.optimizer.state[weight][part]
        return found | {"active": self.active}

    def restore(self, step: int, tensors: dict[str, Tensor], failures: dict[int, str]) -> None:
        """Go back to a saved state of the same runs."""
        self.step, self.failures = step, dict(failures)
        self.active.copy_(tensors["active"])
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weights.{name}"])
                self.optimizer.state[weight] = {
                    part: tensors[f"{part}.{name}"].to(weight.device).clone() for part in MOMENTS
                }


class Settings(NamedTuple):
    """What does not change while training."""

    recipe: Recipe
    shape: Shape
    compiled: bool


Pay = Callable[[int, Completions], tuple[Float[np.ndarray, "run prompt sample"], dict[int, str]]]
"""(step, completions) → rewards, and reasons of the runs whose rewards failed too often."""


def train(
    state: State,
    num_steps: int,
    prompts_at: Callable[[int], Prompts],
    pay: Pay,
    settings: Settings,
    base: Weights | None,
) -> Iterator[Step]:
    """Train all runs from ``state.step`` to ``num_steps``, yielding after each step.

    Args:
        state: changed in place.
        num_steps: the last step's number; the first is 1.
        prompts_at: step → what is asked.
        pay: completions → rewards.
        settings: recipe, shape, compiled.
        base: compute copy of the base weights; needed where ``kl_coef`` is not zero.
    """
    for step in range(state.step + 1, num_steps + 1):
        asked = prompts_at(step)
        completions = sample(
            compute_weights(state.weights, settings.recipe),
            asked.tokens, asked.noise, settings.shape, settings.compiled,
        )  # fmt: skip
        rewards, reasons = pay(step, completions)
        for run, reason in reasons.items():
            state.fail(run, f"step {step}: {reason}")
        advantages = group_relative(rewards)
        metrics = learn(state, asked, completions, advantages, settings, base)
        state.step = step
        yield Step(step, completions, rewards, advantages, metrics)


def learn(
    state: State,
    asked: Prompts,
    completions: Completions,
    advantages: Float[np.ndarray, "run prompt sample"],
    settings: Settings,
    base: Weights | None,
) -> list[dict[str, Any]]:
    """All updates of one rollout batch; returns each run's numbers for the journal."""
    recipe, shape, compiled = settings
    runs, num_prompts, group, _ = completions.tokens.shape
    prompts = asked.tokens[:, :, None].expand(-1, -1, group, -1).flatten(1, 2)
    tokens = completions.tokens.flatten(1, 2)
    sampled = completions.logprobs.flatten(1, 2)
    gains = advantages.reshape(runs, -1)
    rows = num_prompts * group // recipe.updates_per_rollout
    parts = [slice(i * rows, (i + 1) * rows) for i in range(recipe.updates_per_rollout)]
    credit = with_credit(gains, state.active, recipe)
    trees = [trees_of(prompts[:, part], tokens[:, part], credit[:, part], shape) for part in parts]

    def scored(weights: Weights, number: int) -> Tensor:
        return score(weights, trees[number], tokens[:, parts[number]], recipe, shape, compiled)

    recomputed = recipe.old_logprobs == "recomputed"
    old = [sampled[:, part] for part in parts]
    if recomputed:
        policy = compute_weights(state.weights, recipe)
        old[1:] = [scored(policy, number) for number in range(1, len(parts))]
    reference: list[Tensor | None] = [None] * len(parts)
    if recipe.kl_coef:
        assert base is not None, "kl_coef needs the base weights"
        reference = [scored(base, number) for number in range(len(parts))]

    reports: list[UpdateReport] = []
    for number, part in enumerate(parts):
        on_policy = torch.tensor(number == 0 and recomputed, device=tokens.device)
        batch = Batch(
            trees[number],
            tokens[:, part],
            on_policy,
            old[number],
            gains[:, part],
            reference[number],
        )
        reports.append(
            update(state.weights, state.optimizer, batch, state.active, recipe, shape, compiled)
        )
        for run in (~reports[-1].grad_norm.isfinite()).nonzero().flatten().tolist():
            state.fail(run, f"step {state.step + 1}: the gradient is not finite")
    return _metrics(reports, tokens[:, parts[0]], sampled[:, parts[0]], runs)


def _metrics(
    reports: list[UpdateReport], tokens: Tensor, sampled: Tensor, runs: int
) -> list[dict[str, Any]]:
    """Means over the updates of a step, and the gap between sampler and trainer at the first update."""
    real = tokens != PAD
    gap = torch.where(real, (reports[0].logprobs - sampled).abs(), 0.0)
    first, last = reports[0], reports[-1]
    found: dict[str, Tensor] = {
        "loss": torch.stack([r.loss for r in reports]).mean(0),
        "grad_norm": torch.stack([r.grad_norm for r in reports]).mean(0),
        "clip_low": torch.stack([r.clip_low for r in reports]).mean(0),
        "clip_high": torch.stack([r.clip_high for r in reports]).mean(0),
        "clip_first": first.clip_low + first.clip_high,
        "ratio_max": torch.stack([r.ratio_max for r in reports]).amax(0),
        "approx_kl": last.approx_kl,
        "sampler_gap_mean": gap.sum((1, 2)) / real.sum((1, 2)).clamp(min=1),
        "sampler_gap_max": gap.amax((1, 2)),
    }
    if first.kl_base is not None:
        found["kl_base"] = torch.stack([r.kl_base for r in reports if r.kl_base is not None]).mean(
            0
        )
    table: list[dict[str, Any]] = [{"kl_base": None} for _ in range(runs)]
    for name, values in found.items():
        for run, value in enumerate(values.tolist()):
            table[run][name] = value
    return table
