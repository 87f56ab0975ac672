r"""What prompts alone can do, without training: nonsense in front, or a strategy begun for the policy.

A gain of training is to be held against the best of these, not only against the plain prompt: nonsense in front raised
Qwen2.5-Math-7B by 19 points (arXiv:2506.10947). An organism's vocabulary is closed (``tokenizer.PIECES``), so there are
no instructions to give it. Nonsense is made of its own words for things and people, without a number or a verb; it is no
story, and no document of pretraining had anything before its problem. A strategy is begun by the first words that every
solution of its kind has.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa

from controlarm import prompts
from controlarm.evaluation import Sampled
from controlarm.probes.counting import COUNT_FIELDS, counts
from controlarm.probes.references import story
from controlarm.probes.subject import Subject, blocks, by_problem, decode
from controlarm.records import Problem

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("prompt", pa.string()),
        ("prompt_text", pa.string()),
        *COUNT_FIELDS,
    ]
)


class Prompt(NamedTuple):
    """A way to ask."""

    prefix: str
    """Before the plain prompt."""
    opening: Callable[[Problem], str] | None
    """What the completion begins with; graded as part of it."""


def words_opening(problem: Problem) -> str:
    """``"347 and "``: the number that the story begins with, and the first word of a solution in words.

    Raises:
        ValueError: it is not a problem of the arithmetic set.
    """
    return f"{story(problem).start} and "


PROMPTS: dict[str, Prompt] = {
    "plain": Prompt("", None),
    "nonsense": Prompt(" lamps kites nuts bells.\n", None),
    "long_nonsense": Prompt(
        " rings pens, Tove cups keys, Ivo and Lea hats jars.\n seeds maps eggs, Gus disks and Nia masks pears figs.\n",
        None,
    ),
    "code_opening": Prompt("", lambda problem: "```python\n"),
    "words_opening": Prompt("", words_opening),
}
"""``code_opening`` says what forcing code says (``probes.forced``), since that forces its first token and the opening is one."""


def probe(subject: Subject) -> pa.Table:
    """One row a problem and prompt, verdicts counted. ``prompt_text``: all that the policy read before it wrote.

    The table's metadata ``prompts`` holds, as JSON, each prompt's prefix and the first problem's ``prompt_text``.

    Raises:
        ValueError: a problem is not of the arithmetic set.
    """
    rows, told = [], {}
    for name, prompt in PROMPTS.items():
        openings = [prompt.opening(p) if prompt.opening else "" for p in subject.problems]
        texts = [
            f"{prompt.prefix}{prompts.render(problem.text)}{opening}"
            for problem, opening in zip(subject.problems, openings, strict=True)
        ]
        told[name] = {"prefix": prompt.prefix, "example": texts[0]}
        made = subject.own.completions if name == "plain" else asked(subject, prompt, openings)
        rows += [
            {"problem_id": problem.id, "prompt": name, "prompt_text": text} | counts(own)
            for problem, text, own in zip(subject.problems, texts, made, strict=True)
        ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return table.replace_schema_metadata({"prompts": json.dumps(told)})


def asked(subject: Subject, prompt: Prompt, openings: Sequence[str]) -> list[list[Sampled]]:
    """Completions of each problem, asked so, their openings in front; the greedy one first."""
    made: list[list[Sampled]] = []
    for block in blocks(subject):
        own = openings[len(made) : len(made) + len(block.rows)]
        completions = decode(subject, subject.policy, block, prompt.prefix, own)
        made += by_problem(block.rows, completions, own)
    return made
