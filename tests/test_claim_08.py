"""Interference, winners and sparsity are what was planted, and SELF is compared with GRPO unit by unit."""

import statistics
from typing import Any

import numpy as np
import pytest
from fabricate_boundary import (
    BASE_OTHERS,
    OTHERS,
    OWN,
    RECIPES,
    SAMPLES,
    SLOPE,
    UNCHANGED,
    boundary,
    by_hand,
)
from hostile import NASTY
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_claims import kinds, renamed

from claims import c08_interference as c
from claims.boundary_trial import ANSWER, TRUTH, find
from claims.ledger import Record, tables_of
from claims.published import SELF_TABLE
from controlarm.analysis.probes import Interference


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Record:
    return boundary(tmp_path_factory.mktemp("eight") / "run")


@pytest.fixture(scope="module")
def made(record) -> dict:
    return tables_of(c.CLAIM, {"boundary": record})


def row_of(rows, **wanted) -> dict[str, Any]:
    found = find(rows, **wanted)
    assert found
    return found


@pytest.mark.parametrize("recipe", c.OURS)
def test_what_was_planted_is_found_under_the_truth_and_nothing_under_the_coin(made, recipe):
    truth, coin = (row_of(made["interference"], recipe=recipe, arm=a) for a in (TRUTH, "random"))
    assert truth["others_before"]["mean"] == pytest.approx(BASE_OTHERS)
    assert truth["others_after"]["mean"] == pytest.approx(OTHERS)
    assert truth["others_change"]["mean"] == pytest.approx(OTHERS - BASE_OTHERS)
    assert truth["own_after"]["mean"] == pytest.approx(OWN)
    assert (
        truth["share_negative_after"]["mean"] == 1 and truth["share_negative_before"]["mean"] == 0
    )
    assert coin["common_change"]["sign"] == "exactly nothing"
    for source in c.SOURCES:
        slope = row_of(made["winners"], recipe=recipe, arm=TRUTH, source=source)["slope"]
        assert slope["mean"] == pytest.approx(SLOPE)
        none = row_of(made["winners"], recipe=recipe, arm="random", source=source)["slope"]
        assert none["sign"] == "exactly nothing"
    for precision, share in UNCHANGED.items():
        row = row_of(made["sparsity"], recipe=recipe, arm=TRUTH, precision=precision)
        assert (row["least"], row["unchanged"], row["most"]) == pytest.approx((share, share, share))


def test_the_same_pairs_are_those_that_both_matrices_have(made):
    # Planted: two teachers of five learners, before and after by one problem apart. One teacher and four learners are in both.
    row = row_of(made["interference"], recipe="grpo", arm=TRUTH)
    assert row["common_pairs"] == 3 * 3
    assert row["common_change"]["mean"] == pytest.approx(OTHERS - BASE_OTHERS)


names = st.lists(st.sampled_from("abcdef"), min_size=0, max_size=5, unique=True)


@given(names, names, names, names, st.integers(0, 9999))
def test_common_pairs_are_found_by_name_and_exchanging_matrices_changes_the_sign(t1, l1, t2, l2, seed):  # fmt: skip
    rng = np.random.default_rng(seed)
    one, two = (
        Interference(tuple(t), tuple(i), rng.normal(size=(len(t), len(i)))) for t, i in ((t1, l1), (t2, l2))
    )  # fmt: skip
    cells = [
        {(t, i): m.delta[a, b] for a, t in enumerate(m.teachers) for b, i in enumerate(m.learners)}
        for m in (one, two)
    ]
    wanted = [cells[1][k] - cells[0][k] for k in cells[0] if k in cells[1] and k[0] != k[1]]
    assert sorted(c.common(one, two)) == pytest.approx(sorted(wanted))
    assert sorted(c.common(two, one)) == pytest.approx(sorted(-np.array(wanted)))


@pytest.mark.parametrize("recipe", [c.SELECTIVE, c.WHOLE])
def test_self_is_compared_with_grpo_unit_by_unit(record, made, recipe):
    own, other = (by_hand(record, r, TRUTH, ANSWER) for r in (recipe, c.PLAIN))
    for k, values in ((1, lambda s: s.mean((1, 2))), (SAMPLES, lambda s: s.any(2).mean(1))):
        row = row_of(made["versus"], recipe=recipe, arm=TRUTH, notion=ANSWER, k=k)
        differences = values(own) - values(other)
        assert row["mean"] == pytest.approx(differences.mean())
        if np.ptp(differences) > 0:
            half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
            assert row["high"] == pytest.approx(differences.mean() + half)


def test_tracking_correlates_within_a_model_over_all_recipes_of_the_trial(made):
    (row,) = made["tracking"]
    assert row["recipes"] == len(RECIPES)
    assert row["mean"] is None  # the planted interference is alike under all recipes


numbers = st.floats(-5, 5, allow_subnormal=False).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8))
def test_a_correlation_is_pearsons_and_undefined_without_variation(pairs):
    first, second = zip(*pairs, strict=True)
    found = c.correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(statistics.correlation(first, second), abs=1e-6)
    assert np.isnan(c.correlation(first[:2], second[:2]))
    assert c.correlation([*first, np.nan], [*second, 1.0]) == pytest.approx(found, nan_ok=True)


# The verdict.


def world(one="above", before="not told apart", after="below", slope="above", many="above", kept=-0.02):  # fmt: skip
    interval = {"low": 0.0, "high": 0.2}
    here = {"family": "coder"}
    head = {**here, "arm": TRUTH, "notion": ANSWER}
    return {
        "trial": [{**here, "k": 9, "unsolved": 0.1}],
        "ends": [{**head, "recipe": c.PLAIN, "k": 1, "sign": one, "mean": 0.1}],
        "interference": [{**here, "recipe": c.PLAIN, "arm": TRUTH, "others_before": {"sign": before}, "others_after": {"sign": after}}],
        "winners": [{**here, "recipe": c.PLAIN, "arm": TRUTH, "source": "reference", "slope": {"sign": slope}}],
        "versus": [
            {**head, **interval, "recipe": c.WHOLE, "k": 1, "sign": "not told apart", "mean": kept},
            {**head, **interval, "recipe": c.WHOLE, "k": 9, "sign": many, "mean": 0.1},
        ],
    }  # fmt: skip


OPEN = "not told apart"


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world(), "reproduced"),
        (world(before="below", after="above"), "reproduced"),
        (world(kept=-0.04), "partly"),
        (world(many=OPEN), "partly"),
        (world(after=OPEN, slope=OPEN), "partly"),
        (world(after=OPEN, slope=OPEN, many=OPEN), "not at this scale"),
        (world(after=OPEN, slope="below", many=OPEN), "refuted in miniature"),
        (world(before="above", after="above", slope=OPEN, many=OPEN), "refuted in miniature"),
        (world(after="above", slope=OPEN, many=OPEN), "not at this scale"),
        (world(after=OPEN, slope=OPEN, many="below"), "refuted in miniature"),
        (world(one=OPEN), "not at this scale"),
        (
            {
                "trial": [{"k": 9, "family": "coder", "unsolved": 0.1}],
                "ends": [],
                "interference": [],
                "winners": [],
                "versus": [],
            },
            "not at this scale",
        ),
    ],
)
def test_the_verdict_follows_the_rule(made, verdict):
    assert c.finding(made).verdict == verdict


# The page.


@pytest.mark.parametrize("kind", ["markdown", "rich", "image", "line ends", "fence", "signs"])
def test_hostile_names_change_nothing_that_a_reader_of_markdown_does(made, kind):
    other = c.page(renamed(made, {"random": NASTY[kind], "selective": NASTY[kind] + "x"}))
    for one, changed in zip(c.page(renamed(made, {"selective": "other"})), other, strict=True):
        assert kinds(changed) == kinds(one)


def test_a_page_is_made_though_everything_measured_is_missing(made):
    bare = {key: [] for key in made} | {key: made[key] for key in ("trial", "tracking")}
    assert c.page(bare).asked and c.finding(bare).effect == "–"


def test_the_published_margin_is_kept_by_every_published_model():
    for benchmarks in SELF_TABLE.values():
        for by in benchmarks.values():
            assert by["self"][0] - by["grpo"][0] > -c.MARGIN
            assert by["self"][1] > by["grpo"][1]
