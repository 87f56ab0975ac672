"""A trial's numbers in TensorBoard, Weights & Biases or trackio: copies, read off the run folder, which stays the truth.

A point is known by its run and its step. Before anything is sent the tracker is asked what it has, so that sending twice, or
going on after a stop, adds what is new and nothing else. No engine knows of trackers: they follow the journal.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from controlarm import files
from controlarm.watch.reader import Watched, Watcher, file_of

Values = Mapping[str, float]


class Whose(NamedTuple):
    """Which run a sink is of."""

    project: str
    """The trial with its digest: another protocol is another project."""
    run: str
    """Family, arm, recipe and seeds, as its folder is called."""
    facts: dict[str, Any]

    @property
    def ident(self) -> str:
        """Unique among all runs of all trials, without slashes."""
        return f"{self.project}-{self.run.replace('/', '-')}"


class Sink(Protocol):
    """One run in a tracker."""

    held: int
    """The last step that it has; -1: none."""

    def write(self, step: int, values: Values) -> None:
        """Add a point; steps ascend."""

    def flush(self) -> None:
        """See to it that what was written is kept, and known as held."""

    def close(self) -> None:
        """Flush, and let go."""


class TensorBoard:
    """An event file under ``OUT/<run>/``; what is held is read back from there."""

    def __init__(self, whose: Whose, out: Path | None) -> None:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        self._folder = (out or Path("tensorboard")) / whose.project / whose.run
        self._writer: Any = None
        self.held = -1
        for path in sorted(self._folder.glob("events.out.tfevents.*")):
            for event in EventFileLoader(str(path)).Load():
                if event.HasField("summary"):
                    self.held = max(self.held, event.step)

    def write(self, step: int, values: Values) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder))
        proto: Any = (event_pb2, summary_pb2)  # made at import, which type checkers cannot see
        event, summary = proto[0].Event, proto[1].Summary
        made = [summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(event(wall_time=time.time(), step=step, summary=summary(value=made)))
        self.held = step

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB:
    """A run of Weights & Biases, online or not as ``WANDB_MODE`` says.

    What was sent is noted beside W&B's own files, in ``OUT/wandb/``, since a run that is not synchronised cannot be asked; one
    that is tells its last step itself.
    """

    def __init__(self, whose: Whose, out: Path | None) -> None:
        import wandb as package  # noqa: F401  that it is there is known before anything is written

        self._whose, self._out = whose, out or Path()
        self._note = self._out / "wandb" / f"controlarm-{whose.ident}.json"
        self._run: Any = None
        self._known = -1
        self.held = json.loads(self._note.read_bytes())["held"] if self._note.exists() else -1

    def write(self, step: int, values: Values) -> None:
        import wandb

        if self._run is None:
            self._run = wandb.init(
                project=self._whose.project, id=self._whose.ident, name=self._whose.run,
                group=self._whose.run.rpartition("-p")[0], config=self._whose.facts, dir=str(self._out), resume="allow",
                reinit="create_new", settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
            )  # fmt: skip
            self._known = self._run.step - 1
        if step > self._known:
            self._run.log(dict(values), step=step)
        self.held = step

    def flush(self) -> None:
        if self._run is not None:
            files.write_atomic(self._note, json.dumps({"held": self.held}).encode())

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self.flush()


class Trackio:
    """A run of trackio, in its database under ``OUT`` (``TRACKIO_DIR``), which is asked for the last step."""

    def __init__(self, whose: Whose, out: Path | None) -> None:
        if out is not None:
            os.environ["TRACKIO_DIR"] = str(out)  # read once, when trackio is imported
        from trackio.sqlite_storage import SQLiteStorage

        self._whose, self._run = whose, None
        last = SQLiteStorage.get_last_step(whose.project, run=whose.run)
        self.held = -1 if last is None else last

    def write(self, step: int, values: Values) -> None:
        import trackio

        if self._run is None:
            with redirect_stdout(io.StringIO()):
                self._run = trackio.init(
                    project=self._whose.project, name=self._whose.run, group=self._whose.run.rpartition("-p")[0],
                    config=self._whose.facts, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
                )  # fmt: skip
        self._run.log(dict(values), step=step)
        self.held = step

    def flush(self) -> None:
        self.close()  # it keeps one run open at a time

    def close(self) -> None:
        if self._run is not None:
            import trackio

            with redirect_stdout(io.StringIO()):
                trackio.finish()
            self._run = None


TRACKERS: dict[str, Callable[[Whose, Path | None], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def points(watcher: Watcher, run: Watched, after: int) -> Iterator[tuple[int, Values]]:
    """A run's steps behind one, with all that is known of each: the journal's columns and the held-out metrics.

    What is null is left out. The last step waits for its evaluation, since a point is written once.

    Args:
        watcher: of the folder.
        run: which.
        after: the last step that is not wanted.
    """
    assert watcher.protocol is not None
    rows = {int(step): i for i, step in enumerate(run.journal.get("step", ()))}
    for step in sorted({*rows, *run.evaluated}):
        if step <= after:
            continue
        values = {f"held_out/{name}": value for name, value in run.evaluated.get(step, {}).items()}
        if step in rows:
            columns = {name: float(column[rows[step]]) for name, column in run.journal.items()}
            values |= {f"train/{name}": v for name, v in columns.items() if name != "step"}
        if step == run.step and _is_awaited(watcher, run, step):
            return
        yield step, {name: value for name, value in values.items() if np.isfinite(value)}


def _is_awaited(watcher: Watcher, run: Watched, step: int) -> bool:
    """Whether the evaluation of a run's last step is still to come; one that cannot be read never does."""
    assert watcher.protocol is not None
    if watcher.archived or run.failure or step in run.evaluated:
        return False
    there = (watcher.folder / run.spec.path / "evaluations" / file_of(step)).exists()
    return step in watcher.protocol.evaluation.steps and not there


class Export:
    """What of a folder has been sent to one tracker."""

    def __init__(self, watcher: Watcher, tracker: str, out: Path | None) -> None:
        self.watcher = watcher
        self._open = TRACKERS[tracker]
        self._out = out
        self._sinks: dict[str, Sink] = {}
        self._done: set[str] = set()

    def send(self) -> int:
        """Send what the tracker does not have of what the last look found; how many points that was."""
        protocol, sent = self.watcher.protocol, 0
        for run in self.watcher.runs if protocol else ():
            assert protocol is not None
            path = run.spec.path
            if path in self._done or not (run.step or run.evaluated):
                continue
            if path not in self._sinks:
                self._sinks[path] = self._open(self._whose(run), self._out)
            sink = self._sinks[path]
            before = sent
            for step, values in points(self.watcher, run, sink.held):
                sink.write(step, values)
                sent += 1
            if sent > before:
                sink.flush()
            if run.state(protocol) in ("finished", "failed") or self.watcher.archived:
                sink.close()
                del self._sinks[path]
                self._done.add(path)
        return sent

    @property
    def complete(self) -> bool:
        """Whether every run has come to its end, and is sent."""
        return bool(self.watcher.runs) and len(self._done) == len(self.watcher.runs)

    def close(self) -> None:
        """Let go of the runs that are still in training."""
        for sink in self._sinks.values():
            sink.close()
        self._sinks.clear()

    def _whose(self, run: Watched) -> Whose:
        plan = self.watcher.plan
        project = f"{plan['trial']}-{str(plan['digest'])[:8]}"
        facts = {"trial": plan["trial"], "digest": plan["digest"], **run.spec._asdict()}
        return Whose(project, run.spec.path, facts)
