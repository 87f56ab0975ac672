"""Shapes of training curves: simulated truth, what a change of units may not change, and curves without any change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special
from statsmodels.stats.proportion import proportion_confint

from controlarm import seeds
from controlarm.analysis import transitions
from controlarm.analysis.coverage import clopper_pearson
from controlarm.analysis.transitions import (
    FEWEST_POINTS,
    TEN_TO_NINETY,
    false_detections,
    transition,
)

FORTY = np.arange(40.0)
SHAPES = ["constant", "linear", "step", "logistic"]


def correlated_noise(rng, phi, num_points, sd=1.0):
    shocks = rng.normal(0, sd * np.sqrt(1 - phi**2), num_points)
    noise = np.empty(num_points)
    noise[0] = rng.normal(0, sd)
    for i in range(1, num_points):
        noise[i] = phi * noise[i - 1] + shocks[i]
    return noise


def logistic(steps, at, width):
    return special.expit((steps - at) / (width / TEN_TO_NINETY))


def curve(shape, steps=FORTY):
    return {
        "constant": np.zeros(len(steps)),
        "linear": steps / steps[-1],
        "step": (steps >= steps[25]).astype(float),
        "logistic": logistic(steps, steps[18], (steps[-1] - steps[0]) / 3),
    }[shape]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sd", [0.0, 0.02])
def test_each_shape_is_known_for_what_it_is(shape, sd):
    noise = seeds.generator("shapes", shape).normal(0, 1, 40) * sd
    found = transition(FORTY, curve(shape) + noise)
    assert found.verdict == shape
    assert found.note is None or found.indistinguishable


def test_a_step_without_noise_gives_back_its_levels_and_its_place():
    found = transition(10 * FORTY, 0.2 + 0.6 * curve("step"))
    fit = found.fits["step"]
    assert (fit.level, fit.rise) == pytest.approx((0.2, 0.6))
    assert found.change_point == pytest.approx(245)  # between steps 240 and 250
    assert found.change_interval == pytest.approx((240, 250))
    assert found.margin > 100


def test_a_logistic_without_noise_gives_back_its_centre_and_its_width():
    found = transition(FORTY + 100, 0.9 - 0.5 * logistic(FORTY, 17.3, 8.0))
    fit = found.fits["logistic"]
    assert (found.verdict, found.indistinguishable) == ("logistic", False)
    assert found.change_point == pytest.approx(117.3, abs=1e-3)
    assert found.width == pytest.approx(8, abs=1e-3)
    assert (fit.level, fit.rise) == pytest.approx((0.9, -0.5), abs=1e-4)
    assert found.change_interval == pytest.approx((117.3, 117.3), abs=0.01)


def test_the_line_and_the_constant_are_ordinary_least_squares_where_noise_is_white():
    # Alternating noise has a negative correlation, which counts as none: whitening then does nothing.
    values = 0.3 + 0.01 * FORTY + 0.05 * np.where(FORTY % 2 == 0, 1, -1)
    fits = transition(FORTY, values).fits
    slope, intercept = np.polyfit(FORTY, values, 1)
    assert fits["linear"].phi == 0
    assert fits["linear"].rise == pytest.approx(slope * 39)
    assert fits["linear"].level == pytest.approx(intercept)


def test_whitening_is_generalised_least_squares_with_the_full_covariance():
    values = correlated_noise(seeds.generator("gls"), 0.6, 30)
    steps = np.arange(30.0)
    g = logistic(steps, 12, 9)
    loss = transitions._minus_two_log_likelihood(values, g[None, :])[0]
    for phi, found in zip(transitions.PHIS, loss, strict=True):
        shape = phi ** np.abs(np.subtract.outer(steps, steps)) / (1 - phi**2)
        design = np.stack([np.ones(30), g], axis=1)
        inverse = np.linalg.inv(shape)
        beta = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ values)
        rest = values - design @ beta
        expected = 30 * np.log(rest @ inverse @ rest / 30) + np.linalg.slogdet(shape)[1]
        assert found == pytest.approx(expected, abs=1e-6)
        assert transitions._levels(values, g, float(phi))[:2] == pytest.approx(tuple(beta))


def test_the_change_point_is_the_best_of_all_by_brute_force():
    values = curve("step") + correlated_noise(seeds.generator("brute"), 0.5, 40, 0.3)
    fit = transition(FORTY, values).fits["step"]
    losses = [
        transitions._minus_two_log_likelihood(values, (FORTY[None, :] >= k).astype(float)).min()
        for k in range(1, 40)
    ]
    assert fit.at == np.argmin(losses) + 0.5


@pytest.mark.parametrize("width", [0.05, 0.3, 0.9])
def test_a_logistic_within_one_sampling_interval_is_a_step_that_says_so(width):
    found = transition(FORTY, logistic(FORTY, 20.5, width))
    assert found.verdict == "step"
    assert found.indistinguishable
    assert found.width < 1
    assert "indistinguishable" in str(found.note)


def test_a_width_that_is_too_short_on_a_coarse_grid_is_told_on_a_fine_one():
    fine = np.linspace(0, 39, 157)
    coarse, dense = (transition(t, logistic(t, 20.5, 0.9)) for t in (FORTY, fine))
    assert (coarse.verdict, dense.verdict) == ("step", "logistic")
    assert not dense.indistinguishable
    assert dense.width == pytest.approx(0.9, abs=0.01)


def test_a_step_in_noise_does_not_exclude_a_width_and_says_how_long_it_may_be():
    values = curve("step") + seeds.generator("width").normal(0, 0.1, 40)
    found = transition(FORTY, values)
    assert found.verdict == "step"
    assert found.width_interval[0] == 0
    assert 0 < found.width_interval[1] < 6


@pytest.mark.parametrize("shape", SHAPES)
@given(st.floats(-1e3, 1e3), st.sampled_from([1e-6, 0.3, 7.0, 1e6]), st.sampled_from([0.5, 20.0]))
@settings(max_examples=8)
def test_units_and_origin_of_values_and_steps_do_not_change_what_is_found(
    shape, shift, scale, pace
):
    values = curve(shape) + seeds.generator("units", shape).normal(0, 0.05, 40)
    one = transition(FORTY, values)
    other = transition(50 + pace * FORTY, scale * (values + shift))
    assert other.verdict == one.verdict
    assert other.margin == pytest.approx(one.margin, abs=1e-2)
    if shape in ("step", "logistic"):
        assert other.change_point == pytest.approx(50 + pace * one.change_point, abs=1e-2 * pace)
        assert other.width == pytest.approx(pace * one.width, rel=1e-2)
        low, high = one.change_interval
        assert other.change_interval == pytest.approx((50 + pace * low, 50 + pace * high), abs=1e-2 * pace)  # fmt: skip
        rises = [next(f.rise for f in found.fits.values() if f.shape == shape) for found in (one, other)]  # fmt: skip
        assert rises[1] == pytest.approx(scale * rises[0], rel=1e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_curve_read_backwards_has_the_same_shape_at_the_mirrored_place(shape):
    values = curve(shape) + seeds.generator("mirror", shape).normal(0, 0.05, 40)
    one, other = transition(FORTY, values), transition(-FORTY[::-1], values[::-1])
    assert other.verdict == one.verdict
    for name, fit in one.fits.items():
        assert other.fits[name].bic == pytest.approx(fit.bic, abs=1e-3)
    assert other.change_point == pytest.approx(-one.change_point, abs=1e-2, nan_ok=True)
    low, high = one.change_interval
    assert other.change_interval == pytest.approx((-high, -low), abs=0.05, nan_ok=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_curve_upside_down_has_the_same_shape(shape):
    values = curve(shape) + seeds.generator("flip", shape).normal(0, 0.05, 40)
    one, other = transition(FORTY, values), transition(FORTY, -values)
    assert other.verdict == one.verdict
    assert other.margin == pytest.approx(one.margin, abs=1e-6)


def test_a_gap_is_left_out_and_not_read_as_a_number():
    values = curve("step") + seeds.generator("gap").normal(0, 0.05, 40)
    holes = values.copy()
    holes[[3, 30]] = np.nan
    known = ~np.isnan(holes)
    assert repr(transition(FORTY, holes)) == repr(transition(FORTY[known], values[known]))


def test_equal_values_are_constant_and_have_no_change_point():
    found = transition(FORTY, np.full(40, 0.7))
    assert found.verdict == "constant"
    assert found.fits["constant"].level == 0.7
    assert np.isnan([found.change_point, *found.change_interval, found.width]).all()


def test_few_points_have_an_unknown_shape_and_say_so():
    few = FEWEST_POINTS - 1
    found = transition(FORTY[:few], curve("step")[-few:])
    assert found.verdict == "unknown"
    assert str(few) in str(found.note)
    assert transition(FORTY, np.full(40, np.nan)).verdict == "unknown"


@pytest.mark.parametrize(
    ("steps", "values", "message"),
    [
        (FORTY, FORTY[:-1], "40 steps and 39 values"),
        (FORTY[::-1].copy(), FORTY, "must increase"),
        (np.zeros(40), FORTY, "must increase"),
        (np.where(FORTY == 5, np.nan, FORTY), FORTY, "must increase"),
        (FORTY, np.where(FORTY == 5, np.inf, FORTY), "value 5"),
    ],
)
def test_what_is_not_a_curve_is_refused(steps, values, message):
    with pytest.raises(ValueError, match=message):
        transition(steps, values)


@given(
    arrays.arrays(
        float, st.integers(0, 30), elements=st.floats(allow_infinity=False, allow_nan=True)
    ),
    st.sampled_from([1.0, 1e-9, 1e12]),
)
def test_no_finite_curve_raises_or_warns(values, pace):
    found = transition(np.arange(1.0, len(values) + 1) * pace, values)
    if found.verdict in ("step", "logistic"):
        low, high = found.change_interval
        assert pace <= low <= found.change_point <= high <= len(values) * pace
        low, high = found.width_interval
        assert 0 <= low <= found.width * (1 + 1e-6)
        assert found.width <= high * (1 + 1e-6)


@settings(max_examples=20)
@given(st.lists(st.floats(1e-3, 1e3), min_size=11, max_size=25), st.randoms(use_true_random=False))
def test_uneven_steps_neither_raise_nor_warn(gaps, rng):
    transition(
        np.cumsum([0.0, *gaps]), np.array([rng.choice([0.0, 0.25, 1.0]) for _ in [0.0, *gaps]])
    )


@pytest.mark.parametrize(("phi", "rise"), [(0.0, 1.5), (0.0, 3.0), (0.5, 2.0), (0.8, 3.0)])
def test_the_interval_of_a_change_point_covers_it_whatever_the_verdict(phi, rise):
    # Without selection by verdict: the likelihood-ratio set itself, 100 curves; fewer than 89 at 95 % would be 1 in 100.
    steps = np.arange(40.0)
    grid = transitions._grid(tuple(steps.tolist()))
    limit = transitions._limit("step", 40)
    rng = seeds.generator("step coverage", str(phi), str(rise))
    covered = 0
    for _ in range(100):
        k = int(rng.integers(5, 36))
        values = rise * (steps >= k) + correlated_noise(rng, phi, 40)
        loss = transitions._minus_two_log_likelihood(values, grid.g[: grid.num_steps]).min(axis=1)
        covered += bool(loss[k - 1] <= loss.min() + limit)
    assert covered >= 89


def test_the_interval_of_a_logistic_covers_centre_and_width():
    steps = np.arange(40.0)
    rng = seeds.generator("logistic coverage")
    centre_in = width_in = 0
    for _ in range(60):
        at = float(rng.uniform(13, 27))
        values = logistic(steps, at, 12.0) + rng.normal(0, 0.06, 40)
        found = transition(steps, values)
        assert found.verdict == "logistic"
        centre_in += found.change_interval[0] <= at <= found.change_interval[1]
        width_in += found.width_interval[0] <= 12 <= found.width_interval[1]
    assert centre_in >= 52  # fewer than 52 of 60 at 95 % would be 1 in 200
    assert width_in >= 52


def aa_curves(phi, count, num_points=40):
    rng = seeds.generator("a/a", str(phi), num_points)
    steps = np.arange(float(num_points))
    return [(steps, 0.5 + correlated_noise(rng, phi, num_points, 0.1)) for _ in range(count)]


@pytest.mark.parametrize(("phi", "most"), [(0.0, 2), (0.5, 4)])
def test_curves_without_a_change_are_rarely_said_to_have_one(phi, most):
    found = false_detections(aa_curves(phi, 60))
    assert found.num_detected <= most
    assert found.num_curves == 60
    assert found.rate == found.num_detected / 60
    assert found.interval[0] <= found.rate <= found.interval[1]
    assert sum(found.verdicts.values()) == 60


def test_a_method_blind_to_correlation_would_find_several_times_as_many(monkeypatch):
    # Shown so that the test above means something: the same curves, φ fixed at 0.
    curves = aa_curves(0.8, 40)
    assert false_detections(curves).num_detected <= 2
    monkeypatch.setattr(transitions, "PHIS", np.zeros(1))
    monkeypatch.setattr(transitions, "_POWERS", np.array([[1.0], [0.0], [0.0]]))
    assert false_detections(curves).num_detected >= 10


def test_a_real_change_is_a_false_detection_in_an_a_a_curve_and_short_curves_are_counted_apart():
    jump, flat = (FORTY, curve("step")), (FORTY, np.zeros(40))
    short = (FORTY[:5], np.zeros(5))
    found = false_detections([jump, flat, flat, short])
    assert (found.num_detected, found.num_curves, found.num_unknown) == (1, 3, 1)
    assert found.rate == pytest.approx(1 / 3)
    assert found.verdicts == {"step": 1, "constant": 2, "unknown": 1}


def test_no_curve_has_no_rate():
    found = false_detections([])
    assert np.isnan([found.rate, *found.interval]).all()


@given(st.integers(0, 30), st.integers(1, 30), st.sampled_from([0.9, 0.95]))
def test_clopper_and_pearson_are_statsmodels(successes, trials, level):
    successes = min(successes, trials)
    expected = proportion_confint(successes, trials, 1 - level, method="beta")
    low, high = clopper_pearson(successes, trials, level)
    assert (low, high) == pytest.approx(expected)
