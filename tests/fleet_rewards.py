"""Rewards that poison a fleet's shard."""

import os


def exits_on_code(text: str) -> float:
    """Ends the process on what only some families write."""
    if "python" in text:
        os._exit(3)
    return 0.0


def fails_on_code(text: str) -> float:
    """Raises on what only some families write: the run fails, its shard goes on."""
    if "python" in text:
        raise RuntimeError("no network")
    return 0.0
