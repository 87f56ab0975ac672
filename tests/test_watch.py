"""A folder is watched as it grows: what a look adds up to is what the files say, nothing is written, and alarms mean what they say."""

import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlarm import files, journal, watch
from controlarm import protocol as protocols
from controlarm.analysis import tables
from controlarm.analysis.folder import JOURNAL, FolderError, JournalLines, read_trial
from controlarm.protocol import ProtocolError, RunSpec
from controlarm.watch import alarms as alarming
from controlarm.watch.alarms import ALARMS, WINDOW, Alarm, alarms
from controlarm.watch.page import PARTS, Sight
from controlarm.watch.reader import CUT_AFTER, Tail, Watched, Watcher
from tests.fabricate import PROTOCOL, fabricate

RECORDS = Path(__file__).parent.parent / "records"
SMALL = (
    PROTOCOL.replace('families = ["coder", "talker", "bungler"]', 'families = ["coder", "talker"]')
    .replace("pretraining_seeds = [1, 2, 3]\nseeds = [1, 2, 3]", "pretraining_seeds = [1, 2]\nseeds = [1, 2]")
    .replace("num_problems = 40", "num_problems = 8").replace("num_problems = 24", "num_problems = 4")
    .replace('  {family = "bungler", arm = "ground_truth"},\n', "").replace("majority = {}\n", "")
)  # fmt: skip
SMALL = "".join(part for part in re.split(r"(?=\[\[controls\]\]|\[logging\])", SMALL) if "bungler" not in part or "[logging]" in part)  # fmt: skip
NOW = 2e9


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trial"
    fabricate(folder, SMALL)
    return folder


@pytest.fixture
def copy(trial, tmp_path) -> Path:
    return shutil.copytree(trial, tmp_path / "trial")


def seen(folder: Path) -> Watcher:
    watcher = Watcher(folder)
    watcher.look(NOW)
    return watcher


def known(watcher: Watcher) -> str:
    """Everything that a watcher knows of the runs; as text, in which a missing number equals another."""
    runs = [
        (run.spec, {k: v.tolist() for k, v in run.journal.items()}, run.evaluated, run.failure, sorted(run.rollouts))
        for run in watcher.runs
    ]  # fmt: skip
    return repr((runs, watcher.damaged))


def run_of(folder: Path, place: int = 0) -> Path:
    return folder / RunSpec(**files.read_json(folder / "plan.json")["runs"][place]).path


# The reader.


def test_what_is_watched_is_what_the_report_reads(trial):
    watcher, whole = seen(trial), read_trial(trial)
    assert watcher.damaged == [] and len(watcher.runs) == len(whole.runs) == 16
    most = 60
    for run, read in zip(watcher.runs, whole.runs, strict=True):
        assert run.evaluated == {s: tables.evaluated(e) for s, e in read.evaluations.items()}
        assert tables.training_rows(run.as_run(), most) == tables.training_rows(read, most)
        assert run.state(whole.protocol) == read.state == "finished"


@settings(max_examples=40)
@given(looks=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), max_size=12))
def test_a_journal_in_pieces_is_the_journal(looks, trial, tmp_path_factory):
    """Appended in any pieces, cut back anywhere and written on, it says what it would say read at once."""
    content = (run_of(trial) / "steps.jsonl").read_bytes()
    path = tmp_path_factory.mktemp("tail") / "steps.jsonl"
    tail, lines = Tail(path), JournalLines(12)
    for share, clock in [*looks, (1.0, 4)]:
        length = round(share * len(content))
        path.write_bytes(content[:length])
        os.utime(path, ns=(0, clock))
        void, new = tail.advance()
        lines = JournalLines(12) if void else lines
        for line in new:
            lines.feed(line)
        assert lines.num_lines == content[:length].count(b"\n")
    assert lines.complaints() == [] and tail.rest == b""
    whole = JournalLines(12)
    for line in content.splitlines():
        whole.feed(line)
    for name in JOURNAL:
        np.testing.assert_array_equal(lines.columns[name], whole.columns[name])


def test_a_journal_that_was_made_again_is_read_again(copy):
    watcher, path = seen(copy), run_of(copy) / "steps.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    for row in rows[6:]:
        row["reward"] = 0.125
    path.write_bytes(
        b"".join(journal.line({k: v for k, v in r.items() if k != "seal"}) for r in rows)
    )
    assert watcher.look(NOW)
    assert watcher.runs[0].journal["reward"][6:].tolist() == [0.125] * 6
    assert watcher.damaged == []


def grow(source: Path, target: Path) -> list[list[tuple[Path, bytes]]]:
    """What a run folder's files are, in the order in which a trial makes them: the plan, then step by step."""
    stages: list[list[tuple[Path, bytes]]] = [[]]
    names = ("protocol.toml", "environment.json", "problems.parquet", "plan.json")
    stages[0] = [(target / name, (source / name).read_bytes()) for name in names]
    for step in range(13):
        stage = []
        for path in sorted(source.rglob(f"*/step-{step:06d}.parquet")):
            stage.append((target / path.relative_to(source), path.read_bytes()))
        for path in sorted(source.rglob("steps.jsonl")):
            content = b"".join(path.read_bytes().splitlines(keepends=True)[:step])
            stage.append((target / path.relative_to(source), content))
        stages.append(stage)
    return stages


def test_looking_often_and_looking_once_find_the_same(trial, tmp_path):
    folder = tmp_path / "grown"
    folder.mkdir()
    watcher = Watcher(folder)  # a folder that is still empty
    assert not watcher.look(NOW) and watcher.protocol is None
    sight = Sight(watcher)
    for number, stage in enumerate(grow(trial, folder)):
        for path, content in stage:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        assert watcher.look(NOW)
        if number in (0, 4):
            assert all(part.build(sight) is not None for part in PARTS)
    assert not watcher.look(NOW)
    assert known(watcher) == known(seen(trial))
    assert watch.export(folder, NOW) == watch.export(trial, NOW)


def test_watching_writes_nothing_and_holds_nothing(copy):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.rglob("*") if p.is_file()}
    folders = {p: p.stat().st_mtime_ns for p in (copy, *copy.rglob("*")) if p.is_dir()}
    watcher = seen(copy)
    watch.export(copy, NOW)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.rglob("*") if p.is_file()} == before  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in (copy, *copy.rglob("*")) if p.is_dir()} == folders
    with files.locked(copy):  # nobody is in its way, and it is in nobody's
        watcher.look(NOW)
        watch.export(copy, NOW)
    with (copy / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_line_without_its_end_waits_and_is_named_once_nobody_writes(copy):
    path = run_of(copy) / "steps.jsonl"
    content = path.read_bytes()
    cut = content.rindex(b"\n", 0, -1) + 100
    path.write_bytes(content[:cut])
    watcher = Watcher(copy)
    watcher.look(path.stat().st_mtime)
    assert watcher.damaged == [] and watcher.runs[0].step == 11
    watcher.look(path.stat().st_mtime + CUT_AFTER + 1)
    assert [d.what for d in watcher.damaged] == ["line 12: is cut"]
    with path.open("ab") as file:
        file.write(content[cut:])
    watcher.look(path.stat().st_mtime)
    assert watcher.damaged == [] and watcher.runs[0].step == 12


@pytest.mark.parametrize(
    "file", ["steps.jsonl", "evaluations/step-000006.parquet", "rollouts/step-000012.parquet", "../../../problems.parquet"]
)  # fmt: skip
def test_a_changed_byte_is_named_and_the_rest_is_shown(copy, file):
    path = (run_of(copy) / file).resolve()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    page = watch.export(copy, NOW)
    assert str(path.relative_to(copy)) in page
    assert page.count("<svg") > 20


def test_a_failed_run_is_named_with_its_reason(copy):
    files.write_json(run_of(copy) / "failed.json", {"step": 7, "reason": "the gradient is not finite"})  # fmt: skip
    assert "at step 7: the gradient is not finite" in watch.export(copy, NOW)


def test_what_is_no_run_folder_is_refused(tmp_path, copy):
    with pytest.raises(FileNotFoundError):
        Watcher(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="no run folder"):
        Watcher(tmp_path / "other")
    (copy / "protocol.toml").write_text("[trial")
    with pytest.raises(ProtocolError):
        Watcher(copy)


def test_a_record_is_shown_and_says_what_it_lacks():
    page = watch.export(RECORDS / "crosscheck_trl-6564f224", NOW)
    assert "24 of 24 runs finished" in page and "a record keeps none of training" in page
    assert page.count("<svg") > 20


# The time that is left.


def reports(folder: Path, workers: int, seconds: float, until: float) -> None:
    """A ``times.jsonl`` of two shards at step 6 of 12, by so many workers, and lines that are none."""
    plan = files.read_json(folder / "plan.json")
    half = len(plan["runs"]) // 2
    plan["shards"] = [list(range(half)), list(range(half, 2 * half))]
    files.write_json(folder / "plan.json", plan)
    rows = []
    for step in range(1, 7):
        for shard in (0, 1):
            ends = until - (6 - step) * seconds if workers == 2 else until - (12 - 2 * step + 1 - shard) * seconds  # fmt: skip
            rows.append(
                {"stage": "trained", "shard": shard, "step": step, "seconds": seconds, "time": ends}
            )
    text = "\n".join(json.dumps(row) for row in rows)
    junk = (
        '\n[]\n{"stage": "trained", "shard": 99}\n{"stage": ["x"], "time": NaN}\nnot json\n'
        + "[" * 5000
    )
    (folder / "times.jsonl").write_text(text + junk + "\n")


@pytest.mark.parametrize(("workers", "left"), [(2, 60.0), (1, 120.0)])
def test_what_is_left_follows_from_steps_and_workers(copy, workers, left):
    """Six steps of two shards, ten seconds each: by two workers a minute, by one two."""
    reports(copy, workers, 10.0, NOW)
    watcher = seen(copy)
    assert watcher.progress is not None
    assert (watcher.progress.workers, watcher.progress.remaining()) == (workers, left)


def test_a_trial_that_is_silent_is_quiet_and_not_late(copy):
    for run in copy.glob("*/*/*/steps.jsonl"):
        run.write_bytes(b"".join(run.read_bytes().splitlines(keepends=True)[:6]))
    reports(copy, 2, 10.0, NOW)
    assert "about 1 min 00 s left with 2 workers" in watch.export(copy, NOW + 1)
    assert "quiet for 2 h" in watch.export(copy, NOW + 7300)


# Alarms.


def sound(num_steps: int = 20) -> dict[str, np.ndarray]:
    """A journal in which nothing is wrong."""
    columns = {name: np.full(num_steps, 0.01) for name in JOURNAL}
    columns |= {"step": np.arange(1.0, num_steps + 1), "reward_sd": np.full(num_steps, 0.5)}
    columns |= {"equal_groups": np.full(num_steps, 0.4), "reward_failures": np.zeros(num_steps)}
    return columns


FAULTS = {
    "constant_reward": {"reward_sd": 0.0, "equal_groups": 1.0},
    "equal_groups": {"equal_groups": 1.0},
    "truncation": {"truncated_share": alarming.TRUNCATED},
    "sampler_gap": {"sampler_gap_mean": alarming.SAMPLER_GAP},
    "failing_reward": {"reward_failures": 1.0},
}
SPEC = RunSpec(family="coder", pretraining_seed=1, recipe="grpo", arm="ground_truth", seed=1)


PLANNED = protocols.parse(SMALL)


def raised(columns: dict[str, np.ndarray], spec: RunSpec = SPEC) -> list[Alarm]:
    return alarms(PLANNED, [Watched(spec=spec, journal=columns)])


def test_every_alarm_has_a_fault_that_raises_it():
    assert FAULTS.keys() == ALARMS.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_raises_its_alarm_and_no_other(name):
    """It stands from step 9 to 16; shorter than a window it raises none, but for a failure, which is none too few."""
    columns = sound()
    for column, value in FAULTS[name].items():
        columns[column][8:16] = value
    (found,) = raised(columns)
    begins = 9 if name == "failing_reward" else 8 + WINDOW
    lasts = 15 + WINDOW if name == "failing_reward" else 16
    assert (found.name, found.num_runs, found.of, found.first) == (name, 1, 1, begins)
    assert found.num_on == (lasts == 20)
    if name != "truncation" and name != "sampler_gap":  # means go down by and by
        assert found.last == lasts
    brief = sound()
    for column, value in FAULTS[name].items():
        brief[column][8 : 8 + WINDOW - 1] = value
    assert bool(raised(brief)) == (name == "failing_reward")


def test_a_sound_journal_raises_no_alarm():
    assert raised(sound()) == []
    assert raised({name: values[:1] for name, values in sound().items()}) == []
    nothing = {name: np.full(20, np.nan) for name in JOURNAL} | {"step": np.arange(1.0, 21)}
    assert raised(nothing) == []


def test_equal_rewards_are_no_news_where_they_are_meant():
    """The constant arm, and an arm that a control expects to leave the weights unchanged."""
    columns = sound()
    columns["reward_sd"][:], columns["equal_groups"][:] = 0.0, 1.0
    for family, arm, expected in (
        ("coder", "constant", []), ("talker", "constant", []), ("talker", "python", []),
        ("coder", "python", ["constant_reward"]), ("coder", "random", ["constant_reward"]),
    ):  # fmt: skip
        found = raised(columns, SPEC._replace(family=family, arm=arm))
        assert [alarm.name for alarm in found] == expected


def test_trials_that_went_well_raise_no_alarm():
    """The same trial under two engines."""
    for name in ("crosscheck_lockstep-f8e468d0", "crosscheck_trl-6564f224"):
        watcher = seen(RECORDS / name)
        assert watcher.protocol is not None
        assert alarms(watcher.protocol, watcher.runs) == []
