"""How benchmarks of speed run: each measurement in a process of its own, one table, one file of results."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]


class ChildFailedError(RuntimeError):
    """A measurement did not finish; the message says where its output is."""


def child(
    module: str, arguments: list[str], folder: Path, log: Path, compiled: Path | None = None
) -> dict[str, Any]:
    """Run a measurement in a process of its own and read its result; its chatter goes to the log.

    Args:
        module: of this package; it is called with the result's path and the arguments.
        arguments: its command line.
        folder: where it runs; its result and a folder of the same name are made there.
        log: appended to.
        compiled: folder of compiled programs that measurements may share; by default it compiles all anew.

    Raises:
        ChildFailedError: it ended without a result.
    """
    result = folder / f"{module}.json"
    result.unlink(missing_ok=True)
    shutil.rmtree(result.with_suffix(""), ignore_errors=True)
    result.with_suffix("").mkdir()
    surroundings = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(compiled or result.with_suffix("") / "compiled"),
    }
    with log.open("a", encoding="utf-8") as file:
        print(f"\n--- {module} {' '.join(arguments)}", file=file, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", str(result), *arguments],
            cwd=folder, env=surroundings, stdout=file, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode or not result.exists():
        last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
        raise ChildFailedError(
            f"{module} {' '.join(arguments)} ended with exit code {done.returncode}; all of its output is in "
            f"{log}, which ends:\n{last}"
        )
    return json.loads(result.read_text(encoding="utf-8"))


def measured(what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A measurement's result with the load and the seconds it took; says that it is done."""
    before, started = machine.load_average(), time.perf_counter()
    found = measure()
    seconds = time.perf_counter() - started
    print(f"measured: {what} ({seconds:.0f} s)", file=sys.stderr)
    return found | {"load_average": [before, machine.load_average()], "seconds": seconds}


def heading() -> dict[str, Any]:
    """What every file of results begins with."""
    return {
        "version": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine.describe(),
        "threads": 1,
    }


def said(found: dict[str, Any]) -> str:
    """The heading in words, with the highest load of any measurement."""
    facts = found["machine"]
    loads = [x[0] for row in found["rows"] for x in row["load_average"]]
    return (
        f"{facts['processor']}, {facts['cores']} cores, one thread a process; torch {facts['torch']}; {found['date']}; "
        f"load at most {max(loads):.1f}."
    )


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table whose columns are numbers, but for those whose name ends in a colon."""
    rule = ["---" if name.endswith(":") else "--:" for name in columns]
    lines = [[name.removesuffix(":") for name in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="a smoke run; its timings mean nothing")
    made.add_argument("--write", action="store_true", help="keep it in benchmarks/results")
    made.add_argument("--log", type=Path, help="output of the measurements; runs/NAME.log")
    return made


def conduct(
    made: argparse.ArgumentParser,
    name: str,
    measure: Callable[[argparse.Namespace, Path, Path], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> int:
    """Measure, print the table, and keep what was asked for; returns the exit code.

    Args:
        made: from ``parser``, with what the benchmark adds.
        name: of the benchmark: names its log and its results.
        measure: (options, empty folder, log) → the form of the results file.
        table: the results as Markdown.
    """
    chosen = made.parse_args()
    if chosen.write and chosen.quick:
        made.error("--write keeps measurements, and --quick makes none; drop one of the two")
    log = (chosen.log or ROOT / "runs" / f"{name}.log").resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    try:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            found = measure(chosen, Path(folder), log)
    except (ValueError, OSError, ChildFailedError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    text = json.dumps(found, indent=1)
    log.with_suffix(".json").write_text(text, encoding="utf-8")
    print(table(found))
    if chosen.write:
        results = ROOT / "benchmarks" / "results" / f"{name}.json"
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(text + "\n", encoding="utf-8")
    return 0
