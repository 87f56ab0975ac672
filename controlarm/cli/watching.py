"""Watching: watch, export-metrics."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from controlarm import files
from controlarm import watch as watching
from controlarm.cli.common import RunFolder, answering, app, refuse, say


@app.command()
def watch(
    folder: RunFolder,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page as it stands now into one file, and serve nothing.", show_default="serve")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; one that other machines can reach needs a --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token: Annotated[str | None, typer.Option(envvar="CONTROLARM_WATCH_TOKEN", help="What a viewer must know; opened as …/#token=TOKEN.", show_default="none")] = None,
) -> None:  # fmt: skip
    """Show a trial in a browser while it runs.

    Arms, curves, the newest rollouts side by side, alarms; also of a finished trial, of a copied folder, of a record. It
    reads the folder's files alone, and holds no lock.

    Example: controlarm watch runs/quick-1a2b3c4d

    Example: controlarm watch runs/quick-1a2b3c4d --export quick.html

    Writes nothing, but for FILE.
    """
    with answering():
        if export is not None:
            files.write_atomic(export, watching.export(folder, time.time()).encode())
            say(f"page: {export}")
            return
        try:
            from controlarm.watch import server
        except ModuleNotFoundError as error:
            refuse(
                f"{error.name} is not installed, which serving the page needs: pip install 'controlarm[watch]'; --export does "
                "without"
            )
        with answering(server.AddressError):
            server.check_address(host, token)
            stage = server.Stage(watching.Sight(watching.Watcher(folder)))
            listening = server.listen(host, port)
        with listening:
            name = f"[{host}]" if ":" in host else host
            say(f"http://{name}:{listening.getsockname()[1]}/{'#token=TOKEN' if token else ''}")
            server.server(server.application(stage, host, token)).run(sockets=[listening])


FOLLOW_EVERY = 5.0
"""Seconds between two looks while a trial runs."""


@app.command()
def export_metrics(
    folder: RunFolder,
    to: Annotated[Literal["tensorboard", "wandb", "trackio"], typer.Option(help="Which tracker.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder of the tracker's files.", show_default="./tensorboard, ./wandb, or trackio's own")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until every run has ended.")] = False,
) -> None:  # fmt: skip
    """Copy a trial's numbers to TensorBoard, Weights & Biases or trackio.

    Every column of the journals and the held-out metrics, a run each. What the tracker has is not sent again: the same
    command, given again, adds what is new. Works beside a running trial, after it, on a copied folder and on a record.

    Example: controlarm export-metrics runs/quick-1a2b3c4d --to tensorboard

    Example: WANDB_MODE=offline controlarm export-metrics runs/quick-1a2b3c4d --to wandb --follow

    Writes the tracker's files under OUT, or where the tracker keeps its own; nothing in FOLDER.
    """
    from controlarm.trackers import Export

    with answering(stopped="stopped; run the same command to send the rest"):
        watcher = watching.Watcher(folder)
        export = Export(watcher, to, out)
        sent = 0
        try:
            while True:
                watcher.look(time.time())
                sent += export.send()
                if not follow or export.complete:
                    break
                time.sleep(FOLLOW_EVERY)
        except ModuleNotFoundError as error:
            refuse(f"{error.name} is not installed: pip install 'controlarm[{to}]'")
        finally:
            export.close()
        for damage in watcher.damaged:
            say(f"damaged, left out: {damage.file}: {damage.what}")
        say(
            f"{sent:,} points of {len(watcher.runs)} runs sent to {to}; what it had already was left alone"
        )
