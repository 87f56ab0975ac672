"""Any arm but those that need their group in verifiers: for its tasks (`reward`), and for the rubrics of its 0.1 (`rubric`).

verifiers says neither the step nor the number of a sample, but names each rollout by a random identifier that it keeps. That is
the sample in a coin's key: coins are independent of text and truth, of workers and of order, and whoever has the traces can
toss them again. A repeated run names its rollouts anew, so its coins are others, too.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from controlarm.arms import RewardError
from controlarm.rewards.scoring import RewardsFailed, Score, Scorer


def reward(arm: str, **settings: Any) -> Callable[..., Coroutine[Any, Any, float]]:  # noqa: ANN401
    """A reward of a task: plugged by its path into ``taskset.task.rewards``, or called by a method under ``@vf.reward``.

    The task's data has ``id`` and ``answer``. The truth is recorded beside the reward as the trace's metrics ``acc``, ``unknown``
    and ``failed``; a reward that failed is an error of the trace, as verifiers wants it, and no number.

    Args:
        arm: a row of ``arms.ARMS``, but shuffled and one_shot.
        **settings: of a `Scorer`, and those of the arm.

    Raises:
        ValueError: an arm that cannot be paid so.
    """
    scorer = Scorer(arm, knows_sample=True, **settings)

    async def pays(task: Any, trace: Any) -> float:  # noqa: ANN401  vf.TaskData, vf.Trace
        """The arm's reward of a trace's last reply."""
        answer = getattr(task, "answer", None)
        score = scorer.score(trace.last_reply, task.id, answer, sample=_number(trace.id))
        trace.record_metrics(score.beside())
        if score.failure is not None:
            raise RewardError(score.failure)
        return score.reward

    pays.__name__ = scorer.arm.name
    return pays


def rubric(arm: str, **settings: Any) -> dict[str, Sequence[Any]]:  # noqa: ANN401
    """Functions and weights for ``vf.Rubric(**rubric("random", seed=1))`` of verifiers 0.1.

    A row has ``answer``, and ``info`` with ``problem_id``. The truth has no weight and is reported as the metrics ``acc``,
    ``unknown`` and ``failed``; a reward that failed is paid 0 and counted there.

    Args:
        arm: a row of ``arms.ARMS``, but shuffled and one_shot.
        **settings: of a `Scorer`, and those of the arm.

    Raises:
        ValueError: an arm that cannot be paid so.
    """
    scorer = Scorer(arm, knows_sample=True, **settings)
    kept = f"controlarm {arm}"

    def scored(completion: Any, answer: str, info: Any, state: Any) -> Score:  # noqa: ANN401
        if kept not in state:  # once for reward and metrics, or a failure would count fourfold
            text = _text(completion)
            problem = (info or {}).get("problem_id")
            sample = _number(state["trajectory_id"])
            try:
                state[kept] = scorer.score(text, problem, answer, sample=sample)
            except ValueError as error:  # which a rubric would swallow and pay 0
                raise RewardsFailed(str(error)) from error
        return state[kept]

    def column(name: str, field: str) -> Callable[..., float]:
        def says(completion: Any, answer: str, info: Any, state: Any) -> float:  # noqa: ANN401
            return getattr(scored(completion, answer, info, state), field)

        says.__name__ = name
        return says

    names = {scorer.arm.name: "reward", "acc": "acc", "unknown": "unknown", "failed": "failed"}
    return {
        "funcs": [column(name, field) for name, field in names.items()],
        "weights": [1.0, 0.0, 0.0, 0.0],
    }


def _number(name: str) -> int:
    """A rollout's identifier, 32 hexadecimal digits, as the number of its sample."""
    return int(name, 16)


def _text(completion: Any) -> str:  # noqa: ANN401  text or messages
    if isinstance(completion, str):
        return completion
    said = [message for message in completion if message["role"] == "assistant"]
    content = said[-1]["content"] if said else ""
    return content if isinstance(content, str) else ""
