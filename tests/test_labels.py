"""Pseudo-labels: majority and incorrect answers, near misses, the audit, the one-shot problem, and the file."""

import dataclasses
import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import files, labels
from controlarm.files import DamagedFileError
from controlarm.grading import grade, normalise, same
from controlarm.labels import Label, label, majority_is_wrong, one_shot_problem


def boxed(*answers: str) -> list[str]:
    return [f"So it is \\boxed{{{answer}}}." for answer in answers]


TEXTS = st.lists(
    st.sampled_from([*boxed("366", "0366.0", "356", "$356$", "323", "x", "", "\ud800"), "366", ""]),
    min_size=1,
    max_size=12,
)


def test_answers_are_counted_by_equivalence_class_not_by_spelling():
    row = label("p", boxed("366", "0366", "$366.0$", "356", "356"), "366")
    assert (row.majority, row.majority_share) == ("366", 3 / 5)
    assert (row.incorrect, row.incorrect_share, row.near_miss) == ("356", 2 / 5, False)
    assert (row.samples, row.right) == (5, 3)


def test_a_majority_may_be_wrong_and_is_then_the_incorrect_label_too():
    row = label("p", boxed("356", "356", "366"), "366")
    assert row.majority == row.incorrect == "356"
    assert majority_is_wrong(row, "366")
    assert not majority_is_wrong(row, "0356")


def test_ties_go_to_the_smallest_string():
    row = label("p", boxed("9", "10", "366", "9", "10", "366"), "366")
    assert (row.majority, row.incorrect) == ("10", "10")


def test_texts_without_a_box_have_no_answer_and_no_answer_is_no_majority():
    row = label("p", ["The answer is 356.", "", *boxed("", " "), *boxed("366")], "366")
    assert (row.majority, row.majority_share) == ("366", 1 / 5)
    nothing = label("p", ["356", "", *boxed("")], "366")
    assert (nothing.majority, nothing.majority_share, nothing.near_miss) == (None, 0.0, True)
    assert not majority_is_wrong(nothing, "366")


def test_an_answer_that_cannot_be_written_as_utf8_is_no_label():
    assert label("p", boxed("\ud800", "\ud800", "7"), "366").majority == "7"


def test_no_samples_is_an_error_that_names_the_problem():
    with pytest.raises(ValueError, match="problem p: there are no samples"):
        label("p", [], "366")


@given(TEXTS, st.sampled_from(["366", "356.0", "x"]))
def test_labels_do_not_depend_on_the_order_of_the_samples_and_the_incorrect_one_never_grades_right(
    texts, gold
):
    row = label("p", texts, gold)
    assert row == label("p", texts[::-1], gold) == label("p", sorted(texts), gold)
    assert row.right == sum(grade(text, gold).strict == "right" for text in texts)
    assert grade(boxed(row.incorrect)[0], gold).strict == "wrong"
    assert row.incorrect == normalise(row.incorrect)
    if row.majority is not None:
        share = sum(same(grade(text, gold).boxed, row.majority) for text in texts) / len(texts)
        assert share == row.majority_share >= row.incorrect_share
    assert row.near_miss is (row.incorrect_share == 0)


@given(st.integers(-2000, 2000), st.integers(0, 3), st.text(max_size=8))
def test_a_near_miss_is_keyed_close_and_never_right(n, places, problem_id):
    gold = f"{n / 10**places:.{places}f}"
    row = label(problem_id, boxed(gold), gold)
    assert row == label(problem_id, boxed(gold), gold)
    assert row.near_miss and not row.incorrect_is_right and row.right == row.samples
    assert not same(row.incorrect, gold)
    units = 10 ** (len(normalise(gold).partition(".")[2]))
    distance = abs(round(float(row.incorrect) * units) - round(float(gold) * units))
    assert 1 <= distance <= 10


def test_near_misses_differ_between_problems_on_both_sides():
    distances = {int(label(f"p{i}", boxed("366"), "366").incorrect) - 366 for i in range(300)}
    assert distances == {*range(-10, 0), *range(1, 11)}


@pytest.mark.parametrize("gold", [r"\frac{1}{2}", r"\frac{6}{2}", "x+1", "", "1" * 400])
def test_an_answer_that_is_no_number_gets_a_near_miss_of_another_value(gold):
    for i in range(40):
        row = label(f"p{i}", boxed(gold), gold)
        assert row.near_miss and not row.incorrect_is_right and row.incorrect.isdigit()


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("0.5", r"\frac{1}{2}", True),
        (r"\dfrac{-4}{2}", "-2", True),
        ("3/4", "0.75", True),
        (r"-\tfrac{1}{3}", r"\frac{-1}{3}", True),
        ("1/3", "0.333", False),
        ("1/0", "0", False),
        ("x", "y", False),
        ("356", "366", False),
    ],
)
def test_the_audit_finds_labels_that_are_right_in_another_form(answer, gold, right):
    row = label("p", boxed(answer), gold)
    assert row.incorrect == answer and row.incorrect_is_right is right


def by_value(answers: Sequence[str]) -> list[str]:
    """Classes of an equality that knows halves and nothing else."""
    return ["1/2" if answer in ("1/2", "0.5", ".5") else answer for answer in answers]


def knows_halves(gold: str, answer: str) -> bool | None:
    if answer == "?":
        return None
    return by_value([gold]) == by_value([answer])


def test_a_referee_says_what_is_one_answer_and_what_is_right():
    texts = boxed("0.5", "1/2", "3", "3", "?", "?", "?", "?")
    plain = label("p", texts[:4], "1/2")
    assert (plain.majority, plain.incorrect, plain.right) == ("3", "3", 1)
    row = label("p", texts[:3], "0.5", knows_halves, by_value)
    assert (row.majority, row.majority_share, row.right) == ("1/2", 2 / 3, 2)
    assert (row.incorrect, row.incorrect_is_right) == ("3", False)
    assert not majority_is_wrong(row, "0.5", knows_halves) and majority_is_wrong(row, "0.5")


def test_an_answer_that_nobody_can_judge_is_neither_right_nor_the_incorrect_label():
    row = label("p", boxed("?", "?", "?", "3", "0.5"), "1/2", knows_halves, by_value)
    assert (row.majority, row.incorrect, row.right) == ("?", "3", 1)
    assert not majority_is_wrong(row, "1/2", knows_halves)
    near = label("p", boxed("?"), "x", lambda gold, answer: None)
    assert near.near_miss and near.incorrect_is_right


def test_a_near_miss_is_not_right_by_the_referee_either():
    for i in range(40):
        small = label(f"p{i}", [""], "x").incorrect
        row = label(f"p{i}", [""], "x", lambda gold, answer, small=small: answer == small)
        assert row.incorrect == str(int(small) + 10) and not row.incorrect_is_right


def test_answers_in_tags_are_labelled_where_the_prompt_asks_for_tags():
    texts = ["<answer>8</answer>", "<answer>\\boxed{8}</answer>", "\\boxed{7}", "\\boxed{7}"]
    assert label("p", texts, "8", form="answer_tag").majority_share == 0.5
    assert label("p", texts, "8").majority == "7"


def of(problem_id: str, right: int, samples: int) -> Label:
    return label(problem_id, boxed(*["1"] * right, *["2"] * (samples - right)), "1")


def test_one_shot_takes_the_problem_whose_samples_vary_most_and_of_equals_the_smallest_id():
    rows = [of("d", 1, 8), of("c", 5, 8), of("b", 3, 8), of("a", 8, 8)]
    assert one_shot_problem(rows) == one_shot_problem(rows[::-1]) == "b"
    assert one_shot_problem([*rows, of("z", 2, 4)]) == "z"
    # 1/3 and 2/6 vary alike, exactly; floating point must not break the tie.
    assert one_shot_problem([of("n", 2, 6), of("m", 1, 3)]) == "m"
    with pytest.raises(ValueError, match="no labelled problems"):
        one_shot_problem([])


ROWS = [
    label("p|1", boxed("366", "356"), "366"),
    label("q|2", boxed("7"), "7"),
    label("é", ["nothing"], "7"),
]


def test_a_file_gives_back_what_was_written_and_equal_labels_give_equal_files(tmp_path):
    path, again = tmp_path / "labels" / "coder-p1.parquet", tmp_path / "again.parquet"
    labels.write(path, ROWS[:1])
    with path.open("rb") as held:
        old = path.read_bytes()
        labels.write(path, ROWS)
        assert held.read() == old  # replaced, not written over
    labels.write(again, ROWS)
    assert labels.read(path) == ROWS
    assert path.read_bytes() == again.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["coder-p1.parquet"]
    labels.write(path, [])
    assert labels.read(path) == []


def test_an_interrupted_write_names_the_file_and_leaves_the_old_one_and_nothing_else(
    tmp_path, monkeypatch
):
    path = tmp_path / "labels.parquet"
    labels.write(path, ROWS)

    def full(_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(labels.files.os, "fsync", full)
    with pytest.raises(OSError, match="no space") as caught:
        labels.write(path, ROWS[:1])
    assert caught.value.filename == str(path)
    assert labels.read(path) == ROWS and list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "labels.parquet"
    labels.write(path, ROWS)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2], b"", b"PAR1" + b"x" * 50 + b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"labels\.parquet: a byte was changed"):
            labels.read(path)
    with pytest.raises(FileNotFoundError):
        labels.read(tmp_path / "absent.parquet")


def test_a_file_of_something_else_is_an_error_that_names_the_column(tmp_path):
    path = tmp_path / "labels.parquet"
    files.write_table(path, labels.pa.table({"problem_id": ["p"]}))
    with pytest.raises(DamagedFileError, match=r"labels\.parquet: has no column 'majority'"):
        labels.read(path)


def test_the_columns_are_those_of_the_documented_format():
    documented = "problem_id majority majority_share incorrect incorrect_share near_miss samples right incorrect_is_right"
    assert [field.name for field in dataclasses.fields(Label)] == documented.split()
