"""A card for each organism: what it was made of, and what was measured of it, as chosen and with a strategy forced.

Accuracy within a strategy *as chosen* is confounded with the problems that the strategy is chosen on; so each strategy is
also forced on all problems, by allowing or forbidding its first token.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from controlarm import checkpoints, evaluation, files
from controlarm.evaluation import GREEDY, Row, Sampled, judge
from controlarm.organisms import tokenizer
from controlarm.organisms.corpus import Strategy
from controlarm.organisms.transformer import Shape, Weights
from controlarm.problems import arithmetic
from controlarm.records import Problem
from controlarm.sampling import gumbel_noise, sample

NUM_PROBLEMS = 500
MAX_TOKENS = 32
CODE_OPENING = tokenizer.encode("```python\n")[0]
FORCE = 1e6
"""Added to the noise of the code strategy's first token: far above any log-probability."""


def completions(
    weights: Weights,
    problems: Sequence[Problem],
    decoding: Literal["greedy", "sampled"],
    forced: Strategy | None,
) -> list[Sampled]:
    """One completion of each problem by one model (run axis of 1)."""
    rows = [Row(p, (GREEDY if decoding == "greedy" else 0,)) for p in problems]
    paths = [[None if decoding == "greedy" else ("card", p.id)] for p in problems]
    noise = gumbel_noise(paths, MAX_TOKENS, tokenizer.VOCAB_SIZE)
    if forced:
        noise[:, :, 0, CODE_OPENING] = FORCE if forced == "code" else -FORCE
    tokens = evaluation.encode_prompts(
        rows, max(len(tokenizer.encode(p.text + "\n")) for p in problems)
    )
    made = sample(weights, tokens[None], noise[None], Shape(), compiled=False)
    return evaluation.unpack(rows, made, 0)


def measure(weights: Weights) -> dict[str, dict[str, float | None]]:
    """The card's table: row → column → value; shares and accuracies as fractions, None where nothing was counted."""
    compute = {name: w.to(torch.bfloat16) for name, w in weights.items()}
    problems = arithmetic.problems("held_out", NUM_PROBLEMS, "card")
    table: dict[str, dict[str, float | None]] = {}
    for decoding in ("greedy", "sampled"):
        for forced in (None, "code", "words"):
            made = completions(compute, problems, decoding, forced)
            table[f"{decoding}, {forced or 'as chosen'}"] = _columns(made)
    return table


def _columns(made: Sequence[Sampled]) -> dict[str, float | None]:
    said = [judge(one.text, one.problem) for one in made]
    code = np.array([s.has_python for s in said])
    found = {
        "strict": np.array([s.grade.strict == "right" for s in said]),
        "lenient": np.array([s.grade.lenient == "right" for s in said]),
        "boxed": np.array([s.grade.boxed is not None for s in said]),
    }
    columns: dict[str, float | None] = {"code share": float(code.mean())}
    for name, values in found.items():
        columns[name] = float(values.mean())
        columns[f"{name} in code"] = float(values[code].mean()) if code.any() else None
        columns[f"{name} in words"] = float(values[~code].mean()) if (~code).any() else None
    claims = [s.code_true for s in said if s.code_true is not None]
    columns["claims true in code"] = float(np.mean(claims)) if claims else None
    columns["parses in code"] = (
        float(np.mean([s.code_parses for s, c in zip(said, code, strict=True) if c]))
        if code.any()
        else None
    )
    columns["tokens"] = float(np.mean([one.num_tokens for one in made]))
    columns["truncated"] = float(np.mean([one.truncated for one in made]))
    return columns


def write(path: Path, weights: Weights, facts: dict[str, Any]) -> Path:
    """Measure an organism and write its card beside its file, as JSON and as text; returns the text's path."""
    table = measure(weights)
    card = facts | {
        "sha256": checkpoints.tensors_sha256(weights),
        "problems": NUM_PROBLEMS,
        "table": table,
    }
    files.write_atomic(path.with_suffix(".json"), json.dumps(card, indent=1).encode())
    text = path.with_suffix(".md")
    files.write_atomic(text, _text(card).encode())
    return text


def _text(card: dict[str, Any]) -> str:
    rows = card["table"]
    columns = list(next(iter(rows.values())))
    lines = [
        f"# {card['family']}, pretraining seed {card['seed']}",
        "",
        f"Made by `{card['command']}`: {card['recipe']['num_steps']} steps of {card['recipe']['batch_size']} documents, "
        f"{card['parameters']:,} parameters. SHA-256 of the weights: `{card['sha256']}`.",
        "",
        "Mixture: " + ", ".join(f"{name} {value}" for name, value in card["mixture"].items()) + ".",
        "",
        f"Measured on {card['problems']} held-out problems, once each, greedy and at temperature 1; shares as fractions. "
        "`strict` needs the box, `lenient` takes any final answer. "
        "Forced: the strategy's first token is imposed or forbidden on every problem.",
        "",
        "| | " + " | ".join(rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for column in columns:
        cells = ["–" if row[column] is None else f"{row[column]:.3g}" for row in rows.values()]
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
