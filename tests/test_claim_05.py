"""Curves, sets and crossings are those of the samples, and what outputs are to the base is what was planted."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate_boundary import PROBED, RECIPES, SAMPLES, TALKER, TEXT, boundary, by_hand
from hostile import NASTY
from hypothesis import given
from hypothesis import strategies as st
from test_claims import kinds, renamed

from claims import c05_boundary as c
from claims import published
from claims.boundary_trial import (
    ANSWER,
    BEYOND,
    DERIVATION,
    NOTIONS,
    TRIALS,
    TRUTH,
    Reach,
    find,
    of,
    sign,
    told,
)
from claims.ledger import Record, Tree, build, tables_of
from controlarm.analysis import coverage
from controlarm.analysis.boundary import Tries
from controlarm.analysis.probes import Perplexities
from controlarm.protocol import Unit

OURS = [recipe for recipe in RECIPES if recipe in c.ALGORITHMS]


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Record:
    return boundary(tmp_path_factory.mktemp("five") / "run")


@pytest.fixture(scope="module")
def made(record) -> dict:
    return tables_of(c.CLAIM, {"boundary": record})


def end(made, recipe, arm, notion, k):
    row = find(made["ends"], recipe=recipe, arm=arm, notion=notion, k=k)
    assert row
    return row


@pytest.mark.parametrize("notion", [ANSWER, DERIVATION])
@pytest.mark.parametrize("recipe", OURS)
def test_one_try_is_the_share_of_successes_and_all_tries_the_share_of_problems(
    record, made, recipe, notion
):
    base, trained = (by_hand(record, recipe, arm, notion) for arm in ("base", TRUTH))
    one, most = (end(made, recipe, TRUTH, notion, k) for k in (1, SAMPLES))
    assert one["mean"] == pytest.approx((trained.mean((1, 2)) - base.mean((1, 2))).mean())
    assert most["value"] == pytest.approx(trained.any(2).mean())
    assert most["base"] == pytest.approx(base.any(2).mean())
    assert one["sign"] == "above"


def test_a_placebo_that_left_the_weights_alone_gains_exactly_nothing(made):
    rows = [row for row in made["ends"] if row["arm"] == "random"]
    assert len(rows) == len(OURS) * len(NOTIONS) * 2
    assert {row["sign"] for row in rows} == {"exactly nothing"}
    truths = [row for row in made["ends"] if row["arm"] == TRUTH]
    assert all(row["over_placebo"]["mean"] == pytest.approx(row["mean"]) for row in truths)


def test_guessing_is_taken_out_problem_by_problem(record):
    reach = Reach(record.trial)
    gold = [problem.answer for problem in record.trial.problems["held_out"]]
    everyone = gold + [problem.answer for problem in record.trial.problems["training"]]
    for unit, curves in reach.curves("grpo", TRUTH, ANSWER).items():
        beyond = reach.curves("grpo", TRUTH, BEYOND)[unit]
        for i, answer in enumerate(gold):
            share = (everyone.count(answer) - 1) / (len(everyone) - 1)
            for j, k in enumerate(reach.ks):
                guess = 1 - (1 - share) ** k
                assert beyond[i, j] == pytest.approx((curves[i, j] - guess) / (1 - guess))


def test_cells_hold_every_problem_of_every_model_and_are_those_of_the_samples(record, made):
    base, trained = (by_hand(record, "grpo", arm, ANSWER).sum(2) > 0 for arm in ("base", TRUTH))
    row = find(made["excess"], recipe="grpo", notion=ANSWER)
    assert row
    cells = coverage.Table(*(row[cell] for cell in coverage.Table._fields))
    assert cells == coverage.table(base.ravel(), trained.ravel())
    assert row["mean"] == pytest.approx((row["new_to_trained"] - row["new_to_base"]) / 3)
    own = [r for r in made["sets"] if (r["recipe"], r["notion"]) == ("grpo", ANSWER)]
    assert [r["model"] for r in own] == [1, 2, 3]
    for r, before, after in zip(own, base, trained, strict=True):
        alone = coverage.share(int((after & ~before).sum()), len(before))
        assert (r["trained_only_low"], r["trained_only_high"]) == pytest.approx(alone[2:])
        assert row["trained_only_low"] <= alone.low and alone.high <= row["trained_only_high"]


def test_a_curve_has_a_band_for_each_model_and_one_over_them(made):
    for recipe in OURS:
        for notion in NOTIONS:
            own = [r for r in made["curves"] if (r["recipe"], r["notion"]) == (recipe, notion)]
            assert [row["scope"] for row in own] == ["p1", "p2", "p3", "models"]
            *models, over = own
            mean = np.mean([row["difference"] for row in models], axis=0)
            assert over["difference"] == pytest.approx(mean)
            assert over["difference"][0] == pytest.approx(end(made, recipe, TRUTH, notion, 1)["mean"])  # fmt: skip
            for row in models:
                assert np.all(np.array(row["low"]) <= np.array(row["high"]))
                wanted = np.array(row["trained"]) - np.array(row["base"])
                assert row["difference"] == pytest.approx(wanted)


def test_algorithms_that_are_compared_apart_share_no_sample(record, made, monkeypatch):
    seen: list[np.ndarray] = []
    count = c.tries
    monkeypatch.setattr(c, "tries", lambda s: seen.append(s) or count(s))
    list(c._overlaps(Reach(record.trial), OURS, ANSWER, True))
    windows = [s for s in seen if s.shape[1] == SAMPLES // (1 + len(OURS))]
    assert len(windows) == 3 * (1 + len(OURS))
    starts = {s.__array_interface__["data"][0] for s in windows}
    assert len(starts) == len(windows)
    apart = {row["apart"]: row["tries"] for row in made["overlap"]}
    assert apart == {False: SAMPLES, True: SAMPLES // (1 + len(OURS))}


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_problems_of_one_stratum_differ_less_than_twofold_and_unsolved_ones_stand_alone(right):
    strata = c.difficulty(Tries(np.full(len(right), 300), np.array(right)))
    for a, s in zip(right, strata, strict=True):
        for b, t in zip(right, strata, strict=True):
            if s == t:
                assert (a == 0) == (b == 0)
                assert a == b == 0 or max(a, b) < 2 * min(a, b)


def texts(values: list[list[float]]) -> Perplexities:
    ids = tuple(str(i) for i, own in enumerate(values) for _ in own)
    flat = np.array([value for own in values for value in own], float)
    return Perplexities(ids, flat, flat, flat, flat, flat, flat)


groups = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=3, max_size=3)


@given(groups, groups)
def test_less_surprising_is_the_share_of_pairs_on_a_problem_and_exchanging_sides_mirrors_it(a, b):
    found = c.less_surprising(texts(a), texts(b))
    pairs = [
        np.mean([(x < y) + (x == y) / 2 for x in own for y in other])
        for own, other in zip(a, b, strict=True)
    ]
    assert found == pytest.approx(np.mean(pairs))
    assert c.less_surprising(texts(b), texts(a)) == pytest.approx(1 - found)


def test_what_was_planted_in_probes_is_found(made):
    for recipe in OURS:
        truth, coin = (find(made["perplexity"], recipe=recipe, arm=a) for a in (TRUTH, "random"))
        assert truth and coin
        assert (truth["median"], truth["base_median"]) == pytest.approx((1.5, 2.0))
        assert truth["beyond_half"]["mean"] == pytest.approx(0.5)
        assert coin["beyond_half"]["mean"] == pytest.approx(0)
        hot = find(made["temperature"], recipe=recipe)
        assert hot
        assert (hot["temperature"], hot["is_matched"], hot["tries"]) == (1.25, 3, PROBED)
        found = [hot[f"{who}_one"] for who in ("base", "plain", "matched")]
        assert found == pytest.approx([0.5 / PROBED, 2 / PROBED, 3 / PROBED])
        assert hot["base_many"] == 0.5 and hot["matched_many"] == 1
        assert hot["matched_minus_base"]["mean"] == pytest.approx(0.5)


def test_histograms_count_every_problem_of_every_model(made):
    assert [row["who"] for row in made["histograms"]] == ["base", *OURS]
    assert {sum(row["problems"]) for row in made["histograms"]} == {3 * 8}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.2, "above"), (-0.2, -0.1, "below"), (-0.1, 0.1, "not told apart"), (0, 0, "exactly nothing"),
        (float("nan"), float("nan"), "not told apart"), (0, 0.1, "not told apart"),
    ],
)  # fmt: skip
def test_a_sign_is_what_the_interval_says(low, high, said):
    assert sign(low, high) == said


def test_units_without_a_value_are_left_out():
    units = [Unit(p, 1) for p in (1, 2, 3)]
    found = told(dict(zip(units, (0.1, float("nan"), 0.3), strict=True)))
    assert found["models"] == 2 and found["mean"] == pytest.approx(0.2)
    assert told({})["sign"] == "not told apart"


# The verdict.


def world(one="above", most="not told apart", more="not told apart", established=3, unsolved=10, derivation=None, family="coder"):  # fmt: skip
    """One base, two algorithms, three models each; ``derivation`` overrules the second notion's outcomes."""
    made: dict = {
        "trial": [{"k": 9, "family": family, "unsolved": unsolved / 100}],
        "ends": [],
        "excess": [],
        "curves": [],
    }
    for notion in (ANSWER, DERIVATION):
        own = {"one": one, "most": most, "more": more, "established": established}
        own |= (derivation or {}) if notion == DERIVATION else {}
        for recipe in ("grpo", "dapo"):
            head = {"family": family, "recipe": recipe, "notion": notion}
            for k, s in ((1, own["one"]), (9, own["most"])):
                made["ends"].append({**head, "arm": TRUTH, "k": k, "sign": s, "mean": 0.1, "low": 0.0, "high": 0.2})  # fmt: skip
            cells = {"both": 90 - unsolved, "base_only": 10, "trained_only": 0, "neither": unsolved}
            made["excess"].append({**head, "sign": own["more"], **cells})
            made["curves"] += [
                {**head, "scope": f"p{i}", "outcome": "established" if i < own["established"] else "none", "crossing": 4}
                for i in range(3)
            ]  # fmt: skip
            made["curves"].append({**head, "scope": "models", "outcome": "none", "crossing": None})
    return made


NOTHING = {"trial": [{"k": 9, "family": "coder", "unsolved": None}], "ends": [], "excess": [], "curves": []}  # fmt: skip


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world(), "reproduced"),
        (world(established=2), "reproduced"),
        (world(established=1), "partly"),
        (world(unsolved=4), "partly"),
        (world(most="above"), "partly"),
        (world(more="above"), "partly"),
        (world(derivation={"most": "above"}), "partly"),
        (world(derivation={"one": "not told apart"}), "partly"),
        (world(most="above", more="above"), "refuted in miniature"),
        (world(one="not told apart"), "not at this scale"),
        (NOTHING, "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(made, verdict):
    assert c.finding(made).verdict == verdict


def test_the_base_that_leaves_more_unsolved_decides_whichever_comes_first():
    one, other = world(unsolved=4), world(unsolved=40, most="above", more="above", family="talker")
    for first, second in ((one, other), (other, one)):
        both = {key: first[key] + second[key] for key in first}
        found = c.finding(both)
        assert found.verdict == c.verdict(of(both, "talker")) == "refuted in miniature"
        assert c.verdict(of(both, "coder")) == "partly"
        assert found.effect.index("talker") < found.effect.index("coder")


# The page.


def test_a_page_has_both_bases_with_their_verdicts(tmp_path, record):
    talker = boundary(tmp_path / "run", TALKER)
    (tmp_path / "trials").mkdir()
    for each, text in ((record, TEXT), (talker, TALKER)):
        trial = each.protocol.trial.name
        (tmp_path / f"trials/{trial}.toml").write_text(text, encoding="utf-8")
        target = tmp_path / "records" / f"{trial}-{each.plan['digest'][:8]}"
        shutil.copytree(each.path, target)
    again = build(Tree(tmp_path), c.CLAIM)
    (page,) = (text for path, text in again.pages.items() if path.suffix == ".md")
    made = tables_of(c.CLAIM, {"boundary": record, "boundary_talker": talker})
    assert page.startswith("# Claim 5. ") and again.finding.verdict == c.verdict(of(made, "talker"))
    for family in ("coder", "talker"):
        assert f"**`{family}`: {c.verdict(of(made, family))}.**" in page
    assert page.count("sampling-efficiency gap") == 3  # in the legend and over both tables


@pytest.mark.parametrize("kind", ["markdown", "rich", "image", "line ends", "fence", "signs"])
def test_hostile_names_change_nothing_that_a_reader_of_markdown_does(made, kind):
    other = c.page(renamed(made, {"random": NASTY[kind], "dapo": NASTY[kind] + "x"}))
    for one, changed in zip(c.page(renamed(made, {"dapo": "other"})), other, strict=True):
        assert kinds(changed) == kinds(one)


def test_a_page_is_made_though_everything_measured_is_missing(made):
    bare = {key: [] for key in made} | {"trial": made["trial"]}
    assert c.page(bare).asked and c.finding(bare).effect == "–"


# What is published.


def test_the_published_gap_follows_from_the_published_rates():
    base, trained = published.BOUNDARY_TEST["base"], published.BOUNDARY_TEST["grpo"]
    gap = coverage.SamplingGap(base[1], trained[0], 256).value
    assert gap == pytest.approx(published.BOUNDARY_GAP[1], abs=0.0015)
    assert sum(published.BOUNDARY_AIME24) == 30
    shares = coverage.Table(*published.BOUNDARY_AIME24).shares()
    found = [round(100 * shares[cell].value, 1) for cell in coverage.Table._fields]
    assert found == [63.3, 13.3, 0.0, 23.3]


def test_the_recipes_of_the_real_trial_are_the_algorithms():
    texts = [
        (Path(__file__).resolve().parents[1] / f"trials/{trial}.toml").read_text("utf-8")
        for trial in TRIALS
    ]
    assert all(f"[recipes.{recipe}]" in texts[0] for recipe in c.ALGORITHMS)
    assert published.BOUNDARY_TEST.keys() - {"base"} <= c.ALGORITHMS.keys()
    assert all(f"[recipes.{r}]" in texts[1] for r in published.BOUNDARY_TEST.keys() - {"base"})
