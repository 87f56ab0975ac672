"""Every random number is a function of its path: stable for ever, apart from its neighbours, uniform."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from controlarm import seeds

ROOT = Path(__file__).parent.parent

PARTS = st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=8))
PATHS = st.lists(PARTS, min_size=1, max_size=5).map(tuple)


def test_numbers_of_a_path_never_change():
    assert seeds.key(1, "random", 0, "a347+28-9", 5, 3) == 0xED7E3AC21F1FA3F9CBAAA1DB0C51679
    assert seeds.uniform(1, "random", 0, "a347+28-9", 5, 3) == 0.05798170998054519
    assert seeds.generator("problem-order", 1, 1, 0).permutation(6).tolist() == [3, 5, 2, 1, 0, 4]


@given(PATHS, PATHS)
def test_two_paths_share_a_key_only_when_they_are_the_same_path(one, other):
    assert (seeds.key(*one) == seeds.key(*other)) == (one == other)


def test_a_number_and_its_digits_and_moved_borders_are_different_paths():
    paths = [(1, 2), (12,), ("1", 2), (1, "2"), ("12",), ("1", "2"), ("ab", "c"), ("a", "bc")]
    assert len({seeds.key(*path) for path in paths}) == len(paths)


def test_the_coin_is_uniform_and_neighbouring_coins_are_independent():
    coins = np.array([seeds.uniform(7, "random", 0, "p", 1, i) for i in range(4000)])
    assert coins.min() >= 0 and coins.max() < 1
    assert stats.kstest(coins, "uniform").pvalue > 0.01
    pairs, _, _ = np.histogram2d(coins[:-1], coins[1:], bins=4, range=[[0, 1], [0, 1]])
    assert stats.chisquare(pairs.ravel()).pvalue > 0.01
    of_two_seeds = [seeds.uniform(8, "random", 0, "p", 1, i) for i in range(4000)]
    assert abs(np.corrcoef(coins, of_two_seeds)[0, 1]) < 4 / np.sqrt(4000)


def test_the_coin_has_53_random_bits():
    coins = [seeds.uniform("bits", i) * 2**53 for i in range(200)]
    assert all(coin == int(coin) for coin in coins)
    assert any(int(coin) % 2 for coin in coins)


def test_a_generator_depends_on_its_path_only_and_not_on_what_was_drawn_before():
    first = seeds.generator("sampling", 1, "p").standard_normal(4)
    seeds.generator("sampling", 2, "p").standard_normal(99)
    assert np.array_equal(first, seeds.generator("sampling", 1, "p").standard_normal(4))
    assert not np.array_equal(first, seeds.generator("sampling", 2, "p").standard_normal(4))


def test_the_interpreters_hash_seed_changes_nothing():
    program = "from controlarm import seeds; print(seeds.uniform('a', 1))"
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("0", "1")
    ]  # fmt: skip
    assert said == [f"{seeds.uniform('a', 1)}\n"] * 2
