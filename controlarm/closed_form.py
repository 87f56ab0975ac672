r"""Answers as numbers: a small reader of LaTeX that says what an answer is worth, or that it cannot tell.

It is the fast half of the `referee`, which need not ask a computer algebra system whether 3 is 5, and its second opinion,
since it shares no line with that system. It reads sums, products, quotients, powers, roots, fractions, letters, and
tuples, intervals and sets of these; everything else it leaves alone. Nothing is executed; depth and length are bounded.
"""

import cmath
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_LENGTH = 300
"""Longest answer (characters) that is read."""
MAX_DEPTH = 24
"""Deepest nesting of an answer that is read."""

TOLERANCE = 1e-11
"""Relative difference up to which values are equal."""
_NOISE = 1e-9
_SEEN = 1e6
_MAX_BITS = 1 << 13
APART = 1e-3
"""Relative difference from which two constants are different, whoever rounds how."""

_ERASED = re.compile(
    r"\\(?:left|right|displaystyle|limits|big|Big|bigg|Bigg)(?![a-zA-Z])|\$|(?<=[0-9])(?:\\[,!]|\{,\})(?=[0-9]{3})"
)
_SPACED = re.compile(r"\\[!,;: ]|~")
_BRACKETED = re.compile(r"[(\[]|\\\{")
_SCIENTIFIC = re.compile(r"(?<![\w.])([0-9]+(?:\.[0-9]+)?)[eE]([+-]?)([0-9]{1,3})(?![\w.])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_ALIKE = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cdot", "*"),
    ("\\times", "*"),
    ("\\div", "/"),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\N{MINUS SIGN}", "-"),
    ("\N{EN DASH}", "-"),
    ("\N{SQUARE ROOT}", "\\sqrt"),
    ("\N{GREEK SMALL LETTER PI}", "\\pi"),
    ("\N{INFINITY}", "\\infty"),
    ("\N{DEGREE SIGN}", "^\\circ"),
    ("^{\\circ}", "^\\circ"),
)
_GROUPED = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?![0-9,])")
_SEPARATOR = re.compile("[, ]")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_SPACES = re.compile(r"\s+")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])\s+(?=[0-9])")
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}"}

# Letters stand for these numbers, one column a reading: equal at all of them is taken for equal.
_POINTS = [
    {letter: 0.37 + ((i * 17 + k * 29 + 11) % 61) / 23.7 for i, letter in enumerate("abcdfghjklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")}
    for k in range(3)
]  # fmt: skip
_INFINITY = 1e200  # far from what anybody answers, and finite
_CONSTANTS = {"e": math.e, "i": 1j}


Number = Fraction | complex
"""Exact where only digits and ``+ - * /`` and powers made it."""


class Value(NamedTuple):
    """What an answer is worth."""

    opening: str
    """``(``, ``[``, ``\\{`` of a tuple, an interval or a set; empty for a single value or a bare list."""
    closing: str
    parts: tuple[tuple[Number, ...], ...]
    """Each part's number at every point; a constant has one and the same at all."""
    letters: bool
    """True when a letter stands for an unknown."""
    decimal: bool
    """True when a part was written with a decimal point, perhaps rounded."""


class _UnreadableError(Exception):
    """Not in the grammar."""


def plain(answer: str) -> str:
    r"""The answer without what only sets type: equal plain forms are equal answers.

    >>> plain(r"\left( 3, \dfrac{\pi}{2} \right)"), plain("\\text{north} "), plain(r"$1{,}000$")
    ('(3,\\frac{\\pi}{2})', 'north', '1000')
    """
    answer = scientific(answer, "*")
    # First of all, since "32, 349" is two numbers; and so is what a bracket holds.
    if not _BRACKETED.search(answer):
        answer = _GROUPED.sub(lambda found: _SEPARATOR.sub("", found[0]), answer)
    for written, meant in _ALIKE:
        answer = answer.replace(written, meant)
    answer = _TEXT.sub(r"\1", _SPACED.sub(" ", _ERASED.sub("", answer)))
    answer = _BETWEEN_DIGITS.sub("\0", answer)  # "1 2" is not "12"
    return _SPACES.sub("", answer).replace("\0", " ").rstrip(".\\")


def scientific(answer: str, times: str) -> str:
    r"""The answer with ``1.6e-19`` written as a power of ten.

    >>> scientific("1.6e-19", r" \times ")
    '1.6 \\times 10^{-19}'
    """
    return _SCIENTIFIC.sub(
        lambda found: f"{found[1]}{times}10^{{{found[2].strip('+')}{int(found[3])}}}", answer
    )


@lru_cache(maxsize=1 << 14)
def read(answer: str) -> Value | None:
    r"""The value of an answer; None when it is not in the grammar.

    >>> read(r"2\sqrt{2}").parts[0][0].real, read(r"\frac12").parts[0][0], read("9^{9^{9^9}}")
    (2.8284271247461903, Fraction(1, 2), None)
    """
    if len(answer) > MAX_LENGTH:
        return None
    text = plain(answer)
    opening = next((o for o in _CLOSING if text.startswith(o)), "")
    try:
        parts, closing = _inside(text, opening) if opening else (None, "")
        if parts is None:
            opening, parts = "", _split(text)
        read_at = [[_Reader(part, point).whole() for part in parts] for point in _POINTS]
    except (_UnreadableError, ArithmeticError, ValueError, RecursionError):
        return None
    columns = tuple(zip(*read_at, strict=True))
    inexact = (x for column in columns for x in column if not isinstance(x, Fraction))
    if not all(map(cmath.isfinite, inexact)):
        return None
    letters = any(len(set(column)) > 1 for column in columns)
    return Value(opening, closing, columns, letters, bool(re.search(r"\.[0-9]", text)))


def equal(answer: str, other: str) -> bool | None:
    r"""Whether two answers are worth the same; None when one of them is not in the grammar.

    >>> equal(r"\frac{\sqrt{8}}{2}", r"\sqrt 2"), equal("(x+1)^2", "x^2+2x+1"), equal("[0,1)", "[0,1]")
    (True, True, False)
    """
    a, b = read(answer), read(other)
    if a is None or b is None:
        return None
    if (a.opening, a.closing, len(a.parts)) != (b.opening, b.closing, len(b.parts)):
        return False
    if a.opening in ("", "\\{") and len(a.parts) > 1:  # a set: the order does not count
        a, b = (v._replace(parts=tuple(sorted(v.parts, key=_by_size))) for v in (a, b))
    return all(
        _near(x, y, TOLERANCE)
        for mine, theirs in zip(a.parts, b.parts, strict=True)
        for x, y in zip(mine, theirs, strict=True)
    )


def decided(answer: str, other: str) -> bool | None:
    """As `equal`, but only where no convention could say otherwise: constants that are written exactly, or what is far apart."""
    a, b = read(answer), read(other)
    if a is None or b is None:
        return None
    if a.letters or b.letters:
        return False if _sums_apart(answer, a, other, b) else None
    single = len(a.parts) == len(b.parts) == 1 and not a.opening and not b.opening
    if single:
        x, y = a.parts[0][0], b.parts[0][0]
        exact = isinstance(x, Fraction) and isinstance(y, Fraction)
        if exact and (x == y or not (a.decimal or b.decimal)):
            return x == y
        # Of large numbers a float does not see the last digits.
        if not exact and abs(x) < _SEEN and _near(x, y, TOLERANCE) and not (a.decimal or b.decimal):
            return True if abs(x) > _NOISE else None
        return False if _apart(x, y) else None
    if len(a.parts) != len(b.parts):
        alone = {a.opening, b.opening} <= {"(", ""} and 1 in (len(a.parts), len(b.parts))
        return False if alone and "(" in (a.opening, b.opening) else None
    if not {a.opening, b.opening} <= {"(", "["}:
        return None
    pairs = zip(a.parts, b.parts, strict=True)
    return False if any(_apart(x[0], y[0]) for x, y in pairs) else None


def number(answer: str) -> float | None:
    r"""The real number that an answer is, if it is one.

    >>> number(r"\frac{7}{4}"), number("2i"), number("x"), number("(1, 2)")
    (1.75, None, None, None)
    """
    value = read(answer)
    if value is None or value.letters or value.opening or len(value.parts) != 1:
        return None
    try:
        found = complex(value.parts[0][0])
    except OverflowError:
        return None
    return None if abs(found.imag) > TOLERANCE * abs(found) else found.real


def _sums_apart(answer: str, a: Value, other: str, b: Value) -> bool:
    """Whether two sums of the same letters, or such a sum and a constant, differ at every point.

    Only sums: a letter beside a number may be a unit, which some leave out.
    """
    letters = [_letters(answer) if a.letters else None, _letters(other) if b.letters else None]
    sums = [found for found in letters if found is not None]
    if any(v.opening or len(v.parts) > 1 for v in (a, b)) or not all(sums) or sums[0] != sums[-1]:
        return False
    return all(_apart(x, y) for x, y in zip(a.parts[0], b.parts[0], strict=True))


def _letters(answer: str) -> frozenset[str]:
    """The letters of a sum; none of anything else."""
    text = plain(answer)
    if not set("+-") & set(text[1:]) or re.search("[a-zA-Z]{2}", _COMMAND.sub(" ", text)):
        return frozenset()
    return frozenset(c for c in _COMMAND.sub("", text) if c.isalpha() and c not in _CONSTANTS)


def _by_size(part: tuple[Number, ...]) -> tuple[float, float]:
    return float(part[0].real), float(part[0].imag)


def _near(a: Number, b: Number, tolerance: float) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if tolerance == TOLERANCE:
            return a == b
        return abs(a - b) <= Fraction(tolerance) * max(abs(a), abs(b))
    try:
        a, b = complex(a), complex(b)
    except OverflowError:
        return False
    return abs(a - b) <= tolerance * max(abs(a), abs(b), _NOISE)


def _apart(a: Number, b: Number) -> bool:
    """Whether two numbers differ beyond rounding, by whomever; a float near nothing may be nothing."""
    exact = isinstance(a, Fraction) and isinstance(b, Fraction)
    return (exact or min(abs(a), abs(b)) > _NOISE) and not _near(a, b, APART)


def _raised(value: Number, exponent: Number) -> Number:
    if isinstance(value, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        if bits * abs(exponent) <= _MAX_BITS:
            return value ** int(exponent)
    return complex(value) ** complex(exponent)


def _inside(text: str, opening: str) -> tuple[list[str] | None, str]:
    """The parts between one pair of brackets around the whole text, two at least; None when there is no such pair."""
    closing = next((c for c in (")", "]", "\\}") if text.endswith(c)), "")
    inner = text[len(opening) : -len(closing)] if closing else ""
    if not closing or (opening == "\\{") != (closing == "\\}"):
        return None, ""
    try:
        parts = _split(inner)
    except _UnreadableError:
        return None, ""
    return (parts, closing) if len(parts) > 1 or opening == "\\{" else (None, "")


def _split(text: str) -> list[str]:
    """Parts at commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "({[") - (character in ")}]")
        if depth < 0:
            raise _UnreadableError
        if character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


class _Reader:
    """Recursive descent over one part, at one point."""

    def __init__(self, text: str, point: Mapping[str, float]) -> None:
        self.text, self.point, self.at = text, point, 0

    def whole(self) -> Number:
        value = self._sum(MAX_DEPTH)
        if self.at != len(self.text):
            raise _UnreadableError
        return value

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, wanted: str) -> bool:
        if self.text.startswith(wanted, self.at):
            self.at += len(wanted)
            return True
        return False

    def _need(self, wanted: str) -> None:
        if not self._take(wanted):
            raise _UnreadableError

    def _sum(self, depth: int) -> Number:
        if depth == 0:
            raise _UnreadableError
        value = self._signed(depth)
        while (sign := self._next()) in ("+", "-") and sign:
            self.at += 1
            term = self._product(depth)
            value = value + term if sign == "+" else value - term
        return value

    def _signed(self, depth: int) -> Number:
        sign = 1
        while (mark := self._next()) in ("+", "-") and mark:
            self.at += 1
            sign = -sign if mark == "-" else sign
        return sign * self._product(depth)

    def _product(self, depth: int) -> Number:
        began = self.at
        value = self._power(depth)
        number_before = bool(_NUMBER.fullmatch(self.text, began, self.at))
        while True:
            following = self._next()
            if following and following in "*/":
                self.at += 1
                sign = -1 if self._take("-") else 1
                factor = sign * self._power(depth)
                value = value * factor if following == "*" else value / factor
            elif following and (following.isalpha() or following in "({\\"):
                if self.text.startswith(("\\}", "\\frac"), self.at) and (
                    number_before or self.text.startswith("\\}", self.at)
                ):
                    raise _UnreadableError  # 2\frac{1}{2}: a mixed number to some, a product to others
                value *= self._power(depth)
            else:
                return value
            number_before = False

    def _power(self, depth: int) -> Number:
        value = self._atom(depth)
        if self._take("^"):
            exponent = self._argument(depth)
            if abs(exponent) > 400 or (value == 0 and exponent.real <= 0):
                raise _UnreadableError
            value = _raised(value, exponent)
        return value

    def _argument(self, depth: int) -> Number:
        """What ``^``, a fraction or a root applies to: a group, a command, or one character."""
        if self._next() == "{" or self._next() == "\\":
            return self._atom(depth)
        character = self._next()
        if not (character.isdigit() and character.isascii()) and character not in self.point:
            raise _UnreadableError
        self.at += 1
        return Fraction(character) if character.isdigit() else self.point[character]

    def _atom(self, depth: int) -> Number:
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            return Fraction(number[0])
        character = self._next()
        if character in ("(", "{") and character:
            self.at += 1
            value = self._sum(depth - 1)
            self._need(")" if character == "(" else "}")
            return value
        if character == "\\":
            return self._command(depth - 1)
        self.at += 1
        if character in _CONSTANTS:
            return _CONSTANTS[character]
        if character in self.point:
            return self.point[character]
        raise _UnreadableError

    def _command(self, depth: int) -> Number:
        found = _COMMAND.match(self.text, self.at)
        name = found[0] if found else ""
        self.at += len(name)
        if name == "\\pi":
            return math.pi
        if name == "\\infty":
            return _INFINITY
        if name == "\\frac":
            above = self._argument(depth)
            return above / self._argument(depth)
        if name == "\\sqrt":
            root = 2.0 + 0j
            if self._take("["):
                root = complex(self._sum(depth))
                self._need("]")
            value = complex(self._argument(depth))
            if value.imag == 0 and value.real < 0 and root.real % 2 == 1:
                return -((-value) ** (1 / root))
            return value ** (1 / root)
        raise _UnreadableError
