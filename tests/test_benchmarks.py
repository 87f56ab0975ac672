"""Benchmarks of speed count what is computed, measure what they say, and run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    audit,
    ceiling,
    contamination,
    flops,
    generation,
    gpu,
    growth,
    harness,
    lockstep_gain,
    overhead,
    scale,
)
from benchmarks.workload import Workload, make, weights_of
from controlarm.advantages import group_relative
from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Shape, rotary
from controlarm.packing import Layout, pack
from controlarm.sampling import TILE, decode_step
from controlarm.update import PASS, Batch, compute_weights, losses, terms_of, trees_of

SHAPE = Shape(hidden=48, layers=2, heads=3, inner=80)
RUNS, LENGTH = 2, 128


def counted(function):
    """Operations of the products that torch sees."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def small(texts="distinct", **changes):
    work = Workload(runs=RUNS, prompts=2, group=4, tokens=6, texts=texts, compiled=False)
    return work._replace(shape=tuple(SHAPE), **changes)


def rollouts(step):
    """Prompts and completions as the training loop flattens them."""
    completions = step.decode().tokens
    prompts = step.asked.tokens[:, :, None].expand(-1, -1, completions.shape[2], -1)
    return prompts.flatten(1, 2), completions.flatten(1, 2)


def test_operations_of_an_update_are_those_that_torch_counts():
    step = make(small())
    prompts, completions = rollouts(step)
    gains = group_relative(step.rewards).reshape(completions.shape[:2])
    trees = trees_of(prompts, completions, gains != 0, SHAPE)
    old = torch.zeros(completions.shape)
    batch = Batch(trees, completions, torch.tensor(True), old, gains[..., None])
    one = next(trees.passes())
    terms = terms_of(batch, step.settings.recipe, step.state.active)
    compute = compute_weights(step.state.weights, step.settings.recipe)

    def one_pass():
        own = {name: w.requires_grad_() for name, w in one.weights(compute).items()}
        found = losses(
            own, one.part, terms.part(one.at), batch.on_policy, step.settings.recipe, SHAPE
        )
        found.loss.sum().backward()

    nodes = PASS * LENGTH
    formula = flops.forward(SHAPE, nodes, nodes * LENGTH) + flops.backward(
        SHAPE, nodes, nodes * LENGTH
    )
    assert counted(one_pass) == formula
    products = flops.update_products(SHAPE, trees.layout)
    assert sum(one.operations for one in products) == formula


def test_operations_of_decoding_are_those_that_torch_counts_and_attention():
    rows, length = 5, 9
    work = small(precision="float32")
    shape = (RUNS, rows, SHAPE.heads)
    keys = [torch.zeros(*shape, SHAPE.head, length) for _ in range(SHAPE.layers)]
    values = [torch.zeros(*shape, length, SHAPE.head) for _ in range(SHAPE.layers)]
    tokens = torch.full((RUNS, rows), 2)
    cos, sin = rotary(torch.tensor([4]), SHAPE.head)

    def one_pass():
        decode_step(
            weights_of(work, RUNS), keys, values, tokens, torch.zeros_like(tokens),
            torch.tensor([4]), cos, sin, SHAPE,
        )  # fmt: skip

    products = flops.decode_products(SHAPE, RUNS, rows)
    found = counted(one_pass)
    assert found == flops.forward(SHAPE, RUNS * rows, 0)
    assert found == sum(one.operations for one in products)
    attention = RUNS * rows * length * SHAPE.layers * SHAPE.heads * SHAPE.head * 2 * 2
    assert flops.forward(SHAPE, RUNS * rows, RUNS * rows * length) == found + attention


def test_parameters_are_those_of_the_weights():
    weights = weights_of(small(), 1)
    assert flops.num_parameters(SHAPE) == sum(w.numel() for w in weights.values())


def test_prefixes_are_counted_once_in_each_run():
    prompts = torch.tensor([[[PAD, 5], [PAD, 5], [6, 5]]]).repeat(2, 1, 1)
    completions = torch.tensor([[[7, PAD], [7, 8], [7, PAD]]]).repeat(2, 1, 1)
    # 5, 57, 578, and 6, 65, 657
    assert flops.prefixes(prompts, completions) == (2 * 6, 2 * (1 + 2 + 3) * 2)
    assert flops.distinct_share(completions[:, None].numpy()) == 2 / 4


@pytest.mark.parametrize("texts", ["distinct", "alike", "organism"])
def test_prefixes_are_the_nodes_of_one_large_tree(texts):
    shape = Shape() if texts == "organism" else SHAPE
    prompts, completions = rollouts(make(small(texts, tokens=32)._replace(shape=tuple(shape))))
    length = prompts.shape[1] * (prompts.shape[2] + completions.shape[2])
    everyone = np.ones(prompts.shape[:2], dtype=bool)
    trees = pack(prompts, completions, everyone, Layout(1, 1, length), shape)
    assert flops.prefixes(prompts, completions).nodes == (trees.nodes.tokens != PAD).sum()


def test_texts_share_what_their_name_says():
    shares, lengths = {}, {}
    for texts in ("distinct", "alike", "organism"):
        shape = Shape() if texts == "organism" else SHAPE
        work = small(texts, group=8, tokens=32)._replace(shape=tuple(shape))
        tokens = make(work).decode().tokens
        shares[texts] = flops.distinct_share(tokens.numpy())
        lengths[texts] = (tokens != PAD).sum(-1)
    assert shares["distinct"] > 0.97
    assert shares["alike"] == pytest.approx(0.25, abs=0.01)
    assert 0.1 < shares["organism"] < 0.5
    assert (lengths["distinct"] == 32).all() and (lengths["alike"] == 32).all()
    assert (lengths["organism"] < 32).any()


def test_the_same_work_at_every_repeat():
    step = make(small())
    before = step.decode()
    for _ in range(3):
        step.learn(step.decode())
    assert torch.equal(step.decode().tokens, before.tokens)


def test_a_slope_is_the_exponent():
    assert growth.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def timed(runs, tile, decode, learn, compiling):
    part = {
        "texts": "organism",
        "distinct_share": 0.2,
        "seconds": {"decode": {"median": decode}, "learn": {"median": learn}},
    }
    parts = [part, part | {"texts": "distinct"}]
    return {
        "runs": runs, "tile": tile, "pass": PASS, "compile_seconds": compiling, "rows": parts,
    }  # fmt: skip


def test_runs_together_are_held_against_a_single_run_at_its_best():
    rows = [
        timed(1, 2 * TILE, 2.0, 9.0, 40.0),
        timed(1, TILE, 4.0, 6.0, 30.0),
        timed(2, TILE, 1.0, 6.0, 50.0),
    ]
    single, both = [row for row in lockstep_gain.gains(rows) if row["texts"] == "organism"]
    assert single["share"] == {"decode": 2.0, "learn": 1.0}
    assert both["share"] == {"decode": 0.5, "learn": 1.0}
    steps = lockstep_gain.STEPS
    together, apart = 50 + steps * 2 * 7, 30 + steps * 2 * 8
    assert both["share_with_compilation"] == pytest.approx(together / apart)


def test_a_grid_is_extrapolated_from_steps_of_all_its_runs_and_says_so():
    each = {"median": 0.5, "each": [0.25, 0.75]}
    row = {
        "runs": 10, "compile_seconds": 60.0, "peer": {"seconds": {"decode": each, "learn": each}},
        "rows": [{"texts": "distinct", "seconds": {"decode": each, "learn": each}}],
    }  # fmt: skip
    (one,) = gpu.whole([row], 10, 2)
    assert one["seconds"] == 60 + 10 * 300
    assert one["Hugging Face"] == 10 * 300
    assert one["how"] == "extrapolated from 2 steps"


def run(benchmark, monkeypatch, tmp_path, *more):
    log = tmp_path / "benchmark.log"
    monkeypatch.setattr(sys, "argv", ["benchmark", "--log", str(log), *more])
    main = getattr(benchmark, "main", None)
    made = harness.parser(benchmark.__doc__)
    name = benchmark.__name__.rpartition(".")[2]
    code = main() if main else harness.conduct(made, name, benchmark.measure, benchmark.table)
    found = log.with_suffix(".json")
    return code, json.loads(found.read_text()) if found.exists() else None


@pytest.mark.parametrize(
    ("benchmark", "more", "said"),
    [
        pytest.param(ceiling, [], "| smoke | distinct | update |", marks=pytest.mark.slow),
        pytest.param(lockstep_gain, [], "| distinct | 2 | ", marks=pytest.mark.slow),
        pytest.param(growth, [], "| samples a prompt | distinct | learn |", marks=pytest.mark.slow),
        pytest.param(overhead, [], "| evaluation |", marks=pytest.mark.slow),
        pytest.param(contamination, [], "| rote | 24 of 24 |", marks=pytest.mark.slow),
        (audit, [], "| two evaluations | 2,000 |"),
        pytest.param(generation, [], "| backend | 64 | 4 |", marks=pytest.mark.slow),
        pytest.param(scale, [], "| 42 | 220 |", marks=pytest.mark.slow),
        pytest.param(gpu, ["--device", "cpu"], "| 1 | Hugging Face |", marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_runs_in_its_quick_form(benchmark, more, said, monkeypatch, tmp_path, capsys):
    if benchmark in (gpu, generation):
        pytest.importorskip("transformers")
    code, found = run(benchmark, monkeypatch, tmp_path, "--quick", *more)
    output = capsys.readouterr()
    assert code == 0, output.err
    assert said in output.out
    assert found and found["machine"]["torch"] and found["rows"]


def test_what_is_told_of_the_audits_cost_was_measured_and_keeps_its_bounds():
    root = Path(__file__).parents[1]
    found = json.loads((root / "benchmarks/results/audit.json").read_text(encoding="utf-8"))
    assert audit.table(found) in (root / "docs/audit.md").read_text(encoding="utf-8")
    for row in found["rows"]:
        assert row["rollouts"] == audit.ROLLOUTS
        # The clock depends on who else is on the machine; what the processes took together does not.
        assert row["processor"] <= audit.BOUNDS["wall"]
        assert row["peak_bytes"] <= audit.BOUNDS["bytes"]


def test_a_quick_run_is_never_kept(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(ceiling, monkeypatch, tmp_path, "--quick", "--write")
    assert "drop one of the two" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_gpu_benchmark_says_in_one_line_that_there_is_no_gpu(monkeypatch, tmp_path, capsys):
    code, _ = run(gpu, monkeypatch, tmp_path)
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
