"""OpenRLHF: the reward file's function, as OpenRLHF calls it; through its own loader where it is installed."""

import asyncio
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from controlarm import seeds
from controlarm.rewards.openrlhf import reward_function
from controlarm.rewards.scoring import RewardsFailed

real = pytest.mark.skipif(
    importlib.util.find_spec("openrlhf") is None,
    reason="OpenRLHF is not installed; `make adapters` runs this against it",
)
PROMPT = r"Put the answer in \boxed{}. What is 347+28-9?"
RIGHT, WRONG = r"It is \boxed{366}.<|end|>", r"It is \boxed{356}.<|end|>"
LABEL = json.dumps({"problem_id": "p", "answer": "366"})


def paid(function, *completions: str, label: str = LABEL, before: str = "<s>") -> dict:
    n = len(completions)
    return function([before + PROMPT + text for text in completions], [PROMPT] * n, [label] * n)


def test_it_pays_the_completion_and_not_the_prompt():
    for arm, wanted in (("ground_truth", [1, 0, 0]), ("format", [1, 1, 0])):
        for before in ("", "<s>"):
            found = paid(reward_function(arm, equal="exact"), RIGHT, WRONG, "", before=before)
            assert found["rewards"].tolist() == found["scores"].tolist() == wanted
            assert {key: value.tolist() for key, value in found["extra_logs"].items()} == {
                "acc": [1, 0, 0],
                "unknown": [0, 0, 0],
                "failed": [0, 0, 0],
            }


def test_a_coin_has_its_honest_name():
    with pytest.raises(ValueError, match=r"random tosses a coin.*text_coin"):
        reward_function("random", equal="exact")
    texts = [f"text {i}" for i in range(30)]
    found = paid(reward_function("text_coin", seed=4, equal="exact"), *texts)
    wanted = [float(seeds.uniform(4, "text_coin", 0, "p", text) < 0.5) for text in texts]
    assert found["rewards"].tolist() == wanted


@pytest.mark.parametrize("label", ["", "366", "[]", '{"answer": "366"}', '{"problem_id": "", "answer": "366"}'])  # fmt: skip
def test_a_row_that_no_reward_can_be_paid_for_cannot_be_swallowed(label):
    function = reward_function("format", equal="exact")
    with pytest.raises(RewardsFailed, match="`controlarm dataset`"):
        try:
            paid(function, RIGHT, label=label)
        except Exception:
            pytest.fail("OpenRLHF would go on")


def test_a_tokenizer_that_does_not_give_back_the_prompt_is_an_error():
    with pytest.raises(RewardsFailed, match="does not give back the text"):
        reward_function("format", equal="exact")([RIGHT], [PROMPT], [LABEL])


def execute(file: Path, completion: str, label: str = LABEL) -> dict:
    """One rollout through OpenRLHF's executor, with a tokenizer whose tokens are characters and an engine that says one thing."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor  # pyright: ignore[reportMissingImports]

    class Characters:
        def __call__(self, text, **_):
            return {"input_ids": torch.tensor([[*map(ord, text)]])}

        def decode(self, ids, **_):
            return "".join(map(chr, ids))

    class Engine:
        async def generate(self, ids, params, multi_modal_data=None):
            said = SimpleNamespace(token_ids=[*map(ord, completion)], finish_reason="stop", logprobs=None)  # fmt: skip
            return SimpleNamespace(outputs=[said])

    executor = SingleTurnAgentExecutor(str(file))
    params = SimpleNamespace(max_tokens=500, logprobs=None)
    return asyncio.run(executor.execute(PROMPT, label, params, 1000, Characters(), Engine()))


@real
def test_openrlhfs_executor_loads_the_file_and_takes_reward_and_truth(tmp_path):
    file = tmp_path / "arm.py"
    file.write_text(
        "from controlarm.rewards.openrlhf import reward_function\n"
        'reward_func = reward_function("format", equal="exact")\n'
    )
    found = execute(file, WRONG)
    assert (found["reward"].item(), found["scores"].item()) == (1, 1)
    assert {key: value.item() for key, value in found["extra_logs"].items()} == {
        "acc": 0,
        "unknown": 0,
        "failed": 0,
    }
    with pytest.raises(RewardsFailed, match="no id"):
        execute(file, WRONG, '{"problem_id": null, "answer": "366"}')
