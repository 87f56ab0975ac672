"""Batched decoding of all runs in lockstep. What several samples have said alike so far is computed once.

Sampling is Gumbel-max: token = argmax(log p + g), the noise g keyed by seed, step, problem, sample and position, not by
run. Two runs that hold the same policy and see the same problems therefore sample the same texts.

A row of the cache is a text so far, not a sample: samples of a problem share a row until their tokens part, and a
row is given up when its last sample ends. Rows go through the model in tiles of one shape, as many as are needed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from controlarm import seeds
from controlarm.organisms.tokenizer import END, PAD
from controlarm.organisms.transformer import (
    MASKED,
    Shape,
    Weights,
    compiled_form,
    embed,
    hidden_states_with_cache,
    logits,
    mlp,
    padded,
    project,
    rms_norm,
    rotary,
    rotate,
)

TILE = 48
"""Rows of each run that one pass of the model takes."""

PREFILL = 8
"""Prompts of each run that one pass reads, so that what is sampled does not depend on how many are asked at once."""

TINY = np.finfo(np.float32).tiny
"""Floor of an exponential draw, so that its logarithm is finite."""


class Completions(NamedTuple):
    """What was sampled. Positions after the end token are padding with log-probability and entropy 0."""

    tokens: Int[Tensor, "run prompt sample token"]
    logprobs: Float[Tensor, "run prompt sample token"]
    """float32, of each token under the policy that sampled it, temperature 1."""
    entropy: Float[Tensor, "run prompt sample token"]
    """float32, of the distribution that each token was drawn from, in nats."""


def gumbel_noise(
    paths: Sequence[Sequence[tuple[seeds.Part, ...] | None]], num_tokens: int, vocab: int
) -> Float[Tensor, "prompt sample token vocab"]:
    """Standard Gumbel noise, each sample keyed by its own path; zero, which decodes greedily, where the path is None.

    Padding gets -inf, so that it is never drawn: it marks what comes after the end token.
    """
    noise = np.zeros((len(paths), len(paths[0]), num_tokens, vocab), dtype=np.float32)
    for i, row in enumerate(paths):
        for j, path in enumerate(row):
            if path is None:
                continue
            rng = seeds.generator("sampling", *path)
            rng.standard_exponential(out=noise[i, j], dtype=np.float32)
            np.log(np.maximum(noise[i, j], TINY), out=noise[i, j])
    noise[..., PAD] = np.inf
    return torch.from_numpy(noise).neg_()


class Distribution(NamedTuple):
    """What follows each row."""

    logp: Float[Tensor, "run row vocab"]
    entropy: Float[Tensor, "run row"]


class Choice(NamedTuple):
    """One token of every sample."""

    token: Int[Tensor, "run sample"]
    logprob: Float[Tensor, "run sample"]
    entropy: Float[Tensor, "run sample"]


def distribution(scores: Float[Tensor, "run row vocab"]) -> Distribution:
    """softmax(scores) and its entropy in nats."""
    logp = torch.log_softmax(scores, dim=-1)
    return Distribution(logp, -(logp.exp() * logp).sum(-1))


def choose(
    told: Distribution, row: Int[Tensor, "run sample"], noise: Float[Tensor, "run sample vocab"]
) -> Choice:
    """Each sample's Gumbel-max draw from the distribution of its row; zero noise is greedy."""
    rows, vocab = told.logp.shape[1:]
    index = (torch.arange(len(row), device=row.device)[:, None] * rows + row).flatten()
    logp = told.logp.reshape(-1, vocab).index_select(0, index).view(*row.shape, vocab)
    token = (logp + noise).argmax(-1)
    entropy = told.entropy.flatten().index_select(0, index).view(row.shape)
    return Choice(token, logp.gather(-1, token[..., None])[..., 0], entropy)


class Cache:
    """Rotated keys and values of every row's text, prompt included, in tiles. It grows when rows need it."""

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], max_tokens: int) -> None:
        """``prompts``: keys and values of each layer, ``[run, prompt, head, place, width]``."""
        first = prompts[0][0]
        self.runs, self.num_prompts, self.heads, self.prompt_length, self.width = first.shape
        self.prompts = [
            (keys.transpose(-1, -2).flatten(0, 1), values.flatten(0, 1)) for keys, values in prompts
        ]
        self.length = self.prompt_length + max_tokens
        self.like = {"dtype": first.dtype, "device": first.device}
        self.keys: list[Float[Tensor, "tile run row head width place"]] = []
        self.values: list[Float[Tensor, "tile run row head place width"]] = []
        for _ in prompts:
            keys, values = self._empty(0)
            self.keys.append(keys)
            self.values.append(values)

    def _empty(self, tiles: int) -> tuple[Tensor, Tensor]:
        own = (tiles, self.runs, TILE, self.heads)
        return (
            torch.zeros(*own, self.width, self.length, **self.like),
            torch.zeros(*own, self.length, self.width, **self.like),
        )

    def grow(self, tiles: int) -> None:
        """Have room for so many tiles."""
        missing = tiles - len(self.keys[0])
        if missing > 0:
            for i, old in enumerate(zip(self.keys, self.values, strict=True)):
                new = self._empty(missing)
                both = map(torch.cat, zip(old, new, strict=True)) if len(old[0]) else new
                self.keys[i], self.values[i] = both

    def place(self, run: np.ndarray, row: np.ndarray) -> Tensor:
        """Index of rows among all rows of all tiles."""
        tile, slot = np.divmod(row, TILE)
        index = (tile * self.runs + run) * TILE + slot
        return torch.from_numpy(index).to(self.like["device"])

    def begin(self, run: np.ndarray, prompt: np.ndarray, row: np.ndarray) -> None:
        """Rows that continue a prompt."""
        source = torch.from_numpy(run * self.num_prompts + prompt).to(self.like["device"])
        target = self.place(run, row)
        for keys, values, (of_keys, of_values) in zip(
            self.keys, self.values, self.prompts, strict=True
        ):
            keys.flatten(0, 2)[target, ..., : self.prompt_length] = of_keys[source]
            values.flatten(0, 2)[target, :, : self.prompt_length] = of_values[source]

    def copy(self, run: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
        """Rows that continue another row."""
        if len(run):
            read, written = self.place(run, source), self.place(run, target)
            for tensors in (self.keys, self.values):
                for tensor in tensors:
                    flat = tensor.flatten(0, 2)
                    flat[written] = flat[read]


def decode_step(
    weights: Weights,
    keys: list[Float[Tensor, "run row head width place"]],
    values: list[Float[Tensor, "run row head place width"]],
    token: Int[Tensor, "run row"],
    start: Int[Tensor, "run row"],
    place: Int[Tensor, " 1"],
    cos: Float[Tensor, "1 width"],
    sin: Float[Tensor, "1 width"],
    shape: Shape,
) -> Distribution:
    """Append ``token`` to each row of a tile at ``place``; its keys and values enter the cache.

    Keys have places innermost: scores are then sums over rows of one contiguous vector.

    Args:
        weights: compute copy.
        keys: one tensor a layer, changed in place.
        values: the same.
        token: each row's newest.
        start: where each row's text begins; what is before is padding.
        place: where the tokens stand.
        cos: rotary table at ``place``.
        sin: the same.
        shape: sizes of the model.
    """
    runs, rows, heads, length, width = values[0].shape
    dtype = weights["embed"].dtype
    places = torch.arange(length, device=place.device)
    seen = (places >= start[..., None]) & (places <= place)
    bias = torch.where(seen, 0.0, MASKED)[:, :, None]
    x = embed(weights, token, dtype)
    for i in range(shape.layers):
        h = rms_norm(x, weights[f"{i}.norm1"])
        q, k, v = (
            project(h, weights[f"{i}.{name}"]).view(runs, rows, heads, width) for name in "qkv"
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        keys[i].index_copy_(-1, place, k[..., None])
        values[i].index_copy_(-2, place, v[..., None, :])
        scores = (q[..., None].float() * keys[i].float()).sum(-2) * width**-0.5
        attention = torch.softmax(scores + bias, dim=-1)
        mixed = (attention[..., None] * values[i].float()).sum(-2).to(dtype)
        x = x + project(mixed.reshape(x.shape), weights[f"{i}.o"])
        x = x + mlp(weights, i, rms_norm(x, weights[f"{i}.norm2"]))
    return distribution(logits(weights, rms_norm(x, weights["norm"])))


class Rows(NamedTuple):
    """The texts of a step: where each sample's is, and where each comes from."""

    of_sample: Int[np.ndarray, "run sample"]
    """Row of each sample; 0 where it has ended."""
    run: Int[np.ndarray, " text"]
    parent: Int[np.ndarray, " text"]
    row: Int[np.ndarray, " text"]
    token: Int[np.ndarray, " text"]
    tiles: int


def extend(
    of_sample: Int[np.ndarray, "run sample"],
    token: Int[np.ndarray, "run sample"],
    alive: np.ndarray,
) -> Rows:
    """Rows of all texts that are one token longer: one for each distinct pair of old row and token in a run.

    The first text that continues a row stays where it is; others, and those beyond the tiles still needed, move to free rows.
    """
    runs, samples = of_sample.shape
    vocab, num_rows = int(token.max()) + 1, int(of_sample.max()) + 1
    run_of = np.broadcast_to(np.arange(runs)[:, None], (runs, samples))[alive]
    old = run_of * num_rows + of_sample[alive]
    texts, text_of = np.unique(old * vocab + token[alive], return_inverse=True)
    old, said = np.divmod(texts, vocab)
    run, parent = np.divmod(old, num_rows)
    counts = np.bincount(run, minlength=runs)
    tiles = -(-int(counts.max()) // TILE)
    row = np.full(len(texts), -1)
    first = np.append(True, old[1:] != old[:-1])
    stays = first & (parent < tiles * TILE)
    row[stays] = parent[stays]
    taken = np.zeros((runs, tiles * TILE), dtype=bool)
    taken[run[stays], row[stays]] = True
    for one in set(run[~stays].tolist()):
        moves = (run == one) & ~stays
        row[moves] = np.flatnonzero(~taken[one])[: moves.sum()]
    found = np.zeros_like(of_sample)
    found[alive] = row[text_of]
    return Rows(found, run, parent, row, said, tiles)


def prefill(
    weights: Weights, prompts: Int[Tensor, "run prompt place"], shape: Shape
) -> tuple[Distribution, list[tuple[Tensor, Tensor]]]:
    """What follows each prompt, and each layer's rotated keys and values, as ``Cache`` wants them.

    A whole number of passes: some of the last rows may repeat the last prompt.
    """
    missing = -prompts.shape[1] % PREFILL
    filled = torch.cat((prompts, prompts[:, -1:].expand(-1, missing, -1)), dim=1)
    told, layers = [], []
    for part in filled.split(PREFILL, dim=1):
        hidden, caches = hidden_states_with_cache(weights, padded(part, shape), shape)
        told.append(distribution(logits(weights, hidden[:, :, -1])))
        layers.append(caches)
    joined: list[tuple[Tensor, Tensor]] = []
    for layer in zip(*layers, strict=True):
        keys, values = zip(*layer, strict=True)
        joined.append((torch.cat(keys, dim=1), torch.cat(values, dim=1)))
    return _joined(told), joined


def _joined(parts: Sequence[Distribution]) -> Distribution:
    return Distribution(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


@torch.no_grad()
def sample(
    weights: Weights,
    prompts: Int[Tensor, "run prompt place"],
    noise: Float[Tensor, "run prompt sample token vocab"],
    shape: Shape,
    compiled: bool,
) -> Completions:
    """Decode completions of every prompt.

    Args:
        weights: compute copy; its dtype is the compute dtype.
        prompts: left-padded.
        noise: Gumbel noise, zero where decoding is greedy; its shape says how many samples and tokens.
        shape: sizes of the model.
        compiled: use the compiled step.

    Returns:
        Completions; one without an end token within the noise's length is truncated.
    """
    runs, num_prompts, num_samples, max_tokens, _ = noise.shape
    device, length = prompts.device, prompts.shape[-1]
    told, layers = prefill(weights, prompts, shape)
    cache = Cache(layers, max_tokens)
    step = compiled_form(decode_step) if compiled else decode_step
    cos, sin = rotary(torch.arange(cache.length, device=device), shape.head)
    noise = noise.flatten(1, 2)
    starts = (prompts == PAD).sum(-1).cpu().numpy()
    asked = np.repeat(_first_alike(prompts.cpu().numpy()), num_samples, axis=1)

    of_sample, row_starts = asked, starts
    alive = np.ones(asked.shape, dtype=bool)
    made = Completions(
        torch.full((runs, asked.shape[1], max_tokens), PAD, device=device),
        torch.zeros(runs, asked.shape[1], max_tokens, device=device),
        torch.zeros(runs, asked.shape[1], max_tokens, device=device),
    )
    for t in range(max_tokens):
        drawn = choose(told, torch.from_numpy(of_sample).to(device), noise[:, :, t])
        going = torch.from_numpy(alive).to(device)
        made.tokens[..., t] = torch.where(going, drawn.token, PAD)
        made.logprobs[..., t] = torch.where(going, drawn.logprob, 0.0)
        made.entropy[..., t] = torch.where(going, drawn.entropy, 0.0)
        token = drawn.token.cpu().numpy()
        alive = alive & (token != END)
        if t + 1 == max_tokens or not alive.any():
            break
        rows = extend(of_sample, token, alive)
        cache.grow(rows.tiles)
        newest = np.full((runs, rows.tiles * TILE), PAD)
        newest[rows.run, rows.row] = rows.token
        begins = np.zeros_like(newest)
        begins[rows.run, rows.row] = row_starts[rows.run, rows.parent]
        if t == 0:
            cache.begin(rows.run, rows.parent, rows.row)
        else:
            moved = rows.row != rows.parent
            cache.copy(rows.run[moved], rows.parent[moved], rows.row[moved])
        of_sample, row_starts = rows.of_sample, begins
        place = torch.tensor([length + t], device=device)
        parts = [
            step(
                weights,
                [keys[tile] for keys in cache.keys],
                [values[tile] for values in cache.values],
                torch.from_numpy(newest[:, tile * TILE : (tile + 1) * TILE].copy()).to(device),
                torch.from_numpy(begins[:, tile * TILE : (tile + 1) * TILE].copy()).to(device),
                place, cos[place], sin[place], shape,
            )
            for tile in range(rows.tiles)
        ]  # fmt: skip
        told = _joined(parts)
    grid = (runs, num_prompts, num_samples, max_tokens)
    return Completions(*(x.view(grid) for x in made))


def _first_alike(prompts: Int[np.ndarray, "run prompt place"]) -> Int[np.ndarray, "run prompt"]:
    """Index of the first prompt of the run that is the same text."""
    found = np.empty(prompts.shape[:2], dtype=np.int64)
    for run, texts in enumerate(prompts.tolist()):
        seen: dict[tuple[int, ...], int] = {}
        found[run] = [seen.setdefault(tuple(text), i) for i, text in enumerate(texts)]
    return found
