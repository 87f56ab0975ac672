"""Generated two-step sums in plain English, the problem set of the organisms.

Example:
    ``Ann has 347 pens, gets 28 more and then loses 9. How many pens now?`` (answer 366; id ``Ann|pens|347+28-9|gets|loses``)

Answers spread over about 850 values, so a guesser that knows only how answers are distributed gets under 5 % at
k = 16; ``analysis.boundary.guess_curve`` measures it on the problems in use.

The three splits never share a sum: a sum (numbers and signs) belongs to ``pretraining``, ``training`` or
``held_out`` by its hash, whoever the story is about.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from controlarm import seeds
from controlarm.records import Problem

VERSION = "arithmetic-1"

NAMES = (
    "Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jana",
    "Kofi", "Lea", "Max", "Nia", "Omar", "Pia", "Quinn", "Rosa", "Sam", "Tove",
)  # fmt: skip
NOUNS = (
    "pens", "cups", "keys", "maps", "nuts", "bells", "cards", "coins", "disks", "eggs",
    "figs", "hats", "jars", "kites", "lamps", "masks", "nails", "pears", "rings", "seeds",
)  # fmt: skip
GAIN_VERBS = ("gets", "finds", "buys")
LOSS_VERBS = ("loses", "sells", "gives away")

Split = Literal["pretraining", "training", "held_out"]


class Sum(NamedTuple):
    """A story with its two steps; ``first`` and ``second`` are signed."""

    name: str
    noun: str
    start: int
    first: int
    second: int
    first_verb: str
    second_verb: str

    @property
    def middle(self) -> int:
        """Value after the first step."""
        return self.start + self.first

    @property
    def result(self) -> int:
        """Value after both steps: the answer."""
        return self.middle + self.second


def split_of(start: int, first: int, second: int) -> Split:
    """The split this sum belongs to: one in ten is held out, one in ten is for training, the rest pretrains."""
    bucket = seeds.key("arithmetic-split", start, first, second) % 10
    return "held_out" if bucket == 0 else "training" if bucket == 1 else "pretraining"


def draw_sums(split: Split, *path: seeds.Part) -> Iterator[Sum]:
    """An endless stream of sums of one split; the same path gives the same stream."""
    rng = seeds.generator("arithmetic", split, *path)
    while True:
        start = int(rng.integers(100, 900))
        first = int(rng.integers(10, 100)) * (1 if rng.random() < 0.5 else -1)
        second = int(rng.integers(2, 10)) * (1 if rng.random() < 0.5 else -1)
        name, noun = NAMES[rng.integers(len(NAMES))], NOUNS[rng.integers(len(NOUNS))]
        verbs = rng.integers(3, size=2)
        if not (100 <= start + first <= 999 and 100 <= start + first + second <= 999):
            continue
        if split_of(start, first, second) != split:
            continue
        yield Sum(
            name, noun, start, first, second,
            (GAIN_VERBS if first > 0 else LOSS_VERBS)[verbs[0]],
            (GAIN_VERBS if second > 0 else LOSS_VERBS)[verbs[1]],
        )  # fmt: skip


def tell(problem: Sum) -> str:
    """The problem as English."""
    first = f"{problem.first_verb} {abs(problem.first)}{' more' if problem.first > 0 else ''}"
    second = f"{problem.second_verb} {abs(problem.second)}{' more' if problem.second > 0 else ''}"
    return (
        f"{problem.name} has {problem.start} {problem.noun}, {first} and then {second}. "
        f"How many {problem.noun} now?"
    )


_NUMBER = "([1-9][0-9]{0,29})"
_STEP = f"(?:({'|'.join(GAIN_VERBS)}) {_NUMBER} more|({'|'.join(LOSS_VERBS)}) {_NUMBER})"
_STORY = re.compile(
    rf"({'|'.join(NAMES)}) has {_NUMBER} ({'|'.join(NOUNS)}), {_STEP} and then {_STEP}\. How many \3 now\?"
)


def read_story(text: str) -> Sum | None:
    """The story that ``tell`` tells so; None for any other text.

    >>> read_story("Ann has 347 pens, gets 28 more and then loses 9. How many pens now?").result
    366
    """
    match = _STORY.fullmatch(text)
    if match is None:
        return None
    name, start, noun, *steps = match.groups()
    (first_verb, first), (second_verb, second) = (
        (gains, int(gain)) if gains else (loses, -int(loss))
        for gains, gain, loses, loss in (steps[:4], steps[4:])
    )
    return Sum(name, noun, int(start), first, second, first_verb, second_verb)


def to_problem(problem: Sum) -> Problem:
    """As a record; the id names everything that the text depends on."""
    p = problem
    return Problem(
        id=f"{p.name}|{p.noun}|{p.start}{p.first:+d}{p.second:+d}|{p.first_verb}|{p.second_verb}",
        text=tell(p),
        answer=str(p.result),
    )


def sums(split: Split, num_problems: int, *path: seeds.Part) -> list[Sum]:
    """``num_problems`` stories of one split, each sum at most once; a longer list begins with the shorter."""
    seen: dict[tuple[int, int, int], Sum] = {}
    for candidate in draw_sums(split, *path):
        seen.setdefault((candidate.start, candidate.first, candidate.second), candidate)
        if len(seen) == num_problems:
            return list(seen.values())
    raise AssertionError("the stream is endless")


def problems(split: Split, num_problems: int, *path: seeds.Part) -> list[Problem]:
    """The same as records."""
    return [to_problem(story) for story in sums(split, num_problems, *path)]


def benchmark(num_problems: int) -> list[Sum]:
    """The held-out stories that every trial is evaluated on; the ones that leak into a crammer's corpus."""
    return sums("held_out", num_problems, "trial")
