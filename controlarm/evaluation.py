"""Checkpoint → graded samples, one row per (problem, sample). Also what makes the base's label samples.

Many completions are made at once, to fill the sampler's tiles. One compiled program serves training, evaluation and
labelling, and what is sampled does not depend on how much is asked at once. A problem's greedy completion is one like any
other, with no noise.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from controlarm import detectors, grading, prompts, seeds
from controlarm.organisms import tokenizer
from controlarm.organisms.transformer import Shape, Weights
from controlarm.records import Grade, Problem
from controlarm.sampling import Completions, gumbel_noise, sample

GREEDY = -1

BLOCK_TOKENS = 1 << 14
"""Tokens of each run that are made at once: 512 completions of 32."""


class Judgement(NamedTuple):
    """All that is said of one completion."""

    grade: Grade
    has_python: bool
    code_parses: bool
    code_true: bool | None
    derived: bool | None


class Grader(NamedTuple):
    """By what completions are judged; by default as the organisms' arithmetic wants it."""

    equal: grading.Equal | None = None
    """None: the exact equality of `grading`."""
    form: grading.Form = "box"
    """Where the prompt wants the answer."""


EXACT = Grader()
"""What the organisms' arithmetic needs."""


@lru_cache(maxsize=1 << 14)
def judge(text: str, problem: Problem, grader: Grader = EXACT) -> Judgement:
    """Grade and detectors; remembered, since organisms often repeat themselves."""
    return Judgement(
        grading.grade(text, problem.answer, *grader),
        detectors.has_python(text),
        detectors.code_parses(text),
        detectors.claims_hold(text),
        detectors.derivation_holds(text, problem.text),
    )


class Grid(NamedTuple):
    """Shape of a training step."""

    prompts: int
    group: int
    prompt_length: int
    max_tokens: int


class Row(NamedTuple):
    """One prompt of a block and the samples to draw for it; ``GREEDY`` is the one without noise."""

    problem: Problem
    samples: tuple[int, ...]


class Sampled(NamedTuple):
    """One completion out of a block."""

    problem: Problem
    sample: int
    """0-based; ``GREEDY`` for the greedy one."""
    text: str
    num_tokens: int
    truncated: bool
    logprob: float
    entropy: float


def rows_of(problems: Sequence[Problem], samples: Sequence[int], group: int) -> list[Row]:
    """Cut each problem's samples into rows of ``group`` slots; a short row repeats its last slot."""
    rows = []
    for problem in problems:
        for start in range(0, len(samples), group):
            part = tuple(samples[start : start + group])
            rows.append(Row(problem, part + part[-1:] * (group - len(part))))
    return rows


def encode_prompts(rows: Sequence[Row], prompt_length: int) -> Tensor:
    """[prompt, place] token ids, left-padded."""
    texts = [tokenizer.encode(prompts.render(row.problem.text)) for row in rows]
    return torch.tensor(tokenizer.left_pad(texts, prompt_length))


def ask(
    rows_by_run: Sequence[Sequence[Row]], paths: Sequence[tuple[seeds.Part, ...]], grid: Grid
) -> tuple[Tensor, Tensor]:
    """Tokens and Gumbel noise of a block: [run, prompt, place] and [run, prompt, sample, token, vocab].

    Runs that share rows and path share the noise that is drawn.
    """
    tokens, noises = [], []
    drawn: dict[tuple[object, ...], Tensor] = {}
    for rows, path in zip(rows_by_run, paths, strict=True):
        tokens.append(encode_prompts(rows, grid.prompt_length))
        key = (path, *((row.problem.id, row.samples) for row in rows))
        if key not in drawn:
            keyed = [
                [None if s == GREEDY else (*path, row.problem.id, s) for s in row.samples]
                for row in rows
            ]
            drawn[key] = gumbel_noise(keyed, grid.max_tokens, tokenizer.VOCAB_SIZE)
        noises.append(drawn[key])
    return torch.stack(tokens), torch.stack(noises)


def unpack(rows: Sequence[Row], completions: Completions, run: int) -> list[Sampled]:
    """One run's completions of a block as texts; repeated slots come once."""
    tokens = completions.tokens[run].tolist()
    logprobs = completions.logprobs[run].sum(-1).tolist()
    lengths = (completions.tokens[run] != tokenizer.PAD).sum(-1)
    entropies = (completions.entropy[run].sum(-1) / lengths.clamp(min=1)).tolist()
    found = []
    for p, row in enumerate(rows):
        for s, number in enumerate(row.samples):
            if number in row.samples[:s]:
                continue
            ids = tokens[p][s]
            found.append(
                Sampled(
                    row.problem, number, tokenizer.decode(ids), int(lengths[p, s]),
                    tokenizer.END not in ids, logprobs[p][s], entropies[p][s],
                )
            )  # fmt: skip
    return found


def complete(
    weights: Weights,
    rows_by_run: Sequence[Sequence[Row]],
    paths: Sequence[tuple[seeds.Part, ...]],
    grid: Grid,
    shape: Shape,
    compiled: bool,
) -> list[list[Sampled]]:
    """Every run's completions of its rows.

    Args:
        weights: compute copy of all runs.
        rows_by_run: as many rows for each run.
        paths: of each run's noise; problem id and sample number are appended.
        grid: group size and lengths.
        shape: sizes of the model.
        compiled: use the compiled step.
    """
    num_rows = len(rows_by_run[0])
    assert all(len(rows) == num_rows for rows in rows_by_run)
    device = weights["embed"].device
    found: list[list[Sampled]] = [[] for _ in rows_by_run]
    size = max(1, BLOCK_TOKENS // grid.max_tokens // grid.group)
    for start in range(0, num_rows, size):
        blocks = [list(rows[start : start + size]) for rows in rows_by_run]
        tokens, noise = ask(blocks, paths, grid)
        completions = sample(weights, tokens.to(device), noise.to(device), shape, compiled)
        completions = Completions(*(x.cpu() for x in completions))
        for run, block in enumerate(blocks):
            found[run] += unpack(block, completions, run)
    return found


def spread(
    base: Weights,
    num_runs: int,
    rows: Sequence[Row],
    path: tuple[seeds.Part, ...],
    grid: Grid,
    shape: Shape,
    compiled: bool,
) -> list[Sampled]:
    """One model's completions of many rows, the rows dealt out over ``num_runs`` copies of it."""
    share = -(-len(rows) // num_runs)
    padded = [*rows, *[rows[-1]] * (share * num_runs - len(rows))]
    dealt = [padded[i * share : (i + 1) * share] for i in range(num_runs)]
    copies = {name: w.expand(num_runs, *w.shape[1:]).contiguous() for name, w in base.items()}
    made = complete(copies, dealt, [path] * num_runs, grid, shape, compiled)
    seen: dict[tuple[str, int], Sampled] = {}
    for each in made:
        for one in each:
            seen.setdefault((one.problem.id, one.sample), one)
    return list(seen.values())


def table(completions: Sequence[Sampled], grader: Grader = EXACT) -> pa.Table:
    """Graded rows in problem order, greedy first: the evaluation file of ``docs/formats.md``."""
    order: dict[str, int] = {}
    for one in completions:
        order.setdefault(one.problem.id, len(order))
    rows = []
    for one in sorted(completions, key=lambda c: (order[c.problem.id], c.sample)):
        said = judge(one.text, one.problem, grader)
        greedy = one.sample == GREEDY
        rows.append(
            {
                "problem_id": one.problem.id,
                "decoding": "greedy" if greedy else "sampled",
                "sample": 0 if greedy else one.sample,
                "text": one.text,
                "num_tokens": one.num_tokens,
                "truncated": one.truncated,
                "logprob": one.logprob,
                "entropy": one.entropy,
                **verdict_columns(said),
            }
        )
    return pa.Table.from_pylist([writable(row) for row in rows], schema=SCHEMA)


def writable(row: dict[str, object]) -> dict[str, object]:
    """The row as UTF-8 can hold it: a lone surrogate becomes a question mark."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def verdict_columns(said: Judgement) -> dict[str, object]:
    """The columns that evaluation and rollout files share."""
    return {
        "strict": said.grade.strict,
        "lenient": said.grade.lenient,
        "boxed": said.grade.boxed,
        "answer": said.grade.answer,
        "how": said.grade.how,
        "has_python": said.has_python,
        "code_parses": said.code_parses,
        "code_true": said.code_true,
        "derived": said.derived,
    }


VERDICT_FIELDS = [
    ("strict", pa.string()),
    ("lenient", pa.string()),
    ("boxed", pa.string()),
    ("answer", pa.string()),
    ("how", pa.string()),
    ("has_python", pa.bool_()),
    ("code_parses", pa.bool_()),
    ("code_true", pa.bool_()),
    ("derived", pa.bool_()),
]

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("decoding", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("logprob", pa.float64()),
        ("entropy", pa.float64()),
        *VERDICT_FIELDS,
    ]
)
