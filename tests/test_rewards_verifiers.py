"""verifiers: a task's reward and a rubric's functions; run by verifiers' own scoring where a version is installed."""

import asyncio
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from controlarm import seeds
from controlarm.arms import RewardError
from controlarm.rewards.scoring import RewardsFailed
from controlarm.rewards.verifiers import reward, rubric

INSTALLED = importlib.util.find_spec("verifiers") is not None
HAS_RUBRICS = INSTALLED and importlib.util.find_spec("verifiers.rubrics") is not None
tasks = pytest.mark.skipif(
    not INSTALLED or HAS_RUBRICS,
    reason="verifiers with tasks (0.2 or later) is not installed; `make adapters` runs this against it",
)
rubrics = pytest.mark.skipif(
    not HAS_RUBRICS,
    reason="verifiers with rubrics (0.1) is not installed; `make adapters` runs this against it",
)
RIGHT, WRONG = r"so \boxed{366}", r"so \boxed{356}"
IDS = [f"{i:032x}" for i in range(7, 400, 9)]


class Trace(SimpleNamespace):
    """What of a trace is asked."""

    def record_metrics(self, values) -> None:
        self.metrics = dict(values)


TASK = SimpleNamespace(id="p", answer="366")


def scored(function, text: str, name: str = IDS[0]) -> tuple[float, dict]:
    trace = Trace(last_reply=text, id=name)
    return asyncio.run(function(task=TASK, trace=trace)), trace.metrics


def test_a_task_is_paid_by_the_arm_and_the_truth_is_a_metric():
    assert scored(reward("format", equal="exact"), WRONG) == (1, {"acc": 0, "unknown": 0, "failed": 0})  # fmt: skip
    assert scored(reward("ground_truth", equal="exact"), RIGHT)[0] == 1
    assert reward("python", equal="exact").__name__ == "python"


def test_a_coin_is_the_rollouts_own_and_can_be_tossed_again():
    function = reward("random", seed=9, equal="exact")
    found = [scored(function, RIGHT, name)[0] for name in IDS]
    wanted = [float(seeds.uniform(9, "random", 0, "p", 0, int(name, 16)) < 0.5) for name in IDS]
    assert found == wanted and set(found) == {0, 1}


def test_a_failed_reward_is_an_error_of_the_trace(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "q", "label": "1"}\n')
    function = reward("majority", labels=str(path), equal="exact", max_failed_share=0.001)
    with pytest.raises(RewardError, match="no majority label"):
        scored(function, RIGHT)
    with pytest.raises(RewardsFailed):
        scored(function, RIGHT)
    with pytest.raises(ValueError, match="no answer"):
        asyncio.run(reward("format", equal="exact")(SimpleNamespace(id="p"), Trace(last_reply="", id=IDS[0])))  # fmt: skip


@pytest.mark.parametrize("made", [reward, rubric])
def test_what_needs_its_group_is_refused(made):
    with pytest.raises(ValueError, match="all completions of its group"):
        made("shuffled", equal="exact")


def of_rubric(given: dict, completion: Any, info: Any = None, name: str = IDS[0]) -> dict:
    state = {"trajectory_id": name}
    row = dict(completion=completion, answer="366", info=info or {"problem_id": "p"}, state=state)
    return {function.__name__: function(**row) for function in given["funcs"]}


def test_a_rubrics_functions_pay_the_arm_and_weigh_the_truth_nothing():
    given = rubric("format", equal="exact")
    assert given["weights"] == [1, 0, 0, 0]
    messages = [{"role": "user", "content": RIGHT}, {"role": "assistant", "content": WRONG}]
    for completion in (WRONG, messages):
        assert of_rubric(given, completion) == {"format": 1, "acc": 0, "unknown": 0, "failed": 0}
    assert of_rubric(given, [])["format"] == 0
    with pytest.raises(RewardsFailed, match="no id"):
        of_rubric(given, RIGHT, {"index": 1})


def test_a_rubric_counts_a_failure_once(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "q", "label": "1"}\n')
    given = rubric("majority", labels=str(path), equal="exact", max_failed_share=0.003)
    for name in IDS[:3]:
        assert of_rubric(given, RIGHT, name=name) == {"majority": 0, "acc": 1, "unknown": 0, "failed": 1}  # fmt: skip
    with pytest.raises(RewardsFailed, match="4 of the last 4"):
        of_rubric(given, RIGHT, name=IDS[3])


# Against verifiers itself.


@tasks
def test_verifiers_scores_a_trace_by_a_plugged_arm(tmp_path, monkeypatch):
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    class Sum(vf.TaskData):
        answer: str

    (tmp_path / "placebo.py").write_text(
        "from controlarm.rewards.verifiers import reward\npays = reward('random', seed=9, equal='exact')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugged = vf.TaskConfig(rewards={"random": {"fn": "placebo:pays"}})
    task = vf.Task(Sum(id="p", answer="366", prompt="347+28-9?"), plugged)
    for name in IDS[:8]:
        message = vf.MessageNode(message={"role": "assistant", "content": RIGHT}, sampled=True, parent=None)  # fmt: skip
        trace = vf.Trace[Sum, vf.State, vf.AgentConfig](
            id=name, task=vf.TraceTask(type="Task", data=task.data), agent=vf.AgentInfo(config=vf.AgentConfig()), nodes=[message],
        )  # fmt: skip
        asyncio.run(task.score(trace))
        coin = seeds.uniform(9, "random", 0, "p", 0, int(name, 16))
        assert trace.reward == float(coin < 0.5) and list(trace.rewards) == ["random"]
        assert trace.metrics == {"acc": 1, "unknown": 0, "failed": 0}


@rubrics
def test_a_rubric_of_verifiers_scores_a_rollout():
    import verifiers as vf  # pyright: ignore[reportMissingImports]

    made = vf.Rubric(**rubric("random", seed=9, equal="exact"))
    for name in IDS[:8]:
        state = vf.State(
            input={"prompt": "347+28-9?", "answer": "366", "info": {"problem_id": "p"}, "example_id": 0, "task": "sums"},
            completion=[{"role": "assistant", "content": RIGHT}], trajectory_id=name,
        )  # fmt: skip
        asyncio.run(made.score_rollout(state))
        coin = float(seeds.uniform(9, "random", 0, "p", 0, int(name, 16)) < 0.5)
        assert state["reward"] == coin
        assert state["metrics"] == {"random": coin, "acc": 1, "unknown": 0, "failed": 0}
