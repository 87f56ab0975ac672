"""Rows of other trainers' data sets: the same ids in each, readable as they read them, and paid as they stand."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from controlarm.cli import app
from controlarm.problems import sets
from controlarm.rewards import openrlhf, rows, verl
from controlarm.rewards.rows import INSTRUCTION, TRAINERS

PROBLEMS = sets.load("random_calculation:2", 5)


def ids(trainer: str, row: dict) -> tuple[str, str]:
    """Id and answer, where the trainer's reward finds them."""
    if trainer == "verl":
        return row["extra_info"]["problem_id"], row["reward_model"]["ground_truth"]
    if trainer == "openrlhf":
        label = json.loads(row["label"])
        return label["problem_id"], label["answer"]
    return row["info"]["problem_id"] if trainer == "verifiers" else row["problem_id"], row["answer"]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainers_rows_have_the_same_ids_answers_and_prompts(trainer, ending, tmp_path):
    out = tmp_path / f"rows.{ending}"
    command = ["dataset", "random_calculation:2", str(out), "--for", trainer, "--limit", "5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    if ending == "parquet":
        read = pq.read_table(out).to_pylist()
    else:
        read = [json.loads(line) for line in out.read_text().splitlines()]
    assert [ids(trainer, row) for row in read] == [(p.id, p.answer) for p in PROBLEMS]
    for row, problem in zip(read, PROBLEMS, strict=True):
        system, user = row["input" if trainer == "openrlhf" else "prompt"]
        assert (system["role"], system["content"]) == ("system", INSTRUCTION)
        assert (user["role"], user["content"]) == ("user", problem.text)
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "is there already" in again.output


def test_rows_are_paid_as_they_stand():
    text = rf"\boxed{{{PROBLEMS[0].answer}}}"
    row = rows.rows(PROBLEMS, "verl", "sums")[0]
    found = verl.compute_score(
        row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"],
        arm="ground_truth", equal="exact",
    )  # fmt: skip
    assert found["score"] == found["acc"] == 1
    function = openrlhf.reward_function("ground_truth", equal="exact")
    row = rows.rows(PROBLEMS, "openrlhf", "sums")[0]
    assert function(["?" + text], ["?"], [row["label"]])["rewards"].tolist() == [1]


def test_an_instruction_may_be_another_or_none(tmp_path):
    out = tmp_path / "rows.jsonl"
    made = rows.rows(PROBLEMS, "trl", "sums", "")
    assert [len(row["prompt"]) for row in made] == [1] * 5
    command = ["dataset", "random_calculation:2", str(out), "--for", "trl", "--instruction", "Box."]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert json.loads(out.read_text().splitlines()[0])["prompt"][0]["content"] == "Box."


def test_a_trainer_or_an_ending_that_is_not_known_is_named(tmp_path):
    with pytest.raises(ValueError, match="no rows for the trainer 'slime'; there are trl, verl"):
        rows.rows(PROBLEMS, "slime", "sums")
    with pytest.raises(ValueError, match=r"rows\.csv: name it \.parquet"):
        rows.write(tmp_path / "rows.csv", [])
