"""Text and numbers as a page shows them: everything is escaped unless it already is markup.

Model text reaches the report, so escaping is the default and cannot be forgotten: `element` escapes each child that
is not `Markup`, and only `element` and `escaped` make `Markup`.

>>> print(element("p", "1 < 2 & ", element("b", "so")))
<p>1 &lt; 2 &amp; <b>so</b></p>
"""

import html
import re
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
VOID = frozenset({"meta", "link", "br", "input", "hr"})

# C0 and C1 controls, DEL, lone surrogates, noncharacters, and what Unicode says is drawn as nothing (bidirectional and other
# formatting, tags, fillers). Newline and tab stay, and the variation selectors that emoji are written with.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class Markup(str):
    """HTML or SVG that is safe to insert as it is."""

    __slots__ = ()


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF else f"⟨U+{code:04X}⟩"


def visible(value: object, limit: int = 2_000) -> str:
    r"""The value as text that a reader can see: what is invisible is named, what is too long is cut and says so.

    >>> visible("a\x00b\ud800")
    'a␀b�'
    >>> visible("x" * 1000, limit=3)
    'xxx… [997 more characters]'
    """
    text = str(value)
    kept = _UNSEEN.sub(_shown, text[:limit])
    return kept if len(text) <= limit else f"{kept}… [{len(text) - limit:,} more characters]"


def escaped(value: object, limit: int = 2_000) -> Markup:
    """The value as markup: unchanged when it already is, otherwise made visible and escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(visible(value, limit)))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """Parts one after the other, each escaped where needed."""
    return Markup(html.escape(separator).join(escaped(part) for part in parts))


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """One element. ``class_`` and ``for_`` lose the underscore, other underscores become hyphens; None is left out."""
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        if isinstance(value, float):
            value = coordinate(value)
        key = key if key == "viewBox" else key.rstrip("_").replace("_", "-")
        written += f" {key}" if value is True else f' {key}="{escaped(value, 20_000)}"'
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(
        f"<{tag}{written}>{join(child for child in children if child is not None)}</{tag}>"
    )


def coordinate(value: float) -> str:
    """A coordinate of a figure: a tenth of a unit is finer than a screen.

    >>> coordinate(12.0), coordinate(-0.04), coordinate(3.14159)
    ('12', '0', '3.1')
    """
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


def number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus sign; a dash where there is none.

    >>> number(-3.25, 1), number(None), number(1234567, 0)
    ('−3.2', '–', '1,234,567')
    """
    if value is None:
        return MISSING
    text = f"{value:,.{digits}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def points(rate: float | None, digits: int = 1) -> str:
    """A difference of two rates in percentage points, with its sign.

    >>> points(0.2134), points(-0.05), points(0.0), points(None)
    ('+21.3', '−5.0', '0.0', '–')
    """
    text = number(None if rate is None else 100 * rate, digits)
    return f"+{text}" if rate is not None and rate > 0 and text.strip("0.,") else text


def percent(rate: float | None, digits: int = 1) -> str:
    """A rate in per cent, without the sign, which stands in the column's head.

    >>> percent(0.645)
    '64.5'
    """
    return number(None if rate is None else 100 * rate, digits)


def interval(pair: list[float] | tuple[float, float] | None, digits: int = 1) -> str:
    """An interval of a difference, in points.

    >>> interval([-0.012, 0.2])
    '−1.2 to +20.0'
    """
    if pair is None or pair[0] is None or pair[1] is None:
        return MISSING
    return f"{points(pair[0], digits)} to {points(pair[1], digits)}"


def p_value(p: float | None) -> str:
    """A p-value as it is usually printed.

    >>> p_value(0.00002), p_value(0.0312)
    ('< 0.001', '0.031')
    """
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else number(p, 3)


def significant(value: float | None, digits: int = 3) -> str:
    """A number of no fixed size, to so many significant digits.

    >>> significant(0.00012345), significant(41.26), significant(12345.6)
    ('1.23e−4', '41.3', '12,346')
    """
    if value is None:
        return MISSING
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.{digits}g}".replace("-", MINUS)
    if 1e3 <= abs(value) < 1e7:
        return number(value, 0)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
