"""Two processes, started by torchrun, draw the coins of one and pay the same for the same text; a launch that went wrong is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_trl import journal, rows, text
from typer.testing import CliRunner

pytest.importorskip("trl")

from controlarm import arms, seeds
from controlarm.cli import app
from controlarm.engines.trl import Launch
from controlarm.organisms import released
from controlarm.organisms.export import export
from controlarm.problems import arithmetic
from controlarm.protocol import ArmTable

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


ENVIRONMENT = os.environ | {
    "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
}  # fmt: skip


def start(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> dict[int, Path]:
    """The same trial by one process and by two; its folders."""
    made = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"by{processes}")
        (folder / "trial.toml").write_text(text("trl", "[arms.shuffled]\n", design=""))
        run = ["-m", "controlarm", "run", "trial.toml"]
        command = [sys.executable, *run, "--workers", "1"] if processes == 1 else [*TORCHRUN, *run]
        ended = start(command, folder)
        assert ended.returncode == 0, ended.stderr[-3000:]
        (made[processes],) = (folder / "runs").iterdir()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["ground_truth", "placebo", "shuffled"])
def test_a_trial_by_two_processes_is_that_by_one(trials, arm):
    one, two = (trials[n] / "coder" / arm / "grpo-p1-s1" for n in (1, 2))
    for kind, step in (("rollouts", 1), ("rollouts", 3), ("evaluations", 0), ("evaluations", 3)):
        for mine, theirs in zip(rows(one, kind, step), rows(two, kind, step), strict=True):
            for name in {"problem_id", "sample", "text", "reward", "strict"} & set(mine):
                assert mine[name] == theirs[name], name
    for mine, theirs in zip(journal(one), journal(two), strict=True):
        for name in ("reward", "accuracy", "grad_norm", "loss", "clip_low", "entropy"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_same_bytes(trials, tmp_path):
    made = text("trl", "[arms.shuffled]\n", more="[trl]\ncommit_every = 1\n")
    (tmp_path / "trial.toml").write_text(made)
    command = [*TORCHRUN, "-m", "controlarm", "run", "trial.toml"]
    begun = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/*/shards/000.safetensors")):
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    (folder,) = (tmp_path / "runs").iterdir()
    assert not list(folder.glob("coder/*/grpo-p1-s1/model")), "killed within the first run"
    ended = start(command, tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    whole = [*trials[2].glob("coder/*/*/steps.jsonl"), *trials[2].glob("coder/*/*/*/*.parquet")]
    assert len(whole) == 3 * (1 + 2 + 3)
    for file in [*whole, *trials[2].glob("coder/*/*/model/*.safetensors")]:
        assert file.read_bytes() == (folder / file.relative_to(trials[2])).read_bytes(), file


@pytest.mark.slow
def test_its_report_is_made_by_the_first_process(trials):
    assert (trials[2] / "report.html").exists()
    assert pq.read_schema(
        trials[2] / "coder" / "placebo" / "grpo-p1-s1" / "evaluations" / "step-000003.parquet"
    ).metadata[b"weights_sha256"]


NAMES = ("random", "shuffled", "ground_truth")


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2])
def plain(request, tmp_path_factory) -> list[dict[str, dict]]:
    """What the script says of each arm, in each process."""
    folder = tmp_path_factory.mktemp("plain")
    weights, _, shape = released.load("coder", 1)
    export(weights, shape, folder / "model")
    script = [str(ROOT / "tests" / "plain_trl.py"), str(folder / "model"), str(folder), *NAMES]
    ended = start([sys.executable, *script] if request.param == 1 else [*TORCHRUN, *script], folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_script_pays_the_coins_of_the_arm(plain, name):
    """With two processes a group is dealt to both: two of its four completions each. Evaluation between steps moves no coin."""
    said = [process[name] for process in plain]
    arm = arms.build(name, ArmTable(), {})
    gold = {p.id: p.answer for p in arithmetic.problems("training", 4, "tests")}
    calls = list(zip(*(process["calls"] for process in said), strict=True))
    assert not all(parts[0]["train"] for parts in calls), "it was evaluated in between"
    trained = [parts for parts in calls if parts[0]["train"]]
    assert len(trained) * said[0]["updates"] == 8
    assert said[0]["logged"] == len(trained) >= 2, "true accuracy is logged beside the reward"
    for number, parts in enumerate(trained, start=1):
        ids, texts, paid = (
            [x for part in parts for x in part[k]] for k in ("ids", "texts", "paid")
        )
        assert len(ids) == 8
        for at in (0, 4):
            assert len(set(ids[at : at + 4])) == 1
            view = arms.GroupView(
                problem_id=ids[at], texts=texts[at : at + 4], answer=gold[ids[at]], majority=None, incorrect=None,
                seed=5, step=number, samples=range(4),
            )  # fmt: skip
            assert paid[at : at + 4] == arm.pay(view)
        if name == "random":
            coin = seeds.uniform(5, "random", 0, ids[5], number, 1)
            assert paid[5] == float(coin < 0.5)


@pytest.mark.slow
def test_accelerate_launch_that_starts_one_process_of_two_is_refused(tmp_path):
    (tmp_path / "trial.toml").write_text(text("trl"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    ended = start([*launch, "-m", "controlarm", "run", "trial.toml"], tmp_path)
    assert ended.returncode != 0
    assert "started this one alone" in " ".join(ended.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_what_launchers_say():
    assert Launch.of({}) == (1, 0)
    assert Launch.of({"WORLD_SIZE": "4", "RANK": "3"}) == (4, 3)
    assert Launch.of({"ACCELERATE_MIXED_PRECISION": "no"}) == (1, 0), (
        "accelerate launch of one process"
    )


def test_lockstep_is_not_launched_by_torchrun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.toml").write_text(text("lockstep"))
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():  # as torchrun
        monkeypatch.setenv(name, value)
    ended = CliRunner().invoke(app, ["run", "trial.toml"])
    assert ended.exit_code == 2
    assert "lockstep trains in one process a shard" in " ".join(ended.stderr.split())
