"""One trial that nobody disturbed, for all of them to be compared with."""

import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from tests.faults import command


class Undisturbed(NamedTuple):
    folder: Path
    seconds: float
    """What the command took."""


class Made(NamedTuple):
    place: Path
    seconds: float


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Made:
    """A trial that nobody disturbed, by one worker; of the processes that test at once the first makes it for all."""
    own = tmp_path_factory.mktemp("faults") / "place"
    shared = own if worker_id == "master" else tmp_path_factory.getbasetemp().parent / "undisturbed"
    with FileLock(f"{shared}.lock"):
        told = shared / "seconds"
        if not told.exists():
            command.make_place(shared)
            began = time.monotonic()
            command.whole(shared, "undisturbed", workers=1)
            told.write_text(str(time.monotonic() - began))
    if shared != own:
        shutil.copytree(shared, own)
    return Made(own, float(told.read_text()))


@pytest.fixture(scope="session")
def place(made: Made) -> Path:
    """A folder with a trial file and organisms."""
    return made.place


@pytest.fixture(scope="session")
def undisturbed(made: Made) -> Undisturbed:
    """What was killed and stopped is ended by two workers, and compared with this."""
    (folder,) = (made.place / "undisturbed").glob("small-*")
    return Undisturbed(folder, made.seconds)


@pytest.fixture
def at_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place
