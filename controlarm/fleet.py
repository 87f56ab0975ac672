"""A trial on many machines: shards as Ray tasks, each in a working copy of its own, joined by what they commit to a depot.

The command that drives keeps the run folder: it gathers what is committed, decides what all shards share (labels, probes of a
base), and starts again what was lost. A task writes to the depot only, under a name that no other has, so neither a lost
machine nor a dead driver leaves anybody writing where somebody else does.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import queue
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from controlarm import checkpoints, files, protocol, trial
from controlarm.depot import AREA, Committer, Depot, is_of_run, shared_files, state_path
from controlarm.protocol import RunSpec
from controlarm.trial import Prepared, TrialError

BARREN = 3
"""Attempts in a row that may commit nothing new; then a shard is given up. However often machines are lost, what moves goes on."""

REASON = 500
"""Characters that are kept of why an attempt was lost: a reward's own words may be long."""

LOOK_EVERY = 5.0
"""Seconds between looks at who drives: a task of a driver that was replaced ends, and so does the driver."""

BEFORE = ("protocol.toml", "environment.json", "problems.parquet", "plan.json")
"""What stands before the first step; the plan last."""

SCRATCH = "controlarm-fleet-"


class Job(NamedTuple):
    """One attempt at a shard."""

    number: int
    digest: str
    depot: str
    driver: str
    attempt: str
    given: dict[str, bytes]
    """Path in the run folder → content: what stands before the first step, and what shards share as far as it is made."""
    home: str
    """The driver's working directory; a task goes there where its machine has it, so that paths of a trial file mean the same."""


def ray_here() -> Any:  # noqa: ANN401  a module
    """Ray.

    Raises:
        TrialError: it is not installed.
    """
    try:
        return import_module("ray")
    except ImportError:
        raise TrialError("--ray: ray is not installed; pip install 'controlarm[ray]'") from None


# On a worker's machine.


def attempt(job: Job) -> Iterator[dict[str, Any]]:
    """The task: bring a shard from its last commit to its end; yields reports as the engine sends them, and the fleet's own.

    ``placed`` (on which node), ``begun`` (from which step, in which environment), ``made`` (files that shards share), ``committed``, and at last ``finished`` or ``error``.
    """
    reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_carry, args=(job, reports.put), daemon=True).start()
    looked = time.monotonic()
    while True:
        with contextlib.suppress(queue.Empty):
            report = reports.get(timeout=LOOK_EVERY)
            yield report
            if report["stage"] in ("finished", "error"):
                return
        if time.monotonic() - looked > LOOK_EVERY:
            looked = time.monotonic()
            with contextlib.suppress(OSError):  # a depot that does not answer now is asked again
                if (Depot(job.depot).driver() or "") > job.driver:
                    os._exit(1)  # the thread cannot be ended otherwise


def _carry(job: Job, say: Callable[[dict[str, Any]], None]) -> None:
    started, processor = time.perf_counter(), time.process_time()
    node = ray_here().get_runtime_context().get_node_id()[:8]
    say({"stage": "placed", "shard": job.number, "node": f"{platform.node()} ({node})"})
    try:
        with contextlib.suppress(OSError):
            os.chdir(job.home)
        with _scratch() as folder:
            _train(job, folder, say)
    except (ValueError, OSError, TrialError) as error:
        reason = trial.explain(error)
    except (Exception, SystemExit) as error:  # torch out of memory, a reward that exits
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    else:
        say(trial.finished_report(job.number, started, processor))
        return
    say({"stage": "error", "shard": job.number, "reason": reason})


def _train(job: Job, folder: Path, say: Callable[[dict[str, Any]], None]) -> None:
    depot = Depot(job.depot)
    for path, content in job.given.items():
        files.write_atomic(folder / path, content)
    prepared = Prepared(
        folder, protocol.load(folder / "protocol.toml"), trial.read_plan(folder, job.digest)
    )
    _check_same(prepared)
    trial.check_machine(prepared)
    taken = depot.take(job.number, folder, settled(folder))
    say(
        {
            "stage": "begun",
            "shard": job.number,
            "step": taken.step if taken else 0,
            "environment": trial.environment(
                prepared.plan["device"], prepared.protocol.trial.engine
            ),
        }
    )
    committer = Committer(depot, job.number, job.attempt)
    told = set(shared_files(folder))
    state, pushed = folder / state_path(job.number), _mark(folder / state_path(job.number))

    def hear(report: dict[str, Any]) -> None:
        nonlocal pushed
        made = [path for path in shared_files(folder) if path not in told]
        if made:
            told.update(made)
            content = {path: (folder / path).read_bytes() for path in made}
            say({"stage": "made", "shard": job.number, "files": content})
        if (now := _mark(state)) != pushed:
            pushed = now
            say(_commit(prepared, job.number, committer))
        if report:
            say(report)

    if not (taken and taken.finished):
        trial.ENGINES[prepared.protocol.trial.engine](trial.engine_plan(prepared), job.number, hear)
    hear({})


def _mark(path: Path) -> tuple[int, int] | None:
    """Changes with every commit: a state is a new file each time."""
    with contextlib.suppress(FileNotFoundError):
        facts = path.stat()
        return facts.st_ino, facts.st_mtime_ns
    return None


def _commit(prepared: Prepared, number: int, committer: Committer) -> dict[str, Any]:
    facts, kept = kept_files(prepared, number)
    committer.commit(prepared.folder, kept, facts["step"], facts["finished"])
    return {"stage": "committed", "shard": number, "step": facts["step"]}


def kept_files(prepared: Prepared, number: int) -> tuple[dict[str, Any], dict[str, int | None]]:
    """What belongs to the last commit of a shard in a folder: its facts, and path → how many bytes count (None: all).

    Raises:
        DamagedFileError: the state is not what was written.
    """
    folder, plan = prepared.folder, prepared.plan
    _, facts = checkpoints.read(folder / state_path(number))
    kept: dict[str, int | None] = {state_path(number): None}
    specs = [RunSpec(**plan["runs"][run]) for run in plan["shards"][number]]
    for spec, mark in zip(specs, facts["journals"], strict=True):
        home = folder / spec.path
        for path in home.rglob("*"):
            if path.is_file() and _belongs(path, home, facts):
                kept[path.relative_to(folder).as_posix()] = None
        kept[f"{spec.path}/steps.jsonl"] = mark[0]
    bases = _bases(prepared, number)
    kept |= {path: None for path in shared_files(folder) if _base_of(path) in bases}
    return facts, kept


def _belongs(path: Path, home: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file of a run had been written when its shard was committed."""
    parts = path.relative_to(home).parts
    if parts[-1].endswith(".partial"):
        return False
    if parts[0] == "failed.json":
        return files.read_json(path)["step"] <= facts["step"]
    if parts[0] == "resume":
        return parts[1] == facts.get("checkpoint")
    if parts[0] == "model":
        return facts["finished"]
    if parts[-1].startswith("step-"):
        return int(path.stem.removeprefix("step-")) <= facts["step"]
    return True


def _bases(prepared: Prepared, number: int) -> set[str]:
    """The pretrained models of a shard's runs: ``coder-p1``."""
    specs = [RunSpec(**prepared.plan["runs"][run]) for run in prepared.plan["shards"][number]]
    return {f"{spec.family}-p{spec.pretraining_seed}" for spec in specs}


def _base_of(path: str) -> str:
    """Of a file that shards share: ``labels/coder-p1.parquet``, ``bases/coder-p1/probes/…``."""
    return path.split("/")[1].removesuffix(".parquet")


def settled(folder: Path) -> dict[str, str]:
    """Labels that a folder has → SHA-256."""
    return {
        path: hashlib.sha256((folder / path).read_bytes()).hexdigest()
        for path in shared_files(folder)
        if path.startswith("labels/")
    }


def _check_same(prepared: Prepared) -> None:
    """A node may have another version of this package, of a model or of a reward."""
    here, planned = trial.materials(prepared.protocol), prepared.plan["materials"]
    for name in sorted(here.keys() | planned.keys()):
        if here.get(name) != planned.get(name):
            raise TrialError(
                f"{name} is {here.get(name)} on {platform.node()}, and the trial began with {planned.get(name)}; install "
                "there what the driver has"
            )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A working copy's folder. Those of processes that were killed here go first: nobody holds their locks."""
    for old in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError), (old / ".held").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as name,
        (Path(name) / ".held").open("wb") as file,
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Path(name)


# On the driver's machine.


def restore(depot: Depot, folder: Path) -> None:
    """Put what a depot has of a trial's folder into a folder without a plan: the trial was begun elsewhere, or even ended."""
    found = [key for key in depot.sizes("") if not key.startswith(f"{AREA}/")]
    for key in sorted(
        found, key=lambda key: key == "plan.json"
    ):  # the plan last: where it is, all is
        if ".." not in key.split("/") and not key.endswith(".partial"):
            depot.fetch(key, folder / key, None)


def gather(prepared: Prepared, depot: Depot) -> None:
    """Bring a run folder to the farthest commits that a depot has."""
    for number in range(len(prepared.plan["shards"])):
        known = settled(prepared.folder)
        depot.take(number, prepared.folder, known, _reached(prepared, number))


def _reached(prepared: Prepared, number: int) -> tuple[bool, int] | None:
    path = prepared.folder / state_path(number)
    if not path.exists():
        return None
    _, facts = checkpoints.read(path)
    return facts["finished"], facts["step"]


@contextlib.contextmanager
def cluster(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected for as long as the block lasts.

    Args:
        address: ``local`` starts one on this machine; ``auto`` or host:port is one that runs.
        workers: cores of a local one; None: all.

    Raises:
        TrialError: Ray is not installed, or nothing answers there.
    """
    ray = ray_here()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers, "object_store_memory": 128 << 20} if address == "local" else {}  # fmt: skip
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise TrialError(f"--ray {address}: {str(error).splitlines()[0]}") from None
    try:
        for number, handler in before.items():  # Ray has put its own there
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()


def resources(text: str | None, device: str) -> dict[str, float]:
    """What a task is promised: one core, and where it computes on a GPU one of those, unless ``text`` says otherwise.

    >>> resources("CPU=2,epyc=1", "cpu")
    {'CPU': 2.0, 'epyc': 1.0}

    Raises:
        TrialError: it is not of this form.
    """
    found = {"CPU": 1.0} | ({"GPU": 1.0} if device.startswith("cuda") else {})
    for part in text.split(",") if text else []:
        name, _, amount = part.partition("=")
        try:
            found[name.strip()] = float(amount)
        except ValueError:
            raise TrialError(f"--resources: {part!r} is no NAME=NUMBER; for example CPU=2,GPU=0.5") from None  # fmt: skip
    return found


def places(ray: Any, wanted: Mapping[str, float]) -> int:  # noqa: ANN401  a module
    """How many tasks run at once on the nodes that are there.

    Raises:
        TrialError: none.
    """
    offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(
        min(int(node.get(name, 0) // amount) for name, amount in wanted.items() if amount)
        for node in offered
    )
    if not count:
        asked = ", ".join(f"{name}={amount:g}" for name, amount in wanted.items())
        raise TrialError(
            f"--resources: no node of {len(offered)} offers {asked}; ask for less, or add a node"
        )
    return count


@dataclass(kw_only=True)
class _Try:
    """An attempt under way."""

    number: int
    stream: Any
    attempt: str
    node: str = "a machine"
    step: int = 0
    """Of its last commit, or of the one that it began from."""
    moved: bool = False
    """Whether it has committed anything."""


@dataclass(kw_only=True)
class Fleet:
    """The shards of a trial on a cluster, as its driver sees them."""

    ray: Any
    prepared: Prepared
    depot: Depot
    wanted: Mapping[str, float]
    """Resources of a task."""
    most: int | None
    """Tasks at once; None: as many as the cluster has room for."""
    show: Callable[[dict[str, Any]], None]
    given_up: dict[int, str] = field(default_factory=dict)
    """Shard → why."""
    _driver: str = ""
    _waiting: list[int] = field(default_factory=list)
    _tries: list[_Try] = field(default_factory=list)
    _count: Counter[int] = field(default_factory=Counter)
    """Attempts begun."""
    _barren: Counter[int] = field(default_factory=Counter)
    """Attempts in a row that committed nothing."""
    _leads: dict[str, int] = field(default_factory=dict)
    """Base → the shard that goes ahead alone, until what all of its shards share is made."""
    _open: set[str] = field(default_factory=set)

    def run(self, waiting: Sequence[int]) -> dict[int, str]:
        """Bring shards to their ends; returns those that were given up, and why.

        Raises:
            TrialError: another command drives the trial now.
            OSError: the run folder or the depot cannot be written; what was committed stays.
        """
        self._driver = self.depot.begin()
        self._waiting = list(waiting)
        self._open = {_base_of(path) for path in settled(self.prepared.folder)}
        self._note_begun()
        self._publish([*BEFORE, *settled(self.prepared.folder)])
        remote = self.ray.remote(attempt).options(
            num_returns="streaming", max_retries=0, scheduling_strategy="SPREAD",
            num_cpus=self.wanted.get("CPU", 0), num_gpus=self.wanted.get("GPU", 0),
            resources={k: v for k, v in self.wanted.items() if k not in ("CPU", "GPU")},
        )  # fmt: skip
        looked = time.monotonic()
        path = self.prepared.folder / "times.jsonl"
        with path.open("ab", buffering=0) as times:
            while self._waiting or self._tries:
                self._start(remote)
                ready, _ = self.ray.wait([one.stream for one in self._tries], timeout=1.0)
                for stream in ready:
                    (one,) = (one for one in self._tries if one.stream is stream)
                    for report in self._next(one):
                        with files.naming(path):
                            times.write(trial.times_row(report))
                        self.show(report)
                if time.monotonic() - looked > LOOK_EVERY:
                    looked = time.monotonic()
                    self._check_driver()
        return self.given_up

    def _note_begun(self) -> None:
        """Shards that were begun without a fleet ran in any of the environments known by now."""
        path = self.prepared.folder / "environment.json"
        began = files.read_json(path)
        for number in range(len(self.prepared.plan["shards"])):
            alone = f"{number:03d}" not in began.get("fleet", {})
            if alone and _reached(self.prepared, number) is not None:
                for one in (began, *began.get("continued", [])):
                    trial.note_environment(path, one, number)

    def _check_driver(self) -> None:
        if (last := self.depot.driver() or "") > self._driver:
            facts = files.unsealed(self.depot.read(f"{AREA}/drivers/{last}.json"))
            raise TrialError(
                f"{self.depot.url}: another command (process {facts['process']} on {facts['host']}) drives this trial now; "
                "this one stops, and what was committed stays"
            )

    def _start(self, remote: Any) -> None:  # noqa: ANN401  a Ray function
        """As many as may: a shard waits while another one makes what it needs of a base."""
        for number in list(self._waiting):
            if self.most is not None and len(self._tries) >= self.most:
                return
            closed = _bases(self.prepared, number) - self._open
            if any(self._leads.get(base, number) != number for base in closed):
                continue
            self._leads |= dict.fromkeys(closed, number)
            self._waiting.remove(number)
            self._tries.append(self._begin(remote, number))

    def _begin(self, remote: Any, number: int) -> _Try:  # noqa: ANN401  a Ray function
        folder = self.prepared.folder
        if not self._count[number]:
            self._offer(number)
        self._count[number] += 1
        name = f"{self._driver}-{self._count[number]:04d}"
        bases = _bases(self.prepared, number)
        needed = [*BEFORE, *(path for path in shared_files(folder) if _base_of(path) in bases)]
        job = Job(
            number, self.prepared.plan["digest"], self.depot.url, self._driver, name,
            {path: (folder / path).read_bytes() for path in needed}, str(Path.cwd()),
        )  # fmt: skip
        return _Try(number=number, stream=remote.remote(job), attempt=name)

    def _offer(self, number: int) -> None:
        """What the run folder has of a shard, begun without a fleet perhaps, where the depot has not as much."""
        mine, theirs = _reached(self.prepared, number), self.depot.commits(number)
        if mine is not None and not (theirs and theirs[0][:2] >= mine):
            _commit(self.prepared, number, Committer(self.depot, number, f"{self._driver}-0000"))

    def _next(self, one: _Try) -> Iterator[dict[str, Any]]:
        """One report of an attempt, taken in; yields what is to be shown."""
        report: dict[str, Any]
        try:
            report = self.ray.get(next(one.stream))
        except StopIteration:
            report = {"stage": "error", "reason": "its task ended without a word"}
        except self.ray.exceptions.RayError as error:
            report = {"stage": "error", "reason": _why(self.ray, error)}
        stage = report["stage"]
        if stage == "placed":
            one.node = report["node"]
        elif stage == "begun":
            one.step = report["step"]
            path = self.prepared.folder / "environment.json"
            trial.note_environment(path, report["environment"], one.number)
            self._publish(["environment.json"])
        elif stage == "made":
            self._settle(report["files"])
        elif stage == "committed":
            one.moved = one.moved or report["step"] > one.step
            one.step = report["step"]
        elif stage == "error":
            yield self._lost(one, report["reason"])
        elif stage == "finished":
            yield self._finished(one, report)
        else:
            if stage == "trained":
                self._release(one.number)
            yield report | {"node": one.node}

    def _settle(self, made: Mapping[str, bytes]) -> None:
        """The first of its kind stays: all shards of a base see the same."""
        for path, content in made.items():
            if not is_of_run(path) and not (self.prepared.folder / path).exists():
                files.write_atomic(self.prepared.folder / path, content)
                self._publish([path])

    def _release(self, number: int) -> None:
        led = {base for base, shard in self._leads.items() if shard == number}
        self._open |= led

    def _finished(self, one: _Try, report: dict[str, Any]) -> dict[str, Any]:
        folder = self.prepared.folder
        taken = self.depot.take(one.number, folder, settled(folder))
        if taken is None or not taken.finished:
            return self._lost(one, "what it committed last cannot be read from the depot")
        self._tries.remove(one)
        self._release(one.number)
        self.depot.tidy(one.number, taken.attempt)
        _note_given_up(folder, one.number, None)
        return report | {"node": one.node}

    def _lost(self, one: _Try, reason: str) -> dict[str, Any]:
        """Try again, at once the next, unless that has led nowhere before."""
        self._tries.remove(one)
        number, reason = one.number, reason[:REASON]
        self._barren[number] = 0 if one.moved else self._barren[number] + 1
        report = {"stage": "lost", "shard": number, "step": one.step, "node": one.node, "reason": reason}  # fmt: skip
        if self._barren[number] < BARREN:
            self._waiting.insert(0, number)
            return report | {"again": True}
        self.given_up[number] = reason
        self._leads = {base: shard for base, shard in self._leads.items() if shard != number}
        folder = self.prepared.folder
        self.depot.take(number, folder, settled(folder))
        _note_given_up(
            folder, number, f"{BARREN} attempts in a row committed nothing; the last, on {one.node}: {reason}"
        )  # fmt: skip
        return report | {"again": False}

    def _publish(self, paths: Sequence[str]) -> None:
        """To the depot, unless it is the run folder."""
        if not same_place(self.depot, self.prepared.folder):
            for path in paths:
                self.depot.put(path, self.prepared.folder / path)


def conclude(depot: Depot, folder: Path) -> None:
    """The whole run folder to the depot, in its own layout, its reports too; the working area goes."""
    if not same_place(depot, folder):
        found = [
            path.relative_to(folder).as_posix()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
        there = depot.sizes("")
        for path in found:
            settled_already = is_of_run(path) and there.get(path) == (folder / path).stat().st_size
            if not settled_already or "/" not in path:
                depot.put(path, folder / path)
    depot.delete(AREA)


def same_place(depot: Depot, folder: Path) -> bool:
    """Whether a depot is the run folder itself, which all machines then see."""
    return "://" not in depot.url and Path(depot.url).resolve() == folder.resolve()


def _note_given_up(folder: Path, number: int, reason: str | None) -> None:
    path = folder / "environment.json"
    before = files.read_json(path)
    after = json.loads(json.dumps(before))
    reasons = after.setdefault("given_up", {})
    reasons.pop(f"{number:03d}", None)
    if reason is not None:
        reasons[f"{number:03d}"] = reason
    if not reasons:
        del after["given_up"]
    if after != before:
        files.write_json(path, after)


def _why(ray: Any, error: Exception) -> str:  # noqa: ANN401  a module
    kinds = ray.exceptions
    if isinstance(error, kinds.NodeDiedError):
        return "its machine was lost"
    if isinstance(error, kinds.OutOfMemoryError):
        return "its machine ran out of memory"
    if isinstance(error, kinds.WorkerCrashedError):
        return "its process ended: a crash, a signal, or a function that exits"
    return f"{type(error).__name__}: {(str(error).strip() or 'no more is known').splitlines()[0]}"
