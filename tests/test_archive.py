"""An archive says what its run folder says, in a few files, and each of them tells whether it is what was written."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_trial
from fabricate import EVALUATIONS, PROTOCOL, fabricate
from hostile import NASTY, harm, protocol_of
from typer.testing import CliRunner

from controlarm import archive, files, recording, report
from controlarm.analysis.folder import (
    EVALUATED,
    JOURNAL,
    Completions,
    FolderError,
    Trial,
    read_trial,
)
from controlarm.analysis.summary import summarise
from controlarm.cli import app

START, _ = PROTOCOL.split("[[controls]]", 1)
SMALL = "\n".join(
    line
    for line in START.replace('["coder", "talker", "bungler"]', '["coder"]').splitlines()
    if "talker" not in line and "bungler" not in line
)
for large, small in (
    ("seeds = [1, 2, 3]", "seeds = [1, 2]"),
    ("num_problems = 24\nsamples = 8", "num_problems = 6\nsamples = 3"),
    ("[1, 2, 4, 8]", "[1, 2]"),
    ("num_problems = 40", "num_problems = 12"),
):
    SMALL = SMALL.replace(large, small)
FAILED = "coder/majority/grpo-p2-s2"
RUN = "coder/random/grpo-p1-s1"


def probe(path: Path, start: int, **metadata: str) -> None:
    table = pa.table({"problem_id": ["a", "b"], "value": [start + 0.25, None]})
    files.write_table(path, table.replace_schema_metadata(metadata))


def made(root: Path) -> Path:
    """A finished run folder with a failed run, probes of a run and of a base, times, and a sibling."""
    plan = fabricate(root / "draft", SMALL)
    digest = files.read_json(root / "draft/plan.json")["digest"]
    folder = (root / "draft").rename(root / f"{plan.trial.name}-{digest[:8]}")
    shutil.rmtree(folder / FAILED / "evaluations")
    files.write_json(folder / FAILED / "failed.json", {"step": 5, "reason": "3 rewards failed"})
    lines = (folder / FAILED / "steps.jsonl").read_bytes().splitlines(keepends=True)
    (folder / FAILED / "steps.jsonl").write_bytes(b"".join(lines[:5]))
    probe(folder / RUN / "probes/forced-step-000012.parquet", 1, weights_sha256="ab")
    probe(folder / RUN / "probes/forced-step-000006.parquet", 2, weights_sha256="cd")
    probe(folder / "bases/coder-p1/probes/forced.parquet", 3)
    probe(folder / "bases/coder-p2/probes/prefix.parquet", 4)
    (folder / "times.jsonl").write_text(
        '{"stage": "trained", "step": 1, "seconds": 2.0, "time": 1000.0}\n'
        '{"stage": "trained", "step": 2, "seconds": 3.0, "time": 1003.5}\n'
        '{"stage": "finished", "seconds": 6.0, "cpu_seconds": 5.5, "time": 1004.0}\n{"stage": "cu'
    )
    other = folder.with_name(f"{plan.trial.name}-00000000")
    other.mkdir()
    plan_json = files.read_json(folder / "plan.json") | {"digest": "00000000"}
    files.write_json(other / "plan.json", plan_json)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("archive") / "runs")


@pytest.fixture(scope="module")
def kept(folder) -> Path:
    return recording.record(folder, folder.parent.parent / "records")


@pytest.fixture
def record(kept, tmp_path) -> Path:
    return shutil.copytree(kept, tmp_path / kept.name)


def same_trial(one: Trial, other: Trial) -> None:
    """Every array of every run."""
    assert one.damaged == other.damaged == []
    assert one.labels == other.labels
    assert one.problems == other.problems
    for a, b in zip(one.runs, other.runs, strict=True):
        assert (a.spec, a.state, a.failure) == (b.spec, b.state, b.failure)
        assert list(a.evaluations) == list(b.evaluations)
        for name in JOURNAL:
            assert np.array_equal(a.journal[name], b.journal[name], equal_nan=True), name
        for step, evaluation in a.evaluations.items():
            theirs = b.evaluations[step]
            assert evaluation.weights_sha256 == theirs.weights_sha256
            assert evaluation.problem_ids == theirs.problem_ids
            for part in ("greedy", "sampled"):
                mine, its = getattr(evaluation, part), getattr(theirs, part)
                for field in fields(Completions):
                    x, y = getattr(mine, field.name), getattr(its, field.name)
                    assert x.dtype == y.dtype
                    assert np.array_equal(x, y), field.name


def test_an_archive_is_the_trial_that_its_folder_is(folder, kept):
    same_trial(read_trial(folder), read_trial(kept))
    assert {run.state for run in read_trial(kept).runs} == {"finished", "failed"}


def test_a_record_reports_what_its_folder_reports_byte_for_byte(folder, kept):
    report_of_folder = report.as_json(summarise(folder))
    assert (kept / "report.json").read_text(encoding="utf-8") == report_of_folder
    assert report.as_json(summarise(kept)) == report_of_folder
    found = json.loads(report_of_folder)
    assert found["rollouts"] and found["trial"]["siblings"] and found["flow"]["runs_failed"]


def test_a_real_trial_is_kept_byte_for_byte_in_a_tenth_of_its_size(tmp_path):
    text = small_trial.protocol_text("[arms.constant]\n")
    small = small_trial.prepare(tmp_path, text).train()
    record = recording.record(small.folder, tmp_path / "records")
    same_trial(read_trial(small.folder), read_trial(record))
    assert report.as_json(summarise(record)) == report.as_json(summarise(small.folder))
    sizes = [
        sum(path.stat().st_size for path in where.rglob("*") if "report" not in path.name)
        for where in (record, small.folder)
    ]
    assert sizes[0] < sizes[1] / 10


@pytest.mark.slow
def test_a_hostile_trial_is_kept_byte_for_byte(tmp_path):
    texts = list(NASTY.values())
    fabricate(tmp_path / "runs/hostile", protocol_of("Does it?"))
    harm(tmp_path / "runs/hostile", texts, "".join(texts))
    record = recording.record(tmp_path / "runs/hostile", tmp_path / "records")
    same_trial(read_trial(tmp_path / "runs/hostile"), read_trial(record))
    found = summarise(record)
    assert found["flow"]["runs_failed"]
    # The run folder was renamed after it was made; its name is all that the reports differ in.
    theirs = summarise(tmp_path / "runs/hostile")
    theirs["trial"]["folder"] = record.name
    assert report.as_json(found) == report.as_json(theirs)


def test_every_column_of_an_evaluation_but_text_and_entropy_is_kept_with_its_type(kept):
    schema = pq.read_schema(kept / "evaluations.parquet")
    expected = {
        field.name: pa.float32() if field.type == pa.float64() else field.type
        for field in EVALUATIONS
        if field.name not in ("text", "entropy")
    }
    assert {f.name: f.type for f in schema if f.name != "evaluation"} == expected
    assert set(EVALUATED) <= set(expected)


def test_no_column_of_a_journal_is_lost(folder, kept):
    lines = (folder / RUN / "steps.jsonl").read_text().splitlines()
    run = [r.spec.path for r in read_trial(kept).runs].index(RUN)
    rows = [
        row for row in pq.read_table(kept / "journals.parquet").to_pylist() if row.pop("run") == run
    ]
    expected = [json.loads(line) for line in lines]
    for row in expected:
        del row["seal"]
    assert rows == expected


def test_completions_of_the_same_weights_of_a_unit_are_kept_once(kept):
    trial = read_trial(kept)
    index = pq.read_table(kept / "evaluated.parquet").to_pylist()
    of_run = {(row["run"], row["step"]): row["evaluation"] for row in index}
    units = {run.unit for run in trial.runs}
    bases = {
        unit: {of_run[i, 0] for i, run in enumerate(trial.runs) if run.unit == unit and (i, 0) in of_run}
        for unit in units
    }  # fmt: skip
    assert all(len(numbers) == 1 for numbers in bases.values())
    assert len(set.union(*bases.values())) == len(units)
    constant = next(i for i, run in enumerate(trial.runs) if run.spec.arm == "constant")
    assert of_run[constant, 12] == of_run[constant, 0]


def test_probes_read_alike_from_folder_and_archive_and_say_whose_they_are(folder, kept):
    assert archive.probe_kinds(folder) == archive.probe_kinds(kept) == ["forced", "prefix"]
    for kind in ("forced", "prefix"):
        assert archive.probes(folder, kind).equals(archive.probes(kept, kind))
    rows = archive.probes(kept, "forced").to_pylist()
    run = [r.spec.path for r in read_trial(kept).runs].index(RUN)
    assert [(r["run"], r["step"], r["weights_sha256"], r["value"]) for r in rows] == [
        (run, 6, "cd", 2.25), (run, 6, "cd", None), (run, 12, "ab", 1.25), (run, 12, "ab", None),
        (None, None, None, 3.25), (None, None, None, None),
    ]  # fmt: skip
    assert [rows[-1][name] for name in ("family", "pretraining_seed", "arm", "seed")] == [
        "coder", 1, None, None,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no probes of kind 'nothing'; it has: forced, prefix"):
        archive.probes(kept, "nothing")


def test_times_add_up_and_a_cut_line_costs_itself_alone(kept):
    found = archive.facts(kept).times
    assert found["wall_seconds"] == 1004.0 - 998.0
    assert found["stages"]["trained"] == {"reports": 2, "seconds": 5.0}
    assert found["stages"]["finished"] == {"reports": 1, "seconds": 6.0, "cpu_seconds": 5.5}


SEALED = {
    "archive.json", "environment.json", "evaluated.parquet", "evaluations.parquet", "journals.parquet", "labels.parquet",
    "problems.parquet",
}  # fmt: skip


HARMS = [
    (name, harm)
    for name in sorted(SEALED)
    for harm in ("flipped", "cut", "missing")
    # Without its mark an archive is a run folder of which little is there.
    if (name, harm) != (archive.MARK, "missing")
]


@pytest.mark.parametrize(("name", "harm"), HARMS)
def test_a_harmed_file_of_an_archive_is_named_and_its_numbers_are_missing(record, name, harm):
    path = record / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            content[:half]
            if harm == "cut"
            else content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        )
    assert name in {damage.file for damage in read_trial(record).damaged}


def test_harmed_texts_are_refused_by_name(record):
    path = record / "texts.parquet"
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(FolderError, match=r"texts\.parquet: a byte was changed"):
        summarise(record)


def test_every_file_of_an_archive_is_harmed_above_or_read_by_nobody(kept):
    others = {"plan.json", "protocol.toml", "texts.parquet", "report.json", "report.html", "endpoint.svg"}  # fmt: skip
    found = {
        path.relative_to(kept).as_posix()
        for path in kept.rglob("*")
        if path.is_file() and path.parent.name != "probes" and path.name != ".lock"
    }
    assert found == SEALED | others


def test_of_a_record_made_again_the_pages_stay_and_nothing_else(folder, record):
    expected = {
        path.relative_to(record): path.read_bytes() for path in record.rglob("*") if path.is_file()
    }
    (record / "CLAIM-01.md").write_text("a page")
    (record / "probes/old.parquet").write_bytes(b"")
    (record / "report.json").write_text("{}")
    assert recording.record(folder, record.parent) == record
    found = {
        path.relative_to(record): path.read_bytes() for path in record.rglob("*") if path.is_file()
    }
    assert found.pop(Path("CLAIM-01.md")) == b"a page"
    assert found == expected
    assert not list(record.parent.glob(".record*"))


def refused(folder: Path, root: Path) -> str:
    with pytest.raises(FolderError) as caught:
        recording.record(folder, root)
    assert not list(root.glob(".record*"))
    return str(caught.value)


def test_what_is_no_whole_trial_gets_no_record(folder, kept, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "runs" / folder.name)
    lines = (copy / RUN / "steps.jsonl").read_bytes().splitlines(keepends=True)
    (copy / RUN / "steps.jsonl").write_bytes(b"".join(lines[:-1]))
    (copy / RUN / "evaluations/step-000012.parquet").unlink()
    assert "1 of 10 runs are not finished" in refused(copy, tmp_path / "records")
    (copy / RUN / "steps.jsonl").write_bytes(b"".join(lines)[:-5])
    assert "steps.jsonl: line 12: is cut" in refused(copy, tmp_path / "records")
    assert "is a record already" in refused(kept, tmp_path / "records")
    assert not (tmp_path / "records" / folder.name).exists()


def test_a_folder_that_stands_in_a_records_place_is_left_alone(folder, tmp_path):
    (tmp_path / folder.name).mkdir()
    (tmp_path / folder.name / "plan.json").write_text("mine")
    assert "is no record of this kind" in refused(folder, tmp_path)
    assert (tmp_path / folder.name / "plan.json").read_text() == "mine"


def test_the_command_makes_a_record_of_which_report_makes_the_same_report(folder, tmp_path):
    done = CliRunner().invoke(app, ["record", str(folder), "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    record = tmp_path / folder.name
    assert f"record: {record} (" in done.stdout.replace("\n", "")
    before = {name: (record / name).read_bytes() for name in ("report.json", "report.html")}
    assert CliRunner().invoke(app, ["report", str(record)]).exit_code == 0
    assert before == {name: (record / name).read_bytes() for name in before}
    shown = CliRunner().invoke(app, ["show", str(record)])
    assert shown.exit_code == 2
    assert "open" in shown.output and "report.html" in shown.output


def test_the_commands_help_has_an_example_and_says_what_it_writes():
    said = " ".join(CliRunner().invoke(app, ["record", "--help"]).stdout.split())
    assert "Example: controlarm record" in said
    assert "Writes " in said


def test_an_archive_of_another_version_is_damage(record):
    facts = files.read_json(record / archive.MARK) | {"version": "archive-0"}
    files.write_json(record / archive.MARK, facts)
    (damage,) = read_trial(record).damaged
    assert damage.file == archive.MARK
    assert "'archive-0'" in damage.what


def test_what_an_archive_rounds_is_rounded_once():
    table = pa.table({"logprob": [0.1, -3.7e-5, None], "num_tokens": [1, 2, 3], "text": ["a", "b", None]})  # fmt: skip
    kept = archive.as_kept(table)
    assert archive.as_kept(kept).equals(kept)
    assert kept.schema.field("logprob").type == pa.float32()
    assert kept.drop_columns("logprob").equals(table.drop_columns("logprob"))
