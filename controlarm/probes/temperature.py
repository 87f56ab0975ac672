"""The policy as open-minded as its base: sampled at the temperature where its entropy is the base's, and graded.

Training lowers entropy, and with it what many tries can reach. If that were all, this temperature would give it back
(arXiv:2504.13837 finds that it does not). Entropy is that of the tempered distributions that the tokens are drawn from.

Logits are the final norm's output times the embedding, so scaling the norm by 1/T scales logits: a tempered policy is a
policy, and draws with the same noise.
"""

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from controlarm.evaluation import Sampled
from controlarm.organisms.transformer import Weights
from controlarm.probes.counting import COUNT_FIELDS, counts
from controlarm.probes.subject import Subject, blocks, by_problem, decode

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("temperature", pa.float64()),
        ("entropy", pa.float64()),
        ("policy_entropy", pa.float64()),
        ("base_entropy", pa.float64()),
        *COUNT_FIELDS,
    ]
)

TOLERANCE = 0.01
"""Entropies match within this share of the base's."""

LOWEST, HIGHEST = 1 / 16, 16.0
"""Temperatures are looked for between these."""

MOST_TRIES = 12

USUAL_SLOPE = 2.0
"""Of log entropy by log temperature near 1, in organisms; a first guess."""

LEAST = 1e-12
"""Nats; entropies below it are alike."""


class Tried(NamedTuple):
    """A temperature and what was said at it."""

    temperature: float
    entropy: float
    completions: list[list[Sampled]]


def tempered(subject: Subject, temperature: float) -> Weights:
    """Compute copy of the policy at a temperature; at 1 the policy itself."""
    if temperature == 1:
        return subject.policy
    norm = subject.policy_master["norm"] / temperature
    return subject.policy | {"norm": norm.to(subject.policy["norm"].dtype)}


def mean_entropy(completions: list[list[Sampled]]) -> float:
    """Mean over the samples of their mean token entropy, nats: the journal's ``entropy``. Greedy ones do not count."""
    return float(np.mean([one.entropy for made in completions for one in made[1:]]))


def at_temperature(subject: Subject, temperature: float) -> Tried:
    """What the policy says at a temperature. Greedy completions do not depend on it, but for rounding."""
    if temperature == 1:
        made = subject.own.completions
    else:
        weights = tempered(subject, temperature)
        made = [
            each
            for block in blocks(subject)
            for each in by_problem(block.rows, decode(subject, weights, block))
        ]
    return Tried(temperature, mean_entropy(made), made)


def match(subject: Subject, target: float) -> Tried:
    """The temperature at which the policy's entropy is the target; the nearest that was found where none is.

    Secant steps between bounds that close in, and bisection where a step would leave them; on logarithms of temperature and
    entropy, where the curve is nearly straight. Common noise makes it all but smooth.
    """

    def excess(tried: Tried) -> float:
        return math.log((tried.entropy + LEAST) / (target + LEAST))

    low, high = math.log(LOWEST), math.log(HIGHEST)
    x, slope = 0.0, USUAL_SLOPE
    tried = best = at_temperature(subject, 1.0)
    for _ in range(MOST_TRIES):
        y = excess(tried)
        if abs(y) <= TOLERANCE:
            break
        low, high = (low, x) if y > 0 else (x, high)
        before, x = x, x - y / slope
        if not low < x < high:
            x = (low + high) / 2
        tried = at_temperature(subject, math.exp(x))
        slope = max((excess(tried) - y) / (x - before), USUAL_SLOPE / 10)
        best = min(best, tried, key=lambda t: abs(excess(t)))
    return best


def probe(subject: Subject) -> pa.Table:
    """One row a problem, verdicts counted at the temperature that was found; the rest of the columns are alike in all rows.

    ``policy_entropy`` and ``base_entropy`` are those at temperature 1. Nothing was matched where ``entropy`` is not
    within ``TOLERANCE`` of ``base_entropy``.
    """
    base_entropy = mean_entropy(subject.of_base.completions)
    found = match(subject, base_entropy)
    facts = {
        "temperature": found.temperature,
        "entropy": found.entropy,
        "policy_entropy": mean_entropy(subject.own.completions),
        "base_entropy": base_entropy,
    }
    rows = [
        {"problem_id": problem.id} | facts | counts(made)
        for problem, made in zip(subject.problems, found.completions, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
