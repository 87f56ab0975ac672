"""Run folders: report, record, show."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from controlarm import archive, files, recording
from controlarm import report as pages
from controlarm import show as showing
from controlarm.analysis import folder as folders
from controlarm.analysis import summary
from controlarm.analysis.folder import FolderError
from controlarm.cli.common import RunFolder, among, answering, app, say
from controlarm.cli.trials import conclude
from controlarm.protocol import Protocol, RunSpec


@app.command()
def report(folder: RunFolder) -> None:
    """Make the report of a run folder again.

    Of a trial that is finished, or that was stopped; needs no torch and no weights.

    Example: controlarm report runs/quick-1a2b3c4d

    Writes FOLDER/report.html and FOLDER/report.json.
    """
    with answering():
        folders.read_plan(folder)  # a folder that is no trial's gets no lock
        with files.locked(folder):
            found = summary.summarise(folder)
            conclude(pages.write(folder, found), found)


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
    with answering():
        folders.read_plan(folder)  # a folder that is no trial's gets no lock
        with files.locked(folder):
            made = recording.record(folder, to)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        say(f"record: {made} ({size / 1e6:.1f} MB)")


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
    with answering():
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
            families=among("--family", family, design.families),
            arms=among("--arm", arm, [*bases, *protocol.arms]),
            unit=units[among("--unit", [unit] if unit else None, list(units))[0]],
            step=steps[-1] if step is None else int(among("--step", [str(step)], list(map(str, steps)))[0]),
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
        say(
            f"{group} p{wanted.unit.pretraining_seed}-s{wanted.unit.seed}, step {wanted.step}, problem {problem_id}"
        )
        say(f"{told.text}  [answer {told.answer}]" if told else "(not in problems.parquet)")
        say()
        showing.print_problem(console, by_arm)
    if not count:
        say("nothing fits these filters")
