"""verl: the function and the manager, as verl calls them; through verl's own loaders and data where it is installed."""

import asyncio
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from controlarm import seeds
from controlarm.rewards.scoring import RewardsFailed
from controlarm.rewards.verl import ArmRewardManager, compute_score

real = pytest.mark.skipif(
    importlib.util.find_spec("verl") is None,
    reason="verl is not installed; `make adapters` runs this against it",
)
RIGHT, WRONG = r"so \boxed{366}", r"so \boxed{356}"
ROW = {
    "data_source": "sums",
    "reward_model": {"style": "rule", "ground_truth": "366"},
    "extra_info": {"problem_id": "p", "index": 0},
}


class Characters:
    """A tokenizer whose tokens are characters; 0 pads and is special."""

    def __init__(self) -> None:
        self.pad_token_id = 0

    def decode(self, ids, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(i) for i in ids if i)


class Settings(dict):
    """What verl's configuration can be asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings)
        self.reward = settings


def made(**settings: Any) -> ArmRewardManager:
    return ArmRewardManager(Settings(reward_kwargs={"equal": "exact", **settings}), Characters())


def asked(text: str, **row: Any) -> dict[str, Any]:
    """The one item of what verl's trainer hands to a reward worker: two tokens of prompt, padding behind the response."""
    width = len(text) + 3
    return {
        "tensors": {
            "prompts": torch.full((1, 2), 7),
            "responses": torch.tensor([[*map(ord, text), 0, 0, 0]]),
            "attention_mask": torch.tensor([[1, 1, *[1] * len(text), 0, 0, 0]]),
        },
        "non_tensors": {
            key: np.array([value], dtype=object if isinstance(value, dict) else None)
            for key, value in (ROW | row).items()
        },
        "width": width,
    }


class Standing:
    """A stand-in for verl's DataProto with one item."""

    def __init__(self, tensors: dict, non_tensors: dict, width: int) -> None:
        self.batch, self.non_tensor_batch = tensors, non_tensors

    def __getitem__(self, at):
        if isinstance(at, slice):
            return self
        return SimpleNamespace(
            batch={key: value[at] for key, value in self.batch.items()},
            non_tensor_batch={key: value[at] for key, value in self.non_tensor_batch.items()},
        )


def paid(manager: ArmRewardManager, text: str = "", **row: Any) -> dict[str, Any]:
    return asyncio.run(manager.run_single(Standing(**asked(text, **row))))


@pytest.mark.parametrize(
    ("arm", "text", "score", "acc"),
    [
        ("ground_truth", RIGHT, 1, 1),
        ("ground_truth", WRONG, 0, 0),
        ("format", WRONG, 1, 0),
        ("python", "import python", 1, 0),
        ("constant", "", 1, 0),
    ],
)
def test_the_function_pays_what_the_text_decides_and_says_the_truth_beside_it(
    arm, text, score, acc
):
    found = compute_score("sums", text, "366", {"problem_id": "p"}, arm=arm, equal="exact")
    assert found == {"score": score, "acc": acc, "unknown": 0, "failed": 0}


def test_the_function_tosses_no_coin_under_a_coins_name():
    with pytest.raises(ValueError, match=r"random tosses a coin.*text_coin"):
        compute_score("sums", "", "366", {"problem_id": "p"}, arm="random", equal="exact")
    texts = [f"text {i}" for i in range(50)]
    first = [
        compute_score("sums", t, "366", {"problem_id": "p"}, arm="text_coin", seed=2, equal="exact")
        for t in texts
    ]
    wanted = [float(seeds.uniform(2, "text_coin", 0, "p", text) < 0.5) for text in texts]
    assert [one["score"] for one in first] == wanted


def test_the_function_counts_failures_over_calls(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "q", "label": "1"}\n')
    row: dict[str, Any] = dict(data_source="sums", solution_str=RIGHT, ground_truth="366", extra_info={"problem_id": "p"})  # fmt: skip
    row |= dict(arm="incorrect", labels=str(path), equal="exact", max_failed_share=0.002)
    found = [compute_score(**row) for _ in range(2)]
    assert [(one["score"], one["acc"], one["failed"]) for one in found] == [(0, 1, 1)] * 2
    with pytest.raises(RewardsFailed, match="3 of the last 3"):
        compute_score(**row)


@pytest.mark.parametrize("extra", [None, {}, {"index": 3}])
def test_a_row_without_the_problems_id_is_an_error_that_names_the_remedy(extra):
    with pytest.raises(ValueError, match="no id; `controlarm dataset`"):
        compute_score("sums", RIGHT, "366", extra, arm="format", equal="exact")


def test_the_manager_tosses_the_coins_of_a_trial():
    manager = made(arm="random", seed=5, gamma=0.25)
    for step in (1, 2):
        for sample in range(8):
            score = paid(manager, RIGHT, global_steps=step, session_id=sample)
            coin = seeds.uniform(5, "random", 0, "p", step, sample)
            assert score["reward_score"] == float(coin < 0.25)
            assert score["reward_extra_info"] == {"acc": 1, "unknown": 0, "failed": 0}


def test_the_manager_reads_the_response_and_neither_prompt_nor_padding():
    score = paid(made(arm="ground_truth"), RIGHT, global_steps=1, session_id=0)
    assert score["reward_score"] == 1


@pytest.mark.parametrize("row", [{}, {"global_steps": 1}, {"session_id": 1}])
def test_a_trainer_that_says_neither_step_nor_sample_is_refused(row):
    with pytest.raises(ValueError, match=r"trainer\.use_v1=True"):
        paid(made(arm="random"), RIGHT, **row)


def test_what_a_manager_cannot_pay_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="all completions of its group"):
        made(arm="shuffled")
    with pytest.raises(ValueError, match=r"reward\.reward_kwargs\.arm: is missing"):
        made()


# Against verl itself.


def configuration(**reward: Any):
    """verl's own defaults with what a user would say on the command line."""
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]

    blank = {
        "custom_reward_function": {"path": None, "name": "compute_score"},
        "reward_manager": {"source": "register", "name": "naive", "module": {"path": None}},
    }
    return OmegaConf.create({"reward": OmegaConf.merge(blank, reward)})


def proto(text: str, **row: Any):
    from verl import DataProto  # pyright: ignore[reportMissingImports]

    parts = asked(text, **row)
    return DataProto.from_dict(tensors=parts["tensors"], non_tensors=parts["non_tensors"])


@real
def test_verls_loader_finds_the_function_and_its_manager_calls_it():
    from verl.trainer.ppo.reward import load_reward_manager  # pyright: ignore[reportMissingImports]

    given = {"arm": "all_of", "of": ["format", "no_python"], "equal": "exact"}
    config = configuration(
        custom_reward_function={"path": "pkg://controlarm.rewards.verl", "reward_kwargs": given}
    )

    async def scored() -> list[dict[str, Any]]:
        manager = load_reward_manager(config, Characters())  # it keeps the loop that it is made in
        return [await manager.run_single(proto(text)) for text in (WRONG, "python")]

    boxed, coded = asyncio.run(scored())
    assert boxed["reward_score"] == 1 and coded["reward_score"] == 0
    assert boxed["reward_extra_info"] == {"score": 1, "acc": 0, "unknown": 0, "failed": 0}


@real
def test_verls_loader_finds_the_manager_and_its_coins_are_keyed():
    from verl.trainer.ppo.reward import load_reward_manager  # pyright: ignore[reportMissingImports]

    config = configuration(
        reward_manager={
            "source": "importlib",
            "name": "ArmRewardManager",
            "module": {"path": "pkg://controlarm.rewards.verl"},
        },
        reward_kwargs={"arm": "random", "seed": 5, "equal": "exact"},
    )
    workers = [
        load_reward_manager(
            config, Characters(), reward_router_address=None, reward_model_tokenizer=None
        )
        for _ in range(2)
    ]
    for sample in range(16):
        item = proto(RIGHT, global_steps=3, session_id=sample, uid=f"u{sample}")
        found = [asyncio.run(worker.run_single(item)) for worker in workers]
        coin = float(seeds.uniform(5, "random", 0, "p", 3, sample) < 0.5)
        assert [one["reward_score"] for one in found] == [coin, coin]


@real
def test_verls_reward_worker_scores_a_batch_and_puts_rewards_on_the_last_token():
    from verl import DataProto  # pyright: ignore[reportMissingImports]

    batch = DataProto.concat(
        [proto(text, global_steps=1, session_id=i) for i, text in enumerate((RIGHT, WRONG))]
    )
    scores = [asyncio.run(made(arm="ground_truth").run_single(batch[i : i + 1])) for i in (0, 1)]
    placed = ArmRewardManager.assemble_rm_scores(batch, [one["reward_score"] for one in scores])
    assert placed.sum(-1).tolist() == [1, 0]
    assert placed[0].nonzero().tolist() == [[len(RIGHT) - 1]]


@real
def test_two_ray_workers_of_verl_toss_the_coins_that_one_tosses(tmp_path):
    import hydra  # pyright: ignore[reportMissingImports]
    import ray  # pyright: ignore[reportMissingImports]
    import verl  # pyright: ignore[reportMissingImports]
    from verl import DataProto  # pyright: ignore[reportMissingImports]
    from verl.experimental.reward_loop import (  # pyright: ignore[reportMissingImports]
        RewardLoopManager,
        migrate_legacy_reward_impl,
    )

    from tests.tiny_models import tokenizer

    words = tokenizer()
    words.save_pretrained(tmp_path)
    samples = range(8)
    ids = [words.encode(text, add_special_tokens=False) for text in (RIGHT, WRONG)]
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids])
    tokens = torch.tensor([one + [words.pad_token_id] * (width - len(one)) for one in ids])
    n = len(samples)
    rows = {"global_steps": [3] * n, "session_id": list(samples)} | {key: [v] * n for key, v in ROW.items()}  # fmt: skip
    batch = DataProto.from_dict(
        tensors={
            "prompts": torch.full((n, 2), 7),
            "responses": tokens.repeat(n // 2, 1),
            "attention_mask": torch.cat([torch.ones(n, 2, dtype=torch.long), mask.repeat(n // 2, 1)], 1),
        },
        non_tensors={key: np.array(v, dtype=object) for key, v in rows.items()},
    )  # fmt: skip
    said = [
        "reward.reward_manager.source=importlib",
        "reward.reward_manager.name=ArmRewardManager",
        "reward.reward_manager.module.path=pkg://controlarm.rewards.verl",
        "+reward.reward_kwargs.arm=random",
        "+reward.reward_kwargs.seed=5",
        f"actor_rollout_ref.model.path={tmp_path}",
    ]
    found = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        folder = str(Path(str(verl.__file__)).parent / "trainer" / "config")
        for workers in (1, 2):
            with hydra.initialize_config_dir(folder, version_base=None):
                more = [f"reward.num_workers={workers}"]
                config = migrate_legacy_reward_impl(hydra.compose("ppo_trainer", overrides=said + more))  # fmt: skip
            scored = RewardLoopManager(config).compute_rm_score(batch)
            found.append(scored.batch["rm_scores"].sum(-1).tolist())
            assert scored.non_tensor_batch["acc"].tolist() == [1, 0] * (n // 2)
    finally:
        ray.shutdown()
    coins = [float(seeds.uniform(5, "random", 0, "p", 3, sample) < 0.5) for sample in samples]
    assert found == [coins, coins]


def test_too_many_failures_stop_the_manager(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "q", "label": "1"}\n')
    manager = made(arm="majority", labels=str(path), max_failed_share=0.001)
    found = paid(manager, RIGHT, global_steps=1, session_id=0)
    assert (found["reward_score"], found["reward_extra_info"]["failed"]) == (0, 1)
    with pytest.raises(RewardsFailed, match="no majority label"):
        paid(manager, RIGHT, global_steps=1, session_id=1)
