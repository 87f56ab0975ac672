"""Published trials say what their own data say, and the README says what they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from controlarm import archive, protocol
from controlarm.analysis.summary import summarise
from controlarm.report import as_json

ROOT = Path(__file__).parent.parent
RECORDS = sorted(path.parent for path in (ROOT / "records").glob("*/plan.json"))
WITH_REPORT = [path for path in RECORDS if (path / "report.json").exists()]
"""A record of replicates keeps verdicts instead; benchmarks/instrument.py reads them."""
SMALL = [path for path in WITH_REPORT if path.name.startswith("quick-")]
"""Of the others `make records` makes the report again, and the claims that rest on it: they are many, and large."""


@pytest.mark.parametrize("record", SMALL, ids=lambda path: path.name)
def test_a_record_rebuilds_to_the_report_beside_it(record: Path):
    assert as_json(summarise(record)) == (record / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_a_record_is_of_the_protocol_that_it_names(record: Path):
    plan = json.loads((record / "plan.json").read_text(encoding="utf-8"))
    trial = protocol.load(record / "protocol.toml")
    assert record.name == f"{trial.trial.name}-{plan['digest'][:8]}"
    assert protocol.digest(trial, plan["materials"]) == plan["digest"]


@pytest.mark.parametrize("record", WITH_REPORT, ids=lambda path: path.name)
def test_runs_of_a_record_that_had_no_gradient_have_a_ratio_of_one(record: Path):
    """Drift is of the weights, not of the programs that score them; with two updates a step, the second has old scores."""
    still = 0
    for grad_norm, ratio_max, approx_kl, weight_decay in journals(record):
        if not grad_norm.any() and not weight_decay.any():
            still += 1
            assert not ratio_max.any() and not approx_kl.any()
    assert still or "constant" not in protocol.load(record / "protocol.toml").arms


def journals(record: Path) -> list[tuple[np.ndarray, ...]]:
    """Gradient norm, largest log-ratio, approximate KL and weight decay of each run."""
    names = ("grad_norm", "ratio_max", "approx_kl", "weight_decay")
    if archive.is_archive(record):
        found = archive.journals(record, names).values()
    else:
        texts = [path.read_text(encoding="utf-8") for path in record.glob("*/*/*/steps.jsonl")]
        lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
        found = [{name: np.array([line[name] for line in run]) for name in names} for run in lines]
    return [tuple(columns[name] for name in names) for columns in found]


def test_the_readme_quotes_the_quick_record():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    record = next(path for path in RECORDS if path.name.startswith("quick-"))
    found = json.loads((record / "report.json").read_text(encoding="utf-8"))
    assert f"folder: runs/{record.name} (digest {found['trial']['digest'][:16]}…)" in readme
    for sentence in found["headline"]:
        assert sentence in readme


def test_the_readme_quotes_claim_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (page,) = (ROOT / "records").glob("*/CLAIM-01.json")
    assert json.loads(page.read_text(encoding="utf-8"))["claim"]["effect"] in readme
    assert f"records/{page.parent.name}/endpoint.svg" in readme


def test_the_readme_quotes_the_benchmark():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "benchmarks/results/vs_trl.json").read_text(encoding="utf-8"))
    assert f"costs {found['ratios']['quick trial']['bfloat16']:.3f} of" in readme
    worst = max(row["largest"] for row in found["gradient"].values())
    assert f"agree to {worst:.0e}" in readme
