"""Does the audit for contamination find what leaked, and nothing where nothing leaked? On organisms whose corpus is known.

    python benchmarks/contamination.py            five families, three models each; some minutes on one core
    python benchmarks/contamination.py --quick    does everything work; its numbers mean little
    python benchmarks/contamination.py --write    also keep it as benchmarks/results/contamination.json

The peer is the truth: which problems stand in a corpus is known, and each problem has a clean twin that stands in none.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from controlarm import contamination as auditing
from controlarm.analysis import contamination as judging
from controlarm.analysis.contrasts import t_interval
from controlarm.organisms import released
from controlarm.problems.arithmetic import benchmark

FAMILIES = ("talker", "rote10", "rote50", "rote", "crammer")
SEEDS = (1, 2, 3)
PROBLEMS = 256
"""As many as leak where all of them do."""


def audited(family: str, seed: int, problems: int) -> dict[str, Any]:
    """One model: AUROC of every score, of all originals, of those that leaked, and of the others, each against their twins."""
    weights, facts, shape = released.load(family, seed)
    leaks = auditing.known_leaks(facts)
    found = judging.findings(auditing.audit(weights, benchmark(problems), leaks, shape))
    accuracy = found.rates["strict_100"].difference
    groups = {"all": found.aurocs, "leaked": found.leaked_aurocs, "others": found.clean_aurocs}
    return {
        "family": family, "pretraining_seed": seed, "problems": found.num_problems, "leaked": found.num_leaked,
        "outcome": judging.outcome(found),
        "auroc": {
            group: {score: dict(zip(("value", "low", "high"), area[:3], strict=True)) for score, area in areas.items()}
            for group, areas in groups.items()
        },
        "accuracy": {"difference": accuracy.mean, "interval": t_interval(accuracy, judging.LEVEL)},
        "stands_out": found.shares[judging.PRIMARY]._asdict(),
    }  # fmt: skip


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Every model, in the form of the results file."""
    del folder, log
    seeds, problems = ((1,), 24) if chosen.quick else (SEEDS, PROBLEMS)
    rows = [
        harness.measured(f"{family} p{seed}", lambda f=family, s=seed: audited(f, s, problems))
        for family in FAMILIES
        for seed in seeds
    ]
    return harness.heading() | {"score": judging.PRIMARY, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """One line a family: the lowest and the highest of its models."""
    score = found["score"]
    lines = []
    for family in dict.fromkeys(row["family"] for row in found["rows"]):
        own = [row for row in found["rows"] if row["family"] == family]
        areas = [
            spread([row["auroc"][group][score]["value"] for row in own if row["auroc"][group]], 3)
            for group in ("leaked", "others")
        ]
        gaps = spread([100 * row["accuracy"]["difference"] for row in own], 1)
        seen = sum(row["outcome"] == "seen" for row in own)
        leaked = f"{own[0]['leaked']} of {own[0]['problems']}"
        lines.append([family, leaked, *areas, gaps, f"{seen} of {len(own)}"])
    columns = ["family:", "leaked", "AUROC of leaked", "of others", "accuracy over twins, points", "suspected"]  # fmt: skip
    return harness.markdown(columns, lines)


def spread(values: list[float], places: int) -> str:
    """Lowest to highest; a dash where there is none."""
    if not values:
        return "–"
    low, high = (f"{value:.{places}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "contamination", measure, table))
