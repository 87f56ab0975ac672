"""Operations of the matrix products, counted from the shapes: what the engine computes, and what the texts need.

A product of [m, k] and [k, n] is 2·m·k·n operations. Everything else (norms, softmax, SwiGLU's gate) is not counted.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from torch import Tensor

from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Shape
from controlarm.packing import Layout


def num_parameters(shape: Shape) -> int:
    """Of one run."""
    hidden = shape.hidden
    layer = 4 * hidden**2 + 3 * hidden * shape.inner + 2 * hidden
    return shape.vocab * hidden + shape.layers * layer + hidden


def embedding(shape: Shape, nodes: int) -> int:
    """The one-hot product; a lookup would need none."""
    return 2 * nodes * shape.vocab * shape.hidden


def body(shape: Shape, nodes: int, seen: int) -> int:
    """Layers: projections of each node, and attention over all places that nodes see, ``seen`` in sum."""
    projections = 4 * shape.hidden**2 + 3 * shape.hidden * shape.inner
    return shape.layers * (2 * nodes * projections + 4 * seen * shape.hidden)


def logits(shape: Shape, nodes: int) -> int:
    """The tied embedding's product."""
    return 2 * nodes * shape.vocab * shape.hidden


def forward(shape: Shape, nodes: int, seen: int) -> int:
    """A forward pass of the engine: one-hot product, layers, logits."""
    return embedding(shape, nodes) + body(shape, nodes, seen) + logits(shape, nodes)


def backward(shape: Shape, nodes: int, seen: int) -> int:
    """Two products for each of the forward pass, but one for the one-hot product: tokens have no gradient."""
    return 2 * forward(shape, nodes, seen) - embedding(shape, nodes)


class Prefixes(NamedTuple):
    """Distinct prefixes of the rollouts of all runs: what a pass cannot do without."""

    nodes: int
    seen: int
    """Their lengths in sum: each sees itself and what is before."""


def prefixes(
    prompts: Int[Tensor, "run rollout place"], completions: Int[Tensor, "run rollout token"]
) -> Prefixes:
    """Counted one by one, without the engine's trees."""
    nodes = seen = 0
    for asked, told in zip(prompts.tolist(), completions.tolist(), strict=True):
        texts = {tuple(t for t in (*p, *c) if t != PAD) for p, c in zip(asked, told, strict=True)}
        found = {text[:end] for text in texts for end in range(1, len(text) + 1)}
        nodes += len(found)
        seen += sum(map(len, found))
    return Prefixes(nodes, seen)


def distinct_share(completions: Int[np.ndarray, "run prompt sample token"]) -> float:
    """Share of completion tokens that no other sample of the same prompt and run has after the same text."""
    distinct = total = 0
    for group in completions.reshape(-1, *completions.shape[2:]).tolist():
        texts = [tuple(t for t in text if t != PAD) for text in group]
        distinct += len({text[:end] for text in texts for end in range(1, len(text) + 1)})
        total += sum(map(len, texts))
    return distinct / total


class Product(NamedTuple):
    """A batched product as a pass has it: ``batch`` of [m, k]·[k, n], ``number`` times."""

    batch: int
    m: int
    k: int
    n: int
    turned: str = ""
    """``left`` or ``right``: that factor is a transposed view, as gradients have it."""
    number: int = 1

    @property
    def operations(self) -> int:
        """Of all ``number``."""
        return 2 * self.batch * self.m * self.k * self.n * self.number

    def __str__(self) -> str:
        turned = f" ({self.turned} turned)" if self.turned else ""
        return f"{self.batch}×[{self.m}, {self.k}]·[{self.k}, {self.n}]{turned}"


def _with_gradients(one: Product) -> list[Product]:
    """The product X·W and those of its gradients dY·Wᵀ and Xᵀ·dY."""
    batch, m, k, n, _, number = one
    return [
        one,
        Product(batch, m, n, k, "right", number),
        Product(batch, k, m, n, "left", number),
    ]


def _projections(shape: Shape, slots: int, rows: int) -> list[Product]:
    hidden, inner, layers = shape.hidden, shape.inner, shape.layers
    return [
        Product(slots, rows, hidden, hidden, number=4 * layers),
        Product(slots, rows, hidden, inner, number=2 * layers),
        Product(slots, rows, inner, hidden, number=layers),
    ]


def update_products(shape: Shape, layout: Layout) -> list[Product]:
    """Of one forward and backward pass; their operations are ``forward`` + ``backward``."""
    slots, rows, length = layout
    nodes, attentions = rows * length, slots * rows * shape.heads
    onehot = Product(slots, nodes, shape.vocab, shape.hidden)
    scores = Product(attentions, length, shape.head, length, "right", shape.layers)
    mixed = Product(attentions, length, length, shape.head, number=shape.layers)
    scored = Product(slots, nodes, shape.hidden, shape.vocab, "right")
    both = [*_projections(shape, slots, nodes), mixed]
    # scores = q·kᵀ and logits = h·Eᵀ: the gradient of the left factor is a plain product
    tied = [
        part
        for one in (scores, scored)
        for part in (
            one,
            Product(one.batch, one.m, one.n, one.k, "", one.number),
            Product(one.batch, one.n, one.m, one.k, "left", one.number),
        )
    ]
    return [
        onehot,
        Product(slots, shape.vocab, nodes, shape.hidden, "left"),
        *(part for one in both for part in _with_gradients(one)),
        *tied,
    ]


def decode_products(shape: Shape, runs: int, rows: int) -> list[Product]:
    """Of one decoding pass over a tile of each run; attention is no product there."""
    return [
        Product(runs, rows, shape.vocab, shape.hidden),
        *_projections(shape, runs, rows),
        Product(runs, rows, shape.hidden, shape.vocab, "right"),
    ]
