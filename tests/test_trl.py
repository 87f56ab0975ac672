"""The engine trl on exported organisms: the same trial as the engine lockstep's, number by number."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_trial import RECIPE, Small, prepare, protocol_text

pytest.importorskip("trl")

from controlarm import report, trial
from controlarm.analysis import summary
from controlarm.engines import lockstep, trl
from controlarm.protocol import runs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own

ARMS = """
[arms.shuffled]
[arms.incorrect]
"""


def text(engine: str, arms: str = "", recipe: str = "", **more: str) -> str:
    """The smallest trial under an engine, in float32: bfloat16 rounds differently in each."""
    whole = RECIPE + 'precision = "float32"\n' + recipe
    made = protocol_text(arms, recipe=whole, **more)
    return made.replace(
        'question = "Does it run?"', f'question = "Does it run?"\nengine = "{engine}"'
    )


def train(small: Small) -> Small:
    """Every run to its end, by the engine that the protocol names."""
    for number in range(len(small.plan.shards)):
        trial.ENGINES[small.protocol.trial.engine](small.plan, number, lambda report: None)
    return small


def journal(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def rows(folder: Path, kind: str, step: int) -> list[dict]:
    return pq.read_table(folder / kind / f"step-{step:06d}.parquet").to_pylist()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, Small]:
    """One trial under each engine."""
    return {
        engine: train(prepare(tmp_path_factory.mktemp(engine), text(engine, ARMS)))
        for engine in ("lockstep", "trl")
    }


NEAR = {"ratio_max": 1e-3, "sampler_gap_max": 1e-4, "sampler_gap_mean": 1e-5}
"""Numbers that are the rounding itself, or its largest effect on a token."""


@pytest.mark.parametrize("arm", ["ground_truth", "placebo", "shuffled", "incorrect"])
def test_both_engines_say_pay_and_learn_the_same(both, arm):
    ours, theirs = (both[engine].run(arm) for engine in ("lockstep", "trl"))
    for one, other in zip(journal(ours), journal(theirs), strict=True):
        assert set(one) == set(other)
        for name in set(one) - {"seal"}:
            if one[name] is None:
                assert other[name] is None, name
            else:
                assert other[name] == pytest.approx(
                    one[name], rel=1e-3, abs=NEAR.get(name, 1e-5)
                ), name
    for kind, step in (("rollouts", 1), ("rollouts", 3), ("evaluations", 0), ("evaluations", 3)):
        for one, other in zip(rows(ours, kind, step), rows(theirs, kind, step), strict=True):
            assert set(one) == set(other)
            for name, value in one.items():
                if name in ("logprob", "logprobs", "entropy", "advantage"):
                    assert np.allclose(value, other[name], atol=1e-3), name
                else:
                    assert value == other[name], name


def test_something_was_learnt_at_all(both):
    folder = both["trl"].run("ground_truth")
    assert any(line["grad_norm"] > 0 for line in journal(folder))
    hashes = [
        pq.read_schema(folder / "evaluations" / f"step-{step:06d}.parquet").metadata[
            b"weights_sha256"
        ]
        for step in (0, 2, 3)
    ]
    assert len(set(hashes)) == 3


def test_its_folder_makes_the_same_report(both):
    pages = []
    for small in both.values():
        found = summary.summarise(small.folder)
        assert report.write(small.folder, found).exists()
        pages.append({key for key, value in found.items() if value})
    assert pages[0] == pages[1]


def test_labels_are_those_of_lockstep(both):
    one, other = (pq.read_table(both[e].folder / "labels" / "coder-p1.parquet") for e in both)
    assert one.to_pylist() == other.to_pylist()


def test_a_finished_run_leaves_a_model_for_others_and_nothing_to_resume(both):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = both["trl"].run("placebo")
    AutoModelForCausalLM.from_pretrained(folder / "model")
    assert AutoTokenizer.from_pretrained(folder / "model")("Ann has 3")["input_ids"]
    assert not (folder / "resume").exists()
    prepared = trial.prepare(
        both["trl"].folder.parents[1] / "trial.toml", both["trl"].folder.parent, "cpu"
    )
    assert trial.unfinished(prepared) == []


class Stopped(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("after", ["trained", "committed"])
def test_a_stopped_run_goes_on_to_the_same_bytes(both, tmp_path, after):
    whole = both["trl"]
    toml = text("trl", ARMS, more="[trl]\ncommit_every = 1\n")
    small = prepare(tmp_path, toml)
    number = next(i for i, run in enumerate(runs(small.protocol)) if run.arm == "shuffled")

    def stop(report):
        if report["stage"] == "trained" and report["step"] == (2 if after == "trained" else 3):
            raise Stopped

    with pytest.raises(Stopped):
        trl.run_shard(small.plan, number, stop)
    trl.run_shard(small.plan, number, lambda report: None)
    one, other = whole.run("shuffled"), small.run("shuffled")
    assert (one / "steps.jsonl").read_bytes() == (other / "steps.jsonl").read_bytes()
    for file in sorted(one.glob("*/*.*")):
        if file.suffix in (".parquet", ".safetensors"):
            assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file


def test_equal_rewards_leave_the_weights_alone(tmp_path):
    small = prepare(tmp_path, text("trl", "[arms.constant]\n"))
    number = next(i for i, run in enumerate(runs(small.protocol)) if run.arm == "constant")
    trl.run_shard(small.plan, number, lambda report: None)
    folder = small.run("constant")
    hashes = {
        pq.read_schema(path).metadata[b"weights_sha256"] for path in folder.glob("evaluations/*")
    }
    assert len(hashes) == 1
    assert [line["grad_norm"] for line in journal(folder)] == [0, 0, 0]


def test_rewards_that_fail_stop_the_run(tmp_path):
    arm = '[arms.broken]\nreward = "custom"\nfunction = "small_trial:fails"\n'
    small = prepare(tmp_path, text("trl", arm))
    number = next(i for i, run in enumerate(runs(small.protocol)) if run.arm == "broken")
    trl.run_shard(small.plan, number, lambda report: None)
    failed = json.loads((small.run("broken") / "failed.json").read_text())
    assert failed["step"] == 0
    assert "100% of the step's rewards failed" in failed["reason"]
    assert "no network" in failed["reason"]
    assert not (small.run("broken") / "model").exists()


def test_its_materials_name_the_engine(tmp_path):
    small = prepare(tmp_path, text("trl"))
    plan = json.loads((small.folder / "plan.json").read_text())
    assert plan["materials"]["engine"] == trl.VERSION != lockstep.VERSION
    assert plan["shards"] == [[0], [1]]
    environment = json.loads((small.folder / "environment.json").read_text())
    assert {"trl", "transformers", "accelerate"} <= set(environment)
