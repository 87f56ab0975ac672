r"""Problem sets that people know by name, and any file of one's own.

Example:
    ``{"id": "test/precalculus/807.json", "problem": "Convert the point $(0,3)$ …", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)"}``

A card says where a set comes from, how large it is, under which licence, and what is peculiar about its answers. Nothing of the
sets is in this package: they come through the ``datasets`` library from the hub (or its cache), or from a local file. What was
loaded is named by the checksum of its texts and answers, so that two people know whether they measured on the same problems.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from controlarm import seeds
from controlarm.problems import random_calculation
from controlarm.records import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known of a set before anybody loads it."""

    title: str
    num_problems: int
    licence: str
    origin: str
    """Path on the hub."""
    split: str
    config: str | None = None
    problem: str = "problem"
    """Column of the text."""
    answer: str = "answer"
    id: str | None = None
    """Column of a stable name; None: the text names the problem."""
    quirks: str = ""
    """How golds are written there, and what is done about it."""
    sha256: str | None = None
    """Of the texts and answers (`checksum`), of the copy that these numbers were read from; None: none was at hand."""


CARDS: dict[str, Card] = {
    "math500": Card(
        title="MATH-500", num_problems=500, licence="MIT", origin="HuggingFaceH4/MATH-500", split="test", id="unique_id",
        quirks="LaTeX; units and words in \\text{}; a few lists without brackets",
        sha256="9b34dbfc465f4c3ddea6135a4bf4a00deb26430c2576d244b9747b4cf79b7bec",
    ),
    "amc83": Card(
        title="AMC 12, 2022 and 2023", num_problems=83, licence="MIT", origin="AI-MO/aimo-validation-amc", split="train",
        quirks='numbers are written with a fraction, "142.0"',
        sha256="55b1e338c2c655c507e5a0c1c72cdd3d6b76748158979114375779eb045ea40c",
    ),
    "amc40": Card(
        title="AMC 12, 2023", num_problems=40, licence="see its page", origin="math-ai/amc23", split="test", problem="question",
        quirks='numbers may be written "142.0"',
    ),
    "aime24": Card(
        title="AIME 2024", num_problems=30, licence="MIT", origin="HuggingFaceH4/aime_2024", split="train",
        quirks='integers from 0 to 999, in some copies with leading zeros, "070"',
        sha256="e4c8e9faeb63286fedd4ee958a3108ea9dcc5b9292c848c7e0b8a50d4fb64384",
    ),
    "aime25": Card(
        title="AIME 2025", num_problems=30, licence="see its page", origin="math-ai/aime25", split="test",
        quirks='integers from 0 to 999, in some copies with leading zeros or a degree sign',
    ),
    "minerva": Card(
        title="Minerva, OCW courses", num_problems=272, licence="MIT", origin="math-ai/minervamath", split="test", problem="question",
        quirks="scientific notation, units, formulas; some copies list several spellings, of which the first is the gold",
    ),
    "gsm8k": Card(
        title="GSM8K, test", num_problems=1319, licence="MIT", origin="openai/gsm8k", config="main", split="test", problem="question",
        quirks='the answer is a worked solution; the gold stands behind "####", with commas in thousands',
        sha256="99a2698dc959e843233e25a52718c29388796297033952926927f9d351bf823f",
    ),
    "deepscaler": Card(
        title="DeepScaleR, training", num_problems=40315, licence="MIT", origin="agentica-org/DeepScaleR-Preview-Dataset", split="train",
        quirks="LaTeX; copies of a text are numbered",
    ),
}  # fmt: skip
"""Name → card. The licence is that of a copy whose licence is known (rllm, openai/grade-school-math); the problems of AMC and
AIME are the MAA's."""

_ROUND = re.compile(r"(-?[0-9]+)\.0+")
_PADDED = re.compile(r"0+([0-9]+)")
_WORKED = re.compile(r"^\s*####", re.MULTILINE)
_THOUSANDS = re.compile(r"-?\$?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_WRAPPED = re.compile(r"\$([^$]+)\$|\\boxed\s*\{(.*)\}", re.DOTALL)


class ProblemSet(NamedTuple):
    """Problems, and what they are."""

    name: str
    """Example: ``"math500"``."""
    problems: list[Problem]
    checksum: str
    """sha256 of all texts and answers, before any limit."""
    card: Card | None


def load(spec: str, limit: int | None = None) -> list[Problem]:
    """The problems that a specification names; see `read`."""
    return read(spec, limit).problems


def read(spec: str, limit: int | None = None) -> ProblemSet:
    """A problem set.

    Args:
        spec: a set's name; ``NAME=FILE``, that set from a local file; ``random_calculation:5``, the subset of five operations,
            ``random_calculation:5:7`` with seed 7; or a path to ``.jsonl``, ``.json`` or ``.parquet`` with columns ``problem``
            (or ``question``, ``prompt``), ``answer`` and, if there is one, ``id``.
        limit: at most so many, chosen by their ids: those of a smaller limit are among those of a larger one.

    Raises:
        ValueError: when there is no such set or file, or a row is no problem; it says which and what instead.
    """
    name, _, place = spec.partition("=")
    kind, *numbers = spec.split(":")
    if kind == "random_calculation" and not place:
        found = _random_calculation(spec, numbers)
        return ProblemSet(spec, _limited(found, limit), checksum(found), None)
    card = CARDS.get(name)
    if card is None and not place and _is_file(spec):
        found, name = _problems(_rows(Path(spec)), spec, None), Path(spec).stem
    elif card is None:
        near = difflib.get_close_matches(name, [*CARDS, "random_calculation"], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"problems: {spec!r} is neither a set nor a file; {hint}sets: {', '.join(CARDS)}, random_calculation:N; "
            "or give NAME=FILE, or a path to .jsonl, .json or .parquet"
        )
    else:
        rows = _rows(Path(place)) if place else _from_hub(name, card)
        found = _problems(rows, spec, card)
    return ProblemSet(name, _limited(found, limit), checksum(found), card)


def checksum(problems: Iterable[Problem]) -> str:
    """sha256 over the problems in the order of their texts; blanks at ends do not count, nor do ids."""
    lines = sorted(json.dumps([p.text.strip(), p.answer]) for p in problems)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def gold(written: object) -> str:
    r"""A gold answer as it is asked for, out of how a file may write it.

    >>> [gold(w) for w in (142.0, "142.0", "070", "3 + 4 = 7\n#### 1,234", "$\\frac{1}{2}$", "\\boxed{5}", "0", "3.50", 1e-05, "#### (1,2)")]
    ['142', '142', '70', '1234', '\\frac{1}{2}', '5', '0', '3.50', '0.00001', '(1,2)']
    """
    if isinstance(written, list) and written:
        written = written[0]  # several spellings of one answer
    if isinstance(written, float):
        number = Decimal(repr(written))
        return format(number, "f").removesuffix(".0") if number.is_finite() else ""
    if not isinstance(written, str | int) or isinstance(written, bool):
        return ""
    answer = str(written).strip()
    *_, worked = [None, *_WORKED.finditer(answer)]
    if worked is not None:
        answer = answer[worked.end() :].strip()
        answer = answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer
    while (wrapped := _WRAPPED.fullmatch(answer)) and (wrapped[1] or _closes_last(wrapped[2])):
        answer = (wrapped[1] or wrapped[2]).strip()
    if number := _ROUND.fullmatch(answer) or _PADDED.fullmatch(answer):
        answer = number[1]
    return answer


def export(problems: Sequence[Problem], path: Path) -> None:
    """Write JSONL that `read` reads: id, problem, answer."""
    lines = (
        json.dumps({"id": p.id, "problem": p.text, "answer": p.answer}, ensure_ascii=False) + "\n"
        for p in problems
    )
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def _closes_last(inside: str) -> bool:
    """Whether the brace behind this is the one that was opened before it."""
    depth = 0
    for character in inside:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return bool(inside.strip()) and depth == 0


def _is_file(spec: str) -> bool:
    if Path(spec).suffix in (".jsonl", ".json", ".parquet"):
        return True
    return Path(spec).is_file()


def _random_calculation(spec: str, numbers: Sequence[str]) -> list[Problem]:
    if not 1 <= len(numbers) <= 2 or not all(n.isdecimal() for n in numbers):
        raise ValueError(
            f"problems: {spec!r} names no subset; random_calculation:5 has five operations, random_calculation:5:7 those of seed 7"
        )
    return random_calculation.problems(*map(int, numbers))


def _limited(problems: list[Problem], limit: int | None) -> list[Problem]:
    if limit is None or limit >= len(problems):
        return problems
    if limit < 1:
        raise ValueError(f"limit: {limit} leaves no problem; at least 1")
    kept = set(sorted((p.id for p in problems), key=lambda name: seeds.key("limit", name))[:limit])
    return [p for p in problems if p.id in kept]


def _rows(path: Path) -> list[tuple[str, Any]]:
    """Rows of a local file, each with its place."""
    if not path.is_file():
        raise ValueError(f"problems: there is no file {path}")
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            return [(f"{path}, row {i}", row) for i, row in enumerate(table.to_pylist(), 1)]
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            listed = json.loads(text)
            if not isinstance(listed, list):
                raise ValueError(f"problems: {path} holds no list of problems")
            return [(f"{path}, entry {i}", row) for i, row in enumerate(listed, 1)]
    except (UnicodeDecodeError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise ValueError(f"problems: {path} cannot be read: {error}") from None
    return list(_lines(path, text))


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}, line {number}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"problems: {path}, line {number} is no JSON: {error}") from None


def _from_hub(name: str, card: Card) -> list[tuple[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"problems: {name} comes through the datasets library; install controlarm[trl], or give {name}=FILE"
        ) from None
    try:
        found = datasets.load_dataset(card.origin, card.config, split=card.split)
    except Exception as error:  # whatever a network makes of it
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"problems: {name} could not be fetched from {card.origin} ({type(error).__name__}: {said}); "
            f"give {name}=FILE for a local copy (.jsonl, .json, .parquet)"
        ) from None
    return [(f"{card.origin}, row {i}", dict(row)) for i, row in enumerate(found, 1)]


def _problems(rows: Sequence[tuple[str, Any]], spec: str, card: Card | None) -> list[Problem]:
    """Rows as problems; all that is wrong with them is said at once."""
    texts = tuple(
        dict.fromkeys([card.problem if card else "problem", "problem", "question", "prompt"])
    )
    found: list[Problem] = []
    places: dict[str, str] = {}
    times: dict[str, int] = {}
    wrong: list[str] = []
    for place, row in rows:
        if not isinstance(row, dict):
            wrong.append(f"{place}: is a {type(row).__name__}, not an object")
            continue
        text = next((row[key] for key in texts if isinstance(row.get(key), str)), "")
        answer = gold(row.get("answer" if card is None else card.answer, ""))
        if not text.strip():
            wrong.append(f"{place}: no text under {', '.join(texts)}")
            continue
        if not answer or row.get("answer") is None:
            wrong.append(f"{place}: no answer")
            continue
        named = (
            row.get("id" if card is None else card.id or "id") if card is None or card.id else None
        )
        if named is None:
            # The text names the problem, so that a coin does not depend on the order of a file.
            named = hashlib.blake2b(
                text.strip().encode(errors="replace"), digest_size=8
            ).hexdigest()
            times[named] = times.get(named, 0) + 1
            named += f"-{times[named]}" if times[named] > 1 else ""
        if str(named) in places:
            wrong.append(f"{place}: id {named!r} is that of {places[str(named)]}")
            continue
        places[str(named)] = place
        found.append(Problem(id=str(named), text=text, answer=answer))
    if wrong:
        shown = "\n".join(wrong[:5]) + (f"\n… and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(
            f"problems: {spec} has rows that are no problems; mend or remove them:\n{shown}"
        )
    if not found:
        raise ValueError(f"problems: {spec} holds no problem")
    return found
