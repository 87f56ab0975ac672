"""A person's own TRL script that pays by arms, one after another: what the tests start in one process and in two. It says what was paid.

plain_trl.py MODEL OUT ARM
"""

import json
import os
import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from controlarm import prompts
from controlarm.problems import arithmetic
from controlarm.rewards.trl import ArmReward

MODEL, OUT, *ARMS = sys.argv[1:]

problems = arithmetic.problems("training", 4, "tests")
rows = [
    {"prompt": prompts.render(p.text), "problem_id": p.id, "answer": p.answer} for p in problems
]


def train(arm: str) -> dict:
    """Eight optimiser steps; what every call of the reward was given and paid."""
    args = GRPOConfig(
        output_dir=f"{OUT}/trainer", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, logging_steps=1,
        num_generations=4, generation_batch_size=8, per_device_train_batch_size=2, seed=5,
        max_completion_length=32, learning_rate=1e-4, max_steps=8, save_strategy="no",
        eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4,
    )  # fmt: skip
    reward = ArmReward(arm, args)
    calls: list[dict] = []

    def watched(prompts, completions, trainer_state, problem_id, **columns):
        paid = reward(
            prompts, completions, trainer_state=trainer_state, problem_id=problem_id, **columns
        )
        assert trainer.model is not None
        calls.append(
            {"ids": problem_id, "texts": completions, "paid": paid, "train": trainer.model.training}
        )
        return paid

    trainer = GRPOTrainer(
        model=MODEL, reward_funcs=[watched], args=args, train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]), processing_class=AutoTokenizer.from_pretrained(MODEL),
    )  # fmt: skip
    trainer.train()
    logged = sum("accuracy" in log for log in trainer.state.log_history)
    return {"updates": reward.updates, "calls": calls, "logged": logged}


made = {arm: train(arm) for arm in ARMS}
(Path(OUT) / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(made))
