"""How analysis and report grow with a trial: run folders of up to 10,080 runs, made without training, become a report.

    python benchmarks/scale.py            210, 1,050 and 10,080 runs; making the folders takes most of the time
    python benchmarks/scale.py --quick    does it work; its timings mean nothing
    python benchmarks/scale.py --write    also keep it as benchmarks/results/scale.json

Six families, seven arms, five units; what grows is the number of recipes, as in a grid of learning rates. Each run has a journal of
eight steps, one file of rollouts and two evaluations of twelve problems with four samples.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness

RECIPES = (1, 5, 48)
RUNS = 6 * 7 * 5
"""Of a recipe."""
BOUNDS = {"page_bytes": 10e6}
"""What the report of the largest may weigh."""


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """One row a size, each in a process of its own, in the form of the results file."""
    sizes, units = ((1,), 1) if chosen.quick else (RECIPES, 5)
    rows = [
        harness.measured(
            f"{size} recipes",
            lambda size=size: harness.child("measure_scale", [str(size), str(units)], folder, log),
        )
        for size in sizes
    ]
    return harness.heading() | {"rows": rows}


def table(found: dict[str, Any]) -> str:
    """As it stands in docs/scale.md."""
    lines = ["| runs | files | folder, MB | analysis, s | page, s | peak GiB | page, MB |", "| --: | --: | --: | --: | --: | --: | --: |"]  # fmt: skip
    lines += [
        f"| {row['runs']:,} | {row['files']:,} | {row['folder_bytes'] / 1e6:,.0f} | {row['analysis']:.1f} | {row['page']:.1f} | "
        f"{row['peak_bytes'] / 2**30:.2f} | {row['page_bytes'] / 1e6:.1f} |"
        for row in found["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "scale", measure, table))
