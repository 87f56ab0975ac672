"""Weights are safetensors: nothing in the code can run what a file of weights brings along."""

import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from controlarm import checkpoints
from controlarm.cli import app
from controlarm.files import DamagedFileError
from tests.faults import command

UNSAFE = re.compile(
    r"\b(c?pickle|dill|joblib|shelve|marshal|cloudpickle)\b|torch\.(load|save)\b|allow_pickle|weights_only"
)


def test_no_code_can_unpickle():
    sources = [
        *(command.ROOT / "controlarm").rglob("*.py"), *(command.ROOT / "benchmarks").rglob("*.py"),
    ]  # fmt: skip
    assert len(sources) > 50
    found = [
        f"{path}:{number}: {line}"
        for path in sources
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNSAFE.search(line)
    ]
    assert found == []


class Payload:
    """Leaves a file where it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(params=["plain", "torch"])
def malicious(request, tmp_path):
    """A file, and what appears if anybody obeys it."""
    path, mark = tmp_path / "malicious.safetensors", tmp_path / "obeyed"
    if request.param == "plain":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save(Payload(mark), path)
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists(), "the payload works"
    mark.unlink()
    return path, mark


def test_a_pickle_named_safetensors_is_refused_wherever_weights_are_read_and_is_not_obeyed(
    at_place, undisturbed, tmp_path, malicious
):
    path, mark = malicious
    with pytest.raises(DamagedFileError, match=r"malicious\.safetensors: cannot be read as safe"):
        checkpoints.read(path)
    for name in (
        "shards/000.safetensors",
        "coder/placebo/grpo-p1-s1/checkpoints/step-000003.safetensors",
    ):
        copied = Path(shutil.copytree(undisturbed.folder, tmp_path / "runs" / undisturbed.folder.name))  # fmt: skip
        shutil.copy(path, copied / name)
        run = CliRunner().invoke(app, ["run", "trial.toml", "--runs", str(tmp_path / "runs")])
        assert run.exit_code == 2 and str(copied / name) in run.stderr, run.output
        shutil.rmtree(copied)
    organism = at_place / "organisms" / "coder-p1.safetensors"
    content = organism.read_bytes()
    shutil.copy(path, organism)
    try:
        run = CliRunner().invoke(app, ["run", "trial.toml", "--runs", str(tmp_path / "none")])
    finally:
        organism.write_bytes(content)
    assert run.exit_code == 2 and "coder-p1.safetensors" in run.stderr
    assert not mark.exists()
