import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm.analysis.dynamics import LabelAudit, audit, paid, training_curve
from controlarm.analysis.folder import JOURNAL, Run
from controlarm.analysis.metrics import mean
from controlarm.protocol import RunSpec

nan = float("nan")


def run_with(**columns):
    length = len(next(iter(columns.values())))
    journal = {name: np.full(length, nan) for name in JOURNAL}
    journal |= {name: np.array(values, dtype=float) for name, values in columns.items()}
    spec = RunSpec("coder", 1, "grpo", "format", 1)
    return Run(spec=spec, state="finished", journal=journal, evaluations={})


def test_a_short_curve_is_shown_as_it_is():
    curve = training_curve(run_with(step=[1, 2, 3], accuracy=[0.1, nan, 0.3]), "train_accuracy")
    assert curve.steps == [1, 2, 3]
    assert curve.values == pytest.approx([0.1, nan, 0.3], nan_ok=True)


def test_a_long_curve_is_thinned_to_means_and_keeps_its_last_step_and_its_mean():
    values = np.arange(600) / 600
    curve = training_curve(run_with(step=range(1, 601), reward=values), "reward", most=60)
    assert len(curve.steps) == 60
    assert curve.steps[-1] == 600
    assert curve.values[0] == pytest.approx(values[:10].mean())
    assert np.mean(curve.values) == pytest.approx(values.mean())


@given(
    length=st.integers(1, 300), most=st.integers(1, 70), seed=st.integers(0, 2**16), missing=st.sampled_from([0.0, 0.05, 0.9])
)  # fmt: skip
def test_a_curve_is_the_windows_means_bit_for_bit(length, most, seed, missing):
    draw = np.random.default_rng(seed)
    values = draw.standard_normal(length)
    values[draw.random(length) < missing] = nan
    curve = training_curve(run_with(step=range(1, length + 1), reward=values), "reward", most)
    windows = np.array_split(np.arange(length), min(most, length))
    assert curve.steps == [w[-1] + 1 for w in windows]
    np.testing.assert_array_equal(curve.values, [mean(values[w]) for w in windows])


def test_what_was_paid_is_the_mean_over_steps_and_then_over_runs():
    first = run_with(
        step=[1, 2], reward=[0.2, 0.4], tpr=[1.0, nan], fpr=[0.5, 0.3], reward_failures=[1, 0]
    )
    second = run_with(
        step=[1, 2], reward=[0.6, 0.8], tpr=[0.0, 1.0], fpr=[0.1, 0.1], reward_failures=[0, 2]
    )
    found = paid([first, second])
    assert found.reward == pytest.approx(0.5)
    assert (found.tpr, found.fpr) == pytest.approx((0.75, 0.25))
    assert found.youden == pytest.approx(0.5)
    assert found.reward_failures == 3
    assert np.isnan(found.reward_code)


def test_a_reward_that_pays_wrong_answers_more_has_a_negative_youden_index():
    assert paid([run_with(step=[1], tpr=[0.2], fpr=[0.7])]).youden == pytest.approx(-0.5)


def test_labels_are_counted_against_the_gold_answers():
    def label(problem_id, majority, incorrect_is_right=False, near_miss=False):
        return {
            "problem_id": problem_id,
            "majority": majority,
            "incorrect_is_right": incorrect_is_right,
            "near_miss": near_miss,
        }

    labels = [
        label("a", "1"),
        label("b", "9"),
        label("c", None),
        label("d", "4", incorrect_is_right=True, near_miss=True),
    ]
    assert audit(labels, {"a": "1", "b": "2", "c": "3", "d": "4"}) == LabelAudit(4, 2, 1, 1, 1)
