"""Grading in this process: `python -m benchmarks.measure_grading RESULT.json WHO SOURCE`, WHO is referee or math-verify."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from controlarm import grading

DATA = Path(os.environ.get("CONTROLARM_DATA", Path(__file__).parents[2] / "shared" / "data"))
SOURCES = ("rho-math on MATH-500", "solutions of GSM8K", "cases of math-verify")


def samples(source: str) -> list[tuple[str, str]]:
    """Texts and gold answers, as they came."""
    if source == SOURCES[0]:
        rows = [json.loads(line) for path in sorted((DATA / "rho1").glob("*.jsonl")) for line in path.open()]  # fmt: skip
        return [(row["code"][0], row["answer"]) for row in rows]
    if source == SOURCES[1]:
        path = DATA / "grader" / "gsm8k_example_model_solutions.jsonl"
        return [
            (one["solution"], row["ground_truth"].rpartition("A:")[2].strip())
            for row in map(json.loads, path.open())
            for one in row.values() if isinstance(one, dict)
        ]  # fmt: skip
    rows = map(json.loads, (DATA / "grader" / "math_verify_tests.jsonl").open())
    return [(row["pred"], grading.extract(row["gold"]).answer or row["gold"]) for row in rows]


def pairs_of(given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Distinct pairs of gold answer and final answer."""
    found = dict.fromkeys((gold, grading.extract(text).answer) for text, gold in given)
    return [(gold, answer) for gold, answer in found if answer is not None]


def of_referee(given: list[tuple[str, str]]) -> dict[str, Any]:
    """One worker, which stands before the clock starts."""
    from controlarm.referee import Referee

    pairs = pairs_of(given)
    with Referee(workers=1) as referee:
        referee.equal("(x+1)^2", "x^2+2x+1")
        (worker,) = referee.processes
        wall, processor = time.perf_counter(), time.process_time() + spent_by(worker)
        verdicts = referee.decide(pairs)
        wall = time.perf_counter() - wall
        processor = time.process_time() + sum(map(spent_by, referee.processes)) - processor
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "verdicts.sqlite"
        with Referee(cache, workers=1) as referee:
            referee.grade(given)
        seen = time.perf_counter()
        with Referee(cache, workers=1) as referee:
            referee.grade(given)
        seen = time.perf_counter() - seen
    return {
        "samples": len(given),
        "pairs": len(pairs),
        "verdicts": [verdicts[pair] for pair in pairs],
        "wall": wall,
        "processor": processor,
        "seen_before": seen,
    }


def spent_by(process: int) -> float:
    """Processor seconds of another process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def of_math_verify(given: list[tuple[str, str]]) -> dict[str, Any]:
    """Its own functions with their own timeouts, both sides in boxes."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    parse("\\boxed{1}")
    pairs = pairs_of(given)
    wall, processor = time.perf_counter(), time.process_time()
    verdicts = [
        verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{said}}}")) for gold, said in pairs
    ]
    return {
        "verdicts": verdicts,
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
    }


def main() -> None:
    """Measure and write."""
    result, who, source = sys.argv[1:]
    given = samples(source)
    made = of_referee(given) if who == "referee" else of_math_verify(given)
    Path(result).write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
