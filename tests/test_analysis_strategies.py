import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm.analysis.folder import Completions
from controlarm.analysis.strategies import PATHS, Cell, add, four_way, shares_of_gain, use

FIGURE_7 = {
    "ground_truth": ((165, 105, 119), (160, 93, 125), (72, 20, 56), (103, 29, 91)),
    "majority": ((243, 148, 172), (82, 50, 64), (119, 28, 96), (56, 21, 50)),
    "format": ((314, 191, 212), (11, 7, 5), (152, 36, 119), (23, 13, 21)),
    "incorrect": ((301, 182, 210), (24, 16, 20), (129, 29, 100), (46, 20, 38)),
    "random": ((268, 164, 155), (57, 34, 41), (142, 34, 98), (33, 15, 31)),
}
"""Qwen2.5-Math-7B on MATH-500 at step 150: problems, right before, right after, by strategy before → after
(code → code, code → words, words → code, words → words). arXiv:2506.10947 v1, Figure 7, its percentages times its subset sizes."""

PARTITIONS = {
    arm: dict(zip(PATHS, (Cell(*cell) for cell in cells), strict=True))
    for arm, cells in FIGURE_7.items()
}


def test_the_four_way_partition_gives_the_papers_table_2():
    shares = [shares_of_gain(cells) for cells in PARTITIONS.values()]
    means = [round(100 * np.mean([s[path] for s in shares]), 1) for path in PATHS]
    assert means == [11.6, 8.6, 58.3, 21.4]
    gains = [100 * sum(c.change for c in cells.values()) / 500 for cells in PARTITIONS.values()]
    assert round(np.mean(gains), 1) == 23.5


def test_the_papers_counts_are_500_problems_and_one_base():
    for cells in PARTITIONS.values():
        assert sum(c.num_problems for c in cells.values()) == 500
        assert sum(c.right_before for c in cells.values()) == 247


def test_averaging_hides_where_ground_truths_own_gain_sits():
    shares = shares_of_gain(PARTITIONS["ground_truth"])
    assert max(shares, key=shares.__getitem__) == "words_words"


@given(st.lists(st.tuples(*[st.booleans()] * 4), max_size=30))
def test_the_cells_hold_every_problem_once(rows):
    columns = np.array(rows, dtype=bool).reshape(-1, 4).T
    cells = four_way(*columns)
    assert sum(c.num_problems for c in cells.values()) == len(rows)
    assert sum(c.right_before for c in cells.values()) == columns[1].sum()
    assert sum(c.change for c in cells.values()) == columns[3].sum() - columns[1].sum()


def test_partitions_of_units_add_up_cell_by_cell():
    total = add([PARTITIONS["format"], PARTITIONS["random"]])
    assert total["code_words"] == Cell(68, 41, 46)


def test_a_net_gain_of_nothing_has_no_shares():
    cells = dict(
        zip(PATHS, (Cell(5, 1, 2), Cell(5, 2, 1), Cell(0, 0, 0), Cell(0, 0, 0)), strict=True)
    )
    assert np.isnan(list(shares_of_gain(cells).values())).all()


def test_shares_and_accuracies_come_by_detector_and_leave_unknown_verdicts_out_of_accuracy():
    right, wrong, unknown = 0, 1, 3
    part = Completions(
        strict=np.array([[right, wrong, unknown, right]], dtype=np.int8),
        lenient=np.array([[right, right, unknown, right]], dtype=np.int8),
        boxed=np.ones((1, 4), dtype=bool),
        has_python=np.array([[True, True, True, False]]),
        code_parses=np.array([[True, False, False, False]]),
        derived=np.ones((1, 4), dtype=np.int8),
        truncated=np.zeros((1, 4), dtype=bool),
        answer=np.array([["1", "2", None, "1"]], dtype=object),
    )
    assert use([part], "code", "substring") == (0.75, 0.5, 1.0, 3)
    assert use([part, part], "words", "parsed") == (0.75, 0.5, 1.0, 6)
    assert use([part], "code", "parsed") == (0.25, 1.0, 1.0, 1)
    nothing = use([], "code", "parsed")
    assert nothing.num_completions == 0
    assert np.isnan(nothing.accuracy)
    assert use([part], "code", "substring").share + use(
        [part], "words", "substring"
    ).share == pytest.approx(1)
