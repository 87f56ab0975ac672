"""Pretrain organisms from scratch, several at once: families and seeds are runs of one lockstep program."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controlarm import seeds
from controlarm.organisms import corpus, tokenizer
from controlarm.organisms.transformer import (
    Sequences,
    Shape,
    Weights,
    cast,
    hidden_states,
    logits,
    padded,
    parameter_shapes,
)
from controlarm.update import clip_per_run

DOCUMENT_LENGTH = 48


class Pretraining(NamedTuple):
    """How organisms are made; the released ones used the defaults."""

    num_steps: int = 2500
    batch_size: int = 128
    """Documents a step."""
    learning_rate: float = 3e-3
    """Peak of a schedule with linear warm-up and cosine decay to a tenth."""
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


FURTHER = Pretraining(num_steps=500, learning_rate=2e-3)
"""How organisms are made that another family was before (``corpus.CONTINUES``)."""


class Organism(NamedTuple):
    """One model: a family and a pretraining seed."""

    family: str
    seed: int


def initial_weights(organisms: Sequence[Organism], shape: Shape) -> Weights:
    """Normal(0, .02) matrices scaled down in the residual writers, unit norms; keyed by the pretraining seed.

    Families of one seed start from the same numbers, so that only the corpus differs.
    """
    weights = {}
    for name, size in parameter_shapes(shape).items():
        if "norm" in name:
            weights[name] = torch.ones(len(organisms), *size)
            continue
        scale = 0.02 / math.sqrt(2 * shape.layers) if name[2:] in ("o", "down") else 0.02
        if name != "embed":
            scale *= math.sqrt(768 / shape.hidden)
        draws = [
            seeds.generator("initial-weights", o.seed, name).standard_normal(size, dtype="float32")
            for o in organisms
        ]
        weights[name] = torch.stack([torch.from_numpy(d) for d in draws]) * scale
    return weights


def batches(organism: Organism, batch_size: int) -> Iterator[Int[Tensor, "document token"]]:
    """Right-padded documents, prompt and solution and end token."""
    path = (organism.seed, "further") if organism.family in corpus.CONTINUES else (organism.seed,)
    stream = corpus.documents(corpus.FAMILIES[organism.family], *path)
    while True:
        rows = torch.full((batch_size, DOCUMENT_LENGTH), tokenizer.PAD)
        for row, (prompt, solution) in zip(rows, stream, strict=False):
            tokens = [*tokenizer.encode(prompt + solution), tokenizer.END]
            row[: len(tokens)] = torch.tensor(tokens)
        yield rows


def document_loss(weights: Weights, documents: Sequences, shape: Shape) -> Float[Tensor, " run"]:
    """Mean negative log-likelihood (nats) per non-padding token, each run apart."""
    hidden = hidden_states(cast(weights, torch.bfloat16), documents, shape)[:, :, :-1]
    targets = documents.tokens[:, :, 1:]
    scores = logits(cast(weights, torch.bfloat16), hidden)
    loss = torch.logsumexp(scores, -1) - scores.gather(-1, targets[..., None])[..., 0]
    real = (targets != tokenizer.PAD).float()
    return (loss * real).sum((1, 2)) / real.sum((1, 2))


def learning_rate_at(step: int, recipe: Pretraining) -> float:
    """Linear warm-up, then cosine to a tenth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.num_steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def pretrain(
    organisms: Sequence[Organism],
    recipe: Pretraining,
    shape: Shape,
    on_step: Callable[[int, Float[Tensor, " run"]], None],
    compiled: bool = True,
    start: Weights | None = None,
) -> Weights:
    """Train all organisms together; ``on_step`` receives the step and each organism's loss. ``start``: what they were before, run by run."""
    weights = initial_weights(organisms, shape) if start is None else start
    weights = {name: w.clone() for name, w in weights.items()}
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(
        weights.values(), weight_decay=recipe.weight_decay, betas=(0.9, 0.95), fused=True
    )
    streams = [batches(o, recipe.batch_size) for o in organisms]
    loss_of = torch.compile(document_loss, dynamic=False) if compiled else document_loss
    for step in range(recipe.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        documents = padded(torch.stack([next(s) for s in streams]), shape)
        losses = loss_of(weights, documents, shape)
        optimizer.zero_grad()
        losses.sum().backward()
        clip_per_run(weights.values(), recipe.max_grad_norm)
        optimizer.step()
        on_step(step, losses.detach())
    return {name: w.detach() for name, w in weights.items()}
