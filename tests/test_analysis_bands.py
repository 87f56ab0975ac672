from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from controlarm import seeds
from controlarm.analysis.bands import (
    Band,
    crossover,
    curve_band,
    difference_band,
    largest_t,
    unit_band,
)
from controlarm.analysis.boundary import (
    Tries,
    beyond_guessing,
    guess_at_k,
    guess_curve,
    mean_curve,
    pass_at_k,
    pass_curves,
    tries,
)
from controlarm.analysis.contrasts import estimate, t_interval

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def sample(rng, rates, num_samples=256):
    return Tries(np.full(len(rates), num_samples), rng.binomial(num_samples, rates))


def true_curve(rate_of, ks=KS):
    """Mean over the population of problems: rates at the midpoints of its quantiles."""
    rates = rate_of((np.arange(200_000) + 0.5) / 200_000)
    return np.array([np.mean(1 - (1 - rates) ** k) for k in ks])


def sharpened(rates):
    """A trained policy that solves more often what is not too hard, and no longer solves the rest."""
    return np.where(rates > 0.02, rates**0.7, 0)


def pointwise_covers(values, truth):
    """Whether t intervals, each right about its own k, hold all of the true curve."""
    se = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return bool(np.all(abs(values.mean(axis=0) - truth) <= stats.t.isf(0.025, len(values) - 1) * se))  # fmt: skip


def covers(band, truth):
    return bool(np.all((band.low <= truth) & (truth <= band.high)))


# Curves of any notion of success


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_a_curve_is_the_share_of_all_subsets_with_a_success_at_each_k(success):
    curves = pass_curves(tries(np.array(success)), [1, 2, 3, 5, 6])
    for row, curve in zip(success, curves, strict=True):
        shares = [np.mean([any(s) for s in combinations(row, k)]) for k in (1, 2, 3, 5, 6)]
        assert curve == pytest.approx(shares, abs=1e-12)


def test_curves_are_pass_at_k_to_the_last_bit():
    rng = seeds.generator("curves")
    n = rng.integers(0, 257, 300)
    c = rng.binomial(n, 0.1)
    found = pass_curves(Tries(n, c), KS)
    expected = np.stack([pass_at_k(n, c, k) for k in KS], axis=1)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.isnan(found).any()


def test_samples_that_nobody_could_judge_are_not_drawn():
    success = np.array([[True, False, True], [False, False, False]])
    known = np.array([[False, True, True], [True, True, True]])
    n, c = tries(success, known)
    assert (n.tolist(), c.tolist()) == ([2, 3], [1, 0])


@given(st.integers(0, 2**32 - 1))
def test_asking_for_a_valid_derivation_too_never_raises_a_curve(seed):
    rng = seeds.generator("stricter", seed)
    answer, derivation = rng.random((2, 5, 8)) < 0.4
    both = pass_curves(tries(answer & derivation), [1, 3, 8])
    assert np.all(both <= pass_curves(tries(answer), [1, 3, 8]))


@pytest.mark.parametrize("ks", [[], [0, 1], [1, 1], [4, 2]])
def test_numbers_of_tries_must_be_positive_and_increase(ks):
    with pytest.raises(ValueError, match="from 1 that increase"):
        pass_curves(Tries(np.array([8]), np.array([1])), ks)


def test_the_mean_curve_leaves_out_what_is_missing_and_is_missing_where_all_is():
    found = mean_curve(np.array([[0.5, np.nan, np.nan], [1.0, 1.0, np.nan]]))
    assert found[:2].tolist() == [0.75, 1.0]
    assert np.isnan(found[2])


# Guessing taken out


def test_the_guess_curve_is_the_mean_of_each_problems_guess():
    gold = ["1", "1", "2", "3"]
    found = [guess_at_k(gold, k, ["3", "5"]).mean() for k in KS]
    assert found == guess_curve(gold, KS, ["3", "5"])
    assert guess_at_k(gold, 2, ["3", "5"]).tolist() == pytest.approx(
        [1 - 0.8**2, 1 - 0.8**2, 0, 1 - 0.8**2]
    )
    assert np.isnan(guess_at_k(["7"], 1)).all()


@given(st.floats(0, 1), st.floats(0, 0.999))
def test_what_a_policy_knows_is_what_is_left_when_its_guesses_are_taken_out(knows, guess):
    reached = np.array([[knows + (1 - knows) * guess]])
    assert beyond_guessing(reached, np.array([[guess]]))[0, 0] == pytest.approx(knows, abs=1e-9)


def test_a_guesser_knows_nothing_at_any_k_up_to_256():
    f = np.tile([0.0005, 0.002, 0.008], 2000)
    guess = 1 - (1 - f[:, None]) ** np.array(KS)
    curves = pass_curves(sample(seeds.generator("guesser"), f), KS)
    assert curves.mean(axis=0)[-1] > 0.4, "guessing alone looks like a wide boundary"
    assert beyond_guessing(curves, guess).mean(axis=0) == pytest.approx(np.zeros(9), abs=0.05)


def test_worse_than_guessing_is_below_zero_and_a_sure_guess_tells_nothing():
    found = beyond_guessing(np.array([[0.1, 1.0]]), np.array([[0.5, 1.0]]))
    assert found[0, 0] == pytest.approx(-0.8)
    assert np.isnan(found[0, 1])


# The largest t


def test_one_k_needs_students_t_and_so_do_many_that_are_one():
    expected = stats.t.isf(0.025, 29)
    assert largest_t(np.eye(1), 29, 0.95, 40_000, 0) == pytest.approx(expected, rel=0.02)
    assert largest_t(np.ones((5, 5)), 29, 0.95, 40_000, 0) == pytest.approx(expected, rel=0.02)


def test_independent_k_need_the_quantile_that_is_known_for_them():
    expected = stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2)
    assert largest_t(np.eye(6), 10**6, 0.95, 40_000, 0) == pytest.approx(expected, rel=0.01)


def test_the_quantile_is_that_of_multiplying_each_problem_with_a_gaussian():
    rng = seeds.generator("multipliers")
    curves = pass_curves(sample(rng, rng.beta(0.3, 1, 200)), KS)
    centred = curves - curves.mean(axis=0)
    scaled = centred / np.linalg.norm(centred, axis=0)
    direct = np.abs(rng.standard_normal((40_000, 200)) @ scaled).max(axis=1)
    found = largest_t(scaled.T @ scaled, 10**6, 0.95, 40_000, 0)
    assert found == pytest.approx(np.quantile(direct, 0.95), rel=0.015)


# Bands over problems


@pytest.mark.parametrize(("num_problems", "a", "b"), [(30, 0.3, 1), (30, 1, 1), (200, 0.15, 2)])
def test_bands_hold_the_whole_true_curve_and_intervals_for_each_k_do_not(num_problems, a, b):
    population = stats.beta(a, b)
    truth = true_curve(population.ppf)
    gap = true_curve(lambda q: sharpened(population.ppf(q))) - truth
    rng = seeds.generator("band coverage", num_problems, str((a, b)))
    found = []
    for i in range(250):
        rates = rng.beta(a, b, num_problems)
        base = pass_curves(sample(rng, rates), KS)
        trained = pass_curves(sample(rng, sharpened(rates)), KS)
        single = curve_band(base, KS, replicates=300, seed=i)
        paired = difference_band(base, trained, KS, replicates=300, seed=i)
        found.append((
            covers(single, truth), covers(paired, gap),
            pointwise_covers(base, truth), pointwise_covers(trained - base, gap),
        ))  # fmt: skip
    single, paired, *pointwise = np.mean(found, axis=0)
    assert min(single, paired) >= 0.93
    assert max(pointwise) <= 0.88
    if num_problems == 200:
        assert max(single, paired) <= 0.98, "not by being wide"


def test_thirty_of_thirty_solved_is_not_certainty():
    band = curve_band(np.ones((30, 2)), [128, 256])
    assert band.estimate.tolist() == [1.0, 1.0]
    assert np.all((band.low > 0.85) & (band.low < 0.95))
    assert band.high.tolist() == [1.0, 1.0]


def test_policies_that_agree_on_all_problems_are_known_to_two_or_three_of_them():
    curves = np.full((500, 3), 0.5)
    band = difference_band(curves, curves, [1, 2, 4])
    assert band.estimate.tolist() == [0.0] * 3
    assert band.high * 500 == pytest.approx([2.0] * 3, abs=0.6)
    assert band.low == pytest.approx(-band.high)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
@settings(max_examples=30)
def test_the_estimate_lies_in_its_band(seed, num_problems):
    rng = seeds.generator("estimate in band", seed)
    base, trained = rng.beta(0.1, 0.1, (2, num_problems, 3))
    for band in (
        curve_band(base, [1, 2, 4], replicates=200),
        difference_band(base, trained, [1, 2, 4], replicates=200),
    ):
        assert np.all((band.low <= band.estimate) & (band.estimate <= band.high))


def test_exchanging_the_policies_turns_the_band_round():
    rng = seeds.generator("exchange")
    base, trained = rng.random((2, 50, 4))
    one, other = difference_band(base, trained, KS[:4]), difference_band(trained, base, KS[:4])
    assert one.estimate == pytest.approx(-other.estimate)
    assert one.low == pytest.approx(-other.high)
    assert one.high == pytest.approx(-other.low)


@given(st.permutations(range(12)))
def test_the_order_of_problems_moves_no_bound(order):
    curves = seeds.generator("order").random((12, 3))
    one, other = (curve_band(c, [1, 2, 4], replicates=300) for c in (curves, curves[order]))
    assert one.low == pytest.approx(other.low, rel=1e-9)
    assert one.high == pytest.approx(other.high, rel=1e-9)


def test_the_seed_moves_a_bound_by_little_and_the_same_seed_by_nothing():
    curves = seeds.generator("seeds").random((80, 4))
    one, again, other = (curve_band(curves, KS[:4], seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.low, again.low)
    assert not np.array_equal(one.low, other.low)
    assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.05)


def test_pairing_narrows_the_band_of_a_difference():
    rng = seeds.generator("pairing")
    base = rng.random((1000, 1)) * np.linspace(0.5, 1, 4)
    trained = np.clip(base + 0.02 * rng.standard_normal((1000, 4)), 0, 1)
    paired = difference_band(base, trained, KS[:4])
    apart = curve_band(base, KS[:4])
    assert np.all(paired.high - paired.low < (apart.high - apart.low) / 3)


def test_problems_with_too_few_samples_are_counted_out_where_they_are_missing():
    counts = Tries(np.array([8, 8, 8, 4, 4]), np.array([1, 0, 8, 2, 4]))
    curves = pass_curves(counts, [4, 8, 16])
    band = curve_band(curves, [4, 8, 16], replicates=200)
    assert band.num_units.tolist() == [5, 3, 0]
    assert np.isfinite([band.low[:2], band.high[:2], band.se[:2]]).all()
    assert np.isnan([band.estimate[2], band.low[2], band.high[2], band.se[2]]).all()
    alone = curve_band(curves[:1], [4, 8, 16], replicates=200)
    assert alone.estimate[0] == 0.5
    assert np.isnan([alone.low, alone.high, alone.se]).all()


def test_without_guesses_a_band_may_reach_below_zero():
    values = np.tile([[-0.3], [0.1], [0.1], [-0.2]], (5, 1))
    assert curve_band(values, [1]).low[0] == 0.0
    assert curve_band(values, [1], possible=(-np.inf, 1.0)).low[0] < -0.1


# Bands over training units


def test_one_k_over_units_is_the_t_interval():
    differences = [0.10, 0.12, 0.17]
    band = unit_band(np.array(differences)[:, None], [64])
    assert (band.low[0], band.high[0]) == pytest.approx(t_interval(estimate(differences), 0.95))
    assert band.method == "bonferroni"


@pytest.mark.parametrize(("num_units", "method"), [(3, "bonferroni"), (5, "bonferroni"), (20, "multiplier")])  # fmt: skip
def test_bands_over_units_hold_and_a_largest_t_from_few_units_does_not(num_units, method):
    # Runs differ at small k and at large k, of their own, and a little everywhere.
    small, large = np.linspace(1, 0, 9), np.linspace(0, 1, 9)
    rng = seeds.generator("unit coverage", num_units)
    found = []
    for i in range(300):
        factors = rng.standard_normal((num_units, 2, 1))
        curves = (
            factors[:, 0] * small + factors[:, 1] * large + 0.05 * rng.standard_normal((num_units, 9))
        )  # fmt: skip
        band = unit_band(curves, KS, replicates=300, seed=i)
        t = abs(curves.mean(axis=0)) / curves.std(axis=0, ddof=1) * np.sqrt(num_units)
        largest = largest_t(np.asarray(np.corrcoef(curves.T)), num_units - 1, 0.95, 300, i)
        found.append((covers(band, 0), t.max() <= largest, pointwise_covers(curves, 0)))
        assert band.method == method
    ours, by_largest_t, pointwise = np.mean(found, axis=0)
    assert ours >= 0.935
    assert pointwise <= 0.89
    if num_units < 20:
        assert by_largest_t <= 0.925


@pytest.mark.parametrize("num_units", [3, 25])
def test_units_that_agree_exactly_have_a_band_only_at_zero(num_units):
    rng = seeds.generator("agree", num_units)
    curves = np.stack([np.zeros(num_units), np.full(num_units, 0.25), rng.random(num_units)], axis=1)  # fmt: skip
    band = unit_band(curves, [1, 2, 4])
    assert (band.low[0], band.high[0]) == (0.0, 0.0)
    assert np.isnan([band.low[1], band.high[1]]).all()
    assert band.low[2] < band.estimate[2] < band.high[2]


def test_one_unit_has_no_band_and_a_missing_value_counts_its_unit_out():
    assert np.isnan(unit_band(np.array([[0.1, 0.2]]), [1, 2]).low).all()
    band = unit_band(np.array([[0.1, np.nan], [0.2, 0.4], [0.4, 0.5]]), [1, 2])
    assert band.num_units.tolist() == [3, 2]
    assert band.estimate == pytest.approx([0.7 / 3, 0.45])


# Where curves cross


def band_of(low, high, middle=None):
    low, high = np.array(low, float), np.array(high, float)
    centre = (low + high) / 2 if middle is None else np.array(middle, float)
    ks = 2 ** np.arange(len(low))
    return Band(ks, centre, high - low, low, high, np.full(len(low), 9), 0.95, "multiplier")


def first_crossing(signs):
    """Index of the first -1 that has a +1 before it."""
    seen = False
    for j, sign in enumerate(signs):
        if seen and sign < 0:
            return j
        seen = seen or sign > 0
    return None


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2)), min_size=1, max_size=6))
def test_what_is_not_excluded_is_what_some_curve_in_the_band_does(bounds):
    band = band_of([low for low, _ in bounds], [low + width for low, width in bounds])
    curves = [
        signs for signs in product([-1, 1], repeat=len(bounds))
        if all(h >= 0 if s > 0 else low <= 0 for s, low, h in zip(signs, band.low, band.high, strict=True))
    ]  # fmt: skip
    crossings = {first_crossing(signs) for signs in curves}
    found = crossover(band)
    assert found.not_excluded == tuple(2**j for j in sorted(c for c in crossings if c is not None))
    expected = (
        "established" if None not in crossings else "none" if crossings == {None} else "undetermined"
    )  # fmt: skip
    assert found.outcome == expected


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_established_is_trained_above_and_then_base_above_by_the_band(bounds):
    band = band_of([low for low, _ in bounds], [low + width for low, width in bounds])
    above_then_below = any(
        band.low[i] > 0 and band.high[j] < 0 for i, j in combinations(range(len(bounds)), 2)
    )
    assert (crossover(band).outcome == "established") == above_then_below


def test_a_crossing_has_its_estimate_and_its_interval():
    found = crossover(band_of([3, 1, -1, -2, -5], [5, 3, 2, 1, -2]))
    assert (found.outcome, found.estimate) == ("established", 8)
    assert found.not_excluded == (4, 8, 16)
    assert found.interval == (4, 16)


def test_a_curve_that_is_above_throughout_does_not_cross():
    above, below = crossover(band_of([1, 2, 1], [3, 4, 5])), crossover(band_of([-3, -4], [-1, -1]))
    assert above == below == ("none", None, ())
    assert above.interval is None


def test_the_opposite_crossing_is_not_a_crossover_until_the_policies_are_exchanged():
    low, high = [-5, -3, 1, 2], [-3, -1, 4, 5]
    assert crossover(band_of(low, high)).outcome == "none"
    exchanged = crossover(band_of([-h for h in high], [-v for v in low]))
    assert (exchanged.outcome, exchanged.estimate) == ("established", 4)


def test_a_tie_at_the_ceiling_crosses_by_the_estimate_and_never_by_the_band():
    found = crossover(band_of([1, 0], [3, 0], middle=[2, 1e-17]))
    assert (found.outcome, found.estimate) == ("undetermined", 2)


def test_where_there_is_no_band_everything_is_possible():
    found = crossover(band_of([1, np.nan, -3], [2, np.nan, -1]))
    assert (found.outcome, found.not_excluded) == ("established", (2, 4))
    assert crossover(band_of([np.nan] * 2, [np.nan] * 2)).outcome == "undetermined"


def test_a_planted_crossing_is_found_where_it_is():
    # The base solves everything once in five tries, the trained policy half of it always: 1 - .8^3 < .5 < 1 - .8^4.
    rng = seeds.generator("planted")
    ks = list(range(1, 17))
    inside = []
    for i in range(60):
        base = pass_curves(sample(rng, np.full(150, 0.2), 64), ks)
        trained = pass_curves(sample(rng, (rng.random(150) < 0.5).astype(float), 64), ks)
        found = crossover(difference_band(base, trained, ks, replicates=400, seed=i))
        assert found.outcome == "established"
        inside.append(4 in found.not_excluded)
        assert len(found.not_excluded) < 6
    assert np.mean(inside) >= 0.93


def test_equal_policies_are_almost_never_said_to_cross():
    rng = seeds.generator("equal policies")
    said = 0
    for i in range(150):
        rates = rng.beta(0.3, 1, 60)
        base, trained = (pass_curves(sample(rng, rates), KS) for _ in range(2))
        band = difference_band(base, trained, KS, replicates=200, seed=i)
        said += crossover(band).outcome == "established"
    assert said <= 2
