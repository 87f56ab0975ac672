"""The command line. Errors are one paragraph; what needs torch imports it late, so that reports and help do not."""

import io
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from controlarm import __version__, archive, files, recording
from controlarm import arms as arms_table
from controlarm import costs as costing
from controlarm import protocol as protocols
from controlarm import report as pages
from controlarm import show as showing
from controlarm.analysis import contamination as judging
from controlarm.analysis import folder as folders
from controlarm.analysis import summary
from controlarm.analysis.folder import FolderError
from controlarm.files import BusyError, DamagedFileError
from controlarm.organisms import catalogue, corpus
from controlarm.organisms import own as families_of_own
from controlarm.organisms.corpus import Mixture
from controlarm.progress import Progress, duration, filling, watching
from controlarm.protocol import Protocol, ProtocolError, RunSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from controlarm.backends import Backend
    from controlarm.backends.transformers import TransformersBackend
    from controlarm.engines.trl import Launch
    from controlarm.organisms.pretrain import Organism, Pretraining
    from controlarm.trial import Prepared

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TrialFile = Annotated[Path, typer.Argument(metavar="TRIAL.toml", help="The trial file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder: runs/<trial>-<digest>.")]  # fmt: skip
Runs = Annotated[Path, typer.Option("--runs", help="Where run folders stand.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes at once, one thread each.", show_default="the usable cores, at most the shards")]  # fmt: skip
Device = Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="Where to compute.", show_default="cuda where there is one")]  # fmt: skip


def _say(text: str = "") -> None:
    """A line as it is: no markup, nothing that a terminal would obey."""
    Console().print(Text(showing.visible(text)), soft_wrap=True)


def _refuse(message: str) -> NoReturn:
    Console(stderr=True).print(Text(f"error: {showing.visible(message)}"), soft_wrap=True)
    raise typer.Exit(2)


@contextmanager
def _answering(*kinds: type[Exception], stopped: str = "stopped") -> Iterator[None]:
    """A user's mistakes become one paragraph and exit code 2; Ctrl-C and SIGTERM one line and 130, 143; the rest is a bug."""
    try:
        with _stoppable():
            yield
    except BrokenPipeError:
        raise  # the reader of our output has left; click ends quietly
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        _refuse(f"{_where(error)}; check the path, then run the same command again")
    except OSError as error:
        _refuse(
            f"{_where(error)}; nothing already written is lost: make room or give write access, then "
            "run the same command again"
        )
    except (ProtocolError, FolderError, DamagedFileError, BusyError, *kinds) as error:
        _refuse(str(error))
    except _Stopped as error:
        Console(stderr=True).print(stopped, markup=False)
        raise typer.Exit(128 + error.number) from None


class _Stopped(KeyboardInterrupt):
    """A signal said stop; everything is unwound before the process ends."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _stoppable() -> Iterator[None]:
    def stop(number: int, _: object) -> None:
        for each in signals:
            signal.signal(
                each, signal.SIG_IGN
            )  # once is enough: what follows is short, and must not be cut
        raise _Stopped(number)

    signals = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) != signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) == stop:
                signal.signal(each, handler)


def _where(error: OSError) -> str:
    """The file, where the error knows it, and what the system says."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said


def _version(wanted: bool) -> bool:
    if wanted:
        _say(f"controlarm {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:  # fmt: skip
    """Placebo-controlled trials of RLVR: how much of a gain did the reward teach?

    Start with `controlarm check trials/quick.toml`: what it will do, cost and be able to see.

    Then `controlarm run trials/quick.toml`: do it; it ends with a report.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal without UTF-8 is no reason to fail


# run


@app.command()
def run(
    trial_file: TrialFile, runs: Runs = Path("runs"), workers: Workers = None, device: Device = None
) -> None:
    """Run a trial to its report, or continue it.

    Every run of every arm, evaluated and analysed. Interrupted anywhere, the same command continues and ends with the
    same numbers. A finished trial only gets its report again.

    Example: controlarm run trials/quick.toml

    Writes runs/<trial>-<digest>/: journals, rollouts, evaluations, checkpoints; at the end report.html and report.json.
    """
    stopped = "stopped; run the same command to continue"
    with _answering(stopped=stopped):
        from controlarm import trial

        with _answering(trial.TrialError, stopped=stopped):
            began = time.monotonic()
            launch = _launch()
            if launch.rank > 0:
                trial.run_together(None, [], lambda report: None)
                return
            default = _default_device()
            if device == "cuda" and default != "cuda":
                raise trial.TrialError(
                    "--device: torch finds no CUDA device here; leave it out, or say cpu"
                )
            prepared = trial.prepare(trial_file, runs, device or default)
            if device and prepared.plan["device"] != device:
                raise trial.TrialError(
                    f"{prepared.folder / 'plan.json'}: the trial began on {prepared.plan['device']}, not {device}, and a "
                    f"trial stays on its device; leave --device out, or choose another --runs folder"
                )
            with files.locked(prepared.folder) as lock:
                waiting = trial.unfinished(prepared)
                count = min(workers or _usable_cores(), max(1, len(waiting)))
                count = 1 if launch.processes > 1 else count
                _introduce(prepared, waiting, count)
                if waiting:
                    progress = Progress(
                        protocol=prepared.protocol,
                        specs=[RunSpec(**spec) for spec in prepared.plan["runs"]],
                        shards=prepared.plan["shards"], waiting=waiting, workers=count,
                    )  # fmt: skip
                    with watching(progress, Console()) as show:
                        if launch.processes > 1:
                            trial.run_together(prepared, waiting, show)
                        else:
                            trial.run(prepared, waiting, count, show, lock)
                elif launch.processes > 1:  # the others wait to be told
                    trial.run_together(prepared, [], lambda report: None)
                page, found = trial.finish(prepared)
            _conclude(page, found)
            _say(f"it took {duration(time.monotonic() - began)}")


def _launch() -> "Launch":
    """What torchrun or accelerate says of this process; a launch that went wrong is refused."""
    from controlarm.engines.trl import Launch

    try:
        return Launch.of(os.environ)
    except ValueError as error:
        _refuse(str(error))


def _default_device() -> Literal["cpu", "cuda"]:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _introduce(prepared: "Prepared", waiting: list[int], workers: int) -> None:
    from controlarm import trial

    plan = prepared.plan
    _say(f"{prepared.protocol.trial.name}: {prepared.protocol.trial.question}")
    _say(_product(prepared.protocol))
    _say(f"folder: {prepared.folder} (digest {plan['digest'][:16]}…)")
    num_shards = len(plan["shards"])
    if not waiting:
        _say("already finished; only the report is made again")
        return
    if len(waiting) < num_shards:
        _say(
            f"{num_shards - len(waiting)} of {num_shards} shards are finished; continuing with the rest"
        )
    _say(f"{workers} worker{'s' if workers > 1 else ''} on {plan['device']}")
    if not plan["compiled"]:
        _say(f"it runs {_why_eager(trial.compile_pays(prepared.protocol), has_compiler=False)}")


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


def _conclude(page: Path, found: Mapping[str, Any]) -> None:
    """The report in a few lines: sentences, failures, damage, where it is."""
    flow = found["flow"]
    _say()
    for sentence in found["headline"]:
        _say(sentence)
    for failed in flow["runs_failed"]:
        _say(f"failed: {failed['path']} at step {failed['step']}: {failed['reason']}")
    for damage in flow["damaged"]:
        _say(f"damaged, left out: {damage['file']}: {damage['what']}")
    if flow["damaged"]:
        _say(files.REMEDY)
    if not found["trial"]["complete"]:
        _say("[incomplete] the report says so on its first page")
    _say(f"report: {page}")


# check


@app.command()
def check(trial_file: TrialFile, runs: Runs = Path("runs"), workers: Workers = None) -> None:
    """Say what a trial will do and cost, or what is wrong.

    Counts, time, memory, the smallest effect it can detect; or every problem of the trial file at once.

    Example: controlarm check trials/quick.toml

    Writes nothing.
    """
    with _answering():
        protocol = protocols.load(trial_file)
        from controlarm import trial

        if gpu := costing.gpu_costs(protocol):
            _say(f"{protocol.trial.name}: {_on_gpus(gpu)}")
        problems = trial.check(protocol)
        if problems:
            _refuse(f"{trial_file}:\n" + "\n".join(f"  {problem}" for problem in problems))
        digest = protocols.digest(protocol, trial.materials(protocol))
        cost = costing.costs(protocol)
        cores = min(workers or _usable_cores(), cost.num_shards)
        eager = _why_eager(trial.compile_pays(protocol), trial.has_compiler())
        _say(f"{protocol.trial.name}: {protocol.trial.question}")
        for name, text in _expectations(protocol, cost, cores, eager).items():
            _say(f"  {name:<12}{text}")
        folder = runs / f"{protocol.trial.name}-{digest[:8]}"
        _say(f"  {'digest':<12}{digest}")
        _say(f"  {'folder':<12}{folder} ({'exists' if folder.exists() else 'new'})")
        for sibling in _siblings(folder, protocol.trial.name, digest):
            _say(f"  {'sibling':<12}{sibling}: same name, another digest; the report will name it")


def _on_gpus(cost: costing.GpuCosts) -> str:
    """An estimate in words, with what it assumes."""
    return (
        f"about {cost.sampling_hours + cost.training_hours:,.0f} hours of an H100 (sampling {cost.sampling_hours:,.0f}, training "
        f"{cost.training_hours:,.0f}), {cost.state_bytes / 1e9:,.0f} GB of weights and optimiser a run; it assumes completions of "
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
    """Time and memory, where this program was measured: the engine trl's depend on the model and on where it runs."""
    if protocol.trial.engine == "trl":
        return {"time": "not estimated: the engine trl was measured on no model but organisms"}
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


# report, record, audit, show


@app.command()
def report(folder: RunFolder) -> None:
    """Make the report of a run folder again.

    Of a trial that is finished, or that was stopped; needs no torch and no weights.

    Example: controlarm report runs/quick-1a2b3c4d

    Writes FOLDER/report.html and FOLDER/report.json.
    """
    with _answering():
        folders.read_plan(folder)  # a folder that is no trial's gets no lock
        with files.locked(folder):
            found = summary.summarise(folder)
            _conclude(pages.write(folder, found), found)


@app.command()
def record(
    folder: RunFolder,
    to: Annotated[Path, typer.Option(help="Where records stand.")] = Path("records"),
) -> None:
    """Make a record of a finished trial, small enough to commit.

    Its report, and all that the report is made of: protocol, journals, labels, grades of every held-out completion,
    probes. Training rollouts, weights, and texts that the report does not show are left out. `controlarm report` makes
    the same report of a record as of the run folder, byte for byte.

    Example: controlarm record runs/quick-1a2b3c4d

    Writes TO/<trial>-<digest>/; a record of the same trial there is replaced.
    """
    with _answering():
        folders.read_plan(folder)  # a folder that is no trial's gets no lock
        with files.locked(folder):
            made = recording.record(folder, to)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        _say(f"record: {made} ({size / 1e6:.1f} MB)")


@app.command()
def audit(
    logs: Annotated[list[str], typer.Argument(metavar="[NAME=]LOG…", help="Files or folders; of several the base first. The name of an arm says that this control was run.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder of the page and its numbers.")] = Path("audit"),
    problems: Annotated[str | None, typer.Option(metavar="SET", help="Problem set or file with the right answers, for logs that hold none; found by the problem's text in the prompt.", show_default="none")] = None,
    form: Annotated[Literal["box", "answer_tag"], typer.Option(help="Where the prompts want the answer; the strict verdict looks there.")] = "box",
    completion: Annotated[str | None, typer.Option(help="Field of the completion.", show_default="found")] = None,
    prompt: Annotated[str | None, typer.Option(help="Field of the problem or prompt.", show_default="found")] = None,
    answer: Annotated[str | None, typer.Option(help="Field of the right answer.", show_default="found")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Field that names the problem.", show_default="found")] = None,
    step: Annotated[str | None, typer.Option(help="Field of the training step.", show_default="found")] = None,
    extract: Annotated[str | None, typer.Option(help="Field of what the log's own grader read.", show_default="found")] = None,
    truncated: Annotated[str | None, typer.Option(help="Field that says whether the length ran out.", show_default="found")] = None,
    score: Annotated[list[str] | None, typer.Option(help="Field of a reward or verdict; may be repeated.", show_default="found")] = None,
) -> None:  # fmt: skip
    """Say what a gain was made of, from somebody's logs alone.

    TRL completions, verl rollouts, OpenRLHF samples, or any JSONL, JSON or parquet; told by content. Two logs of the same
    problems are compared; one log with steps is compared with itself. Everything is graded anew. No model, no GPU, no torch.

    Example: controlarm audit before.jsonl after.jsonl

    Example: controlarm audit base=before.jsonl trained=after.jsonl random=placebo.jsonl --to audits/mine

    Example: controlarm audit run.jsonl --completion answer_text --answer gold

    Writes TO/audit.html and TO/audit.json.
    """
    from controlarm import audit as auditing
    from controlarm import referee
    from controlarm.logs import Fields
    from controlarm.problems import sets
    from controlarm.report import audit as page

    with _answering(ValueError):
        fields = Fields(
            completion=completion, prompt=prompt, gold=answer, id=id_, step=step, answer=extract,
            truncated=truncated, scores=tuple(score or ()),
        )  # fmt: skip
        found = auditing.audit(
            auditing.named(logs),
            fields,
            sets.load(problems) if problems else (),
            form,
            referee.default_cache(),
        )
        for log in found["logs"]:
            _say(log["sentence"])
        _say()
        for sentence in found["sentences"]:
            _say(sentence)
        for log in found["logs"]:
            named = [d for d in found["damaged"] if d["name"] == log["name"]][:3]
            for damage in named:
                _say(f"damaged: {log['name']}: {damage['place']}: {damage['what']}")
            if more := log["num_damaged"] - len(named):
                _say(f"damaged: {log['name']}: {more:,} more, on the page and in audit.json")
        _say(f"page: {page.write(to, found)}")


@app.command()
def show(
    folder: RunFolder,
    family: Annotated[list[str] | None, typer.Option(help="A family; may be repeated.", show_default="all")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="An arm, or base; may be repeated.", show_default="all")] = None,
    unit: Annotated[str | None, typer.Option(help="Pretraining and training seed, as p1-s1.", show_default="the first")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Training step.", show_default="the last there is")] = None,
    training: Annotated[bool, typer.Option("--training", help="Training rollouts with their rewards instead of held-out completions.")] = False,
    problem: Annotated[str | None, typer.Option(help="Part of a problem's id.")] = None,
    strategy: Annotated[Literal["code", "words"] | None, typer.Option(help="Only completions of this strategy.")] = None,
    verdict: Annotated[Literal["right", "wrong", "no_answer", "unknown"] | None, typer.Option(help="Only completions so graded, strictly.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Problems of each family under each recipe.")] = 3,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each arm, the first that fit; greedy stands before the samples.")] = 1,
) -> None:  # fmt: skip
    """Print completions side by side across arms.

    Held-out completions after the last step, the base beside them, unless told otherwise.

    Example: controlarm show runs/quick-1a2b3c4d --family coder --verdict wrong

    Example: controlarm show runs/quick-1a2b3c4d --training --arm random --samples 8

    Writes nothing.
    """
    with _answering():
        plan = folders.read_plan(folder)
        if archive.is_archive(folder):
            raise FolderError(
                f"{folder}: a record keeps only the texts that its report shows; open {folder / 'report.html'}"
            )
        protocol, _, changed = folders.read_protocol(folder, plan)
        if changed:
            raise FolderError(f"{folder / changed.file}: {changed.what}; {files.REMEDY}")
        specs = [RunSpec(**spec) for spec in plan["runs"]]
        design = protocol.design
        bases = [] if training else [folders.BASE]
        units = {f"p{u.pretraining_seed}-s{u.seed}": u for u in design.units()}
        steps = showing.steps_of(folder, specs, training)
        if not steps:
            raise FolderError(f"{folder}: holds no {'rollouts' if training else 'evaluations'} yet")
        wanted = showing.Wanted(
            families=_known("--family", family, design.families),
            arms=_known("--arm", arm, [*bases, *protocol.arms]),
            unit=units[_known("--unit", [unit] if unit else None, list(units))[0]],
            step=steps[-1] if step is None else int(_known("--step", [str(step)], list(map(str, steps)))[0]),
            training=training, problem=problem, strategy=strategy, verdict=verdict,
            num_problems=limit, num_samples=samples,
        )  # fmt: skip
        _show(folder, protocol, specs, wanted)


def _show(folder: Path, protocol: Protocol, specs: list[RunSpec], wanted: showing.Wanted) -> None:
    console, count = Console(), 0
    known = {p.id: p for p in showing.problems(folder)}
    for family, recipe, problem_id, by_arm in showing.chosen(folder, protocol, specs, wanted):
        count += 1
        told = known.get(problem_id)
        group = f"{family} {recipe}" if len(protocol.recipes) > 1 else family
        _say(
            f"{group} p{wanted.unit.pretraining_seed}-s{wanted.unit.seed}, step {wanted.step}, problem {problem_id}"
        )
        _say(f"{told.text}  [answer {told.answer}]" if told else "(not in problems.parquet)")
        _say()
        showing.print_problem(console, by_arm)
    if not count:
        _say("nothing fits these filters")


def _known(
    option: str, given: list[str] | None, known: list[str], owner: str = "the folder"
) -> list[str]:
    """The chosen names, or all of them.

    Raises:
        FolderError: a name that the owner does not have.
    """
    for name in given or []:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FolderError(
                f"{option}: {owner} has no {name!r}; {hint}it has: {', '.join(known)}"
            )
    return given or known


# arms, families


@app.command()
def arms() -> None:
    """List every reward that an arm can pay.

    What it pays for, what it may see, its settings.

    Example: controlarm arms

    Writes nothing. A reward of your own: docs/add-an-arm.md
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("reward", "pays 1 when", "reads", "settings"):
        table.add_column(name)
    for name, row in arms_table.ARMS.items():
        settings = [
            f"{key} (needed)" if key in row.required else key for key in sorted(row.settings)
        ]
        cells = (name, row.pays, _reads(row), ", ".join(settings) or "none")
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


def _reads(row: arms_table.Row) -> str:
    if "of" in row.settings:
        return "as its parts"
    return (
        "as it declares" if "reads" in row.settings else ", ".join(sorted(row.reads)) or "nothing"
    )


@app.command()
def families() -> None:
    """List the organisms found, with measures.

    Those that ship with the package and those in ./organisms; the numbers are their cards'.

    Example: controlarm families

    Writes nothing. A family of your own: docs/add-a-family.md
    """
    found = catalogue.known()
    if not found:
        _say("no organisms found; `controlarm pretrain coder --seeds 1,2,3` makes some")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("family")
    for name in ("seed", *CARD_COLUMNS):
        table.add_column(name, justify="right")
    for family, seeds in found.items():
        for seed in seeds:
            card = catalogue.card(family, seed)
            table.add_row(
                Text(family),
                str(seed),
                *(_of_card(card, row, column) for row, column in CARD_COLUMNS.values()),
            )
    Console().print(table)
    _say(
        "greedy, held-out problems, from the cards beside the organisms; forced: the strategy imposed on every problem"
    )


CARD_COLUMNS = {
    "code share": ("greedy, as chosen", "code share"),
    "accuracy": ("greedy, as chosen", "strict"),
    "boxed": ("greedy, as chosen", "boxed"),
    "code forced": ("greedy, code", "strict"),
    "words forced": ("greedy, words", "strict"),
}
"""Column → row and column of the card's table (controlarm/cards.py)."""


def _of_card(card: Mapping[str, Any] | None, row: str, column: str) -> str:
    value = ((card or {}).get("table") or {}).get(row, {}).get(column)
    return "–" if value is None else f"{value:.2f}"


# problems

problems_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    problems_app,
    name="problems",
    help="Problem sets: which there are, whether every gold answer of one grades right, and a copy of one.\n\n"
    "Example: controlarm problems check gsm8k\n\nWrites nothing, but for export.",
)


@problems_app.command(name="list")
def list_problems() -> None:
    """Print the sets that are known by name, with size, licence and what is peculiar about their answers.

    Example: controlarm problems list

    Writes nothing.
    """
    from controlarm.problems import sets

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("set", "problems", "licence", "from", "answers"):
        table.add_column(
            column, justify="right" if column == "problems" else "left", no_wrap=column != "answers"
        )
    for name, card in sets.CARDS.items():
        table.add_row(name, str(card.num_problems), card.licence, card.origin, card.quirks)
    table.add_row(
        "random_calculation:N",
        "1000",
        "generated",
        "arXiv:2507.10532",
        "rationals; N operations, 1 to 20",
    )
    Console().print(table)
    _say("or NAME=FILE, that set from a local file; or a path to .jsonl, .json or .parquet")


@problems_app.command(name="check")
def check_problems(
    spec: Annotated[str, typer.Argument(metavar="SET", help="A set's name, NAME=FILE, random_calculation:N, or a path.")],
) -> None:  # fmt: skip
    """Read a set and see whether every gold answer grades right, which a reward on it needs.

    Also its size and checksum against the card's, if it has one.

    Example: controlarm problems check gsm8k

    Example: controlarm problems check math500=math500.json

    Writes nothing. Exit status 1 when a gold answer does not grade right.
    """
    with _answering(ValueError):
        from controlarm import referee
        from controlarm.problems import sets

        found = sets.read(spec)
        with referee.Referee(referee.default_cache()) as judge:
            grades = judge.grade([(f"\\boxed{{{p.answer}}}", p.answer) for p in found.problems])
    card = found.card
    size = (
        f" (the card: {card.num_problems})"
        if card and card.num_problems != len(found.problems)
        else ""
    )
    _say(f"{spec}: {len(found.problems)} problems{size}")
    known = (
        "" if card is None else ", the card has none" if card.sha256 is None else ", as on the card"
    )
    if card and card.sha256 not in (None, found.checksum):
        known = f"; the card's copy: {card.sha256}, so texts or answers differ from it"
    _say(f"sha256 {found.checksum}{known}")
    fallen = [p for p, grade in zip(found.problems, grades, strict=True) if grade.strict != "right"]
    for problem in fallen[:10]:
        _say(f"  {problem.id}: gold {problem.answer} does not grade right in a box")
    _say(
        f"{len(found.problems) - len(fallen)} of {len(found.problems)} gold answers grade right ({referee.VERSION})"
    )
    if fallen:
        raise typer.Exit(1)


@problems_app.command(name="export")
def export_problems(
    spec: Annotated[str, typer.Argument(metavar="SET", help="A set's name, NAME=FILE, random_calculation:N, or a path.")],
    out: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Where one problem a line goes.")],
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, chosen by their ids.", show_default="all")] = None,
) -> None:  # fmt: skip
    """Write a set as JSONL: id, problem, answer, with golds as they are graded.

    Example: controlarm problems export random_calculation:5 clean.jsonl --limit 200

    Writes FILE.jsonl, which must not be there.
    """
    with _answering(ValueError):
        from controlarm.problems import sets

        if out.exists():
            raise ValueError(f"{out}: is there already; delete it, or choose another file")
        found = sets.load(spec, limit)
        sets.export(found, out)
    _say(f"{out}: {len(found)} problems of {spec}")


@app.command()
def dataset(
    spec: Annotated[str, typer.Argument(metavar="SET", help="A set's name, NAME=FILE, random_calculation:N, or a path.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the rows go: .parquet or .jsonl.")],
    trainer: Annotated[Literal["trl", "verl", "openrlhf", "verifiers"], typer.Option("--for", help="Whose rows.")],
    instruction: Annotated[str | None, typer.Option(help="The system's message; \"\" for none.", show_default="Please reason step by step, …")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, chosen by their ids.", show_default="all")] = None,
) -> None:  # fmt: skip
    """Write a problem set as another trainer's data set, with the ids that labels and coins are keyed by.

    How that trainer then pays by an arm: docs/use-in-trl.md, -verl, -openrlhf, -verifiers.

    Example: controlarm dataset deepscaler train.parquet --for verl

    Writes FILE, which must not be there.
    """
    with _answering(ValueError):
        from controlarm.problems import sets
        from controlarm.rewards import rows

        if out.exists():
            raise ValueError(f"{out}: is there already; delete it, or choose another file")
        found = sets.read(spec, limit)
        told = rows.INSTRUCTION if instruction is None else instruction
        made = rows.rows(found.problems, trainer, spec.partition("=")[0], told)
        rows.write(out, made)
    _say(f"{out}: {len(made)} problems of {spec}, as {trainer} reads them")


# contamination


@app.command()
def contamination(
    model: Annotated[str, typer.Argument(metavar="FAMILY|MODEL", help="An organism's family; with --problems a causal LM, a folder or a name on the hub.")],
    problems: Annotated[str | None, typer.Option(metavar="SET", help="The problem set that a causal LM is asked about.", show_default="an organism's own")] = None,
    clean: Annotated[str | None, typer.Option(metavar="SET", help="A set that the causal LM cannot have read, beside it.", show_default="none")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first so many problems.", show_default="all; of an organism's, 256")] = None,
    seed: Annotated[int, typer.Option(min=0, help="An organism's pretraining seed.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation of a causal LM.")] = 512,
    batch: Annotated[int | None, typer.Option(min=1, help="Continuations in flight at once.", show_default="32, on a GPU 256")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.parquet", help="Where one row a problem goes.", show_default="nowhere")] = None,
) -> None:  # fmt: skip
    """Ask what a model knew of the benchmark beforehand.

    How it completes and answers problems that are cut off at 80, 60 and 40 %, and how familiar their text is. An organism's
    problems each have a clean twin that stands in no corpus. For a causal LM name a clean set, or its rates stand alone.

    Example: controlarm contamination coder

    Example: controlarm contamination talker --seed 2 --limit 64 --out talker.parquet

    Example: controlarm contamination Qwen/Qwen2.5-Math-7B --problems math500 --clean aime25

    Writes nothing but FILE.parquet, if it is named.
    """
    with _answering(ValueError):
        if out and out.exists():
            raise ProtocolError(f"{out}: is there already; delete it, or choose another --out")
        if problems is None and clean is not None:
            raise ProtocolError(
                "--clean: stands beside --problems; an organism's clean twins are its own"
            )
        if problems is None:
            table = _audit_organism(model, seed, limit or 256)
        else:
            table = _audit_model(model, problems, clean, limit, max_tokens, batch)
        if out:
            files.write_table(out, table)
            _say(f"wrote {out}")


def _audit_organism(family: str, seed: int, count: int) -> "pa.Table":
    from controlarm import contamination as auditing
    from controlarm.organisms import released

    if count > auditing.MOST_PROBLEMS:
        raise ProtocolError(
            f"--limit: {count} is more than have twins; ask for {auditing.MOST_PROBLEMS} at most"
        )
    weights, facts, shape = released.load(family, seed)
    leaks = auditing.known_leaks(facts)
    table = auditing.audit(weights, auditing.benchmark(count), leaks, shape)
    _tell_contamination(f"{family} p{seed}", judging.findings(table))
    return table


def _audit_model(
    model: str, spec: str, clean: str | None, limit: int | None, max_tokens: int, batch: int | None
) -> "pa.Table":
    from controlarm.analysis import familiarity as knowing
    from controlarm.problems import sets

    chosen = sets.read(spec, limit)
    beside = sets.load(clean, limit) if clean else []
    loaded = _load_transformers(model)
    from controlarm import familiarity

    size = batch or (32 if loaded.device == "cpu" else 256)
    table = familiarity.audit(loaded, chosen.problems, beside, max_tokens, size)
    found = knowing.findings(table)
    sizes = ", ".join(f"{count} {part}" for part, count in found.num_problems.items())
    _say(
        f"{model} on {chosen.name}: problems: {sizes}; {found.num_unscored} without a score of their text"
    )
    _say()
    _print_cells(("part of the problem", "benchmark", "clean"), knowing.rate_cells(found))
    _say()
    _print_cells(("how familiar", "benchmark", "clean", "AUROC"), knowing.score_cells(found))
    _say()
    _say("greedy, no template; cut between tokens; in brackets 95 % intervals over problems")
    _say(knowing.verdict(model, found))
    return table


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A causal LM: a folder, or a name on the hub.")],
    texts: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL: text, and if it has one the prompt before it.")],
    out: Annotated[Path | None, typer.Option(metavar="OUT.parquet", help="Where one row a text goes.", show_default="nowhere")] = None,
) -> None:  # fmt: skip
    """Score given texts under a model.

    exp(-mean log-probability) of each text's tokens, whoever wrote it: outputs of a trained model under its base that are
    not surprising were there before.

    Example: controlarm perplexity Qwen/Qwen2.5-Math-7B outputs.jsonl

    Writes nothing but OUT.parquet, if it is named.
    """
    with _answering(ValueError):
        from controlarm.analysis import coverage

        if out and out.exists():
            raise ProtocolError(f"{out}: is there already; delete it, or choose another --out")
        loaded = _load_transformers(model)
        from controlarm import familiarity

        given = familiarity.read_texts(texts)
        table = familiarity.surprise(loaded, given)
        scored = table.filter(table["logprob"].is_valid())
        values = coverage.perplexity(scored["logprob"].to_numpy(), scored["num_tokens"].to_numpy())
        spread = coverage.spread(values)
        tokens, total = sum(scored["num_tokens"].to_pylist()), sum(scored["logprob"].to_pylist())
        _say(
            f"{model} ({loaded.revision[:19]}): {len(table)} texts, {len(table) - len(scored)} not scored (too long, nothing to score, or words that the tokenizer does not know)"
        )
        unscored = [
            given[i].line for i in table.filter(table["logprob"].is_null())["text"].to_pylist()
        ]
        if unscored:
            rest = f" and {len(unscored) - 10} more" if len(unscored) > 10 else ""
            _say(f"  not scored: line {', '.join(map(str, unscored[:10]))}{rest} of {texts.name}")
        if tokens:
            _say(
                f"  of all {tokens:,} tokens: {math.exp(-total / tokens):.4f}, mean log-probability {total / tokens:.4f}"
            )
            quantiles = [
                f"{q:.4f}" for q in (spread.q05, spread.q25, spread.median, spread.q75, spread.q95)
            ]
            _say(f"  over texts, 5, 25, 50, 75, 95 %: {', '.join(quantiles)}")
        if out:
            files.write_table(out, table)
            _say(f"wrote {out}")


def _tell_contamination(where: str, found: judging.Findings) -> None:
    """Rates, scores and the verdict."""
    known = "nobody knows how many" if found.num_leaked is None else str(found.num_leaked)
    _say(
        f"{where}: {found.num_problems} problems, {known} of them in its corpus; each with a clean twin"
    )
    _say()
    _print_cells(("part of the prompt", "originals", "twins", "points"), judging.rate_cells(found))
    _say()
    header = ("how familiar", "AUROC", "leaked", "others", "stands out")
    _print_cells(header, judging.score_cells(found))
    _say()
    _say("greedy; AUROC of originals against twins; in brackets 95 % intervals")
    _say(judging.verdict(where, found))


def _print_cells(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


# evaluate, regrade, diff


StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="A folder that evaluate wrote, or one condition in it.")]  # fmt: skip


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A causal LM: a folder, or a name on the Hugging Face hub.")],
    problems: Annotated[str, typer.Option(metavar="SET", help="A problem set's name, NAME=FILE, or a JSONL file with problem and answer.")],
    samples: Annotated[int, typer.Option(min=0, help="Completions of each problem, beside the greedy one; 0: greedy only.")] = 16,
    prompt: Annotated[str, typer.Option("--prompts", metavar="NAME|all", help="The template: none, line, chat, qwen_boxed, r1_zero, few_shot, python, nonsense.")] = "chat",
    temperature: Annotated[float, typer.Option(min=0.01, max=10, help="Of the sampled completions.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Draw only from the most probable tokens that hold so much.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion; what is longer is truncated, and counted.")] = 3072,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="STORE", help="Where samples are kept.", show_default="evaluations/<model>")] = None,
    backend: Annotated[Literal["transformers", "vllm"], typer.Option(help="Who generates; the two draw different samples.")] = "transformers",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many problems, the same ones each time.", show_default="all")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Completions in flight at once; changes no sample but by float noise.", show_default="32, on a GPU 256, in vLLM 2048")] = None,
) -> None:  # fmt: skip
    """Measure a model on a benchmark.

    Generates what the store lacks, grades it and prints every metric. Stopped anywhere, the same command continues; with more
    samples it makes only the new ones. --prompts all asks under every template: a gain from training must beat the best of them.

    Example: controlarm evaluate Qwen/Qwen2.5-Math-7B --problems math500 --samples 16

    Example: controlarm evaluate ./checkpoint-300 --problems math500 --prompts all --samples 0

    Writes STORE/: one folder a condition, and scores.json.
    """
    stopped = "stopped; what is in the store is kept, and the same command continues"
    with _answering(ValueError, stopped=stopped):
        from controlarm import benchmark, prompts, store
        from controlarm.referee import Referee, default_cache

        if prompt != "all":
            _known("--prompts", [prompt], list(prompts.TEMPLATES), "controlarm")
        from controlarm.problems import sets

        chosen = sets.read(problems, limit)
        loaded = _load_model(model, backend)
        if prompt != "all":
            try:
                prompts.prompt(prompts.TEMPLATES[prompt], "", loaded.chat)
            except prompts.TemplateError:
                raise ValueError(
                    f"{model}: the tokenizer has no chat template; ask with --prompts line (or none, qwen_boxed, few_shot)"
                ) from None
        folder = out or Path("evaluations") / (Path(model).name or "model")
        size = batch or (
            32 if loaded.environment.endswith("cpu") else 2048 if backend == "vllm" else 256
        )
        console = Console()
        with store.writing(folder), Referee(default_cache()) as referee:
            for each in prompts.TEMPLATES if prompt == "all" else [prompt]:
                plan = benchmark.Plan(
                    name=chosen.name, problems=chosen.problems, prompt=each, template=prompts.TEMPLATES[each], temperature=temperature,
                    top_p=top_p, max_tokens=max_tokens, seed=seed, num_samples=samples,
                )  # fmt: skip
                try:
                    for part in [plan.greedy(), *([plan] if samples else [])]:
                        with filling(console) as tell:
                            benchmark.fill(part, loaded, folder, size, referee, tell)
                except prompts.TemplateError as error:
                    if prompt != "all":
                        raise
                    _say(f"{each}: left out: {error}")
        _tell_scores(folder, benchmark.version())


def _load_model(model: str, backend: str) -> "Backend":
    if backend == "transformers":
        return _load_transformers(model)
    try:
        from controlarm.backends.vllm import VllmBackend
    except ImportError as error:
        raise ValueError(
            f"--backend vllm: {error.name} is not installed; install vllm as its documentation says, or leave --backend out"
        ) from error
    return VllmBackend(model)


def _load_transformers(model: str) -> "TransformersBackend":
    try:
        from controlarm.backends.transformers import TransformersBackend
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed, and this needs it: pip install 'controlarm[trl]'"
        ) from error
    return TransformersBackend(model)


def _tell_scores(folder: Path, version: str) -> None:
    from controlarm import store
    from controlarm.analysis import scores

    found = {
        place: (condition, scores.scores(scores.read(place, condition, version)))
        for place, condition in store.conditions(folder).items()
    }
    first = next(iter(found.values()))[0]
    _say()
    _say(
        f"{first.model} ({first.revision[:19]}), graded by {version}; in brackets 95 % intervals over problems"
    )
    for name in dict.fromkeys(condition.problems for condition, _ in found.values()):
        members = [each for each in found.values() if each[0].problems == name]
        _say()
        _say(f"{name}, percent")
        for sentence in scores.warnings(members):
            _say(sentence)
        for header, rows in scores.tables(members):
            _say()
            _print_cells(header, rows)
        _say()
        for sentence in scores.notes(members):
            _say(sentence)
    if not (folder / "condition.json").exists():
        rows = {place.name: scores.plain(*each) for place, each in found.items()}
        files.write_json(folder / "scores.json", {"version": version, "conditions": rows})
        _say(f"wrote {folder / 'scores.json'}")


@app.command()
def regrade(folder: StoreFolder) -> None:
    """Grade stored samples again, without the model.

    By the present version of the graders; what earlier versions said stays beside it. Prints every metric.

    Example: controlarm regrade evaluations/Qwen2.5-Math-7B

    Writes STORE/<condition>/grades/<version>/ and scores.json.
    """
    with _answering(ValueError, stopped="stopped; the same command continues"):
        from controlarm import benchmark, store
        from controlarm.referee import Referee, default_cache

        store.conditions(folder)
        with store.writing(folder), Referee(default_cache()) as referee:
            console = Console()
            with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
                task = bar.add_task("grading")
                count = benchmark.regrade(
                    folder,
                    referee,
                    lambda done, parts: bar.update(task, completed=done, total=parts),
                )
        _say(f"{count} completions graded by {benchmark.version()}")
        _tell_scores(folder, benchmark.version())


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="STORE_A", help="The store before, or one condition in it.")],
    second: Annotated[Path, typer.Argument(metavar="STORE_B", help="The store after, or one condition in it.")],
    flips: Annotated[int, typer.Option(min=0, help="Flipped problems to name.")] = 10,
) -> None:  # fmt: skip
    """Compare two models problem by problem.

    Which problems flipped, the paired difference with its interval, and the exact McNemar test. Stores are compared where
    problems, prompt and sampling are the same; two conditions, whatever they differ in but problems and graders.

    Example: controlarm diff evaluations/base evaluations/checkpoint-300

    Writes nothing.
    """
    with _answering(ValueError):
        from controlarm import benchmark, store
        from controlarm.analysis import scores

        sides = store.conditions(first), store.conditions(second)
        for a, b in scores.pairs(*sides):
            version = benchmark.version()
            graded = scores.read(a, sides[0][a], version), scores.read(b, sides[1][b], version)
            _say(f"{a} → {b}")
            for line in scores.uneven(*graded) + scores.told(scores.difference(*graded), flips):
                _say(f"  {line}")


# pretrain


@app.command()
def pretrain(
    names: Annotated[list[str] | None, typer.Argument(metavar="[FAMILY]...", help="Families to make: coder, talker, bungler, crammer …", show_default=False)] = None,
    seeds: Annotated[str, typer.Option(help="Pretraining seeds, separated by commas.")] = "1,2,3",
    out: Annotated[Path, typer.Option(help="Where the files go; trials find ./organisms.")] = Path("organisms"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of 128 documents.", show_default="as the released ones")] = None,
    mixture: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="A family of your own; see docs/add-a-family.md.")] = None,
) -> None:  # fmt: skip
    """Make organisms of a known mixture.

    Small models pretrained from scratch on generated text, all of them together in one program.

    Example: controlarm pretrain coder talker --seeds 1,2,3

    Example: controlarm pretrain --mixture stammerer.toml

    Writes OUT/<family>-p<seed>.safetensors, the weights, and beside each a card of what was measured, .md and .json.
    """
    with _answering(stopped="stopped; nothing was written but what is named above"):
        from controlarm.organisms.pretrain import FURTHER, Organism, Pretraining

        mixtures: dict[str, Mixture] = {}
        for name in _known("FAMILY", names, list(corpus.FAMILIES), "controlarm") if names else []:
            mixtures[name] = corpus.FAMILIES[name]
        if mixture:
            own = families_of_own.read(mixture)
            # Pretraining finds a family by its name.
            mixtures[own.name] = corpus.FAMILIES[own.name] = own.mixture
        if not mixtures:
            raise ProtocolError(
                f"name a family ({', '.join(corpus.FAMILIES)}) or give --mixture FILE.toml"
            )
        further = [name for name in mixtures if name in corpus.CONTINUES]
        if further and len(further) < len(mixtures):
            raise ProtocolError(
                f"{', '.join(further)} goes on from {corpus.CONTINUES[further[0]]}, the others begin from nothing; "
                "make them by two commands"
            )
        organisms = [Organism(name, seed) for name in mixtures for seed in _read_seeds(seeds)]
        paths = [out / f"{o.family}-p{o.seed}.safetensors" for o in organisms]
        for path in paths:
            if path.exists():
                raise ProtocolError(f"{path}: is there already; delete it, or choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        recipe = FURTHER if further else Pretraining()
        recipe = recipe._replace(num_steps=steps) if steps else recipe
        _pretrain(organisms, paths, recipe, mixtures)


def _pretrain(
    organisms: "list[Organism]", paths: list[Path], recipe: "Pretraining", mixtures: Mapping[str, Mixture]
) -> None:  # fmt: skip
    import torch

    from controlarm import cards, checkpoints, trial
    from controlarm.organisms import pretrain as pretraining
    from controlarm.organisms import released
    from controlarm.organisms.transformer import Shape

    console = Console()
    every = max(1, recipe.num_steps // 10)
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"{len(organisms)} organisms", total=recipe.num_steps)

        def on_step(step: int, losses: Any) -> None:  # noqa: ANN401  a tensor
            bar.advance(task)
            if not console.is_terminal and (step + 1) % every == 0:
                _say(f"step {step + 1} of {recipe.num_steps}, mean loss {losses.mean().item():.3f}")

        start = None
        if organisms[0].family in corpus.CONTINUES:
            before = [released.load(corpus.CONTINUES[o.family], o.seed)[0] for o in organisms]
            start = {name: torch.cat([one[name] for one in before]) for name in before[0]}
        weights = pretraining.pretrain(
            organisms, recipe, Shape(), on_step, trial.has_compiler(), start
        )
    for i, (organism, path) in enumerate(zip(organisms, paths, strict=True)):
        own = {name: w[i : i + 1] for name, w in weights.items()}
        facts = {
            "family": organism.family,
            "seed": organism.seed,
            "corpus": corpus.VERSION,
            "mixture": mixtures[organism.family]._asdict(),
            "recipe": recipe._asdict(),
            "parameters": sum(w.numel() for w in own.values()),
            "command": " ".join(["controlarm", *sys.argv[1:]]),
            "versions": _versions(),
        }
        checkpoints.write(path, own, facts)
        cards.write(path, own, facts)
        _say(f"wrote {path} and its card")


def _versions() -> dict[str, str]:
    found = {"controlarm": __version__}
    for name in ("torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read_seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ProtocolError(f"--seeds: {text!r} is not a list like 1,2,3") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ProtocolError(f"--seeds: {text!r} holds a negative number or repeats one")
    return seeds
