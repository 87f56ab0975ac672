"""What a measurement was made on. Standard library only."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "accelerate", "numpy")


def describe() -> dict[str, Any]:
    """Processor, cores, Python, libraries; None for a library that is not installed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    } | {name: _version(name) for name in LIBRARIES}


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes: above the number of cores, timings are not to be trusted."""
    return [round(x, 2) for x in os.getloadavg()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
