"""Completions in blocks: how many are made at once is nobody's business but the memory's."""

import pytest
from small_trial import SHAPE, organisms, own

from controlarm import evaluation, trial
from controlarm.evaluation import GREEDY, Grid
from controlarm.organisms.transformer import cast
from controlarm.problems import arithmetic
from controlarm.update import DTYPES

GRID = Grid(prompts=4, group=4, prompt_length=trial.PROMPT_LENGTH, max_tokens=24)
PROBLEMS, SAMPLES = 7, 5
PATH = ("tests", 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_base_spread_over_slots_and_a_run_asked_in_blocks_say_the_same_to_the_bit(
    precision, monkeypatch
):
    weights = cast(own(organisms(), 0), DTYPES[precision])
    problems = arithmetic.problems("held_out", PROBLEMS, "tests")
    rows = evaluation.rows_of(problems, [GREEDY, *range(SAMPLES)], GRID.group)
    expected = None
    for tokens in (8 * GRID.max_tokens, 20 * GRID.max_tokens, evaluation.BLOCK_TOKENS):
        monkeypatch.setattr(evaluation, "BLOCK_TOKENS", tokens)
        twice = {name: w.expand(2, *w.shape[1:]).contiguous() for name, w in weights.items()}
        made = [
            evaluation.spread(weights, 3, rows, PATH, GRID, SHAPE, compiled=False),
            *evaluation.complete(twice, [rows] * 2, [PATH] * 2, GRID, SHAPE, compiled=False),
        ]
        for each in made:
            assert len(each) == PROBLEMS * (1 + SAMPLES)
            found = sorted(each, key=lambda one: (one.problem.id, one.sample))
            expected = expected or found
            assert found == expected
