"""Which problems a policy can solve at all, against which its base could: gained, lost, and what sampling noise alone would show.

A problem counts as solved when any of n samples is right, so "cannot" means "too rarely to be seen in n tries" (``smallest_visible``), and
two samplings of one policy already differ. Shares are read against that (``nested``), and overlaps against chance (``overlaps``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from controlarm import seeds
from controlarm.analysis.bands import difference_band
from controlarm.analysis.boundary import Tries
from controlarm.analysis.contrasts import ROUNDING

Solved = Bool[np.ndarray, " problem"]


class Share(NamedTuple):
    """``part`` of ``whole``, with Clopper and Pearson's interval. NaN of nothing."""

    part: int
    whole: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.part / self.whole if self.whole else float("nan")


def clopper_pearson(part: float, whole: float, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval (Clopper & Pearson 1934): covers at least ``level``, whatever the rate and however few. NaN of nothing.

    An effective number of trials need not be whole.
    """
    if not whole:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, part, whole - part + 1)) if part else 0.0
    high = float(stats.beta.isf(tail, part + 1, whole - part)) if part < whole else 1.0
    return low, high


def share(part: int, whole: int, level: float = 0.95) -> Share:
    """A share of problems with its interval."""
    return Share(part, whole, *clopper_pearson(part, whole, level))


def smallest_visible(num_samples: int, missed: float = 0.05) -> float:
    """The success rate ε that n samples miss with probability ``missed``: (1 - ε)^n = ``missed`` (arXiv:2507.14843)."""
    return 1 - missed ** (1 / num_samples)


class Table(NamedTuple):
    """Problems by who solves them; the paper's letters are P, S, E for the first three (arXiv:2507.14843)."""

    both: int
    base_only: int
    trained_only: int
    neither: int

    @property
    def num_problems(self) -> int:
        return sum(self)

    def shares(self, level: float = 0.95) -> dict[str, Share]:
        """Each cell's share of the problems (arXiv:2504.13837)."""
        cells = zip(self._fields, self, strict=True)
        return {name: share(count, self.num_problems, level) for name, count in cells}


def table(base: Solved, trained: Solved) -> Table:
    """Cross the two policies' solved problems; both must have had the same number of tries."""
    return Table(
        int((base & trained).sum()), int((base & ~trained).sum()),
        int((~base & trained).sum()), int((~base & ~trained).sum()),
    )  # fmt: skip


def solved(counts: Tries, num_samples: int) -> Solved:
    """Any right in ``num_samples`` tries.

    Raises:
        ValueError: when a problem was tried another number of times: who tries more solves more.
    """
    found = np.unique(counts.num_samples)
    if found.tolist() != [num_samples]:
        raise ValueError(
            f"solved in {num_samples} tries: there are problems with {', '.join(map(str, found))} samples; "
            f"give exactly {num_samples} of each, or compare pass@k, which allows for it"
        )
    return counts.num_right > 0


class Support(NamedTuple):
    """Numbers of "The Invisible Leash" (arXiv:2507.14843), from P both, E trained only, S base only. Undefined ones are NaN."""

    srr: float
    """Support retention rate P/(P + S): of what the base solves, what is kept. NaN when the base solves nothing."""
    ndr: float
    """Net discovery rate E/(P + E): of what the trained policy solves, what is new. NaN when it solves nothing."""
    sds: float
    """Support dynamic score 2 · SRR · NDR/(SRR + NDR), their harmonic mean; 0 when either is 0."""
    nscr: float
    """Net support change rate (E - S)/(P + E + S). NaN when neither solves anything."""


def support(cells: Table) -> Support:
    """SRR, NDR, SDS, NSCR of a table."""
    kept, lost, new = cells.both, cells.base_only, cells.trained_only
    srr = kept / (kept + lost) if kept + lost else float("nan")
    ndr = new / (kept + new) if kept + new else float("nan")
    # Both are 0 together only of an empty table, where both are NaN.
    sds = 2 * srr * ndr / (srr + ndr)
    either = kept + new + lost
    return Support(srr, ndr, sds, (new - lost) / either if either else float("nan"))


class SamplingGap(NamedTuple):
    """Δ_SE (arXiv:2504.13837), which paper and repository sign in two ways: here it is base - trained."""

    base_at_k: float
    trained_at_1: float
    k: int

    @property
    def value(self) -> float:
        return self.base_at_k - self.trained_at_1

    @property
    def sentence(self) -> str:
        """The number with its sign convention, for a report."""
        size = f"{100 * self.value:+.1f} points" if self.value == self.value else "undefined"
        return (
            f"Sampling-efficiency gap = base's pass@{self.k} - trained pass@1 = {size}; lower is better. Above 0, the base with {self.k} tries "
            "solves more than the trained policy with one; at or below 0, one try of the trained policy does as well."
        )


BINS: tuple[str, ...] = (
    "0", *(f"({i / 10:.1f}, {(i + 1) / 10:.1f}]" for i in range(9)), "(0.9, 1)", "1",
)  # fmt: skip
"""Accuracies 0 and 1 stand alone: training moves problems to both (arXiv:2504.13837)."""


class Histogram(NamedTuple):
    """Problems by accuracy, in the order of ``BINS``."""

    counts: Int[np.ndarray, " bin"]
    without_samples: int
    """Problems without any sample, which have no accuracy."""


def accuracy_histogram(counts: Tries) -> Histogram:
    """Sort problems by c/n, in whole numbers: 3 of 30 is in (0, 0.1] whatever a tenth is in binary."""
    some = counts.num_samples > 0
    n, c = counts.num_samples[some], counts.num_right[some]
    inner = -(-10 * c // n)
    place = np.where(c == n, len(BINS) - 1, inner)
    return Histogram(np.bincount(place, minlength=len(BINS)), int((~some).sum()))


class Nested(NamedTuple):
    """Is what the trained policy solves inside what the base solves, as far as the samples can tell?"""

    trained_only: Share
    """Of the problems that the trained policy solves in all its tries, those that the base does not: NDR with its interval."""
    half: int
    """Tries of each side in the comparison below."""
    new_to_trained: float
    """Problems that the base misses in ``half`` tries and the trained policy solves in ``half`` others."""
    new_to_base: float
    """The same with the base in the trained policy's place: what sampling noise alone makes new."""
    low: float
    high: float
    """Interval of the excess."""

    @property
    def excess(self) -> float:
        """New to trained beyond what is new to the base itself, in problems."""
        return self.new_to_trained - self.new_to_base


def nested(
    base: Bool[np.ndarray, "problem sample"],
    trained: Bool[np.ndarray, "_ _"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Nested:
    """Count problems that only the trained policy solves, and how many of such the base makes against itself.

    A problem of rate p is missed in n tries with probability (1 - p)^n, so a base is not even nested in itself. The reference splits its samples in
    two halves: solved in one and missed in the other, mean of both directions. The trained policy meets the same halves, never with
    the samples that were drawn with the same noise as those it is compared with: common noise would hide what is new. With an odd number the last sample is left out.

    An excess says that training finds more new problems than as many further tries of the base would; it does not say that the base never would: a policy that
    solves at once what the base solves once in n has an excess. What the base has below ``smallest_visible`` of all its tries is not seen by anyone.

    Args:
        base: successes; samples of unknown verdict are no success.
        trained: the same, same problems, as many samples.
        level: of both intervals.
        seed: of the interval's bootstrap (``bands.difference_band``, unit problem).

    Raises:
        ValueError: when the shapes differ or there are fewer than two samples.
    """
    if base.shape != trained.shape or base.shape[1] < 2:
        raise ValueError(
            f"base has {base.shape[0]} problems of {base.shape[1]} samples, trained {trained.shape[0]} of {trained.shape[1]}: "
            "give both the same problems and as many samples, at least 2"
        )
    cells = table(base.sum(axis=1) > 0, trained.sum(axis=1) > 0)
    half = base.shape[1] // 2
    spans = slice(0, half), slice(half, 2 * half)

    def new_to(other: Bool[np.ndarray, "problem sample"]) -> Float[np.ndarray, "problem 1"]:
        ways = [
            ~base[:, a].any(axis=1) & other[:, b].any(axis=1) for a, b in (spans, reversed(spans))
        ]
        return np.mean(ways, axis=0)[:, None]

    itself, training = new_to(base), new_to(trained)
    band = difference_band(itself, training, [half], level=level, seed=seed)
    return Nested(
        share(cells.trained_only, cells.both + cells.trained_only, level), half,
        float(training.sum()), float(itself.sum()),
        float(band.low[0] * len(base)), float(band.high[0] * len(base)),
    )  # fmt: skip


class Overlap(NamedTuple):
    """How alike the problem sets of several algorithms are, against random sets of the same sizes."""

    pool: int
    """Problems that could have been in a set."""
    sizes: dict[str, int]
    jaccard: float
    """Mean over pairs of |A ∩ B|/|A ∪ B|; pairs of two empty sets have none and are left out. NaN without a pair."""
    by_chance: float
    """Its exact expectation if each set were drawn at random from the pool, within strata."""
    p: float
    """One-sided: share of random sets that are as alike or more, observed ones included."""


def expected_jaccard(first: Sequence[int], second: Sequence[int], pools: Sequence[int]) -> float:
    """E[|A ∩ B|/|A ∪ B|] of random sets with these sizes in each stratum: the intersection is a sum of hypergeometrics."""
    chance = np.ones(1)
    for a, b, pool in zip(first, second, pools, strict=True):
        common = np.arange(min(a, b) + 1)
        chance = np.convolve(chance, stats.hypergeom.pmf(common, pool, a, b))
    size = sum(first) + sum(second)
    if not size:
        return float("nan")
    common = np.arange(len(chance))
    return float((chance * common / (size - common)).sum())


def overlap(
    sets: Mapping[str, Solved],
    pool: Solved,
    strata: Int[np.ndarray, " problem"] | None = None,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> Overlap:
    """Mean pairwise Jaccard index of ``sets`` within ``pool``, its expectation by chance, and a permutation p value.

    Without ``strata`` chance means that all problems are alike; algorithms that merely share the easy ones then overlap beyond it. Strata
    (of base difficulty) shuffle only among equals. Draws are keyed by the algorithms' names, so their order does not matter.
    """
    names = sorted(sets)
    strata = np.zeros(len(pool), int) if strata is None else strata
    groups = [np.flatnonzero(pool & (strata == s)) for s in np.unique(strata[pool])]
    sizes = {name: [int(sets[name][g].sum()) for g in groups] for name in names}
    pairs = [(a, b) for a, b in combinations(names, 2) if sum(sizes[a]) + sum(sizes[b])]
    totals = {name: sum(sizes[name]) for name in names}
    num = int(pool.sum())
    if not pairs:
        return Overlap(num, totals, float("nan"), float("nan"), float("nan"))

    def mean_jaccard(
        members: Mapping[str, Bool[np.ndarray, "draw problem"]],
    ) -> Float[np.ndarray, " draw"]:
        common = {(a, b): (members[a] & members[b]).sum(axis=1) for a, b in pairs}
        each = [n / (totals[a] + totals[b] - n) for (a, b), n in common.items()]
        return np.mean(each, axis=0)

    observed = float(mean_jaccard({name: (sets[name] & pool)[None] for name in names})[0])
    drawn = {name: np.zeros((replicates, len(pool)), bool) for name in names}
    for name in names:
        rng = seeds.generator("overlap", seed, name)
        for g in groups:
            drawn[name][:, g] = rng.permuted(np.tile(sets[name][g], (replicates, 1)), axis=1)
    as_alike = int((mean_jaccard(drawn) >= observed - ROUNDING).sum())
    pools = [len(g) for g in groups]
    expected = np.mean([expected_jaccard(sizes[a], sizes[b], pools) for a, b in pairs])
    return Overlap(num, totals, observed, float(expected), (1 + as_alike) / (1 + replicates))


def overlaps(
    base: Solved,
    trained: Mapping[str, Solved],
    strata: Int[np.ndarray, " problem"] | None = None,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Overlap]:
    """Do algorithms gain the same problems, and lose the same? ``newly_solved`` among those the base does not solve, ``lost`` among those it does."""
    new = {name: s & ~base for name, s in trained.items()}
    lost = {name: base & ~s for name, s in trained.items()}
    return {
        "newly_solved": overlap(new, ~base, strata, replicates=replicates, seed=seed),
        "lost": overlap(lost, base, strata, replicates=replicates, seed=seed),
    }


def answer_entropy(answers: Sequence[str | None], *, miller_madow: bool = False) -> float:
    """-Σ q log q over the distinct normalised answers of one problem's samples, in nats; NaN without an answer.

    None is no answer and no part of the distribution. The plug-in value is too low, by some (m - 1)/(2n) for m distinct answers among n;
    ``miller_madow`` adds that (Miller 1955), which can pass log n.
    """
    counts = np.array(list(Counter(a for a in answers if a is not None).values()))
    if not len(counts):
        return float("nan")
    total = counts.sum()
    shares = counts / total
    correction = (len(counts) - 1) / (2 * total) if miller_madow else 0.0
    return float(-(shares * np.log(shares)).sum() + correction)


def perplexity(
    logprob_sums: Float[np.ndarray, " text"], num_tokens: Int[np.ndarray, " text"]
) -> Float[np.ndarray, " text"]:
    """exp(-Σ_t log π(y_t | x, y_<t)/T) of each text under a model, whoever wrote it; NaN of a text without tokens.

    Raises:
        ValueError: when a sum of log-probabilities is above 0 or not finite.
    """
    bad = ~(np.isfinite(logprob_sums) & (logprob_sums <= 0))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"text {i} has log-probability {logprob_sums[i]}: give the finite sum, at most 0, of its tokens' natural log-probabilities"
        )
    average = np.divide(
        -logprob_sums, num_tokens, out=np.full(len(num_tokens), np.nan), where=num_tokens > 0
    )
    return np.exp(average)


class Spread(NamedTuple):
    """Where values lie. NaN of nothing."""

    num_values: int
    q05: float
    q25: float
    median: float
    q75: float
    q95: float


def spread(values: Float[np.ndarray, " value"]) -> Spread:
    """Quantiles of the values that are there, linear between neighbours: perplexities have long tails, so no mean."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Spread(0, *[float("nan")] * 5)
    return Spread(len(values), *np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist())
