"""How long the audit of 100,000 rollouts takes, and how much memory: a training log of verl's form, and two evaluations.

    python benchmarks/audit.py            two audits of 100,000 rollouts each; some minutes with making them
    python benchmarks/audit.py --quick    does it work; its timings mean nothing
    python benchmarks/audit.py --write    also keep it as benchmarks/results/audit.json

Each audit runs in a process of its own, from the command line's own function to the written page; grading workers are counted in
time and memory. The rollouts are made here: distinct texts of some thousand characters, answers of many forms, some in other
words than the gold answer, one in twenty without any.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from controlarm import seeds

ROLLOUTS = 100_000
QUICK = 2_000
PROBLEMS = 500
SAMPLES = 8
"""Rollouts of a problem at a step."""
WRONG = 25
"""Wrong answers of a problem, besides small numbers; real logs of this size hold some ten to forty."""
LENGTH = 150
"""Words of a completion, about."""
BOUNDS = {"wall": 60.0, "bytes": 2 * 2**30}
"""What an audit of `ROLLOUTS` may take."""


FORMS = (
    "{a}", "{a}", "{a}", "\\frac{{{a}}}{{{b}}}", "{a}\\sqrt{{{b}}}", "({a},{c}]", "\\left( {a}, \\frac{{\\pi}}{{{b}}} \\right)", "{b}x^2+{a}x-{c}",
    "{a}.{b}", "\\text{{(B)}}",
)  # fmt: skip
"""What right answers of MATH look like: numbers, fractions, roots, intervals, tuples, polynomials, letters."""


def answers(rng: np.random.Generator, forms: np.ndarray) -> list[str]:
    """One answer of each form."""
    numbers = rng.integers(2, 50, (len(forms), 3))
    return [
        FORMS[f].format(a=a, b=b, c=a + c) for f, (a, b, c) in zip(forms, numbers.tolist(), strict=True)
    ]  # fmt: skip


def said(rng: np.random.Generator, gold: str, others: list[str], hit: float) -> str | None:
    """An answer: the gold one, it in other words, another, or none."""
    draw = rng.random()
    if draw < 0.05:
        return None
    if draw < 0.05 + hit:
        other = gold.replace("frac", "dfrac").replace(",", ", ") if rng.random() < 0.3 else gold
        single = not set("(x") & set(gold)  # nobody says that x is an interval
        return f"x = {other}" if single and rng.random() < 0.1 else other
    # Some wrong answers are much more frequent than others.
    wrong = others[int(len(others) * rng.random() ** 2)]
    return wrong if rng.random() < 0.8 else f"{rng.integers(1, 60)}"


def rollouts(name: str, num: int, hit: float, steps: bool) -> Iterator[dict[str, Any]]:
    """Rows in verl's form; with steps accuracy grows over them."""
    rng = seeds.generator("benchmark", "audit", name)
    shared = seeds.generator("benchmark", "audit", "problems")
    words = ["".join(map(chr, shared.integers(97, 123, n))) for n in shared.integers(2, 10, 3000)]
    forms = shared.integers(len(FORMS), size=PROBLEMS)
    right = answers(shared, forms)
    # Most wrong answers have the right one's form; one in five has another's.
    other = [
        np.where(shared.random(WRONG) < 0.8, f, shared.integers(len(FORMS), size=WRONG))
        for f in forms
    ]
    wrong = [answers(shared, own) for own in other]
    questions = [" ".join(words[i] for i in shared.integers(3000, size=40)) for _ in right]
    per_step = PROBLEMS // 5 * SAMPLES
    for i in range(num):
        step = i // per_step if steps else 0
        problem = int(i // SAMPLES % PROBLEMS)
        rate = min(0.9, hit + 0.3 * i / num) if steps else hit
        answer = said(rng, right[problem], wrong[problem], rate)
        picked = rng.integers(3000, size=rng.integers(LENGTH // 2, 3 * LENGTH // 2))
        text = " ".join(words[w] for w in picked)
        if rng.random() < 0.4:
            text = f"```python\nx = {i} # {i}\n```\n{text}"
        end = "" if answer is None else f" So the answer is $\\boxed{{{answer}}}$." if rng.random() < 0.8 else f" The answer is {answer}."  # fmt: skip
        yield {
            "input": f"user\n{questions[problem]}\nassistant\n", "output": text + end, "gts": right[problem],
            "score": float(answer == right[problem]), "step": step, "uid": f"{step}-{problem}",
        }  # fmt: skip


def write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write rows a line each; returns the bytes."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def measure(chosen: argparse.Namespace, folder: Path, log: Path) -> dict[str, Any]:
    """Both audits, in the form of the results file."""
    num = QUICK if chosen.quick else ROLLOUTS
    run = folder / "run.jsonl"
    pair = folder / "before.jsonl", folder / "after.jsonl"
    sizes = {
        "one training log": write(run, rollouts("run", num, 0.2, steps=True)),
        "two evaluations": sum(
            write(path, rollouts(path.stem, num // 2, hit, steps=False))
            for path, hit in zip(pair, (0.3, 0.5), strict=True)
        ),
    }
    logs = {"one training log": [run], "two evaluations": list(pair)}
    rows = [
        {"log": name, "rollouts": num, "bytes": sizes[name]}
        | harness.measured(name, lambda p=paths: harness.child("measure_audit", [str(x) for x in p], folder, log))
        for name, paths in logs.items()
    ]  # fmt: skip
    return harness.heading() | {"bounds": BOUNDS, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """One line an audit, and whether it kept the bounds."""
    lines = [
        [
            row["log"], f"{row['rollouts']:,}", f"{row['bytes'] / 1e6:.0f} MB", f"{row['pairs']:,}", f"{row['wall']:.1f}", f"{row['processor']:.1f}",
            f"{row['peak_bytes'] / 2**30:.2f}", f"{row['unknown']:,}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    columns = ["log:", "rollouts", "size", "distinct pairs judged", "seconds", "processor seconds", "peak GiB", "unknown"]  # fmt: skip
    bound = found["bounds"]

    def kept(what: str, most: float) -> str:
        return "kept" if all(row[what] <= most for row in found["rows"]) else "not kept"

    verdict = (
        f"Bound {bound['wall']:.0f} s: {kept('wall', bound['wall'])} by the clock, {kept('processor', bound['wall'])} in processor seconds of all its processes together "
        f"(what one free core would take); {bound['bytes'] / 2**30:.0f} GiB: {kept('peak_bytes', bound['bytes'])}."
    )
    return f"{harness.markdown(columns, lines)}\n\n{harness.said(found)} {verdict}"


if __name__ == "__main__":
    sys.exit(harness.conduct(harness.parser(__doc__), "audit", measure, table))
