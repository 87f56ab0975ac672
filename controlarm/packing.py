"""Rollouts → rows of prefix trees: what several rollouts begin with is computed once.

The samples of a group share their prompt, often their first words, and on a small model whole texts. A forward pass
needs each distinct prefix once, whoever has it. So the rollouts of a run, sorted, become trees stored depth first: a
node is a token, its path from the root is a prefix, and it sees its ancestors and itself. Trees are cut to rows of one
length; padding is what is left over at a row's end.

Rows stand in slots, each of one run. A pass takes so many slots, whosever they are: a run with much to learn takes more
of them than one with little. Rollouts with credit come first; the others have no gradient, and go through no backward pass.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Sequences, Shape, Weights, rotary


class Layout(NamedTuple):
    """Shape of a pass."""

    slots: int
    rows: int
    """Of each slot."""
    length: int
    """Nodes of a row; holds at least one whole rollout."""


class Part(NamedTuple):
    """What the model reads of some slots."""

    nodes: Sequences
    parents: Int[Tensor, "slot row node"]


class Pass(NamedTuple):
    """One pass: some slots, and whose they are."""

    at: slice
    run: Int[Tensor, " slot"]
    part: Part

    def weights(self, weights: Weights) -> Weights:
        """Each slot's own copy, to be learnt from."""
        return {name: w.index_select(0, self.run).requires_grad_() for name, w in weights.items()}


class Trees(NamedTuple):
    """Rollouts of several runs, each distinct prefix once per row."""

    nodes: Sequences
    """[slot, row, node]"""
    parents: Int[Tensor, "slot row node"]
    """Node of the preceding token; a row's first node and its padding have themselves."""
    where: Int[Tensor, "run rollout token"]
    """Place of each completion token among all nodes; 0 at padding."""
    run: Int[Tensor, " slot"]
    """Whose a slot is. The last slots may be empty."""
    num_with_credit: int
    """Slots that hold a rollout with credit. They come first."""
    layout: Layout

    def passes(self) -> Iterator[Pass]:
        """Cut to passes of one shape."""
        for start in range(0, len(self.run), self.layout.slots):
            at = slice(start, start + self.layout.slots)
            part = Part(Sequences(*(x[at] for x in self.nodes)), self.parents[at])
            yield Pass(at, self.run[at], part)

    def spread(self, values: Float[Tensor, "slot row node"]) -> Float[Tensor, "run rollout token"]:
        """Each completion token's value; at padding that of node 0."""
        return values.flatten()[self.where]

    def gather(self, values: Float[Tensor, "run rollout token"]) -> Float[Tensor, "slot row node"]:
        """Each node's value, where the rollouts that share a node agree on it; 0 at nodes of prompts and padding."""
        found = values.new_zeros(self.parents.numel())
        found[self.where.flatten()] = values.flatten()
        found[0] = 0.0  # padding points here, and the first node belongs to a prompt
        return found.view(self.parents.shape)

    def total(self, values: np.ndarray) -> Float[Tensor, "slot row node"]:
        """Each node's sum over the rollouts that share it, of float64 ``[run, rollout, token]``; padding is not read."""
        where = self.where.cpu().numpy()
        real = where > 0
        sums = np.bincount(where[real], values[real], minlength=self.parents.numel())
        return torch.from_numpy(sums).float().view(self.parents.shape).to(self.parents.device)


class _Row(NamedTuple):
    """Rollouts of one run, in sorted order, whose trees stand in one row."""

    order: list[int]
    shared: list[int]
    """Tokens that each shares with the one before it."""


class _Slot(NamedTuple):
    run: int
    rows: list[_Row]
    credit: bool


def pack(
    prompts: Int[Tensor, "run rollout place"],
    completions: Int[Tensor, "run rollout token"],
    credit: Bool[np.ndarray, "run rollout"],
    layout: Layout,
    shape: Shape,
) -> Trees:
    """Trees of all rollouts of a batch.

    Args:
        prompts: left-padded.
        completions: right-padded.
        credit: which rollouts the loss depends on.
        layout: shape of a pass; there are slots for a whole number of them.
        shape: sizes of the model.
    """
    runs, rollouts, num_tokens = completions.shape
    told = torch.cat((prompts, completions), dim=-1).cpu().numpy()
    prompt_lengths = (prompts != PAD).sum(-1).cpu().numpy()
    texts_of = [
        _moved_left(told[run], prompts.shape[-1] - prompt_lengths[run]) for run in range(runs)
    ]
    slots = sorted(
        (slot for run in range(runs) for slot in _slots(run, texts_of[run], credit[run], layout)),
        key=lambda slot: not slot.credit,
    )
    num_slots = -(-len(slots) // layout.slots) * layout.slots
    tokens = np.full((num_slots, layout.rows, layout.length), PAD)
    depths = np.zeros_like(tokens)
    ends = np.broadcast_to(np.arange(1, layout.length + 1), tokens.shape).copy()
    parents = np.broadcast_to(np.arange(layout.length), tokens.shape).copy()
    where = np.zeros((runs, rollouts, num_tokens), dtype=np.int64)
    for slot, (run, rows, _) in enumerate(slots):
        for number, row in enumerate(rows):
            texts = texts_of[run][row.order]
            at, real = _places(texts, np.array(row.shared)), texts != PAD
            own = (slot, number, at[real])
            tokens[own] = texts[real]
            depths[own] = real.nonzero()[1]
            parents[(slot, number, at[:, 1:][real[:, 1:]])] = at[:, :-1][real[:, 1:]]
            last = np.take_along_axis(at, real.sum(1)[:, None] - 1, axis=1)
            np.maximum.at(ends[slot, number], at[real], np.broadcast_to(last + 1, at.shape)[real])
            said = prompt_lengths[run, row.order][:, None] + np.arange(num_tokens)
            beyond = said >= real.sum(1)[:, None]
            said = np.minimum(said, at.shape[1] - 1)
            first = (slot * layout.rows + number) * layout.length
            index = np.take_along_axis(at, said, axis=1) + first
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
    owners = torch.tensor([slot.run for slot in slots] + [0] * (num_slots - len(slots)))
    return Trees(
        nodes,
        torch.from_numpy(parents).to(device),
        torch.from_numpy(where).to(device),
        owners.to(device),
        sum(slot.credit for slot in slots),
        layout,
    )


def _slots(run: int, sequences: np.ndarray, credit: np.ndarray, layout: Layout) -> Iterator[_Slot]:
    """A run's rows in slots; those with credit first."""
    rows = _rows(sequences, credit, layout.length)
    for start in range(0, len(rows), layout.rows):
        own = rows[start : start + layout.rows]
        yield _Slot(run, own, bool(credit[[i for row in own for i in row.order]].any()))


def _moved_left(sequences: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Rows of [rollout, place] without their padding in front."""
    size = sequences.shape[1]
    places = np.arange(size) + by[:, None]
    moved = np.take_along_axis(sequences, np.minimum(places, size - 1), axis=1)
    return np.where(places < size, moved, PAD)


def _rows(sequences: np.ndarray, credit: np.ndarray, length: int) -> list[_Row]:
    """Sorted rollouts dealt to rows: the next row begins where the new part of a rollout no longer fits."""
    texts = [text.tobytes() for text in sequences.astype(">u4")]
    keys = list(zip((~credit).tolist(), texts, strict=True))
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
    return rows


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
