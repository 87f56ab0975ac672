from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import seeds
from controlarm.analysis.boundary import guess_curve, majority_right, pass_at_k


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample(right, data):
    k = data.draw(st.integers(1, len(right)))
    subsets = [any(subset) for subset in combinations(right, k)]
    (found,) = pass_at_k(np.array([len(right)]), np.array([sum(right)]), k)
    assert found == pytest.approx(np.mean(subsets), abs=1e-12)


def test_pass_at_k_is_unbiased():
    # 8 samples, right with probability .3: pass@4 must average to 1 - .7^4 over fresh sets of samples.
    right = seeds.generator("pass-at-k").binomial(8, 0.3, 20_000)
    found = pass_at_k(np.full(20_000, 8), right, 4)
    assert found.mean() == pytest.approx(1 - 0.7**4, abs=0.01)


def test_pass_at_more_than_the_samples_is_undefined():
    assert np.isnan(pass_at_k(np.array([4, 0]), np.array([4, 0]), 8)).all()


def plurality(votes):
    """Share of the win that each answer gets; a tie is shared."""
    cast = [vote for vote in votes if vote is not None]
    top = max(map(cast.count, cast), default=0)
    winners = {vote for vote in cast if cast.count(vote) == top}
    return {winner: 1 / len(winners) for winner in winners}


@given(st.lists(st.sampled_from(["7", "8", "9", "10", None]), min_size=1, max_size=8), st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    expected = np.mean([plurality(subset).get("8", 0.0) for subset in combinations(answers, k)])
    found = majority_right(answers, [answer == "8" for answer in answers], k)
    assert found == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=8))
def test_a_second_vote_alone_decides_nothing(answers):
    right = [answer == "a" for answer in answers]
    assert majority_right(answers, right, 2) == pytest.approx(majority_right(answers, right, 1))


def test_the_guess_curve_is_what_drawing_from_the_other_problems_answers_gives():
    gold = ["1", "1", "1", "2", "2", "3"]
    rng = seeds.generator("guess")
    hits = []
    for _ in range(20_000):
        i = int(rng.integers(6))
        others = gold[:i] + gold[i + 1 :]
        hits.append(gold[i] in [others[j] for j in rng.integers(5, size=3)])
    assert guess_curve(gold, [3])[0] == pytest.approx(np.mean(hits), abs=0.012)


def test_a_guesser_of_distinct_answers_gets_nothing_and_of_one_answer_everything():
    assert guess_curve(["1", "2", "3"], [1, 16]) == [0.0, 0.0]
    assert guess_curve(["5", "5", "5"], [1]) == [1.0]
    assert np.isnan(guess_curve(["5"], [1, 2])).all()
    assert guess_curve(["1", "2"], [1], ["1", "3"]) == [pytest.approx(1 / 6)]
