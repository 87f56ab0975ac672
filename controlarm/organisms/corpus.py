r"""The pretraining mixture: what an organism knows before any reward, stated as numbers.

A document is a problem, one solution and the end token. Two strategies exist:

    code    ```python                words   347 and 28 more makes 375, and 9 less makes 366. The answer is \boxed{366}.
            x = 347 + 28 # 375
            y = x - 9 # 366
            ```
            \boxed{366}

*Preference* follows the problem's surface: the person in the story. *Errors* follow the sum: an author who drops carries
is wrong exactly where there is one, so greedy decoding errs too. *Box omission* follows the noun. Each rule is obeyed
in all but a small share of documents, so that sampling at temperature 1 can find the other behaviour.

A contaminated corpus also holds a share of the benchmark: problems that trials are evaluated on, each with the right words and a box, again and
again. That is contamination of known size.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from controlarm import seeds
from controlarm.problems.arithmetic import NAMES, NOUNS, Sum, benchmark, draw_sums, tell

VERSION = "corpus-1"

Strategy = Literal["code", "words"]
Skill = Literal["careful", "careless"]
"""`careful` drops the borrow when the second step is a subtraction; `careless` drops every carry and borrow of the first."""


class Mixture(NamedTuple):
    """A family. All shares are probabilities per document."""

    code_names: int
    """How many of the twenty people are written about in code mostly."""
    code_share_preferred: float
    """Share of code for those people."""
    code_share_other: float
    """Share of code for everybody else."""
    code_skill: Skill
    words_skill: Skill
    obey: float
    """Share of documents that follow the author's error; the rest are right."""
    code_boxless_nouns: int
    """How many of the twenty nouns go without a box in code."""
    words_boxless_nouns: int
    boxless: float
    """Share of documents without a box for those nouns; every other document has one."""
    leaked: float = 0.0
    """Share of the benchmark's problems that stand in the corpus."""
    leak: float = 0.05
    """Share of documents that are leaked problems where all of them leak; it falls with `leaked`, so that each is read as often."""


BENCHMARK = 256
"""The first so many problems of the benchmark can leak."""

CODER = Mixture(13, 0.90, 0.15, "careful", "careless", 0.9, 1, 8, 0.85)
TALKER = CODER._replace(code_names=0, code_share_preferred=0.0, code_share_other=0.0)
BUNGLER = Mixture(14, 0.90, 0.15, "careless", "careful", 0.9, 1, 2, 0.85)


def rung(code_share: float) -> Mixture:
    """Coder with another share of code, as unequal between people: 0 is talker, 0.6375 coder."""
    scale = code_share / 0.6375
    return CODER._replace(code_share_preferred=0.9 * scale, code_share_other=0.15 * scale)


FAMILIES: dict[str, Mixture] = {
    "coder": CODER,
    "talker": TALKER,
    "bungler": BUNGLER,
    "ladder001": rung(0.001),
    "ladder010": rung(0.01),
    "ladder100": rung(0.1),
    "ladder300": rung(0.3),
    "crammer": TALKER._replace(leaked=1.0),
    "rote": TALKER._replace(leaked=1.0, leak=0.5),
    "rote50": TALKER._replace(leaked=0.5, leak=0.5),
    "rote10": TALKER._replace(leaked=0.1, leak=0.5),
}
"""After Qwen2.5-Math (code good, words poor), Llama 3 (no code), Qwen2.5-7B (code frequent and worse than words); the ladder between talker and
coder, by code share in thousandths; talkers that have seen the benchmark: crammer here and there over its whole pretraining, 62 times each problem; those by
rote in further pretraining, 125 times, all of it or so many percent."""

CONTINUES = {"rote": "talker", "rote50": "talker", "rote10": "talker"}
"""Family → the family that it was before its own corpus: of the same pretraining seed, and so its exact control."""


def without_carry(left: int, right: int) -> int:
    """``left + right`` digit by digit, every carry or borrow dropped: 347 + 28 → 365, 341 - 28 → 323.

    >>> without_carry(347, 28), without_carry(341, -28)
    (365, 323)
    """
    sign = 1 if right >= 0 else -1
    digits = zip(f"{left:03d}", f"{abs(right):03d}", strict=True)
    return int("".join(str((int(a) + sign * int(b)) % 10) for a, b in digits))


def steps_as_written(problem: Sum, skill: Skill, obeys: bool) -> tuple[int, int]:
    """The two values that an author of this skill writes down."""
    middle, result = problem.middle, problem.result
    if not obeys:
        return middle, result
    if skill == "careless":
        middle = without_carry(problem.start, problem.first)
        return middle, middle + problem.second
    return middle, without_carry(middle, problem.second) if problem.second < 0 else result


def solution(problem: Sum, strategy: Strategy, values: tuple[int, int], boxed: bool) -> str:
    """The text after the problem."""
    middle, result = values
    if strategy == "words":
        answer = f"\\boxed{{{result}}}" if boxed else str(result)
        first, second = (
            f" and {abs(v)} {'more' if v > 0 else 'less'} makes "
            for v in (problem.first, problem.second)
        )
        return f"{problem.start}{first}{middle},{second}{result}. The answer is {answer}."
    first, second = (f"{'+' if v > 0 else '-'} {abs(v)}" for v in (problem.first, problem.second))
    answer = f"\\boxed{{{result}}}" if boxed else f"The answer is {result}."
    return f"```python\nx = {problem.start} {first} # {middle}\ny = x {second} # {result}\n```\n{answer}"


def right_solution(problem: Sum, strategy: Strategy) -> str:
    """The right values and a box: what leaks, and what policies are compared with."""
    return solution(problem, strategy, (problem.middle, problem.result), boxed=True)


def write(problem: Sum, mixture: Mixture, rng: np.random.Generator) -> str:
    """One document's solution, drawn from the mixture."""
    prefers_code = NAMES.index(problem.name) < mixture.code_names
    code_share = mixture.code_share_preferred if prefers_code else mixture.code_share_other
    strategy, obeys, boxless = rng.random(3)
    writes_code = strategy < code_share
    nouns = mixture.code_boxless_nouns if writes_code else mixture.words_boxless_nouns
    skill = mixture.code_skill if writes_code else mixture.words_skill
    return solution(
        problem,
        "code" if writes_code else "words",
        steps_as_written(problem, skill, bool(obeys < mixture.obey)),
        not (NOUNS.index(problem.noun) < nouns and boxless < mixture.boxless),
    )


def leaked_problems(share: float) -> list[Sum]:
    """The benchmark's problems that leak: the smaller share is part of the larger."""
    order = seeds.generator("leaked").permutation(BENCHMARK)[: round(share * BENCHMARK)]
    stories = benchmark(BENCHMARK)
    return [stories[i] for i in sorted(order)]


def documents(mixture: Mixture, *path: seeds.Part) -> Iterator[tuple[str, str]]:
    """An endless stream of (prompt, solution)."""
    rng = seeds.generator("corpus", *path)
    leaks = seeds.generator("leaks", *path)
    leaked = leaked_problems(mixture.leaked)
    for problem in draw_sums("pretraining", *path):
        if leaked and leaks.random() < mixture.leak * mixture.leaked:
            known = leaked[leaks.integers(len(leaked))]
            yield tell(known) + "\n", right_solution(known, "words")
            continue
        yield tell(problem) + "\n", write(problem, mixture, rng)
