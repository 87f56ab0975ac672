"""Any arm that a text decides as OpenRLHF's reward file: a file of one's own with one name in it.

    # python_arm.py
    from controlarm.rewards.openrlhf import reward_function
    reward_func = reward_function("python")

``--reward.remote_url python_arm.py --data.input_key input --data.label_key label`` then pays by it. OpenRLHF says neither
step nor number of the sample, in a reward file or in an agent: an arm with coins of its own cannot be had, ``text_coin`` can.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from controlarm.rewards.scoring import RewardsFailed, Scorer

RewardFunction = Callable[..., dict[str, Any]]
"""``(queries, prompts, labels) → {"rewards": …, "scores": …, "extra_logs": {…: …}}``; tensors, one number a query."""


def reward_function(arm: str, **settings: Any) -> RewardFunction:  # noqa: ANN401
    """The function that OpenRLHF looks for under the name ``reward_func``.

    A label is the row's JSON, ``{"problem_id": …, "answer": …}``, as ``controlarm dataset`` writes it. ``scores``, by which
    OpenRLHF filters groups, are the rewards.

    Args:
        arm: a row of ``arms.ARMS`` that needs no coin of the sample's.
        **settings: of a `Scorer`, and those of the arm.

    Raises:
        ValueError: an arm that cannot be paid so.
    """
    scorer = Scorer(arm, **settings)

    def reward_func(
        queries: Sequence[str],
        prompts: Sequence[str],
        labels: Sequence[str],
        **_: object,
    ) -> dict[str, Any]:
        """Rewards, and the truth in ``extra_logs``.

        Raises:
            RewardsFailed: too many failed, or a row that no reward can be paid for; every other exception OpenRLHF would swallow.
        """
        try:
            scores = [
                scorer.score(_completion(query, prompt), *_row(label))
                for query, prompt, label in zip(queries, prompts, labels, strict=True)
            ]
        except ValueError as error:
            raise RewardsFailed(str(error)) from error
        rewards = torch.tensor([score.reward for score in scores])
        beside = [score.beside() for score in scores]
        logs = {key: torch.tensor([one[key] for one in beside]) for key in beside[0]}
        return {"rewards": rewards, "scores": rewards, "extra_logs": logs}

    return reward_func


def _completion(query: str, prompt: str) -> str:
    """What follows the prompt. OpenRLHF decodes both together, so a token of the tokenizer's own may stand before."""
    _, found, completion = query.partition(prompt)
    if not found or not prompt:
        raise ValueError(
            f"the prompt {prompt[:60]!r} is not in what was decoded, {query[:60]!r}; this tokenizer does not give back the text it "
            "was given, and a reward of prompt and completion together would be paid for the prompt"
        )
    return completion


def _row(label: str) -> tuple[object, object]:
    try:
        row = json.loads(label)
    except (ValueError, RecursionError, TypeError):
        row = None
    if not isinstance(row, dict) or not {"problem_id", "answer"} <= row.keys():
        raise ValueError(
            f'a row\'s label is {str(label)[:60]!r}, not {{"problem_id": …, "answer": …}}; `controlarm dataset` writes such rows, and '
            "--data.label_key names the column"
        )
    return row["problem_id"], row["answer"]
