"""A changed byte, a cut and an empty file: whoever reads the file names it and says what to do, and nobody uses it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from controlarm import files, protocol, seeds, trial
from controlarm.analysis.folder import FolderError, read_trial
from controlarm.analysis.summary import summarise
from controlarm.cli import app
from controlarm.files import DamagedFileError
from controlarm.protocol import ProtocolError
from tests.faults import command

RUN = "coder/ground_truth/grpo-p1-s1"
READ = {
    "plan.json": "resume report show",
    "protocol.toml": "resume report show",
    "environment.json": "resume report",
    "problems.parquet": "resume report show",
    "labels/coder-p1.parquet": "resume report",
    "shards/000.safetensors": "resume",
    f"{RUN}/steps.jsonl": "resume report",
    f"{RUN}/failed.json": "resume report",
    f"{RUN}/rollouts/step-000003.parquet": "resume training",
    f"{RUN}/evaluations/step-000003.parquet": "resume report show",
    f"{RUN}/checkpoints/step-000003.safetensors": "resume",
}
"""One file of each kind, and who reads it."""
NOT_READ = {"times.jsonl", "report.json", "report.html", "endpoint.svg"}


@pytest.fixture(scope="module")
def folder(undisturbed, tmp_path_factory) -> Path:
    """A finished trial, one of whose runs failed as the engine writes it."""
    made = tmp_path_factory.mktemp("damaged") / undisturbed.folder.name
    shutil.copytree(undisturbed.folder, made)
    files.write_json(made / RUN / "failed.json", {"step": 3, "reason": "3 rewards failed"})
    return made


def harmed(content: bytes, name: str) -> dict[str, bytes]:
    """Flipped at its start, its end and anywhere; cut; emptied."""
    rng = seeds.generator("tests", "harm", name)
    last = len(content) - 1
    places = [
        0,
        *rng.integers(0, 16, 2),
        *rng.integers(0, last, 8),
        *rng.integers(last - 16, last, 2),
        last,
    ]
    found = {"cut by a byte": content[:-1], "cut": content[: len(content) // 2], "empty": b""}
    for place in map(int, places):
        changed = content[place] ^ int(rng.integers(1, 256))
        found[f"byte {place}: {changed}"] = (
            content[:place] + bytes([changed]) + content[place + 1 :]
        )
    for place in np.flatnonzero([chr(byte).isdigit() for byte in content])[:: max(1, last // 8)]:
        other = ord("0") + (content[place] - ord("0") + 1) % 10
        found[f"digit {place}"] = content[:place] + bytes([other]) + content[place + 1 :]
    return found


def resume(folder: Path, parsed: protocol.Protocol, digest: str) -> str | None:
    """What the command says before it would train or report; None if it would."""
    try:
        plan = trial.read_plan(folder, digest)
        trial.unfinished(trial.Prepared(folder, parsed, plan))
    except DamagedFileError as error:
        return str(error)
    return None


def report(folder: Path) -> str | None:
    """What the analysis says is damaged."""
    try:
        return "\n".join(str(folder / damage.file) for damage in read_trial(folder).damaged) or None
    except (FolderError, ProtocolError) as error:
        return str(error)


@pytest.mark.parametrize("name", READ)
def test_damage_anywhere_is_named_on_resume_and_by_the_analysis(folder, name):
    path = folder / name
    content, readers = path.read_bytes(), READ[name]
    parsed = protocol.load(folder / "protocol.toml")
    digest = files.read_json(folder / "plan.json")["digest"]
    assert resume(folder, parsed, digest) is None and report(folder) is None
    try:
        for harm, damaged in harmed(content, name).items():
            path.write_bytes(damaged)
            said = resume(folder, parsed, digest)
            assert said and str(path) in said, harm
            assert "restore the file from a copy, or delete" in said
            if "report" in readers:
                told = report(folder)
                assert told and str(path) in told, harm
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", READ)
def test_the_commands_refuse_or_name_a_damaged_file(at_place, folder, tmp_path, name):
    copied = Path(shutil.copytree(folder, tmp_path / folder.name))
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    run = CliRunner().invoke(app, ["run", "trial.toml", "--runs", str(tmp_path), "--device", "cpu"])
    assert run.exit_code == 2
    assert str(path) in run.stderr and "restore the file from a copy, or delete" in run.stderr
    if "show" in READ[name] or "training" in READ[name]:
        kind = ["--training"] if "training" in READ[name] else []
        show = CliRunner().invoke(app, ["show", str(copied), *kind])
        assert show.exit_code == 2 and str(path) in show.stderr, show.output
    if "report" in READ[name]:
        made = CliRunner().invoke(app, ["report", str(copied)])
        if made.exit_code:
            assert made.exit_code == 2 and str(path) in made.stderr, made.output
        else:
            assert f"damaged, left out: {name}" in made.stdout and files.REMEDY in made.stdout
            assert "[incomplete]" in made.stdout
    assert path.read_bytes() == content, "a damaged file stays as it was found"


def test_every_file_of_a_run_folder_is_either_checked_by_its_readers_or_read_by_nobody(folder):
    def kind(name: str) -> str:
        return name.rsplit("/", 1)[-1].translate(str.maketrans("", "", "0123456789"))

    known = {kind(name) for name in READ} | NOT_READ | {".lock"}
    assert {kind(str(p.relative_to(folder))) for p in folder.rglob("*") if p.is_file()} == known | {
        "coder-p.parquet"
    }


def test_what_nobody_reads_may_be_lost(at_place, undisturbed, tmp_path):
    copied = Path(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))
    for name in NOT_READ:
        (copied / name).write_bytes(b"\xff{")
    made = CliRunner().invoke(app, ["run", "trial.toml", "--runs", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert command.differences(copied, undisturbed.folder) == []


def test_a_deleted_shard_is_trained_again_to_the_same_bytes_as_the_message_says(
    at_place, undisturbed, tmp_path
):
    copied = Path(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))
    path = copied / RUN / "evaluations" / "step-000002.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    words = ["run", "trial.toml", "--runs", str(tmp_path), "--workers", "1"]
    said = CliRunner().invoke(app, words).stderr
    shard = copied / "shards" / "000.safetensors"
    assert f"or delete {shard} to train the runs of that shard again" in said
    shard.unlink()
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    assert command.differences(copied, undisturbed.folder) == []


def test_a_lost_plan_of_a_trial_that_has_begun_is_named_and_not_made_up(
    at_place, undisturbed, tmp_path
):
    copied = Path(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))
    (copied / "plan.json").unlink()
    run = CliRunner().invoke(app, ["run", "trial.toml", "--runs", str(tmp_path)])
    assert run.exit_code == 2
    assert f"{copied / 'plan.json'}: is missing, though the trial has begun" in run.stderr


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty"])
def test_a_damaged_organism_is_named_before_anything_is_written(at_place, tmp_path, harm):
    path = at_place / "organisms" / "coder-p1.safetensors"
    content = path.read_bytes()
    flipped = content[:-1000] + bytes([content[-1000] ^ 4]) + content[-999:]
    path.write_bytes({"flipped": flipped, "cut": content[:-1], "empty": b""}[harm])
    try:
        for words in (["check", "trial.toml"], ["run", "trial.toml"]):
            result = CliRunner().invoke(app, [*words, "--runs", str(tmp_path / "runs")])
            assert result.exit_code == 2
            assert "coder-p1.safetensors" in result.stderr and "restore the file" in result.stderr
    finally:
        path.write_bytes(content)
    assert not (tmp_path / "runs").exists()


def test_a_plan_of_another_digest_is_refused(at_place, undisturbed, tmp_path):
    copied = Path(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))
    plan = files.read_json(copied / "plan.json")
    files.write_json(copied / "plan.json", plan | {"digest": "0" * 64})
    with pytest.raises(DamagedFileError, match=r"plan\.json.*another --runs folder"):
        trial.prepare(Path("trial.toml"), tmp_path, "cpu")


def test_a_trial_of_the_same_name_is_named_even_if_its_plan_is_damaged(
    at_place, undisturbed, tmp_path
):
    copied = Path(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))
    other = tmp_path / "small-00c0ffee"
    other.mkdir()
    (other / "plan.json").write_bytes((copied / "plan.json").read_bytes()[:-9])
    made = summarise(copied)
    assert made["trial"]["siblings"] == [{"folder": "small-00c0ffee", "digest": "00c0ffee"}]
    check = CliRunner().invoke(app, ["check", "trial.toml", "--runs", str(tmp_path)])
    assert f"sibling     {other}" in check.stdout
