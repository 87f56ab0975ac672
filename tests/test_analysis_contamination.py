"""Originals against twins: the area, its interval, the share that stands out, and words that never claim more."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from controlarm import contamination, seeds
from controlarm.analysis.contamination import (
    PERCENTS,
    PRIMARY,
    RATES,
    SCORES,
    Auroc,
    auroc,
    familiar_share,
    findings,
    outcome,
    pairs,
    rate,
    rate_cells,
    ratio_interval,
    score_cells,
    verdict,
)

scores = st.lists(st.integers(0, 8).map(float), min_size=2, max_size=12).map(np.array)


def compared(positive, negative):
    """[positive, negative]: 1 where the positive wins, one half on a tie."""
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


# The area.


@given(scores, scores)
def test_the_area_is_the_share_of_pairs_that_the_positive_wins(positive, negative):
    assert auroc(positive, negative).value == pytest.approx(compared(positive, negative).mean())


@given(scores, scores)
def test_delongs_variance_is_that_of_brute_force_over_all_pairs(positive, negative):
    found = auroc(positive, negative)
    wins = compared(positive, negative)
    variance = wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)
    if found.value in (0, 1):
        assert variance == 0
    elif variance < 1e-12:
        assert np.isnan(found.low) and np.isnan(found.high)
    else:
        theta = wins.mean()
        half = stats.norm.ppf(0.975) * np.sqrt(variance) / (theta * (1 - theta))
        logits = np.log(theta / (1 - theta)) + np.array([-half, half])
        assert [found.low, found.high] == pytest.approx((1 / (1 + np.exp(-logits))).tolist())


def test_delongs_variance_is_the_spread_of_fresh_samples():
    rng = seeds.generator("tests", "auroc")
    areas, widths = [], []
    for _ in range(400):
        found = auroc(rng.standard_normal(60) + 1, rng.standard_normal(40))
        areas.append(np.log(found.value / (1 - found.value)))
        widths.append(np.log(found.high / (1 - found.high)) - areas[-1])
    assert np.mean(widths) / stats.norm.ppf(0.975) == pytest.approx(np.std(areas), rel=0.1)


@pytest.mark.parametrize(("m", "n", "shift"), [(40, 60, 1.0), (64, 64, 0.0), (64, 64, 2.5)])
def test_the_interval_covers_as_often_as_it_says(m, n, shift):
    rng = seeds.generator("tests", "coverage", m, n, str(shift))
    true = stats.norm.cdf(shift / np.sqrt(2))
    made = [auroc(rng.standard_normal(m) + shift, rng.standard_normal(n)) for _ in range(500)]
    assert np.mean([a.low <= true <= a.high for a in made]) == pytest.approx(0.95, abs=0.03)


@given(scores, scores)
def test_groups_that_change_places_give_the_other_area(positive, negative):
    one, other = auroc(positive, negative), auroc(negative, positive)
    assert one.value == pytest.approx(1 - other.value)
    assert [one.low, one.high] == pytest.approx([1 - other.high, 1 - other.low], nan_ok=True)


@given(scores, scores)
def test_only_the_order_of_scores_matters(positive, negative):
    squeezed = auroc(np.exp(positive / 3) - 7, np.exp(negative / 3) - 7)
    assert squeezed == pytest.approx(auroc(positive, negative), nan_ok=True)


def test_groups_that_do_not_overlap_have_the_bound_of_as_many_won_pairs():
    # 20 wins of 20: Clopper-Pearson's lower bound.
    exact = stats.binomtest(20, 20).proportion_ci(0.95, "exact").low
    assert auroc(np.arange(30.0) + 100, np.arange(20.0)) == pytest.approx(
        Auroc(1.0, exact, 1.0, 30, 20)
    )
    assert auroc(np.arange(20.0), np.arange(30.0) + 100) == pytest.approx(
        Auroc(0.0, 0.0, 1 - exact, 20, 30)
    )


def test_what_cannot_be_told_is_nan_and_a_missing_score_is_refused():
    alike = auroc(np.zeros(5), np.zeros(5))
    assert alike.value == 0.5 and np.isnan(alike.low)
    assert np.isnan(auroc(np.zeros(0), np.zeros(5)).value)
    assert np.isnan(auroc(np.array([1.0]), np.array([0.0, 2.0])).low)
    with pytest.raises(ValueError, match="a score is NaN"):
        auroc(np.array([1.0, np.nan]), np.zeros(2))


# The share.


@given(st.data())
def test_the_interval_of_a_ratio_is_statsmodels_score_interval(data):
    n1, n0 = data.draw(st.integers(2, 300)), data.draw(st.integers(2, 300))
    x1, x0 = data.draw(st.integers(1, n1 - 1)), data.draw(st.integers(1, n0 - 1))
    expected = confint_proportions_2indep(
        x1, n1, x0, n0, compare="ratio", method="score", correction=False
    )
    assert ratio_interval(x1, n1, x0, n0, 0.95) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_is_unbiased_and_its_interval_covers_where_leaks_stand_out(share):
    rng = seeds.generator("tests", "share", str(share))
    made = []
    for _ in range(150):
        originals, twins = rng.standard_normal(128), rng.standard_normal(128)
        originals[: round(share * 128)] += 20
        made.append(familiar_share(originals, twins))
    true = round(share * 128) / 128
    assert np.mean([s.value for s in made]) == pytest.approx(true, abs=0.006)
    # More than 95 in 100, since how many have leaked is fixed here and not drawn.
    assert np.mean([s.low <= true <= s.high for s in made]) >= 0.93


def test_leaks_that_do_not_stand_out_make_the_share_too_small_and_never_too_large():
    rng = seeds.generator("tests", "faint")
    made = []
    for _ in range(100):
        originals, twins = rng.standard_normal(128), rng.standard_normal(128)
        originals[:64] += 1
        made.append(familiar_share(originals, twins).value)
    assert 0.02 < np.mean(made) < 0.3


@given(scores, scores)
def test_a_share_lies_in_its_interval_and_grows_when_originals_do(originals, twins):
    found, more = familiar_share(originals, twins), familiar_share(originals + 1, twins)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.value <= more.value <= 1


# Rates.


def test_a_rate_is_paired_and_leaves_out_pairs_with_a_gap():
    found = rate(np.array([1.0, 1.0, 0.0, np.nan]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert (found.originals, found.twins) == pytest.approx((2 / 3, 1 / 3))
    assert found.difference.mean == pytest.approx(1 / 3) and found.difference.num_units == 3


# A table.


def table(
    num_problems=40, familiar=0, right=0, leaked: int | None = 0, faint=0.0, shift=0.0
) -> pa.Table:
    """Originals and twins; the first ``familiar`` originals stand out, the first ``right`` are answered right."""
    rng = seeds.generator("tests", "table", num_problems)
    rows = []
    for is_twin in (True, False):
        for i in range(num_problems):
            known = not is_twin and i < familiar
            score = float(rng.standard_normal()) + 30 * known + (0 if is_twin else shift)
            rows.append(
                dict.fromkeys(SCORES, score)
                | {f"{kind}_{p}": False for kind in ("exact",) for p in PERCENTS}
                | {f"rouge_l_{p}": 0.5 for p in PERCENTS}
                | {
                    f"{kind}_{p}": "right" if not is_twin and i < right else "no_answer"
                    for kind in ("strict", "lenient")
                    for p in (100, *PERCENTS)
                }
                | {
                    "problem_id": f"t{i}" if is_twin else f"o{i}",
                    "twin_of": f"o{i}" if is_twin else None,
                    "leaked": False if is_twin else None if leaked is None else i < leaked,
                }
            )
    return pa.Table.from_pylist(rows, schema=contamination.SCHEMA)


def test_originals_find_their_twins_in_any_order():
    made = table(familiar=5, right=7)
    order = seeds.generator("tests", "order").permutation(len(made))
    one, other = findings(made), findings(made.take(pa.array(order)))
    assert rate_cells(one) == rate_cells(other) and score_cells(one) == score_cells(other)


def test_an_original_without_a_twin_is_refused_by_name():
    with pytest.raises(ValueError, match="problem 'o39' has no twin"):
        pairs(table().filter(pa.array([i != 39 for i in range(80)])))


def test_unknown_verdicts_are_gaps_and_no_answer_is_wrong():
    rows = table(2).to_pylist()
    rows[2]["strict_100"], rows[3]["strict_100"] = "unknown", "right"
    found = findings(pa.Table.from_pylist(rows, schema=contamination.SCHEMA))
    assert found.rates["strict_100"].originals == 1.0
    assert found.rates["strict_100"].difference.num_units == 1


def test_leaked_originals_are_compared_with_their_own_twins_and_the_others_with_theirs():
    found = findings(table(familiar=10, leaked=10))
    assert found.num_leaked == 10
    assert found.leaked_aurocs[PRIMARY].value == 1.0
    assert found.leaked_aurocs[PRIMARY].num_positive == 10
    assert found.clean_aurocs[PRIMARY].num_negative == 30
    assert 0.5 < found.aurocs[PRIMARY].value < 1
    assert found.shares[PRIMARY].value == pytest.approx(0.25, abs=0.05)


def test_what_nobody_knows_is_not_made_up():
    found = findings(table(familiar=10, leaked=None))
    assert found.num_leaked is None and not found.leaked_aurocs and not found.clean_aurocs
    assert score_cells(found)[0][2:4] == ("–", "–")


def test_every_column_that_is_judged_is_printed_once():
    found = findings(table())
    assert len(rate_cells(found)) == len(RATES) == len({row[0] for row in rate_cells(found)})
    assert len(score_cells(found)) == len(SCORES) == len({row[0] for row in score_cells(found)})
    assert set(RATES) | set(SCORES) <= set(contamination.SCHEMA.names)
    assert contamination.PERCENTS == PERCENTS


# Words.


CASES = {
    "seen": table(familiar=40, right=30),
    "unseen": table(),
    "odd": table(shift=-2.0),
    "unclear": pa.Table.from_pylist(
        [row | dict.fromkeys(SCORES, 0.0) for row in table().to_pylist()],
        schema=contamination.SCHEMA,
    ),
}


@pytest.mark.parametrize("expected", list(CASES))
def test_words_are_consistent_with_and_never_prove(expected):
    found = findings(CASES[expected])
    assert outcome(found) == expected
    said = verdict("talker p1", found)
    assert said.startswith("talker p1: ")
    assert ("consistent with" in said) is (expected != "unclear")
    for word in ("prove", "proof", "contaminated", "memorised", "nan"):
        assert word not in said


def test_a_leak_is_said_with_its_share_and_its_alternative():
    said = verdict("crammer p1", findings(CASES["seen"]))
    assert "at least 100 % of it" in said and "accuracy 75.0 points higher" in said
    assert said.endswith("Anything else that sets originals apart from twins would look the same.")


def test_no_difference_is_said_with_the_leak_that_could_hide():
    found = findings(CASES["unseen"])
    high = round(100 * found.shares[PRIMARY].high)
    assert f"If up to {high} % of the problems had leaked" in verdict("talker p1", found)


def test_a_tenth_that_leaked_is_seen_though_the_area_hardly_moves():
    found = findings(table(256, familiar=26))
    assert found.aurocs[PRIMARY].value < 0.62 and outcome(found) == "seen"


def test_a_model_that_saw_nothing_is_suspected_in_at_most_one_audit_of_twenty():
    rng = seeds.generator("tests", "alarms")
    alarms = []
    for _ in range(300):
        originals, twins = rng.standard_normal(128), rng.standard_normal(128)
        alarms.append(auroc(originals, twins).low > 0.5 or familiar_share(originals, twins).low > 0)
    assert 0.01 < np.mean(alarms) < 0.06
