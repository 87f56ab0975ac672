"""The report: `report.json` holds every number shown, `report.html` needs nothing but a browser, `endpoint.svg` is its figure."""

import json
import math
from pathlib import Path
from typing import Any

from controlarm import files
from controlarm.report.endpoint import endpoint
from controlarm.report.page import render

__all__ = ["as_json", "endpoint", "render", "write"]


def write(folder: Path, summary: dict[str, Any]) -> Path:
    """Write ``report.json``, ``report.html`` and ``endpoint.svg`` into the folder, each whole or not at all.

    Returns:
        The path of the page.

    Raises:
        ValueError: a number of the summary is not finite; the message names its place.
        OSError: a file cannot be written; the message names it, and what was there before stays.
    """
    texts = {"report.json": as_json(summary), "report.html": render(summary)}
    if picture := endpoint(summary):
        texts["endpoint.svg"] = picture
    folder.stat()  # a report belongs to a run folder and makes none of its own
    for name, text in texts.items():
        files.write_atomic(folder / name, text.encode("utf-8"))
    return folder / "report.html"


def as_json(summary: dict[str, Any]) -> str:
    """The summary as JSON with sorted keys, one line for each entry of a list, so that two reports can be compared."""
    if place := _not_finite(summary):
        raise ValueError(
            f"report.json: {place} is not a finite number; say null for what is missing"
        )
    parts = []
    for key in sorted(summary):
        value = summary[key]
        if isinstance(value, list) and value:
            lines = ",\n".join(json.dumps(v, sort_keys=True, allow_nan=False) for v in value)
            written = f"[\n{lines}\n]"
        else:
            written = json.dumps(value, sort_keys=True, allow_nan=False)
        parts.append(f"{json.dumps(key)}: {written}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _not_finite(value: object, place: str = "") -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else place or "the summary"
    if isinstance(value, dict):
        inner = ((f"{place}.{key}".lstrip("."), v) for key, v in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{place}[{i}]", v) for i, v in enumerate(value))
    else:
        return None
    return next((found for at, v in inner if (found := _not_finite(v, at))), None)
