r"""One record of a log, whatever wrote it, becomes rows: a completion each, with what the log says about it.

Example of a record: ``{"question": "1 + 1?", "code": ["\\boxed{2}", "3"], "gt": "2", "score": [true, false]}``: two rows.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Which field of a record holds what; None: none does."""

    completion: str | None = None
    """The completion: text, chat messages, or a list of completions of one problem."""
    prompt: str | None = None
    """The problem or the prompt: text or chat messages."""
    gold: str | None = None
    """The right answer."""
    id: str | None = None
    """What names the problem in other logs, too."""
    step: str | None = None
    """The training step that sampled the completion."""
    answer: str | None = None
    """What the log's own grader took for the completion's answer."""
    truncated: str | None = None
    """True, or the word ``length``: the completion ran into the limit."""
    num_tokens: str | None = None
    scores: tuple[str, ...] = ()
    """Rewards and verdicts: numbers or booleans."""

    def over(self, found: "Fields") -> "Fields":
        """These fields where they are given, the others as found."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
        return replace(found, **own)

    def named(self) -> dict[str, str]:
        """Each role that a field plays, and the field's name."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {role: ", ".join(n) if isinstance(n, tuple) else n for role, n in pairs if n}


class Row(NamedTuple):
    """One completion. None: the log does not say."""

    file: int
    """Index into the log's files."""
    line: int
    """Line or row of that file, from 1."""
    text: str
    prompt: str | None
    problem_id: str | None
    gold: str | None
    step: int | None
    scores: dict[str, float]
    """By field; what is null or not finite is left out."""
    answer: str | None
    truncated: bool | None
    num_tokens: int | None


class Damage(NamedTuple):
    """A file, a line or a row that could not be used."""

    file: int
    line: int
    """0: the file as a whole."""
    what: str


class _UnusableError(Exception):
    """The record is no completion; the message says why."""


def rows(record: object, names: Fields, file: int, line: int) -> Iterator[Row | Damage]:
    """The completions of a record, or what is wrong with it."""
    try:
        yield from _rows(record, names, file, line)
    except _UnusableError as error:
        yield Damage(file, line, str(error))


def _rows(record: object, names: Fields, file: int, line: int) -> Iterator[Row]:
    if not isinstance(record, Mapping):
        raise _UnusableError(f"is no object but {_kind(record)}")
    assert names.completion is not None
    said = record.get(names.completion)
    if said is None:
        raise _UnusableError(f"has no completion in {names.completion!r}")
    several = isinstance(said, list) and not _is_chat(said)
    texts = said if isinstance(said, list) and several else [said]
    prompt = _optional(record, names.prompt)
    shared = {
        "prompt": None if prompt is None else _words(prompt, names.prompt, last="user"),
        "problem_id": _name(_optional(record, names.id), names.id),
        "gold": _name(_optional(record, names.gold), names.gold),
        "step": _whole(_optional(record, names.step), names.step),
    }
    for i, text in enumerate(texts):

        def own(name: str | None, i: int = i) -> Any:  # noqa: ANN401  whatever the log holds
            value = _optional(record, name)
            if several and isinstance(value, list):
                if len(value) != len(texts):
                    raise _UnusableError(
                        f"{name!r} has {len(value)} values for {len(texts)} completions"
                    )
                return value[i]
            return value

        scores = {name: _score(own(name), name) for name in names.scores}
        yield Row(
            file, line, _words(text, names.completion, last="assistant"),
            scores={name: value for name, value in scores.items() if value is not None},
            answer=_name(own(names.answer), names.answer),
            truncated=_cut(own(names.truncated)),
            num_tokens=_length(own(names.num_tokens), names.num_tokens),
            **shared,
        )  # fmt: skip


def _optional(record: Mapping[str, Any], name: str | None) -> Any:  # noqa: ANN401
    """A field of the record; a dotted name leads into objects, unless a field has that very name."""
    if name is None:
        return None
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_chat(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(m, Mapping) and "content" in m for m in value)


def _words(value: object, name: str | None, last: str) -> str:
    """A text; of chat messages what the last speaker of this role says, of a completion all of them."""
    if isinstance(value, str):
        return _whole_text(value)
    if isinstance(value, list) and _is_chat(value):
        said = [m["content"] for m in value if m.get("role", last) == last]
        said = said if last == "assistant" else said[-1:]
        if said and all(isinstance(s, str) for s in said):
            return _whole_text("\n".join(said))
        raise _UnusableError(f"{name!r} holds messages without text from the {last}")
    raise _UnusableError(f"{name!r} is {_kind(value)}, not text")


def _whole_text(text: str) -> str:
    """The text; halves of a UTF-16 pair, which no file can hold, become U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _name(value: object, name: str | None) -> str | None:
    """An id or an answer, which may be written as a number or be the only one of a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _UnusableError(f"{name!r} is {_kind(value)}, not text")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _whole_text(str(value))


def _whole(value: object, name: str | None) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise _UnusableError(f"{name!r} is {_kind(value)}, not a whole number")
    if abs(value) > 2**53:
        raise _UnusableError(f"{name!r} is no step: it is beyond 2 to the 53rd")
    return int(value)


def _length(value: object, name: str | None) -> int | None:
    if isinstance(value, list):  # the tokens themselves
        return len(value)
    return _whole(value, name)


def _score(value: object, name: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float):
        raise _UnusableError(f"{name!r} is {_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise _UnusableError(f"{name!r} is a number beyond all floats") from None
    return number if math.isfinite(number) else None


def _cut(value: object) -> bool | None:
    if isinstance(value, str):
        return value.lower() in ("length", "max_tokens", "truncated", "true")
    return value if isinstance(value, bool) else None


def _kind(value: object) -> str:
    """A value's type in words of JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case Mapping():
            return "an object"
    return f"a {type(value).__name__}"
