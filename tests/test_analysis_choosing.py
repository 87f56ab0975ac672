"""Choosing between strategies of known accuracy."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from controlarm import seeds
from controlarm.analysis.choosing import Tally, choosing, choosing_of_counts, share_under_bound

nan, inf = float("nan"), float("inf")


def samples(rng, accuracy, num_samples):
    return (rng.uniform(size=(len(accuracy), num_samples)) < accuracy[:, None]).astype(float)


def test_the_true_oracle_lies_between_the_honest_and_the_naive_one():
    code, words = np.array([0.9, 0.2, 0.5, 0.6]), np.array([0.1, 0.7, 0.5, 0.5])
    share = np.array([0.5, 0.5, 0.2, 1.0])
    found = []
    for trial in range(400):
        rng = seeds.generator("oracle", trial)
        found.append(choosing(samples(rng, code, 8), samples(rng, words, 8), share))
    honest = [c.oracle for c in found]
    naive = [c.naive_oracle for c in found]
    truth = np.maximum(code, words).mean()
    assert np.mean(honest) < truth < np.mean(naive)
    assert np.mean(honest) == pytest.approx(truth, abs=0.03)
    own = (share * code + (1 - share) * words).mean()
    assert np.mean([c.own for c in found]) == pytest.approx(own, abs=0.01)


def test_equal_strategies_leave_nothing_to_choose_and_the_naive_oracle_claims_something():
    half = np.full(50, 0.5)
    bounds, naive = [], []
    for trial in range(100):
        rng = seeds.generator("nothing to choose", trial)
        found = choosing(samples(rng, half, 8), samples(rng, half, 8), half)
        bounds.append(found.bound)
        naive.append(found.naive_bound)
    assert abs(np.mean(bounds)) < 4 * np.std(bounds) / 10
    assert np.mean(naive) > 0.05


def test_a_strategy_that_is_always_right_is_always_chosen():
    ones, zeros = np.ones((5, 4)), np.zeros((5, 6))
    found = choosing(ones, zeros, np.full(5, 0.25))
    assert (found.own, found.code, found.words) == (0.25, 1, 0)
    assert (found.oracle, found.naive_oracle, found.bound) == (1, 1, 0.75)


@given(
    arrays.arrays(float, (4, 6), elements=st.sampled_from([0.0, 1.0, nan])),
    arrays.arrays(float, (4, 4), elements=st.sampled_from([0.0, 1.0, nan])),
    arrays.arrays(float, 4, elements=st.floats(0, 1)),
)
def test_swapping_the_strategies_swaps_only_their_names(code, words, share):
    one, other = choosing(code, words, share), choosing(words, code, 1 - share)
    assert (other.code, other.words) == pytest.approx((one.words, one.code), nan_ok=True)
    assert other[0] == pytest.approx(one[0], nan_ok=True)
    assert other[3:] == pytest.approx(one[3:], nan_ok=True)
    assert one.num_problems + one.num_unknown == 4
    if one.num_problems:
        assert max(one.code, one.words, one.own) <= one.naive_oracle + 1e-12


def test_each_half_chooses_for_the_other():
    rng = seeds.generator("halves")
    code, words = (samples(rng, rng.uniform(size=30), 6) for _ in range(2))
    swap = [1, 0, 3, 2, 5, 4]
    one = choosing(code, words, np.ones(30))
    other = choosing(code[:, swap], words[:, swap], np.ones(30))
    assert other.oracle == pytest.approx(one.oracle)
    # By hand: even samples say code (1 > 0) and odd ones measure it at 0; odd ones say words (0 < 1) and even ones measure them at 0.
    found = choosing(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.ones(1))
    assert (found.oracle, found.naive_oracle) == (0, 0.5)


def test_a_problem_that_cannot_be_split_is_counted_and_left_out():
    code = np.array([[1.0, nan, 1.0, nan], [1.0, 1.0, 0.0, 1.0]])
    found = choosing(code, np.zeros((2, 4)), np.array([0.5, 0.5]))
    assert (found.num_problems, found.num_unknown) == (1, 1)
    assert found.code == 0.75
    nothing = choosing(np.full((2, 4), nan), np.zeros((2, 4)), np.array([0.5, 0.5]))
    assert np.isnan(nothing.bound)
    single = choosing(np.ones((2, 1)), np.zeros((2, 4)), np.array([0.5, 0.5]))
    assert (single.num_problems, single.num_unknown) == (0, 2)  # one sample has no halves
    with pytest.raises(ValueError, match="one row a problem"):
        choosing(np.ones((2, 2)), np.ones((3, 2)), np.ones(2))


def tally(values):
    return Tally(np.nansum(values, axis=1).astype(int), (~np.isnan(values)).sum(axis=1))


def arrangements(right, known):
    """Every order of a problem's samples that differs: which of them are right."""
    for places in combinations(range(known), right):
        yield [float(i in places) for i in range(known)]


@pytest.mark.parametrize(("num_code", "num_words"), [(2, 2), (4, 4), (5, 3), (2, 5), (6, 4)])
def test_counts_choose_as_samples_do_on_average_over_every_order_of_them(num_code, num_words):
    for right in product(range(num_code + 1), range(num_words + 1)):
        everything = product(arrangements(right[0], num_code), arrangements(right[1], num_words))
        code, words = map(np.array, zip(*everything, strict=True))
        oracle = choosing(code, words, np.full(len(code), 0.3)).oracle
        one = choosing_of_counts(tally(code[:1]), tally(words[:1]), np.array([0.3]))
        assert one.oracle == pytest.approx(oracle, abs=1e-12)


@given(
    arrays.arrays(float, (4, 6), elements=st.sampled_from([0.0, 1.0, nan])),
    arrays.arrays(float, (4, 5), elements=st.sampled_from([0.0, 1.0, nan])),
    arrays.arrays(float, 4, elements=st.sampled_from([0.0, 0.25, 1.0, nan])),
)
def test_counts_know_all_but_the_halves(code, words, share):
    # Known samples first, so that a problem that counts can halve has two halves of samples too.
    code, words = (np.sort(values, axis=1) for values in (code, words))
    exact, counted = (
        choosing(code, words, share),
        choosing_of_counts(tally(code), tally(words), share),
    )
    assert counted[5:] == exact[5:]
    assert counted[:3] == pytest.approx(exact[:3], nan_ok=True)
    assert counted.naive_oracle == pytest.approx(exact.naive_oracle, nan_ok=True)
    if counted.num_problems:
        assert counted.oracle <= counted.naive_oracle + 1e-12


def test_counts_need_a_row_a_problem():
    both, three = Tally(np.ones(2, int), np.full(2, 8)), Tally(np.ones(3, int), np.full(3, 8))
    with pytest.raises(ValueError, match="one row a problem"):
        choosing_of_counts(both, three, np.ones(2))


@pytest.mark.parametrize(
    ("gain", "bound", "expected"),
    [
        (0.2, 0.1, 0.5),
        (0.2, 0.5, 1.0),
        (0.2, 0.0, 0.0),
        (0.2, -0.1, 0.0),  # choosing can always do nothing
        (0.0, 0.1, nan),
        (-0.1, 0.1, nan),
        (nan, 0.1, nan),
        (0.2, nan, nan),
    ],
)
def test_a_gain_lies_under_the_bound_by_a_share_between_nothing_and_all(gain, bound, expected):
    assert share_under_bound(gain, bound) == pytest.approx(expected, nan_ok=True)
