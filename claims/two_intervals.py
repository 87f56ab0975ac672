"""A difference has two intervals: over models, which speaks of their family, and over training seeds, which speaks of these models only.

With three models the first is wide (t with two degrees of freedom), so an effect that every seed shows can be lost in it;
the second finds such an effect and promises nothing for another model. Both stand side by side, the first one first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from claims.markdown import Markdown, inert, points
from controlarm import markup
from controlarm.analysis.contrasts import over_units, t_interval, within_models
from controlarm.protocol import Unit

Row = dict[str, Any]
Sign = Literal["gains", "loses", "not told apart from the base", "gains exactly nothing"]

READING = "95 % intervals: first over the models, then over training seeds within these models"
"""What stands over a table of `shown` cells."""


def sign(low: float | None, high: float | None) -> Sign:
    """What the 95 % interval of a gain over the base says; without one nothing is told apart."""
    if low is None or high is None:
        return "not told apart from the base"
    if low == high == 0:
        return "gains exactly nothing"
    return "gains" if low > 0 else "loses" if high < 0 else "not told apart from the base"


def by_unit(units: Sequence[Mapping[str, Any]], column: str) -> dict[Unit, float]:
    """One number a unit, from the ``units`` of a row of ``report.json``; what is null there is left out."""
    return {
        Unit(unit["pretraining_seed"], unit["seed"]): unit[column]
        for unit in units
        if unit[column] is not None
    }


Key = TypeVar("Key", bound=tuple[Any, ...])
"""A unit, or a unit and an arm."""


def minus(first: Mapping[Key, float], second: Mapping[Key, float]) -> dict[Key, float]:
    """The difference wherever both are there."""
    return {key: first[key] - second[key] for key in sorted(first.keys() & second.keys())}


def both(values: Mapping[Unit, float]) -> Row:
    """Mean over the models with the two intervals and what each says. Undefined numbers are NaN, which become null."""
    e = over_units(values)
    low, high = t_interval(e, 0.95)
    within = t_interval(within_models(values), 0.95)
    return {
        "mean": e.mean, "low": low, "high": high, "sign": sign(low, high),
        "within_low": within[0], "within_high": within[1], "within_sign": sign(*within),
        "units": len(values),
    }  # fmt: skip


def shown(row: Mapping[str, Any] | None, after: str = "") -> Markdown | None:
    """Points with both intervals, and a word after them.

    >>> row = {"mean": 0.05, "low": -0.01, "high": 0.11, "within_low": 0.03, "within_high": 0.07}
    >>> print(shown(row, "superior"), "|", shown({**row, "low": None, "high": None}), "|", shown(None))
    +5.0 (−1.0 to +11.0; +3.0 to +7.0) superior | +5.0 (no interval; +3.0 to +7.0) | None
    """
    if row is None or row["mean"] is None:
        return None
    pairs = ((row[f"{key}low"], row[f"{key}high"]) for key in ("", "within_"))
    intervals = "; ".join(
        "no interval" if low is None or high is None else markup.interval((low, high))
        for low, high in pairs
    )
    return Markdown(f"{points(row['mean'])} ({intervals}) {inert(after)}".strip())


SAID: dict[str, str] = {
    "gains": "gains",
    "loses": "loses",
    "not told apart from the base": "not told apart",
    "gains exactly nothing": "exactly nothing",
}
"""A sign, where it is not the base that was compared with."""
