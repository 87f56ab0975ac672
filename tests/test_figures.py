"""Figures: well-formed, named in words, on round scales, and no mark or mean that the data does not carry."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import figures
from controlarm.figures import Bar, Pair, Row, Series, Stage

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    Row("ground_truth", "a0", "+33.0  ▲ superior", 0.33, (0.28, 0.38), (0.30, 0.36), (("seed 1", 0.31), ("seed 2", 0.35))),
    Row("<b>&\"", "a8", "–", None),
    Row("wide", "placebo", "+1.0", 0.01, (-9.0, 9.0), (-0.4, 0.4), (("seed 1", 0.0),)),
]  # fmt: skip
SERIES = [
    Series("truth", "a0", [0, 40, 80], [0.2, None, 0.6], (([0, 40, 80], [0.1, 0.2, 0.5]), ([0, 80], [0.3, 0.7]))),
    Series("a_very_long_arm_name", "a1", [0, 40, 80], [0.2, 0.2, 0.2]),
    Series("empty", "a2", [0, 40], [None, None]),
]  # fmt: skip


def drawn() -> dict[str, str]:
    scale = figures.rows_domain(ROWS, 0.03)
    return {
        "forest": figures.forest("f-0", "coder", "what it shows", ROWS, scale, "points", 0.03),
        "lines": figures.lines("l-0", "coder", "what it shows", SERIES, (0.0, 1.0), "step", "{:g}".format),
        "log": figures.lines("k-0", "coder", "what", [Series("base", "base", [1, 2, 16], [0.1, 0.2, 0.9])], (0.0, 1.0), "k",
                             "{:g}".format, x_log=True, x_marks=[1, 2, 16]),
        "no lines": figures.lines("n-0", "coder", "what", [], (0.0, 1.0), "step", "{:g}".format),
        "stacked": figures.stacked("s-0", "coder", "what", [Bar("truth", "a0", "+3.0", (0.1, -0.07, None, 0.0))],
                                   ("a", "b", "c", "d"), (-0.1, 0.2), "points"),
        "pairs": figures.pairs("p-0", "coder", "what", [Pair("truth", "a0", "–", 0.8, None)], ("code", "words")),
        "flow": figures.flow("w-0", "Flow", "what", [Stage("planned", "63", (("failed", "1"),)), Stage("finished", "62"),
                                                    Stage("evaluated", "9,000", (("unscored", "12"),))]),
    }  # fmt: skip


@pytest.mark.parametrize("name", drawn())
def test_every_figure_is_well_formed_and_says_what_it_shows(name):
    svg = drawn()[name]
    root = ElementTree.fromstring(
        svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    )
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and desc is not None and title.text and desc.text
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert not re.search(r"nan|inf|None|style=|#[0-9a-f]{3}", svg)
    left, top, width, height = map(float, root.get("viewBox", "").split())
    for text in root.iter(f"{SVG}text"):
        assert left - 12 <= float(text.get("x", "nan")) <= left + width
        assert top <= float(text.get("y", "nan")) <= top + height


def test_a_forest_plot_has_a_ring_per_seed_and_an_arrow_where_the_interval_goes_on():
    svg = drawn()["forest"]
    assert len(re.findall(r'class="c0 a0 seed"', svg)) == 2
    assert len(re.findall(r'class="placebo seed"', svg)) == 1
    assert len(re.findall(r"placebo interval open", svg)) == 2  # ± 900 points do not fit
    assert "c0 a0 interval open" not in svg
    assert len(re.findall(r'class="band"', svg)) == len(ROWS)
    assert "&lt;b&gt;&amp;&quot;" in svg and "superior" in svg


def test_arms_differ_in_shape_or_colour():
    looks = {
        (figures.colour_class(mark).split()[0], re.sub(r"[-\d.]+", "", figures.marker(figures.colour_class(mark), 0, 0)), len(figures.marker(mark, 0, 0)))
        for mark in map(figures.arm_mark, range(7))
    }  # fmt: skip
    assert len(looks) == 7
    shapes = [figures.marker(figures.arm_mark(i), 50, 50) for i in range(5)]
    assert len({re.sub(r'class="[^"]*"', "", s) for s in shapes}) == 5
    # What counts is the shape that a figure draws, with the classes of its colour.
    assert "polygon" in figures.marker(figures.colour_class("a1"), 0, 0)


def test_a_mean_never_rests_on_fewer_seeds():
    xs, ys = figures.mean_line([([0, 1, 2], [0.0, 1.0, 2.0]), ([0, 1], [1.0, None])])
    assert xs == [0, 1, 2]
    assert ys == [0.5, None, None]


def test_a_line_breaks_where_a_value_is_missing():
    path = re.search(r'<path d="([^"]*)" class="c0 a0 mean"', drawn()["lines"])
    assert path is not None
    assert path[1].count("M") == 2 and path[1].count("L") == 0
    assert "empty" not in drawn()["lines"]
    assert "a_very_long_…" in drawn()["lines"]


def test_gains_go_right_and_losses_left_of_zero():
    bars = re.findall(
        r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*class="p(\d) part"', drawn()["stacked"]
    )
    spans = {int(kind): (float(x), float(x) + float(width)) for x, width, kind in bars}
    assert set(spans) == {0, 1}
    assert spans[1][1] == pytest.approx(spans[0][0], abs=0.11)  # they meet at zero


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_even_and_inside(low, width, count):
    found = figures.ticks(low, low + width, count)
    assert 1 <= len(found) <= 2 * count + 2
    slack = 1e-6 * (abs(low) + width)
    assert all(low - slack <= t <= low + width + slack for t in found)
    gaps = [b - a for a, b in pairwise(found)]
    assert all(math.isclose(g, gaps[0], rel_tol=1e-3, abs_tol=1e-9) for g in gaps)


@given(st.lists(st.floats(0, 200), max_size=12))
def test_labels_keep_their_order_and_distance(wanted):
    placed = figures.spread(wanted, 13.0, 0.0, 200.0)
    assert all(-1e-6 <= y <= 200 + 1e-6 for y in placed)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    heights = [placed[i] for i in order]
    assert all(b - a >= 13 - 1e-6 for a, b in pairwise(heights))


@given(st.lists(st.floats(-1, 1) | st.none(), min_size=1, max_size=1000))
def test_a_thinned_line_keeps_its_ends_and_is_short(ys):
    pairs = figures.thin(range(len(ys)), ys)
    assert pairs[0] == (0, ys[0]) and pairs[-1] == (len(ys) - 1, ys[-1])
    assert len(pairs) <= figures.POINTS_DRAWN + 1


@given(st.lists(st.floats(-1, 1) | st.none()))
def test_a_domain_holds_its_values_and_is_never_empty(values):
    low, high = figures.domain(values)
    assert low < high
    assert all(low <= v <= high for v in values if v is not None)
