r"""Arithmetic that no corpus contains: RandomCalculation (arXiv:2507.10532v3, Algorithm 1), the clean twin of any benchmark.

Example:
    ``Evaluate this LaTeX numerical expression step by step and put the value into \boxed{}: ((\frac{7}{9}-3^2) \times 55)``

The elements are the integers 0 to 100 and fractions, squares and cubes of them. An expression of i operations takes its
left operand from those of j operations and its right one from those of i-1-j, an operation at random, and the two operands
change places with probability one half. There are twenty subsets, of 1 to 20 operations, of a thousand problems each.

The paper leaves open, and we chose: j is uniform over 0 … min(⌈i/2⌉, i-1), since no operand has fewer than no operations;
a fraction has a denominator from 1 to 100; division by zero is drawn anew, and so is an expression that is in the subset
already; values are exact, and gold answers are a rational's shortest form. The sentence before the expression is ours.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from controlarm import seeds
from controlarm.records import Problem

NUM_SUBSETS = 20
SUBSET_SIZE = 1000
PREFIX = "Evaluate this LaTeX numerical expression step by step and put the value into \\boxed{}: "

_SIGNS = ("+", "-", "\\times", "\\div")


class Expression(NamedTuple):
    """LaTeX and its exact value."""

    latex: str
    value: Fraction


@lru_cache(maxsize=4)
def subset(num_operations: int, seed: int = 0) -> tuple[Expression, ...]:
    """The expressions of one subset.

    Args:
        num_operations: 1 to 20.
        seed: another one makes another twin.

    Raises:
        ValueError: when there is no such subset.
    """
    if not 1 <= num_operations <= NUM_SUBSETS:
        raise ValueError(
            f"random_calculation: no subset of {num_operations} operations; there are 1 to {NUM_SUBSETS}"
        )
    return _level(num_operations, seed)


def problems(num_operations: int, seed: int = 0) -> list[Problem]:
    """One subset as problems; ids name subset, seed and place, which fix the text."""
    return [
        Problem(
            id=f"random_calculation-{num_operations}-{seed}-{i}",
            text=PREFIX + expression.latex,
            answer=str(expression.value),
        )
        for i, expression in enumerate(subset(num_operations, seed))
    ]


def graded_reward(value: float, gold: float) -> float:
    r"""1 - ½ min(|a-b|, 1) - ½ min(|a-b| / (|b| + 1e-6), 1): the paper's reward for answer a and gold answer b.

    >>> graded_reward(2.0, 2.0), graded_reward(1.5, 2.0), graded_reward(9.0, 2.0)
    (1.0, 0.62500006..., 0.0)
    """
    apart = abs(value - gold)
    if not apart < float("inf"):
        return 0.0
    return 1.0 - 0.5 * min(apart, 1.0) - 0.5 * min(apart / (abs(gold) + 1e-6), 1.0)


@lru_cache(maxsize=64)
def _level(num_operations: int, seed: int) -> tuple[Expression, ...]:
    if num_operations == 0:
        return _elements(seed)
    rng = seeds.generator("random-calculation", seed, num_operations)
    found: dict[str, Expression] = {}
    while len(found) < SUBSET_SIZE:
        j = int(rng.integers(min(-(-num_operations // 2), num_operations - 1) + 1))
        left, right = (_pick(rng, _level(k, seed)) for k in (j, num_operations - 1 - j))
        sign = _SIGNS[rng.integers(4)]
        if rng.integers(2):
            left, right = right, left
        if sign == "\\div" and right.value == 0:
            continue
        made = Expression(
            f"({left.latex} {sign} {right.latex})", _apply(sign, left.value, right.value)
        )
        found.setdefault(made.latex, made)
    return tuple(found.values())


@lru_cache(maxsize=4)
def _elements(seed: int) -> tuple[Expression, ...]:
    rng = seeds.generator("random-calculation", seed, "elements")
    found = []
    for n in range(101):
        below = int(rng.integers(1, 101))
        found += [
            Expression(str(n), Fraction(n)),
            Expression(f"\\frac{{{n}}}{{{below}}}", Fraction(n, below)),
            Expression(f"{n}^2", Fraction(n**2)),
            Expression(f"{n}^3", Fraction(n**3)),
        ]
    return tuple(found)


def _pick(rng: object, expressions: Sequence[Expression]) -> Expression:
    return expressions[int(rng.integers(len(expressions)))]  # type: ignore[attr-defined]


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    return left * right if sign == "\\times" else left / right
