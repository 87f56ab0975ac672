"""A trial on a real cluster of three nodes: nodes and drivers are killed for real, and it ends with the bytes of a local run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controlarm import files, fleet, trial
from controlarm.analysis.summary import repeats, summarise
from controlarm.cli import app
from controlarm.depot import AREA, Depot
from controlarm.trial import Prepared, TrialError
from tests.depots import object_store
from tests.faults.command import ROOT, contents
from tests.small_trial import protocol_text

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

STEPS = 12
TEXT = (
    protocol_text(
        "",
        recipe="prompts_per_step = 2\ngroup_size = 4\nupdates_per_rollout = 1\nlearning_rate = 1e-3",
    )
    .replace("pretraining_seeds = [1]", "pretraining_seeds = [1, 2, 3]")
    .replace("\nseeds = [1]", "\nseeds = [1, 2, 3]")
    .replace("num_steps = 3", f"num_steps = {STEPS}")
    .replace("steps = [0, 2, 3]", f"steps = [0, 4, {STEPS}]")
    .replace("step = 3\n", f"step = {STEPS}\n")
)
"""Three shards of two runs; committed at steps 4, 10 and 12."""
POISONED = (
    TEXT.replace('families = ["coder"]', 'families = ["coder", "talker"]')
    .replace("[1, 2, 3]", "[1]")
    .replace('[arms.placebo]', '[arms.poison]\nreward = "custom"\nfunction = "tests.fleet_rewards:exits_on_code"\nreads = ["text"]\n[arms.placebo]')
)  # fmt: skip

MACHINE_TOLD = ("environment.json", "report.json", "report.html", "endpoint.svg")
"""Say where a trial ran; all other files are the same wherever."""


class Nodes:
    """A head without cores, and nodes of one core each."""

    def __init__(self, store: str) -> None:
        self.store = store
        """URL of an object store that they reach; or why there is none."""
        cluster_utils = pytest.importorskip(
            "ray.cluster_utils", reason="needs ray: pip install 'controlarm[ray]'"
        )
        small = {"object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster: Any = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0} | small, shutdown_at_exit=True
        )
        self.alive = [self.cluster.add_node(num_cpus=1) for _ in range(3)]
        self.address: str = self.cluster.address

    def kill(self, node: str) -> None:
        """With all that runs on it; one that is new takes its place."""
        (hit,) = (one for one in self.alive if one.node_id.startswith(node))
        self.cluster.remove_node(hit, allow_graceful=False)
        self.alive.remove(hit)
        self.alive.append(self.cluster.add_node(num_cpus=1))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with contextlib.ExitStack() as opened:
        try:  # first, so that the nodes know where it is
            store = opened.enter_context(object_store())
        except pytest.skip.Exception as missing:
            store = str(missing)
        made = Nodes(store)
        opened.callback(made.cluster.shutdown)
        yield made


def prepare(place: Path, text: str = TEXT) -> Prepared:
    place.mkdir(parents=True, exist_ok=True)
    (place / "trial.toml").write_text(text)
    return trial.prepare(place / "trial.toml", place / "runs", "cpu")


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """The trial without a fleet."""
    prepared = prepare(tmp_path_factory.mktemp("local"))
    with files.locked(prepared.folder) as lock:
        trial.run(prepared, [0, 1, 2], 1, lambda report: None, lock)
    return prepared.folder


def same_but_for_machines(folder: Path, other: Path) -> bool:
    one, two = (
        {k: v for k, v in contents(each).items() if k not in MACHINE_TOLD and AREA not in k}
        for each in (folder, other)
    )
    assert [name for name in one.keys() | two.keys() if one.get(name) != two.get(name)] == []
    return len(one) > 20


def command(place: Path, nodes: Nodes, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "controlarm", "run", "trial.toml", "--ray", nodes.address, "--device", "cpu", *more],
        cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def end(driver: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a command; returns what it said."""
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == code, output
    return output


def until(folder: Path, driver: subprocess.Popen[str], fits: Callable[[list[dict[str, Any]]], Any]) -> Any:  # fmt: skip
    """Wait until what a driver has heard fits; returns what ``fits`` finds."""
    deadline = time.monotonic() + 200
    while not (found := fits(told(folder))):
        assert time.monotonic() < deadline and driver.poll() is None, told(folder)
        time.sleep(0.02)
    return found


def trained(reports: list[dict[str, Any]], shard: int) -> list[int]:
    """Steps of a shard, in the order in which they were made."""
    return [one["step"] for one in reports if (one["shard"], one["stage"]) == (shard, "trained")]


def told(folder: Path) -> list[dict[str, Any]]:
    path = folder / "times.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


@pytest.mark.slow
def test_a_node_that_dies_in_mid_run_costs_only_what_was_not_committed(nodes, local, tmp_path):
    folder = prepare(tmp_path).folder
    driver = command(tmp_path, nodes)
    busy = until(folder, driver, lambda all_: [one for one in all_ if one["shard"] == 1 and one["stage"] == "trained" and one["step"] >= 5])  # fmt: skip
    nodes.kill(busy[0]["node"].partition("(")[2].rstrip(")"))
    output = end(driver)
    seen = told(folder)
    (lost,) = (one for one in seen if one["stage"] == "lost")
    assert (lost["shard"], lost["again"], lost["node"]) == (1, True, busy[0]["node"])
    assert f"its machine was lost; it goes on from step {lost['step']}" in output
    assert lost["step"] in (4, 10), "the steps of a commit"
    assert trained(seen[seen.index(lost) :], 1) == list(range(lost["step"] + 1, STEPS + 1))
    for shard in (0, 2):
        assert trained(seen, shard) == list(range(1, STEPS + 1))
    assert same_but_for_machines(folder, local) and not (folder / AREA).exists()
    assert sorted(files.read_json(folder / "environment.json")["fleet"]) == ["000", "001", "002"]
    assert any("byte for byte" in note for note in summarise(folder)["notes"])


@pytest.mark.slow
def test_a_driver_that_is_killed_comes_back_and_repeats_no_finished_run(nodes, local, tmp_path):
    folder = prepare(tmp_path).folder
    first = command(tmp_path, nodes)
    until(folder, first, lambda all_: all(max(trained(all_, n), default=0) >= 6 for n in range(3)))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = told(folder)
    ended = {one["shard"] for one in before if one["stage"] == "finished"}
    end(command(tmp_path, nodes))
    assert same_but_for_machines(folder, local) and not (folder / AREA).exists()
    after = told(folder)[len(before) :]
    assert {one["shard"] for one in after if one["stage"] == "finished"} == {0, 1, 2} - ended
    for shard in {0, 1, 2} - ended:
        steps = trained(after, shard)  # none, where it came to its end while nobody drove
        assert steps == list(range(min(steps, default=STEPS + 1), STEPS + 1))
        assert min(steps, default=STEPS) in (5, 11, STEPS), "goes on from a commit"
    for shard in ended:
        assert trained(after, shard) == []
    assert "already finished" in end(command(tmp_path, nodes))
    assert len(told(folder)) == len(before) + len(after)


@pytest.mark.slow
def test_a_shard_whose_process_always_ends_is_given_up_and_named_and_the_others_finish(nodes, tmp_path):  # fmt: skip
    folder = prepare(tmp_path, POISONED).folder
    output = end(command(tmp_path, nodes), code=1)
    assert output.count("lost on") == fleet.BARREN
    assert "given up: shard 1 of 2: its process ended" in output
    found = summarise(folder)
    (note,) = (note for note in found["notes"] if "given up" in note)
    assert note.startswith("Shard 1 of 2") and "coder/poison/grpo-p1-s1" in note
    assert all(path.startswith("coder/") for path in found["flow"]["runs_unfinished"])
    assert found["flow"]["runs_finished"] == 3 and not found["trial"]["complete"]


@pytest.mark.slow
def test_a_run_whose_reward_always_fails_is_masked_and_its_shard_goes_on(nodes, tmp_path):
    folder = prepare(tmp_path, POISONED.replace("exits_on_code", "fails_on_code")).folder
    end(command(tmp_path, nodes))
    found = summarise(folder)
    (failed,) = found["flow"]["runs_failed"]
    assert failed["path"] == "coder/poison/grpo-p1-s1" and "no network" in failed["reason"]
    assert found["flow"]["runs_finished"] == 5 and found["flow"]["runs_unfinished"] == []


@pytest.mark.slow
def test_the_driver_that_begins_last_drives_and_the_other_stops_and_says_who(nodes, tmp_path):
    folder = prepare(tmp_path).folder
    driver = command(tmp_path, nodes)
    until(folder, driver, len)
    Depot(str(folder)).begin()
    assert f"another command (process {os.getpid()} on " in end(driver, code=2)


@pytest.mark.slow
def test_machines_that_share_no_folder_meet_in_an_object_store(nodes, local, tmp_path):
    """Trained through it, then asked for on a machine that has nothing: it has it all, and trains nothing."""
    url = nodes.store
    if not url.startswith("s3://"):
        pytest.skip(url)
    prepare(tmp_path / "one")
    end(command(tmp_path / "one", nodes, "--depot", url))
    (folder,) = (tmp_path / "one" / "runs").iterdir()
    assert same_but_for_machines(folder, local) and not (folder / AREA).exists()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "trial.toml").write_text(TEXT)
    assert "already finished" in end(command(tmp_path / "two", nodes, "--depot", url))
    (other,) = (tmp_path / "two" / "runs").iterdir()
    assert contents(other) == contents(folder)


@pytest.mark.slow
def test_a_trial_begun_without_a_fleet_goes_on_in_one(nodes, local, tmp_path):
    prepared = prepare(tmp_path)

    class Enough(Exception):
        pass

    def until_6(report):
        if report["step"] == 6 and report["stage"] == "trained":
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        from controlarm import sampling

        patch.setattr(sampling, "TILE", 48)  # as outside of tests, where the rest is made
        with pytest.raises(Enough):
            trial.ENGINES["lockstep"](trial.engine_plan(prepared), 0, until_6)
    facts, kept = fleet.kept_files(prepared, 0)
    assert facts["step"] == 4 and "coder/placebo/grpo-p1-s1/evaluations/step-000004.parquet" in kept
    journal = prepared.folder / "coder/placebo/grpo-p1-s1/steps.jsonl"
    assert (kept["coder/placebo/grpo-p1-s1/steps.jsonl"] or 0) < journal.stat().st_size
    end(command(tmp_path, nodes))
    assert trained(told(prepared.folder), 0)[0] == 5
    assert same_but_for_machines(prepared.folder, local)


def test_what_a_task_is_promised_is_said_in_words():
    assert fleet.resources(None, "cpu") == {"CPU": 1.0}
    assert fleet.resources(None, "cuda") == {"CPU": 1.0, "GPU": 1.0}
    with pytest.raises(TrialError, match=r"--resources: 'CPU' is no NAME=NUMBER"):
        fleet.resources("CPU", "cpu")


@pytest.mark.slow
def test_what_a_cluster_cannot_give_is_refused_by_name(nodes):
    with fleet.cluster(nodes.address, None) as ray:
        assert fleet.places(ray, {"CPU": 1.0}) == 3
        with pytest.raises(TrialError, match="no node of 4 offers CPU=1, epyc=1"):
            fleet.places(ray, {"CPU": 1.0, "epyc": 1.0})


def test_a_fleet_says_how_far_its_numbers_repeat():
    """Cores are no other kind: a run has one thread. A processor is."""
    began = {"fingerprint": "a", "processor": "x", "cores": 2, "torch": "2.13"}
    more = began | {"fingerprint": "b", "cores": 64}
    other = began | {"fingerprint": "c", "processor": "y"}
    known = began | {"continued": [more, other]}
    assert "byte for byte" in repeats(known | {"fleet": {"000": ["a"], "001": ["b"]}})
    told_of = repeats(known | {"fleet": {"000": ["a"], "001": ["c"]}})
    assert "2 kinds (x; y)" in told_of and "equal in distribution" in told_of


def test_a_fleet_without_ray_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrialError, match=r"pip install 'controlarm\[ray\]'"):
        fleet.ray_here()


@pytest.mark.parametrize("option", [["--depot", "s3://runs"], ["--resources", "CPU=2"]])
def test_an_option_of_a_fleet_does_not_go_unheard_without_one(tmp_path, option):
    (tmp_path / "trial.toml").write_text(TEXT)
    done = CliRunner().invoke(app, ["run", str(tmp_path / "trial.toml"), *option])
    assert done.exit_code == 2
    assert f"{option[0]}: does nothing without --ray" in done.output
