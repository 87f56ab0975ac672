"""One trial that nobody disturbed, for all of them to be compared with."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults import command


class Undisturbed(NamedTuple):
    folder: Path
    seconds: float
    """What the command took."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trial file and organisms."""
    return command.make_place(tmp_path_factory.mktemp("faults") / "place")


@pytest.fixture(scope="session")
def undisturbed(place: Path) -> Undisturbed:
    """By one worker; what was killed and stopped is ended by two."""
    began = time.monotonic()
    return Undisturbed(command.whole(place, "undisturbed", workers=1), time.monotonic() - began)


@pytest.fixture
def at_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place
