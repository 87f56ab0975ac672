"""What a fleet's workers commit, on any filesystem that fsspec names: no rename, no append and no lock is asked of it.

::

    .fleet/drivers/000002-5f1c09aa.json                                     who drives, one file a command; the last name is the one that does
    .fleet/shards/003/000002-5f1c09aa-0001/<sha256>                          files that an attempt has committed
    .fleet/shards/003/000002-5f1c09aa-0001/commit-000004.json                names, sizes and hashes of one commit, written last, sealed

An attempt writes under its own name only, so one whose driver is dead may go on writing and harms nobody. A commit is whole or
it is none: it counts once its last file, the list, is intact and everything listed is there. Every whole commit of a shard is a
state that its training passes through, so whoever goes on takes the one that is farthest.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from controlarm import files
from controlarm.files import DamagedFileError

AREA = ".fleet"
"""Folder of a depot in which commits stand while a trial is not finished."""

CHUNK = 1 << 20


class Commit(NamedTuple):
    """All files of a shard at one step."""

    finished: bool
    step: int
    attempt: str
    """Driver and number of the attempt that made it: a later one sorts after an earlier one."""
    number: int
    """Counts the commits of an attempt."""
    files: dict[str, tuple[str, int]]
    """Path in the run folder → SHA-256 and bytes."""


class Depot:
    """A place that all machines of a fleet reach."""

    def __init__(self, url: str) -> None:
        """Open a place.

        Args:
            url: as fsspec has them: ``s3://bucket/runs/quick-1a2b3c4d``, or the path of a folder that all machines see.

        Raises:
            ValueError: no such kind of filesystem, or the package that serves it is not installed.
        """
        fsspec: Any = import_module("fsspec")
        try:
            # Listings are never remembered: what others write is what they are asked for.
            self._fs, root = fsspec.core.url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError) as error:
            raise ValueError(f"--depot: {url}: {error}") from None
        self.url, self._root = url, str(root).rstrip("/")
        self._on_disk = "file" in ([self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol)  # fmt: skip

    # Single files.

    def put(self, key: str, source: Path | bytes) -> None:
        """Write a file whole; on a disk it is there after a power cut."""
        target = f"{self._root}/{key}"
        if self._on_disk:
            if isinstance(source, bytes):
                files.write_atomic(Path(target), source)
            else:
                with source.open("rb") as content, files.replacing(Path(target)) as file:
                    shutil.copyfileobj(content, file, CHUNK)
        elif isinstance(source, bytes):
            self._fs.pipe_file(target, source)
        else:
            self._fs.put_file(str(source), target)

    def read(self, key: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: it is not there.
        """
        return self._fs.cat_file(f"{self._root}/{key}")

    def sizes(self, key: str) -> dict[str, int]:
        """Keys under a folder, with bytes; none where there is no such folder."""
        try:
            found = self._fs.find(f"{self._root}/{key}", detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._root) + 1
        return {str(name)[start:]: int(facts["size"]) for name, facts in found.items()}

    def delete(self, key: str) -> None:
        """Remove a file or a folder, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{key}", recursive=True)

    def fetch(self, key: str, target: Path, sha256: str | None) -> None:
        """Copy a file to this machine, whole or not at all; with no hash to hold it against, whoever reads it does.

        Raises:
            FileNotFoundError: it is not there.
            DamagedFileError: its content is not what was committed.
        """
        partial = files.partial_of(target)
        files.make_folder(target.parent)
        found = hashlib.sha256()
        try:
            with self._fs.open(f"{self._root}/{key}", "rb") as source, partial.open("wb") as file:
                while content := source.read(CHUNK):
                    found.update(content)
                    file.write(content)
            if sha256 not in (None, found.hexdigest()):
                raise DamagedFileError(Path(f"{self.url}/{key}"), files.CHANGED, "it is made again")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    # Drivers.

    def begin(self) -> str:
        """Become the one that drives; returns the driver's name. Whoever did before finds out and stops."""
        last = self.driver()
        count = int(last.partition("-")[0]) + 1 if last else 1
        name = f"{count:06d}-{uuid.uuid4().hex[:8]}"
        facts = {"host": platform.node(), "process": os.getpid(), "time": time.time()}
        self.put(f"{AREA}/drivers/{name}.json", files.sealed_line({"driver": name, **facts}))
        return name

    def driver(self) -> str | None:
        """Who drives: the last of all that began."""
        return max((PurePosixPath(key).stem for key in self.sizes(f"{AREA}/drivers")), default=None)

    # Commits.

    def commits(self, shard: int) -> list[Commit]:
        """Whole commits of a shard, the farthest first; of equally far ones the latest attempt's."""
        home = f"{AREA}/shards/{shard:03d}"
        sizes, found = self.sizes(home), []
        for key in sizes:
            _, _, rest = key.partition(f"{home}/")
            attempt, _, name = rest.partition("/")
            if not name.startswith("commit-"):
                continue
            try:
                told = files.unsealed(self.read(key))
            except (FileNotFoundError, ValueError):
                continue  # deleted meanwhile, or not written to its end
            listed = {path: (sha256, size) for path, (sha256, size) in told["files"].items()}
            if all(sizes.get(f"{home}/{attempt}/{sha256}") == size for sha256, size in listed.values()):  # fmt: skip
                found.append(
                    Commit(told["finished"], told["step"], attempt, told["number"], listed)
                )
        return sorted(found, key=lambda one: one[:4], reverse=True)

    def take(
        self,
        shard: int,
        folder: Path,
        given: Mapping[str, str],
        beyond: tuple[bool, int] | None = None,
    ) -> Commit | None:
        """Put the farthest commit of a shard into a folder that holds nothing else of it; returns which it was.

        A commit that is gone or damaged when it is read is left for the next one: what it lacks is trained again.

        Args:
            shard: its number.
            folder: the run folder, or a working copy of it.
            given: path → SHA-256 of files that shards share and that are settled: a commit that was made with others is of
                another course of the trial, and is not taken.
            beyond: finished and step that the folder has reached; only a farther commit is taken.
        """
        for commit in self.commits(shard):
            if beyond is not None and commit[:2] <= beyond:
                break
            if any(given.get(path, sha256) != sha256 for path, (sha256, _) in commit.files.items()):
                continue
            try:
                self._take(shard, commit, folder)
            except (FileNotFoundError, DamagedFileError):
                continue
            return commit
        return None

    def _take(self, shard: int, commit: Commit, folder: Path) -> None:
        """The shard's state comes last: without it, its other files count for nothing."""
        state = state_path(shard)
        for path in commit.files:
            parts = PurePosixPath(path).parts
            if path != state and (".." in parts or parts[0] == "/" or len(parts) < (4 if is_of_run(path) else 2)):  # fmt: skip
                raise DamagedFileError(Path(self.url), f"a commit of shard {shard} lists {path!r}")
        (folder / state).unlink(missing_ok=True)
        for home in sorted(
            {PurePosixPath(p).parts[:3] for p in commit.files if is_of_run(p)}
        ):  # later than the commit
            shutil.rmtree(folder.joinpath(*home), ignore_errors=True)
        for path in sorted(commit.files, key=lambda path: path == state):
            if not is_of_run(path) and path != state and (folder / path).exists():
                continue
            sha256, _ = commit.files[path]
            self.fetch(
                f"{AREA}/shards/{shard:03d}/{commit.attempt}/{sha256}", folder / path, sha256
            )

    def tidy(self, shard: int, kept: str) -> None:
        """Remove what all attempts at a shard but one have left."""
        home = f"{AREA}/shards/{shard:03d}"
        found = {key.split("/")[3] for key in self.sizes(home)}
        for attempt in sorted(found - {kept}):
            self.delete(f"{home}/{attempt}")


class Committer:
    """One attempt at a shard: it commits what a working copy holds."""

    def __init__(self, depot: Depot, shard: int, attempt: str) -> None:
        self._depot, self._home = depot, f"{AREA}/shards/{shard:03d}/{attempt}"
        self._number = 0
        self._there: set[str] = set()
        """Hashes of what has been put."""
        self._known: dict[tuple[str, int, int], str] = {}
        """Path, time of its last change and length → hash: a file is read once."""
        self._before: list[dict[str, tuple[str, int]]] = []

    def commit(
        self, folder: Path, kept: Mapping[str, int | None], step: int, finished: bool
    ) -> None:
        """Put files, then the list of them. Of earlier commits the last one stays, for whoever is reading it.

        Args:
            folder: the working copy.
            kept: path in it → how many of its bytes count; None: all.
            step: that the shard has reached.
            finished: whether it is at its end.
        """
        self._number += 1
        listed = {path: self._put(folder / path, size) for path, size in sorted(kept.items())}
        told = {"step": step, "finished": finished, "number": self._number, "files": listed}
        self._depot.put(f"{self._home}/commit-{self._number:06d}.json", files.sealed_line(told))
        self._before.append(listed)
        if len(self._before) > 2:
            gone = {sha256 for sha256, _ in self._before.pop(0).values()}
            needed = {sha256 for one in self._before for sha256, _ in one.values()}
            self._depot.delete(f"{self._home}/commit-{self._number - 2:06d}.json")
            for sha256 in sorted(gone - needed):
                self._depot.delete(f"{self._home}/{sha256}")
                self._there.discard(sha256)

    def _put(self, path: Path, size: int | None) -> tuple[str, int]:
        if size is not None:
            content = path.read_bytes()[:size]
            sha256 = hashlib.sha256(content).hexdigest()
            self._once(sha256, content)
            return sha256, len(content)
        facts = path.stat()
        key = (str(path), facts.st_mtime_ns, facts.st_size)
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        self._once(self._known[key], path)
        return self._known[key], facts.st_size

    def _once(self, sha256: str, source: Path | bytes) -> None:
        if sha256 not in self._there:
            self._depot.put(f"{self._home}/{sha256}", source)
            self._there.add(sha256)


def state_path(shard: int) -> str:
    """Where a run folder keeps a shard's state."""
    return f"shards/{shard:03d}.safetensors"


def is_of_run(path: str) -> bool:
    """Whether a file of a run folder is one run's own: ``<family>/<arm>/<recipe>-p<P>-s<S>/…``."""
    return PurePosixPath(path).parts[0] not in ("labels", "bases", "shards")


def shared_files(folder: Path) -> Iterator[str]:
    """What is made of a base once and used by all of its runs: labels, and probes of the base."""
    for path in [*folder.glob("labels/*.parquet"), *folder.glob("bases/*/probes/*.parquet")]:
        yield path.relative_to(folder).as_posix()
