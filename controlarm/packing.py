"""Rollouts → rows of prefix trees: what several rollouts begin with is computed once.

The samples of a group share their prompt, often their first words, and on a small model whole texts. A forward pass
needs each distinct prefix once, whoever has it. So the rollouts of a batch, sorted, become trees stored depth first: a
node is a token, its path from the root is a prefix, and it sees its ancestors and itself. Trees are cut to rows of one
length; padding is what is left over at a row's end.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Sequences, Shape, rotary


class Trees(NamedTuple):
    """Rollouts of several runs, each distinct prefix once per row."""

    nodes: Sequences
    """[run, row, node]; every run has as many rows as the one that needs most."""
    parents: Int[Tensor, "run row node"]
    """Node of the preceding token; a row's first node and its padding have themselves."""
    where: Int[Tensor, "run rollout token"]
    """row · length + node of each completion token; 0 at padding."""

    @property
    def num_rows(self) -> int:
        return self.nodes.tokens.shape[1]

    def row(self, number: int) -> "Trees":
        """One row of each run; ``where`` stays."""
        nodes = Sequences(*(one_row(x, number) for x in self.nodes))
        return Trees(nodes, one_row(self.parents, number), self.where)

    def spread(self, values: Float[Tensor, "run row node"]) -> Float[Tensor, "run rollout token"]:
        """Each completion token's value; at padding that of node 0."""
        return values.flatten(1).gather(1, self.where.flatten(1)).view(self.where.shape)

    def gather(self, values: Float[Tensor, "run rollout token"]) -> Float[Tensor, "run row node"]:
        """Each node's value, where the rollouts that share a node agree on it; 0 at nodes of prompts and padding."""
        found = values.new_zeros(self.parents.shape).flatten(1)
        found.scatter_(1, self.where.flatten(1), values.flatten(1))
        found[:, 0] = (
            0.0  # padding of completions points here, and the first node belongs to a prompt
        )
        return found.view(self.parents.shape)

    def total(self, values: np.ndarray) -> Float[Tensor, "run row node"]:
        """Each node's sum over the rollouts that share it, of float64 ``[run, rollout, token]``, zero at padding."""
        shape = self.parents.shape
        size = shape[1] * shape[2]
        places = self.where.cpu().numpy().reshape(shape[0], -1)
        places = places + size * np.arange(shape[0])[:, None]
        sums = np.bincount(places.ravel(), values.ravel(), minlength=shape[0] * size)
        return torch.from_numpy(sums).float().view(shape).to(self.parents.device)


def one_row(x: Tensor, number: int) -> Tensor:
    """``x[:, number]``, that axis kept, with the strides of a new tensor: by strides, too, compiled programs differ.

    ``contiguous`` is not enough: with a single run it finds nothing to do.
    """
    return x[:, number : number + 1].clone(memory_format=torch.contiguous_format)


class _Row(NamedTuple):
    """Rollouts of one run, in sorted order, whose trees stand in one row."""

    order: list[int]
    shared: list[int]
    """Tokens that each shares with the one before it."""


def pack(
    prompts: Int[Tensor, "run rollout place"],
    completions: Int[Tensor, "run rollout token"],
    length: int,
    shape: Shape,
) -> Trees:
    """Trees of all rollouts of a batch.

    Args:
        prompts: left-padded.
        completions: right-padded.
        length: nodes of a row; holds at least one whole rollout.
        shape: sizes of the model.
    """
    runs, rollouts, num_tokens = completions.shape
    told = torch.cat((prompts, completions), dim=-1).cpu().numpy()
    prompt_lengths = (prompts != PAD).sum(-1).cpu().numpy()
    found = [
        _rows(_moved_left(told[run], prompts.shape[-1] - prompt_lengths[run]), length)
        for run in range(runs)
    ]
    num_rows = max(len(rows) for _, rows in found)
    tokens = np.full((runs, num_rows, length), PAD)
    depths = np.zeros_like(tokens)
    ends = np.broadcast_to(np.arange(1, length + 1), tokens.shape).copy()
    parents = np.broadcast_to(np.arange(length), tokens.shape).copy()
    where = np.zeros((runs, rollouts, num_tokens), dtype=np.int64)
    for run, (sequences, rows) in enumerate(found):
        for number, row in enumerate(rows):
            texts = sequences[row.order]
            at, real = _places(texts, np.array(row.shared)), texts != PAD
            own = (run, number, at[real])
            tokens[own] = texts[real]
            depths[own] = real.nonzero()[1]
            parents[(run, number, at[:, 1:][real[:, 1:]])] = at[:, :-1][real[:, 1:]]
            last = np.take_along_axis(at, real.sum(1)[:, None] - 1, axis=1)
            np.maximum.at(ends[run, number], at[real], np.broadcast_to(last + 1, at.shape)[real])
            said = prompt_lengths[run, row.order][:, None] + np.arange(num_tokens)
            beyond = said >= real.sum(1)[:, None]
            said = np.minimum(said, at.shape[1] - 1)
            index = np.take_along_axis(at, said, axis=1) + number * length
            where[run, row.order] = np.where(beyond, 0, index)
    device = prompts.device
    cos, sin = rotary(torch.arange(told.shape[-1], device=device), shape.head)
    depth = torch.from_numpy(depths).to(device)
    nodes = Sequences(
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(ends).to(device),
        cos[depth],
        sin[depth],
    )
    return Trees(nodes, torch.from_numpy(parents).to(device), torch.from_numpy(where).to(device))


def _moved_left(sequences: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Rows of [rollout, place] without their padding in front."""
    size = sequences.shape[1]
    places = np.arange(size) + by[:, None]
    moved = np.take_along_axis(sequences, np.minimum(places, size - 1), axis=1)
    return np.where(places < size, moved, PAD)


def _rows(sequences: np.ndarray, length: int) -> tuple[np.ndarray, list[_Row]]:
    """Sorted rollouts dealt to rows: the next row begins where the new part of a rollout no longer fits."""
    keys = [text.tobytes() for text in sequences.astype(">u4")]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    ordered = sequences[order]
    differs = ordered[1:] != ordered[:-1]
    shared = np.where(differs.any(1), differs.argmax(1), sequences.shape[1])
    lengths = (ordered != PAD).sum(1)
    shared = [0, *np.minimum(shared, lengths[1:]).tolist()]
    rows: list[_Row] = []
    used = length
    for rollout, common, size in zip(order, shared, lengths.tolist(), strict=True):
        if used + size - common > length:
            rows.append(_Row([], []))
            used, common = 0, 0
        rows[-1].order.append(rollout)
        rows[-1].shared.append(common)
        used += size - common
    return sequences, rows


def _places(
    texts: Int[np.ndarray, "rollout place"], shared: Int[np.ndarray, " rollout"]
) -> Int[np.ndarray, "rollout place"]:
    """Node of each token within the row: a shared token is where the rollout that brought it put it."""
    size = texts.shape[1]
    first = np.cumsum(np.append(0, ((texts != PAD).sum(1) - shared)[:-1]))
    brings = np.arange(size) >= shared[:, None]
    rollouts = np.arange(len(texts))[:, None]
    owner = np.maximum.accumulate(np.where(brings, rollouts, 0), axis=0)
    return first[owner] + np.arange(size) - shared[owner]
