"""One optimiser step of every run on one part of a rollout batch. Runs share a program, never a number."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controlarm.losses import clipped_surrogate, kl_k3, sequence_log_ratio, token_weights
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

PRIORS = {"rare": 0.1, "open": 0.5, "likely": 1 / 1.2, "sure": 1.0}
"""Upper end of each band of a token's probability before the update. With ε_high = 0.2 no ratio of a sure token can be clipped above."""

VALUE = "value"
"""Name of the value head among the weights, ``[run, hidden, 1]``; no model of text reads it."""

Tokens = Float[Tensor, "run rollout token"]
Nodes = Float[Tensor, "slot row node"]
Advantages = Float[np.ndarray, "run rollout #token"]
"""float64; the last axis is 1 where all tokens of a completion have the same."""


def with_credit(
    advantages: Advantages, active: Bool[Tensor, " run"], recipe: Recipe
) -> Bool[np.ndarray, "run rollout"]:
    """Rollouts that the loss depends on: those with an advantage, or all where the recipe asks for more than reward."""
    asks_all = bool(recipe.kl_coef or recipe.entropy_coef or recipe.learns_values)
    return ((advantages != 0).any(-1) | asks_all) & active.cpu().numpy()[:, None]


class Batch(NamedTuple):
    """Rollouts to train on: one update's share. Rollouts that share a prefix agree on its log-probabilities."""

    trees: Trees
    completions: Int[Tensor, "run rollout token"]
    """Right-padded."""
    on_policy: Bool[Tensor, ""]
    """True at the first update of a rollout batch: the policy is still the one that sampled, so the ratio is 1 by
    construction and nothing can be clipped; ``old_logprobs`` is then not looked at."""
    old_logprobs: Tokens
    advantages: Advantages
    """Zero stays zero."""
    base_logprobs: Tokens | None = None
    """Needed where ``kl_coef`` is not zero."""
    counted: Bool[np.ndarray, "run rollout"] | None = None
    """Rollouts that the loss is a mean over; None: all."""
    returns: Float[np.ndarray, "run rollout token"] | None = None
    """What the value head should have said; needed where it learns."""

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
    returns: Nodes | None = None
    """weight · return."""
    squares: Nodes | None = None
    """weight · return²."""

    def part(self, slots: slice) -> "Terms":
        """What one pass reads."""
        return Terms(*(None if x is None else x[slots] for x in self))  # type: ignore[arg-type]


class Losses(NamedTuple):
    """Of one pass."""

    loss: Float[Tensor, " slot"]
    logprobs: Nodes
    values: Nodes | None
    """Of the state before each node's token, where a value head learns."""


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
    value_loss: Float[Tensor, " run"] | None
    """Mean squared error of the value head, per token."""
    by_prior: dict[str, Float[Tensor, " run"]]
    """Shares of tokens by their probability before the update: ``prior_``, ``clip_low_``, ``clip_high_`` and the band's name."""
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
    real = batch.real
    if batch.counted is not None:
        real = real & torch.from_numpy(batch.counted).to(real.device)[..., None]
    weights = token_weights(real, recipe.aggregation) * active.view(-1, 1, 1)
    wide = weights.double().cpu().numpy()
    at, base, returns = batch.trees, batch.base_logprobs, batch.returns
    with np.errstate(invalid="ignore"):  # an infinite advantage: its run fails by its gradient
        credit = wide * recipe.policy_coef
        above, below = (
            credit * part
            for part in (np.maximum(batch.advantages, 0.0), np.minimum(batch.advantages, 0.0))
        )
    return Terms(
        at.gather(batch.old_logprobs), at.total(wide), at.total(above), at.total(below),
        None if base is None else at.gather(base),
        None if returns is None else at.total(wide * returns),
        None if returns is None else at.total(wide * returns**2),
    )  # fmt: skip


class Told(NamedTuple):
    """What a model says at each node: float32, at temperature 1; without meaning at the first node of a tree."""

    logprobs: Nodes
    """Of the node's token after its parent."""
    entropy: Nodes
    """Of the distribution that it was drawn from, in nats."""
    values: Nodes | None
    """Of the parent; None without a value head."""


def told_by(weights: Weights, part: Part, shape: Shape) -> Told:
    """One pass of the model; ``weights`` are each slot's own."""
    nodes, parents = part
    hidden = hidden_states(weights, nodes, shape)
    scores = logits(weights, hidden)
    total = torch.logsumexp(scores, dim=-1)
    probabilities = torch.exp(scores - total[..., None])
    entropy = total - (probabilities * scores).sum(-1)
    chosen = parents * scores.shape[-1] + nodes.tokens
    logprobs = scores.flatten(2).gather(-1, chosen) - total.gather(-1, parents)
    values = None
    if VALUE in weights:
        values = torch.bmm(hidden.flatten(1, 2), weights[VALUE]).float().view(parents.shape)
        values = values.gather(-1, parents)
    return Told(logprobs, entropy.gather(-1, parents), values)


def losses(
    weights: Weights,
    part: Part,
    terms: Terms,
    on_policy: Bool[Tensor, ""],
    recipe: Recipe,
    shape: Shape,
) -> Losses:
    """Loss of every slot: clipped surrogate + kl_coef · KL to base - entropy_coef · entropy + value_coef · (value - return)².

    Args:
        weights: each slot's own, in the compute dtype.
        part: what to train on.
        terms: of the same nodes.
        on_policy: see ``Batch``.
        recipe: clip bounds and coefficients.
        shape: sizes of the model.
    """
    logprobs, entropy, values = told_by(weights, part, shape)
    old_logprobs = torch.where(on_policy, logprobs.detach(), terms.old_logprobs)
    per_node = clipped_surrogate(
        logprobs, old_logprobs, terms.gains, terms.losses, recipe.epsilon_low, recipe.epsilon_high
    )
    if terms.base_logprobs is not None:
        per_node = per_node + recipe.kl_coef * terms.weights * kl_k3(logprobs, terms.base_logprobs)
    if recipe.entropy_coef:
        per_node = per_node - recipe.entropy_coef * terms.weights * entropy
    if values is not None and terms.returns is not None and terms.squares is not None:
        error = values * (values * terms.weights - 2 * terms.returns) + terms.squares
        per_node = per_node + recipe.value_coef * error
    return Losses(torch.where(terms.weights > 0, per_node, 0.0).sum((1, 2)), logprobs, values)


def losses_with_values(
    weights: Weights,
    part: Part,
    terms: Terms,
    on_policy: Bool[Tensor, ""],
    recipe: Recipe,
    shape: Shape,
) -> Losses:
    """The same, under a name of its own: what is compiled for weights with a value head must not be looked up for weights without."""
    return losses(weights, part, terms, on_policy, recipe, shape)


def _learner(recipe: Recipe, compiled: bool) -> Callable[..., Losses]:
    """The program that scores and learns."""
    program = losses_with_values if recipe.learns_values else losses
    return compiled_form(program) if compiled else program


class Looked(NamedTuple):
    """What a model says of completions; 0 at padding."""

    logprobs: Tokens
    values: Tokens | None


def look(
    weights: Weights,
    trees: Trees,
    completions: Int[Tensor, "run rollout token"],
    recipe: Recipe,
    shape: Shape,
    compiled: bool,
) -> Looked:
    """Log-probabilities of completions under a compute copy, and values where it has a head, pass by pass.

    By the program that learns, with terms of zero: in bfloat16 another program gives other log-probabilities, and
    weights that did not move would seem to have moved.
    """
    learns = _learner(recipe, compiled)
    nothing = torch.zeros(trees.layout, device=completions.device)
    kl, value = (nothing if asked else None for asked in (recipe.kl_coef, recipe.learns_values))
    terms = Terms(nothing, nothing, nothing, nothing, kl, value, value)
    on_policy = torch.tensor(False, device=completions.device)
    found = [
        learns(one.weights(weights), one.part, terms, on_policy, recipe, shape)
        for one in trees.passes()
    ]

    def spread(parts: list[Tensor]) -> Tokens:
        return torch.where(completions == PAD, 0.0, trees.spread(torch.cat(parts)))

    values = [one.values.detach() for one in found if one.values is not None]
    return Looked(
        spread([one.logprobs.detach() for one in found]), spread(values) if values else None
    )


def score(
    weights: Weights,
    trees: Trees,
    completions: Int[Tensor, "run rollout token"],
    recipe: Recipe,
    shape: Shape,
    compiled: bool,
) -> Tokens:
    """The log-probabilities of ``look``."""
    return look(weights, trees, completions, recipe, shape, compiled).logprobs


def compute_weights(weights: Weights, recipe: Recipe) -> Weights:
    """The detached copy that samples, scores and learns."""
    return {name: w.detach() for name, w in cast(weights, DTYPES[recipe.precision]).items()}


def text_weights(weights: Weights, recipe: Recipe) -> Weights:
    """The same without the value head: what reads and writes text."""
    return {name: w for name, w in compute_weights(weights, recipe).items() if name != VALUE}


class Backward(NamedTuple):
    """What was seen on the way."""

    loss: Float[Tensor, " run"]
    logprobs: Nodes
    values: Nodes | None


def backward(
    weights: Weights,
    batch: Batch,
    active: Bool[Tensor, " run"],
    recipe: Recipe,
    shape: Shape,
    compiled: bool,
) -> Backward:
    """Set the gradients of the weights to those of the batch's loss, pass by pass; passes without credit have none."""
    learns = _learner(recipe, compiled)
    compute = compute_weights(weights, recipe)
    trees, terms = batch.trees, terms_of(batch, recipe, active)
    loss = torch.zeros(len(active), device=active.device)
    logprobs: list[Tensor] = []
    values: list[Tensor] = []
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    for one in trees.passes():
        own = one.weights(compute)
        found = learns(own, one.part, terms.part(one.at), batch.on_policy, recipe, shape)
        logprobs.append(found.logprobs.detach())
        if found.values is not None:
            values.append(found.values.detach())
        if one.at.start >= trees.num_with_credit:
            continue
        found.loss.sum().backward()
        loss.index_add_(0, one.run, found.loss.detach())
        for name, weight in weights.items():
            _add(weight.grad, one.run, own[name].grad)
    return Backward(loss, torch.cat(logprobs), torch.cat(values) if values else None)


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
    sequence = None
    learnt = batch
    if recipe.ratio == "sequence":
        now = batch.old_logprobs
        if not bool(batch.on_policy):
            policy = compute_weights(weights, recipe)
            now = score(policy, batch.trees, batch.completions, recipe, shape, compiled)
        sequence = by_sequence(batch, now, recipe)
        learnt = sequence.batch
    done = backward(weights, learnt, active, recipe, shape, compiled)
    grad_norm = clip_per_run(weights.values(), recipe.max_grad_norm)
    masked = (~active).nonzero().flatten()
    kept = [w.detach()[masked] for w in weights.values()]
    optimizer.step()  # momentum and weight decay move a run even where its gradient is zero
    with torch.no_grad():
        for weight, rows in zip(weights.values(), kept, strict=True):
            weight[masked] = rows
    return _report(batch, done, grad_norm, recipe, sequence)


class BySequence(NamedTuple):
    """A batch whose ratio is of whole completions, as one whose ratio is 1."""

    batch: Batch
    """Advantages times the ratio, 0 where it is clipped."""
    log_ratio: Float[Tensor, "run rollout"]


def by_sequence(batch: Batch, logprobs: Tokens, recipe: Recipe) -> BySequence:
    """GSPO (arXiv:2507.18071): Σ min(s A, clip(s) A), s the geometric mean of a completion's ratios.

    The gradient of s is s · mean over tokens of ∇log π. So it is that of token weights 1/length on log π with advantage s A where the bound does not
    bind, and 0 where it does: what the token surrogate gives at ratio 1, one pass later.
    """
    log_ratio = sequence_log_ratio(logprobs, batch.old_logprobs, batch.real)
    if bool(batch.on_policy):
        log_ratio = torch.zeros_like(log_ratio)
    ratio = torch.exp(log_ratio).double().cpu().numpy()[..., None]
    advantages = batch.advantages
    binds = ((advantages > 0) & (ratio > 1 + recipe.epsilon_high)) | (
        (advantages < 0) & (ratio < 1 - recipe.epsilon_low)
    )
    on_policy = torch.ones_like(batch.on_policy)
    weighed = np.where(binds, 0.0, advantages * ratio)
    return BySequence(batch._replace(on_policy=on_policy, advantages=weighed), log_ratio)


def _report(
    batch: Batch,
    done: Backward,
    grad_norm: Float[Tensor, " run"],
    recipe: Recipe,
    sequence: BySequence | None,
) -> UpdateReport:
    real, logprobs = batch.real, batch.trees.spread(done.logprobs)
    count = real.sum((1, 2)).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(real, x.float(), 0.0).sum((1, 2)) / count

    old_logprobs = torch.where(batch.on_policy, logprobs, batch.old_logprobs)
    log_ratio = torch.where(real, logprobs - old_logprobs, 0.0)
    if sequence is not None:
        log_ratio = torch.where(real, sequence.log_ratio[..., None], 0.0)
    advantages = torch.from_numpy(batch.advantages).to(logprobs.device)
    low = (advantages < 0) & (log_ratio < math.log1p(-min(recipe.epsilon_low, 1 - 1e-12)))
    high = (advantages > 0) & (log_ratio > math.log1p(recipe.epsilon_high))
    kl_base = value_loss = None
    if batch.base_logprobs is not None:
        kl_base = mean(kl_k3(logprobs, batch.base_logprobs))
    if done.values is not None and batch.returns is not None:
        returns = torch.from_numpy(batch.returns).to(logprobs.device)
        value_loss = mean((batch.trees.spread(done.values) - returns) ** 2)
    prior, by_prior, below = torch.exp(old_logprobs), {}, torch.zeros_like(real)
    for band, end in PRIORS.items():
        reached = prior <= end if end < 1 else torch.ones_like(real)
        here, below = reached & ~below, reached
        by_prior[f"prior_{band}"] = mean(here)
        by_prior[f"clip_low_{band}"] = mean(low & here)
        by_prior[f"clip_high_{band}"] = mean(high & here)
    return UpdateReport(
        done.loss,
        grad_norm,
        mean(low),
        mean(high),
        log_ratio.abs().amax((1, 2)),
        mean(kl_k3(old_logprobs, logprobs)),
        kl_base,
        value_loss,
        by_prior,
        logprobs,
    )
