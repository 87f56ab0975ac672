"""Commits on a folder and on an object store: whole or none, the farthest first, nobody in another's way."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlarm.depot import AREA, Commit, Committer, Depot, state_path
from controlarm.files import DamagedFileError
from tests.depots import object_store

RUN = "coder/placebo/grpo-p1-s1"
counter = itertools.count()


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture(params=["folder", "objects"])
def depot(request, tmp_path) -> Depot:
    if request.param == "folder":
        return Depot(str(tmp_path / "depot"))
    return Depot(f"{request.getfixturevalue('store')}/{next(counter)}")


def working_copy(folder: Path, step: int, lines: int = 5, label: str = "four") -> Path:
    for path, text in {
        state_path(0): f"state {step}",
        f"{RUN}/steps.jsonl": "line\n" * lines,
        f"{RUN}/evaluations/step-000000.parquet": "base",
        "labels/coder-p1.parquet": label,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


KEPT = {
    state_path(0): None, f"{RUN}/steps.jsonl": 10, f"{RUN}/evaluations/step-000000.parquet": None,
    "labels/coder-p1.parquet": None,
}  # fmt: skip


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def objects(depot: Depot) -> list[str]:
    return sorted(key for key in depot.sizes(AREA) if "commit-" not in key)


def test_what_is_taken_is_what_was_committed_and_nothing_that_was_written_later(depot, tmp_path):
    source = working_copy(tmp_path / "source", 3)
    Committer(depot, 0, "000001-a-0001").commit(source, KEPT, 3, False)
    target = tmp_path / "target"
    for later in (f"{RUN}/rollouts/step-000004.parquet", f"{RUN}/failed.json"):
        (target / later).parent.mkdir(parents=True, exist_ok=True)
        (target / later).write_text("of a step that was not committed")
    taken = depot.take(0, target, {})
    assert taken is not None and (taken.step, taken.finished) == (3, False)
    assert content(target) == content(source) | {f"{RUN}/steps.jsonl": "line\n" * 2}
    assert depot.take(1, target, {}) is None
    assert depot.take(0, target, {}, beyond=(False, 3)) is None


def test_a_commit_counts_only_when_it_is_whole(depot, tmp_path):
    """Whatever single file of the newer commit is missing, short or changed, the older one is taken."""
    committer = Committer(depot, 0, "000001-a-0001")
    source = working_copy(tmp_path / "source", 3)
    committer.commit(source, KEPT, 3, False)
    older = set(depot.sizes(AREA))
    committer.commit(working_copy(source, 4), KEPT | {f"{RUN}/steps.jsonl": 25}, 4, False)
    newer = sorted(set(depot.sizes(AREA)) - older)
    assert len(newer) == 3, "the list, the state, the longer journal"
    for key in newer:
        whole = depot.read(key)
        for broken in (None, whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
            depot.delete(key)
            if broken is not None:
                depot.put(key, broken)
            taken = depot.take(0, tmp_path / "target", {})
            assert taken is not None and taken.step == 3, (key, broken)
            assert (tmp_path / "target" / state_path(0)).read_text() == "state 3"
        depot.put(key, whole)
    taken = depot.take(0, tmp_path / "target", {})
    assert taken is not None and taken.step == 4


def test_an_attempt_that_nobody_waits_for_harms_no_other(depot, tmp_path):
    """One goes on, commits and clears away behind itself, while the next has begun from what it had."""
    stale, source = Committer(depot, 0, "000001-a-0001"), working_copy(tmp_path / "source", 1)
    stale.commit(source, KEPT, 1, False)
    mine = tmp_path / "mine"
    assert depot.take(0, mine, {})
    own = Committer(depot, 0, "000002-b-0001")
    own.commit(mine, KEPT, 2, False)
    for step in (2, 3, 4, 5):
        stale.commit(working_copy(source, step), KEPT, step, False)
    found = depot.commits(0)
    assert [(one.attempt[:6], one.step) for one in found] == [("000001", 5), ("000001", 4), ("000002", 2)]  # fmt: skip
    own.commit(working_copy(mine, 6), KEPT, 6, True)
    stale.commit(working_copy(source, 6), KEPT, 6, True)
    best = depot.commits(0)[0]
    assert best.attempt == "000002-b-0001", "of equally far ones the later attempt's"
    depot.tidy(0, best.attempt)
    assert {one.attempt for one in depot.commits(0)} == {best.attempt}


def test_earlier_commits_are_cleared_away_but_the_last(depot, tmp_path):
    committer, source = Committer(depot, 0, "000001-a-0001"), tmp_path / "source"
    for step in range(1, 7):
        committer.commit(working_copy(source, step), KEPT, step, False)
    assert [one.step for one in depot.commits(0)] == [6, 5]
    assert len(objects(depot)) == 5, "two states; journal, evaluation and labels once"


def test_labels_that_are_settled_are_not_replaced_by_a_commit_that_was_made_with_others(depot, tmp_path):  # fmt: skip
    Committer(depot, 0, "000001-a-0001").commit(working_copy(tmp_path / "source", 3), KEPT, 3, True)
    five = hashlib.sha256(b"five").hexdigest()
    assert depot.take(0, tmp_path / "target", {"labels/coder-p1.parquet": five}) is None
    four = hashlib.sha256(b"four").hexdigest()
    assert depot.take(0, tmp_path / "target", {"labels/coder-p1.parquet": four})


@pytest.mark.parametrize("path", ["../stolen", "/stolen", "plan.json", "coder/../../stolen/x/y"])
def test_a_commit_that_lists_a_foreign_path_is_not_taken(depot, tmp_path, path):
    source, target = working_copy(tmp_path / "source", 3), tmp_path / "deep" / "target"
    committer = Committer(depot, 0, "000001-a-0001")
    committer.commit(source, KEPT, 3, True)
    sha256, size = depot.commits(0)[0].files[state_path(0)]
    listed = dict(depot.commits(0)[0].files) | {path: (sha256, size)}
    with pytest.raises(DamagedFileError, match="lists"):
        depot._take(0, Commit(True, 3, "000001-a-0001", 1, listed), target)
    assert not list(tmp_path.rglob("stolen")) and not (target / "plan.json").exists()


def test_whoever_begins_last_drives(depot):
    assert depot.driver() is None
    names = [depot.begin() for _ in range(3)]
    assert names == sorted(names) and len(set(names)) == 3
    assert depot.driver() == names[-1]


def test_a_filesystem_that_nobody_serves_is_refused_by_name():
    with pytest.raises(ValueError, match=r"--depot: nosuch://here: .*nosuch"):
        Depot("nosuch://here")
