"""A full disk is an error that names the file; nothing is half-written, and with room the trial ends as if nothing had been."""

import contextlib
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import command


@contextlib.contextmanager
def disk(folder: Path, size: str):
    """A small disk of its own."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = subprocess.run(options, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def full(place: Path, runs: Path) -> str:
    """What a command says that has no room; what it leaves is whole."""
    done = command.finish(place, command.arguments(runs))
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    assert "run the same command again" in done.stdout
    for folder in runs.glob("small-*"):
        command.assert_nothing_is_half_written(folder)
        assert not list(folder.rglob(".*.partial"))
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_names_the_file_and_with_room_the_trial_ends_with_the_same_bytes(
    place, undisturbed, tmp_path
):
    runs = tmp_path / "disk"
    with disk(runs, "12k"):
        said = full(place, runs)
        assert "error: " in said and "No space left on device" in said and f"{runs}/small-" in said
        grow(runs, "12m")
        assert "safetensors: No space left on device" in full(place, runs)
        grow(runs, "64m")
        assert command.differences(command.whole(place, runs), undisturbed.folder) == []


def test_a_file_that_may_not_grow_is_named_and_what_was_there_stays(undisturbed, place, tmp_path):
    folder = Path(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    before = command.contents(folder)
    done = command.finish(place, ["report", str(folder)], small_files)
    assert done.returncode == 2
    assert f"error: {folder / 'report.html'}: File too large" in done.stdout
    assert command.contents(folder) == before
