"""Metrics of a store against counting by hand: every subset, every tie, and samples that are missing or unknown."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from controlarm import store
from controlarm.analysis import scores

CONDITION = store.Condition(
    model="m", revision="r", problems="set", prompt="none", template={"form": "box"}, backend="by hand", temperature=1.0,
    top_p=1.0, max_tokens=10, seed=1,
)  # fmt: skip


def row(problem: str, sample: int, **changes):
    return {
        "problem_id": problem, "sample": sample, "prompt_sha256": "", "problem": problem, "gold": "1", "prompt": problem,
        "text": "", "prompt_tokens": 1, "num_tokens": 2, "truncated": False, "logprob": -1.0, "environment": "", **changes,
    }  # fmt: skip


def verdict(problem: str, sample: int, answer: str | None, strict: str, **changes):
    return {
        "problem_id": problem, "sample": sample, "strict": strict, "lenient": strict, "boxed": answer, "answer": answer,
        "how": None, "answer_class": answer, "has_python": False, "code_parses": False, **changes,
    }  # fmt: skip


def made(folder: Path, cells: dict[str, list[str | None]], **changes) -> scores.Graded:
    """A store: problem → each sample's answer, "1" right, "?" unknown, None no answer, "" missing."""
    place = store.begin(folder, CONDITION)
    rows, grades = [], []
    for problem, answers in cells.items():
        for sample, answer in enumerate(answers):
            if answer == "":
                continue
            strict = {"1": "right", "?": "unknown", None: "no_answer"}.get(answer, "wrong")
            rows.append(row(problem, sample, **changes))
            grades.append(verdict(problem, sample, answer, strict))
    store.write_grades(store.append(place, CONDITION, rows), "v", grades)
    return scores.read(place, CONDITION, "v")


CELLS = {
    "a": ["1", "1", "2", "2", "3", None],
    "b": ["2", "2", "1", "4", "4", "1"],
    "c": [None, None, None, "1", None, "2"],
    "d": ["3", "3", "3", "3", "3", "3"],
}


def by_hand(answers, k):
    """pass@k and maj@k over all k-subsets; a tie is shared out evenly."""
    passes, majorities = [], []
    for subset in combinations(answers, k):
        passes.append("1" in subset)
        votes = [a for a in subset if a is not None]
        most = max((votes.count(a) for a in votes), default=0)
        tied = {a for a in votes if votes.count(a) == most}
        majorities.append(("1" in tied) / len(tied) if tied else 0.0)
    return np.mean(passes), np.mean(majorities)


def test_pass_and_majority_are_means_over_all_subsets(tmp_path):
    found = scores.scores(made(tmp_path, CELLS))
    assert list(found.pass_at) == [1, 2, 4, 6]
    for k in found.pass_at:
        expected = np.mean([by_hand(answers, k) for answers in CELLS.values()], axis=0)
        assert [found.pass_at[k], found.maj_at[k]] == pytest.approx(expected.tolist())
    assert found.accuracy.value == pytest.approx((2 + 2 + 1 + 0) / 24)
    assert found.no_answer == pytest.approx(5 / 24)
    assert found.parsable.value == pytest.approx(19 / 24)


def test_what_is_missing_or_unknown_is_left_out_and_counted(tmp_path):
    found = scores.scores(made(tmp_path, {"a": ["1", "?", "2", ""], "b": ["1", "1", "", ""], "c": ["2", "2", "2", "1"]}))  # fmt: skip
    assert found.accuracy.value == pytest.approx(np.mean([1 / 2, 1, 1 / 4]))
    assert (found.held.num_missing, found.complete) == (3, False)
    assert found.unknown == pytest.approx(1 / 9)
    # Every k is of c alone, which has all its samples.
    assert found.pass_at == {1: 0.25, 2: 0.5, 4: 1.0} and found.held.num_whole == 1


def test_what_was_asked_and_never_begun_is_missing_too(tmp_path):
    made(tmp_path, {"a": ["1", "2"], "b": ["1", ""]})
    place = tmp_path / CONDITION.folder
    store.write_asked(place, store.Asked(num_problems=24, num_samples=2))
    graded = scores.read(place, CONDITION, "v")
    found = scores.scores(graded)
    assert (found.held.num_missing, found.held.words) == (45, "3 of 48 samples, 2 of 24 problems")
    said = scores.warnings([(CONDITION, found)])
    assert said[0].startswith("incomplete: 3 of 48 samples, 2 of 24 problems (none, T 1)")
    assert said[1].startswith("pass@k and maj@k are of the 1 problems with all samples")
    store.write_asked(place, store.Asked(num_problems=2, num_samples=1))
    whole = scores.read(place, CONDITION, "v")
    assert scores.scores(whole).complete and not scores.warnings([(CONDITION, scores.scores(whole))])  # fmt: skip
    assert scores.uneven(graded, whole) == ["the first is incomplete: 3 of 48 samples, 2 of 24 problems"]  # fmt: skip


def test_sides_with_other_numbers_of_samples_are_told(tmp_path):
    first, second = made(tmp_path / "x", {"a": ["1"]}), made(tmp_path / "y", {"a": ["1", "2"]})
    (said,) = scores.uneven(first, second)
    assert said.startswith("samples of a problem differ: 1 in the first, 2 in the second")


def test_one_sample_a_problem_has_the_exact_interval():
    for right, n in ((3, 30), (0, 8), (8, 8), (15, 30)):
        values = np.array([1.0] * right + [0.0] * (n - right))
        exact = stats.binomtest(right, n).proportion_ci(0.95, "exact")
        assert scores.score(values)[1:3] == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("n", [30, 100, 500])
def test_intervals_cover(n):
    """Problems with rates of every kind, eight samples of each: the interval holds the mean of all such problems."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        rates = rng.beta(0.4, 0.4, n)
        found = scores.score(rng.binomial(8, rates) / 8)
        hits += found.low <= 0.5 <= found.high
    assert hits >= 400 * 0.92


def test_perplexity_is_of_tokens(tmp_path):
    found = scores.scores(made(tmp_path, {"a": ["1", "2"]}, num_tokens=4, logprob=-2.0))
    assert found.mean_logprob == pytest.approx(-0.5)
    assert found.perplexity.median == pytest.approx(np.exp(0.5))


def test_a_difference_is_paired_and_its_flips_are_named(tmp_path):
    before = made(tmp_path / "x", {"a": ["2"], "b": ["1"], "c": ["2"], "d": ["2"], "e": ["1"]})
    after = made(tmp_path / "y", {"a": ["1"], "b": ["2"], "c": ["1"], "d": ["1"], "e": ["1"]})
    found = scores.difference(before, after)
    assert [f.problem_id for f in found.gained] == ["a", "c", "d"]
    assert [f.problem_id for f in found.lost] == ["b"]
    assert found.p == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert found.difference.mean == pytest.approx(2 / 5)
    told = scores.told(found, 2)
    assert told[-4:] == ["gained: a 0.00 → 1.00: a", "gained: c 0.00 → 1.00: c", "gained: 1 more", "lost: b 1.00 → 0.00: b"]  # fmt: skip


def test_what_cannot_be_compared_is_refused_with_the_reason(tmp_path):
    first = made(tmp_path / "x", {"a": ["1"], "b": ["1"]})
    second = made(tmp_path / "y", {"a": ["1"], "c": ["1"]})
    with pytest.raises(scores.ScoreError, match=r"1 stand only in the first \(b …\)"):
        scores.difference(first, second)


def test_the_best_prompt_is_named_with_its_selection(tmp_path):
    found = scores.scores(made(tmp_path / "x", CELLS))
    better = scores.scores(made(tmp_path / "y", {"a": ["1"], "b": ["1"]}))
    assert not scores.notes([(CONDITION, found)])
    (said,) = scores.notes([(CONDITION, found), (replace(CONDITION, prompt="chat"), better)])
    assert said.startswith("set, sampled: the best prompt is chat, strict 100.0")
