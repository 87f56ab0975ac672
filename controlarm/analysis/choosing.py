"""When, not how: what a base could reach if nothing but its choice of strategy changed, problem by problem.

A gain that does not exceed what choosing the better strategy for each problem would have given needs no new ability to explain it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from controlarm.analysis.metrics import PerProblem, PerSample, mean, per_problem

nan = float("nan")


class Choosing(NamedTuple):
    """Accuracies of one base model if nothing but the choice of strategy changed. Means over the same problems."""

    own: float
    """At the base's own shares."""
    code: float
    """With code forced throughout."""
    words: float
    oracle: float
    """The better strategy for each problem, chosen on one half of the samples and measured on the other, both ways round: no higher than
    the true best on average."""
    naive_oracle: float
    """The better strategy chosen and measured on the same samples: no lower than the true best on average (winner's curse)."""
    num_problems: int
    num_unknown: int
    """Problems left out: a share is missing, or a strategy has no sample with a verdict in either half."""

    @property
    def bound(self) -> float:
        """Most that choosing better could add to the base: oracle - own."""
        return self.oracle - self.own

    @property
    def naive_bound(self) -> float:
        """The same with the winner's curse; the true bound lies between the two, on average."""
        return self.naive_oracle - self.own


def choosing(
    code: PerSample,
    words: Float[np.ndarray, "problem_of_words sample_of_words"],
    code_shares: Float[np.ndarray, " problem_of_shares"],
) -> Choosing:
    """Bounds of "when, not how" for one unit.

    Halves are the even and the odd samples. A tie in the half that chooses takes the mean of both strategies, as a fair coin would.

    Args:
        code: 1 right, 0 wrong, NaN unknown, of samples where code was forced.
        words: the same where words were forced.
        code_shares: share of the base's own completions that are code, of each problem.
    """
    if not len(code) == len(words) == len(code_shares):
        raise ValueError(f"one row a problem is needed; there are {len(code)} of code, {len(words)} of words and {len(code_shares)} shares")  # fmt: skip
    halves = [(per_problem(code[:, i::2]), per_problem(words[:, i::2])) for i in (0, 1)]
    halved = np.stack([code_shares, *(half for pair in halves for half in pair)])
    known = np.asarray(~np.isnan(halved).any(axis=0))
    with_code, with_words = per_problem(code)[known], per_problem(words)[known]
    share = code_shares[known]
    chosen = []
    for (choose_code, choose_words), (code_there, words_there) in (halves, halves[::-1]):
        pick = (1 + np.sign(choose_code - choose_words)) / 2
        chosen.append((pick * code_there + (1 - pick) * words_there)[known])
    return _choosing(with_code, with_words, share, (chosen[0] + chosen[1]) / 2, known)


def _choosing(
    code: PerProblem,
    words: PerProblem,
    share: PerProblem,
    oracle: PerProblem,
    known: Bool[np.ndarray, " problem_of_all"],
) -> Choosing:
    """Means over the problems that can be split; ``known`` says which of all."""
    return Choosing(
        own=mean(share * code + (1 - share) * words),
        code=mean(code),
        words=mean(words),
        oracle=mean(oracle),
        naive_oracle=mean(np.maximum(code, words)),
        num_problems=int(known.sum()),
        num_unknown=int((~known).sum()),
    )


class Tally(NamedTuple):
    """What is left of each problem's samples where verdicts were counted."""

    right: Int[np.ndarray, " problem"]
    known: Int[np.ndarray, " problem"]
    """Samples that have a verdict."""


def choosing_of_counts(
    code: Tally, words: Tally, code_shares: Float[np.ndarray, " problem_of_shares"]
) -> Choosing:
    """`choosing` where only counts were kept: its expectation over all halvings of each strategy's samples, which is exact.

    Of n samples with c right, a half of m has X right, hypergeometric, and the other half c - X; both sizes of an odd n choose
    in turn. Averaging over halvings takes their luck away and leaves the honesty: what chooses is never measured. Code and words
    are halved apart, as if a sample of one said nothing of the other's; even one noise for both is read at other tokens.

    Args:
        code: counts where code was forced.
        words: the same where words were forced.
        code_shares: share of the base's own completions that are code, of each problem.
    """
    sizes = {len(each) for each in (*code, *words, code_shares)}
    if len(sizes) > 1:
        raise ValueError(f"one row a problem is needed; there are {len(code.right)} of code, {len(words.right)} of words and {len(code_shares)} shares")  # fmt: skip
    known = ~np.isnan(code_shares) & (code.known > 1) & (words.known > 1)
    both = [Tally(each.right[known], each.known[known]) for each in (code, words)]
    with_code, with_words = (each.right / each.known for each in both)
    # Problems of equal counts have equal expectations, and there are few kinds of them.
    kinds, kind = np.unique(np.stack([*both[0], *both[1]], axis=1), axis=0, return_inverse=True)
    each_kind = np.array([_expected_choice(*map(int, counts)) for counts in kinds])
    oracle = each_kind[kind] if len(kinds) else np.empty(0)
    return _choosing(with_code, with_words, code_shares[known], oracle, known)


def _expected_choice(code: int, num_code: int, words: int, num_words: int) -> float:
    """Accuracy on the other half of what the better half chooses, over all halves; right and known counts of one problem."""
    found = []
    for up in (1, 0):
        m, k = (num_code + up) // 2, (num_words + up) // 2
        x, y = np.arange(m + 1), np.arange(k + 1)
        chance = np.outer(
            stats.hypergeom.pmf(x, num_code, code, m), stats.hypergeom.pmf(y, num_words, words, k)
        )
        pick = (1 + np.sign(x[:, None] * k - y[None] * m)) / 2
        there = (code - x[:, None]) / (num_code - m), (words - y[None]) / (num_words - k)
        found.append(float((chance * (pick * there[0] + (1 - pick) * there[1])).sum()))
    return (found[0] + found[1]) / 2


def share_under_bound(gain: float, bound: float) -> float:
    """What share of a gain better choosing could explain: min(gain, max(bound, 0)) / gain, from 0 to 1.

    1 says that choosing suffices, not that it was what happened. A bound below 0 is noise: choosing can always do nothing. NaN where there is
    no gain to explain (0, a loss, or NaN) or no bound (NaN).
    """
    if not gain > 0 or np.isnan(bound):
        return nan
    return min(gain, max(bound, 0.0)) / gain
