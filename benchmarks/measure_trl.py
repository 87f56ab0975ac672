"""The other side: TRL's GRPOTrainer on the same organism, problems and recipe.

Run by ``vs_trl.py``: python -m benchmarks.measure_trl RESULT.json SIZE PRECISION STEPS WARMUP
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
# The extra `trl` need not be installed where types are checked.

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.measured import LEARNING_RATE, SIZES, Clock, Size, num_problems, problems
from controlarm import grading, prompts
from controlarm.organisms import released
from controlarm.organisms.export import export, make_tokenizer


class Marker(TrainerCallback):
    """A mark at the end of each rollout batch's last update."""

    def __init__(self, clock: Clock, updates: int) -> None:
        self.clock, self.updates, self.started = clock, updates, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.clock.start()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.started = time.process_time()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.clock.spent["optimizer"] += time.process_time() - self.started

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        if state.global_step % self.updates == 0:
            self.clock.mark()


def configuration(size: Size, precision: str, num_steps: int, folder: Path) -> GRPOConfig:
    """Our recipe in TRL's words; whole updates in one pass, which is its fastest."""
    return GRPOConfig(
        output_dir=str(folder / "output"), use_cpu=True, bf16=precision == "bfloat16", seed=0,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", warmup_steps=0,
        adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0,
        per_device_train_batch_size=size.rollouts // size.updates, gradient_accumulation_steps=1,
        generation_batch_size=size.rollouts, num_generations=size.group, num_iterations=1,
        max_completion_length=size.max_tokens, temperature=1.0, top_p=1.0, top_k=0,
        loss_type="dapo", scale_rewards="group", epsilon=0.2, epsilon_high=0.2, beta=0.0,
        max_steps=num_steps * size.updates, logging_steps=size.updates, save_strategy="no",
        report_to="none", disable_tqdm=True, gradient_checkpointing=False, shuffle_dataset=False,
        dataloader_pin_memory=False,
    )  # fmt: skip


def measure(
    size: Size, precision: str, num_steps: int, warmup: int, folder: Path
) -> dict[str, Any]:
    """Train one run and time its steps."""
    weights, _, shape = released.load("benchmarked", 1)
    export(weights, shape, folder / "model")
    asked = problems(num_problems(size))
    lengths: list[float] = []
    accuracy: list[float] = []

    def ground_truth(
        completions: list[str],
        completion_ids: list[list[int]],
        answer: list[str],
        **_: Any,  # noqa: ANN401
    ) -> list[float | None]:
        lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
        rewards = [
            float(grading.grade(text, gold).strict == "right")
            for text, gold in zip(completions, answer, strict=True)
        ]
        accuracy.append(sum(rewards) / len(rewards))
        return [*rewards]

    clock = Clock()
    trainer = GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=[ground_truth],
        args=configuration(size, precision, num_steps, folder),
        train_dataset=Dataset.from_list(
            [{"prompt": prompts.render(p.text), "answer": p.answer} for p in asked]
        ),
        processing_class=make_tokenizer(),
        callbacks=[Marker(clock, size.updates)],
    )
    in_rollout = [False]
    make_rollouts = trainer._generate_and_score_completions

    def marked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        in_rollout[0] = True
        found = make_rollouts(*args, **kwargs)
        in_rollout[0] = False
        return found

    trainer._generate_and_score_completions = marked
    clock.timed(trainer, "_generate_single_turn", "generation")
    clock.timed(
        trainer, "_get_per_token_logps_and_entropies", "logprobs", only=lambda: in_rollout[0]
    )
    clock.timed(trainer, "_prepare_inputs", "rollouts")
    clock.timed(trainer, "training_step", "training_step")
    clock.timed(trainer.accelerator, "clip_grad_norm_", "optimizer")
    trainer.train()
    for mark in clock.marks:
        spent = mark.phases
        spent["update"] = (
            spent.get("training_step", 0) - spent.get("rollouts", 0) + spent.get("optimizer", 0)
        )
    return clock.result(warmup, 1, lengths) | {
        "compiled": False,
        "compile_seconds": 0.0,
        "accuracy": accuracy,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    result, size, precision, num_steps, warmup = sys.argv[1:]
    found = measure(
        SIZES[size], precision, int(num_steps), int(warmup), Path(result).with_suffix("")
    )
    Path(result).write_text(json.dumps(found), encoding="utf-8")
