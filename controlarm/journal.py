"""The append-only record of a run: one sealed JSON object a line, and a running hash by which resume finds any damage."""

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from controlarm import files
from controlarm.files import DamagedFileError


class Mark(NamedTuple):
    """How far a journal had been written when a checkpoint was committed."""

    num_bytes: int
    sha256: str


def line(values: Mapping[str, Any]) -> bytes:
    """One line; a number that is not finite becomes null, never a wrong number."""

    def plain(value: Any) -> Any:  # noqa: ANN401  JSON values
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return files.sealed_line({k: plain(v) for k, v in values.items()}) + b"\n"


def read(path: Path, mark: Mark) -> bytes:
    """What a journal held at a mark.

    Raises:
        DamagedFileError: when that is not what was written.
    """
    content = path.read_bytes()[: mark.num_bytes] if path.exists() else b""
    if (len(content), hashlib.sha256(content).hexdigest()) != mark:
        what = f"the first {mark.num_bytes} bytes are not what was written ({len(content)} found)"
        raise DamagedFileError(path, what)
    return content


class Journal:
    """An open journal. What was appended after the last mark is dropped when the run resumes from that mark."""

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        """Open at a mark, or afresh.

        Raises:
            DamagedFileError: when the part before the mark is not what was written.
        """
        self.path = path
        kept = read(path, mark) if mark else b""
        self._hash = hashlib.sha256(kept)
        self._num_bytes = len(kept)
        with files.naming(path):
            files.make_folder(path.parent)
            self._file = path.open("r+b" if path.exists() else "wb")
            self._file.truncate(self._num_bytes)
            self._file.seek(self._num_bytes)
            files.sync_folder(path.parent)

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one line, visible to readers at once.

        Raises:
            OSError: when it cannot be written; names the journal.
        """
        text = line(values)
        with files.naming(self.path):
            try:
                self._file.write(text)
                self._file.flush()
            except OSError:
                with contextlib.suppress(OSError):  # closing flushes again, and fails again
                    self._file.close()
                raise
        self._hash.update(text)
        self._num_bytes += len(text)

    def mark(self) -> Mark:
        """Where the journal stands, all of it on disk; goes into the checkpoint of the same step."""
        with files.naming(self.path):
            os.fsync(self._file.fileno())
        return Mark(self._num_bytes, self._hash.hexdigest())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
