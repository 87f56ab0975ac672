"""A finished trial in a few files, small enough to commit: what analysis reads of it, without training texts and weights.

Completions are kept once for all runs of a unit whose weights are the same, and stand in the order (unit, problem, sample,
evaluation): arms share their sampling noise, so neighbours are mostly equal and compress. `docs/formats.md` has the files.
Whoever reads one sees the same numbers as in the run folder, bit for bit: what an archive rounds is rounded in both.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from controlarm import files
from controlarm.files import DamagedFileError
from controlarm.protocol import RunSpec

VERSION = "archive-1"
MARK = "archive.json"
"""Written last: where it is, all is."""

COPIED = ("protocol.toml", "environment.json", "problems.parquet", "plan.json")
"""Byte for byte as in the run folder."""
LEFT_OUT = ("text", "entropy")
"""Columns of an evaluation that are not kept."""
LEVEL = 15
"""Of zstd: written once, read and copied often."""

Row = dict[str, Any]


def is_archive(folder: Path) -> bool:
    """Whether a folder is an archive and not a run folder."""
    return (folder / MARK).exists()


def as_kept(table: pa.Table) -> pa.Table:
    """Columns of an evaluation with the precision that an archive keeps: float32 for what was float64."""
    fields = [
        field.with_type(pa.float32()) if field.type == pa.float64() else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, table.schema.metadata))


# Writing.


def write(
    folder: Path, target: Path, texts: Iterable[Row], siblings: Sequence[Row], steps: Iterable[int]
) -> None:
    """Archive a run folder in another, which is made.

    Args:
        folder: a run folder without damage.
        target: where the files go.
        texts: the completions that the report shows, each with ``run`` (index in the plan) and ``step``.
        siblings: other trials of that name, as the report lists them.
        steps: of the protocol's evaluations.

    Raises:
        DamagedFileError: a file of the run folder is not what was written.
        OSError: a file cannot be read or written.
    """
    specs = _specs(folder)
    for name in COPIED:
        files.write_atomic(target / name, (folder / name).read_bytes())
    _write(target / "labels.parquet", _all_labels(folder))
    _write(target / "journals.parquet", _all_journals(folder, specs))
    index, evaluations = _all_evaluations(folder, specs, sorted(steps))
    _write(target / "evaluated.parquet", index)
    _write(target / "evaluations.parquet", evaluations)
    _write(target / "texts.parquet", _table(texts, ("run", "step")))
    for kind in probe_kinds(folder):
        _write(target / "probes" / f"{kind}.parquet", _gathered(folder, specs, kind))
    environment = files.read_json(folder / "environment.json")
    facts = {
        "version": VERSION,
        "commit": environment.get("commit") or code_version(),
        "failed": [
            {"run": run, **files.read_json(path)}
            for run, spec in enumerate(specs)
            if (path := folder / spec.path / "failed.json").exists()
        ],
        "siblings": list(siblings),
        "times": times(folder / "times.jsonl"),
    }
    files.write_json(target / MARK, facts)


def _specs(folder: Path) -> list[RunSpec]:
    return [RunSpec(**run) for run in files.read_json(folder / "plan.json")["runs"]]


def code_version() -> str | None:
    """The commit of this code, with ``-dirty`` where files differ from it; None where it stands in no repository of its own."""
    home = Path(__file__).resolve().parents[1]
    if not (home / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def times(path: Path) -> Row:
    """Begin, end and seconds of each stage, from ``times.jsonl``; empty where there is none. A pause between two commands counts."""
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines()
    rows = [row for row in map(_json_or_none, lines) if isinstance(row, dict) and "time" in row]
    if not rows:
        return {}
    stages: dict[str, Row] = {}
    for row in rows:
        stage = stages.setdefault(str(row.get("stage")), {"reports": 0})
        stage["reports"] += 1
        for name in ("seconds", "cpu_seconds"):
            if name in row:
                stage[name] = stage.get(name, 0.0) + float(row[name])
    began = min(row["time"] - row.get("seconds", 0.0) for row in rows)
    ended = max(row["time"] for row in rows)
    return {
        "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
        "wall_seconds": ended - began,
        "stages": stages,
    }


def _json_or_none(line: bytes) -> Any:  # noqa: ANN401  any JSON value
    try:
        return json.loads(line)
    except ValueError:  # a killed command cut it; no number of the report comes from here
        return None


def _table(rows: Iterable[Row], keys: Sequence[str]) -> pa.Table:
    """Rows as a table with every column that any of them has; ``keys`` stand first and are there even without rows."""
    rows = list(rows)
    names = dict.fromkeys([*keys, *(name for row in rows for name in row)])
    columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    for name in keys:
        columns[name] = columns[name].cast(pa.int32())
    return pa.table(columns)


def _write(path: Path, table: pa.Table) -> None:
    """One row group, each column in whichever encoding makes it smallest."""
    chosen: dict[str, list[str]] = {"dictionary": [], "split": [], "plain": []}
    for name in table.column_names:
        chosen[_smallest(table.select([name]))].append(name)
    files.write_table(path, table, **_options(chosen["dictionary"], chosen["split"]))


def _options(dictionary: Sequence[str], split: Sequence[str]) -> Row:
    return {
        "use_dictionary": list(dictionary), "use_byte_stream_split": list(split), "compression_level": LEVEL,
        "write_statistics": False, "data_page_size": 1 << 24, "dictionary_pagesize_limit": 1 << 24,
    }  # fmt: skip


def _smallest(column: pa.Table) -> str:
    (field,) = column.schema
    ways = ["plain"]
    if not pa.types.is_nested(field.type):
        ways.append("dictionary")
    if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
        ways.append("split")
    sizes = {}
    for way in ways:
        names = [[field.name] if way == each else [] for each in ("dictionary", "split")]
        sizes[way] = len(files.table_bytes(column, **_options(*names)))
    return min(ways, key=sizes.__getitem__)


_INTEGERS = ("run", "step", "evaluation", "pretraining_seed", "seed")
"""Columns that are put in front as numbers; others are names."""


def _with(table: pa.Table, values: Mapping[str, Any]) -> pa.Table:
    """The same values on every row, in front; a column that the table has itself stays its own."""
    for name, value in reversed(list(values.items())):
        if name not in table.column_names:
            scalar = pa.scalar(value, pa.int32() if name in _INTEGERS else pa.string())
            table = table.add_column(0, name, pa.repeat(scalar, table.num_rows))
    return table


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables below each other; a column that one lacks is null there."""
    bare = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables(bare, promote_options="permissive").combine_chunks()


def _all_labels(folder: Path) -> pa.Table:
    tables = []
    for path in sorted((folder / "labels").glob("*-p*.parquet")):
        family, _, seed = path.stem.rpartition("-p")
        whose = {"family": family, "pretraining_seed": int(seed)}
        tables.append(_with(files.read_table(path, None), whose))
    return _joined(tables) if tables else pa.table({"family": pa.array([], pa.string())})


def _all_journals(folder: Path, specs: Sequence[RunSpec]) -> pa.Table:
    rows: list[Row] = []
    for run, spec in enumerate(specs):
        path = folder / spec.path / "steps.jsonl"
        if not path.exists():
            continue
        for raw in path.read_bytes().splitlines():
            if not files.intact(raw):
                raise DamagedFileError(path, files.CHANGED)
            rows.append({"run": run, **json.loads(raw)})
    for row in rows:
        del row["seal"]
    return _table(rows, ("run",))


def _all_evaluations(
    folder: Path, specs: Sequence[RunSpec], steps: Sequence[int]
) -> tuple[pa.Table, pa.Table]:
    """Which completions each run has at each step, and the completions."""
    index: list[Row] = []
    kept: list[tuple[Any, pa.Table]] = []
    numbers: dict[Any, list[int]] = {}
    for run, spec in enumerate(specs):
        unit = spec._replace(arm="")
        for step in steps:
            path = folder / spec.path / "evaluations" / f"step-{step:06d}.parquet"
            if not path.exists():
                continue
            table = files.read_table(path, None)
            sha = (table.schema.metadata or {}).get(b"weights_sha256", b"").decode()
            names = [name for name in table.column_names if name not in LEFT_OUT]
            table = as_kept(table.select(names).replace_schema_metadata(None))
            same = [n for n in numbers.get((unit, sha), []) if kept[n][1].equals(table)]
            if not same:
                same = [len(kept)]
                numbers.setdefault((unit, sha), []).append(len(kept))
                kept.append((unit, table))
            index.append({"run": run, "step": step, "evaluation": same[0], "weights_sha256": sha})
    listed = _table(index, ("run", "step", "evaluation"))
    if not kept:
        return listed, _table((), ("evaluation",))
    units = {unit: i for i, unit in enumerate(dict.fromkeys(unit for unit, _ in kept))}
    places = [
        (units[unit], np.arange(table.num_rows), number)
        for number, (unit, table) in enumerate(kept)
    ]
    of_unit, row, evaluation = (
        np.concatenate([np.broadcast_to(place[i], len(place[1])) for place in places])
        for i in range(3)
    )
    whole = _joined(
        [_with(table, {"evaluation": number}) for number, (_, table) in enumerate(kept)]
    )
    return listed, whole.take(pa.array(np.lexsort((evaluation, row, of_unit))))


# Probes: tables of one kind that stand with many runs and bases.

_STEP = re.compile(r"-?step-(\d+)$")


class _ProbeFile(NamedTuple):
    path: Path
    kind: str
    facts: Row
    """Whose it is; null where it is a base's."""


def _probe_files(folder: Path, specs: Sequence[RunSpec]) -> Iterator[_ProbeFile]:
    for run, spec in enumerate(specs):
        for path in sorted((folder / spec.path / "probes").glob("*.parquet")):
            yield _probe_file(path, {"run": run, **spec._asdict()})
    for path in sorted((folder / "bases").glob("*-p*/probes/*.parquet")):
        family, _, seed = path.parent.parent.name.rpartition("-p")
        facts = {"run": None, **dict.fromkeys(RunSpec._fields)}
        yield _probe_file(path, facts | {"family": family, "pretraining_seed": int(seed)})


def _probe_file(path: Path, facts: Row) -> _ProbeFile:
    found = _STEP.search(path.stem)
    kind = (path.stem[: found.start()] if found else path.stem) or "probe"
    return _ProbeFile(path, kind, facts | {"step": int(found[1]) if found else None})


def _gathered(folder: Path, specs: Sequence[RunSpec], kind: str) -> pa.Table:
    tables = []
    for file in _probe_files(folder, specs):
        if file.kind != kind:
            continue
        table = files.read_table(file.path, None)
        said = {
            key.decode(errors="replace"): value.decode(errors="replace")
            for key, value in (table.schema.metadata or {}).items()
            if key not in (b"seal", b"ARROW:schema")
        }
        tables.append(
            _with(table, file.facts | {k: v for k, v in said.items() if k not in file.facts})
        )
    return _joined(tables)


def probe_kinds(folder: Path) -> list[str]:
    """Kinds of probes that a run folder or an archive holds."""
    if is_archive(folder):
        return sorted(path.stem for path in (folder / "probes").glob("*.parquet"))
    return sorted({file.kind for file in _probe_files(folder, _specs(folder))})


def probes(folder: Path, kind: str) -> pa.Table:
    """All tables of one kind below each other, of a run folder or an archive.

    Before a table's own columns stand ``run`` (index in the plan; null: a base), the columns of a run's name, and ``step``
    where the file's name has one. What the files say in their metadata are columns too.

    Raises:
        DamagedFileError: a file is not what was written.
        ValueError: there is no such kind.
    """
    known = probe_kinds(folder)
    if kind not in known:
        raise ValueError(
            f"{folder}: has no probes of kind {kind!r}; it has: {', '.join(known) or 'none'}"
        )
    if is_archive(folder):
        path = folder / "probes" / f"{kind}.parquet"
        return files.read_table(path, None).replace_schema_metadata(None)
    return _gathered(folder, _specs(folder), kind)


# Reading.


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What ``archive.json`` holds."""

    commit: str | None
    """Of the code that made the trial, or else of the code that archived it."""
    failed: dict[int, Row]
    """Index of a run → its ``failed.json``."""
    siblings: list[Row]
    times: Row


def facts(folder: Path) -> Facts:
    """``archive.json``.

    Raises:
        DamagedFileError: when it is not what was written, or of another version.
        OSError: when it cannot be read.
    """
    path = folder / MARK
    found = files.read_json(path)
    if found["version"] != VERSION:
        raise DamagedFileError(path, f"is of version {found['version']!r}, not {VERSION!r}")
    failed = {row["run"]: {k: v for k, v in row.items() if k != "run"} for row in found["failed"]}
    return Facts(
        commit=found["commit"], failed=failed, siblings=found["siblings"], times=found["times"]
    )


def _read(path: Path, keys: Sequence[str], names: Sequence[str]) -> pa.Table | None:
    """These columns; None where there are no rows, of which nobody could have known the columns."""
    if not files.read_table(path, keys).num_rows:
        return None
    return files.read_table(path, (*keys, *names))


def labels(folder: Path, names: Sequence[str]) -> dict[tuple[str, int], list[Row]]:
    """Family and pretraining seed → rows of these columns.

    Raises:
        DamagedFileError: the file is not what was written, or lacks a column.
        OSError: it cannot be read.
    """
    table = _read(folder / "labels.parquet", ("family",), ("pretraining_seed", *names))
    found: dict[tuple[str, int], list[Row]] = {}
    for row in table.to_pylist() if table else ():
        key = (row.pop("family"), row.pop("pretraining_seed"))
        found.setdefault(key, []).append(row)
    return found


def journals(
    folder: Path, names: Sequence[str]
) -> dict[int, dict[str, Float[np.ndarray, " step"]]]:
    """Index of a run → its journal's columns; null is NaN.

    Raises:
        DamagedFileError: the file is not what was written, or lacks a column.
        OSError: it cannot be read.
    """
    path = folder / "journals.parquet"
    table = _read(path, ("run",), names)
    if not table:
        return {}
    of_run = table["run"].to_numpy()
    try:
        columns = {name: table[name].cast(pa.float64()).to_numpy() for name in names}
    except pa.ArrowException as error:
        raise DamagedFileError(path, f"holds something else than numbers ({error})") from None
    found = {}
    for run in dict.fromkeys(of_run.tolist()):
        mine = of_run == run
        found[run] = {name: values[mine] for name, values in columns.items()}
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluations:
    """Completions of all runs."""

    tables: dict[int, pa.Table]
    """Number of an evaluation → its rows, as its file had them."""
    numbers: dict[tuple[int, int], int]
    """Index of a run and step → number of the evaluation."""


def evaluations(folder: Path, names: Sequence[str]) -> Evaluations:
    """All evaluations, of these columns.

    Raises:
        DamagedFileError: a file is not what was written, or lacks a column.
        OSError: one cannot be read.
    """
    keys = ("run", "step", "evaluation")
    listed = _read(folder / "evaluated.parquet", keys, ("weights_sha256",))
    table = _read(folder / "evaluations.parquet", ("evaluation",), names)
    if not listed or not table:
        return Evaluations(tables={}, numbers={})
    index = listed.to_pylist()
    number = table["evaluation"].to_numpy()
    order = np.argsort(number, kind="stable")
    table, number = table.take(pa.array(order)).drop_columns("evaluation"), number[order]
    tables = {}
    for row in index:
        wanted = row["evaluation"]
        if wanted not in tables:
            start, end = np.searchsorted(number, [wanted, wanted + 1]).tolist()
            said = {"weights_sha256": row["weights_sha256"]}
            tables[wanted] = table.slice(start, end - start).replace_schema_metadata(said)
    numbers = {(row["run"], row["step"]): row["evaluation"] for row in index}
    return Evaluations(tables=tables, numbers=numbers)


def texts(folder: Path, run: int, step: int, names: Sequence[str]) -> list[Row]:
    """The completions of one evaluation that the report shows.

    Raises:
        DamagedFileError: the file is not what was written, or lacks a column.
        OSError: it cannot be read.
    """
    table = _read(folder / "texts.parquet", ("run", "step"), names)
    if not table:
        return []
    mine = (table["run"].to_numpy() == run) & (table["step"].to_numpy() == step)
    return table.filter(pa.array(mine)).select(list(names)).to_pylist()
