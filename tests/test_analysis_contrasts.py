import itertools
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from controlarm import seeds
from controlarm.analysis import contrasts
from controlarm.analysis.contrasts import (
    Estimate,
    estimate,
    holm,
    mde,
    p_superior,
    t_interval,
    verdict,
)
from controlarm.protocol import Unit


def test_three_differences_give_the_interval_and_p_value_worked_out_by_hand():
    # Mean .13, squared deviations .0009 + .0001 + .0016; with 2 df, p = (1 - t/√(2 + t²))/2 and here t² = 39.
    e = estimate([0.10, 0.12, 0.17])
    assert e.mean == pytest.approx(0.13)
    assert e.sd == pytest.approx(sqrt(0.0013))
    assert t_interval(e, 0.95) == pytest.approx((0.040433, 0.219567), abs=1e-6)
    assert p_superior(e) == pytest.approx((1 - sqrt(39 / 41)) / 2)


def test_the_t_interval_covers_and_a_percentile_bootstrap_of_three_seeds_does_not():
    trials = seeds.generator("coverage").normal(0.0, 0.03, (4000, 3))
    resamples = np.array(list(itertools.product(range(3), repeat=3)))
    covered = above = bootstrap_above = 0
    for differences in trials:
        low, high = t_interval(estimate(list(differences)), 0.95)
        covered += low <= 0 <= high
        above += low > 0
        means = differences[resamples].mean(axis=1)
        bootstrap_above += np.quantile(means, 0.025, method="inverted_cdf") > 0
    assert covered / 4000 >= 0.945
    assert above / 4000 <= 0.030
    assert 0.11 <= bootstrap_above / 4000 <= 0.14  # P(all three above 0) = 1/8; 0.025 is promised


def test_differences_that_are_exactly_zero_are_equivalent():
    e = estimate([0.0, 0.0, 0.0])
    assert t_interval(e, 0.95) == (0.0, 0.0)
    assert p_superior(e) == 1.0
    assert verdict(e, p_superior(e), 0.025, 0.02) == ("equivalent", None)


@pytest.mark.parametrize("differences", [[0.25] * 3, [-0.25] * 3, [0.001] * 3])
def test_identical_differences_other_than_zero_have_no_interval_and_conclude_nothing(differences):
    e = estimate(differences)
    assert (e.sd, e.se) == (0.0, 0.0)
    outcome, reason = verdict(e, p_superior(e), 0.025, 0.02)
    assert outcome == "inconclusive"
    assert reason is not None
    assert "same amount" in reason
    assert np.isnan(t_interval(e, 0.95)).all()
    assert p_superior(e) >= 1 / 8


def test_differences_that_differ_by_rounding_alone_are_equal():
    nothing = estimate([0.1 + 0.2 - 0.3, 0.0, 0.0])
    assert nothing == estimate([0.0, 0.0, 0.0])
    shift = estimate([0.7 - 0.4, 0.3, 0.9 - 0.6])
    assert len({0.7 - 0.4, 0.3, 0.9 - 0.6}) > 1
    assert shift.sd == 0
    assert np.isnan(t_interval(shift, 0.95)).all()
    assert estimate([0.3, 0.3, 0.3 + 1e-9]).sd > 0


def test_one_unit_has_no_interval_and_says_why():
    e = estimate([0.4])
    assert np.isnan([e.sd, e.se, *t_interval(e, 0.95), p_superior(e)]).all()
    assert verdict(e, p_superior(e), 0.025, 0.02) == ("inconclusive", "one unit: no interval")


def test_no_unit_is_no_estimate():
    e = estimate([])
    assert np.isnan(e.mean)
    assert verdict(e, float("nan"), 0.025, 0.02)[0] == "inconclusive"


@pytest.mark.parametrize(
    ("mean", "sd", "p_both", "expected"),
    [
        (0.20, 0.01, 0.001, "superior"),
        (0.20, 0.01, 0.300, "inconclusive"),  # above the placebo, but not above the base
        (-0.20, 0.01, 0.999, "inferior"),
        (-0.01, 0.0001, 0.999, "inferior"),  # below the placebo and within the margin: inferior comes first
        (0.001, 0.002, 0.300, "equivalent"),
        (0.001, 0.020, 0.300, "inconclusive"),
        (0.019, 0.002, 0.300, "inconclusive"),  # the estimate is within the margin, its interval is not
    ],
)  # fmt: skip
def test_each_verdict_has_its_region(mean, sd, p_both, expected):
    assert verdict(Estimate(mean, sd, 3), p_both, 0.025, 0.02) == (expected, None)


def test_a_comparison_must_beat_placebo_and_base():
    assert contrasts.intersection_union(0.001, 0.2) == 0.2
    assert np.isnan(contrasts.intersection_union(0.001, float("nan")))


@pytest.mark.parametrize(
    "p_values", [[0.03], [0.01, 0.04, 0.03], [0.2, 0.2, 0.001, 0.9], [0.004, 0.005, 0.008, 0.0124]]
)
def test_holm_is_statsmodels_holm(p_values):
    expected = np.asarray(multipletests(p_values, alpha=0.025, method="holm")[1])
    assert [a.p for a in holm(p_values, 0.025)] == pytest.approx(expected.tolist(), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferronis_and_its_level_decides_the_same(p_values):
    indices = range(len(p_values))
    subsets = [s for n in indices for s in itertools.combinations(indices, n + 1)]
    for i, a in enumerate(holm(p_values, 0.025)):
        closed = max(min(1, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s)
        assert a.p == pytest.approx(closed, abs=1e-12)
        if abs(a.p - 0.025) > 1e-9:
            assert (p_values[i] < a.level) == (a.p < 0.025)


@given(st.lists(st.tuples(*[st.floats(-0.3, 0.3)] * 3), min_size=1, max_size=5))
def test_the_holm_bound_is_above_zero_exactly_for_what_holm_rejects(differences):
    estimates = [estimate(list(d)) for d in differences]
    for e, a in zip(estimates, holm([p_superior(e) for e in estimates], 0.025), strict=True):
        if e.note is None and e.sd > 1e-6 and abs(a.p - 0.025) > 1e-6:
            assert (contrasts.lower_bound(e, a.level) > 0) == (a.p < 0.025)


def test_a_missing_comparison_counts_in_the_family_of_tests():
    assert holm([0.01, float("nan")], 0.025)[0].p == 0.02


def test_differences_are_paired_by_unit_and_by_problem():
    arm = {Unit(1, 1): np.array([[1.0], [0.5], [np.nan], [1.0]]), Unit(2, 2): np.array([[1.0]])}
    other = {Unit(1, 1): np.array([[0.5], [0.0], [1.0], [np.nan]]), Unit(3, 3): np.array([[1.0]])}
    (found,) = contrasts.unit_differences(arm, other)
    assert (found.unit, found.arm_value, found.other_value) == (Unit(1, 1), 0.75, 0.25)
    assert found.difference == 0.5
    assert (
        found.problem_se == 0.0
    )  # both problems differ by 0.5: pairing removes what they have in common


def test_the_problem_level_standard_error_is_that_of_paired_differences():
    arm, other = np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.5, 0.0, 0.5, 0.75])
    (found,) = contrasts.unit_differences({Unit(1, 1): arm[:, None]}, {Unit(1, 1): other[:, None]})
    assert found.problem_se == pytest.approx(stats.sem(arm - other))
    assert np.isnan(found.sampling_se), "one sample a problem does not show its own noise"


def test_the_sampling_standard_error_is_the_spread_of_evaluations_made_again():
    rng = seeds.generator("sampling-se")
    chance = rng.random((40, 1))
    noise = rng.random((4000, 40, 5))
    # The same noise for both: what one gets right the other does too, but for a margin.
    arm, other = (noise < chance).astype(float), (noise < 0.8 * chance).astype(float)
    spread = np.std((arm - other).mean(axis=(1, 2)), ddof=1)
    found = [contrasts.sampling_se(a, b) for a, b in zip(arm[:500], other[:500], strict=True)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(spread, rel=0.03)


def test_unknown_samples_leave_the_sampling_standard_error_defined():
    arm = np.array([[1.0, 0.0, np.nan], [1.0, np.nan, np.nan], [1.0, 1.0, 0.0]])
    whole = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert np.isfinite(contrasts.sampling_se(arm, np.zeros((3, 3))))
    assert contrasts.sampling_se(whole, np.zeros((2, 2))) == pytest.approx(
        np.sqrt((0.5 / 2 + 0) / 4)
    )


def test_training_seeds_are_averaged_within_their_pretrained_model():
    values = {Unit(1, 1): 0.1, Unit(1, 2): 0.3, Unit(2, 1): 0.5, Unit(2, 2): 0.5}
    assert contrasts.top_units(values) == pytest.approx([0.2, 0.5])
    assert contrasts.top_units({Unit(7, 1): 0.1, Unit(7, 2): 0.3}) == [0.1, 0.3]


def test_what_samples_make_of_a_model_shrinks_with_its_training_seeds():
    def noisy(model, seed, se):
        return contrasts.UnitDifference(Unit(model, seed), 0.5, 0.4, 0.03, se)

    twice = [noisy(m, s, 0.02) for m in (1, 2, 3) for s in (1, 2)]
    assert contrasts.sampling_noise(twice) == pytest.approx(0.02 / sqrt(2))
    assert contrasts.sampling_noise([noisy(7, 1, 0.03), noisy(7, 2, 0.04)]) == pytest.approx(0.05 / sqrt(2))  # fmt: skip
    assert np.isnan(contrasts.sampling_noise([]))


def test_a_family_claim_needs_three_pretrained_models():
    assert contrasts.family_claim([Unit(p, 1) for p in (1, 2, 3)])
    assert not contrasts.family_claim([Unit(p, s) for p in (1, 2) for s in (1, 2, 3)])


@pytest.mark.parametrize(("num_units", "m"), [(3, 1), (3, 4), (5, 3), (10, 1)])
def test_the_minimum_detectable_effect_is_found_in_eighty_per_cent_of_simulated_trials(
    num_units, m
):
    effect = mde(0.03, num_units, 0.025, m)
    draws = seeds.generator("mde", num_units, m).normal(effect, 0.03, (20_000, num_units))
    t = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / sqrt(num_units))
    found = np.mean(stats.t.sf(t, num_units - 1) < 0.025 / m)
    assert found == pytest.approx(0.8, abs=0.012)


def test_the_minimum_detectable_effect_grows_with_spread_and_comparisons_and_shrinks_with_units():
    assert mde(0.06, 3, 0.025) == pytest.approx(2 * mde(0.03, 3, 0.025))
    assert mde(0.03, 3, 0.025, 4) > mde(0.03, 3, 0.025) > mde(0.03, 4, 0.025)
    assert mde(0.0, 3, 0.025) == 0
    assert np.isnan(mde(0.03, 1, 0.025))
    assert mde(0.03, 2, 0.025, 9) > 1  # two units say next to nothing, and the solver still ends


def test_within_models_is_the_contrast_of_a_one_way_analysis_of_variance():
    """Mean of the models' means, error from seeds within them: what a linear model with one level a model estimates."""
    values = seeds.generator("within").normal(0.02, 0.03, (3, 4)) + np.array([[-0.1], [0.0], [0.2]])
    units = {Unit(m, s): float(values[m, s]) for m in range(3) for s in range(4)}
    e = contrasts.within_models(units)
    design = np.kron(np.eye(3), np.ones((4, 1)))
    fit = OLS(values.ravel(), design).fit()
    told = fit.t_test(np.full((1, 3), 1 / 3))
    assert e.mean == pytest.approx(float(told.effect[0]))
    assert t_interval(e, 0.95) == pytest.approx(tuple(told.conf_int()[0]))
    assert 2 * min(p_superior(e), 1 - p_superior(e)) == pytest.approx(float(told.pvalue))


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_how_far_models_are_apart_does_not_widen_the_interval_within_them(shifts):
    values = seeds.generator("within").normal(0, 0.03, (3, 3))
    plain, moved = (
        contrasts.within_models({Unit(m, s): float(v[m, s]) for m in range(3) for s in range(3)})
        for v in (values, values + np.array(shifts)[:, None])
    )
    assert moved.se == pytest.approx(plain.se, rel=1e-6)
    assert moved.mean == pytest.approx(plain.mean + np.mean(shifts), abs=1e-9)


def test_within_models_needs_as_many_seeds_of_each():
    e = contrasts.within_models({Unit(1, 1): 0.1, Unit(1, 2): 0.2, Unit(2, 1): 0.3})
    assert e.note is not None and np.isnan(t_interval(e, 0.95)).all()
    assert e.mean == pytest.approx(0.225)
