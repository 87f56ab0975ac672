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


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with a trial file, organisms and the trial that nobody disturbed; of the processes that test at once the first makes it for all."""
    own = tmp_path_factory.mktemp("faults") / "place"
    shared = own if worker_id == "master" else tmp_path_factory.getbasetemp().parent / "undisturbed"
    with FileLock(f"{shared}.lock"):
        if not (shared / "seconds").exists():
            command.make_place(shared)
            began = time.monotonic()
            command.whole(shared, "undisturbed", workers=1)
            (shared / "seconds").write_text(str(time.monotonic() - began))
    return own if shared == own else shutil.copytree(shared, own)


@pytest.fixture(scope="session")
def undisturbed(place: Path) -> Undisturbed:
    """By one worker; what was killed and stopped is ended by two, and compared with this."""
    (folder,) = (place / "undisturbed").glob("small-*")
    return Undisturbed(folder, float((place / "seconds").read_text()))


@pytest.fixture
def at_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place
