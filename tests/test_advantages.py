"""Credit: exact zeros for equal rewards, the paper's formula for the rest, and nothing for what failed."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controlarm.advantages import EPS, group_relative

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
