"""A log in columns: what a text shows by itself, row by row, so that 100,000 completions fit in memory without their texts.

Texts are looked at once each (repeats are told by their hash) and dropped; kept are their ends, and whole those of a keyed choice
of problems and of texts, which does not depend on the order of rows.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from controlarm import detectors, grading
from controlarm.logs import Damage, Log, Row
from controlarm.records import How

TAIL = 240
"""Characters of a completion's end that are kept."""
SHOWN = 1_500
"""Characters of a completion that a page shows."""
PROBLEMS_KEPT = 40
"""Problems of which a completion is kept for the page."""
TEXTS_KEPT = 2_000
"""Completions that are compared with the problems' texts."""
TEXT_LOOKED_AT = 4_000
"""Characters of each of them."""
MAX_ANSWER = 2_000
"""Characters of an answer that is worth judging; a longer one is of unknown verdict."""
MOST_PLACES = 200
"""Damaged rows whose place is kept."""
WORDS = 400
"""Last words of a completion that repetition is measured on."""

_STATED = ("\\boxed", "<answer>", "nswer is", "####")
"""What an answer is first stated with."""


class Looks(NamedTuple):
    """What a text shows by itself."""

    boxed: int
    """Index of the strict answer among the log's answers; -1: none."""
    answer: int
    """The same of the lenient answer."""
    how: int
    """Index into `HOW`; -1: no answer."""
    has_python: bool
    code_parses: bool
    repetition: float
    """1 - distinct/all 4-grams of the last `WORDS` words (rep-4; Welleck et al. 2020, arXiv:1908.04319); NaN of fewer than 4."""
    stated_at: float
    """Share of the text that stands before an answer is first stated; NaN: none is."""
    ends_open: bool
    """The text ends in a letter, a digit or an operator rather than in a mark that ends something."""


HOW: tuple[str, ...] = get_args(How)
"""Where the lenient answer stood."""
TOO_LONG = -2
"""Index of an answer that nobody judges."""


@dataclass(kw_only=True)
class Samples:
    """The completions of one log."""

    log: Log
    problems: list[str]
    """What tells problems apart: id or prompt."""
    prompts: list[str | None]
    """The prompt of each problem, as first read."""
    ids: list[str | None]
    answers: list[str]
    golds: list[str]
    files: Int[np.ndarray, " row"]
    lines: Int[np.ndarray, " row"]
    problem: Int[np.ndarray, " row"]
    gold: Int[np.ndarray, " row"]
    """Index into `golds`; -1: the log has none."""
    said: Int[np.ndarray, " row"]
    """Index into `answers` of what the log's own grader looked at; -1: not logged."""
    step: Int[np.ndarray, " row"]
    """-1: not logged."""
    length: Int[np.ndarray, " row"]
    """Characters."""
    num_tokens: Float[np.ndarray, " row"]
    truncated: Int[np.ndarray, " row"]
    """1, 0, or -1: not logged."""
    order: np.ndarray
    """A key by text and occurrence: a choice of rows that does not depend on their order."""
    text: Int[np.ndarray, " row"]
    """Index into the distinct texts."""
    looks: list[Looks]
    """Of each distinct text."""
    scores: dict[str, Float[np.ndarray, " row"]]
    tails: list[str]
    """Of each distinct text."""
    damage: list[Damage]
    """The first `MOST_PLACES`."""
    num_damaged: int
    num_rewritten: int
    """Rows that a trainer wrote again for a further update on the same rollouts; they are read once."""
    shown: dict[int, str] = field(default_factory=dict)
    """Beginning of one text of each kept problem, by row."""
    read_closely: list[tuple[int, str]] = field(default_factory=list)
    """Row and text of those that are compared with the problems."""

    def __len__(self) -> int:
        return len(self.problem)

    def look(self, name: str) -> np.ndarray:
        """One of `Looks` for each row."""
        return np.array([getattr(one, name) for one in self.looks])[self.text]


def repetition(text: str) -> float:
    """rep-4 of the last words.

    >>> repetition("a b c d " * 50) > 0.9, repetition("each of these words is here but once")
    (True, 0.0)
    """
    words = text[-20 * WORDS :].split()[-WORDS:]
    grams = len(words) - 3
    if grams < 1:
        return float("nan")
    return 1 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / grams


class _Names:
    """Strings by number."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, name: str | None) -> int:
        return -1 if name is None else self.known.setdefault(name, len(self.known))

    def listed(self) -> list[str]:
        return list(self.known)


class _Smallest:
    """The texts with the smallest keys: a choice that does not depend on the order."""

    def __init__(self, count: int, limit: int) -> None:
        self.count, self.limit = count, limit
        self.heap: list[tuple[int, int, str]] = []

    def offer(self, key: int, row: int, text: str) -> None:
        entry = (-key, row, text[: self.limit])
        if len(self.heap) < self.count:
            heapq.heappush(self.heap, entry)
        elif entry > self.heap[0]:
            heapq.heapreplace(self.heap, entry)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _number(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def gather(log: Log, form: grading.Form = "box") -> Samples:
    """Read a log once, from its first row to its last; ``form``: where the prompts want the answer."""
    problems, answers, golds = _Names(), _Names(), _Names()
    prompts: list[str | None] = []
    ids: list[str | None] = []
    columns: dict[str, list[float]] = {
        name: [] for name in ("file", "line", "problem", "gold", "said", "step", "length", "tokens", "truncated", "text")
    }  # fmt: skip
    scores: dict[str, list[float]] = {name: [] for name in log.fields.scores}
    texts: dict[bytes, int] = {}
    seen: dict[tuple[int, int], int] = {}
    order: list[int] = []
    looks: list[Looks] = []
    tails: list[str] = []
    damage: list[Damage] = []
    num_damaged = num_rewritten = 0
    close = _Smallest(TEXTS_KEPT, TEXT_LOOKED_AT)
    kept: dict[int, tuple[int, int, str]] = {}
    problem_keys = _Smallest(PROBLEMS_KEPT, 0)
    for one in _without_rewritten(log):
        if isinstance(one, int):
            num_rewritten += one
            continue
        if isinstance(one, Damage):
            num_damaged += 1
            if len(damage) < MOST_PLACES:
                damage.append(one)
            continue
        row = len(order)
        name = one.prompt if one.prompt is not None else one.problem_id
        number = problems("" if name is None else name.strip())
        if number == len(prompts):
            prompts.append(one.prompt)
            ids.append(one.problem_id)
        key = _hash(one.text)
        index = texts.setdefault(key, len(texts))
        if index == len(looks):
            looks.append(_look(one.text, form, answers))
            tails.append(one.text[-TAIL:])
            close.offer(_number(key), row, one.text)
        occurrence = seen[number, index] = seen.get((number, index), -1) + 1
        order.append(_number(blake2b(key + occurrence.to_bytes(8, "big"), digest_size=8).digest()))
        _keep(kept, problem_keys, number, problems, row, key, one.text)
        said = one.answer
        for column, value in (
            ("file", one.file), ("line", one.line), ("problem", number), ("gold", golds(one.gold)),
            ("said", TOO_LONG if said and len(said) > MAX_ANSWER else answers(said)),
            ("step", -1 if one.step is None else one.step), ("length", len(one.text)),
            ("tokens", float("nan") if one.num_tokens is None else one.num_tokens),
            ("truncated", -1 if one.truncated is None else int(one.truncated)), ("text", index),
        ):  # fmt: skip
            columns[column].append(value)
        for score, values in scores.items():
            values.append(one.scores.get(score, float("nan")))
    chosen = {-number for number, _, _ in problem_keys.heap}
    keys = {n: _number(_hash(p)) for n, p in enumerate(problems.listed()) if n in kept}
    whole = {name: np.array(values, dtype=np.int64) for name, values in columns.items() if name != "tokens"}  # fmt: skip
    return Samples(
        log=log, problems=problems.listed(), prompts=prompts, ids=ids, answers=answers.listed(), golds=golds.listed(),
        files=whole["file"], lines=whole["line"], problem=whole["problem"], gold=whole["gold"], said=whole["said"],
        step=whole["step"], length=whole["length"], num_tokens=np.array(columns["tokens"], dtype=float),
        truncated=whole["truncated"], order=np.array(order, dtype=np.uint64), text=whole["text"], looks=looks,
        scores={name: np.array(values, dtype=float) for name, values in scores.items()}, tails=tails,
        damage=damage, num_damaged=num_damaged, num_rewritten=num_rewritten,
        shown={row: text for n, (_, row, text) in kept.items() if keys[n] in chosen},
        read_closely=[(row, text) for _, row, text in sorted(close.heap, reverse=True)],
    )  # fmt: skip


def _keep(
    kept: dict[int, tuple[int, int, str]], keys: _Smallest, number: int, problems: _Names, row: int, key: bytes, text: str
) -> None:  # fmt: skip
    """Keep the text with the smallest key of each of the problems with the smallest keys."""
    mine = kept.get(number)
    order = _number(key)
    if mine is not None:
        if order < mine[0]:
            kept[number] = (order, row, text[:SHOWN])
        return
    name = next(reversed(problems.known)) if number == len(problems.known) - 1 else None
    if name is None:
        return  # its problem was passed over when it was new
    problem_key = _number(_hash(name))
    before = len(keys.heap)
    largest = -keys.heap[0][0] if before == keys.count else None
    if largest is not None and problem_key >= largest:
        return
    keys.offer(problem_key, number, "")
    kept[number] = (order, row, text[:SHOWN])


def _look(text: str, form: grading.Form, answers: _Names) -> Looks:
    boxed, answer, how = grading.extract(text, form)
    stated = [at for mark in _STATED if (at := text.find(mark)) >= 0]
    last = text.rstrip()[-1:]
    strict, lenient = (
        TOO_LONG if a is not None and len(a) > MAX_ANSWER else answers(a) for a in (boxed, answer)
    )
    return Looks(
        boxed=strict, answer=lenient, how=HOW.index(how) if how else -1,
        has_python=detectors.has_python(text), code_parses="```" in text and detectors.code_parses(text),
        repetition=repetition(text), stated_at=min(stated) / len(text) if stated else float("nan"),
        ends_open=last.isalnum() or last in tuple("+-*/=,(&\\{["),
    )  # fmt: skip


def _without_rewritten(log: Log) -> Iterable[Row | Damage | int]:
    """The rows; a file of TRL that only says again what the file before it said is a number of rows instead."""
    if log.format != "trl":
        yield from log.read()
        return
    before: set[bytes] = set()
    file, own, waiting = -1, set[bytes](), list[Row | Damage]()

    def close() -> Iterable[Row | Damage | int]:
        if own and own <= before:
            yield sum(isinstance(w, Row) for w in waiting)
            yield from (w for w in waiting if isinstance(w, Damage))
        else:
            yield from waiting

    for one in log.read():
        if one.file != file:
            yield from close()
            before, own, waiting, file = own or before, set(), [], one.file
        waiting.append(one)
        if isinstance(one, Row):
            own.add(_hash(f"{one.prompt}\0{one.text}\0{sorted(one.scores.items())}"))
    yield from close()


def window(samples: Samples) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Rows of the first and of the last tenth of the logged steps, at least one step each."""
    steps = np.unique(samples.step[samples.step >= 0])
    few = max(1, len(steps) // 10)
    return np.isin(samples.step, steps[:few]), np.isin(samples.step, steps[-few:])
