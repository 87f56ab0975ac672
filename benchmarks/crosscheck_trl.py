"""Do both engines find the same? The trial ``crosscheck`` under TRL and under lockstep, contrast by contrast.

    python benchmarks/crosscheck_trl.py                      reads both records
    python benchmarks/crosscheck_trl.py RUNS_A RUNS_B        reads two run folders
    python benchmarks/crosscheck_trl.py --write              also keep it as benchmarks/results/crosscheck_trl.json

Margin, arms, units and steps stand in the protocols, which were written before the runs; see docs/trl.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from controlarm.analysis.equivalence import compare, identical
from controlarm.analysis.folder import read_trial

ROOT = Path(__file__).resolve().parents[1]


def found(lockstep: Path, trl: Path) -> dict[str, Any]:
    """Every contrast in both trials; differences are trl minus lockstep."""
    first, second = read_trial(lockstep), read_trial(trl)
    said = identical(first, second)
    rows = [
        {
            "recipe": c.recipe, "family": c.family, "arm": c.arm,
            "units": [
                {"pretraining_seed": u.pretraining_seed, "seed": u.seed, "lockstep": a, "trl": b}
                for u, a, b in c.units
            ],
            "difference": c.found._asdict(),
            "same_answers": said[c.recipe, c.arm],
        }
        for c in compare(first, second)
    ]  # fmt: skip
    end = first.protocol.endpoint
    return {
        "lockstep": lockstep.name, "trl": trl.name, "metric": end.metric, "step": end.step,
        "placebo": end.placebo, "margin": end.margin, "contrasts": rows,
        "same_answers_of_placebo": {r: s for (r, arm), s in said.items() if arm == end.placebo},
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """A table, in percentage points."""
    print(
        f"{result['metric']} after {result['step']} steps, arm minus {result['placebo']}, in points; margin ± {100 * result['margin']:g}"
    )
    for row in result["contrasts"]:
        d = row["difference"]
        means = [
            100 * sum(u[e] for u in row["units"]) / len(row["units"]) for e in ("lockstep", "trl")
        ]
        print(
            f"  {row['recipe']:<10} {row['arm']:<14} lockstep {means[0]:+.2f}  trl {means[1]:+.2f}  difference {100 * d['mean']:+.3f} "
            f"[{100 * d['low']:+.3f}, {100 * d['high']:+.3f}]  p {d['p']:.2g}  {'equivalent' if d['equivalent'] else 'not shown equivalent'}; "
            f"{100 * row['same_answers']:.1f} % of answers the same"
        )


def main() -> None:
    """Compare, print, and keep where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="lockstep's, then trl's")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    folders = chosen.folders or [
        next((ROOT / "records").glob(f"crosscheck_{engine}-*")) for engine in ("lockstep", "trl")
    ]
    result = found(*folders)
    show(result)
    if chosen.write:
        path = ROOT / "benchmarks" / "results" / "crosscheck_trl.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
