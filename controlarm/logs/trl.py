"""What TRL's ``log_completions`` leaves: ``completions/completions_00010.parquet``, and ``trainer_state.json`` above it.

A file has the columns ``step``, ``prompt``, ``completion``, one for each reward function, the user's own (``log_extra``), ``advantage``.
Text and chat messages both occur. It holds the trainer's last generation batch, so a further update on one batch writes the
same rows again under its own step: these are told by their content and counted, not read twice.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controlarm.logs import jsonl
from controlarm.logs.rows import Fields

OWN = frozenset({"step", "prompt", "completion", "advantage"})
"""TRL's columns; what else is numeric is a reward, or what a reward function logged beside it."""


def recognises(names: set[str]) -> bool:
    """Whether a parquet file has TRL's columns."""
    return names >= OWN


def fields(names: set[str], records: Sequence[object]) -> Fields:
    """TRL's columns; the gold answer only where the user logged it (``log_extra``)."""
    others = names - OWN
    found = jsonl.fields(others, records)
    taken = {found.gold, found.id, found.answer, found.num_tokens}
    return Fields(
        completion="completion", prompt="prompt", step="step", gold=found.gold, id=found.id, answer=found.answer,
        truncated=found.truncated, num_tokens=found.num_tokens,
        scores=jsonl.numeric_fields(others - taken, records),
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    """The completions of an output folder, or of its folder ``completions``, in order of steps."""
    for place in (folder / "completions", folder):
        if found := sorted(place.glob("completions_*.parquet")):
            return found
    return []


STATE = {
    "reward": "reward", "frac_reward_zero_std": "equal_groups", "kl": "kl", "entropy": "entropy",
    "completions/mean_length": "num_tokens", "completions/clipped_ratio": "truncated_share",
    "clip_ratio/low_mean": "clip_low", "clip_ratio/high_mean": "clip_high",
}  # fmt: skip
"""What the trainer's own history says of a step, and what we call it."""


def history(folder: Path) -> tuple[list[dict[str, float]], str | None]:
    """The trainer's own numbers by step, of the newest ``trainer_state.json``; and what is wrong with it, if anything is.

    Looked for beside and above ``completions``, and in its checkpoints.
    """
    places = [folder, folder.parent] if folder.name == "completions" else [folder]
    states = [
        s
        for p in places
        for s in [p / "trainer_state.json", *p.glob("checkpoint-*/trainer_state.json")]
    ]
    read: list[list[dict[str, float]]] = []
    wrong = None
    for state in states:
        if not state.is_file():
            continue
        try:
            made: Any = json.loads(state.read_bytes().decode())
            read.append(
                [_entry(e) for e in made["log_history"] if isinstance(e, dict) and "step" in e]
            )
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            wrong = f"{state.name} of {state.parent.name} cannot be read ({type(error).__name__})"
    longest = max(read, key=lambda rows: max((r["step"] for r in rows), default=-1), default=[])
    return [row for row in longest if len(row) > 1], wrong


def _entry(entry: dict[str, Any]) -> dict[str, float]:
    kept = {ours: entry[theirs] for theirs, ours in STATE.items() if isinstance(entry.get(theirs), int | float)}  # fmt: skip
    return {"step": int(entry["step"]), **{k: float(v) for k, v in kept.items() if v == v}}
