"""Numbers out of probes' tables, on tables written by hand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm.analysis import probes
from controlarm.analysis.contrasts import t_interval
from controlarm.probes import forced, interference, perplexity, prompting, solutions, sparsity
from controlarm.probes import temperature as tempering
from controlarm.probes.counting import COUNT_FIELDS
from controlarm.protocol import Unit


def counted(problem, right, samples=4, **more):
    nothing = {name: 0 if pa.types.is_integer(kind) else False for name, kind in COUNT_FIELDS}
    return nothing | {"problem_id": problem, "samples": samples, "right": right} | more


def prompt_table(right):
    """``right``: prompt → number right of each problem, of four samples."""
    rows = [
        counted(f"p{i}", number, prompt=name, prompt_text="")
        for name, numbers in right.items()
        for i, number in enumerate(numbers)
    ]
    return pa.Table.from_pylist(rows, schema=prompting.SCHEMA)


def solution_table(base, policy, source="base"):
    rows = [
        {"problem_id": f"p{i}", "source": source, "logp_base": b, "logp_policy": p}
        for i, (b, p) in enumerate(zip(base, policy, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=solutions.SCHEMA)


# Counts.


def test_unknown_verdicts_are_out_of_accuracy_and_a_problem_without_verdicts_has_none():
    rows = [
        counted("a", 1, unknown=2, lenient_right=2, boxed=4, code=1, derived=3, greedy_right=True),
        counted("b", 0, unknown=4, lenient_unknown=4, greedy_right=None, greedy_lenient_right=None),
    ]
    table = pa.Table.from_pylist(
        [row | {"strategy": s} for s in ("code", "words") for row in rows], schema=forced.SCHEMA
    )
    found = probes.forced(table)["words"]
    assert found.problem_ids == ("a", "b")
    assert found.num_samples.tolist() == [2, 0]
    np.testing.assert_array_equal(found.accuracy, [0.5, np.nan])
    np.testing.assert_array_equal(found.lenient_accuracy, [0.5, np.nan])
    np.testing.assert_array_equal(found.greedy_accuracy, [1, np.nan])
    np.testing.assert_array_equal(found.greedy_lenient_accuracy, [0, np.nan])
    assert found.boxed_share.tolist() == [1, 0]
    assert found.code_share.tolist() == [0.25, 0]
    assert found.derived_share.tolist() == [0.75, 0]


def test_strategies_forced_on_different_problems_are_not_compared():
    rows = [counted("a", 1, strategy="code"), counted("b", 1, strategy="words")]
    with pytest.raises(ValueError, match="does not have both for every problem"):
        probes.forced(pa.Table.from_pylist(rows, schema=forced.SCHEMA))


# Prompts.


def test_the_best_prompt_is_found_and_its_gain_is_fair_where_it_is_best_on_either_half():
    found = probes.best_prompt(
        prompt_table(
            {"plain": [1, 1, 2, 2], "nonsense": [3, 3, 3, 3], "code_opening": [0, 0, 0, 0]}
        )
    )
    assert found == ("nonsense", 0.75, 0.375, 0.375)
    assert found.gain == 0.375


def test_what_is_best_by_luck_gains_nothing_fairly():
    lucky = {"plain": [2, 2, 2, 2], "nonsense": [4, 0, 4, 0], "long_nonsense": [0, 4, 0, 4]}
    found = probes.best_prompt(prompt_table(lucky))
    assert found.name == "plain" and found.gain == 0
    assert found.fair_gain == -0.5


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=4))
def test_the_best_prompt_never_loses_to_the_plain(numbers):
    found = probes.best_prompt(
        prompt_table(dict(zip(["nonsense", "plain", "a", "b"], numbers * 4, strict=False)))
    )
    assert found.gain >= max(0, found.fair_gain - 1e-12)
    assert (found.gain > 0) == (found.name != "plain")


# Temperature.


@pytest.mark.parametrize("entropy, is_matched", [(0.0301, True), (0.02, False)])
def test_a_temperature_is_matched_within_a_hundredth_of_the_bases_entropy(entropy, is_matched):
    facts = {"temperature": 1.4, "entropy": entropy, "policy_entropy": 0.01, "base_entropy": 0.03}
    rows = [counted("a", 1) | facts, counted("b", 4) | facts]
    found = probes.matched(pa.Table.from_pylist(rows, schema=tempering.SCHEMA))
    assert found[:4] == (1.4, entropy, 0.01, 0.03)
    assert found.is_matched is is_matched
    assert found.answers.num_right.tolist() == [1, 4]
    assert probes.TOLERANCE == tempering.TOLERANCE


# Winner takes all.


@given(
    st.lists(st.floats(-30, 0), min_size=3, max_size=12, unique=True),
    st.floats(-2, 2),
    st.floats(-3, 3),
)
def test_the_slope_is_that_of_the_line_that_the_changes_lie_on(base, slope, shift):
    logp = np.round(base, 3)
    if np.ptp(logp) < 0.1:
        return
    found = probes.winners(solution_table(logp, logp + shift + slope * logp), "base")
    assert found.slope == pytest.approx(slope, abs=1e-6)


def test_the_likely_gaining_most_is_a_positive_slope():
    base = [-1.0, -4.0, -9.0]
    assert probes.winners(solution_table(base, [-0.2, -4.0, -12.0]), "base").slope > 0
    assert probes.winners(solution_table(base, [-0.9, -3.0, -5.0]), "base").slope < 0
    assert probes.winners(solution_table(base, base), "base").slope == 0


def test_problems_without_solutions_are_left_out_and_too_few_have_no_slope():
    found = probes.winners(solution_table([-1.0, None, -3.0], [-1.0, None, -2.0]), "base")
    assert found.problem_ids == ("p0", "p2")
    assert found.change.tolist() == [0, 1]
    assert np.isnan(found.slope)
    assert np.isnan(probes.winners(solution_table([-1.0] * 3, [-2.0] * 3), "base").slope)


def test_the_reference_is_the_one_that_the_base_finds_likelier_whatever_the_policy_says():
    code = solution_table([-1.0, -9.0], [-5.0, -1.0], "code")
    words = solution_table([-2.0, -3.0], [-2.0, -2.5], "words")
    found = probes.winners(pa.concat_tables([code, words]))
    assert found.logp_base.tolist() == [-1, -3]
    assert found.change.tolist() == [-4, 0.5]


def test_slopes_of_units_have_an_interval_and_units_without_one_are_left_out():
    base = [-1.0, -2.0, -3.0]
    tables = {
        Unit(i, i): solution_table(base, [b * (1 + slope) for b in base])
        for i, slope in enumerate([0.1, 0.2, 0.3])
    }
    found = probes.winner_take_all(tables | {Unit(9, 9): solution_table([], [])}, "base")
    assert found.num_units == 3
    assert found.mean == pytest.approx(0.2)
    low, high = t_interval(found, 0.95)
    assert low == pytest.approx(0.2 - 0.2484, abs=1e-3) and high == pytest.approx(0.4484, abs=1e-3)


# Interference.


def interference_table(deltas):
    """``deltas``: teacher → learner → change."""
    rows = [
        {"teacher": teacher, "learner": learner, "delta": delta}
        for teacher, row in deltas.items()
        for learner, delta in row.items()
    ]
    return pa.Table.from_pylist(rows, schema=interference.SCHEMA)


def test_interference_is_counted_off_the_diagonal_alone_wherever_that_lies():
    found = probes.interference(
        interference_table(
            {"b": {"a": -0.1, "b": 0.9, "c": -0.3}, "c": {"a": 0.2, "b": 0.0, "c": 0.7}}
        )
    )
    assert found.delta.shape == (2, 3)
    assert found.own == pytest.approx(0.8)
    assert found.others == pytest.approx(-0.05)
    assert found.share_negative == 0.5


def test_without_teachers_there_is_no_number():
    found = probes.interference(interference_table({}))
    assert np.isnan([found.own, found.others, found.share_negative]).all()


# Perplexity and sparsity.


def test_perplexities_come_by_source_with_verdicts_where_there_are_any():
    names = ("ppl_policy", "ppl_base", "answer_ppl_policy", "answer_ppl_base")
    texts = [
        ("sampled", "right", True, (1.1, 1.2, 1.3, 1.4)),
        ("sampled", "unknown", False, (2.1, 2.2, None, None)),
        ("sampled", "no_answer", False, (3.1, 3.2, None, None)),
        ("prompt", None, None, (4.1, 4.2, None, None)),
    ]
    rows = [
        {"problem_id": "a", "source": source, "strict": verdict, "has_python": code}
        | dict(zip(names, values, strict=True))
        for source, verdict, code, values in texts
    ]
    table = pa.Table.from_pylist(rows, schema=perplexity.SCHEMA)
    found = probes.perplexities(table, "sampled")
    assert found.problem_ids == ("a",) * 3
    assert found.policy.tolist() == [1.1, 2.1, 3.1] and found.base.tolist() == [1.2, 2.2, 3.2]
    np.testing.assert_array_equal(found.answer_policy, [1.3, np.nan, np.nan])
    np.testing.assert_array_equal(found.answer_base, [1.4, np.nan, np.nan])
    np.testing.assert_array_equal(found.right, [1, np.nan, 0])
    assert found.code.tolist() == [1, 0, 0]
    prompt = probes.perplexities(table, "prompt")
    assert prompt.policy.tolist() == [4.1]
    assert np.isnan(prompt.right).all() and np.isnan(prompt.code).all()


def test_sparsity_is_of_all_weights_together_and_ranks_are_of_matrices():
    rows = [
        {
            "matrix": name, "precision": precision, "tolerance": t, "size": size,
            "unchanged": size if precision == "bfloat16" else unchanged,
            "effective_rank": rank, "full_rank": full,
        }
        for precision in ("float32", "bfloat16")
        for t in (0.0, 1e-5)
        for name, size, unchanged, rank, full in (("q", 90, 9, 2.0, 4), ("norm", 10, 1, None, None))
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=sparsity.SCHEMA)
    assert probes.update_sparsity(table, "float32", 1e-5) == 0.1
    assert probes.update_sparsity(table, "bfloat16", 0.0) == 1
    assert probes.rank_shares(table, "float32") == {"q": 0.5}
