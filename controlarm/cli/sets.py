"""Problem sets, and other trainers' data sets made of them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from controlarm.cli.common import answering, app, say

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

    generated = (
        "random_calculation:N",
        1000,
        "generated",
        "arXiv:2507.10532",
        "rationals; N operations, 1 to 20",
    )
    cards = [
        (name, c.num_problems, c.licence, c.origin, c.quirks) for name, c in sets.CARDS.items()
    ]
    for name, count, licence, origin, quirks in [*cards, generated]:
        say(f"{name}: {count} problems, {licence}, {origin}")
        say(f"    {quirks}")
    say("or NAME=FILE, that set from a local file; or a path to .jsonl, .json or .parquet")


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
    with answering(ValueError):
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
    say(f"{spec}: {len(found.problems)} problems{size}")
    known = (
        "" if card is None else ", the card has none" if card.sha256 is None else ", as on the card"
    )
    if card and card.sha256 not in (None, found.checksum):
        known = f"; the card's copy: {card.sha256}, so texts or answers differ from it"
    say(f"sha256 {found.checksum}{known}")
    fallen = [p for p, grade in zip(found.problems, grades, strict=True) if grade.strict != "right"]
    for problem in fallen[:10]:
        say(f"  {problem.id}: gold {problem.answer} does not grade right in a box")
    say(
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
    with answering(ValueError):
        from controlarm.problems import sets

        if out.exists():
            raise ValueError(f"{out}: is there already; delete it, or choose another file")
        found = sets.load(spec, limit)
        sets.export(found, out)
    say(f"{out}: {len(found)} problems of {spec}")


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
    with answering(ValueError):
        from controlarm.problems import sets
        from controlarm.rewards import rows

        if out.exists():
            raise ValueError(f"{out}: is there already; delete it, or choose another file")
        found = sets.read(spec, limit)
        told = rows.INSTRUCTION if instruction is None else instruction
        made = rows.rows(found.problems, trainer, spec.partition("=")[0], told)
        rows.write(out, made)
    say(f"{out}: {len(made)} problems of {spec}, as {trainer} reads them")
