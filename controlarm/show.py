"""Completions on a terminal: the same problem side by side across arms. Model text is shown, never obeyed."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from controlarm import files
from controlarm.analysis.folder import BASE, FolderError
from controlarm.files import DamagedFileError
from controlarm.protocol import Protocol, RunSpec, Unit
from controlarm.records import Problem

COLUMN_WIDTH = 30
"""Columns of a terminal for one completion, at least."""
EVALUATED = (
    "problem_id",
    "sample",
    "text",
    "strict",
    "answer",
    "has_python",
    "truncated",
    "decoding",
)
TRAINED = ("problem_id", "sample", "text", "strict", "answer", "has_python", "truncated", "reward", "advantage")  # fmt: skip

Row = dict[str, Any]

_UNPLAIN = re.compile(r"[^\n -~]")


def visible(text: str) -> str:
    r"""Text with everything that a terminal would obey, or that would hide, spelled out; line ends stay.

    >>> visible("a\x1b[31m\tb\u202e\x9b")
    'a␛[31m␉b\\u202e\\x9b'
    """
    return _UNPLAIN.sub(lambda match: _spelled(match[0]), text)


def _spelled(c: str) -> str:
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp"):
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # fmt: skip
    return c


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which completions to show; None: any."""

    families: Sequence[str]
    arms: Sequence[str]
    unit: Unit
    step: int
    training: bool
    """Training rollouts instead of held-out completions."""
    problem: str | None
    strategy: str | None
    verdict: str | None
    num_problems: int
    num_samples: int


def path_of(folder: Path, spec: RunSpec, wanted: Wanted, step: int) -> Path:
    """The file that holds a run's completions of a step."""
    kind = "rollouts" if wanted.training else "evaluations"
    return folder / spec.path / kind / f"step-{step:06d}.parquet"


def steps_of(folder: Path, specs: Sequence[RunSpec], training: bool) -> list[int]:
    """Steps of which any of the runs has a file."""
    kind = "rollouts" if training else "evaluations"
    files = (file for s in specs for file in (folder / s.path / kind).glob("step-*.parquet"))
    return sorted({int(file.stem.removeprefix("step-")) for file in files})


def read(path: Path, names: Sequence[str]) -> list[Row]:
    """Columns of a file, as rows.

    Raises:
        FolderError: when it is damaged.
    """
    try:
        return files.read_table(path, names).to_pylist()
    except DamagedFileError as error:
        raise FolderError(str(error)) from None


def problems(folder: Path) -> list[Problem]:
    """All problems of the trial."""
    rows = read(folder / "problems.parquet", ("id", "text", "answer"))
    return [Problem(id=row["id"], text=row["text"], answer=row["answer"]) for row in rows]


def _fits(row: Row, wanted: Wanted) -> bool:
    strategy = "code" if row["has_python"] else "words"
    return wanted.strategy in (None, strategy) and wanted.verdict in (None, row["strict"])


def chosen(
    folder: Path, protocol: Protocol, specs: Sequence[RunSpec], wanted: Wanted
) -> Iterator[tuple[str, str, str, dict[str, list[Row]]]]:
    """Family, recipe, problem id, and each arm's completions, for the first problems of each family and recipe that have any.

    The base stands beside the arms where held-out completions are shown.
    """
    for family in wanted.families:
        own = [
            s
            for s in specs
            if s.family == family and Unit(s.pretraining_seed, s.seed) == wanted.unit
        ]
        for recipe in protocol.recipes:
            by_arm: dict[str, list[Row]] = {}
            for spec in (s for s in own if s.recipe == recipe):
                base = path_of(folder, spec, wanted, 0)
                if (
                    not wanted.training
                    and BASE in wanted.arms
                    and BASE not in by_arm
                    and base.exists()
                ):
                    by_arm[BASE] = read(base, EVALUATED)
                path = path_of(folder, spec, wanted, wanted.step)
                if spec.arm in wanted.arms and path.exists():
                    by_arm[spec.arm] = read(path, TRAINED if wanted.training else EVALUATED)
            for problem, kept in _problems(by_arm, wanted):
                yield family, recipe, problem, kept


def _problems(
    by_arm: Mapping[str, list[Row]], wanted: Wanted
) -> Iterator[tuple[str, dict[str, list[Row]]]]:
    grouped: dict[str, dict[str, list[Row]]] = {}
    for arm, rows in by_arm.items():
        for row in rows:
            grouped.setdefault(row["problem_id"], {}).setdefault(arm, []).append(row)
    shown = 0
    for problem, arms in grouped.items():
        if shown == wanted.num_problems:
            return
        if wanted.problem is not None and wanted.problem not in problem:
            continue
        fitting = {arm: [r for r in rows if _fits(r, wanted)] for arm, rows in arms.items()}
        kept = {arm: rows[: wanted.num_samples] for arm, rows in fitting.items() if rows}
        if kept:
            shown += 1
            yield problem, kept


def _verdict(row: Row) -> str:
    strategy = "code" if row["has_python"] else "words"
    told = [row["strict"].replace("_", " "), strategy]
    if row["truncated"]:
        told.append("truncated")
    if "reward" in row:
        told.append(f"reward {row['reward']:g}, advantage {row['advantage']:+.2f}")
    return ", ".join(told)


def print_problem(console: Console, arms: Mapping[str, list[Row]]) -> None:
    """One column an arm, as many beside each other as fit; arms that said and were paid the same share a column."""
    columns: dict[str, list[str]] = {}
    for arm, rows in arms.items():
        said = "\n\n".join(f"{_sample(r)}{_verdict(r)}\n{r['text'].rstrip()}" for r in rows)
        columns.setdefault(said, []).append(arm)
    beside = max(1, console.width // COLUMN_WIDTH)
    items = list(columns.items())
    for start in range(0, len(items), beside):
        part = items[start : start + beside]
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        for _, names in part:
            table.add_column(Text(visible(", ".join(names))), overflow="fold", min_width=20)
        table.add_row(*(Text(visible(said), overflow="fold") for said, _ in part))
        console.print(table)
        console.print()


def _sample(row: Row) -> str:
    if row.get("decoding") == "greedy":
        return "greedy: "
    return f"sample {row['sample']}: "
