r"""Samples that `controlarm evaluate` stored: a condition's folder, or a store with one sampled condition; each part tells whether it is what was written.

Example: ``{"problem_id": "test/7", "sample": 0, "problem": "1 + 1?", "gold": "2", "text": "\\boxed{2}", "truncated": false, …}``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """The parts of a condition, or of the `chosen` condition of a store.

    Raises:
        ValueError: when the store has several to choose from.
        DamagedFileError: when what tells them apart is not what was written.
    """
    if found := sorted(folder.glob("samples/*.parquet")):
        return found
    place = chosen(folder)
    return sorted(place.glob("samples/*.parquet")) if place else []


def chosen(folder: Path) -> Path | None:
    """The only condition of a store, or its only sampled one where the others are greedy completions of the same problems and prompt.

    Raises:
        ValueError: when the store has several to choose from.
        DamagedFileError: when what tells them apart is not what was written.
    """
    places = sorted(p.parent for p in folder.glob("*/condition.json"))
    if len(places) < 2:
        return places[0] if places else None
    facts = {place: sealed.read_json(place / "condition.json") for place in places}
    sampled = [place for place, held in facts.items() if held["temperature"] > 0]
    if len(sampled) == 1 and len({(f["problems"], f["prompt"]) for f in facts.values()}) == 1:
        return sampled[0]
    names = "; ".join(f"{place.name} ({_told(place, held)})" for place, held in facts.items())
    raise ValueError(f"{folder}: holds several conditions: {names}; give one of these folders")


def _told(place: Path, held: Mapping[str, Any]) -> str:
    """A condition in a few words: ``line, T 0.6, 60 samples``."""
    if held["temperature"] == 0:
        return f"{held['prompt']}, greedy"
    asked = place / "asked.json"
    count = f", {sealed.read_json(asked)['num_samples']} samples" if asked.exists() else ""
    return f"{held['prompt']}, T {held['temperature']:g}{count}"


def note(folder: Path) -> str | None:
    """What was chosen in a store with several conditions; None: there was no choice."""
    if any(folder.glob("samples/*.parquet")) or len(list(folder.glob("*/condition.json"))) < 2:
        return None
    place = chosen(folder)
    return place and f"read are its sampled completions, not the greedy ones ({place.name})"


def intact(part: Path) -> bool:
    """Whether a part's seal is whole."""
    return sealed.intact(part.read_bytes())
