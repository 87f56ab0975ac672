from fractions import Fraction
from itertools import combinations, product
from math import ceil, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from controlarm import seeds
from controlarm.analysis.boundary import Tries
from controlarm.analysis.coverage import (
    BINS,
    SamplingGap,
    Table,
    accuracy_histogram,
    answer_entropy,
    expected_jaccard,
    nested,
    overlap,
    overlaps,
    perplexity,
    share,
    smallest_visible,
    solved,
    spread,
    support,
    table,
)

flags = st.lists(st.booleans(), min_size=1, max_size=12)
counts = st.integers(0, 3000)


# Shares


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_interval_is_clopper_and_pearsons(part, whole):
    part = min(part, whole)
    found = share(part, whole)
    assert (found.low, found.high) == pytest.approx(proportion_confint(part, whole, method="beta"))
    exact = stats.binomtest(part, whole).proportion_ci()
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    mirrored = share(whole - part, whole)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_a_share_of_nothing_is_undefined():
    assert np.isnan([share(0, 0).value, share(0, 0).low, share(0, 0).high]).all()


# The table


def test_aime24_at_1024_tries_is_the_papers_table():
    base, trained = np.arange(30) < 23, np.arange(30) < 19
    cells = table(base, trained)
    assert cells == (19, 4, 0, 7)
    shares = cells.shares()
    assert [round(100 * s.value, 1) for s in shares.values()] == [63.3, 13.3, 0.0, 23.3]
    assert shares["trained_only"].high == pytest.approx(1 - 0.025 ** (1 / 30))


@given(flags, st.data())
def test_exchanging_the_policies_exchanges_what_only_one_solves(base, data):
    trained = data.draw(st.lists(st.booleans(), min_size=len(base), max_size=len(base)))
    one, other = table(np.array(base), np.array(trained)), table(np.array(trained), np.array(base))
    assert one.num_problems == len(base)
    assert other == (one.both, one.trained_only, one.base_only, one.neither)


def test_solved_asks_for_equally_many_tries():
    assert solved(Tries(np.array([4, 4]), np.array([0, 1])), 4).tolist() == [False, True]
    with pytest.raises(ValueError, match="give exactly 4 of each"):
        solved(Tries(np.array([4, 8]), np.array([0, 1])), 4)


def test_a_rate_that_8192_tries_may_miss_is_the_papers():
    assert smallest_visible(8192) == pytest.approx(3.66e-4, abs=5e-7)
    assert (1 - smallest_visible(64, 0.1)) ** 64 == pytest.approx(0.1)


# Support


def test_prorl_v2_has_the_papers_support_numbers():
    srr, ndr, sds, nscr = support(Table(both=2388, base_only=175, trained_only=48, neither=0))
    assert (round(srr, 2), round(ndr, 2), round(nscr, 2)) == (0.93, 0.02, -0.05)
    assert (srr, ndr, nscr) == (2388 / 2563, 48 / 2436, -127 / 2611)
    assert sds == pytest.approx(stats.hmean([srr, ndr]))


@given(counts, counts, counts)
def test_support_of_exchanged_policies(both, base_only, trained_only):
    one = support(Table(both, base_only, trained_only, 5))
    other = support(Table(both, trained_only, base_only, 5))
    # What one gains the other loses: NDR of one is 1 - SRR of the other.
    assert one.ndr == pytest.approx(1 - other.srr, nan_ok=True)
    assert one.nscr == pytest.approx(-other.nscr, nan_ok=True)
    assert support(Table(both, base_only, trained_only, 99)) == pytest.approx(one, nan_ok=True)


def test_support_is_undefined_where_nothing_is_solved_and_zero_where_nothing_is_kept():
    assert np.isnan(support(Table(0, 0, 0, 9))).all()
    base_nothing = support(Table(0, 0, 4, 5))
    assert np.isnan([base_nothing.srr, base_nothing.sds]).all()
    assert (base_nothing.ndr, base_nothing.nscr) == (1.0, 1.0)
    trained_nothing = support(Table(0, 4, 0, 5))
    assert (trained_nothing.srr, trained_nothing.nscr) == (0.0, -1.0)
    assert np.isnan([trained_nothing.ndr, trained_nothing.sds]).all()
    assert support(Table(0, 3, 4, 0)) == (0.0, 1.0, 0.0, 1 / 7)


# The gap


def test_the_sampling_gap_prints_its_sign():
    gap = SamplingGap(base_at_k=0.691, trained_at_1=0.251, k=256)  # GRPO on Omni-MATH, test
    assert gap.value == pytest.approx(0.44)
    assert "base's pass@256 - trained pass@1 = +44.0 points; lower is better" in gap.sentence
    assert "= -5.0 points" in SamplingGap(0.5, 0.55, 8).sentence
    assert "undefined" in SamplingGap(float("nan"), 0.5, 8).sentence


# The histogram


def test_bins_stand_in_order_and_both_ends_alone():
    assert len(BINS) == 12
    assert (BINS[0], BINS[1], BINS[9], BINS[10], BINS[11]) == (
        "0", "(0.0, 0.1]", "(0.8, 0.9]", "(0.9, 1)", "1",
    )  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=20))
def test_every_problem_is_in_the_bin_of_its_exact_accuracy(pairs):
    pairs = [(n, min(c, n)) for n, c in pairs]
    expected = [0] * 12
    for n, c in pairs:
        if n:
            accuracy = Fraction(c, n)
            expected[11 if accuracy == 1 else ceil(10 * accuracy)] += 1
    n, c = (np.array(column) for column in zip(*pairs, strict=True))
    found = accuracy_histogram(Tries(n, c))
    assert found.counts.tolist() == expected
    assert found.without_samples == sum(m == 0 for m, _ in pairs)


# Nested


def test_noise_alone_makes_new_problems_and_the_base_says_how_many():
    rng = seeds.generator("nested noise")
    rates = rng.beta(0.3, 3, 200)
    miss = (1 - rates) ** 8
    found, held = [], 0
    for i in range(150):
        base, again = rng.random((2, 200, 16)) < rates[:, None]
        answer = nested(base, again, seed=i)
        found.append((answer.new_to_base, answer.new_to_trained))
        held += answer.low <= 0 <= answer.high
    expected = (miss * (1 - miss)).sum()
    assert expected > 10, "a base is not nested in itself"
    assert np.mean(found, axis=0) == pytest.approx([expected] * 2, rel=0.03)
    assert held / 150 >= 0.93


def test_samples_of_common_noise_are_never_compared_with_each_other():
    base = seeds.generator("common noise").random((300, 8)) < 0.05
    found = nested(base, base)
    assert found.trained_only.part == 0
    assert found.new_to_trained == found.new_to_base > 0
    assert found.excess == 0
    assert found.low < 0 < found.high


def test_problems_that_only_training_reaches_are_an_excess():
    rng = seeds.generator("planted new")
    base = np.repeat([True, False], 50)[:, None] & (rng.random((100, 16)) < 0.5)
    trained = (np.arange(100) < 70)[:, None] & (rng.random((100, 16)) < 0.9)
    found = nested(base, trained)
    assert (found.trained_only.part, found.trained_only.whole, found.half) == (20, 70, 8)
    assert found.excess == pytest.approx(20, abs=1.5)
    assert found.low > 10
    backwards = nested(trained, base)
    assert backwards.trained_only.part == 0


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
@settings(max_examples=25)
def test_half_against_half_is_counted_in_both_directions(seed, num_samples):
    base, trained = seeds.generator("halves", seed).random((2, 6, num_samples)) < 0.3
    h = num_samples // 2
    new = 0.0
    for b, t in zip(base, trained, strict=True):
        new += (not b[:h].any() and t[h : 2 * h].any()) / 2
        new += (not b[h : 2 * h].any() and t[:h].any()) / 2
    assert nested(base, trained).new_to_trained == new


@pytest.mark.parametrize("shapes", [((4, 8), (4, 6)), ((4, 8), (3, 8)), ((4, 1), (4, 1))])
def test_nested_asks_for_the_same_problems_and_tries(shapes):
    base, trained = (np.zeros(shape, bool) for shape in shapes)
    with pytest.raises(ValueError, match="same problems and as many samples"):
        nested(base, trained)


# Overlap


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=2))  # fmt: skip
@settings(max_examples=30)
def test_overlap_by_chance_is_the_mean_over_all_sets_of_these_sizes(strata):
    strata = [(min(a, n), min(b, n), n) for a, b, n in strata]
    firsts = [combinations([(s, i) for i in range(n)], a) for s, (a, _, n) in enumerate(strata)]
    seconds = [combinations([(s, i) for i in range(n)], b) for s, (_, b, n) in enumerate(strata)]
    all_first = [set(sum(parts, ())) for parts in product(*map(list, firsts))]
    all_second = [set(sum(parts, ())) for parts in product(*map(list, seconds))]
    found = expected_jaccard(*map(list, zip(*strata, strict=True)))
    if not all_first[0] and not all_second[0]:
        assert np.isnan(found)
        return
    indices = [len(a & b) / len(a | b) for a in all_first for b in all_second]
    assert found == pytest.approx(np.mean(indices))


def test_permutations_average_to_the_exact_expectation():
    rng = seeds.generator("overlap null")
    pool = rng.random(60) < 0.7
    p_values, seen, by_chance = [], [], 0.0
    for i in range(200):
        sets = {}
        for name, size in (("a", 8), ("b", 12), ("c", 5)):
            sets[name] = np.zeros(60, bool)
            sets[name][rng.choice(np.flatnonzero(pool), size, replace=False)] = True
        found = overlap(sets, pool, replicates=99, seed=i)
        p_values.append(found.p)
        seen.append(found.jaccard)
        by_chance = found.by_chance
    assert np.mean(seen) == pytest.approx(by_chance, rel=0.05)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.08
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_algorithms_that_gain_the_same_problems_overlap_beyond_chance():
    base = np.arange(40) < 20
    gained = base | (np.arange(40) < 25)
    found = overlaps(base, {"grpo": gained, "rloo": gained, "ppo": gained})
    new, lost = found["newly_solved"], found["lost"]
    assert (new.pool, new.sizes, new.jaccard) == (20, {"grpo": 5, "ppo": 5, "rloo": 5}, 1.0)
    assert new.by_chance < 0.2
    assert new.p == 1 / 2001
    assert (lost.pool, lost.sizes["grpo"]) == (20, 0)
    assert np.isnan([lost.jaccard, lost.by_chance, lost.p]).all()


def test_what_is_lost_is_lost_from_what_the_base_solves():
    base = np.arange(40) < 20
    kept = {"grpo": base & (np.arange(40) > 1), "ppo": base & (np.arange(40) > 2)}
    lost = overlaps(base, kept)["lost"]
    assert (lost.pool, lost.sizes, lost.jaccard) == (20, {"grpo": 2, "ppo": 3}, 2 / 3)
    assert lost.p < 0.05


def test_easy_problems_that_all_gain_are_no_agreement_within_strata():
    easy = np.arange(60) < 20
    rng = seeds.generator("easy ones")
    sets = {name: easy & (rng.random(60) < 0.7) for name in "abcd"}
    alike = overlap(sets, np.ones(60, bool))
    within = overlap(sets, np.ones(60, bool), easy.astype(int))
    assert alike.p < 0.001
    assert within.p > 0.05
    assert within.by_chance > alike.by_chance


def test_the_order_of_algorithms_moves_no_number():
    rng = seeds.generator("order of algorithms")
    sets = {name: rng.random(30) < 0.3 for name in ("x", "y", "z")}
    other_way = dict(reversed(sets.items()))
    assert overlap(sets, np.ones(30, bool)) == overlap(other_way, np.ones(30, bool))


def test_sets_that_could_not_have_been_otherwise_are_no_evidence():
    whole = overlap({name: np.ones(9, bool) for name in "abc"}, np.ones(9, bool))
    assert (whole.jaccard, whole.by_chance, whole.p) == (1.0, 1.0, 1.0)


def test_one_algorithm_overlaps_with_nobody():
    found = overlap({"a": np.array([True, False])}, np.array([True, True]))
    assert np.isnan([found.jaccard, found.by_chance, found.p]).all()


# Answers and texts


@given(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=20), st.randoms())
def test_answer_entropy_is_scipys_whatever_the_order_and_the_names(answers, shuffler):
    given_answers = [a for a in answers if a is not None]
    found = answer_entropy(answers)
    if not given_answers:
        assert np.isnan(found)
        return
    numbers = np.unique(given_answers, return_counts=True)[1]
    assert found == pytest.approx(stats.entropy(numbers), abs=1e-12)
    shuffled = list(answers)
    shuffler.shuffle(shuffled)
    assert answer_entropy([a and f"x{a}" for a in shuffled]) == pytest.approx(found, abs=1e-12)


def test_one_answer_has_no_entropy_and_equal_ones_have_the_log_of_their_number():
    assert str(answer_entropy(["7"] * 5)) == "0.0"
    assert answer_entropy(list("abcd")) == pytest.approx(log(4))
    assert answer_entropy(list("abcd"), miller_madow=True) == pytest.approx(log(4) + 3 / 8)


def test_miller_and_madow_take_most_of_the_bias_away():
    q = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    rng = seeds.generator("miller madow")
    draws = [list(map(str, rng.choice(6, 32, p=q))) for _ in range(1500)]
    plain = np.mean([answer_entropy(d) for d in draws]) - stats.entropy(q)
    mended = np.mean([answer_entropy(d, miller_madow=True) for d in draws]) - stats.entropy(q)
    assert plain < -0.06
    assert abs(mended) < abs(plain) / 4


@given(st.integers(1, 50_000), st.integers(1, 400))
def test_a_text_of_tokens_that_are_one_in_v_has_perplexity_v(vocabulary, num_tokens):
    found = perplexity(np.array([-log(vocabulary) * num_tokens]), np.array([num_tokens]))
    assert found[0] == pytest.approx(vocabulary)


def test_a_text_without_tokens_has_no_perplexity_and_is_left_out_of_the_spread():
    values = perplexity(np.array([-2.0, 0.0, -4.0]), np.array([2, 0, 2]))
    assert np.isnan(values[1])
    found = spread(values)
    assert found.num_values == 2
    assert found.median == pytest.approx((np.e + np.e**2) / 2)


@pytest.mark.parametrize("bad", [0.5, float("nan"), float("-inf")])
def test_a_log_probability_that_is_none_is_refused_with_its_text(bad):
    with pytest.raises(ValueError, match="text 1 has log-probability"):
        perplexity(np.array([-1.0, bad]), np.array([3, 3]))


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30))
def test_the_spread_is_in_order_and_of_the_values(values):
    found = spread(np.array(values))
    order = [found.q05, found.q25, found.median, found.q75, found.q95]
    assert order == sorted(order)
    assert min(values) <= found.q05
    assert found.q95 <= max(values)
    assert found.median == pytest.approx(np.median(values))


def test_a_spread_of_nothing_is_undefined():
    assert spread(np.array([np.nan])).num_values == 0
    assert np.isnan(spread(np.array([]))[1:]).all()
