"""Arms and organisms: what there is, and how to make more."""

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from controlarm import __version__
from controlarm import arms as arms_table
from controlarm.cli.common import among, answering, app, say
from controlarm.organisms import catalogue, corpus
from controlarm.organisms import own as families_of_own
from controlarm.organisms.corpus import Mixture
from controlarm.protocol import ProtocolError

if TYPE_CHECKING:
    from controlarm.organisms.pretrain import Organism, Pretraining


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
        say("no organisms found; `controlarm pretrain coder --seeds 1,2,3` makes some")
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
    say(
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
    with answering(stopped="stopped; nothing was written but what is named above"):
        from controlarm.organisms.pretrain import FURTHER, Organism, Pretraining

        mixtures: dict[str, Mixture] = {}
        for name in among("FAMILY", names, list(corpus.FAMILIES), "controlarm") if names else []:
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
                say(f"step {step + 1} of {recipe.num_steps}, mean loss {losses.mean().item():.3f}")

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
        say(f"wrote {path} and its card")


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
