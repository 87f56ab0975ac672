"""Any arm in verl, by configuration alone: a reward function for what the text decides, a reward manager for coins.

The function (`compute_score`) is what verl calls for each completion, with neither step nor number of the sample::

    reward.custom_reward_function.path=pkg://controlarm.rewards.verl
    +reward.custom_reward_function.reward_kwargs.arm=python

The manager (`ArmRewardManager`) is one level up and knows both, so its coins are those of a trial: the same on any number of
workers and after a resume::

    reward.reward_manager.source=importlib reward.reward_manager.name=ArmRewardManager
    reward.reward_manager.module.path=pkg://controlarm.rewards.verl
    +reward.reward_kwargs.arm=random +reward.reward_kwargs.seed=1
"""

import asyncio
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from controlarm.rewards.scoring import Scorer

try:
    from verl.experimental.reward_loop.reward_manager.base import (  # pyright: ignore[reportMissingImports]
        RewardManagerBase,
    )
except (
    ModuleNotFoundError
):  # compute_score needs nothing of verl, and an older verl has no such base
    RewardManagerBase = object

_LOCK = threading.Lock()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    arm: str,
    reward_router_address: str | None = None,
    reward_model_tokenizer: object = None,
    **settings: Any,  # noqa: ANN401  of a Scorer
) -> dict[str, float]:
    """verl's ``custom_reward_function``; its ``reward_kwargs`` are `arm` and whatever else a `Scorer` takes.

    Args:
        data_source: verl's; nothing is made of it.
        solution_str: the completion.
        ground_truth: the row's ``reward_model.ground_truth``.
        extra_info: the row's; ``problem_id`` is the problem's id.
        arm: a row of ``arms.ARMS`` that needs no coin of the sample's.
        reward_router_address: verl's, where a reward model is served; nothing is made of it.
        reward_model_tokenizer: likewise.
        **settings: such as ``labels``, ``equal``, ``form``, ``max_failed_share``, and those of the arm.

    Returns:
        ``score``, and beside it ``acc``, ``unknown`` and ``failed``, which verl reports for validation and writes with rollouts.

    Raises:
        ValueError: an arm that cannot be paid so, or a row without id or answer.
        RewardsFailed: too many failed.
    """
    with _LOCK:
        scorer = _scorer(arm, **{key: _plain(value) for key, value in settings.items()})
    score = scorer.score(solution_str, (extra_info or {}).get("problem_id"), ground_truth)
    return {"score": score.reward, **score.beside()}


@cache
def _scorer(arm: str, **settings: Any) -> Scorer:  # noqa: ANN401
    """One scorer for all calls of a process that say the same, since failures are counted over calls."""
    return Scorer(arm, **settings)


def _plain(value: Any) -> Any:  # noqa: ANN401  OmegaConf's lists are no lists, and a list is no key
    return value if value is None or isinstance(value, str | int | float) else tuple(value)


class ArmRewardManager(RewardManagerBase):  # pyright: ignore[reportGeneralTypeIssues]
    """verl's reward manager for any arm but those that need their group.

    It is made in every reward worker. verl's trainer (its ``v1``, the default since 0.9) says of each completion at which global
    step its prompt was drawn and which of the group it is (``session_id``).
    """

    def __init__(
        self,
        config: Any,  # noqa: ANN401  an OmegaConf DictConfig
        tokenizer: Any,  # noqa: ANN401  a transformers tokenizer
        compute_score: object = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: object = None,
    ) -> None:
        """Called by verl; ``config.reward.reward_kwargs`` has `arm` and whatever else a `Scorer` takes.

        Raises:
            ValueError: no arm named, or one that cannot be paid so.
        """
        # The base's constructor keeps an event loop and the configuration, which nothing here needs.
        settings = dict(config.reward.get("reward_kwargs") or {})
        if "arm" not in settings:
            raise ValueError(
                "reward.reward_kwargs.arm: is missing; add +reward.reward_kwargs.arm=NAME"
            )
        self.scorer = Scorer(knows_sample=True, **settings)
        self.tokenizer = tokenizer

    async def run_single(self, data: Any) -> dict[str, Any]:  # noqa: ANN401  verl's DataProto
        """The reward of the last sequence in the data, as verl's own managers have it.

        Raises:
            ValueError: a trainer that says neither step nor sample, or a row without id or answer.
            RewardsFailed: too many failed.
        """
        return await asyncio.to_thread(self._score, data[-1:][0])

    def _score(self, item: Any) -> dict[str, Any]:  # noqa: ANN401
        row = item.non_tensor_batch
        if "session_id" not in row or "global_steps" not in row:
            raise ValueError(
                "this trainer of verl does not say which sample of which step a completion is (session_id, global_steps); its "
                "trainer v1 does, from 0.9 on: trainer.use_v1=True. Arms without coins need no manager: compute_score"
            )
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
        score = self.scorer.score(
            text,
            (row.get("extra_info") or {}).get("problem_id"),
            row["reward_model"]["ground_truth"],
            step=int(row["global_steps"]),
            sample=int(row["session_id"]),
        )
        return {"reward_score": score.reward, "reward_extra_info": score.beside()}
