"""Every random number is a function of a seed and a path of names, never of a global stream.

Order of calls, number of workers and resuming can therefore not change a number:

>>> uniform(1, "random", 0, "a347+28-9", 5, 3) == uniform(1, "random", 0, "a347+28-9", 5, 3)
True
>>> uniform(1, "random", 0, "a347+28-9", 5, 3) == uniform(1, "random", 1, "a347+28-9", 5, 3)
False
"""

import json
from hashlib import blake2b

import numpy as np

Part = int | str


def key(*path: Part) -> int:
    """A 128-bit key of the path. Distinct paths have distinct encodings (JSON), so distinct keys."""
    return int.from_bytes(blake2b(json.dumps(path).encode(), digest_size=16).digest(), "big")


def uniform(*path: Part) -> float:
    """One number in [0, 1) with 53 random bits; the coin of every arm."""
    return (key(*path) >> 75) * 2.0**-53


def generator(*path: Part) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for this path."""
    return np.random.Generator(np.random.Philox(key=key(*path)))
