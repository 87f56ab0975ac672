"""Fabricated trials where claims look for their records, and what their tests ask of tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fabricate import Behaviour, fabricate

from claims.ledger import Record


def shrunk(text: str, *changes: tuple[str, str]) -> str:
    """A protocol with parts replaced, each of which must be there."""
    for large, small in changes:
        assert large in text, large
        text = text.replace(large, small)
    return text


def record_in(
    root: Path, trial: str, text: str, effects: Mapping[tuple[str, str], Behaviour]
) -> Record:
    """A trial of a tree: its protocol and its record."""
    path = root / "records" / f"{trial}-00000000"
    fabricate(path, text, effects)
    (root / "trials").mkdir(exist_ok=True)
    (root / "trials" / f"{trial}.toml").write_text(text, encoding="utf-8")
    return Record(path)


def the_row(rows: Sequence[Any], **wanted: object) -> dict[str, Any]:
    """The only row with these values."""
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row
