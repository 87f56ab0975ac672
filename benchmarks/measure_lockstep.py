"""Our side: the engine as a trial runs it, journal and all, of one shard.

Run by ``vs_trl.py``: python -m benchmarks.measure_lockstep RESULT.json SIZE PRECISION STEPS WARMUP
"""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import controlarm.train
from benchmarks.measured import (
    LEARNING_RATE,
    SIZES,
    Clock,
    Size,
    compile_seconds,
    num_problems,
    problems,
)
from controlarm import evaluation, files, protocol, trial
from controlarm.engines import lockstep

ARMS = ("ground_truth", "random", "majority", "python", "format", "incorrect", "constant")


def plan(size: Size, precision: str, num_steps: int, folder: Path) -> lockstep.Plan:
    """A shard of ``size.runs`` arms on the organism that the working folder holds."""
    arms = "\n".join(f"{name} = {{}}" for name in ARMS)
    text = f"""
        [trial]
        name = "benchmark"
        question = "How long does a step take?"
        [design]
        families = ["benchmarked"]
        pretraining_seeds = [1]
        seeds = [1]
        num_steps = {num_steps}
        num_problems = {num_problems(size)}
        max_tokens = {size.max_tokens}
        [recipes.grpo]
        prompts_per_step = {size.prompts}
        group_size = {size.group}
        updates_per_rollout = {size.updates}
        learning_rate = {LEARNING_RATE}
        precision = "{precision}"
        [arms]
        {arms}
        [labels]
        samples = 8
        [evaluation]
        num_problems = 1
        samples = 1
        steps = [0, {num_steps}]
        pass_at_k = [1]
        [endpoint]
        metric = "accuracy"
        step = {num_steps}
        placebo = "random"
        margin = 0.03
        planning_sd = 0.03
        primary = [{{family = "benchmarked", arm = "ground_truth"}}]
    """
    found = protocol.parse(text)
    rows = [
        {"split": split, "id": p.id, "text": p.text, "answer": p.answer}
        for split, some in (
            ("training", problems(num_problems(size))),
            ("held_out", problems(1)),
        )
        for p in some
    ]
    sha256 = files.write_table(folder / "problems.parquet", pa.Table.from_pylist(rows))
    return lockstep.Plan(
        folder, found, protocol.runs(found), [list(range(size.runs))], trial.PROMPT_LENGTH,
        trial.has_compiler(), "cpu", sha256,
    )  # fmt: skip


def measure(
    size: Size, precision: str, num_steps: int, warmup: int, folder: Path
) -> dict[str, Any]:
    """Train the shard and time its steps; evaluations are left out."""
    made = plan(size, precision, num_steps, folder)
    clock = Clock()
    clock.timed(controlarm.train, "sample", "generation")
    clock.timed(evaluation, "gumbel_noise", "generation")
    clock.timed(controlarm.train, "score", "logprobs")
    clock.timed(controlarm.train, "update", "update")

    def on_progress(progress: dict[str, Any]) -> None:
        if (progress["stage"], progress["step"]) == ("evaluated", 0):
            clock.start()
        if progress["stage"] == "trained":
            clock.mark()

    lockstep.run_shard(made, 0, on_progress)
    journals = [folder / spec.path / "steps.jsonl" for spec in made.runs[: size.runs]]
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in journals]
    tokens = [sum(run[i]["num_tokens"] for run in lines) / size.runs for i in range(num_steps)]
    return clock.result(warmup, size.runs, tokens) | {
        "compiled": made.compiled,
        "compile_seconds": compile_seconds(),
        "accuracy": [line["accuracy"] for line in lines[0]],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    result, size, precision, num_steps, warmup = sys.argv[1:]
    found = measure(
        SIZES[size], precision, int(num_steps), int(warmup), Path(result).with_suffix("")
    )
    Path(result).write_text(json.dumps(found), encoding="utf-8")
