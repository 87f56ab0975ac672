"""From bytes to records: JSON lines, one JSON document, parquet. What cannot be read is named and reading goes on.

Memory is bounded by one line or one batch of rows, not by the file; a line of any length cannot exceed ``MAX_LINE``.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from controlarm.logs.rows import Damage

Container = Literal["json lines", "json", "parquet"]
MAX_LINE = 64 * 2**20
"""Bytes of one line; a longer one is damage."""
MAX_DOCUMENT = 512 * 2**20
"""Bytes of a file that is one JSON document, which must be read at once."""
BATCH = 2_048
"""Rows of parquet in memory at once."""

Found = tuple[int, object]
"""Line or row from 1, and the record."""


class UnreadableError(ValueError):
    """The file is none that we read; the message says what it looks like."""


def container(path: Path) -> Container:
    """What the first bytes say a file is.

    Raises:
        UnreadableError: when they say something else, or nothing.
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"PAR1":
        return "parquet"
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            raise UnreadableError(f"is {name}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise UnreadableError("is empty" if len(head) < 4096 else "begins with blanks only")
    if text[:1] == b"[":
        return "json"
    if text[:1] != b"{":
        shown = text[:20].decode("ascii", "backslashreplace")
        raise UnreadableError(f"begins with {shown!r}, neither JSON nor parquet")
    if path.stat().st_size <= MAX_DOCUMENT and _is_document(path):
        return "json"
    return "json lines"


MAGIC = {
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    b"\x80\x04": "serialised Python objects, which are never opened: they can run code",
    b"\x80\x05": "serialised Python objects, which are never opened: they can run code",
}


def _is_document(path: Path) -> bool:
    """Whether the file is one object rather than one a line: its first line is none by itself, or it is a W&B table."""
    with path.open("rb") as file:
        first = file.readline(MAX_DOCUMENT).removeprefix(b"\xef\xbb\xbf")
        if file.readline(1):
            return first.rstrip() == b"{"
    try:
        only = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(only, dict) and isinstance(only.get("columns"), list) and "data" in only


def records(path: Path, file: int, kind: Container) -> Iterator[Found | Damage]:
    """The records of a file in order, with damage in its place."""
    reader = {"json lines": _lines, "json": _document, "parquet": _parquet}[kind]
    try:
        yield from reader(path, file)
    except OSError as error:
        yield Damage(file, 0, f"cannot be read: {error.strerror or error}")


def first_records(path: Path, kind: Container, count: int = 20) -> list[object]:
    """The first records that can be read, for a look at their fields."""
    found = (r[1] for r in records(path, 0, kind) if not isinstance(r, Damage))
    return list(islice(found, count))


def _lines(path: Path, file: int) -> Iterator[Found | Damage]:
    with path.open("rb") as source:
        number = 0
        while line := source.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                yield Damage(
                    file, number, f"is a line of more than {MAX_LINE // 2**20} MiB: {_skip(source):,} bytes passed over"
                )  # fmt: skip
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            whole = line.endswith(b"\n")
            try:
                yield number, json.loads(line.decode())
            except UnicodeDecodeError as error:
                yield Damage(file, number, f"is no UTF-8 (byte {error.start + 1} of the line)")
            except RecursionError:
                yield Damage(file, number, "is nested too deeply")
            except ValueError:
                yield Damage(file, number, _why(line, whole))


def _skip(source: BinaryIO) -> int:
    """Read on to the end of the line; how many bytes that was."""
    passed = 0
    while rest := source.readline(2**20):
        passed += len(rest)
        if rest.endswith(b"\n"):
            break
    return passed + MAX_LINE


def _why(line: bytes, whole: bool) -> str:
    if b"\0" in line:
        return "holds NUL bytes, as a file does that was being written when a machine stopped"
    if not whole:
        return "is cut off: the last line has no end"
    return "is no JSON"


def _document(path: Path, file: int) -> Iterator[Found | Damage]:
    if path.stat().st_size > MAX_DOCUMENT:
        yield Damage(
            file, 0, f"is one JSON document of more than {MAX_DOCUMENT // 2**20} MiB: write one object a line instead"
        )  # fmt: skip
        return
    try:
        made = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Damage(file, 0, f"is no UTF-8 (byte {error.start + 1})")
        return
    except RecursionError:
        yield Damage(file, 0, "is nested too deeply")
        return
    except ValueError as error:
        yield Damage(file, 0, f"is no JSON ({error})")
        return
    if isinstance(made, dict) and isinstance(made.get("columns"), list):
        made = _table(made["columns"], made.get("data"))
    yield from enumerate(made if isinstance(made, list) else [made], start=1)


def _table(columns: Sequence[object], data: object) -> list[object]:
    """Rows of a W&B table, which is saved as columns and data."""
    names = [str(c) for c in columns]
    return [
        dict(zip(names, row, strict=True)) if isinstance(row, list) and len(row) == len(names) else row
        for row in (data if isinstance(data, list) else [])
    ]  # fmt: skip


def _parquet(path: Path, file: int) -> Iterator[Found | Damage]:
    number = 0
    try:
        with pq.ParquetFile(path) as source:
            for batch in source.iter_batches(batch_size=BATCH, use_threads=False):
                try:
                    made = batch.to_pylist()
                except (UnicodeDecodeError, pa.ArrowException, OverflowError):
                    made = None
                if made is None:
                    yield from _one_by_one(batch, file, number)
                    number += batch.num_rows
                    continue
                for record in made:
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        said = (str(error).splitlines() or ["no reason given"])[0][:200]
        yield Damage(file, 0, f"cannot be read as parquet from row {number + 1} on ({said})")


def _one_by_one(batch: pa.RecordBatch, file: int, before: int) -> Iterator[Found | Damage]:
    """The rows of a batch of which some cannot be decoded."""
    for i in range(batch.num_rows):
        try:
            yield before + i + 1, batch.slice(i, 1).to_pylist()[0]
        except (UnicodeDecodeError, pa.ArrowException, OverflowError):
            yield Damage(file, before + i + 1, "holds text that is no UTF-8")
