import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import PROTOCOL, fabricate

from controlarm.analysis.folder import INVALID, NO_DERIVATION, VALID, FolderError, read_trial
from controlarm.analysis.metrics import METRICS, mean, per_problem
from controlarm.files import sealed_line, write_json, write_table
from controlarm.protocol import ProtocolError

START, CONTROLS = PROTOCOL.split("[[controls]]", 1)
SMALL = "\n".join(
    line
    for line in START.replace('["coder", "talker", "bungler"]', '["coder"]').splitlines()
    if "talker" not in line and "bungler" not in line
).replace("seeds = [1, 2, 3]", "seeds = [1, 2]")
RUN = "coder/random/grpo-p1-s1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "fabricated-0"
    fabricate(folder, SMALL)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "fabricated-0")


def run_of(trial, path=RUN):
    (run,) = (run for run in trial.runs if run.spec.path == path)
    return run


def test_a_whole_folder_is_read_without_complaint(whole):
    trial = read_trial(whole)
    assert trial.damaged == []
    assert {run.state for run in trial.runs} == {"finished"}
    assert all(sorted(run.evaluations) == [0, 6, 12] for run in trial.runs)
    assert all(list(run.journal["step"]) == list(range(1, 13)) for run in trial.runs)


def test_metrics_are_those_of_a_plain_loop_over_the_rows(whole):
    evaluation = run_of(read_trial(whole)).evaluations[12]
    rows = pq.read_table(whole / RUN / "evaluations/step-000012.parquet").to_pylist()
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    expected = {
        "accuracy": np.mean([row["strict"] == "right" for row in sampled]),
        "lenient_accuracy": np.mean([row["lenient"] == "right" for row in sampled]),
        "greedy_accuracy": np.mean([row["strict"] == "right" for row in greedy]),
        "greedy_lenient_accuracy": np.mean([row["lenient"] == "right" for row in greedy]),
        "code_share": np.mean([row["has_python"] for row in sampled]),
        "parsed_code_share": np.mean([row["code_parses"] for row in sampled]),
        "greedy_code_share": np.mean([row["has_python"] for row in greedy]),
        "boxed_share": np.mean([row["boxed"] is not None for row in sampled]),
    }
    found = {name: mean(per_problem(metric(evaluation))) for name, metric in METRICS.items()}
    assert found == pytest.approx(expected)


def test_a_derivation_is_valid_invalid_or_none(whole):
    found = run_of(read_trial(whole)).evaluations[12].sampled
    rows = pq.read_table(whole / RUN / "evaluations/step-000012.parquet").to_pylist()
    codes = {True: VALID, False: INVALID, None: NO_DERIVATION}
    expected = [codes[row["derived"]] for row in rows if row["decoding"] == "sampled"]
    assert list(found.derived.ravel()) == expected
    assert set(expected) == set(codes.values())


def test_an_unknown_verdict_leaves_the_mean_and_is_not_wrong(folder):
    path = folder / RUN / "evaluations/step-000012.parquet"
    table = pq.read_table(path)
    before = mean(per_problem(METRICS["accuracy"](run_of(read_trial(folder)).evaluations[12])))
    # Problem 0 wholly unknown, one sample of problem 1 unknown.
    strict = table["strict"].to_pylist()
    strict[:9] = ["unknown"] * 9
    strict[9 + 1] = "unknown"
    at = table.schema.get_field_index("strict")
    write_table(path, table.set_column(at, "strict", pa.array(strict)))
    values = per_problem(METRICS["accuracy"](run_of(read_trial(folder)).evaluations[12]))
    assert np.isnan(values[0])
    assert values[1] == np.mean([verdict == "right" for verdict in strict[9 + 2 : 18]])
    assert mean(values) == pytest.approx(np.nanmean(values))
    assert mean(values) != before


def test_a_truncated_journal_line_is_named_and_left_out(folder):
    path = folder / RUN / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:40])
    trial = read_trial(folder)
    (damage,) = trial.damaged
    assert damage.file == f"{RUN}/steps.jsonl"
    assert damage.what.startswith("line 7:")
    assert list(run_of(trial).journal["step"]) == [1, 2, 3, 4, 5, 6]
    assert run_of(trial).state == "unfinished"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"\xff\xfe", "not what was written"),
        (b"[1]", "not what was written"),
        (sealed_line({"step": 3}), "has no"),
        (None, "repeated"),
        ("reward", "not a number"),
    ],
)
def test_a_bad_line_in_the_middle_costs_that_line_only(folder, line, what):
    path = folder / RUN / "steps.jsonl"
    lines = path.read_bytes().splitlines()
    if line is None:
        line = lines[1]
    elif line == "reward":
        line = sealed_line({**json.loads(lines[2]), "reward": "much"})
    lines[2] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    trial = read_trial(folder)
    (damage,) = trial.damaged
    assert damage.what.startswith("line 3:")
    assert what in damage.what
    assert list(run_of(trial).journal["step"]) == [1, 2, *range(4, 13)]


@pytest.mark.parametrize(
    "harm", ["cut", "flip", "empty", "rows", "column", "metadata", "verdict", "order"]
)
def test_a_damaged_evaluation_is_named_and_left_out(folder, harm):
    path = folder / RUN / "evaluations/step-000012.parquet"
    content, table = path.read_bytes(), pq.read_table(path)
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        at = content.index(b"coder") if b"coder" in content else 200
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "rows":
        write_table(path, table.slice(0, 100))
    elif harm == "column":
        write_table(path, table.drop_columns(["strict"]))
    elif harm == "metadata":
        write_table(path, table.replace_schema_metadata({}))
    elif harm == "verdict":
        at = table.schema.get_field_index("strict")
        write_table(path, table.set_column(at, "strict", pa.array(["maybe"] * table.num_rows)))
    elif harm == "order":
        write_table(path, table.take(list(range(table.num_rows))[::-1]))
    trial = read_trial(folder)
    (damage,) = trial.damaged
    assert damage.file == f"{RUN}/evaluations/step-000012.parquet"
    assert damage.what
    assert sorted(run_of(trial).evaluations) == [0, 6]
    assert run_of(trial).state == "unfinished"


def test_evaluations_of_other_problems_are_refused(folder):
    path = folder / "problems.parquet"
    table = pq.read_table(path)
    ids = [f"{i}!" for i in table["id"].to_pylist()]
    write_table(path, table.set_column(table.schema.get_field_index("id"), "id", pa.array(ids)))
    trial = read_trial(folder)
    assert not any(run.evaluations for run in trial.runs)
    assert "held-out problems of problems.parquet" in trial.damaged[0].what


def test_missing_and_failed_runs_are_states_not_errors(folder):
    shutil.rmtree(folder / RUN)
    other = "coder/majority/grpo-p2-s2"
    write_json(folder / other / "failed.json", {"step": 5, "reason": "3 rewards failed"})
    third = "coder/python/grpo-p1-s1"
    (folder / third / "failed.json").write_text("{")
    trial = read_trial(folder)
    assert run_of(trial).state == "unfinished"
    assert run_of(trial, other).failure == {"step": 5, "reason": "3 rewards failed"}
    assert run_of(trial, third).state == "failed"
    assert [d.file for d in trial.damaged] == [f"{third}/failed.json"]


def test_side_files_are_missed_by_name(folder):
    (folder / "environment.json").write_text("{")
    (folder / "labels/coder-p1.parquet").write_bytes(b"PAR1")
    (folder / "problems.parquet").unlink()
    trial = read_trial(folder)
    assert [d.file for d in trial.damaged] == [
        "environment.json", "problems.parquet", "labels/coder-p1.parquet",
    ]  # fmt: skip
    assert list(trial.labels) == [("coder", 2)]
    assert all(run.state == "finished" for run in trial.runs)


def test_a_protocol_changed_afterwards_is_noticed(folder):
    path = folder / "protocol.toml"
    path.write_text(path.read_text().replace("margin = 0.03", "margin = 0.30"))
    assert [d.file for d in read_trial(folder).damaged] == ["protocol.toml"]


def test_without_plan_or_protocol_there_is_no_trial_and_the_message_names_the_file(
    folder, tmp_path
):
    with pytest.raises(FolderError, match=r"plan\.json: there is no such file"):
        read_trial(tmp_path)
    (folder / "protocol.toml").unlink()
    with pytest.raises(ProtocolError, match=r"protocol\.toml"):
        read_trial(folder)
    plan = {"digest": "x", "trial": "y", "materials": {}, "runs": [{}]}
    write_json(folder / "plan.json", plan)
    with pytest.raises(FolderError, match=r"plan\.json: cannot be read as a plan"):
        read_trial(folder)
