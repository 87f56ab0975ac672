"""A Llama-shaped transformer whose leading axis is the run: one program trains many models.

Weights are ``[run, in, out]``; every matrix product is a batched product over runs, so runs never mix. The architecture is
that of Hugging Face's ``LlamaForCausalLM`` (RMSNorm, rotary positions, SwiGLU, tied embedding), so ``export`` is a renaming.
Attention is explicit: for short sequences and small heads it beats the fused kernel on a CPU.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controlarm.organisms.tokenizer import PAD, VOCAB_SIZE


class Shape(NamedTuple):
    """Sizes of an organism; 0.34 million parameters."""

    hidden: int = 96
    layers: int = 3
    heads: int = 3
    inner: int = 256
    vocab: int = VOCAB_SIZE

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


NORM_EPS = 1e-5
ROPE_THETA = 10_000.0
MASKED = -1e9

Weights = dict[str, Tensor]
"""Name → ``[run, ...]``. Names: embed, norm, and per layer i: i.q i.k i.v i.o i.gate i.up i.down i.norm1 i.norm2."""


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name → shape without the run axis, in the order of the forward pass."""
    sizes: dict[str, tuple[int, ...]] = {"embed": (shape.vocab, shape.hidden)}
    for i in range(shape.layers):
        sizes |= {f"{i}.norm1": (shape.hidden,)}
        sizes |= {f"{i}.{name}": (shape.hidden, shape.hidden) for name in ("q", "k", "v", "o")}
        sizes |= {f"{i}.norm2": (shape.hidden,)}
        sizes |= {f"{i}.{name}": (shape.hidden, shape.inner) for name in ("gate", "up")}
        sizes |= {f"{i}.down": (shape.inner, shape.hidden)}
    return sizes | {"norm": (shape.hidden,)}


def rms_norm(x: Float[Tensor, "run *rest hidden"], scale: Float[Tensor, "run hidden"]) -> Tensor:
    """x / rms(x) · scale, the mean square in float32 (arXiv:1910.07467)."""
    wide = x.float()
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
    return normal.to(x.dtype) * scale.view(scale.shape[0], *([1] * (x.ndim - 2)), -1)


def rotary(
    positions: Int[Tensor, " token"], head: int
) -> tuple[Float[Tensor, "token head"], Float[Tensor, "token head"]]:
    """Cosines and sines of RoPE (arXiv:2104.09864) in float32, halves duplicated as in Llama.

    Tables are made outside of compiled functions, which would work each number out anew wherever it is used.
    """
    frequency = ROPE_THETA ** -(torch.arange(0, head, 2, device=positions.device) / head)
    angle = (positions[:, None] * frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "*batch token head"], cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + head/2) by its position's angle."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


class Sequences(NamedTuple):
    """What a forward pass reads: tokens, and which of them each one sees.

    Token j is seen by token i when j ≤ i < ends[j]. Plain text ends at the row's length; in a tree stored depth first
    (``packing``) a node ends where its subtree does.
    """

    tokens: Int[Tensor, "run row token"]
    ends: Int[Tensor, "run row token"]
    cos: Float[Tensor, "run row token head"]
    """Rotary tables of each token's position, here and below."""
    sin: Float[Tensor, "run row token head"]


def padded(tokens: Int[Tensor, "run row token"], shape: Shape) -> Sequences:
    """Plain texts, padded on either side; nobody sees padding, but each padding itself."""
    length = tokens.shape[-1]
    places = torch.arange(length, device=tokens.device)
    ends = torch.where(tokens == PAD, places + 1, length)
    tables = (table.expand(*tokens.shape, shape.head) for table in rotary(places, shape.head))
    return Sequences(tokens, ends, *tables)


def project(x: Float[Tensor, "run row a"], weight: Float[Tensor, "run a b"]) -> Tensor:
    """Every run's rows through its own matrix."""
    return torch.bmm(x, weight)


def embed(weights: Weights, tokens: Int[Tensor, "run row"], dtype: torch.dtype) -> Tensor:
    """Rows of each run's table by one-hot product: its backward pass is a product too, not a scatter."""
    ids = torch.arange(weights["embed"].shape[1], device=tokens.device)
    return torch.bmm((tokens[..., None] == ids).to(dtype), weights["embed"])


def mlp(weights: Weights, i: int, x: Float[Tensor, "run row hidden"]) -> Tensor:
    """SwiGLU (arXiv:2002.05202)."""
    gate = torch.nn.functional.silu(project(x, weights[f"{i}.gate"]))
    return project(gate * project(x, weights[f"{i}.up"]), weights[f"{i}.down"])


def hidden_states_with_cache(
    weights: Weights, sequences: Sequences, shape: Shape
) -> tuple[Float[Tensor, "run row token hidden"], list[tuple[Tensor, Tensor]]]:
    """Final hidden states of whole sequences, normalised, and each layer's rotated keys and values.

    Keys and values are ``[run, row, head, token, width]``. The compute dtype is that of the weights.
    """
    runs, rows, length = sequences.tokens.shape
    dtype = weights["embed"].dtype
    cos, sin = sequences.cos[:, :, None], sequences.sin[:, :, None]
    place = torch.arange(length, device=sequences.tokens.device)
    before = place <= place[:, None]
    seen = before & (place[:, None] < sequences.ends[:, :, None, None, :])
    bias = torch.where(seen, 0.0, MASKED)

    def heads(flat: Tensor) -> Tensor:
        return flat.view(runs, rows, length, shape.heads, shape.head).transpose(2, 3)

    caches = []
    x = embed(weights, sequences.tokens.flatten(1), dtype)
    for i in range(shape.layers):
        h = rms_norm(x, weights[f"{i}.norm1"])
        q, k, v = (heads(project(h, weights[f"{i}.{name}"])) for name in "qkv")
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        caches.append((k, v))
        scores = (q @ k.transpose(-1, -2)).float() * shape.head**-0.5 + bias
        mixed = torch.softmax(scores, dim=-1).to(dtype) @ v
        x = x + project(mixed.transpose(2, 3).reshape(x.shape), weights[f"{i}.o"])
        x = x + mlp(weights, i, rms_norm(x, weights[f"{i}.norm2"]))
    x = rms_norm(x, weights["norm"])
    return x.view(runs, rows, length, shape.hidden), caches


def hidden_states(
    weights: Weights, sequences: Sequences, shape: Shape
) -> Float[Tensor, "run row token hidden"]:
    """Final hidden states of whole sequences, normalised."""
    return hidden_states_with_cache(weights, sequences, shape)[0]


def logits(
    weights: Weights, hidden: Float[Tensor, "run *rest hidden"]
) -> Float[Tensor, "run *rest vocab"]:
    """Next-token logits in float32, from the tied embedding."""
    flat = hidden.flatten(1, -2)
    return torch.bmm(flat, weights["embed"].transpose(1, 2)).float().view(*hidden.shape[:-1], -1)


def cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """The compute copy of float32 master weights; gradients flow back through it."""
    return {name: w.to(dtype) for name, w in weights.items()}


@functools.cache
def compiled_form(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled for fixed shapes, made at first use: to load the compiler takes longer than a small trial."""
    return torch.compile(function, dynamic=False)
