"""Credit: exact zeros for equal rewards, the paper's formula for the rest, and nothing for what failed."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controlarm.advantages import (
    BY_GROUP,
    EPS,
    generalised,
    group_mean,
    group_relative,
    leave_one_out,
    over_greedy,
    overlong,
    whitened,
)

REWARD = st.floats(-1e6, 1e6)
GROUPS = st.lists(REWARD, min_size=2, max_size=16)
LEVELS = st.lists(st.integers(-8, 8).map(float), min_size=2, max_size=16)
"""Rewards on a grid: no two of them are so close that EPS, or rounding, is what one sees."""


@given(REWARD, st.integers(1, 16), st.sets(st.integers(0, 15)))
def test_equal_rewards_have_exactly_zero_advantage_whoever_failed(reward, size, failed):
    rewards = np.full(size, reward)
    rewards[[i for i in failed if i < size]] = np.nan
    advantages = group_relative(rewards)
    assert advantages.tobytes() == np.zeros(size).tobytes()


def test_eight_rewards_of_a_tenth_teach_nothing_though_the_plain_formula_would():
    rewards = np.full((1, 8), 0.1)
    assert not group_relative(rewards).any()
    assert not group_relative(rewards.astype(np.float32)).any()
    single = rewards[0].astype(np.float32)
    mean = np.float32(sum(single) / np.float32(8))  # one after the other, as a plain loop adds
    deviation = np.sqrt(((single - mean) ** 2).sum() / np.float32(7))
    naive = (single - mean) / (deviation + np.float32(EPS))
    assert abs(naive).min() > 1e-3, "if float32 were harmless, comparing would be needless"


@given(GROUPS)
def test_advantages_are_those_of_the_papers_formula(rewards):
    assume(len(set(rewards)) > 1)
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    scale = max(map(abs, rewards))
    assume(deviation > 1e-6 * scale)
    direct = [(reward - mean) / (deviation + 1e-6) for reward in rewards]
    assert group_relative(np.array(rewards)) == pytest.approx(direct, rel=1e-6, abs=1e-6)


def test_one_right_of_four_is_paid_one_and_a_half_deviations():
    found = group_relative(np.array([1.0, 0.0, 0.0, 0.0]))
    assert found == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)


@given(LEVELS)
def test_advantages_of_a_group_sum_to_zero(rewards):
    assert abs(group_relative(np.array(rewards)).sum()) < 1e-12 * len(rewards)


@given(LEVELS, st.floats(0.1, 100), st.floats(-100, 100))
def test_neither_the_scale_nor_the_level_of_rewards_matters(rewards, scale, level):
    plain = group_relative(np.array(rewards))
    moved = group_relative(np.array(rewards) * scale + level)
    assert moved == pytest.approx(plain, abs=1e-3)


@given(LEVELS)
def test_who_was_paid_more_has_the_greater_advantage(rewards):
    advantages = group_relative(np.array(rewards))
    assert all(
        (a < b) == (r < s)
        for a, r in zip(advantages, rewards, strict=True)
        for b, s in zip(advantages, rewards, strict=True)
    )


@given(LEVELS, st.data())
def test_a_failed_reward_gets_nothing_and_changes_nothing_for_its_siblings(rewards, data):
    where = data.draw(st.lists(st.integers(0, len(rewards)), max_size=4))
    with_failures = list(rewards)
    for place in where:
        with_failures.insert(place, math.nan)
    found = group_relative(np.array(with_failures))
    failed = np.isnan(with_failures)
    assert not found[failed].any()
    assert found[~failed] == pytest.approx(group_relative(np.array(rewards)), abs=1e-12)


@given(st.lists(LEVELS, min_size=2, max_size=4))
def test_groups_do_not_see_each_other(groups):
    size = min(map(len, groups))
    table = np.array([group[:size] for group in groups])
    together = group_relative(table)
    assert np.array_equal(together, np.stack([group_relative(row) for row in table]))


def test_a_group_that_failed_as_a_whole_or_all_but_one_gets_nothing_and_warns_of_nothing():
    nothing = group_relative(np.array([[np.nan, np.nan], [np.nan, 1.0]]))
    assert nothing.tobytes() == np.zeros((2, 2)).tobytes()
    assert nothing.dtype == np.float64


@pytest.mark.parametrize("name", sorted(BY_GROUP.keys() - {"reward"}))
@given(REWARD, st.integers(1, 16), st.sets(st.integers(0, 15)))
def test_equal_rewards_have_no_credit_under_any_algorithm_that_compares_them(
    name, reward, size, failed
):
    rewards = np.full(size, reward)
    rewards[[i for i in failed if i < size]] = np.nan
    assert not BY_GROUP[name](rewards).any()


@given(LEVELS)
def test_leave_one_out_compares_each_with_the_mean_of_the_others(rewards):
    direct = [
        reward - statistics.fmean(rewards[:i] + rewards[i + 1 :])
        for i, reward in enumerate(rewards)
    ]
    assert leave_one_out(np.array(rewards)) == pytest.approx(direct, abs=1e-9)


@given(LEVELS)
def test_the_groups_mean_is_what_standardised_credit_was_before_its_division(rewards):
    found, standard = group_mean(np.array(rewards)), group_relative(np.array(rewards))
    deviation = statistics.stdev(rewards)
    assert found == pytest.approx(standard * (deviation + EPS), abs=1e-9)


def test_a_completion_as_good_as_the_greedy_one_has_exactly_no_credit():
    found = over_greedy(np.array([[0.1, 0.7, np.nan], [1.0, 0.0, 1.0]]), np.array([0.1, np.nan]))
    assert found[0].tolist() == [0.0, pytest.approx(0.6), 0.0]
    assert not found[1].any()


LENGTHS = st.lists(st.integers(1, 6), min_size=2, max_size=6)


def of_lengths(lengths):
    return np.arange(6) < np.array(lengths)[None, :, None]


@given(LENGTHS, st.floats(0, 1), st.integers(0, 10**6))
def test_generalised_credit_is_the_discounted_sum_of_one_step_surprises(lengths, lam, seed):
    rng = np.random.default_rng(seed)
    real = of_lengths(lengths)
    values, rewards = rng.standard_normal(real.shape), rng.standard_normal(real.shape[:2])
    found = generalised(rewards, values, real, lam)
    for i, length in enumerate(lengths):
        following = [*values[0, i, 1:length], rewards[0, i]]
        surprise = [following[t] - values[0, i, t] for t in range(length)]
        for t in range(length):
            direct = sum(lam**k * surprise[t + k] for k in range(length - t))
            assert found[0, i, t] == pytest.approx(direct, abs=1e-9)
        assert not found[0, i, length:].any()


@given(LENGTHS, st.integers(0, 10**6))
def test_with_lambda_one_credit_is_reward_minus_value_and_the_return_is_the_reward(lengths, seed):
    rng = np.random.default_rng(seed)
    real = of_lengths(lengths)
    values, rewards = rng.standard_normal(real.shape), rng.standard_normal(real.shape[:2])
    found = generalised(rewards, values, real, 1.0)
    expected = np.where(real, rewards[..., None] - values, 0.0)
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_failed_reward_has_no_generalised_credit_either():
    real = of_lengths([3, 2])
    found = generalised(np.array([[np.nan, 1.0]]), np.ones(real.shape), real, 0.9)
    assert not found[0, 0].any()


@given(LENGTHS, st.integers(0, 10**6))
def test_whitened_credit_has_mean_zero_and_variance_one_over_tokens(lengths, seed):
    real = of_lengths(lengths)
    credit = np.random.default_rng(seed).standard_normal((1, len(lengths), 1))
    found = whitened(credit, real)[real]
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert np.var(found, ddof=1) == pytest.approx(1, abs=1e-4)


@given(REWARD, LENGTHS)
def test_a_batch_of_equal_credit_is_whitened_to_exactly_nothing(credit, lengths):
    assert not whitened(np.full((1, len(lengths), 1), credit), of_lengths(lengths)).any()


def test_whitening_again_gives_a_group_of_equal_rewards_a_credit_unless_all_lengths_are_equal():
    """What the original code did: its placebo had this second channel."""
    credit = np.concatenate((group_relative(np.array([1.0, 0.0, 0.0])), np.zeros(3)))[None, :, None]
    uneven, even = of_lengths([1, 6, 6, 3, 3, 3]), of_lengths([4] * 6)
    assert abs(whitened(credit, uneven)[0, 3:, :3]).min() > 0.1
    assert abs(whitened(credit, even)[0, 3:, :4]).max() < 1e-12


@given(st.lists(st.integers(1, 32), min_size=1, max_size=8), st.integers(1, 16))
def test_a_long_completion_loses_what_the_papers_three_cases_say(lengths, buffer):
    def plain(length):
        if length <= 32 - buffer:
            return 0.0
        return (32 - buffer - length) / buffer

    found = overlong(np.array(lengths, dtype=float), 32, buffer)
    assert found.tolist() == pytest.approx([plain(length) for length in lengths])
    assert found.min() >= -1
    assert not overlong(np.array(lengths, dtype=float), 32, 0).any()
