"""One shard of a trial file, every stage on the clock, and a report.

Run by ``overhead.py``: python -m benchmarks.measure_overhead RESULT.json TRIAL REPORTED COMPILED

REPORTED is the folder whose report is made, or ``-`` for the shard's own; COMPILED, 0 or 1, whether the engine's compiled
program is used.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

import controlarm.train
from benchmarks.measure_lockstep import plan
from benchmarks.measured import SIZES, Clock, compile_seconds
from controlarm import files, journal, report, rollouts, trial
from controlarm.analysis import summary
from controlarm.engines import lockstep
from controlarm.organisms.catalogue import path_of

STAGES = {
    "_labels": "labels",
    "_evaluate_base": "evaluation",
    "_evaluate": "evaluation",
    "_prompts": "prompts and noise",
    "_pay": "rewards",
    "_record": "journal and rollout files",
    "_commit": "commits",
}
"""Functions of the engine, each a stage of its own."""


def warm(folder: Path) -> None:
    """Compile: a step of the same shapes as the quick trial's, thrown away."""
    folder.mkdir()
    Path("organisms").mkdir()
    shutil.copyfile(path_of("coder", 1), Path("organisms") / "benchmarked-p1.safetensors")
    lockstep.run_shard(plan(SIZES["quick trial"], "bfloat16", 1, folder), 0, lambda _: None)


def measure(path: Path, reported: str, compiled: bool, folder: Path) -> dict[str, Any]:
    """Seconds of processor time by stage, of the first shard and of the report."""
    if compiled:
        warm(folder / "warm-up")
    compiling = compile_seconds()
    clock = Clock()
    for name, stage in STAGES.items():
        clock.timed(lockstep, name, stage)
    clock.timed(controlarm.train, "sample", "decoding")
    clock.timed(controlarm.train, "learn", "learning")
    inside: list[int] = []
    _mark(lockstep, "_record", inside)
    for function in (rollouts, "table"), (files, "write_table"):
        clock.timed(*function, "of which rollout files", only=lambda: bool(inside))
    clock.timed(rollouts, "facts", "of which grading")
    clock.timed(journal.Journal, "append", "of which journal lines")
    prepared = trial.prepare(path, folder, "cpu")
    made = trial.engine_plan(prepared)._replace(compiled=compiled)
    started = time.process_time()
    lockstep.run_shard(made, 0, lambda _: None)
    whole = time.process_time() - started
    spent = dict(clock.spent)
    home = made.folder
    if reported != "-":
        home = folder / "reported"
        shutil.copytree(reported, home)
    started = time.process_time()
    found = summary.summarise(home)
    summarised = time.process_time()
    report.write(home, found)
    return {
        "trial": path.name,
        "shards": len(made.shards),
        "runs": len(made.shards[0]),
        "shard_seconds": whole,
        "stages": spent,
        "compile_seconds": compiling,
        "late_compile_seconds": compile_seconds() - compiling,
        "report": {"analysis": summarised - started, "pages": time.process_time() - summarised},
    }


def _mark(owner: Any, name: str, inside: list[int]) -> None:  # noqa: ANN401  module or object
    """Hold a mark in ``inside`` while ``owner.name`` runs."""
    function = getattr(owner, name)

    def marked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        inside.append(1)
        try:
            return function(*args, **kwargs)
        finally:
            inside.pop()

    setattr(owner, name, marked)


if __name__ == "__main__":
    torch.set_num_threads(1)
    result, path, reported, compiled = sys.argv[1:]
    found = measure(Path(path), reported, compiled == "1", Path(result).with_suffix(""))
    Path(result).write_text(json.dumps(found), encoding="utf-8")
