"""The two laws: exact data give back their constants, the wrong data say so, intervals cover, and units do not matter."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize, stats

from controlarm import seeds
from controlarm.analysis.laws import (
    early,
    entropy_law,
    forecast,
    predicted_placebo_gain,
    prediction_check,
    theil_sen,
)

nan = float("nan")
FALLING = np.linspace(1.2, 0.1, 60)


def lawful(entropy, a=0.3, b=0.9):
    return b - a * np.exp(entropy)


def test_exact_data_give_back_the_laws_constants():
    law = entropy_law(FALLING, lawful(FALLING))
    assert (law.a, law.b) == pytest.approx((0.3, 0.9))
    assert law.ceiling == pytest.approx(0.6)
    assert law.rmse == pytest.approx(0, abs=1e-12)
    assert law.r2 == pytest.approx(1)
    assert not law.at_bound
    assert law.predict(np.zeros(1)) == pytest.approx(law.ceiling)


@given(st.integers(0, 10**6))
def test_the_bounded_fit_is_that_of_a_general_solver(seed):
    rng = seeds.generator("law", seed)
    entropy, reward = rng.uniform(0, 2, 20), rng.uniform(0, 1, 20)
    design = np.stack([-np.exp(entropy), np.ones(20)], axis=1)
    expected = optimize.lsq_linear(design, reward, bounds=([0, -np.inf], np.inf), tol=1e-14)
    law = entropy_law(entropy, reward)
    assert (law.a, law.b) == pytest.approx(expected.x, abs=1e-5)
    assert law.rmse**2 * 20 / 2 == pytest.approx(expected.cost, abs=1e-8)


def test_reward_that_falls_with_entropy_is_held_at_the_bound_and_says_so():
    law = entropy_law(FALLING, lawful(FALLING, a=-0.3))
    assert law.at_bound
    assert law.a == 0
    assert law.b == law.ceiling == pytest.approx(lawful(FALLING, a=-0.3).mean())
    assert law.r2 == pytest.approx(0)


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_another_unit_of_reward_changes_the_constants_alone(scale, shift):
    reward = lawful(FALLING) + seeds.generator("unit").normal(0, 0.02, 60)
    one, other = entropy_law(FALLING, reward), entropy_law(FALLING, scale * reward + shift)
    assert other.a == pytest.approx(scale * one.a)
    assert other.ceiling == pytest.approx(scale * one.ceiling + shift)
    assert other.r2 == pytest.approx(one.r2)


def test_without_two_entropies_or_a_changing_reward_there_is_no_law():
    assert np.isnan(entropy_law(np.full(9, 0.5), np.arange(9.0))).sum() == 4
    assert np.isnan(entropy_law(np.zeros(0), np.zeros(0)).a)
    flat = entropy_law(FALLING, np.full(60, 0.4))
    assert (flat.a, flat.b) == pytest.approx((0, 0.4))
    assert np.isnan(flat.r2)


def test_a_step_without_a_number_is_left_out():
    entropy, reward = FALLING.copy(), lawful(FALLING)
    entropy[3], reward[7] = nan, nan
    law = entropy_law(entropy, reward)
    assert law.num_points == 58
    assert law.a == pytest.approx(0.3)


def test_what_is_no_entropy_and_no_reward_is_refused():
    with pytest.raises(ValueError, match="nats a token"):
        entropy_law(np.array([-0.1, 0.5]), np.zeros(2))
    with pytest.raises(ValueError, match="nats a token"):
        entropy_law(np.array([0.1, 800.0]), np.zeros(2))
    with pytest.raises(ValueError, match="infinite"):
        entropy_law(np.array([0.1, 0.5]), np.array([0.0, np.inf]))


def test_a_law_that_holds_predicts_the_last_two_thirds_from_the_first():
    noise = seeds.generator("forecast").normal(0, 0.005, 60)
    found = forecast(FALLING, lawful(FALLING) + noise)
    assert (found.law.num_points, found.num_predicted) == (20, 40)
    assert found.rmse < 0.02
    assert found.rmse_unchanged > 0.2
    assert found.skill > 0.98


def test_two_trends_that_bend_apart_fit_well_at_first_and_predict_badly():
    # Entropy goes on falling while reward has stopped: the law promises more.
    reward = np.minimum(lawful(FALLING), lawful(FALLING)[20])
    found = forecast(FALLING, reward)
    assert found.law.r2 > 0.99
    assert found.bias > 0.1
    assert found.skill < 0


def test_the_forecast_sees_nothing_of_what_it_predicts():
    reward = lawful(FALLING)
    other = np.concatenate([reward[:20], seeds.generator("rest").uniform(0, 1, 40)])
    assert forecast(FALLING, reward).law == forecast(FALLING, other).law


def test_a_forecast_from_nothing_has_no_error():
    assert np.isnan(forecast(FALLING[:2], FALLING[:2]).rmse)
    assert np.isnan(forecast(np.full(9, 0.5), np.arange(9.0)).rmse)
    with pytest.raises(ValueError, match="between 0 and 1"):
        forecast(FALLING, FALLING, share=1.0)


def test_a_halving_a_step_uses_and_gains_what_geometry_says():
    decay = 0.5 ** np.arange(11)
    found = early(decay, 1 - decay, num_first=4)
    assert found == pytest.approx(((1 - 1 / 8) / (1 - 1 / 1024),) * 2)


def test_all_steps_use_everything_and_the_first_step_nothing():
    decay = 0.5 ** np.arange(12)
    assert early(decay, 1 - decay, num_first=12, window=3) == pytest.approx((1, 1))
    assert early(decay, 1 - decay, num_first=3, window=3) == pytest.approx((0, 0))


def test_entropy_that_rose_was_not_used_and_reward_that_fell_was_not_gained():
    rising = np.linspace(0, 1, 12)
    found = early(rising, -rising, num_first=4)
    assert np.isnan(found).all()
    assert np.isnan(early(np.ones(5), np.ones(5), 2)).all()
    assert np.isnan(early(np.full(5, nan), np.full(5, nan), 2)).all()
    with pytest.raises(ValueError, match="num_first"):
        early(rising, rising, num_first=13)


def test_a_placebo_is_predicted_to_gain_its_shift_times_the_gap():
    shift, gap = np.array([0.5, 0.3, 0.0, 0.2]), np.array([0.4, -0.2, nan, nan])
    assert predicted_placebo_gain(shift, gap) == pytest.approx([0.2, -0.06, 0, nan], nan_ok=True)


def gains(n, seed, slope=1.0, sd=0.02):
    rng = seeds.generator("gains", n, seed)
    predicted = rng.uniform(-0.1, 0.3, n)
    return predicted, slope * predicted + rng.normal(0, sd, n)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_line_is_statsmodels_line(n):
    x, y = gains(n, 1)
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    found = prediction_check(x, y)
    assert (found.intercept, found.slope) == pytest.approx(tuple(fit.params))
    bounds = fit.conf_int(0.05)
    assert found.slope_interval == pytest.approx(tuple(bounds[1]))
    assert found.intercept_interval == pytest.approx(tuple(bounds[0]))
    assert found.r2 == pytest.approx(fit.rsquared)


def test_a_prediction_that_is_right_has_slope_one_and_leaves_nothing():
    x, _ = gains(6, 2)
    found = prediction_check(x, x)
    assert (found.slope, found.robust_slope, found.r2, found.r2_identity) == pytest.approx((1,) * 4)
    assert found.intercept == pytest.approx(0)
    assert found.r2_interval == (1, 1)
    assert found.bias_interval == (0, 0)


def test_a_constant_error_is_seen_by_the_identity_and_not_by_the_line():
    x, y = gains(8, 3, sd=0.001)
    one, other = prediction_check(x, y), prediction_check(x, y + 0.3)
    assert other.slope == pytest.approx(one.slope)
    assert other.r2 == pytest.approx(one.r2)
    assert other.r2_identity < 0 < one.r2_identity
    assert other.bias.mean == pytest.approx(one.bias.mean + 0.3)


def test_one_wild_unit_bends_the_line_and_hardly_the_robust_one():
    x, y = gains(9, 4, sd=0.005)
    y[x.argmax()] -= 1.0
    found = prediction_check(x, y)
    assert abs(found.slope - 1) > 0.5
    assert abs(found.robust_slope - 1) < 0.25


def test_intervals_of_slope_and_of_r2_cover():
    slope_in = r2_in = 0
    for seed in range(400):
        rng = seeds.generator("check coverage", seed)
        x = rng.normal(0, 1, 12)
        found = prediction_check(x, 0.8 * x + rng.normal(0, 0.6, 12))
        slope_in += found.slope_interval[0] <= 0.8 <= found.slope_interval[1]
        r2_in += found.r2_interval[0] <= 0.64 <= found.r2_interval[1]  # .8² / (.8² + .6²)
    assert 368 <= slope_in <= 392  # 380 expected, standard deviation 4.4
    assert 364 <= r2_in <= 396


def test_few_units_and_equal_predictions_have_no_line_and_say_why():
    two = prediction_check(np.array([0.1, 0.2, nan]), np.array([0.1, 0.3, 0.4]))
    assert (two.num_units, np.isnan(two.slope)) == (2, True)
    assert "at least 3" in str(two.note)
    equal = prediction_check(np.full(5, 0.2), np.arange(5.0))
    assert "equal" in str(equal.note)
    assert equal.bias.mean == pytest.approx(1.8)
    three = prediction_check(*gains(3, 5))
    assert np.isnan(three.r2_interval).all()
    none = prediction_check(np.zeros(0), np.zeros(0))
    assert none.num_units == 0


NUMBERS = st.floats(-10, 10) | st.just(nan)


@given(arrays.arrays(float, (2, 7), elements=NUMBERS))
def test_no_units_raise_or_warn(pairs):
    found = prediction_check(pairs[0], pairs[1])
    if found.note is None:
        assert found.slope_interval[0] <= found.slope <= found.slope_interval[1]
        assert np.isnan(found.r2) or 0 <= found.r2 <= 1 + 1e-9
        low, high = found.r2_interval
        assert np.isnan(low) or 0 <= low <= high <= 1


@given(
    arrays.arrays(float, 12, elements=st.floats(0, 20)), arrays.arrays(float, 12, elements=NUMBERS)
)
def test_no_curve_raises_or_warns(entropy, reward):
    law = entropy_law(entropy, reward)
    assert np.isnan(law.a) or law.a >= 0
    forecast(entropy, reward)
    early(entropy, reward, 4)


def test_theil_and_sen_are_scipys_and_their_interval_is_no_shorter_and_covers():
    covered = 0
    for seed in range(200):
        x, y = gains(8, seed, slope=0.7, sd=0.05)
        slope, (low, high) = theil_sen(x, y)
        expected = np.array(stats.theilslopes(y, x, 0.95), dtype=float)
        assert slope == pytest.approx(expected[0])
        assert low <= expected[2] <= expected[3] <= high
        covered += low <= 0.7 <= high
    assert covered >= 184  # 190 expected if exact, standard deviation 3.1


def test_slopes_of_few_units_bound_nothing():
    assert np.isnan(theil_sen(np.arange(4.0), np.arange(4.0))[1]).all()
    slope, (low, high) = theil_sen(np.arange(6.0), 2 * np.arange(6.0))
    assert (slope, low, high) == pytest.approx((2, 2, 2))
