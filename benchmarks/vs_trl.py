"""How long does a training step take here and under TRL's GRPOTrainer? Same model, problems, recipe; one thread each.

    python benchmarks/vs_trl.py            the whole comparison, about ten minutes on quiet cores
    python benchmarks/vs_trl.py --quick    does everything work; its timings mean nothing
    python benchmarks/vs_trl.py --write    also keep it as benchmarks/results/vs_trl.json

Every measurement has a process of its own, one after another, so that its processor time is its own. Needs the extra
``trl`` and a released organism.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import machine  # noqa: E402  the repository need not be on Python's path
from controlarm.organisms.catalogue import path_of  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "vs_trl.json"

STEPS = {"quick trial": (14, 2), "single run": (8, 2), "smoke": (3, 1)}
"""Size → steps, and how many of them are warm-up."""

SIDES = {"controlarm": "measure_lockstep", "TRL": "measure_trl"}

PRECISIONS = ("bfloat16", "float32")


class ChildFailedError(RuntimeError):
    """A measurement did not finish; the message says where its output is."""


def child(module: str, arguments: list[str], folder: Path, log: Path) -> dict[str, Any]:
    """Run a measurement in a process of its own and read its result; its chatter goes to the log.

    Raises:
        ChildFailedError: it ended without a result.
    """
    result = folder / f"{module}.json"
    result.unlink(missing_ok=True)
    shutil.rmtree(result.with_suffix(""), ignore_errors=True)
    result.with_suffix("").mkdir()
    surroundings = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(result.with_suffix("") / "compiled"),
    }
    with log.open("a", encoding="utf-8") as file:
        print(f"\n--- {module} {' '.join(arguments)}", file=file, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", str(result), *arguments],
            cwd=folder, env=surroundings, stdout=file, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode or not result.exists():
        last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
        raise ChildFailedError(
            f"{module} {' '.join(arguments)} ended with exit code {done.returncode}; all of its output is in "
            f"{log}, which ends:\n{last}"
        )
    return json.loads(result.read_text(encoding="utf-8"))


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
                before = machine.load_average()
                started = time.perf_counter()
                found = child(module, [size, precision, *steps], folder, log)
                seconds = time.perf_counter() - started
                rows.append(
                    {"size": size, "side": side, "precision": precision}
                    | found
                    | {"load_average": [before, machine.load_average()], "seconds": seconds}
                )
                print(f"measured: {size}, {side}, {precision} ({seconds:.0f} s)", file=sys.stderr)
    return {
        "version": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine.describe(),
        "threads": 1,
        "steps": {size: dict(zip(("all", "warm_up"), STEPS[size], strict=True)) for size in sizes},
        "rows": rows,
        "ratios": {size: ratios(rows, size) for size in sizes},
        "gradient": child("agreement", [], folder, log),
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run; its timings mean nothing"
    )
    parser.add_argument("--size", choices=list(STEPS), action="append", help="only this size")
    parser.add_argument("--organism", type=Path, help="weights; the released coder-p1 by default")
    parser.add_argument("--write", action="store_true", help=f"keep as {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "vs_trl.log")
    chosen = parser.parse_args()
    if chosen.write and chosen.quick:
        parser.error("--write keeps measurements, and --quick makes none; drop one of the two")
    sizes = ["smoke"] if chosen.quick else chosen.size or ["quick trial", "single run"]
    precisions = PRECISIONS[:1] if chosen.quick else PRECISIONS
    log = chosen.log.resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    try:
        organism = chosen.organism or path_of("coder", 1)
        with tempfile.TemporaryDirectory(prefix="vs-trl-") as folder:
            found = measure(sizes, precisions, organism, Path(folder), log)
    except (ValueError, OSError, ChildFailedError) as error:
        print(f"vs_trl: {error}", file=sys.stderr)
        return 2
    text = json.dumps(found, indent=1)
    log.with_suffix(".json").write_text(text, encoding="utf-8")
    print(table(found))
    if chosen.write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
