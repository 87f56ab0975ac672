"""What one step of a workload costs: decoding, learning, compilation, memory; and how near the products come to their ceiling.

Run by the benchmarks: python -m benchmarks.measure_step RESULT.json REQUEST, where the request is a ``Request`` as JSON.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

import controlarm.train
from benchmarks import flops, harness
from benchmarks.flops import Product
from benchmarks.measured import Clock, compile_seconds
from benchmarks.peer import Peer
from benchmarks.workload import PROMPT_LENGTH, Step, Workload, kept, make, weights_of
from controlarm import sampling, seeds, update
from controlarm.packing import Trees
from controlarm.sampling import Completions
from controlarm.update import DTYPES

PARTS = {"trees_of": "packing", "look": "scoring", "update": "update"}
"""Functions of the training loop that are timed apart within learning."""


class Request(NamedTuple):
    """What to measure in one process."""

    workload: dict[str, Any]
    """Fields of ``Workload`` but texts."""
    texts: list[str]
    """Measured one after another with one compiled program; memory is the peak so far, so the least demanding come first."""
    repeats: int
    """0 only compiles."""
    warm_up: int = 1
    ceiling: bool = False
    peer: bool = False
    peer_repeats: int = 2
    tile: int = sampling.TILE
    rows: int = update.PASS

    def ask(self, folder: Path, log: Path, compiled: Path | None = None) -> dict[str, Any]:
        """The answer of a process of its own."""
        folder.mkdir(exist_ok=True)
        return harness.child("measure_step", [json.dumps(self._asdict())], folder, log, compiled)


def compile_all(
    requests: Sequence[Request], folder: Path, log: Path, places: Sequence[Path]
) -> list[dict[str, Any]]:
    """Compile what each request needs into its folder, as many at once as there are cores, so that measuring need not wait."""

    def one(number: int) -> dict[str, Any]:
        request = requests[number]._replace(repeats=0)
        return request.ask(folder / f"compile-{number}", log, places[number])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, range(len(requests))))


def now(device: str) -> float:
    """Processor seconds of this process; on another device, wall seconds once it has done all that it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_megabytes(device: str) -> float:
    """Most memory held so far: resident on the CPU, allocated on another device."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return torch.cuda.max_memory_allocated() / 1e6


def spread(each: list[float], runs: int) -> dict[str, Any]:
    """Median and every value, of one run."""
    own = [x / runs for x in each]
    return {"median": statistics.median(own), "each": own}


def measure_texts(step: Step, clock: Clock, request: Request) -> dict[str, Any]:
    """Repeat one workload's step; seconds are of one run and step."""
    work = step.workload
    started = time.perf_counter()
    times: dict[str, list[float]] = {name: [] for name in ("decode", "learn", *PARTS.values())}
    for _ in range(request.warm_up):
        step.learn(step.decode())
    warm_up = time.perf_counter() - started
    completions = step.decode()
    for _ in range(request.repeats):
        clock.spent.clear()
        marks = [now(work.device)]
        completions = step.decode()
        marks.append(now(work.device))
        step.learn(completions)
        marks.append(now(work.device))
        for name, a, b in zip(("decode", "learn"), marks, marks[1:], strict=False):
            times[name].append(b - a)
        for name in PARTS.values():
            times[name].append(clock.spent[name])
    tokens = completions.tokens.cpu()
    return {
        "texts": work.texts,
        "runs": work.runs,
        "parameters": flops.num_parameters(work.sizes),
        "seconds": {name: spread(each, work.runs) for name, each in times.items()},
        "distinct_share": flops.distinct_share(tokens.numpy()),
        "tokens_per_rollout": (tokens != 0).sum().item() / tokens[..., 0].numel(),
        "warm_up_seconds": warm_up,
        "peak_megabytes": peak_megabytes(work.device),
        "flops": count(step, completions),
    }


def count(step: Step, completions: Completions) -> dict[str, dict[str, float]]:
    """Operations of one run and step, computed and useful, of decoding, scoring and the updates."""
    work, shape = step.workload, step.workload.sizes
    with ExitStack() as stack:
        extended = stack.enter_context(kept(sampling, "extend"))
        packed = stack.enter_context(kept(controlarm.train, "trees_of"))
        step.decode()
        step.learn(completions)
    length = PROMPT_LENGTH + work.tokens
    rows = sum(one.tiles for one in extended) * sampling.TILE * work.runs
    asked = step.asked.tokens
    prefill = work.runs * (work.prompts + -work.prompts % sampling.PREFILL) * PROMPT_LENGTH
    decoded = flops.forward(shape, rows, rows * length) + flops.embedding(shape, prefill)
    decoded += flops.body(shape, prefill, prefill * PROMPT_LENGTH)
    decoded += flops.logits(shape, work.runs * work.prompts)

    prompts = asked[:, :, None].expand(-1, -1, work.group, -1).flatten(1, 2)
    tokens = completions.tokens.flatten(1, 2)
    trained, passed = zip(*map(computed, packed), strict=True)
    size = tokens.shape[1] // work.updates
    needed = [
        flops.prefixes(prompts[:, i : i + size], tokens[:, i : i + size])
        for i in range(0, tokens.shape[1], size)
    ]
    useful = [flops.body(shape, *p) + flops.logits(shape, p.nodes) for p in needed]
    forwards = [flops.forward(shape, *one) for one in passed]
    backwards = [flops.backward(shape, *one) for one in trained]
    spoken = flops.prefixes(prompts, tokens)
    found = {
        "decode": (decoded, flops.body(shape, *spoken) + flops.logits(shape, spoken.nodes)),
        "scoring": (sum(forwards[1:]), sum(useful[1:])),
        "update": (sum(forwards) + sum(backwards), 3 * sum(useful)),
    }
    return {
        name: {"computed": computed / work.runs, "useful": needed / work.runs}
        for name, (computed, needed) in found.items()
    }


def computed(trees: Trees) -> tuple[tuple[int, int], tuple[int, int]]:
    """Nodes, and places that they see in sum, of the passes that train and of all passes."""
    slots, rows, length = trees.layout
    trained = -(-trees.num_with_credit // slots) * slots
    nodes = [rows * length * n for n in (trained, len(trees.run))]
    return (nodes[0], nodes[0] * length), (nodes[1], nodes[1] * length)


def rate(one: Product, device: str, precision: str) -> float:
    """Operations a second of one product by itself, factors hot: the best of seven, so that the ceiling is high."""

    def factor(rows: int, columns: int, turned: bool) -> torch.Tensor:
        size = (one.batch, columns, rows) if turned else (one.batch, rows, columns)
        drawn = seeds.generator("benchmark-product", *size).standard_normal(size, dtype="float32")
        made = torch.from_numpy(drawn).to(device, DTYPES[precision])
        return made.transpose(1, 2) if turned else made

    left = factor(one.m, one.k, one.turned == "left")
    right = factor(one.k, one.n, one.turned == "right")
    single = one._replace(number=1).operations
    times = max(1, round(2e9 / single))

    def seconds() -> float:
        started = now(device)
        for _ in range(times):
            torch.bmm(left, right)
        return now(device) - started

    seconds()
    return single * times / min(seconds() for _ in range(7))


def ceiling(products: list[Product], device: str, precision: str) -> dict[str, Any]:
    """Rates of a pass's products by themselves, and of their mix: all operations over the time that they take apart."""
    merged: dict[Product, int] = {}
    for one in products:
        key = one._replace(number=1)
        merged[key] = merged.get(key, 0) + one.number
    rates = {key: rate(key, device, precision) for key in merged}
    operations = {key: key.operations * number for key, number in merged.items()}
    total = sum(operations.values())
    return {
        "mix": total / sum(operations[key] / rates[key] for key in merged),
        "best": max(rates.values()),
        "products": [
            {"product": str(key), "share": operations[key] / total, "rate": rates[key]}
            for key in merged
        ],
    }


def measure_peer(work: Workload, repeats: int, folder: Path) -> dict[str, Any]:
    """Hugging Face, one run, as many rollouts of the same length."""
    peer = Peer(weights_of(work, 1), work, folder)
    return {
        "seconds": {
            name: spread(each, 1)
            for name, each in peer.measure(lambda: now(work.device), repeats).items()
        }
    }


def measure(request: Request, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """All that was asked for."""
    sampling.TILE, update.PASS = request.tile, request.rows
    if not request.repeats:
        step = make(Workload(**request.workload, texts=request.texts[0]))
        step.learn(step.decode())
        return {"compile_seconds": compile_seconds()}
    clock = Clock()
    for function, part in PARTS.items():
        clock.timed(controlarm.train, function, part)
    rows = []
    for texts in request.texts:
        work = Workload(**request.workload, texts=texts)
        rows.append(measure_texts(make(work), clock, request))
        report(f"{texts}: {rows[-1]['seconds']}")
    found: dict[str, Any] = {"rows": rows, "compile_seconds": compile_seconds()}
    work = Workload(**request.workload, texts=request.texts[-1])
    longest = PROMPT_LENGTH + work.tokens
    if request.ceiling:
        arguments = (work.device, work.precision)
        update_mix = flops.update_products(work.sizes, update.layout_of(work.runs, longest))
        decode_mix = flops.decode_products(work.sizes, work.runs, sampling.TILE)
        found["ceiling"] = {
            "update": ceiling(update_mix, *arguments),
            "decode": ceiling(decode_mix, *arguments),
        }
    if request.peer:
        found["peer"] = measure_peer(work, request.peer_repeats, folder)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = Path(sys.argv[1])
    found = measure(Request(**json.loads(sys.argv[2])), result.with_suffix(""), print)
    result.write_text(json.dumps(found), encoding="utf-8")
