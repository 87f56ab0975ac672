r"""Samples that `controlarm evaluate` stored: a condition's folder, or a store with one condition; each part tells whether it is what was written.

Example: ``{"problem_id": "test/7", "sample": 0, "problem": "1 + 1?", "gold": "2", "text": "\\boxed{2}", "truncated": false, …}``.
"""

from collections.abc import Sequence
from pathlib import Path

from controlarm import files as sealed
from controlarm.logs.rows import Fields

OWN = frozenset({"problem_id", "sample", "prompt_sha256", "problem", "gold", "text"})


def recognises(names: set[str]) -> bool:
    """Whether the columns are those of a store's samples."""
    return names >= OWN


def fields(names: set[str], records: Sequence[object]) -> Fields:
    """A store's columns: problems are told apart by their texts, whatever template they were asked in."""
    return Fields(
        completion="text", prompt="problem", gold="gold", id="problem_id", truncated="truncated",
        num_tokens="num_tokens",
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    """The parts of a condition, or of the only condition of a store.

    Raises:
        ValueError: when the store has several.
    """
    if found := sorted(folder.glob("samples/*.parquet")):
        return found
    conditions = sorted(p.parent for p in folder.glob("*/condition.json"))
    if len(conditions) > 1:
        names = ", ".join(p.name for p in conditions)
        raise ValueError(f"{folder}: holds several conditions ({names}); give one of these folders")
    return sorted(conditions[0].glob("samples/*.parquet")) if conditions else []


def intact(part: Path) -> bool:
    """Whether a part's seal is whole."""
    return sealed.intact(part.read_bytes())
