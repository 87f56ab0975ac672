"""What is measured of a checkpoint beside the plain evaluation: one table a kind, from weights and problems alone."""

from collections.abc import Callable

import pyarrow as pa

from controlarm.probes import (
    forced,
    interference,
    perplexity,
    prompting,
    solutions,
    sparsity,
    temperature,
)
from controlarm.probes.subject import Subject

__all__ = ["PROBES", "VERSION", "Probe", "Subject"]

VERSION = "probes-1"
"""Moves when a table would hold other numbers."""

Probe = Callable[[Subject], pa.Table]

PROBES: dict[str, Probe] = {
    "forced": forced.probe,
    "prompts": prompting.probe,
    "perplexity": perplexity.probe,
    "temperature": temperature.probe,
    "interference": interference.probe,
    "solutions": solutions.probe,
    "sparsity": sparsity.probe,
}
"""Kind → what makes its table."""
