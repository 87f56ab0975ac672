"""How long does a training step take here and under TRL's GRPOTrainer? Same model, problems, recipe; one thread each.

    python benchmarks/vs_trl.py            the whole comparison, about ten minutes on quiet cores
    python benchmarks/vs_trl.py --quick    does everything work; its timings mean nothing
    python benchmarks/vs_trl.py --write    also keep it as benchmarks/results/vs_trl.json

Every measurement has a process of its own, one after another, so that its processor time is its own. Needs the extra
``trl`` and a released organism.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from controlarm.organisms.catalogue import path_of

STEPS = {"quick trial": (14, 2), "single run": (8, 2), "smoke": (3, 1)}
"""Size → steps, and how many of them are warm-up."""

SIDES = {"controlarm": "measure_lockstep", "TRL": "measure_trl"}

PRECISIONS = ("bfloat16", "float32")


def measure(
    sizes: list[str], precisions: tuple[str, ...], organism: Path, folder: Path, log: Path
) -> dict[str, Any]:
    """Everything, in the form of the results file."""
    (folder / "organisms").mkdir()
    shutil.copyfile(organism, folder / "organisms" / "benchmarked-p1.safetensors")
    rows = []
    for size in sizes:
        steps = [str(n) for n in STEPS[size]]
        for precision in precisions:
            for side, module in SIDES.items():
                found = harness.measured(
                    f"{size}, {side}, {precision}",
                    lambda module=module, given=(size, precision, *steps): harness.child(
                        module, list(given), folder, log
                    ),
                )
                rows.append({"size": size, "side": side, "precision": precision} | found)
    return harness.heading() | {
        "steps": {size: dict(zip(("all", "warm_up"), STEPS[size], strict=True)) for size in sizes},
        "rows": rows,
        "ratios": {size: ratios(rows, size) for size in sizes},
        "gradient": harness.child("agreement", [], folder, log),
    }


def ratios(rows: list[dict[str, Any]], size: str) -> dict[str, float]:
    """Processor seconds of ours over TRL's, per run and step and per token; TRL in whichever precision is faster."""
    mine = {r["precision"]: r for r in rows if r["size"] == size and r["side"] == "controlarm"}
    peer = min(
        (r for r in rows if r["size"] == size and r["side"] == "TRL"),
        key=lambda row: row["cpu_seconds"],
    )
    found = {}
    for precision, row in mine.items():
        found[precision] = row["cpu_seconds"] / peer["cpu_seconds"]
        tokens = row["tokens_per_rollout"] / peer["tokens_per_rollout"]
        found[f"{precision} per token"] = found[precision] / tokens
    return found


COLUMNS = ("generation", "logprobs", "update", "rest")


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    facts = found["machine"]
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, one thread a process; torch {facts['torch']}, "
        f"TRL {facts['trl']}, transformers {facts['transformers']}; {found['date']}.",
        "Processor seconds per run and step, mean (least–most); the compilation is not in them.",
        "",
        "| size | side | precision | seconds | "
        + " | ".join(COLUMNS)
        + " | tokens | compile, s | load |",
        "|---|---|---|--:|" + "--:|" * (len(COLUMNS) + 3),
    ]
    for row in found["rows"]:
        each = row["cpu_seconds_each"]
        cells = [
            row["size"],
            row["side"],
            row["precision"],
            f"{row['cpu_seconds']:.3f} ({min(each):.3f}–{max(each):.3f})",
            *(f"{row['phases'][name]:.3f}" for name in COLUMNS),
            f"{row['tokens_per_rollout']:.1f}",
            f"{row['compile_seconds']:.0f}",
            f"{max(x[0] for x in row['load_average']):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for size, each in found["ratios"].items():
        said = ", ".join(f"{name} {value:.3f}" for name, value in each.items())
        lines.append(f"{size}: ours / TRL's faster precision: {said}.")
    lines += ["", "Gradient of one step, ours against TRL's own loss, float32, same rollouts:", ""]
    lines += ["| loss | largest relative difference | tokens clipped |", "|---|--:|--:|"]
    for name, gap in found["gradient"].items():
        lines.append(f"| {name} | {gap['largest']:.1e} | {gap['clipped_share']:.0%} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and keep what was asked for."""
    parser = harness.parser(__doc__)
    parser.add_argument("--size", choices=list(STEPS), action="append", help="only this size")
    parser.add_argument("--organism", type=Path, help="weights; the released coder-p1 by default")

    def measure_chosen(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
        sizes = ["smoke"] if chosen.quick else chosen.size or ["quick trial", "single run"]
        precisions = PRECISIONS[:1] if chosen.quick else PRECISIONS
        return measure(sizes, precisions, chosen.organism or path_of("coder", 1), folder, log)

    return harness.conduct(parser, "vs_trl", measure_chosen, table)


if __name__ == "__main__":
    sys.exit(main())
