"""Protocol → run folder: prepare it once, train what is missing, analyse, report. The same command continues."""

import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import queue
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from controlarm import __version__ as controlarm_version
from controlarm import (
    archive,
    arms,
    checkpoints,
    detectors,
    files,
    grading,
    journal,
    labels,
    probes,
    prompts,
    protocol,
)
from controlarm.engines import lockstep, trl
from controlarm.files import DamagedFileError
from controlarm.organisms import released, tokenizer
from controlarm.problems import arithmetic, sets
from controlarm.protocol import Protocol, ProtocolError, RunSpec
from controlarm.records import Problem

COMPILE_FROM = 120_000
"""Training rollouts of a trial from which on the compiled program is used."""

LIBRARIES = ("torch", "numpy", "scipy", "pyarrow", "pydantic", "safetensors")
TRL_LIBRARIES = ("trl", "transformers", "tokenizers", "accelerate", "datasets", "peft")


ENGINES = {"lockstep": lockstep.run_shard, "trl": trl.run_shard}
"""What brings a shard to its end."""


class TrialError(RuntimeError):
    """A trial could not go on; the message says why and what to do."""


class Prepared(NamedTuple):
    """A trial whose folder exists."""

    folder: Path
    protocol: Protocol
    plan: dict[str, Any]


def check(trial: Protocol) -> list[str]:
    """Every problem that can be found before running: organisms (missing, damaged), arms, custom functions."""
    found = trl.check(trial) if trial.trial.engine == "trl" else []
    for family in protocol.by_organism(trial):
        for unit in trial.design.units():
            try:
                released.load(family, unit.pretraining_seed)
            except ValueError as error:
                found.append(f"design.families: {error}")
    if trial.design.problems is not None:
        found += _misfit_sets(trial)
        if found:
            return found
    for name, arm in trial.arms.items():
        if arm.problem is not None:
            known = {p.id for p in training_problems(trial)}
            if arm.problem not in known:
                found.append(
                    f"arms.{name}.problem: {arm.problem!r} is not among the {len(known)} training problems; their ids "
                    f"are of the form {min(known)!r}; leave it out for the one whose base samples vary most"
                )
    return list(dict.fromkeys(found)) + arms.check_arms(trial)


def _misfit_sets(trial: Protocol) -> list[str]:
    """Problem sets that cannot be read, are too small, or share a problem."""
    found, texts = [], []
    for key, spec, wanted in (
        ("design", trial.design.problems, trial.design.num_problems),
        ("evaluation", trial.evaluation.problems, trial.evaluation.num_problems),
    ):
        try:
            problems = sets.load(str(spec), wanted)
        except ValueError as error:
            found.append(f"{key}.problems: {error}")
            continue
        texts.append({" ".join(problem.text.split()) for problem in problems})
        if len(problems) < wanted:
            found.append(f"{key}.num_problems: {spec} has {len(problems)} problems, not {wanted}")
    if len(texts) == 2 and (shared := texts[0] & texts[1]):
        found.append(
            f"design.problems, evaluation.problems: {len(shared)} problems stand in both, the first: {min(shared)[:80]!r}; "
            "what is trained on measures no gain"
        )
    return found


def training_problems(trial: Protocol) -> list[Problem]:
    """The problems that all arms train on, but for one_shot."""
    if trial.design.problems is not None:
        return sets.load(trial.design.problems, trial.design.num_problems)
    return arithmetic.problems("training", trial.design.num_problems, "trial")


def held_out_problems(trial: Protocol) -> list[Problem]:
    """The problems of every evaluation."""
    if trial.evaluation.problems is not None:
        return sets.load(trial.evaluation.problems, trial.evaluation.num_problems)
    return [
        arithmetic.to_problem(story)
        for story in arithmetic.benchmark(trial.evaluation.num_problems)
    ]


def materials(trial: Protocol) -> dict[str, str]:
    """Versions and hashes of everything beside the protocol that can change a result."""
    found = {
        "detectors": detectors.VERSION,
        "engine": trl.VERSION if trial.trial.engine == "trl" else lockstep.VERSION,
        "grader": grading.VERSION,
        "problems": _problems_version(trial),
        "templates": prompts.VERSION,
    }
    if trial.probes.kinds or trial.probes.base:
        found["probes"] = probes.VERSION
    found |= trl.materials(trial)
    for family in protocol.by_organism(trial):
        for unit in trial.design.units():
            weights, _, _ = released.load(family, unit.pretraining_seed)
            name = f"organism {family}-p{unit.pretraining_seed}"
            found[name] = checkpoints.tensors_sha256(weights)
    for name, arm in trial.arms.items():
        if arm.function:
            module = importlib.import_module(arm.function.partition(":")[0])
            source = Path(module.__file__ or "").read_bytes()
            found[f"function {name}"] = hashlib.sha256(source).hexdigest()
    return dict(sorted(found.items()))


def _problems_version(trial: Protocol) -> str:
    """Of the generated arithmetic, or a checksum of the real sets."""
    if trial.design.problems is None:
        return arithmetic.VERSION
    return sets.checksum([*training_problems(trial), *held_out_problems(trial)])


def environment(device: str, engine: str = "lockstep") -> dict[str, Any]:
    """What the numbers were made on, with a fingerprint; not part of the digest."""
    facts: dict[str, Any] = {
        "controlarm": controlarm_version,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "compiler": has_compiler(),
    }
    for name in LIBRARIES + (TRL_LIBRARIES if engine == "trl" else ()):
        with contextlib.suppress(PackageNotFoundError):
            facts[name] = version(name)
    text = json.dumps(facts, sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    return facts | {"fingerprint": mark, "commit": archive.code_version()}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_compiler() -> bool:
    """Whether torch.compile can build for this machine's processor."""
    return any(
        shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")
    )


def compile_pays(trial: Protocol) -> bool:
    """Whether compiling, about a minute a worker, costs less than it saves: 0.5 ms a training rollout, and as much of evaluation."""
    if trial.trial.engine == "trl":
        return False
    per_run = max(r.prompts_per_step * r.group_size for r in trial.recipes.values())
    rollouts = len(protocol.runs(trial)) * trial.design.num_steps * per_run
    return rollouts > COMPILE_FROM


PROMPT_LENGTH = 18
"""Longest prompt of the arithmetic set, in tokens; a test holds it."""


def make_plan(
    trial: Protocol, made_of: dict[str, str], compiled: bool, device: str
) -> dict[str, Any]:
    """What resume must find unchanged."""
    return {
        "digest": protocol.digest(trial, made_of),
        "trial": trial.trial.name,
        "materials": made_of,
        "runs": [run._asdict() for run in protocol.runs(trial)],
        "shards": protocol.shards(trial),
        "prompt_length": PROMPT_LENGTH,
        "compiled": compiled,
        "device": device,
    }


def prepare(
    path: Path, root: Path, device: str, restore: Callable[[Path], None] = lambda folder: None
) -> Prepared:
    """Read the trial file and make its folder, or find the one that is already there.

    Args:
        path: the trial file.
        root: where run folders stand.
        device: where to compute, if the trial has not begun.
        restore: called with a folder that has no plan, to put one there that was made elsewhere.

    Raises:
        ProtocolError: the trial file cannot be run; one line per problem.
        DamagedFileError: the folder's plan is not readable or is another trial's.
        BusyError: another command works on the folder.
    """
    trial = protocol.load(path)
    problems = check(trial)
    if problems:
        raise ProtocolError(f"{path}:\n" + "\n".join(f"  {p}" for p in problems))
    made_of = materials(trial)
    digest = protocol.digest(trial, made_of)
    folder = root / f"{trial.trial.name}-{digest[:8]}"
    with files.naming(folder):
        files.make_folder(folder)
    with files.locked(folder):
        if not (folder / "plan.json").exists():
            restore(folder)
        if not (folder / "plan.json").exists():
            _begin(folder, trial, path.read_bytes(), made_of, device)
        return Prepared(folder, trial, read_plan(folder, digest))


def _begin(
    folder: Path, trial: Protocol, text: bytes, made_of: dict[str, str], device: str
) -> None:
    """Write what stands before the first step; the plan last, so that where it is, all is."""
    if (folder / "labels").exists() or (folder / "shards").exists():
        raise DamagedFileError(folder / "plan.json", "is missing, though the trial has begun")
    plan = make_plan(trial, made_of, has_compiler() and compile_pays(trial), device)
    files.write_atomic(folder / "protocol.toml", text)
    files.write_json(folder / "environment.json", environment(device, trial.trial.engine))
    problems = files.write_table(folder / "problems.parquet", _problem_table(trial))
    hashes = {
        "protocol_sha256": hashlib.sha256(text).hexdigest(),
        "problems_sha256": problems,
    }
    files.write_json(folder / "plan.json", plan | hashes)


def read_plan(folder: Path, digest: str) -> dict[str, Any]:
    """The plan of a run folder, checked against the digest of the protocol at hand."""
    path = folder / "plan.json"
    plan = files.read_json(path)
    found = plan["digest"]
    if found != digest:
        raise DamagedFileError(
            path,
            f"the folder holds a trial of digest {found[:16]}…, but the protocol at hand has {digest[:16]}…",
            "nothing is overwritten by a different protocol: choose another --runs folder",
        )
    return plan


def _problem_table(trial: Protocol) -> pa.Table:
    rows = [
        {"split": split, "id": p.id, "text": p.text, "answer": p.answer}
        for split, problems in (
            ("training", training_problems(trial)),
            ("held_out", held_out_problems(trial)),
        )
        for p in problems
    ]
    if protocol.by_organism(trial):
        longest = max(len(tokenizer.encode(prompts.render(row["text"]))) for row in rows)
        assert longest <= PROMPT_LENGTH
    return pa.Table.from_pylist(rows)


def engine_plan(prepared: Prepared) -> lockstep.Plan:
    """The part of a plan that the engine needs."""
    plan = prepared.plan
    return lockstep.Plan(
        prepared.folder, prepared.protocol, [RunSpec(**run) for run in plan["runs"]], plan["shards"],
        plan["prompt_length"], plan["compiled"], plan["device"], plan["problems_sha256"],
    )  # fmt: skip


def run(
    prepared: Prepared,
    waiting: list[int],
    workers: int,
    show: Callable[[dict[str, Any]], None],
    lock: Connection,
) -> None:
    """Train shards to their ends, each on one of ``workers`` single-threaded processes.

    Args:
        prepared: from ``prepare``.
        waiting: from ``unfinished``.
        workers: processes at once; the result does not depend on how many.
        show: receives each progress report, for display.
        lock: from ``files.locked``, of the trial's folder.

    Raises:
        TrialError: a worker stopped; the message is its reason. What was committed stays. Or this machine cannot
            continue what another began.
    """
    check_machine(prepared)
    _note_machine(prepared, waiting)
    _train(prepared, waiting, workers, show, lock)


def run_together(
    prepared: Prepared | None, waiting: Sequence[int], show: Callable[[dict[str, Any]], None]
) -> None:
    """Train one run after the other by all processes that a launcher started; each of them calls this.

    Args:
        prepared: from ``prepare``, in the first process; None in the others, which are told.
        waiting: from ``unfinished``, in the first process.
        show: receives each progress report, in the first process.

    Raises:
        TrialError: the trial is not of the engine trl, or this machine cannot continue what another began.
    """
    from accelerate.state import PartialState
    from accelerate.utils import broadcast_object_list

    if prepared is not None:
        if prepared.protocol.trial.engine != "trl":
            raise TrialError(
                "trial.engine: lockstep trains in one process a shard and starts its own; run it without a launcher, with --workers"
            )
        check_machine(prepared)
        _note_machine(prepared, waiting)
    PartialState(cpu=not torch.cuda.is_available())
    told: list[Any] = [prepared, list(waiting)]
    broadcast_object_list(told)
    prepared, waiting = told
    assert prepared is not None
    with (prepared.folder / "times.jsonl").open("ab", buffering=0) as times:

        def kept(report: dict[str, Any]) -> None:
            times.write(times_row(report))
            show(report)

        for number in waiting:
            started, processor = time.perf_counter(), time.process_time()
            ENGINES[prepared.protocol.trial.engine](engine_plan(prepared), number, kept)
            if trl.Launch.of(os.environ).rank == 0:
                kept(finished_report(number, started, processor))


def times_row(report: Mapping[str, Any]) -> bytes:
    """A line of ``times.jsonl``: what a report says but for its runs, and when it came."""
    kept = {k: v for k, v in report.items() if k != "runs"} | {"time": time.time()}
    return json.dumps(kept).encode() + b"\n"


def finished_report(number: int, started: float, processor: float) -> dict[str, Any]:
    """The last report of a shard, with wall and processor seconds since two clocks were read."""
    return {
        "stage": "finished",
        "shard": number,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - processor,
    }


def check_machine(prepared: Prepared) -> None:
    """A trial ends as it began, compiled or not, on the same kind of device: other programs round differently."""
    plan, where = prepared.plan, prepared.folder / "plan.json"
    if plan["compiled"] and not has_compiler():
        raise TrialError(
            f"{where}: the trial began with compiled functions, and there is no C++ compiler now; install one (g++ or "
            "clang++) to continue, or start over with another --runs folder"
        )
    if plan["device"].startswith("cuda") and not torch.cuda.is_available():
        raise TrialError(
            f"{where}: the trial began on {plan['device']}, and torch finds no CUDA device now; continue where there "
            "is one, or start over with another --runs folder"
        )


def _note_machine(prepared: Prepared, waiting: Sequence[int]) -> None:
    """Keep every environment that a trial ran in; two of them round differently, and the report says so."""
    path = prepared.folder / "environment.json"
    here = environment(prepared.plan["device"], prepared.protocol.trial.engine)
    note_environment(path, here)
    if "fleet" in files.read_json(path):
        for number in waiting:
            note_environment(path, here, number)


def note_environment(path: Path, here: dict[str, Any], shard: int | None = None) -> None:
    """Keep an environment in ``environment.json``, once, and of a fleet's shard which ones it ran in."""
    before = files.read_json(path)
    began = json.loads(json.dumps(before))
    known = {began["fingerprint"], *(e["fingerprint"] for e in began.get("continued", []))}
    if here["fingerprint"] not in known:
        began.setdefault("continued", []).append(here)
    if shard is not None:
        ran = began.setdefault("fleet", {}).setdefault(f"{shard:03d}", [])
        if here["fingerprint"] not in ran:
            ran.append(here["fingerprint"])
    if began != before:
        files.write_json(path, began)


def unfinished(prepared: Prepared) -> list[int]:
    """Shards that have not reached their end, in order; on the way every file that they and the report build on is read.

    Raises:
        DamagedFileError: for the first file that is not what was written.
    """
    folder, plan = prepared.folder, prepared.plan
    toml, environment = folder / "protocol.toml", folder / "environment.json"
    if (
        not toml.exists()
        or hashlib.sha256(toml.read_bytes()).hexdigest() != plan["protocol_sha256"]
    ):
        raise DamagedFileError(toml, "its content is not what plan.json says was written")
    if not environment.exists():
        raise DamagedFileError(environment, "is missing")
    files.read_json(environment)
    lockstep.read_problems(folder, plan["problems_sha256"])
    for path in sorted((folder / "labels").glob("*.parquet")):
        labels.read(path)
    return [number for number in range(len(plan["shards"])) if not _finished(prepared, number)]


def _finished(prepared: Prepared, number: int) -> bool:
    """Whether a shard is at its end; what its runs had written when it was last committed is read."""
    state = prepared.folder / "shards" / f"{number:03d}.safetensors"
    if not state.exists():
        return False
    _, facts = checkpoints.read(state)
    remedy = (
        f"restore the file from a copy, or delete {state} to train the runs of that shard again"
    )
    for run, mark in zip(prepared.plan["shards"][number], facts["journals"], strict=True):
        home = prepared.folder / RunSpec(**prepared.plan["runs"][run]).path
        try:
            journal.read(home / "steps.jsonl", journal.Mark(*mark))
            for path in sorted(home.glob("probes/*.parquet")):
                files.check(path)
            for path in sorted(home.glob("*/step-*")):
                if int(path.stem.removeprefix("step-")) <= facts["step"]:
                    (checkpoints.read if path.suffix == ".safetensors" else files.check)(path)
            if (home / "failed.json").exists():
                files.read_json(home / "failed.json")
        except DamagedFileError as error:
            raise DamagedFileError(error.path, error.what, remedy) from None
    return facts["finished"]


def _train(
    prepared: Prepared,
    waiting: list[int],
    workers: int,
    show: Callable[[dict[str, Any]], None],
    lock: Connection,
) -> None:
    context = multiprocessing.get_context("spawn")
    with (
        _environment_of_workers()
    ):  # the process that cleans up after them starts with the first queue
        tasks, reports = context.Queue(), context.Queue()
    workers = max(1, min(workers, len(waiting)))
    for number in waiting:
        tasks.put(number)
    for _ in range(workers):
        tasks.put(None)
    arguments = (prepared, tasks, reports, os.getpid(), lock)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    try:
        with _environment_of_workers(), _signals_delayed():
            for process in processes:
                process.start()
        _listen(prepared, processes, reports, len(waiting), show)
        for process in processes:
            process.join(timeout=10)
    finally:
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGSTOP)  # it starts nothing more
                _kill_descendants(process.pid)
                process.kill()
        for process in processes:
            if process.pid:
                process.join()


def _kill_descendants(ancestor: int) -> None:
    """End what a process started, and what that started: compilers, for instance. Where there is no /proc they end by themselves."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [ancestor]
    for process in found:
        found += children.get(process, [])
    for process in found[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def _listen(
    prepared: Prepared,
    processes: list[Any],
    reports: Any,  # noqa: ANN401  a multiprocessing queue
    num_shards: int,
    show: Callable[[dict[str, Any]], None],
) -> None:
    done = 0
    path = prepared.folder / "times.jsonl"
    with path.open("ab", buffering=0) as times:
        while done < num_shards:
            try:
                report = reports.get(timeout=1.0)
            except queue.Empty:
                codes = [p.exitcode for p in processes]
                if any(codes) or None not in codes:
                    raise TrialError(
                        f"a worker ended before its work (exit codes {codes}; -9 often means that memory ran out); "
                        "run the same command again to continue"
                    ) from None
                continue
            if report["stage"] == "error":
                raise TrialError(report["reason"])
            done += report["stage"] == "finished"
            with files.naming(path):
                times.write(times_row(report))
            show(report)


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """What workers inherit.

    One thread each: on shared cores, threads that spin for each other cost more than they bring. And no warning from what
    cleans up after a compiler that was stopped.
    """
    quiet = "ignore:resource_tracker:UserWarning"
    warnings = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    wanted = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": warnings}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signals_delayed() -> Iterator[None]:
    """No process is left half-started. The mask is inherited: those started here never see Ctrl-C, their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(prepared: Prepared, tasks: Any, reports: Any, parent: int, lock: Connection) -> None:  # noqa: ANN401  queues
    """A worker process: shard after shard until there are none, or until its parent is gone.

    It holds the folder's lock as long as it lives, so that nobody trains beside the workers of a killed command.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    while (number := tasks.get()) is not None:
        started, processor = time.perf_counter(), time.process_time()
        try:
            engine = ENGINES[prepared.protocol.trial.engine]
            engine(engine_plan(prepared), number, reports.put)
        except (ValueError, OSError) as error:
            reports.put({"stage": "error", "reason": explain(error)})
            return
        except (
            Exception,
            SystemExit,
        ) as error:  # torch out of memory, a reward that exits, a bug of ours
            traceback.print_exc()
            reports.put(
                {
                    "stage": "error",
                    "reason": f"shard {number}: {type(error).__name__}: {error}; what was committed is kept",
                }
            )
            return
        reports.put(finished_report(number, started, processor))


def explain(error: Exception) -> str:
    """A user's error in one paragraph; for a failed write, what remains and what to do."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return (
            f"{where}{error.strerror or error}; everything committed so far is kept: make room or give write access, "
            "then run the same command again to continue"
        )
    return str(error)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    _kill_descendants(os.getpid())
    os._exit(1)


def finish(prepared: Prepared) -> tuple[Path, Mapping[str, Any]]:
    """Analyse the folder and write its report; returns the page and the summary."""
    from controlarm import report
    from controlarm.analysis import summary

    found = summary.summarise(prepared.folder)
    return report.write(prepared.folder, found), found
