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
def _wins(count: int, earlier: tuple[int, ...], later: tuple[int, ...], silent: int, k: int) -> int:
    """In how many k-subsets an answer given ``count`` times has the plurality.

    It beats ``later`` answers (larger strings) on ties and loses to ``earlier`` ones. ``silent`` samples do not vote.
    """
    total = 0
    for votes in range(1, min(count, k) + 1):
        ways = [0] * (k - votes + 1)
        ways[0] = 1
        rivals = (
            [(n, votes - 1) for n in earlier] + [(n, votes) for n in later] + [(silent, silent)]
        )
        for n, most in rivals:
            ways = [
                sum(ways[size - j] * comb(n, j) for j in range(min(n, most, size) + 1))
                for size in range(len(ways))
            ]
        total += comb(count, votes) * ways[-1]
    return total


def majority_right(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """Probability that the plurality answer of k samples, drawn without replacement, is right; exact, not sampled.

    Answers are equal when their normalised strings are; ties go to the smallest string; None does not vote; a draw without any vote is
    wrong.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    names = sorted(counts)
    winners = {answer for answer, good in zip(answers, right, strict=True) if good}
    good = 0
    for i, name in enumerate(names):
        if name in winners:
            earlier = tuple(sorted(counts[n] for n in names[:i]))
            later = tuple(sorted(counts[n] for n in names[i + 1 :]))
            good += _wins(counts[name], earlier, later, len(answers) - counts.total(), k)
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
        values.append(majority_right(votes, list(verdicts[known] == RIGHT), k))
    return mean(np.array(values))


def guess_curve(gold: Sequence[str], ks: Sequence[int]) -> list[float]:
    """pass@k of one who knows only how answers are distributed: k draws, with replacement, from the other problems' answers.

    Mean over problems i of 1 - (1 - f_i)^k, where f_i is the share of the other problems that have i's answer. NaN for one problem.
    """
    counts = Counter(gold)
    others = len(gold) - 1
    if others < 1:
        return [float("nan")] * len(ks)
    return [float(np.mean([1 - (1 - (counts[g] - 1) / others) ** k for g in gold])) for k in ks]
