"""One optimiser step of every run on one part of a rollout batch. Runs share a program, never a number."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
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
from controlarm.packing import Layout, Part, Trees, pack
from controlarm.protocol import Recipe

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

ROW = 128
"""Nodes of a row, or a whole rollout where that is longer: short enough that attention is little of the work."""

PASS = 8
"""Rows of a pass: few enough for a core's cache, and enough of them that the products are large."""

Tokens = Float[Tensor, "run rollout token"]
Nodes = Float[Tensor, "slot row node"]


def with_credit(
    advantages: Float[np.ndarray, "run rollout"], active: Bool[Tensor, " run"], recipe: Recipe
) -> Bool[np.ndarray, "run rollout"]:
    """Rollouts that the loss depends on: those with an advantage, or all where the recipe asks for more than reward."""
    asks_all = bool(recipe.kl_coef or recipe.entropy_coef)
    return ((advantages != 0) | asks_all) & active.cpu().numpy()[:, None]


class Batch(NamedTuple):
    """Rollouts to train on: one update's share. Rollouts that share a prefix agree on its log-probabilities."""

    trees: Trees
    completions: Int[Tensor, "run rollout token"]
    """Right-padded."""
    on_policy: Bool[Tensor, ""]
    """True at the first update of a rollout batch: the policy is still the one that sampled, so the ratio is 1 by
    construction and nothing can be clipped; ``old_logprobs`` is then not looked at."""
    old_logprobs: Tokens
    advantages: Float[np.ndarray, "run rollout"]
    """float64; zero stays zero."""
    base_logprobs: Tokens | None
    """Needed where ``kl_coef`` is not zero."""

    @property
    def real(self) -> Bool[Tensor, "run rollout token"]:
        """Where a token was sampled: everything but padding."""
        return self.completions != PAD


class Terms(NamedTuple):
    """A batch as the loss reads it, at the nodes of its trees. Sums are over the rollouts that share a node."""

    old_logprobs: Nodes
    weights: Nodes
    """Aggregation weights (``losses.token_weights``)."""
    gains: Nodes
    """weight · max(A, 0)."""
    losses: Nodes
    """weight · min(A, 0)."""
    base_logprobs: Nodes | None = None

    def part(self, slots: slice) -> "Terms":
        """What one pass reads."""
        return Terms(*(x[slots] for x in self if x is not None))


class Losses(NamedTuple):
    """Of one pass."""

    loss: Float[Tensor, " slot"]
    logprobs: Nodes


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


def layout_of(runs: int, longest: int) -> Layout:
    """Shape of a pass over rollouts of so many tokens, prompt included. With few runs a slot holds several rows."""
    rows = max(1, PASS // runs)
    return Layout(PASS // rows, rows, max(ROW, longest))


def trees_of(
    prompts: Int[Tensor, "run rollout place"],
    completions: Int[Tensor, "run rollout token"],
    credit: Bool[np.ndarray, "run rollout"],
    shape: Shape,
) -> Trees:
    """The rollouts packed for passes of one shape."""
    longest = prompts.shape[-1] + completions.shape[-1]
    return pack(prompts, completions, credit, layout_of(len(prompts), longest), shape)


def terms_of(batch: Batch, recipe: Recipe, active: Bool[Tensor, " run"]) -> Terms:
    """Sums at the nodes; zero for a run that is not active."""
    weights = token_weights(batch.real, recipe.aggregation) * active.view(-1, 1, 1)
    wide = weights.double().cpu().numpy()
    advantages = batch.advantages[..., None]
    at, base = batch.trees, batch.base_logprobs
    with np.errstate(invalid="ignore"):  # an infinite advantage: its run fails by its gradient
        above, below = wide * np.maximum(advantages, 0.0), wide * np.minimum(advantages, 0.0)
    return Terms(
        at.gather(batch.old_logprobs), at.total(wide), at.total(above), at.total(below),
        None if base is None else at.gather(base),
    )  # fmt: skip


def token_logprobs(weights: Weights, part: Part, shape: Shape) -> tuple[Nodes, Nodes]:
    """Log-probability of each node's token after its parent, and entropy of the distribution it was drawn from.

    float32, at temperature 1; without meaning at the first node of a tree. ``weights`` are each slot's own.
    """
    nodes, parents = part
    scores = logits(weights, hidden_states(weights, nodes, shape))
    total = torch.logsumexp(scores, dim=-1)
    probabilities = torch.exp(scores - total[..., None])
    entropy = total - (probabilities * scores).sum(-1)
    chosen = parents * scores.shape[-1] + nodes.tokens
    logprobs = scores.flatten(2).gather(-1, chosen) - total.gather(-1, parents)
    return logprobs, entropy.gather(-1, parents)


def losses(
    weights: Weights,
    part: Part,
    terms: Terms,
    on_policy: Bool[Tensor, ""],
    recipe: Recipe,
    shape: Shape,
) -> Losses:
    """Loss of every slot: clipped surrogate + kl_coef · KL to base - entropy_coef · entropy.

    Args:
        weights: each slot's own, in the compute dtype.
        part: what to train on.
        terms: of the same nodes.
        on_policy: see ``Batch``.
        recipe: clip bounds and coefficients.
        shape: sizes of the model.
    """
    logprobs, entropy = token_logprobs(weights, part, shape)
    old_logprobs = torch.where(on_policy, logprobs.detach(), terms.old_logprobs)
    per_node = clipped_surrogate(
        logprobs, old_logprobs, terms.gains, terms.losses, recipe.epsilon_low, recipe.epsilon_high
    )
    if terms.base_logprobs is not None:
        per_node = per_node + recipe.kl_coef * terms.weights * kl_k3(logprobs, terms.base_logprobs)
    if recipe.entropy_coef:
        per_node = per_node - recipe.entropy_coef * terms.weights * entropy
    return Losses(torch.where(terms.weights > 0, per_node, 0.0).sum((1, 2)), logprobs)


def score(
    weights: Weights,
    trees: Trees,
    completions: Int[Tensor, "run rollout token"],
    recipe: Recipe,
    shape: Shape,
    compiled: bool,
) -> Tokens:
    """Log-probabilities of completions under a compute copy, pass by pass; 0 at padding.

    By the program that learns, with terms of zero: in bfloat16 another program gives other log-probabilities, and
    weights that did not move would seem to have moved.
    """
    learns = compiled_form(losses) if compiled else losses
    nothing = torch.zeros(trees.layout, device=completions.device)
    terms = Terms(nothing, nothing, nothing, nothing, nothing if recipe.kl_coef else None)
    on_policy = torch.tensor(False, device=completions.device)
    found = [
        learns(one.weights(weights), one.part, terms, on_policy, recipe, shape).logprobs.detach()
        for one in trees.passes()
    ]
    return torch.where(completions == PAD, 0.0, trees.spread(torch.cat(found)))


def compute_weights(weights: Weights, recipe: Recipe) -> Weights:
    """The detached copy that samples, scores and learns."""
    return {name: w.detach() for name, w in cast(weights, DTYPES[recipe.precision]).items()}


def backward(
    weights: Weights,
    batch: Batch,
    active: Bool[Tensor, " run"],
    recipe: Recipe,
    shape: Shape,
    compiled: bool,
) -> tuple[Float[Tensor, " run"], Nodes]:
    """Set the gradients of the weights to those of the batch's loss, pass by pass; passes without credit have none.

    Returns the loss of each run, and log-probabilities.
    """
    learns = compiled_form(losses) if compiled else losses
    compute = compute_weights(weights, recipe)
    trees, terms = batch.trees, terms_of(batch, recipe, active)
    loss = torch.zeros(len(active), device=active.device)
    logprobs: list[Tensor] = []
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    for one in trees.passes():
        own = one.weights(compute)
        found = learns(own, one.part, terms.part(one.at), batch.on_policy, recipe, shape)
        logprobs.append(found.logprobs.detach())
        if one.at.start >= trees.num_with_credit:
            continue
        found.loss.sum().backward()
        loss.index_add_(0, one.run, found.loss.detach())
        for name, weight in weights.items():
            _add(weight.grad, one.run, own[name].grad)
    return loss, torch.cat(logprobs)


def _add(total: Tensor | None, run: Int[Tensor, " slot"], grad: Tensor | None) -> None:
    assert total is not None and grad is not None
    total.index_add_(0, run, grad.to(total.dtype))


def clip_per_run(weights: Iterable[Tensor], max_norm: float) -> Float[Tensor, " run"]:
    """Scale each run's gradient to at most ``max_norm``; returns the norms before clipping.

    A run whose norm is not finite gets a zero gradient, so that its neighbours' optimiser step goes on.
    """
    grads = [w.grad for w in weights if w.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads]).norm(dim=0)
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    broken = (~norms.isfinite()).nonzero().flatten()
    for grad in grads:
        grad.mul_(factors.view(-1, *([1] * (grad.ndim - 1))))
        grad[broken] = 0.0
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
        compiled: use the compiled pass.
    """
    loss, logprobs = backward(weights, batch, active, recipe, shape, compiled)
    grad_norm = clip_per_run(weights.values(), recipe.max_grad_norm)
    masked = (~active).nonzero().flatten()
    kept = [w.detach()[masked] for w in weights.values()]
    optimizer.step()  # momentum and weight decay move a run even where its gradient is zero
    with torch.no_grad():
        for weight, rows in zip(weights.values(), kept, strict=True):
            weight[masked] = rows
    return _report(batch, loss, batch.trees.spread(logprobs), grad_norm, recipe)


def _report(
    batch: Batch,
    loss: Float[Tensor, " run"],
    logprobs: Tokens,
    grad_norm: Float[Tensor, " run"],
    recipe: Recipe,
) -> UpdateReport:
    real = batch.real
    count = real.sum((1, 2)).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(real, x.float(), 0.0).sum((1, 2)) / count

    old_logprobs = torch.where(batch.on_policy, logprobs, batch.old_logprobs)
    log_ratio = torch.where(real, logprobs - old_logprobs, 0.0)
    advantages = torch.from_numpy(batch.advantages).to(logprobs.device)[..., None]
    low = (advantages < 0) & (log_ratio < math.log1p(-min(recipe.epsilon_low, 1 - 1e-12)))
    high = (advantages > 0) & (log_ratio > math.log1p(recipe.epsilon_high))
    kl_base = None
    if batch.base_logprobs is not None:
        kl_base = mean(kl_k3(logprobs, batch.base_logprobs))
    return UpdateReport(
        loss,
        grad_norm,
        mean(low),
        mean(high),
        log_ratio.abs().amax((1, 2)),
        mean(kl_k3(old_logprobs, logprobs)),
        kl_base,
        logprobs,
    )
