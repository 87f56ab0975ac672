"""What do runs gain by training together? k runs in lockstep against k runs one after another.

    python benchmarks/lockstep_gain.py            about five minutes on quiet cores
    python benchmarks/lockstep_gain.py --quick    does everything work; its timings mean nothing
    python benchmarks/lockstep_gain.py --write    also keep it as benchmarks/results/lockstep_gain.json

At the quick trial's size. A single run is measured in several tiles and rows and counts with the best of them; the
engine's own are made for many runs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from benchmarks.measure_step import Request, compile_all
from benchmarks.workload import Workload
from controlarm import sampling, update

RUNS = (1, 2, 4, 8, 16, 32)
TEXTS = ("organism", "distinct")
OWN = (sampling.TILE, update.PASS)
ALTERNATIVES = ((96, 4), (48, 2))
"""Tile and rows of a pass, beside the engine's own, in which a single run may do better."""
STEPS = 30
"""Of the quick trial, over which compilation is spread."""
PHASES = ("decode", "learn")
BAR = (16, 0.7)
"""Runs together, and what share of separate runs' time they may take in decoding."""


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Everything, in the form of the results file."""
    work = Workload()
    settings = [(1, *other) for other in ALTERNATIVES] + [(k, *OWN) for k in RUNS]
    if chosen.quick:
        work = Workload(prompts=2, group=4, tokens=8, compiled=False)
        settings = [(1, *OWN), (2, *OWN)]
    requests = [
        Request(work.asked(runs=k), list(TEXTS), 1 if chosen.quick else 5, tile=tile, rows=rows)
        for k, tile, rows in settings
    ]
    # Programs that settings have in common are compiled for each, or some would come for nothing.
    places = [folder / f"compiled-{number}" for number in range(len(requests))]
    cold = compile_all(requests, folder, log, places) if work.compiled else []
    found = []
    for number, (request, (k, tile, rows)) in enumerate(zip(requests, settings, strict=True)):
        one = harness.measured(
            f"{k} runs, tiles of {tile}, {rows} rows a pass",
            lambda request=request, place=places[number]: request.ask(folder, log, place),
        )
        seconds = cold[number]["compile_seconds"] if cold else 0.0
        found.append({"runs": k, "tile": tile, "pass": rows} | one | {"compile_seconds": seconds})
    return harness.heading() | {"steps": STEPS, "rows": found, "gain": gains(found)}


def gains(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds of a run and step, and their share of what a single run takes at its best."""
    found = []
    for texts in TEXTS:
        each = [(row, part) for row in rows for part in row["rows"] if part["texts"] == texts]
        single = {
            phase: min(p["seconds"][phase]["median"] for r, p in each if r["runs"] == 1)
            for phase in PHASES
        }
        compiling = min(row["compile_seconds"] for row, _ in each if row["runs"] == 1)
        alone = STEPS * sum(single.values())
        for row, part in each:
            if (row["tile"], row["pass"]) != OWN:
                continue
            runs = row["runs"]
            own = {phase: part["seconds"][phase]["median"] for phase in PHASES}
            together = row["compile_seconds"] + STEPS * runs * sum(own.values())
            found.append(
                {
                    "texts": texts,
                    "runs": runs,
                    "distinct_share": part["distinct_share"],
                    "seconds": own,
                    "separate": single,
                    "share": {phase: own[phase] / single[phase] for phase in PHASES},
                    "compile_seconds": row["compile_seconds"],
                    "share_with_compilation": together / (compiling + runs * alone),
                }
            )
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    columns = ["texts:", "runs", "distinct tokens", "decoding, ms a run and step", "of separate"]
    columns += ["learning, ms", "of separate", "compilation, s", f"{STEPS} steps with compilation"]
    lines = [
        [
            row["texts"],
            str(row["runs"]),
            f"{row['distinct_share']:.0%}",
            *(
                cell
                for phase in PHASES
                for cell in (f"{1e3 * row['seconds'][phase]:.1f}", f"{row['share'][phase]:.2f}")
            ),
            f"{row['compile_seconds']:.0f}",
            f"{row['share_with_compilation']:.2f}",
        ]
        for row in found["gain"]
    ]
    said = [harness.said(found), ""]
    said.append(
        "Processor time against runs one after another, in the best setting of a single run;"
    )
    said.append("compilation, wall seconds, is in the last column alone, once on either side.")
    said += ["", harness.markdown(columns, lines), ""]
    runs, most = BAR
    for row in found["gain"]:
        if row["runs"] == runs and row["texts"] == "organism":
            held = "holds" if row["share"]["decode"] <= most else "does not hold"
            said.append(
                f"Bar: {runs} runs decode in at most {most} of separate runs' time: {row['share']['decode']:.2f}, {held}."
            )
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "lockstep_gain", measure, table))
