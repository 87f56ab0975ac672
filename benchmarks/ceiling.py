"""How near does the engine come to what its matrix products allow? Operations a second over those of the products by themselves.

    python benchmarks/ceiling.py            about two minutes on quiet cores
    python benchmarks/ceiling.py --quick    does everything work; its timings mean nothing
    python benchmarks/ceiling.py --write    also keep it as benchmarks/results/ceiling.json

Operations are counted by a formula (`flops`), computed ones and those that distinct prefixes need without padding.
The ceiling is measured in the same process: each batched product of a pass in bfloat16, factors hot, best of seven;
the mix is all of a pass's operations over the time that its products take apart.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from benchmarks.measure_step import Request, compile_all
from benchmarks.workload import Workload

SIZES = {
    "quick trial": Workload(runs=7, prompts=16, group=8),
    "single run": Workload(runs=1, prompts=64, group=16),
}
SMOKE = {"smoke": Workload(runs=2, prompts=2, group=4, tokens=8, compiled=False)}
TEXTS = ("organism", "distinct")
MIX = {"decode": "decode", "scoring": "update", "update": "update"}
"""Phase → whose mix of products is its ceiling; scoring has the forward half of the update's."""
BAR = 0.45
"""Of the ceiling, for the update."""


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Everything, in the form of the results file."""
    sizes = SMOKE if chosen.quick else SIZES
    requests = [
        Request(work.asked(), list(TEXTS), 1 if chosen.quick else 7, ceiling=True)
        for work in sizes.values()
    ]
    compiled = folder / "compiled"
    if not chosen.quick:
        compile_all(requests, folder, log, [compiled] * len(requests))
    rows = [
        {"size": size}
        | harness.measured(size, lambda request=request: request.ask(folder, log, compiled))
        for size, request in zip(sizes, requests, strict=True)
    ]
    return harness.heading() | {"rows": rows, "shares": [s for row in rows for s in shares(row)]}


def shares(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Operations a second of each phase, and their share of the ceiling."""
    found = []
    for part in row["rows"]:
        for phase, mix in MIX.items():
            seconds = part["seconds"][phase]["median"]
            rates = {kind: count / seconds for kind, count in part["flops"][phase].items()}
            ceiling = row["ceiling"][mix]["mix"]
            found.append(
                {
                    "size": row["size"],
                    "texts": part["texts"],
                    "phase": phase,
                    "distinct_share": part["distinct_share"],
                    "seconds": seconds,
                    "operations": part["flops"][phase],
                    "rates": rates,
                    "ceiling": ceiling,
                    "shares": {kind: rate / ceiling for kind, rate in rates.items()},
                }
            )
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        [
            row["size"],
            row["texts"],
            row["phase"],
            f"{row['distinct_share']:.0%}",
            f"{1e3 * row['seconds']:.1f}",
            f"{row['operations']['computed'] / 1e9:.2f}",
            f"{row['operations']['useful'] / row['operations']['computed']:.0%}",
            f"{row['rates']['computed'] / 1e9:.0f}",
            f"{row['ceiling'] / 1e9:.0f}",
            f"{row['shares']['computed']:.2f}",
            f"{row['shares']['useful']:.2f}",
        ]
        for row in found["shares"]
    ]
    columns = [
        "size:",
        "texts:",
        "phase:",
        "distinct tokens",
        "ms a run and step",
        "10⁹ operations",
    ]
    columns += ["useful", "10⁹/s", "ceiling", "of ceiling", "useful of ceiling"]
    said = [harness.said(found), "", harness.markdown(columns, lines)]
    for row in found["rows"]:
        for mix, one in row["ceiling"].items():
            products = [
                [p["product"], f"{p['share']:.0%}", f"{p['rate'] / 1e9:.0f}"]
                for p in one["products"]
            ]
            said += [
                "",
                f"{row['size']}, products of {mix}: mix {one['mix'] / 1e9:.0f}, best {one['best'] / 1e9:.0f}:",
            ]
            said += ["", harness.markdown(["product:", "of operations", "10⁹/s"], products)]
    reached = [r["shares"]["computed"] for r in found["shares"] if r["phase"] == "update"]
    held = "holds" if min(reached) >= BAR else "does not hold"
    said += [
        "",
        f"Bar: updates reach {BAR} of the ceiling: {min(reached):.2f} to {max(reached):.2f}, {held}.",
    ]
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "ceiling", measure, table))
