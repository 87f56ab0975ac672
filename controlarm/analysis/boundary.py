"""What a policy can reach with k tries: pass@k, maj@k, and what guessing alone would reach."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import comb

import numpy as np
from jaxtyping import Float, Int

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


def mean_pass_at_k(samples: Completions, k: int) -> float:
    """Mean over problems, strict; samples of unknown verdict are not drawn."""
    known = (samples.strict != UNKNOWN).sum(axis=1)
    right = (samples.strict == RIGHT).sum(axis=1)
    return mean(pass_at_k(known, right, k))


@lru_cache(maxsize=100_000)
def _wins(count: int, rivals: tuple[int, ...], silent: int, k: int) -> float:
    """In how many k-subsets an answer given ``count`` times has the plurality; of a tie among t answers, 1/t.

    ``rivals`` are the other answers' counts; ``silent`` samples do not vote. Subsets are counted as products of polynomials, by size and
    number of tied rivals.
    """
    total = 0.0
    for votes in range(1, min(count, k) + 1):
        ways: Counter[tuple[int, int]] = Counter({(k - votes, 0): 1})
        for n, most, tie in (*((rival, votes, votes) for rival in rivals), (silent, k, None)):
            more: Counter[tuple[int, int]] = Counter()
            for (left, ties), count_so_far in ways.items():
                for taken in range(min(n, most, left) + 1):
                    more[left - taken, ties + (taken == tie)] += count_so_far * comb(n, taken)
            ways = more
        whole = sum(w / (1 + ties) for (left, ties), w in ways.items() if left == 0)
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
    counts = Counter((*gold, *elsewhere))
    others = len(gold) + len(elsewhere) - 1
    if others < 1:
        return [float("nan")] * len(ks)
    return [float(np.mean([1 - (1 - (counts[g] - 1) / others) ** k for g in gold])) for k in ks]
