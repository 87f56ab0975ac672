"""Trackers hold what the files say, once, whenever and however often it is sent: read back with each tracker's own reader."""

import json
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from controlarm.cli import app, watching
from controlarm.trackers import TRACKERS, Export, points
from controlarm.watch import Watcher
from tests.fabricate import fabricate
from tests.test_watch import SMALL, grow

pytestmark = pytest.mark.filterwarnings("ignore")  # the trackers' own

TINY = (
    SMALL.replace('families = ["coder", "talker"]', 'families = ["coder"]')
    .replace("pretraining_seeds = [1, 2]\nseeds = [1, 2]", "pretraining_seeds = [1]\nseeds = [1]")
    .replace('  {family = "talker", arm = "ground_truth"},\n', "").partition("[[controls]]")[0]
    .replace("python = {}\n", "").replace("constant = {}\n", "")
    .replace('  {family = "coder", arm = "python"},\n', "")
) + "[logging]\nrollouts_every = 6\n"  # fmt: skip

Held = dict[str, dict[int, dict[str, float]]]
"""Run → step → name → value."""


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trial"
    fabricate(folder, TINY)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where a tracker's files go; trackio is imported afresh, since it reads that once."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(out))
    for name in [n for n in sys.modules if n.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    return out


def watched(folder: Path) -> Watcher:
    watcher = Watcher(folder)
    watcher.look(time.time())
    return watcher


def expected(folder: Path) -> Held:
    watcher = watched(folder)
    return {
        run.spec.path: {s: dict(v) for s, v in points(watcher, run, -1)} for run in watcher.runs
    }


def add(held: Held, run: str, step: int, values: dict[str, float]) -> None:
    """A point that is there twice fails."""
    steps = held.setdefault(run, {})
    assert not steps.get(step, {}).keys() & values.keys(), f"{run} has step {step} twice"
    steps.setdefault(step, {}).update(values)


def of_tensorboard(out: Path, project: str) -> Held:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    held: Held = {}
    for path in sorted((out / project).rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value  # fmt: skip
                run = str(path.parent.relative_to(out / project))
                add(held, run, event.step, {value.tag: number})
    return held


def wandb_records(path: Path) -> Iterator[bytes]:
    """Records of a run file that is not synchronised: LevelDB's log format behind seven bytes of W&B's."""
    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (room := -at % 32_768) < 7:  # a header never crosses the end of a block
            at += room
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def of_wandb(out: Path, project: str) -> Held:
    from wandb.proto import wandb_internal_pb2

    proto: Any = wandb_internal_pb2
    held: Held = {}
    for path in sorted(out.glob("wandb/offline-run-*/*.wandb")):
        run = ""
        for content in wandb_records(path):
            record = proto.Record()
            record.ParseFromString(content)
            if record.HasField("run") and record.run.display_name:
                run = record.run.display_name
                assert record.run.project == project
            if record.HasField("history"):
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}  # fmt: skip
                step = int(row.get("_step", record.history.step.num))
                values = {k: v for k, v in row.items() if not k.startswith("_")}
                add(held, run, step, values)
    return held


def of_trackio(out: Path, project: str) -> Held:
    from trackio.sqlite_storage import SQLiteStorage

    held: Held = {}
    for record in SQLiteStorage.get_run_records(project):
        run = str(record["name"])
        for row in SQLiteStorage.get_logs(project, run=run):
            add(held, run, row["step"], {k: v for k, v in row.items() if "/" in k})
    return held


READERS: dict[str, Callable[[Path, str], Held]] = {
    "tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio,
}  # fmt: skip


def assert_same(found: Held, wanted: Held) -> None:
    """To float32, which TensorBoard keeps."""
    assert {run: sorted(steps) for run, steps in found.items()} == {r: sorted(s) for r, s in wanted.items()}  # fmt: skip
    for run, steps in wanted.items():
        for step, values in steps.items():
            assert found[run][step].keys() == values.keys()
            for name, value in values.items():
                assert found[run][step][name] == pytest.approx(value, rel=1e-6), (run, step, name)


def test_every_tracker_is_read_back():
    assert READERS.keys() == TRACKERS.keys()


@pytest.mark.parametrize(
    "tracker", ["tensorboard", pytest.param("wandb", marks=pytest.mark.slow), "trackio"]
)
def test_a_tracker_holds_what_the_files_say_once(trial, tmp_path, place, tracker):
    """Sent while the trial grows, each time by a process that knows nothing of the one before, then twice at the end."""
    pytest.importorskip(tracker)
    folder = tmp_path / "trial"
    stages = grow(trial, folder)
    for path, content in (file for stage in stages[:8] for file in stage):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    project = f"fabricated-{watched(folder).plan['digest'][:8]}"
    sent = 0
    for again in range(4):
        if again == 2:
            for path, content in (file for stage in stages[8:] for file in stage):
                path.write_bytes(content)
        export = Export(watched(folder), tracker, place)
        new = export.send()
        export.close()
        sent += new
        assert (new == 0) == (again % 2 == 1)
        assert export.complete == (again >= 2)
        assert_same(READERS[tracker](place, project), expected(folder))
    assert sent == sum(len(steps) for steps in expected(folder).values()) == 2 * 13


def test_a_point_is_a_step_with_all_that_is_known_of_it(trial):
    watcher = watched(trial)
    rows = dict(points(watcher, watcher.runs[0], -1))
    assert sorted(rows) == list(range(13))
    assert all(name.startswith("held_out/") for name in rows[0])
    assert {"train/reward", "held_out/accuracy"} <= rows[6].keys()
    assert "train/value_loss" not in rows[6] and "train/step" not in rows[6]  # null, and the key
    assert all(np.isfinite(value) for row in rows.values() for value in row.values())
    assert sorted(dict(points(watcher, watcher.runs[0], 9))) == [10, 11, 12]


def test_the_last_step_waits_for_its_evaluation(trial, tmp_path):
    """A point is written once, so half of one would stay half."""
    folder = tmp_path / "trial"
    for path, content in (file for stage in grow(trial, folder)[:8] for file in stage):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    watcher = watched(folder)
    run = watcher.runs[0]
    evaluation = folder / run.spec.path / "evaluations" / "step-000006.parquet"
    content = evaluation.read_bytes()
    evaluation.unlink()
    watcher.look(time.time())
    assert [step for step, _ in points(watcher, run, -1)] == [0, 1, 2, 3, 4, 5]
    evaluation.write_bytes(content[:-9])  # one that is damaged is not waited for
    watcher.look(time.time())
    assert [step for step, _ in points(watcher, run, -1)] == [0, 1, 2, 3, 4, 5, 6]
    evaluation.write_bytes(content)
    watcher.look(time.time())
    assert "held_out/accuracy" in dict(points(watcher, run, 5))[6]


def test_following_ends_with_the_trial(trial, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(watching, "FOLLOW_EVERY", 0.05)
    folder, out = tmp_path / "trial", tmp_path / "out"
    folder.mkdir()

    def train() -> None:
        for stage in grow(trial, folder):
            time.sleep(0.1)
            for path, content in stage:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(
                    f".{path.name}.partial"
                )  # a reader sees all of it or nothing
                partial.write_bytes(content)
                partial.replace(path)

    trainer = threading.Thread(target=train)
    trainer.start()
    words = ["export-metrics", str(folder), "--to", "tensorboard", "--out", str(out), "--follow"]
    done = CliRunner().invoke(app, words)
    trainer.join()
    assert done.exit_code == 0 and "26 points of 2 runs sent to tensorboard" in done.stdout
    (project,) = out.iterdir()
    assert_same(of_tensorboard(out, project.name), expected(trial))


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named(trial, tmp_path, monkeypatch, tracker):
    for name in [n for n in sys.modules if n.partition(".")[0] == tracker]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tracker, None)
    words = ["export-metrics", str(trial), "--to", tracker, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"pip install 'controlarm[{tracker}]'" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
