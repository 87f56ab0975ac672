"""Which log is this: told by the fields of its first records, said in a sentence, or refused with what is known."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from controlarm.logs import jsonl, openrlhf, store, trl, verl
from controlarm.logs.records import Container, UnreadableError, container, first_records, records
from controlarm.logs.rows import Damage, Fields, Row, rows


class Format(NamedTuple):
    """A way of writing rollouts."""

    words: str
    recognises: Callable[[set[str]], bool]
    fields: Callable[[set[str], Sequence[object]], Fields]


FORMATS: dict[str, Format] = {
    "trl": Format("TRL completions (log_completions)", trl.recognises, trl.fields),
    "verl": Format("verl rollouts or validation (rollout_data_dir, validation_data_dir)", verl.recognises, verl.fields),
    "store": Format("samples that controlarm evaluate stored", store.recognises, store.fields),
    "openrlhf": Format("OpenRLHF samples (batch_inference, W&B generated_samples)", openrlhf.recognises, openrlhf.fields),
    "jsonl": Format("records with fields found by name", jsonl.recognises, jsonl.fields),
}  # fmt: skip
"""In the order in which they are tried."""

KNOWN = (
    "known are TRL completions (parquet, or the output folder), verl rollouts (JSONL, or the folder), OpenRLHF samples (JSONL, W&B table), "
    "stores of controlarm evaluate, and any JSONL, JSON list or parquet whose completion field is named by an option"
)


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log that was recognised."""

    path: Path
    format: str
    files: tuple[Path, ...]
    containers: tuple[Container | None, ...]
    """None: the file cannot be read."""
    fields: Fields
    unused: tuple[str, ...]
    """Fields of the first records that play no role."""
    refused: tuple[Damage, ...] = ()
    """Files that cannot be read at all."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The trainer's own numbers by step, where it left them (TRL)."""
    history_damage: str | None = None
    note: str | None = None
    """What was chosen where a folder holds more (a store)."""

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        roles = "; ".join(
            f"{role.replace('_', ' ')} = {name}" for role, name in self.fields.named().items()
        )
        count = (
            f"{len(self.files)} files"
            if len(self.files) > 1
            else f"one {self.containers[0] or ''} file"
        )
        left = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        chose = f"; {self.note}" if self.note else ""
        return f"{self.path.name}: {FORMATS[self.format].words}, {count}; {roles}{left}{chose}"

    def read(self) -> Iterator[Row | Damage]:
        """All rows in order of files and lines, damage in its place; nothing is held but a batch."""
        yield from self.refused
        for index, (path, kind) in enumerate(zip(self.files, self.containers, strict=True)):
            if kind is None:
                continue
            for one in records(path, index, kind):
                if isinstance(one, Damage):
                    yield one
                else:
                    yield from rows(one[1], self.fields, index, one[0])


def open_log(path: Path, given: Fields | None = None) -> Log:
    """Tell what a file or folder is.

    Args:
        path: a file, or a folder of them.
        given: the reader's own mapping; it goes before what is found.

    Raises:
        ValueError: when it is nothing that we read; the message says what it looks like and what is known.
    """
    given = given or Fields()
    files = _files(path)
    kinds: list[Container | None] = []
    refused: list[Damage] = []
    looked: list[Any] = []
    for index, file in enumerate(files):
        try:
            kinds.append(container(file))
        except (UnreadableError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            kinds.append(None)
            refused.append(Damage(index, 0, said or "cannot be read"))
            continue
        if len(looked) < 20:
            looked += first_records(file, kinds[-1] or "json")
        if (
            kinds[-1] == "parquet"
            and store.recognises(jsonl.names_in(looked))
            and not store.intact(file)
        ):
            kinds[-1] = None
            refused.append(Damage(index, 0, "is not what was written: its seal is broken"))
    if not looked:
        why = refused[0].what if refused else _first_damage(files[0], kinds[0])
        raise ValueError(f"{path}: {files[0].name} {why}; {KNOWN}")
    names = jsonl.names_in(looked)
    name = next((n for n, f in FORMATS.items() if f.recognises(names)), None)
    if name is None and given.completion is None:
        seen = ", ".join(sorted(names)[:20]) or "none: records are no objects"
        raise ValueError(
            f"{path}: no field may be a completion (fields: {seen}); name it with --completion; {KNOWN}"
        )
    chosen = FORMATS[name or "jsonl"]
    fields = given.over(chosen.fields(names, looked))
    for role, wanted in given.named().items():
        for one in wanted.split(", "):
            if one not in names:
                raise ValueError(
                    f"{path}: has no field {one!r} for {role}; its fields are {', '.join(sorted(names)[:40])}"
                )
    used = {n for names_of in fields.named().values() for n in names_of.split(", ")}
    history, wrong = (
        trl.history(path if path.is_dir() else path.parent) if name == "trl" else ([], None)
    )
    return Log(
        path=path, format=name or "jsonl", files=tuple(files), containers=tuple(kinds), fields=fields,
        unused=tuple(sorted(n for n in names - used if "." not in n and not any(u.startswith(f"{n}.") for u in used))),
        refused=tuple(refused), history=history, history_damage=wrong,
        note=store.note(path) if name == "store" else None,
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    """The files of a log.

    Raises:
        ValueError: when there are none, or of more kinds than one.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; check the path")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: is neither a file nor a folder; give one of these")
    if found := trl.files(path) or verl.files(path) or store.files(path):
        return found
    kinds = {ext: sorted(path.glob(f"*.{ext}")) for ext in ("jsonl", "parquet", "json")}
    several = {ext: found for ext, found in kinds.items() if found}
    if not several:
        raise ValueError(f"{path}: holds no .jsonl, .parquet or .json file; {KNOWN}")
    if len(several) > 1:
        counts = ", ".join(f"{len(found)} .{ext}" for ext, found in several.items())
        raise ValueError(f"{path}: holds {counts} files; name the one file to read")
    return next(iter(several.values()))


def _first_damage(path: Path, kind: Container | None) -> str:
    """Why a file without a usable record has none."""
    for one in records(path, 0, kind or "json lines"):
        if isinstance(one, Damage):
            return f"line {one.line} {one.what}" if one.line else one.what
    return "holds no record"
