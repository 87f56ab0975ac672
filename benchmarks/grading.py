"""How fast answers are judged beside math-verify's own functions, and how often the two differ, on what models and people wrote.

    python benchmarks/grading.py            three sources; some minutes
    python benchmarks/grading.py --write    also keep it as benchmarks/results/grading.json

The data are not part of the project: CONTROLARM_DATA names their folder. One worker here, one process there.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from benchmarks.measure_grading import SOURCES
from controlarm import referee

BOUNDS = {"samples_a_second": 5000, "ratio": 1.5}
"""With the repeats of real data, when its pairs were seen before; cold, distinct pairs, of math-verify's own rate."""


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Every source, both ways, in the form of the results file."""
    rows = []
    for source in SOURCES[2:] if chosen.quick else SOURCES:
        ours, theirs = (
            harness.measured(f"{who}: {source}", lambda w=who, s=source: harness.child("measure_grading", [w, s], folder, log))
            for who in ("referee", "math-verify")
        )  # fmt: skip
        differ = sum(a is not None and a != b for a, b in zip(ours["verdicts"], theirs["verdicts"], strict=True))  # fmt: skip
        unknown = ours["verdicts"].count(None)
        kept = {key: value for key, value in ours.items() if key != "verdicts"}
        rows.append(
            {"source": source, **kept, "unknown": unknown, "differ": differ}
            | {f"peer_{key}": theirs[key] for key in ("wall", "processor")}
        )
    return harness.heading() | {"referee": referee.VERSION, "bounds": BOUNDS, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """One line a source."""
    lines = [
        [
            row["source"], f"{row['samples']:,}", f"{row['pairs']:,}", f"{row['pairs'] / row['processor']:,.0f}",
            f"{row['pairs'] / row['peer_processor']:,.0f}", f"{row['peer_processor'] / row['processor']:.1f}",
            f"{row['samples'] / row['wall']:,.0f}", f"{row['samples'] / row['seen_before']:,.0f}", str(row["differ"]), str(row["unknown"]),
        ]
        for row in found["rows"]
    ]  # fmt: skip
    columns = [
        "source:", "samples", "distinct pairs", "pairs/s, cold", "math-verify's own", "ratio", "samples/s, cold", "samples/s, seen before",
        "verdicts that differ", "unknown",
    ]  # fmt: skip
    return f"{harness.markdown(columns, lines)}\n\n{harness.said(found)} {found['referee']}."


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "grading", measure, table))
