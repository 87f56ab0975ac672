"""Watching: watch."""

import time
from pathlib import Path
from typing import Annotated

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
