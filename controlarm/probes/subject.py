"""Whom a probe examines and on what, with the completions and log-probabilities that several probes need.

A probe reads weights and problems and gives a table; it opens no file. All completions of a subject are drawn with the
noise of one path: token t of sample k of a problem has the same noise under every prompt, strategy, temperature and
policy, so what is compared is compared draw by draw. If the path is the evaluation's, so is the noise.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controlarm import evaluation, prompts, seeds
from controlarm.evaluation import GREEDY, Row, Sampled
from controlarm.organisms import tokenizer
from controlarm.organisms.transformer import Shape, Weights
from controlarm.protocol import Recipe
from controlarm.records import Problem
from controlarm.sampling import Completions, gumbel_noise, sample
from controlarm.update import score, trees_of

Noise = Float[Tensor, "problem sample token vocab"]
"""Of the greedy completion first, where it is zero."""


PLAIN = Recipe(
    prompts_per_step=1, group_size=2, updates_per_rollout=1, learning_rate=1.0, precision="float32"
)
"""GRPO without further terms: what probes score and update with, whatever a run's own recipe, so that runs can be compared.
Scoring takes the precision of the weights that it is given."""


class Block(NamedTuple):
    """Some problems, and the noise of their completions."""

    rows: list[Row]
    noise: Noise


class Said(NamedTuple):
    """What a policy says to its plain prompts."""

    tokens: Int[Tensor, "problem sample token"]
    """Samples alone, no greedy completion."""
    completions: list[list[Sampled]]
    """Of each problem: the greedy one, then the samples."""

    @property
    def samples(self) -> list[list[Sampled]]:
        """The same without the greedy ones."""
        return [made[1:] for made in self.completions]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A checkpoint, base or trained, and what it is asked. All weights have a run axis of 1."""

    policy: Weights
    """Compute copy: what samples."""
    policy_master: Weights
    """float32."""
    base: Weights
    """Compute copy of the base; the same object as ``policy`` where the base itself is examined."""
    base_master: Weights
    problems: list[Problem]
    """Held out."""
    samples: int
    """Of each problem, beside one greedy completion."""
    path: tuple[seeds.Part, ...]
    """Of the noise; problem id and sample number are appended."""
    prompt_length: int
    """Tokens of the longest prompt."""
    max_tokens: int
    """Longest completion."""
    shape: Shape
    as_base: "Subject | None" = None
    """The base's own subject, where ``trained`` made this one."""

    def trained(self, policy: Weights, policy_master: Weights) -> "Subject":
        """A policy that was trained from this base, asked the same. What the base says is drawn once for all of them."""
        return replace(self, policy=policy, policy_master=policy_master, as_base=self)

    @functools.cached_property
    def own(self) -> Said:
        """What the policy says. Made once, however many probes look at it."""
        return self._said(self.policy)

    @functools.cached_property
    def of_base(self) -> Said:
        """What the base says, with the same noise."""
        if self.as_base is not None:
            return self.as_base.own
        return self.own if self.base is self.policy else self._said(self.base)

    def _said(self, weights: Weights) -> Said:
        tokens, completions = [], []
        for block in blocks(self):
            made = decode(self, weights, block)
            tokens.append(made.tokens[0, :, 1:])
            completions += by_problem(block.rows, made)
        return Said(torch.cat(tokens), completions)


def blocks(subject: Subject) -> Iterator[Block]:
    """All problems, as many at once as an evaluation makes."""
    numbers = (GREEDY, *range(subject.samples))
    size = max(1, evaluation.BLOCK_TOKENS // subject.max_tokens // len(numbers))
    for start in range(0, len(subject.problems), size):
        rows = [Row(problem, numbers) for problem in subject.problems[start : start + size]]
        paths = [
            [None if s == GREEDY else (*subject.path, row.problem.id, s) for s in numbers]
            for row in rows
        ]
        yield Block(rows, gumbel_noise(paths, subject.max_tokens, tokenizer.VOCAB_SIZE))


def decode(
    subject: Subject,
    weights: Weights,
    block: Block,
    prefix: str = "",
    openings: Sequence[str] | None = None,
) -> Completions:
    """Completions of a block's prompts, run axis of 1, on the CPU.

    Args:
        subject: lengths and shape.
        weights: compute copy.
        block: problems and noise.
        prefix: stands before every prompt.
        openings: what each completion begins with, as many tokens for each; it is not among the completions' tokens, and
            they go on with the noise of the places where they stand.
    """
    begun = [tokenizer.encode(text) for text in openings or [""] * len(block.rows)]
    num_begun = len(begun[0])
    assert {len(ids) for ids in begun} == {num_begun}
    before = tokenizer.encode(prefix)
    asked = [
        [*before, *tokenizer.encode(prompts.render(row.problem.text)), *opening]
        for row, opening in zip(block.rows, begun, strict=True)
    ]
    length = len(before) + subject.prompt_length + num_begun
    device = weights["embed"].device
    tokens = torch.tensor(tokenizer.left_pad(asked, length), device=device)
    noise = block.noise[:, :, num_begun:].to(device)
    made = sample(weights, tokens[None], noise[None], subject.shape, compiled=False)
    return Completions(*(x.cpu() for x in made))


def by_problem(
    rows: Sequence[Row], made: Completions, openings: Sequence[str] | None = None
) -> list[list[Sampled]]:
    """Completions as texts, their openings in front; of each problem the greedy one first."""
    each = iter(evaluation.unpack(rows, made, 0))
    begun = openings or [""] * len(rows)
    return [
        [one._replace(text=opening + one.text) for one in itertools.islice(each, len(row.samples))]
        for row, opening in zip(rows, begun, strict=True)
    ]


@torch.no_grad()
def logprobs(
    weights: Weights,
    asked: Int[Tensor, "rollout place"],
    completions: Int[Tensor, "rollout token"],
    shape: Shape,
) -> Float[Tensor, "run rollout token"]:
    """Log-probabilities of texts under the weights of every run; 0 at padding.

    By the program that learns, so that weights that did not move give the same to the bit.

    Args:
        weights: compute copy; all runs read the same texts.
        asked: prompts, left-padded.
        completions: right-padded.
        shape: sizes of the model.
    """
    device, runs = weights["embed"].device, len(weights["embed"])
    asked = asked.to(device).expand(runs, -1, -1)
    completions = completions.to(device).expand(runs, -1, -1)
    nothing = torch.zeros(completions.shape[:2], dtype=torch.bool).numpy()
    trees = trees_of(asked, completions, nothing, shape)
    return score(weights, trees, completions, PLAIN, shape, compiled=False).cpu()
