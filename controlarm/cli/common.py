"""What the commands share: their app, how they speak and refuse, how they are stopped."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from controlarm import __version__
from controlarm import show as showing
from controlarm.analysis.folder import FolderError
from controlarm.files import BusyError, DamagedFileError
from controlarm.protocol import ProtocolError

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


def say(text: str = "") -> None:
    """A line as it is: no markup, nothing that a terminal would obey."""
    Console().print(Text(showing.visible(text)), soft_wrap=True)


def refuse(message: str) -> NoReturn:
    """One paragraph on stderr, and exit code 2."""
    Console(stderr=True).print(Text(f"error: {showing.visible(message)}"), soft_wrap=True)
    raise typer.Exit(2)


@contextmanager
def answering(*kinds: type[Exception], stopped: str = "stopped") -> Iterator[None]:
    """A user's mistakes become one paragraph and exit code 2; Ctrl-C and SIGTERM one line and 130, 143; the rest is a bug."""
    try:
        with _stoppable():
            yield
    except BrokenPipeError:
        raise  # the reader of our output has left; click ends quietly
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        refuse(f"{_where(error)}; check the path, then run the same command again")
    except OSError as error:
        refuse(
            f"{_where(error)}; nothing already written is lost: make room or give write access, then "
            "run the same command again"
        )
    except (ProtocolError, FolderError, DamagedFileError, BusyError, *kinds) as error:
        refuse(str(error))
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
        say(f"controlarm {__version__}")
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


def among(
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


def print_cells(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table of text, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
