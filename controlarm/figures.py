"""Every figure of a report as a small SVG: readable without scripts, in print, in the dark and on a phone.

A panel is 340 units wide, about the width of a phone, so that its text keeps its size: wide screens set panels side
by side instead of stretching them. Colours come from the page's style sheet through classes (``a0`` … ``a6`` for arms,
``placebo``, ``base``, ``guess``); shape or dash tells the same without colour.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from controlarm.markup import Markup, coordinate, element, join

WIDTH = 340.0
POINTS_DRAWN = 80
"""Longest line; what is left out is said under the figure, `report.json` has all of it."""

NUM_COLOURS = 7


class Scale(NamedTuple):
    """A linear map from data to the panel."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where the value stands; beyond the ends it stands at the end."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether the value is on the scale."""
        return self.low <= value <= self.high


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `count` of them.

    >>> ticks(0, 1), ticks(-0.13, 0.31)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [-0.1, 0.0, 0.1, 0.2, 0.3])
    """
    size = 10.0 ** math.floor(math.log10((high - low) / count))
    step = min((size * m for m in (1, 2, 5, 10)), key=lambda s: abs((high - low) / s - count))
    digits = max(0, 1 - math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def domain(
    values: Iterable[float | None], floor: float | None = None, ceiling: float | None = None
) -> tuple[float, float]:
    """The range of the values with a little air, `floor` and `ceiling` included where given; never empty."""
    found = [v for v in (*values, floor, ceiling) if v is not None and math.isfinite(v)]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    air = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return (
        low if floor is not None and low == floor else low - air,
        high if ceiling is not None and high == ceiling else high + air,
    )


def thin(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float | None]]:
    """At most about `POINTS_DRAWN` points of a line, evenly taken, the last one included."""
    pairs = list(zip(xs, ys, strict=True))
    every = math.ceil(len(pairs) / POINTS_DRAWN) or 1
    return pairs[::every] + (pairs[-1:] if (len(pairs) - 1) % every else [])


def marker(mark: str, x: float, y: float, size: float = 4.2) -> Markup:
    """The shape of an arm: circle, square, diamond, triangles; a ring for placebo and base."""
    name = mark.split()[-1]
    kind = int(name[1:]) % 5 if name[1:].isdigit() else -1
    if kind <= 0:
        return element("circle", class_=f"{mark} mark", cx=x, cy=y, r=size)
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        3: [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        4: [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
    }[kind]
    shape = " ".join(f"{coordinate(x + size * a)},{coordinate(y + size * b)}" for a, b in corners)
    return element("polygon", class_=f"{mark} mark", points=shape)


def arm_mark(index: int) -> str:
    """Class of the index-th arm; colours and shapes have co-prime periods, so 35 arms look different."""
    return f"a{index}"


def colour_class(mark: str) -> str:
    """The classes that colour a mark: arms beyond the seventh share a colour, not a shape."""
    return f"c{int(mark[1:]) % NUM_COLOURS} {mark}" if mark[1:].isdigit() else mark


def _text(x: float, y: float, words: object, class_: str = "", anchor: str | None = None) -> Markup:
    return element("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _rect(x: float, y: float, width: float, height: float, class_: str, *inside: Markup) -> Markup:
    return element("rect", *inside, x=x, y=y, width=max(0.0, width), height=height, class_=class_)


_NARROW, _WIDE = frozenset("fijlrt.,:;!|()[] ·"), frozenset("mwMW")


def _widths(words: str, size: float) -> list[float]:
    """Where each character ends at a font size, about."""
    return list(
        accumulate(size * (0.35 if c in _NARROW else 0.9 if c in _WIDE else 0.6) for c in words)
    )


def short(words: str, room: float, size: float) -> str:
    """The words at a font size, cut where they would be wider than the room.

    >>> short("ground_truth", 84, 11), short("a_very_long_name", 84, 11)
    ('ground_truth', 'a_very_long_…')
    """
    ends = _widths(words, size)
    if not ends or ends[-1] <= room:
        return words
    return f"{words[: sum(end + 0.8 * size <= room for end in ends)]}…"


def _row_head(x: float, y: float, label: str, words: str) -> list[Markup]:
    """A row's label, and at the right end what it says in words."""
    room = WIDTH - x - 8 - max(_widths(words, 12), default=0)
    return [
        _text(x, y, short(label, room, 12), "label"),
        _text(WIDTH, y, words, "value", "end"),
    ]


def _panel(
    ident: str, title: str, description: str, height: float, *content: object, width: float = WIDTH
) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{ident}-t"),
        element("desc", description, id=f"{ident}-d"),
        *content,
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        role="img",
        aria_labelledby=f"{ident}-t {ident}-d",
        class_="panel",
    )


class Row(NamedTuple):
    """One line of a forest plot: a label, the numbers in words, and where they lie."""

    label: str
    mark: str
    words: str
    """Right of the label, for example ``"+21.3 · superior"``."""
    estimate: float | None
    ci95: Sequence[float] | None = None
    ci90: Sequence[float] | None = None
    dots: tuple[tuple[str, float], ...] = ()
    """One (name, value) per seed."""
    start: float | None = None
    """Draw a bar from here to the estimate (waterfall)."""
    shift: float = 0.0
    """Where the dots' zero lies (waterfall: the bar's start)."""


def rows_domain(rows: Iterable[Row], margin: float = 0.0) -> tuple[float, float]:
    """A common scale for panels: it holds every estimate and seed; far intervals are cut with an arrow."""
    near: list[float] = [-2 * margin, 2 * margin, 0.0]
    far: list[float] = []
    for row in rows:
        if row.estimate is not None:
            near += [row.estimate, row.start or 0.0]
        near += [row.shift + value for _, value in row.dots]
        far += [*(row.ci95 or ())]
    low, high = domain(near)
    reach = 0.35 * (high - low)
    low = min(low, max(min(far, default=low), low - reach))
    high = max(high, min(max(far, default=high), high + reach))
    return domain([low, high])


def forest(
    ident: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    scale_domain: tuple[float, float],
    axis: str,
    margin: float = 0.0,
    unit: float = 100.0,
) -> Markup:
    """Estimates with 95 % intervals, ticks at the 90 % bounds, the margin as a band, one faint dot per seed."""
    x = Scale(*scale_domain, 8.0, WIDTH - 8.0)
    marks = ticks(*scale_domain, 5)
    parts: list[object] = [_text(0, 15, short(title, WIDTH, 15), "heading")]
    top, block = 28.0, 50.0
    for i, row in enumerate(rows):
        y = top + i * block
        track = y + 31
        if margin:
            parts.append(_rect(x(-margin), track - 12, x(margin) - x(-margin), 26, "band"))
        parts += [
            _line(x(t), track - 12, x(t), track + 14, "zero" if t == 0 else "grid") for t in marks
        ]
        parts += [
            marker(colour_class(row.mark), 6, y + 9.5),
            *_row_head(16, y + 14, row.label, row.words),
        ]
        parts.append(_row_drawing(row, x, track))
    bottom = top + len(rows) * block
    digits = (
        max(0, -math.floor(math.log10((marks[1] - marks[0]) * unit + 1e-12)))
        if len(marks) > 1
        else 1
    )
    for t in marks:
        words = f"{t * unit:+.{digits}f}" if t else "0"
        parts.append(_text(x(t), bottom + 10, words.replace("-", "−"), "tick", "middle"))
    parts.append(_text(WIDTH / 2, bottom + 27, axis, "axis", "middle"))
    return _panel(ident, title, description, bottom + 34, *parts)


def _row_drawing(row: Row, x: Scale, y: float) -> Markup:
    parts: list[Markup] = []
    colours = colour_class(row.mark)
    if row.start is not None and row.estimate is not None:
        left, right = sorted((x(row.start), x(row.estimate)))
        parts.append(_rect(left, y - 7, right - left, 14, f"{colours} fill"))
    if row.ci95 is not None:
        low, high = row.ci95
        parts.append(_line(x(low), y, x(high), y, f"{colours} interval"))
        for end, way in ((low, 1), (high, -1)):
            at = x(end)
            if x.holds(end):
                parts.append(_line(at, y - 4, at, y + 4, f"{colours} interval"))
            else:  # the interval goes on beyond the panel
                tip = f"M{coordinate(at + 5 * way)} {coordinate(y - 4)}L{coordinate(at)} {coordinate(y)}"
                tip += f"L{coordinate(at + 5 * way)} {coordinate(y + 4)}"
                parts.append(element("path", d=tip, class_=f"{colours} interval open"))
    if row.ci90 is not None:
        parts += [
            _line(x(b), y - 6, x(b), y + 6, f"{colours} tick90") for b in row.ci90 if x.holds(b)
        ]
    for name, value in row.dots:
        parts.append(
            element("circle", element("title", name), cx=x(row.shift + value), cy=y + 10, r=2.4,
                    class_=f"{colours} seed")
        )  # fmt: skip
    if row.estimate is not None and row.start is None:
        parts.append(marker(colours, x(row.estimate), y, 4.8))
    return join(parts)


class Series(NamedTuple):
    """One arm's line: the mean, and faintly each seed."""

    name: str
    mark: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    members: tuple[tuple[Sequence[float], Sequence[float | None]], ...] = ()


def mean_line(
    members: Sequence[tuple[Sequence[float], Sequence[float | None]]],
) -> tuple[list[float], list[float | None]]:
    """The mean over members at each x; None where a member has no value, so that it never rests on fewer seeds."""
    tables = [dict(zip(xs, ys, strict=True)) for xs, ys in members]
    every_x = sorted({x for table in tables for x in table})
    means: list[float | None] = []
    for x in every_x:
        values = [v for table in tables if (v := table.get(x)) is not None]
        means.append(sum(values) / len(values) if len(values) == len(tables) else None)
    return every_x, means


def lines(
    ident: str,
    title: str,
    description: str,
    series: Sequence[Series],
    y_domain: tuple[float, float],
    x_label: str,
    y_words: Callable[[float], str],
    x_log: bool = False,
    x_marks: Sequence[float] | None = None,
) -> Markup:
    """Lines over steps (or over k, on a logarithmic axis), each named at its right end."""
    named = [s for s in series if any(y is not None for y in s.ys) or s.members]
    left, right, top = 34.0, 96.0, 28.0
    height = max(212.0, top + 40 + 13.0 * len(named))
    bottom = height - 34
    place = math.log2 if x_log else float
    all_x = [place(v) for s in named for v in (*s.xs, *(m for xs, _ in s.members for m in xs))]
    low, high = (min(all_x), max(all_x)) if all_x else (0.0, 1.0)
    x = Scale(low, high if high > low else low + 1.0, left, WIDTH - right)
    y = Scale(*y_domain, bottom, top)
    parts: list[object] = [_text(0, 15, short(title, WIDTH, 15), "heading")]
    for t in ticks(*y_domain, 4):
        parts.append(_line(left, y(t), WIDTH - right, y(t), "zero" if t == 0 else "grid"))
        parts.append(_text(left - 5, y(t) + 4, y_words(t), "tick", "end"))
    shown = list(x_marks) if x_marks is not None else ticks(x.low, x.high, 4)
    for t in shown:
        parts.append(_text(x(place(t)), bottom + 15, f"{t:g}", "tick", "middle"))
    parts.append(_text((left + WIDTH - right) / 2, bottom + 29, x_label, "axis", "middle"))

    ends: list[tuple[float, float, Series]] = []
    faint: list[Markup] = []
    strong: list[Markup] = []
    for s in named:
        colours = colour_class(s.mark)
        faint += [
            element("path", d=_path(xs, ys, x, y, place), class_=f"{colours} member")
            for xs, ys in s.members
        ]
        strong.append(element("path", d=_path(s.xs, s.ys, x, y, place), class_=f"{colours} mean"))
        last = [(v, w) for v, w in zip(s.xs, s.ys, strict=True) if w is not None]
        last = last or [
            (v, w) for xs, ys in s.members for v, w in zip(xs, ys, strict=True) if w is not None
        ]
        if last:
            end_x, end_y = max(last, key=lambda pair: pair[0])
            ends.append((x(place(end_x)), y(end_y), s))
    parts += faint + strong
    parts.append(_end_labels(ends, top, bottom, WIDTH - right))
    return _panel(ident, title, description, height, *parts)


def _path(
    xs: Sequence[float],
    ys: Sequence[float | None],
    x: Scale,
    y: Scale,
    place: Callable[[float], float],
) -> str:
    written, pen = "", "M"
    for at, value in thin(xs, ys):
        if value is None:
            pen = "M"
            continue
        written += f"{pen}{coordinate(x(place(at)))} {coordinate(y(value))}"
        pen = "L"
    return written


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, in the same order, at least `gap` apart and within [low, high] if they fit.

    >>> spread([10.0, 11.0, 50.0], gap=10, low=0, high=100)
    [5.5, 15.5, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    # Groups that touch are merged and centred on the mean of what their members want.
    groups: list[tuple[list[int], float]] = []
    for i in order:
        members, centre = [i], wanted[i]
        while True:
            half = gap * (len(members) - 1) / 2
            centre = max(low + half, min(high - half, centre))
            if not groups:
                break
            before, middle = groups[-1]
            if middle + gap * (len(before) - 1) / 2 + gap <= centre - half + 1e-9:
                break
            groups.pop()
            members = before + members
            centre = sum(wanted[m] for m in members) / len(members)
        groups.append((members, centre))
    placed = [0.0] * len(wanted)
    for members, centre in groups:
        for rank, i in enumerate(members):
            placed[i] = centre + gap * (rank - (len(members) - 1) / 2)
    return placed


def _end_labels(
    ends: Sequence[tuple[float, float, Series]], top: float, bottom: float, edge: float
) -> Markup:
    heights = spread([y for _, y, _ in ends], 13.0, top, bottom)
    parts: list[Markup] = []
    for (x, y, series), height in zip(ends, heights, strict=True):
        colours = colour_class(series.mark)
        parts += [
            element("path", d=f"M{coordinate(x)} {coordinate(y)}L{coordinate(edge + 8)} {coordinate(height)}",
                    class_=f"{colours} leader"),
            marker(colours, edge + 11, height, 3.4),
            _text(edge + 18, height + 3.8, short(series.name, 84, 11), "name"),
        ]  # fmt: skip
    return join(parts)


class Bar(NamedTuple):
    """A label with signed parts that add up to a total."""

    label: str
    mark: str
    words: str
    parts: tuple[float | None, ...]


def bars_domain(bars: Iterable[Bar]) -> tuple[float, float]:
    """A common scale for panels of stacked bars."""
    sums = [
        sum(p for p in bar.parts if p is not None and (p > 0) == positive)
        for bar in bars
        for positive in (True, False)
    ]
    return domain([*sums, 0.0])


def stacked(
    ident: str,
    title: str,
    description: str,
    bars: Sequence[Bar],
    names: Sequence[str],
    scale_domain: tuple[float, float],
    axis: str,
) -> Markup:
    """Signed parts, gains to the right of zero and losses to the left, in the order of `names` (patterns p0, p1, …)."""
    x = Scale(*scale_domain, 8.0, WIDTH - 8.0)
    marks = ticks(*scale_domain, 5)
    parts: list[object] = [_text(0, 15, short(title, WIDTH, 15), "heading")]
    top, block = 28.0, 44.0
    for i, bar in enumerate(bars):
        y = top + i * block
        parts += [
            marker(colour_class(bar.mark), 6, y + 9.5),
            *_row_head(16, y + 14, bar.label, bar.words),
        ]
        parts += [_line(x(t), y + 20, x(t), y + 40, "grid") for t in marks if t]
        reach = {True: 0.0, False: 0.0}
        for j, value in enumerate(bar.parts):
            if not value:
                continue
            start = reach[value > 0]
            reach[value > 0] = start + value
            left, right = sorted((x(start), x(start + value)))
            tip = element("title", f"{names[j]}: {100 * value:+.1f}".replace("-", "−"))
            parts.append(_rect(left, y + 23, right - left, 14, f"p{j} part", tip))
        parts.append(_line(x(0), y + 20, x(0), y + 40, "zero"))
    bottom = top + len(bars) * block
    for t in marks:
        words = f"{100 * t:+g}" if t else "0"
        parts.append(_text(x(t), bottom + 10, words.replace("-", "−"), "tick", "middle"))
    parts.append(_text(WIDTH / 2, bottom + 27, axis, "axis", "middle"))
    return _panel(ident, title, description, bottom + 34, *parts)


class Pair(NamedTuple):
    """Two rates of one arm: what it paid code, what it paid words."""

    label: str
    mark: str
    words: str
    first: float | None
    second: float | None


def pairs(
    ident: str, title: str, description: str, rows: Sequence[Pair], names: tuple[str, str]
) -> Markup:
    """Two rates per arm on a scale from 0 to 1, joined: a full mark for the first, a ring for the second."""
    x = Scale(0.0, 1.0, 8.0, WIDTH - 8.0)
    parts: list[object] = [_text(0, 15, short(title, WIDTH, 15), "heading")]
    top, block = 28.0, 42.0
    for i, row in enumerate(rows):
        y = top + i * block
        track = y + 28
        parts += [
            *_row_head(0, y + 14, row.label, row.words),
            *(_line(x(t), track - 8, x(t), track + 8, "grid") for t in (0.0, 0.25, 0.5, 0.75, 1.0)),
        ]
        colours = colour_class(row.mark)
        if row.first is not None and row.second is not None:
            parts.append(_line(x(row.first), track, x(row.second), track, f"{colours} join"))
        for value, kind, name in ((row.second, "ring", names[1]), (row.first, "dot", names[0])):
            if value is not None:
                tip = element("title", f"{name}: {100 * value:.1f} %")
                parts.append(
                    element("circle", tip, cx=x(value), cy=track, r=6.0 if kind == "ring" else 3.6,
                            class_=f"{colours} {kind}")
                )  # fmt: skip
    bottom = top + len(rows) * block
    for t in (0.0, 0.5, 1.0):
        parts.append(_text(x(t), bottom + 10, f"{100 * t:g}", "tick", "middle"))
    parts.append(_text(WIDTH / 2, bottom + 27, "reward paid, % of the maximum", "axis", "middle"))
    return _panel(ident, title, description, bottom + 34, *parts)


class Stage(NamedTuple):
    """A box of the flow diagram and what left the trial after it."""

    label: str
    total: str
    lost: tuple[tuple[str, str], ...] = ()


def flow(ident: str, title: str, description: str, stages: Sequence[Stage]) -> Markup:
    """Boxes from top to bottom; what was lost on the way stands at the right (after CONSORT 2010)."""
    width, box, side = 380.0, 190.0, 158.0
    parts: list[object] = []
    y = 2.0
    for i, stage in enumerate(stages):
        parts += [
            _rect(1, y, box, 52, "box"),
            _text(1 + box / 2, y + 23, stage.total, "count", "middle"),
            _text(1 + box / 2, y + 41, stage.label, "label", "middle"),
        ]
        y += 52
        last = i == len(stages) - 1
        if stage.lost:
            tall = 14.0 + 19 * len(stage.lost)
            middle = y + 10 + tall / 2
            left = width - side - 1
            parts.append(_line(1 + box / 2, middle, left, middle, "arrow"))
            parts.append(_rect(left, y + 10, side, tall, "box lost"))
            for j, (label, count) in enumerate(stage.lost):
                at = y + 28 + 19 * j
                parts.append(_text(left + 10, at, label, "axis"))
                parts.append(_text(width - 11, at, count, "value", "end"))
            if last:
                parts.append(_line(1 + box / 2, y, 1 + box / 2, middle, "arrow"))
            following = y + tall + 22
        else:
            following = y + 26
        if not last:
            parts.append(_line(1 + box / 2, y, 1 + box / 2, following - 1, "arrow"))
            tip = f"M{coordinate(box / 2 - 3)} {coordinate(following - 7)}l4 6 4 -6"
            parts.append(element("path", d=tip, class_="arrow"))
        y = following
    return _panel(ident, title, description, y, *parts, width=width)
