"""How fast the transformers backend generates, beside transformers' own ways to: `generate` with a growing and with a static cache, and continuous batching.

    python benchmarks/generation.py            an exported organism answers 64 problems 8 times each, each way; a minute or two
    python benchmarks/generation.py --quick    does it work; its timings mean nothing
    python benchmarks/generation.py --write    also keep it as benchmarks/results/generation.json

Each way runs in a process of its own and is timed after one pass over part of the work. Only the backend's draws are keyed by problem and sample.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from controlarm.organisms import released
from controlarm.organisms.export import export

WAYS = ("backend", "generate, growing cache", "generate, static cache", "continuous batching")
BATCHES = (64, 256)


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Every way at every batch, in the form of the results file."""
    weights, _, shape = released.load("coder", 1)
    export(weights, shape, folder / "coder")
    problems, samples = (2, 2) if chosen.quick else (64, 8)
    rows = []
    for batch in BATCHES[:1] if chosen.quick else BATCHES:
        for way in WAYS:
            # It sizes its batches itself, so once is enough; and it is too slow for a smoke run.
            if way == "continuous batching" and (chosen.quick or batch != BATCHES[0]):
                continue
            words = [str(folder / "coder"), way, str(problems), str(samples), str(batch)]
            made = harness.measured(
                f"{way}, batch {batch}",
                lambda w=words: harness.child("measure_generation", w, folder, log),
            )
            rows.append({"way": way, "batch": batch} | made)
    return harness.heading() | {"rows": rows}


def table(found: dict[str, Any]) -> str:
    """One line a way."""
    lines = [
        [
            row["way"],
            "its own" if row["way"] == "continuous batching" else f"{row['batch']}",
            f"{row['completions']}",
            f"{row['tokens'] / row['processor']:,.0f}",
            f"{row['processor']:.2f}",
        ]
        for row in found["rows"]
    ]
    columns = ["way:", "batch", "completions", "tokens a second", "processor seconds"]
    return f"{harness.markdown(columns, lines)}\n\n{harness.said(found)}"


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "generation", measure, table))
