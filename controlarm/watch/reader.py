"""A run folder as it grows: each look reads what is new and nothing else, writes nothing and holds no lock.

Journals are followed from where the last look stopped; a line without its end waits for it. What cannot be read is named,
as in a report, and the rest is shown. The same works on a folder that is finished, on a copy of one, and on a record.
"""

import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from jaxtyping import Float

from controlarm import archive, files
from controlarm.analysis import tables
from controlarm.analysis.folder import (
    Damage,
    FolderError,
    JournalLines,
    Run,
    read_evaluation,
    read_plan,
    read_protocol,
    read_trial,
)
from controlarm.files import DamagedFileError
from controlarm.progress import Progress
from controlarm.protocol import Protocol, ProtocolError, RunSpec

CUT_AFTER = 60.0
"""Seconds after which a last line without its end is named: who wrote it has stopped."""
RECENT = 64
"""Reports by which the number of workers is judged."""
BEFORE_PLAN = frozenset({".lock", "protocol.toml", "environment.json", "problems.parquet"})
"""What a run folder may hold before it has its plan, beside files being written."""

Stamp = tuple[int, int, int]
"""Inode, size and time of change: a file of another stamp is read again."""


def stamp(path: Path) -> Stamp | None:
    """A file's stamp; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Tail:
    """A file of lines that is appended to, and that a resumed trial cuts back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest = b""
        """What stands behind the last line end."""
        self.changed = 0.0
        """When the file last changed, in seconds since the epoch."""
        self._stamp: Stamp | None = None
        self._offset = 0
        self._last = b""
        """The last line read, with its end: if it still stands there, all before it does."""

    def advance(self) -> tuple[bool, list[bytes]]:
        """Whether the file was cut back, so that all earlier lines are void, and the new whole lines, without their ends.

        Raises:
            OSError: when it cannot be read; there being no file is no error.
        """
        now = stamp(self.path)
        if now == self._stamp:
            return False, []
        if now is None:
            void, self._offset, self._last, self.rest = self._offset > 0, 0, b"", b""
            self._stamp = None
            return void, []
        with self.path.open("rb") as file:
            file.seek(self._offset - len(self._last))
            same = file.read(len(self._last)) == self._last
            void = not same or (self._stamp is not None and now[0] != self._stamp[0])
            if void:
                file.seek(0)
                self._offset, self._last = 0, b""
            content = file.read()
        self._stamp, self.changed = now, now[2] / 1e9
        *lines, self.rest = content.split(b"\n")
        if lines:
            self._last = lines[-1] + b"\n"
            self._offset += len(content) - len(self.rest)
        return void, lines


@dataclass(kw_only=True, slots=True)
class Watched:
    """What is known of one run."""

    spec: RunSpec
    journal: dict[str, Float[np.ndarray, " step"]] = field(default_factory=dict)
    """As ``Run.journal``; empty before the first look."""
    evaluated: dict[int, dict[str, float]] = field(default_factory=dict)
    """Held-out metrics by training step."""
    failure: dict[str, Any] | None = None
    rollouts: frozenset[int] = frozenset()
    """Steps of which there is a file of training rollouts."""

    @property
    def step(self) -> int:
        """The last step in its journal."""
        steps = self.journal.get("step")
        return int(steps[-1]) if steps is not None and len(steps) else 0

    def state(self, protocol: Protocol) -> Literal["waiting", "training", "finished", "failed"]:
        """How far it is."""
        last = protocol.design.num_steps
        if self.failure:
            return "failed"
        if self.step == last and last in self.evaluated:
            return "finished"
        return "training" if self.step or self.evaluated else "waiting"

    def newest(self, name: str) -> float:
        """A column's value at the last step; NaN where there is none."""
        column = self.journal.get(name)
        return float(column[-1]) if column is not None and len(column) else float("nan")

    def as_run(self) -> Run:
        """For those parts of the analysis that need the journal alone."""
        return Run(spec=self.spec, state="unfinished", journal=self.journal, evaluations={})


@dataclass(slots=True)
class _Files:
    """What was read of a run's folder, to read it once."""

    tail: Tail
    lines: JournalLines
    places: tuple[Path, Path, Path]
    """Where evaluations, rollouts and the reason of a failure stand."""
    evaluations: dict[int, Stamp] = field(default_factory=dict)
    failure: Stamp | None = None


class Watcher:
    """A folder that is looked at again and again.

    ``trained``, ``measured`` and ``told`` count changes of the journals, of evaluations, and of everything else that is shown.
    """

    def __init__(self, folder: Path) -> None:
        """Look for the first time.

        Raises:
            FolderError: the folder is none of a trial's, or its plan cannot be read.
            ProtocolError: its protocol cannot be read.
            OSError: it cannot be read at all.
        """
        self.folder = folder
        self.archived = archive.is_archive(folder)
        self.protocol: Protocol | None = None
        """None while the folder has no plan yet."""
        self.plan: dict[str, Any] = {}
        self.runs: list[Watched] = []
        self.problems: dict[str, tuple[str, str]] = {}
        """Training problems: id → text and right answer."""
        self._held_out: list[str] | None = None
        self._evaluated_at: set[int] = set()
        self.progress: Progress | None = None
        self.heard = 0.0
        """When the last report of ``times.jsonl`` was made, in seconds since the epoch; 0: there is none."""
        self.trained = self.measured = self.told = 0
        self._damage: dict[str, list[str]] = {}
        self._files: list[_Files] = []
        self._times = Tail(folder / "times.jsonl")
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        _refuse_other_folders(folder)

    @property
    def damaged(self) -> list[Damage]:
        """What cannot be used, file by file."""
        return [Damage(file, what) for file, said in self._damage.items() for what in said]

    def look(self, now: float) -> bool:
        """Read what is new; whether anything was.

        Args:
            now: seconds since the epoch.

        Raises:
            FolderError: the plan, which has just appeared, cannot be read.
            ProtocolError: its protocol cannot be read.
        """
        before = (self.trained, self.measured, self.told)
        if self.protocol is None and not self._begin():
            return False
        if not self.archived:
            for run, known in zip(self.runs, self._files, strict=True):
                self._read_journal(run, known, now)
                self._list(run, known)
            self._read_times()
        return before != (self.trained, self.measured, self.told)

    def _begin(self) -> bool:
        """Read what stands before the first step; False while there is no plan."""
        if not (self.folder / "plan.json").exists():
            return False
        if self.archived:
            self._begin_archived()
            return True
        plan = read_plan(self.folder)
        protocol, _, changed = read_protocol(self.folder, plan)
        if changed:
            self._damage[changed.file] = [changed.what]
        self._read_problems()
        self.runs = [Watched(spec=RunSpec(**spec)) for spec in plan["runs"]]
        steps = protocol.design.num_steps
        self._files = [_files(self.folder / run.spec.path, steps) for run in self.runs]
        self.plan, self.protocol = plan, protocol
        self._evaluated_at = set(protocol.evaluation.steps)
        shards = plan.get("shards")
        if _are_shards(shards, len(self.runs)):
            self.progress = Progress(
                protocol=protocol, specs=[run.spec for run in self.runs], shards=shards,
                waiting=range(len(shards)), workers=1,
            )  # fmt: skip
        self.told += 1
        return True

    def _begin_archived(self) -> None:
        trial = read_trial(self.folder)
        self.plan, self.protocol = trial.plan, trial.protocol
        for damage in trial.damaged:
            self._damage.setdefault(damage.file, []).append(damage.what)
        for run in trial.runs:
            evaluated = {step: tables.evaluated(e) for step, e in run.evaluations.items()}
            self.runs.append(
                Watched(spec=run.spec, journal=run.journal, evaluated=evaluated, failure=run.failure)
            )  # fmt: skip
        self.trained, self.measured, self.told = 1, 1, 1

    def _read_problems(self) -> None:
        try:
            table = files.read_table(self.folder / "problems.parquet", ("split", "id", "text", "answer"))  # fmt: skip
        except (OSError, DamagedFileError) as error:
            self._damage["problems.parquet"] = [_what(error)]
            return
        rows = table.to_pylist()
        self.problems = {
            r["id"]: (r["text"], r["answer"]) for r in rows if r["split"] == "training"
        }
        self._held_out = [r["id"] for r in rows if r["split"] == "held_out"]

    def _complain(self, file: str, said: Sequence[str]) -> None:
        if list(said) != self._damage.get(file, []):
            self._damage[file] = list(said)
            self.told += 1

    def _read_journal(self, run: Watched, known: _Files, now: float) -> None:
        name = f"{run.spec.path}/steps.jsonl"
        try:
            void, lines = known.tail.advance()
        except OSError as error:
            self._complain(name, [_what(error)])
            return
        if void:
            known.lines = JournalLines(known.lines.num_steps)
        for line in lines:
            known.lines.feed(line)
        if lines or void or not run.journal:
            run.journal = known.lines.columns
            self.trained += bool(lines) or void
        cut = bool(known.tail.rest) and now - known.tail.changed > CUT_AFTER
        self._complain(name, known.lines.complaints(cut))

    def _list(self, run: Watched, known: _Files) -> None:
        """Which evaluations and rollouts there are, and whether it failed."""
        evaluations, rollouts, failed = known.places
        found = _steps(evaluations)
        for step in known.evaluations.keys() - found:  # a trial that resumes makes it again
            del known.evaluations[step]
            run.evaluated.pop(step, None)
            self._complain(f"{run.spec.path}/evaluations/{file_of(step)}", [])
            self.measured += 1
        for step in sorted(found & self._evaluated_at):
            now = stamp(evaluations / file_of(step))
            if now is not None and known.evaluations.get(step) != now:
                known.evaluations[step] = now
                self._read_evaluation(run, step, evaluations / file_of(step))
        logged = _steps(rollouts)
        if logged != run.rollouts:
            run.rollouts = logged
            self.told += 1
        now = stamp(failed)
        if now != known.failure:
            known.failure, run.failure = now, self._failure(run, failed) if now else None
            self.told += 1

    def _read_evaluation(self, run: Watched, step: int, path: Path) -> None:
        assert self.protocol is not None
        name, sizes = f"{run.spec.path}/evaluations/{path.name}", self.protocol.evaluation
        try:
            evaluation = read_evaluation(path, sizes.num_problems, sizes.samples, self._held_out)
        except ValueError as error:
            run.evaluated.pop(step, None)
            self._complain(name, [_what(error)])
        else:
            run.evaluated[step] = tables.evaluated(evaluation)
            run.evaluated = dict(sorted(run.evaluated.items()))
            self._complain(name, [])
        self.measured += 1

    def _failure(self, run: Watched, path: Path) -> dict[str, Any]:
        name = f"{run.spec.path}/failed.json"
        try:
            said = files.read_json(path)
        except (OSError, DamagedFileError) as error:
            self._complain(name, [_what(error)])
            return {"step": None, "reason": "unknown: failed.json is not what was written"}
        self._complain(name, [])
        return {"step": said.get("step"), "reason": said.get("reason")}

    def _read_times(self) -> None:
        """How long things took. A line that says nothing is passed over: no number of a report comes from here."""
        try:
            void, lines = self._times.advance()
        except OSError as error:
            self._complain("times.jsonl", [_what(error)])
            return
        if void and self.progress:
            self._recent.clear()
        for line in lines:
            report = _report(line, self.progress)
            if report is None or self.progress is None:
                continue
            self.progress.hear(report)
            if (
                report["time"] - report["seconds"] > self.heard + CUT_AFTER
            ):  # nobody worked meanwhile
                self._recent.clear()
            self.heard = max(self.heard, report["time"])
            if report["stage"] != "finished":
                self._recent.append((report["time"], report["seconds"]))
        if lines and self.progress:
            self.progress.workers = self._workers()
            self.told += 1

    def _workers(self) -> int:
        """Seconds of work a second, lately: the folder does not say how many processes there are."""
        if not self._recent:
            return 1
        wall = self._recent[-1][0] - min(time - seconds for time, seconds in self._recent)
        work = sum(seconds for _, seconds in self._recent)
        return max(1, round(work / wall)) if wall > 0 else 1

    def idle_after(self) -> float:
        """Seconds of silence after which nobody seems to work on the folder: five times the slowest stage of late, a minute at least."""
        return max(CUT_AFTER, 5 * max((seconds for _, seconds in self._recent), default=0.0))


def _refuse_other_folders(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}  # an OSError names the folder
    if "plan.json" in names:
        read_protocol(folder, read_plan(folder))
        return
    other = [n for n in names - BEFORE_PLAN if not n.endswith(".partial")]
    if other:
        raise FolderError(
            f"{folder}: is no run folder: it has no plan.json, and has {min(other)!r}; name runs/<trial>-<digest>, or a "
            "folder that is still empty"
        )


def _are_shards(found: Any, num_runs: int) -> TypeGuard[list[list[int]]]:  # noqa: ANN401  as JSON has it
    """Whether a plan's shards are lists of runs."""
    return isinstance(found, list) and all(
        isinstance(shard, list) and shard and all(type(i) is int and 0 <= i < num_runs for i in shard)
        for shard in found
    )  # fmt: skip


STAGES = ("labelled", "trained", "evaluated", "probed", "finished")


def _report(line: bytes, progress: Progress | None) -> Mapping[str, Any] | None:
    """A line of ``times.jsonl``, if it is one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if progress is None or not isinstance(said, dict) or said.get("stage") not in STAGES:
        return None
    shard, step = said.get("shard"), said.get("step", 0)
    if type(shard) is not int or not 0 <= shard < len(progress.shards) or type(step) is not int:
        return None
    if not 0 <= step <= progress.protocol.design.num_steps:
        return None
    seconds, time = said.get("seconds"), said.get("time")
    if not (_is_time(seconds) and _is_time(time)):
        return None
    return {"stage": said["stage"], "shard": shard, "step": step, "seconds": seconds, "time": time}


def _is_time(value: Any) -> TypeGuard[float]:  # noqa: ANN401  as JSON has it
    return type(value) in (int, float) and 0 <= value < 1e11


def file_of(step: int) -> str:
    """Name of a step's table.

    >>> file_of(40)
    'step-000040.parquet'
    """
    return f"step-{step:06d}.parquet"


def _steps(folder: Path) -> frozenset[int]:
    """Steps of which a folder has a table; none without the folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return frozenset()
    numbers = [int(d) for n in names if (d := n[5:-8]).isdecimal() and len(d) < 12]
    return frozenset(n for n in numbers if file_of(n) in names)


def _files(home: Path, num_steps: int) -> _Files:
    places = (home / "evaluations", home / "rollouts", home / "failed.json")
    return _Files(Tail(home / "steps.jsonl"), JournalLines(num_steps), places)


def _what(error: Exception) -> str:
    """What is wrong, in a line and without the path, which stands beside it."""
    if isinstance(error, DamagedFileError):
        return error.what[:200]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


__all__ = ["FolderError", "ProtocolError", "Tail", "Watched", "Watcher", "file_of", "stamp"]
