"""What a model's familiarity with a benchmark is consistent with: originals against clean twins, problem by problem.

A score alone says little: text of one kind is familiar to whoever knows the kind. Twins come from the same generator and
stand in no corpus, so what tells originals from twins is memory, or a difference between them that nobody meant. Which of the two
no statistic knows; the words here therefore say what the numbers are *consistent with*.

The unit is the problem: intervals are about other problems of this kind, for this one model.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from scipy import optimize, stats

from controlarm.analysis.contrasts import Estimate, estimate, t_interval
from controlarm.analysis.metrics import mean
from controlarm.analysis.wording import points

PERCENTS = (80, 60, 40)
"""How much of the prompt was kept."""

SCORES = tuple(
    f"{kind}_{name}" for kind in ("prompt", "text") for name in ("logprob", "min_k", "min_k_plus")
)
"""Familiarity: higher where a text surprises less."""

PRIMARY = "text_min_k_plus"
"""The score that the verdict goes by: chosen on the three crammers, whose leaks it told apart best; those that learnt by rote were made after that."""

RATES = (
    *(f"{name}_{percent}" for name in ("exact", "rouge_l") for percent in PERCENTS),
    *(f"{name}_{percent}" for name in ("strict", "lenient") for percent in (100, *PERCENTS)),
)
"""Means of a problem's value: completed word for word, overlap of words, answered right."""

FALSE_ALARMS = 0.05
"""Share of twins that count as familiar where the share of leaked problems is estimated."""

LEVEL = 0.95

Values = Float[np.ndarray, " problem"]


class Auroc(NamedTuple):
    """How well a score tells two groups apart. Undefined numbers are NaN."""

    value: float
    """Probability that a positive has the higher score; a tie counts one half."""
    low: float
    high: float
    num_positive: int
    num_negative: int


def auroc(
    positive: Float[np.ndarray, " positive"],
    negative: Float[np.ndarray, " negative"],
    level: float = LEVEL,
) -> Auroc:
    """Area under the ROC curve with DeLong's interval (DeLong, DeLong, Clarke-Pearson 1988) on the logit scale.

    Var = var_i(V10)/m + var_j(V01)/n, where V10 of a positive is the share of negatives below it and V01 of a negative
    the share of positives above it, both from midranks (Sun and Xu 2014). The logit keeps the interval within 0 and 1.

    Groups that do not overlap have no variance. The positives and negatives then make min(m, n) separate pairs, each won
    with probability AUROC, and all were won: Clopper-Pearson's bound (alpha/2)^(1/min(m, n)). Scores that are all one value,
    and a group of less than two, have no interval.

    Raises:
        ValueError: a score is NaN; what has no score has no place here.
    """
    m, n = len(positive), len(negative)
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise ValueError("auroc: a score is NaN; leave out the problems that have none")
    if m == 0 or n == 0:
        return Auroc(float("nan"), float("nan"), float("nan"), m, n)
    ranks = stats.rankdata(np.concatenate((positive, negative)))
    above = (ranks[:m] - stats.rankdata(positive)) / n
    below = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    value = float(above.mean())
    if value in (0.0, 1.0):
        bound = ((1 - level) / 2) ** (1 / min(m, n))
        low, high = (bound, 1.0) if value else (0.0, 1 - bound)
        return Auroc(value, low, high, m, n)
    if min(m, n) < 2:
        return Auroc(value, float("nan"), float("nan"), m, n)
    variance = float(np.var(above, ddof=1) / m + np.var(below, ddof=1) / n)
    if variance == 0:
        return Auroc(value, float("nan"), float("nan"), m, n)
    logit = np.log(value / (1 - value))
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (value * (1 - value))
    low, high = (float(1 / (1 + np.exp(-x))) for x in (logit - half, logit + half))
    return Auroc(value, low, high, m, n)


class Share(NamedTuple):
    """Share of originals that are more familiar than a clean problem would be. Undefined numbers are NaN."""

    value: float
    """Below 0 where originals are less familiar than twins: an unbiased estimate of nothing is as often below as above."""
    low: float
    high: float


def familiar_share(
    originals: Float[np.ndarray, " original"],
    twins: Float[np.ndarray, " twin"],
    level: float = LEVEL,
) -> Share:
    """The share of leaked problems, as far as the score shows them: 1 - F_originals(t)/F_twins(t).

    Originals are a mixture of clean problems, distributed as twins, and leaked ones; t is the score that all but 5 % of the twins
    stay below. A leaked problem below t counts as clean, so this is a lower bound in expectation (mixture proportions:
    Blanchard, Lee, Scott 2010), and the share itself where leaked problems all stand out. The interval is the score interval
    of a ratio of proportions (Koopman 1984): t is one of the twins' scores, which costs as much precision as to count twins
    below a given t. Below the r-th of n twins lie r/(n + 1) of all clean problems on average.
    """
    if not (len(originals) and len(twins)):
        return Share(float("nan"), float("nan"), float("nan"))
    rank = int(np.ceil((1 - FALSE_ALARMS) * len(twins)))
    t = np.sort(twins)[rank - 1]
    below, beside = int((originals <= t).sum()), int((twins <= t).sum())
    low, high = ratio_interval(below, len(originals), beside, len(twins) + 1, level)
    ratio = below / len(originals) / (beside / (len(twins) + 1))
    return Share(1 - ratio, 1 - high, 1 - low)


def ratio_interval(x1: int, n1: int, x0: int, n0: int, level: float) -> tuple[float, float]:
    """Score interval of p1/p0 (Koopman 1984): ratios that a test at 1 - level does not reject; x0 > 0."""
    critical = float(stats.chi2.ppf(level, 1))

    def beyond(ratio: float) -> float:
        # p0 at the likelihood's maximum under p1 = ratio · p0: the smaller root of a p0² - b p0 + c.
        a, c = (n1 + n0) * ratio, x1 + x0
        b = n1 * ratio + x1 + n0 + x0 * ratio
        p0 = (b - np.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)
        p1 = min(ratio * p0, 1.0)
        variance = p1 * (1 - p1) / n1 + ratio**2 * p0 * (1 - p0) / n0
        gap = x1 / n1 - ratio * x0 / n0
        return gap**2 / variance - critical if variance > 0 else (0.0 if gap == 0 else np.inf)

    found = x1 / n1 / (x0 / n0)
    tiny, huge = 1e-9, 1e3 * (found + 1)
    start = max(found, tiny)

    def root(first: float, last: float) -> float:
        return float(optimize.root_scalar(beyond, bracket=(first, last)).root)

    return 0.0 if beyond(tiny) <= 0 else root(tiny, start), root(start, huge)


class Rate(NamedTuple):
    """A mean over originals and one over their twins."""

    originals: float
    twins: float
    difference: Estimate
    """Original - twin over pairs; ``sd`` is over pairs, so t intervals are about other problems."""


def rate(originals: Values, twins: Values) -> Rate:
    """Paired by problem; a pair counts where both have a value."""
    both = ~(np.isnan(originals) | np.isnan(twins))
    a, b = originals[both], twins[both]
    return Rate(mean(a), mean(b), estimate((a - b).tolist()))


class Findings(NamedTuple):
    """What one model's table holds."""

    num_problems: int
    num_leaked: int | None
    """Originals that are known to stand in the corpus; None where nobody knows."""
    rates: dict[str, Rate]
    aurocs: dict[str, Auroc]
    """Score → all originals against all twins: what an auditor can know."""
    leaked_aurocs: dict[str, Auroc]
    """Leaked originals against their own twins; empty where none is known."""
    clean_aurocs: dict[str, Auroc]
    """The same of originals that are known not to have leaked."""
    shares: dict[str, Share]
    """Score → share of originals that stand out."""


class Pairs(NamedTuple):
    """Columns as numbers, originals and twins in one order."""

    originals: dict[str, Values]
    twins: dict[str, Values]
    leaked: Bool[np.ndarray, " problem"] | None


def pairs(table: pa.Table) -> Pairs:
    """Each original with its twin; a verdict is 1 where right, NaN where unknown, else 0; what is null is NaN.

    Raises:
        ValueError: an original has no twin.
    """
    twin_of = table["twin_of"].to_pylist()
    ids = table["problem_id"].to_pylist()
    place = {original: i for i, original in enumerate(twin_of) if original is not None}
    first = [i for i, original in enumerate(twin_of) if original is None]
    for i in first:
        if ids[i] not in place:
            raise ValueError(f"twin_of: problem {ids[i]!r} has no twin; audit it with one")
    second = [place[ids[i]] for i in first]
    columns = {name: _numbers(table[name].to_pylist()) for name in (*RATES, *SCORES)}
    known = table["leaked"].to_pylist()
    leaked = [known[i] for i in first]
    return Pairs(
        {name: values[first] for name, values in columns.items()},
        {name: values[second] for name, values in columns.items()},
        None if None in leaked else np.array(leaked, dtype=bool),
    )


def _numbers(values: Sequence[str | float | bool | None]) -> Values:
    verdicts = {"right": 1.0, "wrong": 0.0, "no_answer": 0.0, "unknown": None}
    found = [verdicts[value] if isinstance(value, str) else value for value in values]
    return np.array([float("nan") if value is None else float(value) for value in found])


def findings(table: pa.Table) -> Findings:
    """Everything that is said of one model, from the table that ``controlarm contamination --out`` writes."""
    originals, twins, leaked = pairs(table)

    def aurocs(chosen: Bool[np.ndarray, " problem"]) -> dict[str, Auroc]:
        scored = {name: (originals[name][chosen], twins[name][chosen]) for name in SCORES}
        return {name: auroc(*both) for name, both in scored.items()} if chosen.any() else {}

    everything = np.ones(len(originals[PRIMARY]), dtype=bool)
    return Findings(
        len(everything),
        None if leaked is None else int(leaked.sum()),
        {name: rate(originals[name], twins[name]) for name in RATES},
        aurocs(everything),
        {} if leaked is None else aurocs(leaked),
        {} if leaked is None else aurocs(~leaked),
        {name: familiar_share(originals[name], twins[name]) for name in SCORES},
    )


# In words.


def rate_cells(found: Findings) -> list[tuple[str, ...]]:
    """What is printed of each rate: name, originals, twins, difference with its interval."""
    rows = []
    for name, each in found.rates.items():
        kind, _, percent = name.rpartition("_")
        rows.append(
            (
                f"{_RATES[kind]}, {percent} %",
                f"{each.originals:.2f}",
                f"{each.twins:.2f}",
                f"{points(each.difference.mean)} ({_spread(each.difference)})",
            )
        )
    return rows


_RATES = {
    "exact": "completes exactly",
    "rouge_l": "completes, ROUGE-L",
    "strict": "right, strict",
    "lenient": "right, lenient",
}


def score_cells(found: Findings) -> list[tuple[str, ...]]:
    """What is printed of each score: name, AUROC, that of leaked and of other originals, the share that stands out."""
    rows = []
    for name in SCORES:
        kind, _, score = name.partition("_")
        area, share = found.aurocs[name], found.shares[name]
        parts = (found.leaked_aurocs.get(name), found.clean_aurocs.get(name))
        spread = "no interval" if np.isnan(area.low) else f"{area.low:.2f} to {area.high:.2f}"
        rows.append(
            (
                f"{_SCORES[score]} of {'prompt' if kind == 'prompt' else 'all'}",
                f"{area.value:.2f} ({spread})",
                *("–" if part is None else f"{part.value:.2f}" for part in parts),
                f"{_percent(share.value)} % ({_percent(share.low)} to {_percent(share.high)})",
            )
        )
    return rows


_SCORES = {"logprob": "log p", "min_k": "min-k %", "min_k_plus": "min-k %++"}


Outcome = Literal["seen", "unseen", "odd", "unclear"]


def outcome(found: Findings) -> Outcome:
    """What the primary score is consistent with.

    seen: AUROC's or the share's lower 95 % bound is above chance. That is two looks at 2.5 % each, so a model that saw nothing
    is suspected in at most 5 % of audits. odd: not so, and AUROC's upper bound is below 0.5. unclear: there is no interval.
    """
    score, share = found.aurocs[PRIMARY], found.shares[PRIMARY]
    if np.isnan(score.low):
        return "unclear"
    if score.low > 0.5 or share.low > 0:
        return "seen"
    return "odd" if score.high < 0.5 else "unseen"


def verdict(where: str, found: Findings) -> str:
    """The sentence on one model.

    Example: ``talker p1: consistent with a benchmark that it never saw: originals are not told from their clean twins (AUROC 0.50, 95 %
    interval 0.45 to 0.55), accuracy 0.4 points higher (-6.2 to 7.0). If up to 5 % of the problems had leaked, it could look the same.``
    """
    score, share = found.aurocs[PRIMARY], found.shares[PRIMARY]
    said = outcome(found)
    if said == "unclear":
        return f"{where}: no verdict: {found.num_problems} problems give no interval."
    accuracy = found.rates["strict_100"].difference
    lowest, value, highest = (
        _percent(min(max(x, 0.0), 1.0)) for x in (share.low, share.value, share.high)
    )
    higher = f"accuracy {points(abs(accuracy.mean))} points {'lower' if accuracy.mean < 0 else 'higher'} ({_spread(accuracy)})"
    area = f"AUROC {score.value:.2f}, 95 % interval {score.low:.2f} to {score.high:.2f}"
    if said == "unseen":
        return (
            f"{where}: consistent with a benchmark that it never saw: originals are not told from their clean twins ({area}), "
            f"{higher}. If up to {highest} % of the problems had leaked, it could look the same."
        )
    if said == "odd":
        return (
            f"{where}: consistent with twins that are easier than originals, which they should not be: twins are more familiar "
            f"({area}), {higher}. Nothing is said of a leak."
        )
    return (
        f"{where}: consistent with a benchmark that it saw, at least {value} % of it ({lowest} to {highest}): originals are more familiar than their clean twins ({area}), {higher}. Anything else that sets "
        f"originals apart from twins would look the same."
    )


def _percent(share: float) -> int:
    return round(100 * share)


def _spread(e: Estimate) -> str:
    if e.note is not None:
        return "no interval"
    low, high = t_interval(e, LEVEL)
    return f"{points(low)} to {points(high)}"
