"""A user's own family: a pretraining mixture from a TOML file, read strictly (docs/add-a-family.md)."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from controlarm.organisms.corpus import FAMILIES, Mixture, Skill
from controlarm.problems.arithmetic import NAMES, NOUNS
from controlarm.protocol import ProtocolError


class Family(NamedTuple):
    """A mixture with a name."""

    name: str
    mixture: Mixture


def read(path: Path) -> Family:
    """A family from a file that has a name and every field of ``Mixture`` without a default.

    Raises:
        ProtocolError: one line per problem: the key, what is wrong, the remedy.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path}: not valid TOML: {error}") from None
    problems = list(_problems(table))
    if problems:
        raise ProtocolError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Family(table.pop("name"), Mixture(**table))


def _problems(table: Mapping[str, Any]) -> Iterator[str]:
    known = ("name", *Mixture._fields)
    for key in table.keys() - known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        yield f"{key}: unknown key; {hint}known: {', '.join(known)}"
    for key in known:
        if key not in table:
            if key not in Mixture._field_defaults:
                yield f"{key}: is missing; add it"
        elif wanted := _misfit(key, table[key]):
            yield f"{key}: must be {wanted}; it is {table[key]!r}"


def _misfit(key: str, value: object) -> str | None:
    """What the value should be; None when it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "name":
        if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value):
            return "small letters, digits and _, a letter first"
        return f"another name than {', '.join(FAMILIES)}" if value in FAMILIES else None
    if key.endswith("_skill"):
        return None if value in get_args(Skill) else " or ".join(map(repr, get_args(Skill)))
    if key.endswith(("_names", "_nouns")):
        most = len(NAMES if key.endswith("_names") else NOUNS)
        fits = number and isinstance(value, int) and 0 <= value <= most
        return None if fits else f"a count from 0 to {most}"
    return None if number and 0 <= float(str(value)) <= 1 else "a share from 0 to 1"
