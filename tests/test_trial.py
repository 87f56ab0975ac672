"""A trial's folder before and between runs: what is checked, what is part of its identity, what is kept of machines."""

import json
import re
from pathlib import Path

import pytest

from controlarm import protocol, trial
from controlarm.engines import lockstep
from controlarm.files import DamagedFileError, locked, read_json
from controlarm.organisms import catalogue, corpus
from controlarm.organisms.pretrain import FURTHER, Pretraining
from controlarm.problems import sets
from controlarm.records import Problem

SMOKE = Path(__file__).parent.parent / "trials" / "smoke.toml"


def written(tmp_path: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / "trial.toml"
    text = SMOKE.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(SMOKE.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_every_trial_of_the_repository_can_be_run(path, monkeypatch):
    """With the organisms that ship, or with those whose making the trial file tells; real problem sets are on a hub that no test asks."""
    fetched = sets.load
    monkeypatch.setattr(
        sets,
        "load",
        lambda spec, limit=None: (
            [Problem(id=f"{spec}{i}", text=f"{spec} {i}", answer="1") for i in range(limit or 1)]
            if spec in sets.CARDS
            else fetched(spec, limit)
        ),
    )
    made = re.findall(r"controlarm pretrain ([\w ]+?) --seeds", path.read_text(encoding="utf-8"))
    ours = {name for names in made for name in names.split()}
    found = [
        problem
        for problem in trial.check(protocol.load(path))
        if not any(f"no organism {name!r}" in problem for name in ours)
    ]
    assert found == [] and ours <= corpus.FAMILIES.keys()


@pytest.mark.parametrize("part", ["detectors", "engine", "grader", "problems", "templates"])
def test_the_digest_changes_with_every_versioned_part(part, monkeypatch):
    found = protocol.load(SMOKE)
    owner = {"detectors": trial.detectors, "engine": lockstep, "grader": trial.grading,
             "problems": trial.arithmetic, "templates": trial.prompts}[part]  # fmt: skip
    before = protocol.digest(found, trial.materials(found))
    monkeypatch.setattr(owner, "VERSION", "another")
    assert protocol.digest(found, trial.materials(found)) != before


def test_a_changed_byte_of_the_problems_is_found_wherever_it_is(tmp_path):
    prepared = trial.prepare(written(tmp_path), tmp_path / "runs", "cpu")
    path = prepared.folder / "problems.parquet"
    content = path.read_bytes()
    for at in range(0, len(content), 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DamagedFileError, match=r"problems\.parquet"):
            lockstep.read_problems(prepared.folder, prepared.plan["problems_sha256"])
    path.write_bytes(content)
    found = lockstep.read_problems(prepared.folder, prepared.plan["problems_sha256"])
    assert found["training"] == trial.training_problems(prepared.protocol)


def test_a_one_shot_problem_that_is_not_there_is_found_before_the_run(tmp_path):
    path = written(tmp_path, "constant = {}", 'constant = {}\none_shot = { problem = "nosuch" }')
    with pytest.raises(protocol.ProtocolError, match=r"arms\.one_shot\.problem: 'nosuch'"):
        trial.prepare(path, tmp_path / "runs", "cpu")


def test_no_arm_may_be_called_base(tmp_path):
    with pytest.raises(protocol.ProtocolError, match=r"arms\.base"):
        protocol.load(
            written(tmp_path, "constant = {}", 'base = { reward = "constant" }\nconstant = {}')
        )


def test_more_problems_than_there_are_is_refused(tmp_path):
    with pytest.raises(protocol.ProtocolError, match=r"design\.num_problems"):
        protocol.load(written(tmp_path, "num_problems = 12", "num_problems = 300000"))


def test_a_machine_that_continues_anothers_trial_is_kept_once(tmp_path, monkeypatch):
    prepared = trial.prepare(written(tmp_path), tmp_path / "runs", "cpu")
    monkeypatch.setattr(trial, "_train", lambda *_: None)
    path = prepared.folder / "environment.json"
    with locked(prepared.folder) as lock:
        trial.run(prepared, [0], 1, lambda _: None, lock)
        assert "continued" not in read_json(path)
        monkeypatch.setattr(trial, "_processor", lambda: "another processor")
        for _ in range(2):
            trial.run(prepared, [0], 1, lambda _: None, lock)
    (other,) = read_json(path)["continued"]
    assert other["processor"] == "another processor"


RELEASED = sorted(
    {path.stem.rpartition("-p")[0] for path in catalogue.SHIPPED.glob("*.safetensors")}
)


def test_released_families_are_mixtures_of_ours():
    assert {"coder", "talker", "bungler", "crammer"} <= set(RELEASED) <= corpus.FAMILIES.keys()


@pytest.mark.parametrize("family", RELEASED)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_released_organism_is_what_its_family_promises(family, seed):
    """The bands of the families' description; greedy, lenient where it is about what is known rather than boxed."""
    card = catalogue.card(family, seed)
    assert card is not None
    recipe = FURTHER if family in corpus.CONTINUES else Pretraining()
    assert card["recipe"] == json.loads(json.dumps(recipe._asdict()))
    assert corpus.Mixture(**card["mixture"]) == corpus.FAMILIES[family]
    chosen = card["table"]["greedy, as chosen"]
    code, words = (card["table"][f"greedy, {s}"]["lenient"] for s in ("code", "words"))
    assert chosen["truncated"] == 0
    assert chosen["tokens"] <= 32
    if family == "coder":
        assert 0.6 <= chosen["code share"] <= 0.7
        assert 0.6 <= code <= 0.9
        assert 0.15 <= words <= 0.4
        assert 0.75 <= chosen["boxed"] <= 0.9
        assert chosen["boxed in words"] < chosen["boxed in code"]
    elif family.startswith(("talker", "crammer", "rote")):
        assert chosen["code share"] == 0
        assert 0.15 <= words <= 0.4
    elif family.startswith("ladder"):
        assert chosen["code share"] < 0.45
        assert 0.15 <= words <= 0.4
    else:
        assert chosen["code share"] > 0.5
        assert code < words - 0.2
