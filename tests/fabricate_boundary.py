"""A small boundary trial with planted gains, and probes with planted numbers: what claims 5 and 8 are tested on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fabricate import PROTOCOL, Behaviour, fabricate

from claims.ledger import Record
from controlarm import files
from controlarm.probes import interference, perplexity, solutions, sparsity, temperature
from controlarm.protocol import runs

RECIPES = ("grpo", "dapo", "selective", "selective_kl")
SAMPLES, PROBED = 10, 4
"""Of the evaluation and of the probes, a problem."""

SLOPE, OTHERS, BASE_OTHERS, OWN = 0.5, -0.02, 0.01, 0.3
"""Planted under the truth: slope of winners, interference; the base's and the placebo's interference."""

UNCHANGED = {"float32": 0.25, "bfloat16": 0.75}

HEAD = PROTOCOL.split("[[controls]]", 1)[0]
TEXT = "\n".join(
    line for line in HEAD.splitlines() if "bungler" not in line and "talker" not in line
)
TEXT = TEXT.replace("prompts_per_step = 4\ngroup_size = 8", "prompts_per_step = 2\ngroup_size = 4")
_RECIPE = TEXT[TEXT.index("[recipes.grpo]") : TEXT.index("[arms]")]
for large, small in (
    ('"fabricated"', '"boundary"'),
    ("num_steps = 12", "num_steps = 2"),
    ("num_problems = 24\nsamples = 8", f"num_problems = 8\nsamples = {SAMPLES}"),
    ("steps = [0, 6, 12]", "steps = [0, 2]"),
    ("step = 12", "step = 2"),
    ("[1, 2, 4, 8]", f"[1, 2, {SAMPLES}]"),
    ("num_problems = 40", 'pairing = "paired"\nnum_problems = 8'),
    ('  {family = "coder", arm = "python"},\n', ""),
    ("majority = {}\npython = {}\n", ""),
    ("constant = {}\n", ""),
    (_RECIPE, "".join(_RECIPE.replace("grpo", recipe) for recipe in RECIPES)),
):  # fmt: skip
    TEXT = TEXT.replace(large, small)
TEXT = TEXT.replace("[design]\n", '[design]\nfamilies = ["coder"]\n')
TEXT += f"\n[probes]\nnum_problems = 8\nsamples = {PROBED}\n"

TALKER = TEXT.replace('"boundary"', '"boundary_talker"').replace('"coder"', '"talker"')
"""The second trial's protocol."""

GAINS = Behaviour(1.0, 0.95, 0.9, 1.0, 1.0)


def boundary(folder: Path, text: str = TEXT) -> Record:
    """Fabricate the run folder."""
    family = "talker" if text == TALKER else "coder"
    plan = fabricate(folder, text, {(family, "ground_truth"): GAINS})
    ids = [
        row["id"]
        for row in files.read_table(folder / "problems.parquet", None).to_pylist()
        if row["split"] == "held_out"
    ]
    for spec in runs(plan):
        taught = spec.arm == "ground_truth"
        home = folder / spec.path / "probes"
        files.write_table(home / "perplexity.parquet", perplexities(ids, 1.5 if taught else 2.0))
        files.write_table(home / "temperature.parquet", temperatures(ids, 3 if taught else 2))
        files.write_table(home / "solutions.parquet", right_solutions(ids, SLOPE * taught))
        files.write_table(home / "interference.parquet", matrix(ids[1:6], OTHERS if taught else BASE_OTHERS))  # fmt: skip
        files.write_table(home / "sparsity.parquet", unchanged())
    for seed in plan.design.pretraining_seeds:
        home = folder / f"bases/{family}-p{seed}/probes"
        files.write_table(home / "perplexity.parquet", perplexities(ids, 2.0))
        files.write_table(home / "interference.parquet", matrix(ids[:5], BASE_OTHERS))
    return Record(folder)


def perplexities(ids: list[str], under_base: float) -> pa.Table:
    rows = [
        {
            "problem_id": i, "source": "sampled", "sample": s, "text": "", "strict": "right", "lenient": "right", "has_python": True,
            "num_tokens": 3, "num_answer_tokens": 1, "ppl_policy": 1.2, "ppl_base": under_base, "answer_ppl_policy": 1.0, "answer_ppl_base": 1.0,
        }
        for i in ids for s in range(PROBED)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=perplexity.SCHEMA)


def temperatures(ids: list[str], right: int) -> pa.Table:
    counts = dict.fromkeys(("lenient_right", "derived", "boxed", "code"), right)
    counts |= dict.fromkeys(("unknown", "lenient_unknown", "truncated"), 0)
    greedy = {f"greedy_{key}": True for key in ("right", "lenient_right", "boxed", "code")}
    facts = {"temperature": 1.25, "entropy": 0.4, "policy_entropy": 0.3, "base_entropy": 0.4}
    rows = [{"problem_id": i, "samples": PROBED, "right": right, **facts, **counts, **greedy} for i in ids]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=temperature.SCHEMA)


def right_solutions(ids: list[str], slope: float) -> pa.Table:
    rows = [
        {
            "problem_id": i, "source": source, "solutions": 1, "logp_base": -1.0 - n - (source == "words"),
            "logp_policy": (1 + slope) * (-1.0 - n - (source == "words")), "samples": PROBED, "right": 2, "base_right": n % 2, "solvable": True,
        }
        for source in ("policy", "base", "code", "words") for n, i in enumerate(ids)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=solutions.SCHEMA)


def matrix(learners: list[str], others: float) -> pa.Table:
    """Two teachers, the middle ones of the learners."""
    rows = [
        {
            "teacher": t, "learner": i, "delta": OWN if t == i else others, "logp": -1.0, "solvable": True, "source": "policy",
            "grad_norm": 1.0, "step_length": 0.01,
        }
        for t in learners[2:4] for i in learners
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=interference.SCHEMA)
    return table.replace_schema_metadata({"mixed": "2", "problems": str(len(learners))})


def unchanged() -> pa.Table:
    rows = [
        {
            "matrix": m, "precision": p, "tolerance": t, "size": 100, "unchanged": round(100 * share) if t == 0 else 100,
            "update_norm": 1.0, "norm": 2.0, "effective_rank": 3.0, "full_rank": 4,
        }
        for m in ("embed", "0.q") for p, share in UNCHANGED.items() for t in sparsity.TOLERANCES
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=sparsity.SCHEMA)


def by_hand(record: Record, recipe: str, arm: str, notion: str) -> np.ndarray:
    """Successes [unit, problem, sample], read from the evaluations without the analysis."""
    step = 0 if arm == "base" else 2
    found = []
    for run in record.trial.runs:
        if run.spec.recipe == recipe and run.spec.arm == ("random" if arm == "base" else arm):
            path = record.path / run.spec.path / f"evaluations/step-{step:06d}.parquet"
            rows = files.read_table(path, None).filter(pc.field("decoding") == "sampled").to_pylist()  # fmt: skip
            good = [r["strict"] == "right" if notion == "answer" else r["derived"] is True for r in rows]  # fmt: skip
            found.append(np.array(good).reshape(-1, SAMPLES))
    return np.array(found)
