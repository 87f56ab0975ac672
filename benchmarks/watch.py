"""What 20 viewers of a growing trial of 60 runs cost the server: its share of a core.

python benchmarks/watch.py [--write]

A trial of 60 runs is fabricated, then its files are laid down again step by step, a step of all runs every `STEP` seconds,
while viewers read ``/updates`` as browsers do. The server is a process of its own, the command `controlarm watch`; its
processor seconds are the kernel's, from the first update that all viewers have had to the last.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe, load_average  # noqa: E402
from tests.fabricate import PROTOCOL, fabricate  # noqa: E402

VIEWERS = 20
STEPS = 120
STEP = 0.5
BAR = 0.05

TRIAL = (
    PROTOCOL.replace("pretraining_seeds = [1, 2, 3]\nseeds = [1, 2, 3]", "pretraining_seeds = [1, 2, 3, 4]\nseeds = [1, 2, 3, 4]")
    .replace("num_steps = 12", f"num_steps = {STEPS}").replace("steps = [0, 6, 12]", f"steps = [0, {STEPS // 2}, {STEPS}]")
    .replace("step = 12", f"step = {STEPS}").replace("rollouts_every = 6", "rollouts_every = 10")
)  # fmt: skip


def seconds_of(process: int) -> float:
    """Processor seconds of a process so far, its own and the kernel's for it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lay(source: Path, target: Path, step: int) -> None:
    """What a trial adds to its folder at a step: a line to each journal, evaluations and rollouts where there are any."""
    for journal in source.rglob("steps.jsonl"):
        line = journal.read_bytes().splitlines(keepends=True)[step - 1 : step]
        path = target / journal.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b"".join(line))
    for table in source.rglob(f"step-{step:06d}.parquet"):
        path = target / table.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table.read_bytes())


async def view(port: int, received: list[tuple[float, int]]) -> None:
    """Read updates for ever, as a browser does: when each came, and its bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    writer.write(f"GET /updates HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    while line := await reader.readline():
        if line.startswith(b"{"):
            received.append((time.monotonic(), len(line)))


async def play(source: Path, folder: Path, process: int, port: int) -> dict[str, Any]:
    """Let the trial grow under the viewers' eyes."""
    received: list[list[tuple[float, int]]] = [[] for _ in range(VIEWERS)]
    viewers = [asyncio.create_task(view(port, mine)) for mine in received]
    lay(source, folder, 0)
    lay(source, folder, 1)
    while not all(received):
        await asyncio.sleep(0.1)
    await asyncio.sleep(5)  # what it takes to draw everything for the first time
    began, before = time.monotonic(), seconds_of(process)
    start = [len(mine) for mine in received]
    for step in range(2, STEPS + 1):
        await asyncio.to_thread(lay, source, folder, step)
        await asyncio.sleep(max(0.0, began + (step - 1) * STEP - time.monotonic()))
    wall, spent = time.monotonic() - began, seconds_of(process) - before
    quiet_began, quiet_before = time.monotonic(), seconds_of(process)
    await asyncio.sleep(20)
    quiet = (seconds_of(process) - quiet_before) / (time.monotonic() - quiet_began)
    for task in viewers:
        task.cancel()
    mine = received[0][start[0] :]
    gaps = sorted(b - a for (a, _), (b, _) in pairwise(mine))
    return {
        "viewers": VIEWERS, "runs": 60, "steps": STEPS, "seconds_a_step": STEP, "wall_seconds": round(wall, 1),
        "share_of_a_core": round(spent / wall, 4), "share_of_a_core_afterwards": round(quiet, 4),
        "updates": len(mine), "median_seconds_between": round(gaps[len(gaps) // 2], 2) if gaps else None,
        "longest_seconds_between": round(gaps[-1], 2) if gaps else None,
        "kilobytes_a_viewer": round(sum(size for _, size in mine) / 1000),
    }  # fmt: skip


def main() -> None:
    """Fabricate, serve, watch, print."""
    with tempfile.TemporaryDirectory() as home:
        source, folder = Path(home, "source"), Path(home, "trial")
        fabricate(source, TRIAL)
        folder.mkdir()
        for name in ("protocol.toml", "environment.json", "problems.parquet", "plan.json"):
            (folder / name).write_bytes((source / name).read_bytes())
        command = [sys.executable, "-m", "controlarm", "watch", str(folder), "--port", "0"]
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert server.stdout is not None
        found = re.search(r":(\d+)/", server.stdout.readline())
        assert found
        try:
            measured = asyncio.run(play(source, folder, server.pid, int(found[1])))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)
    result = {
        "machine": describe(),
        "load_average": load_average(),
        "measured": measured,
        "bar": BAR,
    }
    print(json.dumps(result, indent=1))
    if "--write" in sys.argv:
        path = ROOT / "benchmarks" / "results" / "watch.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if measured["share_of_a_core"] > BAR:
        sys.exit(f"{measured['share_of_a_core']:.1%} of a core; the bar is {BAR:.0%}")


if __name__ == "__main__":
    main()
