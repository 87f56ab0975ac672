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

from controlarm import advantages as credits
from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Shape, Weights
from controlarm.protocol import Recipe
from controlarm.sampling import Completions, sample
from controlarm.update import (
    VALUE,
    Advantages,
    Batch,
    Looked,
    UpdateReport,
    compute_weights,
    look,
    make_optimizer,
    text_weights,
    trees_of,
    update,
    with_credit,
)


class Prompts(NamedTuple):
    """What the runs are asked at once."""

    tokens: Int[Tensor, "run prompt place"]
    """Left-padded."""
    noise: Float[Tensor, "run prompt sample token vocab"]
    """Gumbel noise; its shape sets group size and longest completion. Where the recipe asks for a greedy completion, the last sample has none."""


class Rollouts(NamedTuple):
    """The groups that a step trains on, as many in every run."""

    prompts: Int[Tensor, "run prompt place"]
    completions: Completions
    rewards: Float[np.ndarray, "run prompt sample"]
    """float64; NaN where a reward failed."""
    greedy: Float[np.ndarray, "run prompt"] | None
    """Reward of the greedy completion, where the recipe asks for one."""
    chosen: Int[np.ndarray, "run prompt"]
    """Which of the prompts asked at this step each group is of, batch after batch."""
    generated: Int[np.ndarray, " run"]
    """Completions that each run needed to have sampled for it; greedy ones included."""


class Step(NamedTuple):
    """What happened in one step, for whoever records it."""

    step: int
    rollouts: Rollouts
    advantages: Float[np.ndarray, "run prompt sample"]
    """Mean over the tokens of a completion, where they differ."""
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
        weights = {name: w.detach().clone().float() for name, w in base.items()}
        runs, _, hidden = weights["embed"].shape
        if recipe.learns_values:
            weights[VALUE] = torch.zeros(runs, hidden, 1, device=weights["embed"].device)
        for weight in weights.values():
            weight.requires_grad_()
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


Ask = Callable[[int, int], Prompts]
"""(step, number of the batch within it) → what is asked."""

Pay = Callable[
    [int, int, Completions], tuple[Float[np.ndarray, "run prompt sample"], dict[int, str]]
]
"""(step, number of the batch, completions) → rewards, and reasons of the runs whose rewards failed too often."""


def train(
    state: State, num_steps: int, ask: Ask, pay: Pay, settings: Settings, base: Weights | None
) -> Iterator[Step]:
    """Train all runs from ``state.step`` to ``num_steps``, yielding after each step.

    Args:
        state: changed in place.
        num_steps: the last step's number; the first is 1.
        ask: what is asked.
        pay: completions → rewards.
        settings: recipe, shape, compiled.
        base: compute copy of the base weights; needed where ``kl_coef`` is not zero.
    """
    for step in range(state.step + 1, num_steps + 1):
        rollouts = gather(state, step, ask, pay, settings)
        advantages, metrics = learn(state, rollouts, settings, base)
        state.step = step
        yield Step(step, rollouts, advantages, metrics)


def gather(state: State, step: int, ask: Ask, pay: Pay, settings: Settings) -> Rollouts:
    """Sample and be paid, until every run has the groups that its recipe wants.

    Without dynamic sampling that is one batch. With it (DAPO, arXiv:2503.14476, section 3.2) groups of equal rewards are passed over, and
    batches are asked until each run has enough others, at most ``dynamic_sampling`` of them; what is missing then is filled up with the
    first that were passed over. A run's groups do not depend on how many batches its neighbours need.
    """
    recipe = settings.recipe
    batches: list[tuple[Prompts, Completions, np.ndarray]] = []
    good: list[list[int]] = [[] for _ in range(len(state.active))]
    used = np.zeros(len(good), dtype=np.int64)
    wanted = recipe.prompts_per_step
    for number in range(max(1, recipe.dynamic_sampling)):
        waiting = [
            run for run, own in enumerate(good) if len(own) < wanted and bool(state.active[run])
        ]
        if not waiting:
            break
        asked = ask(step, number)
        completions = sample(
            text_weights(state.weights, recipe), asked.tokens, asked.noise, settings.shape,
            settings.compiled,
        )  # fmt: skip
        rewards, reasons = pay(step, number, completions)
        batches.append((asked, completions, rewards))
        for run in waiting:
            used[run] += rewards[run].size
            if run in reasons:
                state.fail(run, f"step {step}: {reasons[run]}")
            own = rewards[run][:, : recipe.group_size]
            failed = np.isnan(own)
            least, greatest = np.where(failed, np.inf, own), np.where(failed, -np.inf, own)
            kept = (least.min(-1) < greatest.max(-1)) | (recipe.dynamic_sampling == 0)
            good[run] += (number * wanted + np.flatnonzero(kept)).tolist()
    num_asked = wanted * len(batches)
    chosen = np.array(
        [(own + [i for i in range(num_asked) if i not in own])[:wanted] for own in good]
    )
    return _rollouts(batches, chosen, used, recipe)


def _rollouts(
    batches: list[tuple[Prompts, Completions, np.ndarray]],
    chosen: Int[np.ndarray, "run prompt"],
    used: Int[np.ndarray, " run"],
    recipe: Recipe,
) -> Rollouts:
    """The chosen groups of all batches; the greedy completion, if any, is set apart."""
    run = np.arange(len(chosen))[:, None]
    at = torch.from_numpy(np.broadcast_to(run, chosen.shape).copy()), torch.from_numpy(chosen)

    def picked(parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return whole[tuple(index.to(whole.device) for index in at)]

    rewards = np.concatenate([r for _, _, r in batches], axis=1)[run, chosen]
    made = Completions(
        *(
            picked([getattr(c, name) for _, c, _ in batches])[:, :, : recipe.group_size]
            for name in Completions._fields
        )
    )
    greedy = rewards[:, :, recipe.group_size] if recipe.asks_greedy else None
    return Rollouts(
        picked([a.tokens for a, _, _ in batches]), made, rewards[:, :, : recipe.group_size], greedy,
        chosen, used,
    )  # fmt: skip


class Credit(NamedTuple):
    """What each completion of a rollout batch is to be blamed or praised for."""

    advantages: Advantages
    counted: Bool[np.ndarray, "run rollout"] | None
    returns: Float[np.ndarray, "run rollout token"] | None


def credit_of(
    rollouts: Rollouts, values: Float[np.ndarray, "run rollout token"] | None, recipe: Recipe
) -> Credit:
    """From rewards to advantages as the recipe says; rows are rollouts, group after group."""
    tokens = rollouts.completions.tokens
    real = (tokens != PAD).flatten(1, 2).cpu().numpy()
    rewards = rollouts.rewards
    if recipe.overlong_buffer:
        lengths = real.sum(-1).reshape(rewards.shape).astype(np.float64)
        rewards = rewards + credits.overlong(lengths, tokens.shape[-1], recipe.overlong_buffer)
    flat = rewards.reshape(len(rewards), -1)
    returns = None
    if recipe.learns_values:
        assert values is not None
        advantages = credits.generalised(flat, values, real, recipe.gae_lambda)
        returns = advantages + values
    elif recipe.credit == "greedy":
        assert rollouts.greedy is not None
        advantages = credits.over_greedy(rewards, rollouts.greedy).reshape(*flat.shape, 1)
    else:
        advantages = credits.BY_GROUP[recipe.credit](rewards).reshape(*flat.shape, 1)
    if recipe.whiten:
        advantages = credits.whitened(advantages, real)
    counted = None
    if recipe.select == "greedy_wrong":
        assert rollouts.greedy is not None
        counted = np.repeat(~(rollouts.greedy >= 1), rewards.shape[-1], axis=1)
        advantages = advantages * counted[..., None]
    return Credit(advantages, counted, returns)


def learn(
    state: State, rollouts: Rollouts, settings: Settings, base: Weights | None
) -> tuple[Float[np.ndarray, "run prompt sample"], list[dict[str, Any]]]:
    """All updates of one rollout batch; returns mean advantages and each run's numbers for the journal."""
    recipe, shape, compiled = settings
    completions = rollouts.completions
    runs, num_prompts, group, _ = completions.tokens.shape
    prompts = rollouts.prompts[:, :, None].expand(-1, -1, group, -1).flatten(1, 2)
    tokens = completions.tokens.flatten(1, 2)
    sampled = completions.logprobs.flatten(1, 2)
    rows = num_prompts * group // recipe.updates_per_rollout
    parts = [slice(i * rows, (i + 1) * rows) for i in range(recipe.updates_per_rollout)]

    given = None if recipe.learns_values else credit_of(rollouts, None, recipe)
    known = np.ones((*tokens.shape[:2], 1)) if given is None else given.advantages
    matters = with_credit(known, state.active, recipe)
    trees = [trees_of(prompts[:, part], tokens[:, part], matters[:, part], shape) for part in parts]

    def seen(weights: Weights, number: int) -> Looked:
        return look(weights, trees[number], tokens[:, parts[number]], recipe, shape, compiled)

    recomputed = recipe.old_logprobs == "recomputed"
    old = [sampled[:, part] for part in parts]
    policy = compute_weights(state.weights, recipe)
    if given is None:
        looked = [seen(policy, number) for number in range(len(parts))]
        values = torch.cat([one.values for one in looked if one.values is not None], dim=1)
        given = credit_of(rollouts, values.double().cpu().numpy(), recipe)
        if recomputed:
            old = [one.logprobs for one in looked]
    elif recomputed:
        old[1:] = [seen(policy, number).logprobs for number in range(1, len(parts))]
    reference: list[Tensor | None] = [None] * len(parts)
    if recipe.kl_coef:
        assert base is not None, "kl_coef needs the base weights"
        if recipe.learns_values:
            base = base | {VALUE: torch.zeros_like(policy[VALUE])}
        reference = [seen(base, number).logprobs for number in range(len(parts))]

    reports: list[UpdateReport] = []
    for number, part in enumerate(parts):
        on_policy = torch.tensor(number == 0 and recomputed, device=tokens.device)
        batch = Batch(
            trees[number],
            tokens[:, part],
            on_policy,
            old[number],
            given.advantages[:, part],
            reference[number],
            None if given.counted is None else given.counted[:, part],
            None if given.returns is None else given.returns[:, part],
        )
        reports.append(
            update(state.weights, state.optimizer, batch, state.active, recipe, shape, compiled)
        )
        for run in (~reports[-1].grad_norm.isfinite()).nonzero().flatten().tolist():
            state.fail(run, f"step {state.step + 1}: the gradient is not finite")
    real = (tokens != PAD).cpu().numpy()
    wide = np.broadcast_to(given.advantages, real.shape)
    means = np.where(real, wide, 0.0).sum(-1) / np.maximum(real.sum(-1), 1)
    if given.advantages.shape[-1] == 1:
        means = given.advantages[..., 0]
    metrics = _metrics(reports, tokens, sampled, parts[0], runs)
    for run, line in enumerate(metrics):
        line["generated"] = int(rollouts.generated[run])
        line["counted_groups"] = 1.0 if given.counted is None else float(given.counted[run].mean())
    return means.reshape(runs, num_prompts, group), metrics


def _metrics(
    reports: list[UpdateReport], tokens: Tensor, sampled: Tensor, part: slice, runs: int
) -> list[dict[str, Any]]:
    """Means over the updates of a step, and the gap between sampler and trainer in the first update's part."""
    everywhere = tokens != PAD
    probability = torch.where(everywhere, sampled.exp(), 0.0).sum((1, 2))
    real = everywhere[:, part]
    gap = torch.where(real, (reports[0].logprobs - sampled[:, part]).abs(), 0.0)
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
        "token_probability": probability / everywhere.sum((1, 2)).clamp(min=1),
    }
    for name in first.by_prior:
        found[name] = torch.stack([r.by_prior[name] for r in reports]).mean(0)
    for name in ("kl_base", "value_loss"):
        each = [value for r in reports if (value := getattr(r, name)) is not None]
        if each:
            found[name] = torch.stack(each).mean(0)
    table: list[dict[str, Any]] = [{"kl_base": None, "value_loss": None} for _ in range(runs)]
    for name, values in found.items():
        for run, value in enumerate(values.tolist()):
            table[run][name] = value
    return table
