"""The append-only record of a run: one JSON object a line, and a running hash by which resume finds any damage."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from controlarm.checkpoints import DamagedFileError


class Mark(NamedTuple):
    """How far a journal had been written when a checkpoint was committed."""

    num_bytes: int
    sha256: str


def line(values: Mapping[str, Any]) -> bytes:
    """One line; a number that is not finite becomes null, never a wrong number."""

    def plain(value: Any) -> Any:  # noqa: ANN401  JSON values
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({k: plain(v) for k, v in values.items()}, allow_nan=False).encode() + b"\n"


class Journal:
    """An open journal. What was appended after the last mark is dropped when the run resumes from that mark."""

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        """Open at a mark, or afresh.

        Raises:
            DamagedFileError: when the part before the mark is not what was written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.read_bytes()[: mark.num_bytes] if mark and path.exists() else b""
        self._hash = hashlib.sha256(kept)
        self._num_bytes = len(kept)
        if mark and (self._num_bytes, self._hash.hexdigest()) != mark:
            raise DamagedFileError(
                f"{path}: the first {mark.num_bytes} bytes are not what was written "
                f"({len(kept)} found); restore the file from a copy, or delete the trial's folder to start over"
            )
        self._file = path.open("r+b" if path.exists() else "wb")
        self._file.truncate(self._num_bytes)
        self._file.seek(self._num_bytes)

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one line, visible to readers at once.

        Raises:
            OSError: when it cannot be written; names the journal.
        """
        text = line(values)
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(
                OSError
            ):  # closing flushes again, and would fail without a name
                self._file.close()
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._hash.update(text)
        self._num_bytes += len(text)

    def mark(self) -> Mark:
        """Where the journal stands, all of it on disk; goes into the checkpoint of the same step."""
        os.fsync(self._file.fileno())
        return Mark(self._num_bytes, self._hash.hexdigest())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
