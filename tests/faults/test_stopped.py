"""Ctrl-C and SIGTERM: within two seconds nothing of the command is left, and it says how to go on."""

import shutil
from signal import SIGINT, SIGTERM

import pytest

from controlarm import trial
from tests.faults import command
from tests.faults.command import Fault, strike

STOPS = [
    Fault("stage:labels", 1, SIGTERM, "parent"),
    Fault("stage:update", 5, SIGINT, "group"),
    Fault("stage:analysis", 5, SIGTERM, "parent"),
    Fault("rename:report.html", 1, SIGINT, "parent"),
]


def assert_stopped(struck: command.Struck | None, fault: Fault) -> None:
    assert struck is not None, f"it ended before {fault.event}"
    assert struck.code == 128 + fault.number, struck.output
    assert struck.output.endswith("stopped; run the same command to continue\n")
    assert "Traceback" not in struck.output
    assert struck.seconds < 10, "of the whole tree"


@pytest.mark.slow
def test_a_stop_in_any_stage_is_clean_and_the_same_command_continues(place, undisturbed):
    for number, fault in enumerate(STOPS):
        assert_stopped(strike(place, "stopped", fault, place / f"stop-{number}"), fault)
        for folder in (place / "stopped").glob("small-*"):
            command.assert_nothing_is_half_written(folder)
            assert not list(folder.rglob(".*.partial")), "nor under another name"
    folder = command.whole(place, "stopped")
    assert command.differences(folder, undisturbed.folder) == []
    shutil.rmtree(place / "stopped")


def test_a_stop_while_the_command_imports_is_clean(place, tmp_path):
    for seconds in (0.3, 1, 3, 9):
        fault = Fault(f"after:{seconds}", 1, SIGTERM, "parent")
        struck = strike(place, tmp_path, fault, tmp_path / f"log-{seconds}")
        if struck is None or struck.stages != ["start of the interpreter"]:
            break  # else not a line of ours had run yet: the machine is busy
    assert_stopped(struck, fault)


def test_a_stop_while_its_workers_import_is_clean(place, tmp_path):
    fault = Fault("stage:import", 400, SIGINT, "group")
    assert_stopped(strike(place, tmp_path, fault, tmp_path / "log"), fault)


@pytest.mark.slow
@pytest.mark.skipif(not trial.has_compiler(), reason="there is no C++ compiler")
def test_a_stop_while_workers_compile_takes_the_compilers_along(tmp_path, monkeypatch):
    steps = command.TWO_SHARDS.replace("num_steps = 3", "num_steps = 3000")
    steps = steps.replace("[0, 2, 3]", "[0, 3000]").replace("\nstep = 3\n", "\nstep = 3000\n")
    place = command.make_place(tmp_path / "place", steps)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    compiler = tmp_path / "slow-compiler"
    compiler.write_text('#!/bin/sh\nsleep 20\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    fault = Fault("start:slow-compiler", 1, SIGTERM, "parent")
    assert_stopped(strike(place, "runs", fault, tmp_path / "log"), fault)
