"""Samples of one model, kept for good: what was generated is never generated again, and every number is computed from it.

A store is a folder. Each condition (problems, prompt, sampling, seed) has a folder of its own in it:

    <store>/<problems>-<prompt>-<digest8>/
      condition.json                what all its samples share; written first
      asked.json                    how many problems and samples the last command asked for
      samples/000000.parquet …      one row a completion; parts are added and never changed
      grades/<version>/000000.parquet …  one row a completion of the part of that number, by one version of the graders

A part appears whole or not at all, so a command that is killed loses what it had in flight and no more. A sample's key is
(model revision, condition, prompt, problem, sample index); the same command asks what is missing and makes only that.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from controlarm import files
from controlarm.files import DamagedFileError
from controlarm.prompts import Template

SAMPLES = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("prompt_sha256", pa.string()),
        ("problem", pa.string()),
        ("gold", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("logprob", pa.float64()),
        ("environment", pa.string()),
    ]
)
"""``sample``: from 0. ``prompt``: all that the model read. ``text``: the completion, the template's opening included.
``num_tokens``: generated, the end token included. ``truncated``: it met the limit of tokens. ``logprob``: natural, of the generated tokens under the
model at temperature 1, summed; null where the backend does not tell. ``environment``: what made it."""

GRADES = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("strict", pa.string()),
        ("lenient", pa.string()),
        ("boxed", pa.string()),
        ("answer", pa.string()),
        ("how", pa.string()),
        ("answer_class", pa.string()),
        ("has_python", pa.bool_()),
        ("code_parses", pa.bool_()),
    ]
)
"""As in evaluation files; ``answer_class`` names the equivalence class of ``boxed`` among the problem's answers, null without one."""

REMEDY = (
    "delete this part and run the same evaluation again: it makes these samples anew and no others"
)
REGRADE = "delete this part and run controlarm regrade: it grades these samples anew and no others"


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What all samples of a condition share. Two samples of one condition differ by problem and sample index only."""

    revision: str
    """Commit of the model on the hub, or ``sha256-…`` of a local folder's files."""
    problems: str
    """Name of the problem set. Example: ``"math500"``."""
    prompt: str
    """Name of the template."""
    template: Mapping[str, Any]
    """What the template holds."""
    backend: str
    """Who generated, and at which precision: ``"transformers float32"``. Another one draws other samples."""
    temperature: float
    """0: greedy."""
    top_p: float
    max_tokens: int
    seed: int
    """0 for greedy, which draws nothing."""
    model: str = field(compare=False)
    """Path or name that was given; says nothing about identity."""

    @property
    def digest(self) -> str:
        """Of everything but the model's name."""
        held = {name: value for name, value in asdict(self).items() if name != "model"}
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> str:
        name = re.sub(r"[^\w.+-]", "_", self.problems)
        return f"{name}-{self.prompt}-{self.digest[:8]}"

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the last command wanted a condition to hold; tells a whole condition from one that was stopped."""

    num_problems: int
    num_samples: int
    """Of each problem."""


def template_facts(template: Template) -> dict[str, Any]:
    """A template as a condition keeps it: what changes a sample or its grade."""
    held = asdict(template)
    del held["source"]
    return {**held, "stop": list(template.stop)}


class Key(NamedTuple):
    """One sample within a condition."""

    problem_id: str
    sample: int


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold a store for this process.

    Raises:
        BusyError: another command writes to it.
    """
    files.make_folder(folder)
    with files.locked(folder):
        yield


def conditions(folder: Path) -> dict[Path, Condition]:
    """Each condition that has samples: its folder and what they share, greedy first; ``folder`` is a store, or a condition in one.

    Raises:
        ValueError: there is none, or a damaged one.
    """
    paths = [folder] if (folder / "condition.json").exists() else sorted(folder.glob("*/"))
    found = {}
    for path in paths:
        if parts(path):
            found[path] = Condition(**files.read_json(path / "condition.json"))
    if not found:
        raise ValueError(
            f"{folder}: holds no samples; give a folder that controlarm evaluate wrote (its --out)"
        )
    return dict(sorted(found.items(), key=lambda item: _place_in_list(item[1])))


def _place_in_list(c: Condition) -> tuple[object, ...]:
    return c.problems, c.prompt, c.max_tokens, c.temperature, c.top_p, c.seed, c.backend


def begin(folder: Path, condition: Condition) -> Path:
    """Where the condition's samples stand in this store, or will stand.

    Raises:
        ValueError: the store holds another model.
    """
    for path in sorted(folder.glob("*/condition.json")):
        other = Condition(**files.read_json(path))
        if other.revision != condition.revision:
            raise ValueError(
                f"{folder}: holds samples of {other.model} ({other.revision[:19]}), and this is {condition.model} "
                f"({condition.revision[:19]}); one store is for one model: choose another --out"
            )
    return folder / condition.folder


def parts(place: Path) -> list[Path]:
    """A condition's parts of samples, oldest first."""
    return sorted((place / "samples").glob("[0-9]*.parquet"))


def asked(place: Path) -> Asked | None:
    """What a condition was to hold; None: nothing there says so.

    Raises:
        DamagedFileError: the file is not what was written.
    """
    path = place / "asked.json"
    return Asked(**files.read_json(path)) if path.exists() else None


def write_asked(place: Path, wanted: Asked) -> None:
    """Keep what a condition is to hold; only the holder of the store's lock may."""
    files.write_json(place / "asked.json", asdict(wanted))


def append(place: Path, condition: Condition, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Add a part of samples; only the holder of the store's lock may."""
    if not (place / "condition.json").exists():
        files.write_json(place / "condition.json", asdict(condition))
    newest = parts(place)
    number = int(newest[-1].stem) + 1 if newest else 0
    path = place / "samples" / f"{number:06d}.parquet"
    files.write_table(path, table(rows, SAMPLES))
    return path


def table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as UTF-8 can hold them: a lone surrogate becomes a question mark."""
    return pa.Table.from_pylist(
        [
            {
                name: value.encode(errors="replace").decode() if isinstance(value, str) else value
                for name, value in row.items()
            }
            for row in rows
        ],
        schema=schema,
    )


def read_part(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """One part of samples.

    Raises:
        DamagedFileError: it is not what was written.
    """
    return _read(path, names, REMEDY)


def _read(path: Path, names: Sequence[str] | None, remedy: str) -> pa.Table:
    try:
        return files.read_table(path, names)
    except DamagedFileError as error:
        raise DamagedFileError(path, error.what, remedy) from None


def samples(place: Path, names: Sequence[str] | None = None) -> pa.Table:
    """All samples of a condition, in the order in which they were written."""
    wanted = SAMPLES.names if names is None else names
    empty = pa.schema([SAMPLES.field(name) for name in wanted]).empty_table()
    return pa.concat_tables([empty, *(read_part(path, wanted) for path in parts(place))])


def grade_path(part: Path, version: str) -> Path:
    """Where the grades of a part of samples stand."""
    return part.parent.parent / "grades" / version / part.name


def graded_versions(place: Path) -> list[str]:
    """Versions of the graders that have graded any part of a condition."""
    return sorted(path.name for path in (place / "grades").glob("*/") if any(path.iterdir()))


def write_grades(part: Path, version: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep the grades of one part."""
    files.write_table(grade_path(part, version), table(rows, GRADES))


def read_grades(part: Path, version: str) -> pa.Table:
    """The grades of one part.

    Raises:
        DamagedFileError: they are not what was written.
        OSError: there are none.
    """
    return _read(grade_path(part, version), None, REGRADE)


def ungraded(place: Path, version: str) -> list[Path]:
    """Parts that this version has not graded."""
    return [path for path in parts(place) if not grade_path(path, version).exists()]
