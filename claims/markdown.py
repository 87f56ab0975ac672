r"""Numbers and names as a page of a claim says them. A name is text from a file: it is shown, never obeyed.

>>> print(name("ground_truth"), name("[a](javascript:b)|<img>"))
`ground_truth` \[a\]\(javascript\:b\)\|\<img\>
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlarm import markup

LONGEST = 200
"""Characters of a name or a sentence out of a file."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,79}")
_MARKS = re.compile(r"[\\`*_{}\[\]()<>#+\-.!|~&:@$^=/]")


class Markdown(str):
    """Text that is markdown already."""

    __slots__ = ()


def inert(value: object) -> Markdown:
    r"""Any value as one line of text that no markdown reader acts on.

    >>> print(inert("# 1. *a*\n<b> http://c"))
    \# 1\. \*a\* \<b\> http\:\/\/c
    """
    if isinstance(value, Markdown):
        return value
    text = " ".join(markup.visible(value, LONGEST).split())
    return Markdown(_MARKS.sub(r"\\\g<0>", text))


def name(value: object) -> Markdown:
    """A name of an arm, a family or a record: as code where it is one, and else inert."""
    text = str(value)
    return Markdown(f"`{text}`") if _PLAIN.fullmatch(text) else inert(value)


def listed(values: Iterable[object]) -> Markdown:
    """Names in a row; a dash for none.

    >>> print(listed(["a", "b", "c"]), listed(["a"]), listed([]))
    `a`, `b` and `c` `a` –
    """
    *first, last = [name(value) for value in values] or [Markdown(markup.MISSING)]
    return Markdown(f"{', '.join(first)} and {last}" if first else last)


def points(rate: float | None) -> Markdown:
    """A difference of shares in percentage points, with its sign.

    >>> print(points(-0.052), points(0.0), points(None))
    −5.2 0.0 –
    """
    return Markdown(markup.points(rate))


def gain(estimate: float | None, low: float | None, high: float | None) -> Markdown:
    """A difference of shares in points, with its 95 % interval where it has one.

    >>> print(gain(0.104, 0.088, 0.119), "|", gain(0.1, None, None), "|", gain(0, 0, 0))
    +10.4 (+8.8 to +11.9) | +10.0 (no interval) | 0.0 (0.0 to 0.0)
    """
    if estimate is None:
        return Markdown(markup.MISSING)
    both = None if low is None or high is None else (low, high)
    return Markdown(
        f"{points(estimate)} ({'no interval' if both is None else markup.interval(both)})"
    )


def share(part: int, whole: int) -> Markdown:
    """A count of a count, with the share in per cent.

    >>> print(share(4, 201), "|", share(0, 0))
    4 of 201 (2.0 %) | 0 of 0
    """
    text = f"{count(part)} of {count(whole)}"
    return Markdown(f"{text} ({markup.percent(part / whole)} %)" if whole else text)


def count(number: int | None) -> Markdown:
    """A whole number.

    >>> print(count(1206))
    1,206
    """
    return Markdown(markup.number(number, 0))


def number(value: float | None, digits: int = 2) -> Markdown:
    """A number with so many decimals.

    >>> print(number(-0.825), number(None))
    −0.82 –
    """
    return Markdown(markup.number(value, digits))


def counted(value: int, one: str, several: str | None = None) -> Markdown:
    """A count and its noun.

    >>> print(counted(1, "unit"), counted(3, "unit"), counted(2, "family", "families"))
    1 unit 3 units 2 families
    """
    return Markdown(f"{count(value)} {one if value == 1 else several or f'{one}s'}")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Markdown:
    r"""A table; what is not markdown in a cell is made inert, None is a dash.

    >>> print(table([{"a": "x|y", "b": None}], {"a": "Head", "b": "Other"}))
    | Head | Other |
    |---|---|
    | x\|y | – |
    """
    cells = [
        [inert(markup.MISSING if (v := row.get(key)) is None else v) for key in columns]
        for row in rows
    ]
    lines = [list(columns.values()), ["---"] * len(columns), *cells]
    written = [f"| {' | '.join(line)} |" for line in lines]
    written[1] = written[1].replace(" ", "")
    return Markdown("\n".join(written))
