r"""Problems as the rows of another trainer's data set, each with the id that labels and coins are keyed by.

The prompt is a conversation, which every trainer puts into the model's own chat template: the instruction as the system's
message, and the problem as the user's.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from controlarm import files
from controlarm.records import Problem

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""Qwen2.5-Math's default system prompt, which the papers on these models train under."""

Row = dict[str, Any]
Messages = list[dict[str, str]]


def _verl(problem: Problem, prompt: Messages, place: int, source: str) -> Row:
    return {
        "data_source": source,
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"split": "train", "index": place, "problem_id": problem.id},
    }


def _openrlhf(problem: Problem, prompt: Messages, place: int, source: str) -> Row:
    label = json.dumps({"problem_id": problem.id, "answer": problem.answer})
    return {"input": prompt, "label": label, "datasource": source}


def _trl(problem: Problem, prompt: Messages, place: int, source: str) -> Row:
    return {"prompt": prompt, "problem_id": problem.id, "answer": problem.answer}


def _verifiers(problem: Problem, prompt: Messages, place: int, source: str) -> Row:
    info = {"problem_id": problem.id}
    return {"id": problem.id, "prompt": prompt, "answer": problem.answer, "info": info}


TRAINERS: dict[str, Callable[[Problem, Messages, int, str], Row]] = {
    "trl": _trl,
    "verl": _verl,
    "openrlhf": _openrlhf,
    "verifiers": _verifiers,
}
"""Trainer → one row of its data set."""


def rows(
    problems: Sequence[Problem], trainer: str, source: str, instruction: str = INSTRUCTION
) -> list[Row]:
    """The data set of a trainer.

    Args:
        problems: in the order of the rows.
        trainer: of `TRAINERS`.
        source: what verl and OpenRLHF report validation by; the set's name.
        instruction: the system's message; "" for none.

    Raises:
        ValueError: no such trainer.

    >>> [row] = rows([Problem(id="p", text="1+1?", answer="2")], "trl", "sums", "Box it.")
    >>> row["prompt"]
    [{'role': 'system', 'content': 'Box it.'}, {'role': 'user', 'content': '1+1?'}]
    """
    if trainer not in TRAINERS:
        raise ValueError(f"no rows for the trainer {trainer!r}; there are {', '.join(TRAINERS)}")
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [
        TRAINERS[trainer](p, [*system, {"role": "user", "content": p.text}], place, source)
        for place, p in enumerate(problems)
    ]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as parquet or JSONL, as the name ends; the file appears whole or not at all.

    Raises:
        ValueError: a name that ends otherwise.
    """
    if path.suffix == ".parquet":
        files.write_table(path, pa.Table.from_pylist(list(rows)))
    elif path.suffix == ".jsonl":
        files.write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    else:
        raise ValueError(f"{path}: name it .parquet, which verl reads, or .jsonl")
