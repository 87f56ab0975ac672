"""Files are written whole or not at all, by one command at a time, and tell whether they are still what was written.

The seal of a file (of a line of a journal) is the first 16 hex digits of the SHA-256 of its bytes, with zeros where the
digits of the seal itself stand: in JSON the last key, in parquet an entry of the footer's metadata.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

BLANK = "0" * 16
"""A seal before it is known."""
_BEFORE_SEAL = (b'seal": "', b"seal\x18\x10")
"""What stands before a seal in JSON and in a parquet footer (a binary field of 16 bytes)."""

CHANGED = "a byte was changed after it was written, or the file was cut"
REMEDY = "restore the file from a copy, or delete the trial's folder to start over"


class DamagedFileError(ValueError):
    """A file does not hold what was written to it; the message names it and the remedy."""

    def __init__(self, path: Path, what: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}: {what}; {remedy}")
        self.path, self.what = path, what


class BusyError(RuntimeError):
    """Another command works on the folder."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk does not say of itself which file it was: errors in this block do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: when it cannot be written; it names the file, and what was there before stays.
    """
    with replacing(path) as file:
        file.write(content)


def partial_of(path: Path) -> Path:
    """The neighbour that a file is written to before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """What is written in this block goes to a neighbour, is flushed to disk, then renamed: a reader sees the old file or the new one, never half.

    Raises:
        OSError: when it cannot be written; it names the file, and what was there before stays.
    """
    partial = partial_of(path)
    with naming(path):
        make_folder(path.parent)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; all of them on disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Names in a folder survive a power cut only once the folder itself is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(content: bytes) -> bytes:
    """Content with its seal in the place of ``BLANK``."""
    at = _place(content)
    assert content[at : at + 16] == BLANK.encode()
    return content[:at] + _seal_of(content, at) + content[at + 16 :]


def intact(content: bytes) -> bool:
    """Whether the content of a file or a line is what its seal says was written."""
    at = _place(content)
    return at > 0 and content[at : at + 16] == _seal_of(content, at)


def _place(content: bytes) -> int:
    """Where the digits of the seal begin; 0 without one."""
    places = ((content.rfind(mark), len(mark)) for mark in _BEFORE_SEAL)
    return max((at + length for at, length in places if at >= 0), default=0)


def _seal_of(content: bytes, at: int) -> bytes:
    whole = hashlib.sha256(content[:at])
    whole.update(BLANK.encode())
    whole.update(content[at + 16 :])
    return whole.hexdigest()[:16].encode()


def check(path: Path) -> bytes:
    """The content of a sealed file.

    Raises:
        DamagedFileError: when it is not what was written.
        OSError: when it cannot be read.
    """
    content = path.read_bytes()
    if not intact(content):
        raise DamagedFileError(path, CHANGED)
    return content


def sealed_line(values: Mapping[str, Any]) -> bytes:
    """JSON in one line, sealed, with no line end."""
    return seal(json.dumps({**values, "seal": BLANK}, allow_nan=False).encode())


def unsealed(content: bytes) -> dict[str, Any]:
    """The object of a sealed line or file, without its seal.

    Raises:
        ValueError: it is not what was written.
    """
    if not intact(content):
        raise ValueError(CHANGED)
    found = json.loads(content)
    found.pop("seal", None)
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object, sealed."""
    write_atomic(path, seal(json.dumps({**values, "seal": BLANK}, indent=1).encode()))


def read_json(path: Path) -> dict[str, Any]:
    """An object that `write_json` wrote, without its seal.

    Raises:
        DamagedFileError: when it is not what was written.
        OSError: when it cannot be read.
    """
    return unsealed(check(path))


def write_table(path: Path, table: pa.Table, **options: Any) -> str:  # noqa: ANN401  as pyarrow has them
    """A parquet file, sealed; returns the SHA-256 of the file."""
    content = table_bytes(table, **options)
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def table_bytes(table: pa.Table, **options: Any) -> bytes:  # noqa: ANN401  as pyarrow has them
    """What `write_table` writes; the options are pyarrow's."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"seal": BLANK})
    return seal(sink.getvalue().to_pybytes())


def read_table(path: Path, names: Sequence[str] | None) -> pa.Table:
    """Columns of a table that `write_table` wrote; None: all.

    Raises:
        DamagedFileError: when it is not what was written, or has not these columns.
        OSError: when it cannot be read.
    """
    content = check(path)
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            names = file.schema_arrow.names if names is None else names
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise DamagedFileError(path, f"has no column {missing[0]!r}")
            table = file.read(columns=list(names), use_threads=False)
        table.validate(full=True)  # else a text that is no UTF-8 raises only where it is looked at
        return table
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(path, f"cannot be read as parquet ({error})") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Connection]:
    """Hold a run folder for this process, and for those that it gives what this yields: they may outlive it.

    What a killed command left half-written under a temporary name is removed at both ends.

    Raises:
        BusyError: another command holds it.
    """
    path = folder / ".lock"
    with path.open("a+") as file:
        _take(file, folder)
        with contextlib.suppress(OSError):  # a full disk: it only serves the others' messages
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        _drop_partials(folder)
        # Workers inherit a copy of the lock with this: one that outlives a killed command still holds the folder.
        held = Connection(os.dup(file.fileno()), writable=False)
        try:
            yield held
        finally:
            held.close()
            _drop_partials(folder)


ORPHANS = 60.0
"""Seconds that workers of a killed command may take to end: they notice within one, but perhaps only after their imports."""


def _take(file: TextIO, folder: Path) -> None:
    deadline = time.monotonic() + ORPHANS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
            if _alive(holder) or time.monotonic() > deadline:
                raise BusyError(
                    f"{folder}: another controlarm command{f' (process {holder})' if holder else ''} is running on "
                    "this folder; wait for it, or stop it"
                ) from None
            time.sleep(0.05)


def _alive(holder: str) -> bool:
    """Whether the command that took the lock still runs; if not, what holds it are its workers, about to end."""
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _drop_partials(folder: Path) -> None:
    for partial in folder.rglob(".*.partial"):
        partial.unlink(missing_ok=True)
