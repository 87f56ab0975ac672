"""The real command in processes of its own: started, watched, struck at an instant, and what it leaves compared."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from controlarm import checkpoints, files
from controlarm.organisms import catalogue
from tests.small_trial import protocol_text

ROOT = Path(__file__).parents[2]
AGENT = Path(__file__).parent / "agent"

TWO_SHARDS = (
    protocol_text("")
    .replace("pretraining_seeds = [1]", "pretraining_seeds = [1, 2]")
    .replace("\nseeds = [1]", "\nseeds = [1, 2]")
)


def make_place(folder: Path, text: str = TWO_SHARDS) -> Path:
    """A folder with a trial file and the organisms that it needs, to run commands in."""
    (folder / "organisms").mkdir(parents=True)
    for name in ("coder-p1.safetensors", "coder-p2.safetensors"):
        shutil.copy(catalogue.SHIPPED / name, folder / "organisms")
    (folder / "trial.toml").write_text(text)
    return folder


class Fault(NamedTuple):
    """When to strike, and whom."""

    event: str
    """As tests/faults/agent describes; or ``after:<seconds>``, struck from outside."""
    nth: int
    number: signal.Signals
    whom: str
    """``parent``: the command itself, ``group``: it and its workers, ``worker``: the process in which the event is."""


class Struck(NamedTuple):
    """What became of a command that was struck."""

    stages: list[str]
    """Where the struck process was, or all of them."""
    code: int
    output: str
    seconds: float
    """From the strike until no process of the command was left; of a kill, which cannot end workers, 0."""
    session: int


def arguments(runs: Path | str, workers: int = 2) -> list[str]:
    return ["run", "trial.toml", "--runs", str(runs), "--workers", str(workers), "--device", "cpu"]


def finish(
    place: Path, words: list[str], prepare: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, undisturbed, until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "controlarm", *words], cwd=place, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=prepare, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def whole(place: Path, runs: Path | str, workers: int = 2) -> Path:
    """Run the trial to its end; returns the run folder."""
    done = finish(place, arguments(runs, workers))
    assert done.returncode == 0, done.stdout
    (folder,) = (place / runs).glob("small-*")
    return folder


def members(session: int) -> list[int]:
    """Processes of a session that are alive: not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def gone(session: int, since: float, patience: float = 60.0) -> float:
    """Seconds after ``since`` at which no process of a session was left."""
    while members(session):
        assert time.time() < since + patience, f"processes of session {session} are left"
        time.sleep(0.01)
    return time.time() - since


def strike(place: Path, runs: Path | str, fault: Fault, log: Path) -> Struck | None:
    """Run the trial with a fault; None when it ended before the fault's instant.

    Whom the strike leaves alive is left alone: the next command may start beside the workers of a killed one.
    """
    log.mkdir(parents=True)
    env = {"PYTHONPATH": f"{AGENT}{os.pathsep}{ROOT}", "FAULT_LOG": str(log)}
    if not fault.event.startswith("after:"):
        env["FAULT"] = f"{fault.event} {fault.nth} {int(fault.number)} {fault.whom}"
    with (log / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlarm", *arguments(runs)], cwd=place, env=os.environ | env,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
        )  # fmt: skip
    try:
        if fault.event.startswith("after:"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(float(fault.event.removeprefix("after:")))
                return None
            seen = {int(p.name): p.read_text().strip() for p in log.iterdir() if p.name.isdigit()}
            began = time.time()
            (os.killpg if fault.whom == "group" else os.kill)(process.pid, fault.number)
            own = seen.get(process.pid, "start of the interpreter")
            workers = [seen[pid] for pid in seen.keys() - {process.pid}]
            stages = workers if fault.whom == "group" and own == "waiting for workers" else [own]
        else:
            process.wait(300)
            if not (log / "struck").exists():
                return None
            when, _, stage = (log / "struck").read_text().splitlines()[0].split(" ", 2)
            began, stages = float(when), [stage]
        code = process.wait(60)
        seconds = gone(process.pid, began) if fault.number != signal.SIGKILL else 0.0
        return Struck(stages, code, (log / "output").read_text(), seconds, process.pid)
    except BaseException:
        for member in [process.pid, *members(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()
        raise


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but those that may differ between two equal trials."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "times.jsonl")
    }


def differences(folder: Path, other: Path) -> list[str]:
    """Files that only one of two run folders has, or that differ."""
    one, two = contents(folder), contents(other)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def assert_nothing_is_half_written(folder: Path) -> None:
    """Whatever has its final name is what was written; only the last line of a journal may be torn."""
    for path in folder.rglob("*"):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".safetensors":
            checkpoints.read(path)
        elif path.suffix in (".parquet", ".json") and path.name != "report.json":
            files.check(path)
        elif path.name == "report.json":
            json.loads(path.read_bytes())
        elif path.name == "report.html":
            assert path.read_bytes().rstrip().endswith(b"</html>")
        elif path.name == "steps.jsonl":
            for line in path.read_bytes().split(b"\n")[:-1]:
                assert files.intact(line), path
