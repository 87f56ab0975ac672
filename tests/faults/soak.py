"""`make soak`: many kills, then the memory of long work; what is said goes to tests/faults/soak.log, too."""

import contextlib
import datetime
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controlarm import trial
from controlarm.engines import lockstep
from tests.faults import command, kills

SEED = 1
LOG = Path(__file__).with_name("soak.log")
STEPS = 10
"""Of the quick trial, which has thirty: as much memory in a third of the time."""
MOST_GROWTH = 0.05
"""After warm-up: the first third of the command's time, the first round of a worker."""
EVERY = {
    "preparation", "import", "labels", "sampling", "update", "journal write", "checkpoint write", "evaluation",
    "analysis", "report", "report write",
}  # fmt: skip
"""Stages in which fifty kills must have landed."""

Say = Callable[[str], None]


def kill(place: Path, num_kills: int, say: Say) -> None:
    """Kills at seeded instants, until as many have landed as were asked for."""
    command.make_place(place)
    began = time.monotonic()
    undisturbed = command.whole(place, "undisturbed", workers=1)
    seconds = time.monotonic() - began
    say(f"an undisturbed trial takes {seconds:.0f} s")
    landed = kills.run(place, undisturbed, seconds, num_kills, SEED, say)
    say(f"{num_kills} kills landed in: {', '.join(sorted(landed))}")
    if num_kills >= 50:
        assert landed >= EVERY, f"no kill landed in {EVERY - landed}"


def resident(pid: int) -> float:
    """Memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def shortened() -> str:
    """The quick trial in fewer steps."""
    text = (command.ROOT / "trials" / "quick.toml").read_text(encoding="utf-8")
    for old, new in (
        ("num_steps = 30", f"num_steps = {STEPS}"),
        ("steps = [0, 15, 30]", f"steps = [0, {STEPS}]"),
        ("\nstep = 30\n", f"\nstep = {STEPS}\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def memory_of_the_command(place: Path, say: Say) -> None:
    """What the command itself holds while its workers train."""
    log = place / "log"
    log.mkdir()
    env = {"PYTHONPATH": f"{command.AGENT}{os.pathsep}{command.ROOT}", "FAULT_LOG": str(log)}
    words = ["run", "quick.toml", "--workers", "2", "--device", "cpu"]
    with (place / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlarm", *words], cwd=place, env=os.environ | env, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    sizes = []
    while process.poll() is None:
        time.sleep(0.5)
        with contextlib.suppress(OSError):  # it has just begun, or ended
            if (log / str(process.pid)).read_text().strip() == "waiting for workers":
                sizes.append(resident(process.pid))
    assert process.returncode == 0, (place / "output").read_text()
    warm = len(sizes) // 3
    told = f"the command over a trial, {len(sizes)} samples"
    shown = " ".join(f"{size:.0f}" for size in sizes[:: max(1, len(sizes) // 24)])
    hold(told, shown, max(sizes[:warm]), max(sizes[warm:]), say)


def memory_of_a_worker(place: Path, num_rounds: int, say: Say) -> None:
    """What one process holds that trains all shards of a trial, again and again; the peak of each shard."""
    context = multiprocessing.get_context("spawn")
    peaks = context.Queue()
    worker = context.Process(target=_repeat, args=(place, num_rounds, peaks))
    worker.start()
    rounds: list[list[float]] = [peaks.get(timeout=1800) for _ in range(num_rounds)]
    worker.join()
    for number, of_round in enumerate(rounds, 1):
        say(
            f"round {number}, peak of each shard: {' '.join(f'{size:.0f}' for size in of_round)} MB"
        )
    later = max(size for of_round in rounds[1:] for size in of_round)
    hold("a worker over the same trial again", "as above", max(rounds[0]), later, say)


def _repeat(place: Path, num_rounds: int, peaks: Any) -> None:
    prepared = trial.prepare(place / "quick.toml", place / "repeated", "cpu")
    plan = trial.engine_plan(prepared)
    for _ in range(num_rounds):
        of_round = []
        for number in range(len(plan.shards)):
            sizes = [0.0]
            lockstep.run_shard(
                plan, number, lambda _, seen=sizes: seen.append(resident(os.getpid()))
            )
            of_round.append(max(sizes))
        peaks.put(of_round)
        for folder in prepared.folder.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)


def hold(name: str, shown: str, warm: float, later: float, say: Say) -> None:
    growth = later / warm - 1
    say(f"{name}: {shown} MB; {100 * growth:+.1f} % after warm-up")
    assert growth <= MOST_GROWTH, f"{name}: from {warm:.0f} to {later:.0f} MB"


def main() -> None:
    """``python -m tests.faults.soak KILLS ROUNDS``."""
    num_kills, num_rounds = map(int, sys.argv[1:])
    facts = trial.environment("cpu")
    with LOG.open("w") as log:

        def say(text: str) -> None:
            for stream in (log, sys.stdout):
                print(text, file=stream, flush=True)

        began = time.monotonic()
        now = datetime.datetime.now(datetime.UTC)
        say(
            f"{now:%Y-%m-%d %H:%M} UTC, seed {SEED}, {num_kills} kills, then the memory of {num_rounds} rounds"
        )
        say(", ".join(f"{name} {facts[name]}" for name in ("controlarm", "processor", "cores", "platform", "python", "torch")))  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            try:
                kill(Path(folder) / "kills", num_kills, say)
                place = Path(folder) / "memory"
                place.mkdir()
                (place / "quick.toml").write_text(shortened(), encoding="utf-8")
                memory_of_the_command(place, say)
                memory_of_a_worker(place, num_rounds, say)
            except AssertionError as error:
                say(f"FAILED: {error}")
                raise
        say(f"all held; {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
