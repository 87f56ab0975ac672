r"""Rollouts of no known writer: fields are found by the names that people give them, or as the reader's options say.

Example: ``{"question": "1 + 1?", "gt": "2", "code": ["\\boxed{2}"], "pred": ["2"], "score": [true]}``, as the evaluation
scripts of ToRA's line write.
"""

from collections.abc import Iterable, Mapping, Sequence

from controlarm.logs.rows import Fields

COMPLETIONS = (
    "completion", "completions", "output", "outputs", "response", "responses", "generation", "generations",
    "generated_text", "model_output", "prediction_text", "text", "samples", "code", "solution_str",
)  # fmt: skip
PROMPTS = ("problem", "question", "prompt", "input", "query", "instruction", "messages")
GOLDS = (
    "gold", "gts", "gt", "ground_truth", "gold_answer", "reference_answer", "label", "target", "answer", "answers",
    "solution", "reward_model.ground_truth",
)  # fmt: skip
IDS = (
    "problem_id",
    "unique_id",
    "id",
    "idx",
    "index",
    "task_id",
    "question_id",
    "extra_info.index",
)
STEPS = ("step", "global_step", "training_step", "iteration")
ANSWERS = ("pred", "extracted_answer", "parsed_answer", "prediction", "predicted_answer")
TRUNCATED = ("truncated", "finish_reason", "is_truncated", "stop_reason")
TOKENS = ("num_tokens", "response_length", "completion_length", "completion_tokens", "num_output_tokens", "completion_ids")  # fmt: skip
SCORES = (
    "reward", "rewards", "score", "scores", "is_correct", "correct", "acc", "accuracy", "passed", "verdict",
)  # fmt: skip


def names_in(records: Iterable[object]) -> set[str]:
    """Fields that any of the records has, those within objects with a dot."""
    found: set[str] = set()
    for record in records:
        if isinstance(record, Mapping):
            for name, value in record.items():
                found.add(str(name))
                if isinstance(value, Mapping):
                    found |= {f"{name}.{inner}" for inner in value}
    return found


def recognises(names: set[str]) -> bool:
    """Whether any field may be a completion."""
    return not names.isdisjoint(COMPLETIONS)


def fields(names: set[str], records: Sequence[object]) -> Fields:
    """Fields by their names; the first name of each list that there is."""
    completion = _first(COMPLETIONS, names)
    prompt = _first(PROMPTS, names - {completion or ""})
    taken = {completion or "", prompt or ""}
    return Fields(
        completion=completion, prompt=prompt,
        gold=_first(GOLDS, names - taken), id=_first(IDS, names), step=_first(STEPS, names),
        answer=_first(ANSWERS, names - taken), truncated=_first(TRUNCATED, names),
        num_tokens=_first(TOKENS, names),
        scores=tuple(s for s in SCORES if s in names and _numeric(s, records)),
    )  # fmt: skip


def _first(wanted: Sequence[str], names: set[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _numeric(name: str, records: Sequence[object]) -> bool:
    """Whether a field holds numbers or booleans, or lists of them, and nothing else."""
    some = False
    for record in records:
        value = record.get(name) if isinstance(record, Mapping) else None
        for one in value if isinstance(value, list) else [value]:
            if one is not None and not isinstance(one, bool | int | float):
                return False
            some = some or one is not None
    return some


def numeric_fields(names: Iterable[str], records: Sequence[object]) -> tuple[str, ...]:
    """Those of the fields that hold numbers or booleans, in order."""
    return tuple(name for name in sorted(names) if "." not in name and _numeric(name, records))
