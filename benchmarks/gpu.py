"""What does a step cost on a GPU, and how long would a large grid take? Beside Hugging Face's ``generate`` and an eager update.

    python benchmarks/gpu.py                          about ten minutes on one CUDA device
    python benchmarks/gpu.py --device cpu --quick     does everything work; its timings mean nothing
    python benchmarks/gpu.py --steps 300              times the whole grid instead of extrapolating
    python benchmarks/gpu.py --write                  also keep it as benchmarks/results/gpu.json

Steps of 32 × 8 completions of at most 32 tokens, two updates, bfloat16; k runs together in one process on one device, wall
seconds with the device's queue empty at both ends. Rewards, noise, journal and evaluations are not in them. Hugging Face
trains one run. CUDA graphs are not tried: the cache changes in place in tiles that are new views, and the host deals rows
to texts at every token, so they would need another engine.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from benchmarks.measure_step import Request
from benchmarks.workload import Workload

RUNS = (1, 4, 16, 64, 256)
GRID = {"arms": 7, "families": 4, "seeds": 8}
GRID_STEPS = 300
TEXTS = ("organism", "distinct")
PHASES = ("decode", "learn")


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Everything, in the form of the results file."""
    work = Workload(prompts=32, group=8, device=chosen.device)
    runs, grid, repeats = RUNS, GRID["arms"] * GRID["families"] * GRID["seeds"], 5
    steps = chosen.steps
    if chosen.quick:
        work = work._replace(prompts=2, group=4, tokens=8, compiled=False)
        runs, grid, repeats, steps = (), 1, 1, 1
    rows = []
    for k in (*runs, grid):
        request = Request(
            work.asked(runs=k),
            list(TEXTS),
            steps if k == grid else repeats,
            peer=k == 1,
            peer_repeats=repeats,
        )
        found = harness.measured(
            f"{k} runs", lambda request=request: request.ask(folder, log, folder / "compiled")
        )
        rows.append({"runs": k} | found)
    return (
        harness.heading()
        | {"device": _name(chosen.device), "workload": work.asked(), "rows": rows}
        | {"grid": GRID | {"steps": GRID_STEPS}, "whole": whole(rows, grid, steps)}
    )


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def whole(rows: list[dict[str, Any]], runs: int, steps: int) -> list[dict[str, Any]]:
    """Seconds of the whole grid, from steps of all its runs together; with compilation."""
    found = []
    row = next(row for row in rows if row["runs"] == runs)
    peer = next(row["peer"] for row in rows if "peer" in row)["seconds"]
    theirs = GRID_STEPS * runs * sum(peer[phase]["median"] for phase in PHASES)
    for part in row["rows"]:
        each = zip(*(part["seconds"][phase]["each"] for phase in PHASES), strict=True)
        spent = sum(map(sum, each)) * runs
        found.append(
            {
                "texts": part["texts"],
                "seconds": row["compile_seconds"] + spent * max(1.0, GRID_STEPS / steps),
                "how": "timed" if steps >= GRID_STEPS else f"extrapolated from {steps} steps",
                "Hugging Face": theirs,
            }
        )
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    facts = found["machine"]
    lines = []
    for row in found["rows"]:
        for part in row["rows"]:
            own = [part["seconds"][phase]["median"] for phase in PHASES]
            lines.append(
                [str(row["runs"]), part["texts"], f"{part['distinct_share']:.0%}"]
                + [f"{1e3 * x:.2f}" for x in (*own, sum(own))]
                + [f"{row['compile_seconds']:.0f}", f"{part['peak_megabytes']:.0f}"]
            )
        if "peer" in row:
            theirs = [row["peer"]["seconds"][phase]["median"] for phase in PHASES]
            lines.append(
                [
                    "1",
                    "Hugging Face",
                    "",
                    *(f"{1e3 * x:.2f}" for x in (*theirs, sum(theirs))),
                    "",
                    "",
                ]
            )
    columns = [
        "runs",
        "texts:",
        "distinct tokens",
        "decoding, ms a run and step",
        "learning, ms",
        "both, ms",
    ]
    columns += ["compilation, s", "memory, MB"]
    said = [
        f"{found['device']}; {facts['processor']}; torch {facts['torch']}, transformers {facts['transformers']}; {found['date']}.", "",
        harness.markdown(columns, lines), "",
    ]  # fmt: skip
    grid = " × ".join(f"{number} {name}" for name, number in found["grid"].items())
    for one in found["whole"]:
        said.append(
            f"{grid}, {one['texts']}: {one['seconds'] / 60:.1f} minutes with compilation ({one['how']}); "
            f"Hugging Face, one run after another: {one['Hugging Face'] / 60:.1f} minutes (extrapolated)."
        )
    return "\n".join(said)


def main() -> int:
    """Measure where there is a device."""
    parser = harness.parser(__doc__)
    parser.add_argument("--device", default="cuda", help="cpu only for a smoke run")
    parser.add_argument("--steps", type=int, default=10, help="of the grid; 300 time it whole")
    if parser.parse_args().device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "gpu: torch finds no CUDA device here; --device cpu --quick tries the code",
            file=sys.stderr,
        )
        return 2
    return harness.conduct(parser, "gpu", measure, table)


if __name__ == "__main__":
    sys.exit(main())
