"""Stopped anywhere is never stopped: real processes, killed, end with the bytes of a trial that nobody disturbed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_trial import Small, prepare, protocol_text

from controlarm import files, seeds, trial
from controlarm.engines import lockstep
from controlarm.files import BusyError, DamagedFileError
from controlarm.organisms import catalogue

ROOT = Path(__file__).parent.parent
ONE_SHARD = protocol_text("")
TWO_SHARDS = protocol_text(
    "[arms.format]\n[arms.constant]",
    design='pairing = "crossed"',
).replace("pretraining_seeds = [1]", "pretraining_seeds = [1, 2]")

COMMAND = """
import sys
from pathlib import Path
from controlarm import files, trial

def show(report):
    print(report["stage"], report.get("step"), flush=True)

if __name__ == "__main__":
    prepared = trial.prepare(Path("trial.toml"), Path(sys.argv[1]), "cpu")
    with files.locked(prepared.folder) as lock:
        trial.run(prepared, trial.unfinished(prepared), int(sys.argv[2]), show, lock)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with organisms, a trial and a command that runs it."""
    folder = tmp_path_factory.mktemp("resume")
    for name in ("coder-p1.safetensors", "coder-p2.safetensors"):
        (folder / "organisms").mkdir(exist_ok=True)
        shutil.copy(catalogue.SHIPPED / name, folder / "organisms")
    (folder / "trial.toml").write_text(TWO_SHARDS)
    (folder / "command.py").write_text(COMMAND)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@contextlib.contextmanager
def started(place, runs, workers):
    """The command in a process group of its own; nothing of it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "command.py", runs, str(workers)],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(process, stage):
    """Read what the command says up to a stage; returns what was read."""
    said = []
    for text in process.stdout:
        said.append(text.split())
        if said[-1][0] == stage:
            return said
    raise AssertionError(f"the command ended before {stage!r}: {said}")


def members(group):
    """Processes of a group that are alive: not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def ends(group, seconds):
    """Whether a group is gone within some seconds."""
    deadline = time.monotonic() + seconds
    while members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def contents(folder):
    """Every file but those that may differ between two equal trials."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "times.jsonl")
    }


def assert_same_files(folder, other):
    one, two = contents(folder), contents(other)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def only(folder):
    (found,) = folder.iterdir()
    return found


@pytest.mark.slow
def test_killed_at_any_instant_the_same_command_ends_with_the_same_bytes(place):
    undisturbed = prepare(place / "undisturbed", TWO_SHARDS).train()
    rng = seeds.generator("tests", "kill")
    # Labels and base evaluation, training, evaluation and commit: then some random moment later, everything at once.
    for stage in ("labelled", "trained", "evaluated"):
        with started(place, "killed", 2) as process:
            until(process, stage)
            time.sleep(rng.uniform(0, 0.4))
            os.killpg(process.pid, signal.SIGKILL)
    # The parent alone, before its workers have even begun: they must not train beside the next command.
    with started(place, "killed", 2) as process:
        while len(members(process.pid)) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert ends(process.pid, 60), "workers begin, find nobody, and end"
    # The parent alone, while they train.
    with started(place, "killed", 2) as process:
        until(process, "trained")
        process.kill()
        process.wait()
        assert ends(process.pid, 5), "within two seconds, on a machine with nothing else to do"
    with started(place, "killed", 2) as process:
        until(process, "done")
    assert_same_files(only(place / "killed"), undisturbed.folder)


@pytest.fixture(scope="module")
def whole(place) -> Small:
    """One shard, undisturbed, in this process."""
    return prepare(place / "whole", ONE_SHARD).train()


class StopError(Exception):
    """Stands for a crash at a report."""


def test_stopping_at_every_report_in_turn_changes_no_byte(place, whole):
    stopped = prepare(place / "stopped", ONE_SHARD)
    seen = set()

    def stop_once(report):
        where = report["stage"], report["step"]
        if where not in seen:
            seen.add(where)
            raise StopError

    while True:
        with contextlib.suppress(StopError):
            lockstep.run_shard(stopped.plan, 0, stop_once)
            break
    assert len(seen) == 7, "labels, base, three steps, two evaluations"
    assert_same_files(stopped.folder, whole.folder)
    lockstep.run_shard(stopped.plan, 0, stop_once)
    assert_same_files(stopped.folder, whole.folder)


def test_a_second_command_on_the_same_folder_is_refused(place):
    prepared = trial.prepare(Path("trial.toml"), Path("locked"), "cpu")
    before = contents(prepared.folder)
    with (
        files.locked(prepared.folder),
        pytest.raises(BusyError, match="another controlarm command"),
    ):
        trial.prepare(Path("trial.toml"), Path("locked"), "cpu")
    assert contents(prepared.folder) == before


@pytest.fixture(scope="module")
def half(place) -> Small:
    """A trial that stopped after its first commit, at step 2."""
    small = prepare(place / "half", ONE_SHARD)

    def stop(report):
        if (report["stage"], report["step"]) == ("trained", 3):
            raise StopError

    with contextlib.suppress(StopError):
        lockstep.run_shard(small.plan, 0, stop)
    return small


@contextlib.contextmanager
def flipped_byte(path, place):
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[place] ^= 4
    path.write_bytes(damaged)
    try:
        yield
        assert path.read_bytes() == damaged, "a damaged file stays as it was found"
    finally:
        path.write_bytes(content)


def test_a_flipped_byte_in_what_resume_needs_is_named_and_once_restored_the_trial_goes_on(
    half, whole
):
    shard, journal = "shards/000.safetensors", "coder/placebo/grpo-p1-s1/steps.jsonl"
    for name, place in ((shard, 100), (shard, -100), (journal, 100)):
        with (
            flipped_byte(half.folder / name, place),
            pytest.raises(DamagedFileError, match=name.replace(".", r"\.")),
        ):
            lockstep.run_shard(half.plan, 0, lambda report: None)
    half.train()
    assert_same_files(half.folder, whole.folder)


def test_a_flipped_byte_in_an_organism_is_an_error_that_names_the_file(whole, place):
    path = place / "organisms" / "coder-p1.safetensors"
    with (
        flipped_byte(path, -1000),
        pytest.raises(DamagedFileError, match=r"coder-p1\.safetensors"),
    ):
        lockstep.run_shard(whole.plan, 0, lambda report: None)
    with flipped_byte(path, -1000), pytest.raises(ValueError, match=r"coder-p1\.safetensors"):
        trial.prepare(place / "trial.toml", place / "other", "cpu")
    assert not (place / "other").exists()


def test_a_plan_of_another_digest_is_refused(place):
    prepared = trial.prepare(Path("trial.toml"), Path("foreign"), "cpu")
    path = prepared.folder / "plan.json"
    files.write_json(path, prepared.plan | {"digest": "0" * 64})
    with pytest.raises(DamagedFileError, match=r"plan\.json.*another --runs folder"):
        trial.prepare(Path("trial.toml"), Path("foreign"), "cpu")
