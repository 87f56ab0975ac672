"""Where organisms stand: those that ship with the package, and a user's own beside the trial. Names and cards, no weights."""

import json
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "weights"
OWN = Path("organisms")
"""A user's own organisms, relative to where the command runs; looked at first."""


def known() -> dict[str, list[int]]:
    """Family → pretraining seeds, of every organism found."""
    found: dict[str, list[int]] = {}
    for folder in (OWN, SHIPPED):
        for path in sorted(folder.glob("*-p*.safetensors")):
            family, _, seed = path.stem.rpartition("-p")
            if seed.isdigit() and int(seed) not in found.setdefault(family, []):
                found[family].append(int(seed))
    return {family: sorted(seeds) for family, seeds in sorted(found.items())}


def path_of(family: str, pretraining_seed: int) -> Path:
    """File of one organism.

    Raises:
        ValueError: when there is none; names what there is.
    """
    for folder in (OWN, SHIPPED):
        path = folder / f"{family}-p{pretraining_seed}.safetensors"
        if path.is_file():
            return path
    have = "; ".join(f"{name}: {', '.join(map(str, seeds))}" for name, seeds in known().items())
    raise ValueError(
        f"there is no organism {family!r} with pretraining seed {pretraining_seed}; known families and their "
        f"pretraining seeds: {have or 'none'}; `controlarm pretrain` makes more"
    )


def card(family: str, pretraining_seed: int) -> dict[str, Any] | None:
    """What was measured of an organism, from the card beside its file; None without a readable one."""
    try:
        found = json.loads(path_of(family, pretraining_seed).with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
