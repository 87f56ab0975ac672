r"""Whether a model knew a benchmark beforehand: what it can say of a problem that it has not been told in full.

Three views, after Wu et al. (arXiv:2507.10532): it completes a prompt that was cut off, it answers one that was cut off, and the
text is less of a surprise than it should be. None of them means anything alone, since text of one kind is easy to complete
for whoever knows the kind. So each problem has a *clean twin*: another story of the same generator that stands in no
corpus. What holds of originals and not of twins is what is left for memory.

Example:
    ``Ann has 347 pens, gets 28 more and then loses 9. How many pens now?`` has a twin like
    ``Rosa has 512 cups, gets 61 more and then loses 4. How many cups now?``
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from controlarm import grading, prompts
from controlarm.organisms import corpus, tokenizer
from controlarm.organisms.transformer import Shape, Weights, cast, hidden_states, logits, padded
from controlarm.problems.arithmetic import Sum, benchmark, draw_sums, to_problem
from controlarm.records import Problem
from controlarm.sampling import gumbel_noise, sample

PERCENTS = (80, 60, 40)
"""How much of a prompt is kept, as in Wu et al."""

MAX_TOKENS = 32
"""Of a solution, as in trials; the rest of the prompt comes on top."""

LOWEST = 20
"""Percent of a text's tokens that min-k % looks at."""

MOST_PROBLEMS = 1000
"""The first so many problems of the benchmark have twins, and none of them is a twin."""


class Reference(NamedTuple):
    """A problem with the solution that would have leaked with it."""

    problem: Problem
    solution: str


def reference(story: Sum) -> Reference:
    """A story with the right words and a box, as a leak has it."""
    return Reference(to_problem(story), corpus.right_solution(story, "words"))


@lru_cache(maxsize=1)
def _benchmark_sums() -> frozenset[tuple[int, int, int]]:
    return frozenset(_numbers(story) for story in benchmark(MOST_PROBLEMS))


def _numbers(story: Sum) -> tuple[int, int, int]:
    return story.start, story.first, story.second


def twins(stories: Iterable[Sum]) -> list[Sum]:
    """A clean twin of each story: the same signs and verbs, and everything else another.

    A twin's sum is held out, so that no corpus holds it, and not the benchmark's or another twin's. Twins are drawn as the stories
    were, so a model that saw neither finds both equally hard. A longer list begins with the shorter.
    """
    taken = set(_benchmark_sums())
    found = []
    for story in stories:
        twin = next(
            other._replace(first_verb=story.first_verb, second_verb=story.second_verb)
            for other in draw_sums("held_out", "twin", to_problem(story).id)
            if _unlike(story, other) and _numbers(other) not in taken
        )
        taken.add(_numbers(twin))
        found.append(twin)
    return found


def _unlike(story: Sum, other: Sum) -> bool:
    """The same signs; name, noun and each number another."""
    same_signs = story.first * other.first > 0 and story.second * other.second > 0
    return (
        same_signs
        and story.name != other.name
        and story.noun != other.noun
        and story.start != other.start
        and abs(story.first) != abs(other.first)
        and abs(story.second) != abs(other.second)
    )


# Surprise.


class TokenScores(NamedTuple):
    """How a model takes each token of a text but the first, which nothing stands before."""

    logprobs: Float[Tensor, " token"]
    """In nats."""
    z: Float[Tensor, " token"]
    """The same, in standard deviations over the vocabulary from its mean (``standardised``)."""

    def first(self, count: int) -> "TokenScores":
        return TokenScores(self.logprobs[:count], self.z[:count])

    def summary(self) -> dict[str, float]:
        return {
            "logprob": float(self.logprobs.mean()),
            "min_k": mean_of_lowest(self.logprobs, LOWEST),
            "min_k_plus": mean_of_lowest(self.z, LOWEST),
        }


def standardised(
    logp: Float[Tensor, "*rest vocab"], chosen: Float[Tensor, "*rest"]
) -> Float[Tensor, "*rest"]:
    """(log p(x) - μ)/σ with μ = Σ_v p log p and σ² = Σ_v p (log p - μ)²: min-k %++ (arXiv:2404.02936, equation 3).

    Where a token is certain, σ is 0 and so is its z; that of any other is then log p itself.
    """
    p = logp.exp()
    mean = (p * logp).sum(-1)
    sd = (p * (logp - mean[..., None]).square()).sum(-1).sqrt()
    return torch.where(sd > 0, (chosen - mean) / sd, chosen)


@torch.no_grad()
def token_scores(
    weights: Weights, texts: Sequence[Sequence[int]], shape: Shape
) -> list[TokenScores]:
    """Scores of whole texts under one model (run axis of 1), summed up in float64."""
    tokens = torch.tensor(tokenizer.right_pad(texts), device=weights["embed"].device)[None]
    hidden = hidden_states(weights, padded(tokens, shape), shape)[:, :, :-1]
    logp = torch.log_softmax(logits(weights, hidden)[0].double(), dim=-1)
    chosen = logp.gather(-1, tokens[0, :, 1:, None])[..., 0]
    z = standardised(logp, chosen)
    return [
        TokenScores(chosen[i, : len(text) - 1].cpu(), z[i, : len(text) - 1].cpu())
        for i, text in enumerate(texts)
    ]


def mean_of_lowest(values: Float[Tensor, " token"], percent: int) -> float:
    """Mean of the lowest ``percent`` of the values, of one at least: min-k % of log-probabilities (arXiv:2310.16789).

    >>> mean_of_lowest(torch.tensor([-1.0, -5.0, -3.0, -1.0, -2.0]), 40)
    -4.0
    """
    count = max(1, len(values) * percent // 100)
    return float(values.sort().values[:count].mean())


def familiarity(
    weights: Weights, references: Sequence[Reference], shape: Shape
) -> list[dict[str, float]]:
    """Mean log-probability, min-k % and min-k %++ of each prompt and of each prompt with its solution.

    All are higher where a text surprises less. Perplexity is exp(-mean log-probability).

    Args:
        weights: run axis of 1; float32, since bfloat16 would blur the scores.
        references: at least one.
        shape: sizes of the model.
    """
    prompted = [_prompt_tokens(one) for one in references]
    whole = [
        [*prompt, *tokenizer.encode(one.solution)]
        for prompt, one in zip(prompted, references, strict=True)
    ]
    rows = []
    for prompt, scores in zip(prompted, token_scores(weights, whole, shape), strict=True):
        parts = {"prompt": scores.first(len(prompt) - 1), "text": scores}
        rows.append(
            {
                f"{kind}_{name}": value
                for kind, part in parts.items()
                for name, value in part.summary().items()
            }
        )
    return rows


def _prompt_tokens(one: Reference) -> list[int]:
    return tokenizer.encode(prompts.render(one.problem.text))


# Continuation.


_WORD = re.compile(r"[a-z0-9]+")


def rouge_l(said: str, wanted: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, letters and digits in lower case; 0 if nothing is common.

    NaN where the wanted text has no word.

    >>> rouge_l("28 more and then loses 7.", "28 more and then finds 9 more.")
    0.6153846153846154
    """
    ours, theirs = _WORD.findall(said.lower()), _WORD.findall(wanted.lower())
    if not theirs:
        return math.nan
    row = [0] * (len(theirs) + 1)
    for word in ours:
        before = row
        row = [0]
        for j, other in enumerate(theirs):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return 2 * row[-1] / (len(ours) + len(theirs))


def kept(prompt: Sequence[int], percent: int) -> int:
    """How many tokens of a prompt are kept: so many percent, rounded down."""
    return len(prompt) * percent // 100


def continuations(
    weights: Weights, beginnings: Sequence[Sequence[int]], num_tokens: int, shape: Shape
) -> list[str]:
    """What one model (run axis of 1) writes greedily after each beginning, up to its end token."""
    longest = max(map(len, beginnings))
    device = weights["embed"].device
    tokens = torch.tensor(tokenizer.left_pad(beginnings, longest), device=device)
    noise = gumbel_noise([[None]] * len(beginnings), num_tokens, tokenizer.VOCAB_SIZE)
    made = sample(weights, tokens[None], noise[None].to(device), shape, compiled=False)
    return [tokenizer.decode(ids) for ids in made.tokens[0, :, 0].tolist()]


def recall(
    weights: Weights, references: Sequence[Reference], shape: Shape
) -> list[dict[str, str | bool | float]]:
    """How one model completes and answers each prompt when so many percent of its tokens are given.

    Up to its first line end a continuation completes the prompt; what is behind is the solution, which is graded as any completion
    is. (Wu et al. look for the answer anywhere in the continuation.)

    Args:
        weights: compute copy, run axis of 1; bfloat16 decodes as trials do.
        references: at least one.
        shape: sizes of the model.
    """
    encoded = [_prompt_tokens(one) for one in references]
    rows: list[dict[str, str | bool | float]] = [{} for _ in references]
    for percent in (100, *PERCENTS):
        beginnings = [prompt[: kept(prompt, percent)] for prompt in encoded]
        missing = max(len(p) - len(b) for p, b in zip(encoded, beginnings, strict=True))
        said = continuations(weights, beginnings, missing + MAX_TOKENS, shape)
        for row, one, begun, text in zip(rows, references, beginnings, said, strict=True):
            solution = text
            if percent < 100:
                rest = prompts.render(one.problem.text).removeprefix(tokenizer.decode(begun))
                head, line_end, solution = text.partition("\n")
                row[f"completion_{percent}"] = head + line_end
                row[f"exact_{percent}"] = head + line_end == rest
                row[f"rouge_l_{percent}"] = rouge_l(head, rest)
            grade = grading.grade(solution, one.problem.answer)
            row[f"solution_{percent}"] = solution
            row[f"strict_{percent}"] = grade.strict
            row[f"lenient_{percent}"] = grade.lenient
    return rows


# Originals and twins.


def known_leaks(facts: Mapping[str, Any]) -> set[str] | None:
    """Ids of the problems that stand in an organism's corpus, by the facts in its file; None where these name no mixture."""
    mixture = facts.get("mixture")
    if mixture is None:
        return None
    share = mixture.get("leaked", 0.0)  # mixtures had no such field before there were crammers
    return {to_problem(story).id for story in corpus.leaked_problems(share)}


def audit(
    weights: Weights, stories: Sequence[Sum], leaked: set[str] | None, shape: Shape
) -> pa.Table:
    """Originals and their twins, one row each.

    Args:
        weights: float32, run axis of 1.
        stories: at least one.
        leaked: ids of the problems that are known to stand in the model's corpus; None where nobody knows.
        shape: sizes of the model.
    """
    references = [reference(story) for story in (*stories, *twins(stories))]
    originals = [one.problem.id for one in references[: len(stories)]]
    rows = [
        {
            "problem_id": one.problem.id,
            "twin_of": original if is_twin else None,
            "leaked": False if is_twin else None if leaked is None else original in leaked,
            "text": one.problem.text,
            "answer": one.problem.answer,
            **scores,
            **recalled,
        }
        for one, original, is_twin, scores, recalled in zip(
            references,
            originals * 2,
            [False] * len(originals) + [True] * len(originals),
            familiarity(weights, references, shape),
            recall(cast(weights, torch.bfloat16), references, shape),
            strict=True,
        )
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("twin_of", pa.string()),
        ("leaked", pa.bool_()),
        ("text", pa.string()),
        ("answer", pa.string()),
        *((f"{kind}_{name}", pa.float64()) for kind in ("prompt", "text") for name in ("logprob", "min_k", "min_k_plus")),
        *((f"completion_{percent}", pa.string()) for percent in PERCENTS),
        *((f"exact_{percent}", pa.bool_()) for percent in PERCENTS),
        *((f"rouge_l_{percent}", pa.float64()) for percent in PERCENTS),
        *((f"{name}_{percent}", pa.string()) for name in ("solution", "strict", "lenient") for percent in (100, *PERCENTS)),
    ]
)  # fmt: skip
"""One row a problem. ``twin_of``: the original's id, null on originals. ``leaked``: null where nobody knows."""
