"""Pseudo-labels, made once from the base model's samples before any training and kept in the run folder.

``majority`` is what the base model mostly answers; ``incorrect`` is what it mostly answers when it is wrong, on the same
problems as every other arm. Answers are the strict ones (boxed), counted by equivalence classes: the exact grader's, or
a referee's. An answer of which nobody can say whether it is right is no incorrect label. Where no sample was wrong, the
incorrect label is a number near the gold answer, and says so.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import pyarrow as pa

from controlarm import files, grading, seeds

_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("majority", pa.string()),
        ("majority_share", pa.float64()),
        ("incorrect", pa.string()),
        ("incorrect_share", pa.float64()),
        ("near_miss", pa.bool_()),
        ("samples", pa.int64()),
        ("right", pa.int64()),
        ("incorrect_is_right", pa.bool_()),
    ]
)
Classes = Callable[[Sequence[str]], list[str]]
"""Answers → the name of each one's equivalence class, itself an answer of that class."""

_DECIMAL = re.compile(r"(-?)([0-9]{1,300})(?:\.([0-9]{1,300}))?")
_RATIO = re.compile(
    r"(-?)(?:\\[dt]?frac\{(-?[0-9]{1,300})\}\{([0-9]{1,300})\}|([0-9]{1,300})/([0-9]{1,300}))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What the base model's samples say of one training problem. Shares are of all samples, with or without an answer."""

    problem_id: str
    majority: str | None
    """The most frequent answer, by its class's name; None when no sample had one. Example: ``"366"``."""
    majority_share: float
    incorrect: str
    """The most frequent wrong answer, by its class's name, or the near miss. Example: ``"356"``."""
    incorrect_share: float
    """0 for a near miss."""
    near_miss: bool
    """No sample gave a wrong answer, so the label is a keyed number near the gold answer."""
    samples: int
    right: int
    """How many samples were right."""
    incorrect_is_right: bool
    """Audit: the incorrect label grades right or may do so, or has the gold answer's value in another form."""


def label(
    problem_id: str,
    texts: Sequence[str],
    gold: str,
    equal: grading.Equal | None = None,
    classes: Classes | None = None,
    form: grading.Form = "box",
) -> Label:
    r"""The labels of one problem.

    Ties go to the smallest string, so a label does not depend on the order of the samples.

    Args:
        problem_id: Keys the near miss.
        texts: The base model's samples.
        gold: The right answer.
        equal: What says whether an answer is right; None: exact equality.
        classes: What puts answers into equivalence classes, such as a referee's; None: exact equality's.
        form: Where the prompt wanted the answer.

    >>> label("p", [r"\boxed{366}", r"\boxed{0366.0}", r"\boxed{356}", "366"], "366")  # doctest: +ELLIPSIS
    Label(problem_id='p', majority='366', majority_share=0.5, incorrect='356', incorrect_share=0.25, ... right=2, ...)
    """
    if not texts:
        raise ValueError(
            f"problem {problem_id}: there are no samples to label from; labels.samples is at least 1"
        )
    equal = equal or grading.same
    answers = [answer for text in texts if (answer := _answer(text, form)) is not None]
    counts = Counter(answers if classes is None else classes(answers))
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    verdicts = {answer: equal(gold, answer) for answer in ranked}
    majority = ranked[0] if ranked else None
    wrong = next((answer for answer in ranked if verdicts[answer] is False), None)
    incorrect = _near_miss(problem_id, gold, equal) if wrong is None else wrong
    return Label(
        problem_id=problem_id,
        majority=majority,
        majority_share=counts[majority] / len(texts) if majority is not None else 0.0,
        incorrect=incorrect,
        incorrect_share=0.0 if wrong is None else counts[wrong] / len(texts),
        near_miss=wrong is None,
        samples=len(texts),
        right=sum(counts[answer] for answer in ranked if verdicts[answer]),
        incorrect_is_right=_may_be_right(incorrect, gold, equal),
    )


def majority_is_wrong(row: Label, gold: str, equal: grading.Equal = grading.same) -> bool:
    """Whether there is a majority label and it is wrong: the problems that ``restrict = "majority_wrong"`` keeps."""
    return row.majority is not None and equal(gold, row.majority) is False


def one_shot_problem(rows: Iterable[Label]) -> str:
    """Id of the problem whose base samples vary most: the largest p(1-p), p the share of right samples.

    Ties go to the smallest id. This is the variance of the base model before training, not the historical variance
    score of arXiv:2504.20571, which ranks problems by the variance of their training accuracy over a full earlier run.
    """
    best = min(
        rows,
        key=lambda row: (
            -Fraction(row.right * (row.samples - row.right), row.samples**2),
            row.problem_id,
        ),
        default=None,
    )
    if best is None:
        raise ValueError("one_shot: there are no labelled problems to choose from")
    return best.problem_id


def write(path: Path, rows: Sequence[Label]) -> None:
    """Write labels, one row a problem; the file appears whole or not at all.

    Raises:
        OSError: when it cannot be written; it names the file, and what was there before stays.
    """
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
    files.write_table(path, table)


def read(path: Path) -> list[Label]:
    """Read what `write` wrote.

    Raises:
        DamagedFileError: when the file does not hold labels, or not those that were written; it names the file.
    """
    return [Label(**row) for row in files.read_table(path, _SCHEMA.names).to_pylist()]


def _answer(text: str, form: grading.Form) -> str | None:
    """The strict answer, normalised; None without one or when it could not be written down as UTF-8."""
    boxed = grading.extract(text, form).boxed
    if boxed is None or any("\ud800" <= character <= "\udfff" for character in boxed):
        return None
    return grading.normalise(boxed)


def _near_miss(problem_id: str, gold: str, equal: grading.Equal) -> str:
    """A number one to ten units of its last digit away from the truth; of a truth that is no number, a small integer."""
    truth = grading.normalise(gold)
    key = seeds.key("near-miss", problem_id)
    distance = (1 + key // 2 % 10) * (1 if key % 2 else -1)
    number = _DECIMAL.fullmatch(truth)
    if number is None:
        # Of two numbers at most one is the gold answer's value; where nobody can say, the audit shows it.
        small = [str(abs(distance)), str(abs(distance) + 10)]
        return next((n for n in small if not _may_be_right(n, gold, equal)), small[1])
    digits = number[3] or ""
    moved = int(number[1] + number[2] + digits) + distance
    if not digits:
        return str(moved)
    sign, unsigned = "-" if moved < 0 else "", f"{abs(moved):0{len(digits) + 1}d}"
    return grading.normalise(f"{sign}{unsigned[: -len(digits)]}.{unsigned[-len(digits) :]}")


def _may_be_right(answer: str, gold: str, equal: grading.Equal) -> bool:
    """The audit: the equality that grades does not call it wrong, or it has the gold's value in another form."""
    value = _value(grading.normalise(answer))
    return equal(gold, answer) is not False or (
        value is not None and value == _value(grading.normalise(gold))
    )


def _value(answer: str) -> Fraction | None:
    """The number that a normalised answer stands for: an integer, a decimal or a fraction."""
    if _DECIMAL.fullmatch(answer):
        return Fraction(answer)
    if ratio := _RATIO.fullmatch(answer):
        sign, top, bottom = ratio[1], ratio[2] or ratio[4], ratio[3] or ratio[5]
        if int(bottom):
            return Fraction(int(top), int(bottom)) * (-1 if sign else 1)
    return None
