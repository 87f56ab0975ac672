"""What a policy can reach with k tries: pass@k, maj@k, and what guessing alone would reach."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from controlarm.analysis.folder import NO_ANSWER, RIGHT, UNKNOWN, Completions
from controlarm.analysis.metrics import mean


def pass_at_k(
    num_samples: Int[np.ndarray, " problem"], num_right: Int[np.ndarray, " problem"], k: int
) -> Float[np.ndarray, " problem"]:
    """1 - C(n - c, k)/C(n, k): probability that k of the n samples, drawn without replacement, hold a right one.

    Unbiased for k fresh samples (Chen et al. 2021, arXiv:2107.03374). NaN where a problem has fewer than k samples.
    """
    miss = np.ones(len(num_samples))
    for i in range(k):
        left = num_samples - i
        wrong = np.maximum(num_samples - num_right - i, 0)
        miss *= np.divide(wrong, left, out=np.full(len(left), np.nan), where=left > 0)
    return 1 - miss


class Tries(NamedTuple):
    """How often each problem was tried, and how often with success, whatever success is."""

    num_samples: Int[np.ndarray, " problem"]
    num_right: Int[np.ndarray, " problem"]


def tries(
    success: Bool[np.ndarray, "problem sample"],
    known: Bool[np.ndarray, "problem sample"] | None = None,
) -> Tries:
    """Count successes by any notion: a right answer, a valid derivation, both at once (CoT-pass@k, arXiv:2506.14245).

    Samples that are not ``known`` (the grader gave up) are not drawn: they count as no try.
    """
    known = np.ones_like(success) if known is None else known
    return Tries(known.sum(axis=1), (known & success).sum(axis=1))


def pass_curves(counts: Tries, ks: Sequence[int]) -> Float[np.ndarray, "problem k"]:
    """``pass_at_k`` at each of ``ks``, all in one pass; NaN where a problem has fewer than k samples.

    Raises:
        ValueError: unless ``ks`` are positive and increase.
    """
    if not ks or ks[0] < 1 or any(a >= b for a, b in pairwise(ks)):
        raise ValueError(
            f"pass@k of k = {list(ks)}: give numbers of tries from 1 that increase, such as [1, 2, 4]"
        )
    i = np.arange(ks[-1])
    left = counts.num_samples[:, None] - i
    wrong = np.maximum(left - counts.num_right[:, None], 0)
    miss = np.divide(wrong, left, out=np.full(left.shape, np.nan), where=left > 0)
    return 1 - np.cumprod(miss, axis=1)[:, np.array(ks) - 1]


def mean_curve(curves: Float[np.ndarray, "problem k"]) -> Float[np.ndarray, " k"]:
    """Mean over the problems that have a value at k: one training unit's curve."""
    return np.array([mean(column) for column in curves.T])


def mean_pass_at_k(samples: Completions, k: int) -> float:
    """Mean over problems, strict; samples of unknown verdict are not drawn."""
    known = (samples.strict != UNKNOWN).sum(axis=1)
    right = (samples.strict == RIGHT).sum(axis=1)
    return mean(pass_at_k(known, right, k))


@lru_cache(maxsize=100_000)
def _wins(count: int, rivals: tuple[int, ...], silent: int, k: int) -> float:
    """In how many k-subsets an answer given ``count`` times has the plurality; of a tie among t answers, 1/t.

    ``rivals`` are the other answers' counts; ``silent`` samples do not vote. Subsets are counted as products of polynomials, by size and
    number of tied rivals. Rivals that are too few to tie are as good as silent: however many of them are drawn, they cannot win.
    """
    total = 0.0
    for votes in range(1, min(count, k) + 1):
        strong = [rival for rival in rivals if rival >= votes]
        harmless = silent + sum(rival for rival in rivals if rival < votes)
        ways: Counter[tuple[int, int]] = Counter({(k - votes, 0): 1})
        for place, n in enumerate(strong, start=1):
            room = harmless + votes * (len(strong) - place)
            more: Counter[tuple[int, int]] = Counter()
            for (left, ties), count_so_far in ways.items():
                for taken in range(max(0, left - room), min(votes, left) + 1):
                    more[left - taken, ties + (taken == votes)] += count_so_far * comb(n, taken)
            ways = more
        by_ties: Counter[int] = Counter()
        for (left, ties), number in ways.items():
            by_ties[ties] += number * comb(harmless, left)
        whole = sum(number / (1 + ties) for ties, number in sorted(by_ties.items()))
        total += comb(count, votes) * whole
    return total


def majority_right(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """Probability that the plurality answer of k samples, drawn without replacement, is right; exact, not sampled.

    Answers are equal when their normalised strings are. Ties go to the answer drawn first, so t tied answers win equally often and no
    answer gains by how it looks: maj@2 is maj@1. None does not vote; a draw without any vote is wrong.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    winners = {a for a, good in zip(answers, right, strict=True) if good and a is not None}
    silent = len(answers) - counts.total()
    good = 0.0
    for name in winners:
        rivals = tuple(sorted(n for other, n in counts.items() if other != name))
        good += _wins(counts[name], rivals, silent, k)
    return good / comb(len(answers), k)


def mean_majority_right(samples: Completions, k: int) -> float:
    """maj@k, strict: only answers with a verdict in the box vote. Unknown verdicts are not drawn."""
    values = []
    for answers, verdicts in zip(samples.answer, samples.strict, strict=True):
        known = verdicts != UNKNOWN
        if known.sum() < k:
            values.append(float("nan"))
            continue
        votes = [
            None if v == NO_ANSWER else a
            for a, v in zip(answers[known], verdicts[known], strict=True)
        ]
        values.append(majority_right(votes, (verdicts[known] == RIGHT).tolist(), k))
    return mean(np.array(values))


def guess_at_k(
    gold: Sequence[str], k: int, elsewhere: Sequence[str] = ()
) -> Float[np.ndarray, " problem"]:
    """1 - (1 - f_i)^k for each problem i, as in ``guess_curve``. NaN when there are no other problems."""
    counts = Counter((*gold, *elsewhere))
    others = len(gold) + len(elsewhere) - 1
    if others < 1:
        return np.full(len(gold), np.nan)
    return np.array([1 - (1 - (counts[g] - 1) / others) ** k for g in gold])


def guess_curve(
    gold: Sequence[str], ks: Sequence[int], elsewhere: Sequence[str] = ()
) -> list[float]:
    """pass@k of one who knows only how answers are distributed: k draws, with replacement, from the other problems' answers.

    Mean over problems i of 1 - (1 - f_i)^k, where f_i is the share of the other problems that have i's answer. NaN when
    there are no others.

    Args:
        gold: answers of the problems that are guessed at.
        ks: numbers of tries.
        elsewhere: answers of further problems of the same set, which the guesser also knows.
    """
    return [mean(guess_at_k(gold, k, elsewhere)) for k in ks]


def beyond_guessing(
    curves: Float[np.ndarray, "problem k"], guess: Float[np.ndarray, "problem k"]
) -> Float[np.ndarray, "problem k"]:
    """(p - g)/(1 - g): pass@k with guessing taken out (Abbott's formula), problem by problem.

    If a policy solves a problem with chance q and else guesses, p = q + (1 - q)g, and this is q. It is linear in p, so it is as
    unbiased as pass@k; below 0 where a policy does worse than guessing, which is a finding and is not cut off. Noise grows by 1/(1 - g);
    NaN where a guess cannot fail.
    """
    room = 1 - guess
    return np.divide(curves - guess, room, out=np.full(curves.shape, np.nan), where=room > 0)
