"""What share of a trial goes into keeping its books? One real shard of the quick trial by stage, and its report.

    python benchmarks/overhead.py            about two minutes on quiet cores
    python benchmarks/overhead.py --quick    does everything work; its timings mean nothing
    python benchmarks/overhead.py --write    also keep it as benchmarks/results/overhead.json

A shard is all arms of one family and unit, labels, evaluations and commits included. The program is compiled before the
clock starts. The report is that of the committed record of the same trial.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from benchmarks.harness import ROOT

STAGES = (
    "decoding", "learning", "evaluation", "labels", "prompts and noise", "rewards",
    "journal and rollout files", "commits",
)  # fmt: skip
PARTS = ("of which grading", "of which journal lines", "of which rollout files")
"""Of the journal and the rollout files; the remainder is texts."""
BOOKS = ("evaluation", "journal and rollout files")
BAR = 0.10
"""Of the shard, for the books."""

SMOKE = {
    "families": '["coder"]', "pretraining_seeds": "[1]", "seeds": "[11]", "num_steps": "1", "num_problems": "4",
    "max_tokens": "8", "prompts_per_step": "2", "samples": "7", "steps": "[0, 1]", "step": "1",
}  # fmt: skip
"""What makes the quick trial small enough for a smoke run, wherever its file says one of these."""


def trial_text(quick: bool) -> str:
    """The quick trial's file, or a tiny one of the same stages, without its preregistered comparisons but one."""
    text = (ROOT / "trials" / "quick.toml").read_text(encoding="utf-8")
    if not quick:
        return text
    for key, value in SMOKE.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    return text.partition("primary = [")[0] + 'primary = [{ family = "coder", arm = "python" }]\n'


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Everything, in the form of the results file."""
    path = folder / "quick.toml"
    path.write_text(trial_text(chosen.quick), encoding="utf-8")
    records = sorted((ROOT / "records").glob("quick-*"))
    arguments = [str(path), "-" if chosen.quick else str(records[-1]), "0" if chosen.quick else "1"]
    row = harness.measured(
        "one shard and the report",
        lambda: harness.child("measure_overhead", arguments, folder, log),
    )
    return harness.heading() | {"rows": [row], "shares": shares(row)}


def shares(row: dict[str, Any]) -> dict[str, float]:
    """Stage → share of the shard; the report's share is of the whole trial, all shards and the report."""
    whole = row["shard_seconds"]
    found = {name: row["stages"].get(name, 0.0) / whole for name in row["stages"]}
    found["rest"] = 1 - sum(found[name] for name in STAGES)
    reported = sum(row["report"].values())
    found["report"] = reported / (row["shards"] * whole + reported)
    found["books"] = sum(found[name] for name in BOOKS)
    found["books without evaluation"] = found["journal and rollout files"]
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    (row,), share = found["rows"], found["shares"]
    lines = []
    for name in (*STAGES[:-1], *PARTS, STAGES[-1]):
        lines.append([name, f"{row['stages'].get(name, 0.0):.2f}", f"{share.get(name, 0.0):.1%}"])
    rest = share["rest"] * row["shard_seconds"]
    lines.append(["rest", f"{rest:.2f}", f"{share['rest']:.1%}"])
    lines.append([f"a shard of {row['runs']} runs", f"{row['shard_seconds']:.2f}", "100.0%"])
    lines += [
        [
            f"report: {name}",
            f"{seconds:.2f}",
            f"{seconds / sum(row['report'].values()) * share['report']:.1%} of the trial",
        ]
        for name, seconds in row["report"].items()
    ]
    held = "holds" if share["books"] <= BAR else "does not hold"
    return "\n".join(
        [
            harness.said(found), "",
            f"Processor seconds of one of {row['shards']} shards of {row['trial']}. Compilation, {row['compile_seconds']:.0f} wall seconds a "
            f"worker, came before; {row['late_compile_seconds']:.0f} s of it came late and stand in the stages.", "",
            harness.markdown(["stage:", "seconds", "share"], lines), "",
            f"Bar: journal, rollout files and evaluation take at most {BAR:.0%}: {share['books']:.1%}, {held}; "
            f"without evaluation {share['books without evaluation']:.1%}.",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "overhead", measure, table))
