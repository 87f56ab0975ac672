"""Trials: run, check."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from controlarm import costs as costing
from controlarm import files
from controlarm import protocol as protocols
from controlarm.analysis import folder as folders
from controlarm.analysis.folder import FolderError
from controlarm.cli.common import (
    Device,
    Runs,
    TrialFile,
    Workers,
    answering,
    app,
    refuse,
    say,
    usable_cores,
)
from controlarm.progress import Progress, duration, watching
from controlarm.protocol import Protocol, RunSpec

if TYPE_CHECKING:
    from controlarm.engines.trl import Launch
    from controlarm.trial import Prepared


@app.command()
def run(
    trial_file: TrialFile,
    runs: Runs = Path("runs"),
    workers: Workers = None,
    device: Device = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Shards as tasks of a Ray cluster: local starts one here, auto or host:port is one that runs.",
            show_default="no cluster",
        ),
    ] = None,
    depot: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --ray: where machines leave what they commit, as fsspec names it (s3://…); the run folder's copy stands there at the end.",
            show_default="the run folder, which all machines then must see",
        ),
    ] = None,
    resources: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=NUMBER,…",
            help="With --ray: what each task is promised.",
            show_default="CPU=1, on CUDA also GPU=1",
        ),
    ] = None,
) -> None:
    """Run a trial to its report, or continue it.

    Every run of every arm, evaluated and analysed. Interrupted anywhere, the same command continues and ends with the
    same numbers. A finished trial only gets its report again.

    Example: controlarm run trials/quick.toml

    Example: controlarm run trials/quick.toml --ray auto --depot s3://bucket/runs

    Writes runs/<trial>-<digest>/: journals, rollouts, evaluations, checkpoints; at the end report.html and report.json.
    """  # fmt: skip
    stopped = "stopped; run the same command to continue"
    with answering(stopped=stopped):
        from controlarm import trial

        with answering(trial.TrialError, stopped=stopped):
            began = time.monotonic()
            launch = _launch()
            if launch.rank > 0:
                trial.run_together(None, [], lambda report: None)
                return
            if ray is not None:
                if launch.processes > 1:
                    raise trial.TrialError(
                        "--ray: starts its own processes; run it without a launcher"
                    )
                _run_fleet(trial_file, runs, workers, device, ray, depot, resources)
                return
            for name, value in (("--depot", depot), ("--resources", resources)):
                if value is not None:
                    raise trial.TrialError(
                        f"{name}: does nothing without --ray; add that, or leave it out"
                    )
            default = _default_device()
            if device == "cuda" and default != "cuda":
                raise trial.TrialError(
                    "--device: torch finds no CUDA device here; leave it out, or say cpu"
                )
            prepared = trial.prepare(trial_file, runs, device or default)
            if device and prepared.plan["device"] != device:
                raise trial.TrialError(_stays(prepared, device))
            with files.locked(prepared.folder) as lock:
                waiting = trial.unfinished(prepared)
                count = min(workers or usable_cores(), max(1, len(waiting)))
                count = 1 if launch.processes > 1 else count
                _introduce(prepared, waiting, count)
                if waiting:
                    with watching(_progress(prepared, waiting, count), Console()) as show:
                        if launch.processes > 1:
                            trial.run_together(prepared, waiting, show)
                        else:
                            trial.run(prepared, waiting, count, show, lock)
                elif launch.processes > 1:  # the others wait to be told
                    trial.run_together(prepared, [], lambda report: None)
                page, found = trial.finish(prepared)
            conclude(page, found)
            say(f"it took {duration(time.monotonic() - began)}")


def _run_fleet(
    trial_file: Path, runs: Path, workers: int | None, device: Literal["cpu", "cuda"] | None,
    address: str, url: str | None, wanted: str | None,
) -> None:  # fmt: skip
    """The same on a cluster; exit code 1 where a shard was given up."""
    from controlarm import fleet, trial
    from controlarm.depot import Depot

    began = time.monotonic()
    fleet.ray_here()

    def depot_of(folder: Path) -> Depot:
        return Depot(f"{url.rstrip('/')}/{folder.name}" if url else str(folder.resolve()))

    def restore(folder: Path) -> None:
        fleet.restore(depot_of(folder), folder)

    begin_on = device or _default_device()
    prepared = trial.prepare(trial_file, runs, begin_on, restore if url else lambda folder: None)
    if device and prepared.plan["device"] != device:
        raise trial.TrialError(_stays(prepared, device))
    with files.locked(prepared.folder):
        depot = depot_of(prepared.folder)
        fleet.gather(prepared, depot)
        waiting = trial.unfinished(prepared)
        given_up: dict[int, str] = {}
        if waiting:
            with fleet.cluster(address, workers) as ray:
                task = fleet.resources(wanted, prepared.plan["device"])
                room = fleet.places(ray, task)
                most = min(room if workers is None else workers, len(waiting))
                _introduce(prepared, waiting, most)
                say(
                    f"fleet: {address}, {', '.join(f'{k}={v:g}' for k, v in task.items())} a task; depot {depot.url}"
                )
                progress = _progress(prepared, waiting, min(most, room))
                with watching(progress, Console()) as show:
                    one = fleet.Fleet(
                        ray=ray,
                        prepared=prepared,
                        depot=depot,
                        wanted=task,
                        most=workers,
                        show=show,
                    )
                    given_up = one.run(waiting)
        else:
            _introduce(prepared, waiting, 1)
        page, found = trial.finish(prepared)
        if not given_up:
            fleet.conclude(depot, prepared.folder)
    conclude(page, found)
    for number, reason in sorted(given_up.items()):
        say(
            f"given up: shard {number + 1} of {len(prepared.plan['shards'])}: {reason}; run the same command to try it again"
        )
    say(f"it took {duration(time.monotonic() - began)}")
    if given_up:
        raise typer.Exit(1)


def _progress(prepared: "Prepared", waiting: list[int], workers: int) -> Progress:
    return Progress(
        protocol=prepared.protocol,
        specs=[RunSpec(**spec) for spec in prepared.plan["runs"]],
        shards=prepared.plan["shards"], waiting=waiting, workers=workers,
    )  # fmt: skip


def _stays(prepared: "Prepared", device: str) -> str:
    return (
        f"{prepared.folder / 'plan.json'}: the trial began on {prepared.plan['device']}, not {device}, and a "
        f"trial stays on its device; leave --device out, or choose another --runs folder"
    )


def _launch() -> "Launch":
    """What torchrun or accelerate says of this process; a launch that went wrong is refused."""
    from controlarm.engines.trl import Launch

    try:
        return Launch.of(os.environ)
    except ValueError as error:
        refuse(str(error))


def _default_device() -> Literal["cpu", "cuda"]:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _introduce(prepared: "Prepared", waiting: list[int], workers: int) -> None:
    from controlarm import trial

    plan = prepared.plan
    say(f"{prepared.protocol.trial.name}: {prepared.protocol.trial.question}")
    say(_product(prepared.protocol))
    say(f"folder: {prepared.folder} (digest {plan['digest'][:16]}…)")
    num_shards = len(plan["shards"])
    if not waiting:
        say("already finished; only the report is made again")
        return
    if len(waiting) < num_shards:
        say(
            f"{num_shards - len(waiting)} of {num_shards} shards are finished; continuing with the rest"
        )
    say(f"{workers} worker{'s' if workers > 1 else ''} on {plan['device']}")
    if not plan["compiled"]:
        say(f"it runs {_why_eager(trial.compile_pays(prepared.protocol), has_compiler=False)}")


def _why_eager(pays: bool, has_compiler: bool) -> str | None:
    """Why functions are not compiled; None: they are."""
    if not pays:
        return "eager: too small for compiling to pay"
    return (
        None
        if has_compiler
        else "eager, about half as fast: there is no C++ compiler (g++, clang++)"
    )


def _product(trial: Protocol) -> str:
    design = trial.design
    sizes = {
        "family": len(design.families), "unit": len(design.units()), "recipe": len(trial.recipes), "arm": len(trial.arms),
    }  # fmt: skip
    plural = {"family": "families"}
    named = [f"{n} {name if n == 1 else plural.get(name, f'{name}s')}" for name, n in sizes.items()]
    return f"{math.prod(sizes.values())} runs = {' × '.join(named)}"


def conclude(page: Path, found: Mapping[str, Any]) -> None:
    """The report in a few lines: sentences, failures, damage, where it is."""
    flow = found["flow"]
    say()
    for sentence in found["headline"]:
        say(sentence)
    for failed in flow["runs_failed"]:
        say(f"failed: {failed['path']} at step {failed['step']}: {failed['reason']}")
    for damage in flow["damaged"]:
        say(f"damaged, left out: {damage['file']}: {damage['what']}")
    if flow["damaged"]:
        say(files.REMEDY)
    if not found["trial"]["complete"]:
        say("[incomplete] the report says so on its first page")
    say(f"report: {page}")


@app.command()
def check(trial_file: TrialFile, runs: Runs = Path("runs"), workers: Workers = None) -> None:
    """Say what a trial will do and cost, or what is wrong.

    Counts, time, memory, the smallest effect it can detect; or every problem of the trial file at once.

    Example: controlarm check trials/quick.toml

    Writes nothing.
    """
    with answering():
        protocol = protocols.load(trial_file)
        from controlarm import trial

        cost = costing.costs(protocol)
        cores = min(workers or usable_cores(), cost.num_shards)
        eager = _why_eager(trial.compile_pays(protocol), trial.has_compiler())
        say(f"{protocol.trial.name}: {protocol.trial.question}")
        for name, text in _expectations(protocol, cost, cores, eager).items():
            say(f"  {name:<12}{text}")
        # What it costs is told first: data and models may be elsewhere.
        problems = trial.check(protocol)
        if problems:
            refuse(f"{trial_file}:\n" + "\n".join(f"  {problem}" for problem in problems))
        digest = protocols.digest(protocol, trial.materials(protocol))
        folder = runs / f"{protocol.trial.name}-{digest[:8]}"
        say(f"  {'digest':<12}{digest}")
        say(f"  {'folder':<12}{folder} ({'exists' if folder.exists() else 'new'})")
        for sibling in _siblings(folder, protocol.trial.name, digest):
            say(f"  {'sibling':<12}{sibling}: same name, another digest; the report will name it")


def _on_gpus(cost: costing.GpuCosts) -> str:
    """An estimate in words, with what it assumes."""
    return (
        f"about {cost.sampling_hours + cost.training_hours:,.0f} hours of an H100 (sampling {cost.sampling_hours:,.0f}, training "
        f"{cost.training_hours:,.0f}), {cost.state_bytes / 1e9:,.0f} GB of weights and optimiser a run{costing.room(cost)}; it assumes completions of "
        f"{costing.MEAN_LENGTH:.0%} of the longest, {costing.SAMPLING_SHARE:.0%} of the peak in sampling and "
        f"{costing.TRAINING_SHARE:.0%} in training, and nothing of it was measured"
    )


def _expectations(
    protocol: Protocol, cost: costing.Costs, workers: int, eager: str | None
) -> dict[str, str]:
    """What to expect of a trial, in words."""
    end, recipes = protocol.endpoint, protocol.recipes.values()
    sizes = dict.fromkeys(f"{r.prompts_per_step} prompts × {r.group_size}" for r in recipes)
    rollouts = " and ".join(sizes)
    if most := max(r.dynamic_sampling for r in recipes):
        rollouts += f"; dynamic sampling may ask for up to {most} times as many"
    detectable = costing.detectable_effect(protocol)
    units = costing.num_top_units(protocol)
    effect = (
        "none: one unit gives no interval"
        if math.isnan(detectable)
        else f"{100 * detectable:.1f} percentage points of {end.metric} over {end.placebo} (80 % power; {units} units, planning_sd "
        f"{end.planning_sd:g}, Holm over {len(end.primary) * len(protocol.recipes)})"
    )
    models = len(set(protocol.design.pretraining_seeds))
    claim = (
        f"about families ({models} pretraining seeds each)"
        if costing.family_claim(protocol)
        else f"about {models} pretrained model{'s' if models > 1 else ''} a family, not the family: that takes three "
        "pretraining seeds"
    )
    return {
        "runs": f"{_product(protocol)}, in {cost.num_shards} shards",
        "training": f"{cost.num_rollouts:,} rollouts: {protocol.design.num_steps} steps of {rollouts}",
        "labels": f"{cost.num_labelled:,} completions of the base models",
        "evaluation": f"{cost.num_evaluated:,} completions, greedy and {protocol.evaluation.samples} samples a problem, at steps "
        f"{', '.join(map(str, protocol.evaluation.steps))}",
        **(
            {
                "probes": f"{cost.num_probed} checkpoints: {', '.join(dict.fromkeys([*protocol.probes.kinds, *protocol.probes.base]))}"
            }
            if cost.num_probed
            else {}
        ),
        **_effort(protocol, cost, workers, eager),
        "detectable": effect,
        "claims": claim,
        "endpoint": f"{end.metric} at step {end.step}, against {end.placebo}, margin {end.margin:g}",
    }


def _effort(
    protocol: Protocol, cost: costing.Costs, workers: int, eager: str | None
) -> dict[str, str]:
    """Time and memory: of lockstep as measured, of the engine trl by arithmetic from the models' sizes."""
    if protocol.trial.engine == "trl":
        if gpu := costing.gpu_costs(protocol):
            return {"time": _on_gpus(gpu)}
        return {
            "time": "not estimated: give each model num_parameters for an estimate in hours of a GPU"
        }
    return {
        "time": f"about {duration(cost.seconds(workers, compiled=eager is None))} on {workers} free core{'s' if workers > 1 else ''}"
        + (f"; {eager}" if eager else ""),
        "memory": f"about {workers * cost.worker_bytes / 1e9:.1f} GB, {cost.worker_bytes / 1e9:.1f} a worker",
    }


def _siblings(folder: Path, name: str, digest: str) -> list[Path]:
    """Other trials of this name: a reader must know how many protocols were tried."""
    found = []
    for other in sorted(folder.parent.glob(f"{name}-*/plan.json")):
        try:
            theirs = folders.read_plan(other.parent)
        except FolderError:  # damage hides no trial: its folder's name tells which it was
            theirs = {"trial": name, "digest": other.parent.name.rpartition("-")[2]}
        if theirs["trial"] == name and theirs["digest"] != digest:
            found.append(other.parent)
    return found
