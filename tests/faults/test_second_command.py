"""A run folder belongs to one command at a time, and to the workers of a killed one until they have ended."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlarm import files
from controlarm.cli import app
from tests.faults import command

HOLD = """
import sys, time
from pathlib import Path
from controlarm import files
with files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def held(folder):
    """Another process has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(command.ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("words", ["run", "report"])
def test_a_second_command_is_refused_and_changes_nothing(at_place, undisturbed, words):
    folder = undisturbed.folder
    before = command.contents(folder)
    given = command.arguments("undisturbed") if words == "run" else ["report", str(folder)]
    with held(folder) as other:
        result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    name = folder.relative_to(at_place) if words == "run" else folder
    assert result.stderr == (
        f"error: {name}: another controlarm command (process {other.pid}) is running on this folder; "
        "wait for it, or stop it\n"
    )
    assert command.contents(folder) == before


@pytest.mark.slow
def test_the_workers_of_a_killed_command_keep_the_folder_until_they_have_ended(place, tmp_path):
    fault = command.Fault("stage:update", 5, signal.SIGKILL, "parent")
    struck = command.strike(place, tmp_path / "runs", fault, tmp_path / "log")
    assert struck
    (folder,) = (tmp_path / "runs").iterdir()
    left = []
    with files.locked(folder):  # for two seconds they could not even notice
        for member in command.members(struck.session):
            with contextlib.suppress(OSError):
                left.append(Path(f"/proc/{member}/cmdline").read_bytes())
    assert not [words for words in left if b"spawn_main" in words]


def test_a_lock_that_a_dead_command_left_does_not_count(tmp_path):
    (tmp_path / ".lock").write_text("1")
    with files.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
