"""Which controls a log lacks, and what each would cost, estimated from the log's own size."""

from typing import Any

import numpy as np

from controlarm.audit.gain import Side

CONTROLS = {
    "random": ("train", "the same run with a coin as its reward: what is left of the gain is not the reward's"),
    "format": ("train", "a reward for the box alone: what is gained by being asked for a form"),
    "majority": ("train", "a reward for the base model's majority answer: what agreeing with itself gives"),
    "incorrect": ("train", "a reward for a frequent wrong answer: what any consistent pressure gives"),
    "seeds": ("train", "two further seeds of the run itself: without them no interval speaks of the reward"),
    "best_prompt": ("evaluate", "the base under four further prompts: a gain over a poor prompt is the prompt's"),
}  # fmt: skip
"""Name of a control → what it takes, and what it is for. All but the last two are arms of `controlarm.arms`."""

RUNS = {"seeds": 2, "best_prompt": 4}
"""How many times the audited run a control takes; else once."""
CHARACTERS_PER_TOKEN = 4
"""Where a log has no token counts."""
FLOP_PER_PARAMETER = {"train": 8, "evaluate": 2}
"""Operations a parameter and token: 2 to sample it; 6 to train on it (forward and backward)."""
FLOPS = 0.4 * 989e12
"""A GPU's operations a second: 40 % of what an H100 promises in bfloat16."""


def unrun(side: Side, run: set[str], training: bool) -> list[dict[str, Any]]:
    """Each control with its cost in tokens and GPU hours per billion parameters; ``run`` are names of logs that were given.

    cost = times × Σ over the log's rollouts of (prompt + completion tokens); GPU hours per 10⁹ parameters = FLOP_PER_PARAMETER × 10⁹ × tokens / (FLOPS × 3600).
    A log of evaluations holds no training run, so what training a control costs cannot be told from it.
    """
    samples = side.samples
    rows = np.flatnonzero(side.chosen)
    logged = samples.num_tokens[rows]
    counted = bool(len(rows)) and not np.isnan(logged).any()
    completions = logged.sum() if counted else samples.length[rows].sum() / CHARACTERS_PER_TOKEN
    lengths = np.array([len(p or "") for p in samples.prompts], dtype=float)
    tokens = float(completions + lengths[samples.problem[rows]].sum() / CHARACTERS_PER_TOKEN)
    found = []
    for name, (kind, purpose) in CONTROLS.items():
        known = kind == "evaluate" or training
        times = RUNS.get(name, 1)
        hours = FLOP_PER_PARAMETER[kind] * 1e9 * times * tokens / (FLOPS * 3600)
        found.append({
            "control": name, "run": name in run, "purpose": purpose, "kind": kind, "times": times, "rollouts": times * len(rows) if known else None,
            "tokens": times * tokens if known else None, "gpu_hours_per_billion": hours if known else None, "tokens_counted": counted,
        })  # fmt: skip
    return found
