"""One optimiser step of every run on one part of a rollout batch. Runs share a program, never a number."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controlarm.losses import clipped_surrogate, kl_k3, token_weights
from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import (
    Shape,
    Weights,
    cast,
    compiled_form,
    hidden_states,
    logits,
)
from controlarm.protocol import Recipe

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

Tokens = Float[Tensor, "run rollout token"]


class Batch(NamedTuple):
    """Rollouts to train on: one update's share."""

    prompts: Int[Tensor, "run rollout place"]
    """Left-padded."""
    completions: Int[Tensor, "run rollout token"]
    """Right-padded."""
    on_policy: Bool[Tensor, ""]
    """True at the first update of a rollout batch: the policy is still the one that sampled, so the ratio is 1 by
    construction and nothing can be clipped; ``old_logprobs`` is then not looked at."""
    old_logprobs: Tokens
    advantages: Float[Tensor, "run rollout"]
    """float32 image of the float64 advantages; zero stays zero."""
    base_logprobs: Tokens | None
    """Needed where ``kl_coef`` is not zero."""

    @property
    def real(self) -> Bool[Tensor, "run rollout token"]:
        """Where a token was sampled: everything but padding."""
        return self.completions != PAD

    def rows(self, part: slice) -> "Batch":
        """Some of the rollouts, each tensor in memory of its own."""
        base = self.base_logprobs
        return Batch(
            self.prompts[:, part].contiguous(),
            self.completions[:, part].contiguous(),
            self.on_policy,
            self.old_logprobs[:, part].contiguous(),
            self.advantages[:, part].contiguous(),
            None if base is None else base[:, part].contiguous(),
        )


class Losses(NamedTuple):
    """One pass over a batch."""

    loss: Float[Tensor, " run"]
    logprobs: Tokens


class UpdateReport(NamedTuple):
    """What an update did, one number a run."""

    loss: Float[Tensor, " run"]
    grad_norm: Float[Tensor, " run"]
    """Before clipping."""
    clip_low: Float[Tensor, " run"]
    """Share of tokens with A < 0 whose ratio is below 1 - ε_low: the surrogate is flat there."""
    clip_high: Float[Tensor, " run"]
    """Share of tokens with A > 0 whose ratio is above 1 + ε_high."""
    ratio_max: Float[Tensor, " run"]
    """Largest |log ratio|."""
    approx_kl: Float[Tensor, " run"]
    """k3 estimate of KL(sampling policy || policy) before this update, nats per token."""
    kl_base: Float[Tensor, " run"] | None
    logprobs: Tokens
    """Before this update."""


def token_logprobs(
    weights: Weights,
    prompts: Int[Tensor, "run rollout place"],
    completions: Int[Tensor, "run rollout token"],
    shape: Shape,
) -> tuple[Tokens, Tokens]:
    """Log-probability of each completion token and entropy of its distribution, float32, at temperature 1."""
    sequence = torch.cat((prompts, completions), dim=-1)
    hidden = hidden_states(weights, sequence, shape)[:, :, prompts.shape[-1] - 1 : -1]
    logp = torch.log_softmax(logits(weights, hidden), dim=-1)
    chosen = logp.gather(-1, completions[..., None])[..., 0]
    return chosen, -(logp.exp() * logp).sum(-1)


def losses(
    weights: Weights, batch: Batch, per_token: Tokens, recipe: Recipe, shape: Shape
) -> Losses:
    """Loss of every run: clipped surrogate + kl_coef · KL to base - entropy_coef · entropy.

    Args:
        weights: float32 masters; the compute copy is made here so that gradients reach the masters.
        batch: what to train on.
        per_token: aggregation weights, see ``losses.token_weights``.
        recipe: clip bounds and coefficients.
        shape: sizes of the model.
    """
    compute = cast(weights, DTYPES[recipe.precision])
    logprobs, entropy = token_logprobs(compute, batch.prompts, batch.completions, shape)
    old_logprobs = torch.where(batch.on_policy, logprobs.detach(), batch.old_logprobs)
    per_token_loss = clipped_surrogate(
        logprobs, old_logprobs, batch.advantages, recipe.epsilon_low, recipe.epsilon_high
    )
    if batch.base_logprobs is not None:
        per_token_loss = per_token_loss + recipe.kl_coef * kl_k3(logprobs, batch.base_logprobs)
    if recipe.entropy_coef:
        per_token_loss = per_token_loss - recipe.entropy_coef * entropy
    loss = torch.where(batch.real, per_token * per_token_loss, 0.0).sum((1, 2))
    return Losses(loss, logprobs)


@torch.no_grad()
def score(
    weights: Weights,
    prompts: Int[Tensor, "run rollout place"],
    completions: Int[Tensor, "run rollout token"],
    shape: Shape,
    micro: int,
    compiled: bool,
) -> Tokens:
    """Log-probabilities under a compute copy, in micro-batches of ``micro`` rollouts; 0 at padding."""
    run = compiled_form(token_logprobs) if compiled else token_logprobs
    parts = zip(prompts.split(micro, 1), completions.split(micro, 1), strict=True)
    found = torch.cat(
        [run(weights, p.contiguous(), c.contiguous(), shape)[0] for p, c in parts], dim=1
    )
    return torch.where(completions == PAD, 0.0, found)


def clip_per_run(weights: Iterable[Tensor], max_norm: float) -> Float[Tensor, " run"]:
    """Scale each run's gradient to at most ``max_norm``; returns the norms before clipping.

    A run whose norm is not finite gets a zero gradient, so that its neighbours' optimiser step goes on.
    """
    grads = [w.grad for w in weights if w.grad is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for grad in grads:
        wide = (-1, *([1] * (grad.ndim - 1)))
        grad.mul_(factors.view(wide))
        grad.copy_(torch.where(norms.isfinite().view(wide), grad, 0.0))
    return norms


def make_optimizer(weights: Weights, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over the stacked weights: element-wise, so runs stay apart."""
    return torch.optim.AdamW(
        weights.values(),
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def update(
    weights: Weights,
    optimizer: torch.optim.AdamW,
    batch: Batch,
    active: Bool[Tensor, " run"],
    recipe: Recipe,
    shape: Shape,
    micro: int,
    compiled: bool,
) -> UpdateReport:
    """One optimiser step of every active run; masked runs keep their weights.

    Args:
        weights: float32 masters requiring gradients; changed in place.
        optimizer: of these weights.
        batch: one update's rollouts.
        active: False masks a failed run.
        recipe: how to train.
        shape: sizes of the model.
        micro: rollouts per pass; must divide the batch. Changes results by float noise only.
        compiled: use the compiled pass.
    """
    run = compiled_form(losses) if compiled else losses
    per_token = token_weights(batch.real, recipe.aggregation)
    per_token = per_token * active.view(-1, 1, 1)
    optimizer.zero_grad()
    parts: list[Losses] = []
    for start in range(0, batch.prompts.shape[1], micro):
        rows = slice(start, start + micro)
        found = run(weights, batch.rows(rows), per_token[:, rows].contiguous(), recipe, shape)
        found.loss.sum().backward()
        parts.append(Losses(*(x.detach() for x in found)))
    grad_norm = clip_per_run(weights.values(), recipe.max_grad_norm)
    masked = (~active).nonzero().flatten()
    kept = [w.detach()[masked] for w in weights.values()]
    optimizer.step()  # momentum and weight decay move a run even where its gradient is zero
    with torch.no_grad():
        for weight, rows in zip(weights.values(), kept, strict=True):
            weight[masked] = rows
    return _report(batch, parts, grad_norm, recipe)


def _report(
    batch: Batch, parts: list[Losses], grad_norm: Float[Tensor, " run"], recipe: Recipe
) -> UpdateReport:
    logprobs = torch.cat([p.logprobs for p in parts], dim=1)
    real = batch.real
    count = real.sum((1, 2)).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(real, x.float(), 0.0).sum((1, 2)) / count

    old_logprobs = torch.where(batch.on_policy, logprobs, batch.old_logprobs)
    log_ratio = torch.where(real, logprobs - old_logprobs, 0.0)
    gain = batch.advantages[..., None]
    low = (gain < 0) & (log_ratio < math.log1p(-min(recipe.epsilon_low, 1 - 1e-12)))
    high = (gain > 0) & (log_ratio > math.log1p(recipe.epsilon_high))
    kl_base = None
    if batch.base_logprobs is not None:
        kl_base = mean(kl_k3(logprobs, batch.base_logprobs))
    return UpdateReport(
        torch.stack([p.loss for p in parts]).sum(0),
        grad_norm,
        mean(low),
        mean(high),
        log_ratio.abs().amax((1, 2)),
        mean(kl_k3(old_logprobs, logprobs)),
        kl_base,
        logprobs,
    )
