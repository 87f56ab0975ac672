"""The historical variance score against the paper's own file, and saturation on curves whose answer is known."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from controlarm import files, seeds
from controlarm.analysis.saturation import (
    example,
    history,
    over_saturated_units,
    post_saturation_gain,
    rank,
    rank_over_models,
    saturation_step,
)
from controlarm.protocol import Unit

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CONTROLARM_DATA", HERE.parent.parent / "shared" / "data"))

nan = float("nan")

EPOCHS = st.lists(st.integers(0, 8).map(lambda right: right / 8), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def paper():
    path = DATA / "one_shot" / "acc_step_500.json"
    if not path.exists():
        pytest.skip(f"{path} is absent; set CONTROLARM_DATA to the folder of collected data")
    return {int(i): epochs for i, epochs in json.loads(path.read_text(encoding="utf-8")).items()}


@pytest.mark.parametrize(
    ("j", "index", "variance", "mean"),
    [
        (1, 124, 0.1655, 0.441),
        (2, 267, 0.1569, 0.350),
        (13, 682, 0.0743, 0.549),
        (606, 906, 0.0115, 0.914),
    ],
)
def test_the_papers_examples_have_their_places(paper, j, index, variance, mean):
    found = example(paper, j)
    assert found.problem_id == index
    assert found.variance == pytest.approx(variance, abs=5e-5)
    assert found.mean_accuracy == pytest.approx(mean, abs=5e-4)


def test_the_papers_file_ends_with_problems_that_were_never_solved(paper):
    ranked = rank(paper)
    assert len(ranked) == 1209
    assert {e.num_epochs for e in ranked} <= set(range(44, 58))
    assert all((e.variance, e.mean_accuracy) == (0, 0) for e in ranked[1200:])


def test_the_standard_deviation_ranks_the_papers_examples_alike_and_the_unbiased_variance_does_not(
    paper,
):
    ranked = rank(paper)
    deviations = np.array([np.std(paper[int(e.problem_id)]) for e in ranked])
    assert (np.diff(deviations) <= 1e-15).all()
    unbiased = np.array([np.var(paper[int(e.problem_id)], ddof=1) for e in ranked])
    assert (np.diff(unbiased) > 1e-6).any()


@given(st.dictionaries(st.integers(0, 99), EPOCHS, min_size=1, max_size=12), st.randoms())
def test_the_ranking_is_that_of_exact_variances_and_forgets_the_order_of_epochs_and_problems(
    accuracies, rng
):
    def exact(epochs):
        shares = [Fraction(value) for value in epochs]
        mean = sum(shares) / len(shares)
        return sum((value - mean) ** 2 for value in shares) / len(shares)

    expected = sorted(accuracies, key=lambda i: (-exact(accuracies[i]), i))
    assert [e.problem_id for e in rank(accuracies)] == expected
    shuffled = [(i, rng.sample(epochs, len(epochs))) for i, epochs in accuracies.items()]
    rng.shuffle(shuffled)
    assert rank(dict(shuffled)) == rank(accuracies)
    for e in rank(accuracies):
        assert e.variance == pytest.approx(np.var(accuracies[int(e.problem_id)]), abs=1e-15)


@given(st.dictionaries(st.integers(0, 99), EPOCHS, min_size=1, max_size=12))
def test_failing_where_one_succeeded_is_ranked_alike(accuracies):
    mirrored = {i: [1 - value for value in epochs] for i, epochs in accuracies.items()}
    assert [(e.problem_id, e.variance) for e in rank(mirrored)] == [
        (e.problem_id, e.variance) for e in rank(accuracies)
    ]


def test_ties_go_to_the_smaller_id_by_value_of_numbers_and_by_character_of_strings():
    assert [e.problem_id for e in rank({10: [0.0, 1.0], 9: [1.0, 0.0], 2: [0.5]})] == [9, 10, 2]
    assert [e.problem_id for e in rank({"b": [0.0, 1.0], "a9": [1.0, 0.0], "a10": [0.0, 1.0]})] == ["a10", "a9", "b"]  # fmt: skip


def test_an_epoch_without_an_accuracy_is_left_out_and_a_problem_without_any_is_last():
    ranked = rank({1: [nan, nan], 2: [], 3: [0.5, nan, 0.5], 4: [0.0, nan, 1.0]})
    assert [e.problem_id for e in ranked] == [4, 3, 1, 2]
    assert [e.num_epochs for e in ranked] == [2, 2, 0, 0]
    assert (ranked[0].variance, ranked[0].mean_accuracy) == (0.25, 0.5)
    assert np.isnan([ranked[2].variance, ranked[3].mean_accuracy]).all()


def test_a_place_that_is_not_there_and_a_share_that_is_none_are_refused():
    with pytest.raises(ValueError, match="from 1 to 2, not 3"):
        example({1: [0.5], 2: [0.5]}, 3)
    with pytest.raises(ValueError, match="not 0"):
        example({1: [0.5]}, 0)
    with pytest.raises(ValueError, match="problem 7"):
        rank({7: [0.5, 50.0]})


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ([0.1, 0.95, 0.96, 1.0, 0.2], 20),
        ([1.0, 0.2, 1.0, 1.0, 1.0], 30),
        ([1.0, 1.0, nan, 1.0, 1.0], nan),  # a point that is not known shows nothing
        ([0.1, 0.1, 0.1, 1.0, 1.0], nan),  # the curve ends before the window is full
        ([0.94] * 5, nan),
        ([1.0] * 5, 10),
    ],
)
def test_saturation_begins_where_a_whole_window_is_high(accuracy, expected):
    steps = np.arange(10.0, 60.0, 10.0)
    found = saturation_step(steps, np.array(accuracy), 0.95, window=3)
    assert found == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.floats(0, 1) | st.just(nan), max_size=20), st.floats(0, 1), st.integers(1, 6))
def test_saturation_is_the_first_window_by_brute_force_and_later_for_a_stricter_one(
    accuracy, threshold, window
):
    steps, values = np.arange(1.0, len(accuracy) + 1), np.array(accuracy, dtype=float)
    starts = [
        i + 1
        for i in range(len(accuracy) - window + 1)
        if all(value >= threshold for value in accuracy[i : i + window])
    ]
    found = saturation_step(steps, values, threshold, window)
    assert found == pytest.approx(starts[0] if starts else nan, nan_ok=True)
    for stricter in (
        saturation_step(steps, values, threshold, window + 1),
        saturation_step(steps, values, min(1.0, threshold + 0.1), window),
    ):
        assert not stricter < found
        assert not np.isnan(found) or np.isnan(stricter)


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="at least 1 point"):
        saturation_step(np.zeros(3), np.zeros(3), window=0)


def test_what_was_gained_before_saturation_is_not_counted():
    steps, held_out = np.array([0.0, 50, 100, 150]), np.array([0.2, 0.6, 0.65, 0.7])
    assert post_saturation_gain(50, steps, held_out) == pytest.approx(0.1)
    assert post_saturation_gain(51, steps, held_out) == pytest.approx(0.05)
    assert post_saturation_gain(0, steps, held_out) == pytest.approx(0.5)


def test_a_gain_after_saturation_that_nobody_measured_is_not_a_number():
    steps, held_out = np.array([0.0, 50, 100]), np.array([0.2, 0.6, 0.65])
    assert np.isnan(post_saturation_gain(nan, steps, held_out))
    assert np.isnan(post_saturation_gain(90, steps, held_out))  # only the last evaluation follows
    assert np.isnan(post_saturation_gain(500, steps, held_out))
    assert np.isnan(post_saturation_gain(50, steps, np.array([0.2, nan, 0.65])))


def test_units_that_never_saturate_are_counted_and_in_no_mean():
    saturated = {Unit(1, 1): 40.0, Unit(2, 1): 60.0, Unit(3, 1): nan, Unit(4, 1): 95.0}
    gains = {Unit(1, 1): 0.03, Unit(2, 1): 0.05, Unit(3, 1): nan, Unit(4, 1): nan}
    found = over_saturated_units(saturated, gains)
    assert (found.num_units, found.num_saturated, found.num_gains) == (4, 3, 2)
    assert found.step.mean == pytest.approx(65)
    assert found.gain.mean == pytest.approx(0.04)
    half = stats.t.ppf(0.975, 1) * 0.01
    assert found.gain_interval == pytest.approx((0.04 - half, 0.04 + half))


def test_no_saturated_unit_has_no_gain():
    found = over_saturated_units({Unit(1, 1): nan}, {Unit(1, 1): nan})
    assert np.isnan([found.step.mean, found.gain.mean, *found.gain_interval]).all()
    assert (found.num_units, found.num_saturated) == (1, 0)
    with pytest.raises(ValueError, match="every unit"):
        over_saturated_units({Unit(1, 1): 1.0}, {})


def test_the_interval_of_a_post_saturation_gain_covers_it():
    steps = np.arange(0.0, 201, 20)
    covered = 0
    for trial in range(300):
        rng = seeds.generator("post-saturation", trial)
        saturated, gains = {}, {}
        for seed in range(1, 5):
            training = np.where(np.arange(200) >= 60, 0.99, 0.3)
            effect = 0.05 + rng.normal(0, 0.02)
            held_out = np.interp(steps, [0, 60, 200], [0.3, 0.5, 0.5 + effect])
            unit = Unit(seed, 1)
            saturated[unit] = saturation_step(np.arange(200.0), training)
            gains[unit] = post_saturation_gain(saturated[unit], steps, held_out)
        low, high = over_saturated_units(saturated, gains).gain_interval
        covered += low <= 0.05 <= high
    assert 276 <= covered <= 296  # 285 expected, standard deviation 3.8


# From the rollouts that a run kept.


def keep(run: Path, steps: dict[int, list[tuple[str, str]]]) -> Path:
    """A run's folder with nothing but the rollouts of some steps."""
    for step, rows in steps.items():
        made = [{"problem_id": problem_id, "strict": strict, "reward": 0.0} for problem_id, strict in rows]  # fmt: skip
        files.write_table(run / "rollouts" / f"step-{step:06d}.parquet", pa.Table.from_pylist(made))
    return run


def test_a_problems_history_is_its_accuracy_in_each_step_that_asked_it_whatever_was_paid(tmp_path):
    run = keep(tmp_path, {
        1: [("a", "right"), ("a", "no_answer"), ("b", "right"), ("b", "right")],
        2: [("c", "unknown"), ("c", "unknown"), ("b", "wrong"), ("b", "right")],
        3: [("a", "right"), ("a", "unknown"), ("c", "wrong"), ("c", "right")],
    })  # fmt: skip
    found = history(run)
    assert found.keys() == {"a", "b", "c"}
    assert (found["a"], found["b"]) == ([0.5, 1.0], [1.0, 0.5])
    assert found["c"] == pytest.approx([nan, 0.5], nan_ok=True)
    assert [e.num_epochs for e in rank(found)] == [2, 2, 1]


@pytest.mark.parametrize("steps", [(), (2, 3), (1, 3), (1, 10, 20)])
def test_a_history_with_a_step_missing_is_refused(tmp_path, steps):
    run = keep(tmp_path, {step: [("a", "right")] for step in steps})
    with pytest.raises(ValueError, match="rollouts_every = 1"):
        history(run)


def test_over_models_the_variances_are_averaged_and_levels_do_not_count():
    one, two = {"a": [0.0, 1.0], "b": [0.0, 0.0]}, {"a": [0.5, 0.5], "b": [1.0, 1.0]}
    found = rank_over_models([one, two])
    assert [e.problem_id for e in found] == ["a", "b"]
    assert (found[0].variance, found[0].mean_accuracy, found[0].num_epochs) == (0.125, 0.5, 4)
    assert (found[1].variance, found[1].mean_accuracy) == (0, 0.5)


@given(
    st.dictionaries(st.integers(0, 99), EPOCHS, min_size=1, max_size=8), st.integers(1, 3), st.randoms()
)  # fmt: skip
def test_one_model_or_the_same_one_again_is_ranked_as_by_itself(accuracies, copies, rng):
    alone = rank(accuracies)
    shuffled = list(accuracies.items())
    rng.shuffle(shuffled)
    found = rank_over_models([dict(shuffled)] * copies)
    assert [e.problem_id for e in found] == [e.problem_id for e in alone]
    assert [e.variance for e in found] == pytest.approx([e.variance for e in alone])
    assert [e.num_epochs for e in found] == [copies * e.num_epochs for e in alone]


@pytest.mark.parametrize("runs", [[], [{"a": [1.0]}, {"b": [1.0]}], [{"a": [nan]}]])
def test_models_that_cannot_be_ranked_together_are_refused(runs):
    with pytest.raises(ValueError, match=r"same problems in all|no accuracy in one"):
        rank_over_models(runs)
