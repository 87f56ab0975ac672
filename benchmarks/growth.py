"""How does the cost of a step grow with runs, group size, completion length and parameters? Slopes on log-log axes.

    python benchmarks/growth.py            about six minutes on quiet cores
    python benchmarks/growth.py --quick    does everything work; its timings mean nothing
    python benchmarks/growth.py --write    also keep it as benchmarks/results/growth.json

One axis at a time from one point: one run, 16 × 8 completions of 32 tokens, 0.34 million parameters, one update a
rollout. Where nothing is shared, where four samples say one text, and as the organism speaks (it ends when it likes, and
has one size). Every point has a process of its own, for its memory; Hugging Face stands beside it, one run.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import flops, harness
from benchmarks.measure_step import Request, compile_all
from benchmarks.workload import Workload
from controlarm.organisms.transformer import Shape

BASE = Workload(runs=1, updates=1)
WIDTHS = {
    48: Shape(hidden=48, heads=2, inner=128),
    96: Shape(),
    224: Shape(hidden=224, heads=7, inner=600),
    512: Shape(hidden=512, heads=16, inner=1376),
}
"""Hidden width → shape of three layers; 0.09 to 9.8 million parameters."""

Change = dict[str, Any]
AXES: dict[str, list[tuple[float, Change]]] = {
    "runs": [(k, {"runs": k}) for k in (1, 4, 16)],
    "samples a prompt": [(g, {"group": g}) for g in (4, 8, 16, 32)],
    "tokens a completion": [(t, {"tokens": t}) for t in (16, 32, 64, 128)],
    "parameters": [(flops.num_parameters(s), {"shape": tuple(s)}) for s in WIDTHS.values()],
}
"""Axis → its points: where it stands there, and what that changes of ``BASE``."""
SMOKE: dict[str, list[tuple[float, Change]]] = {
    "samples a prompt": [(4, {"group": 4}), (8, {"group": 8})]
}

PHASES = ("decode", "learn")
STEEP = 1.05
"""A slope above it has a reason in ``REASONS``."""
REASONS: dict[tuple[str, str], str] = {
    (
        "tokens a completion",
        "decode",
    ): "every token attends to the whole cache, which is as long as prompt and longest completion together",
}
"""(axis, phase) → why its cost grows faster than the axis."""


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Everything, in the form of the results file."""
    axes, base = AXES, BASE
    if chosen.quick:
        axes, base = SMOKE, BASE._replace(prompts=2, tokens=8, compiled=False)
    requests: dict[str, Request] = {}
    points = [
        (axis, x, _request(base, change, chosen.quick))
        for axis, each in axes.items()
        for x, change in each
    ]
    for _, _, request in points:
        requests[str(request.workload)] = request
    compiled = folder / "compiled"
    if base.compiled:
        programs = _one_of_each_program(requests.values())
        compile_all(programs, folder, log, [compiled] * len(programs))
    answers = {
        key: harness.measured(
            _difference(request.workload, base),
            lambda request=request: request.ask(folder, log, compiled),
        )
        for key, request in requests.items()
    }
    rows = [{"axis": axis, "x": x} | answers[str(request.workload)] for axis, x, request in points]
    return harness.heading() | {"base": base.asked(), "rows": rows, "slopes": slopes(rows)}


def _request(base: Workload, change: Change, quick: bool) -> Request:
    work = base._replace(**change)
    # the organism has one shape, and it ends its texts before they are as long as an axis of lengths needs
    alone = work.sizes == Shape() and work.tokens == base.tokens
    texts = [*(["organism"] if alone else []), "alike", "distinct"]
    return Request(work.asked(), texts, 1 if quick else 3, peer=work.runs == 1 and not quick)


def _difference(workload: dict[str, Any], base: Workload) -> str:
    changed = {k: v for k, v in workload.items() if v != getattr(base, k)}
    return ", ".join(f"{k} {v}" for k, v in changed.items()) or "the common point"


def _one_of_each_program(requests: Any) -> list[Request]:  # noqa: ANN401  an iterable
    """Group size changes no shape: one request of each compiled program."""
    return list({str(r.workload | {"group": 0}): r for r in requests}.values())


def slope(x: list[float], y: list[float]) -> float:
    """Least squares of log y on log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def slopes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each axis, texts and phase: the whole step's seconds, all runs."""
    found = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in rows:
            if row["axis"] != axis:
                continue
            for part in row["rows"]:
                for phase in PHASES:
                    seconds = part["seconds"][phase]["median"] * part["runs"]
                    points.setdefault((part["texts"], phase), []).append((row["x"], seconds))
            for phase in PHASES if "peer" in row else ():
                seconds = row["peer"]["seconds"][phase]["median"]
                points.setdefault(("Hugging Face", phase), []).append((row["x"], seconds))
        for (texts, phase), each in points.items():
            if len(each) < 2:
                continue
            x, y = map(list, zip(*each, strict=True))
            found.append(
                {
                    "axis": axis,
                    "texts": texts,
                    "phase": phase,
                    "x": x,
                    "seconds": y,
                    "slope": slope(x, y),
                }
            )
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        [
            row["axis"], row["texts"], row["phase"], f"{row['slope']:.2f}",
            ", ".join(f"{x:,.0f}: {1e3 * y:.0f}" for x, y in zip(row["x"], row["seconds"], strict=True)),
        ]
        for row in found["slopes"]
    ]  # fmt: skip
    memory = [
        [
            row["axis"],
            f"{row['x']:,.0f}",
            *(f"{part['peak_megabytes']:.0f}" for part in row["rows"][-2:]),
        ]
        for row in found["rows"]
    ]
    said = [
        harness.said(found),
        "",
        "Processor milliseconds of a step, all runs, without compilation.",
        "",
    ]
    said.append(harness.markdown(["axis:", "texts:", "phase:", "slope", "points: ms:"], lines))
    said += [
        "",
        "Most memory that the process held, megabytes, torch and its compiler with it:",
        "",
    ]
    said.append(harness.markdown(["axis:", "at", "alike", "distinct"], memory))
    steep = {
        (r["axis"], r["phase"]): r
        for r in found["slopes"]
        if r["slope"] > STEEP and r["texts"] != "Hugging Face"
    }
    said += ["", f"Slopes above {STEEP}:" if steep else f"No slope is above {STEEP}."]
    said += [
        f"- {axis}, {phase}: {REASONS.get((axis, phase), 'no reason known')}"
        for axis, phase in steep
    ]
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "growth", measure, table))
