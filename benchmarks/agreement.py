"""One step's gradient, TRL's own loss against ours, on one and the same rollout batch in float32.

Run by ``vs_trl.py``: python -m benchmarks.agreement RESULT.json
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
# The extra `trl` need not be installed where types are checked.

import json
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

from benchmarks.measured import problems
from controlarm import evaluation, seeds
from controlarm.advantages import group_relative
from controlarm.organisms import released, tokenizer
from controlarm.organisms.export import export, make_tokenizer, to_llama
from controlarm.organisms.transformer import Shape, Weights
from controlarm.protocol import Recipe
from controlarm.sampling import gumbel_noise, sample
from controlarm.update import Batch, backward, trees_of

Aggregation = Literal["token_mean", "sequence_mean"]

LOSS_TYPES: dict[Aggregation, str] = {"token_mean": "dapo", "sequence_mean": "grpo"}
"""Our aggregation → TRL's name of the same loss."""

EPSILON_LOW, EPSILON_HIGH = 0.2, 0.28


class Gap(NamedTuple):
    """How far two gradients are apart."""

    largest: float
    """Largest difference of an element, over the largest element of that tensor."""
    tensors: float
    """Largest norm of a tensor's difference, over the tensor's norm."""
    clipped_share: float
    """Share of tokens at which the surrogate is flat."""


def rollout_batch(
    weights: Weights, shape: Shape, num_prompts: int, group: int, moved: float
) -> tuple[Int[Tensor, "run rollout place"], Batch]:
    """Prompts and a batch that the model itself samples; rewards are coins.

    Args:
        weights: float32, run axis of 1.
        shape: sizes of the model.
        num_prompts: how many problems.
        group: samples of each.
        moved: standard deviation of the log-ratios; 0 is on policy.
    """
    asked = problems(num_prompts)
    rows = [evaluation.Row(problem, tuple(range(group))) for problem in asked]
    prompts = evaluation.encode_prompts(rows, 18)[None]
    paths = [[("benchmark", problem.id, i) for i in range(group)] for problem in asked]
    noise = gumbel_noise(paths, 32, shape.vocab)[None]
    completions = sample(weights, prompts, noise, shape, compiled=False)
    rng = seeds.generator("benchmark-agreement", num_prompts, group)
    rewards = (rng.random((1, num_prompts, group)) < 0.5).astype(np.float64)
    logprobs = completions.logprobs.flatten(1, 2)
    tokens = completions.tokens.flatten(1, 2)
    prompts = prompts.repeat_interleave(group, dim=1)
    by_token = torch.from_numpy(rng.normal(0.0, 1.0, (tokens.shape[-1], shape.vocab))).float()
    log_ratios = by_token[torch.arange(tokens.shape[-1]), tokens] * moved
    gains = group_relative(rewards).reshape(1, -1)
    trees = trees_of(prompts, tokens, gains != 0, shape)
    return prompts, Batch(
        trees, tokens, torch.tensor(moved == 0), logprobs - log_ratios,
        gains[..., None],
    )  # fmt: skip


def our_gradient(
    weights: Weights, shape: Shape, batch: Batch, aggregation: Aggregation
) -> dict[str, Tensor]:
    """Under Hugging Face's names."""
    recipe = Recipe(
        prompts_per_step=1, group_size=2, updates_per_rollout=1, learning_rate=1.0,
        epsilon_low=EPSILON_LOW, epsilon_high=EPSILON_HIGH, aggregation=aggregation, precision="float32",
    )  # fmt: skip
    masters = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    backward(masters, batch, torch.tensor([True]), recipe, shape, compiled=False)
    found = {name: w.grad for name, w in masters.items() if w.grad is not None}
    assert len(found) == len(masters), "every weight has a gradient"
    return to_llama(found)


def trl_gradient(
    weights: Weights,
    shape: Shape,
    prompts: Int[Tensor, "run rollout place"],
    batch: Batch,
    aggregation: Aggregation,
    folder: Path,
) -> tuple[dict[str, Tensor], float]:
    """From ``GRPOTrainer._compute_loss``; also the share of tokens that TRL says were clipped."""
    export(weights, shape, folder / "model")
    completions = batch.completions[0]
    num_rollouts = len(completions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer: Any = GRPOTrainer(
            model=LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
            reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
            args=GRPOConfig(
                output_dir=str(folder / "output"), use_cpu=True, bf16=False, beta=0.0,
                per_device_train_batch_size=num_rollouts, generation_batch_size=num_rollouts,
                num_generations=num_rollouts, loss_type=LOSS_TYPES[aggregation],
                epsilon=EPSILON_LOW, epsilon_high=EPSILON_HIGH, report_to="none",
            ),
            train_dataset=Dataset.from_list([{"prompt": "3"}]),
            processing_class=make_tokenizer(),
        )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = {
        "prompt_ids": prompts[0],
        "prompt_mask": (prompts[0] != tokenizer.PAD).long(),
        "completion_ids": completions,
        "completion_mask": batch.real[0].long(),
        "advantages": torch.from_numpy(batch.advantages[0, :, 0]).float(),
        "num_items_in_batch": batch.real.sum(),
    }
    if not batch.on_policy:
        inputs["old_per_token_logps"] = batch.old_logprobs[0]
    trainer.compute_loss(trainer.model, inputs).backward()
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    named = trainer.model.named_parameters()
    return {name: parameter.grad.detach().clone() for name, parameter in named}, clipped


def gradient_gap(
    weights: Weights,
    shape: Shape,
    prompts: Int[Tensor, "run rollout place"],
    batch: Batch,
    aggregation: Aggregation,
    folder: Path,
) -> Gap:
    """Compare the two gradients of one batch.

    Raises:
        ValueError: when the two do not have the same tensors.
    """
    theirs, clipped = trl_gradient(weights, shape, prompts, batch, aggregation, folder)
    ours = our_gradient(weights, shape, batch, aggregation)
    if ours.keys() != theirs.keys():
        raise ValueError(f"different tensors: {sorted(ours.keys() ^ theirs.keys())}")
    apart = {name: (ours[name] - theirs[name]).double() for name in theirs}
    return Gap(
        max((apart[n].abs().max() / theirs[n].abs().max()).item() for n in theirs),
        max((apart[n].norm() / theirs[n].double().norm()).item() for n in theirs),
        clipped,
    )


def measure(folder: Path) -> dict[str, Any]:
    """Both losses, on policy and with clipping at work, on the released organism."""
    weights, _, shape = released.load("benchmarked", 1)
    return {
        f"{LOSS_TYPES[aggregation]}, {'off' if moved else 'on'} policy": gradient_gap(
            weights, shape, *rollout_batch(weights, shape, 8, 8, moved), aggregation, folder
        )._asdict()
        for aggregation in LOSS_TYPES
        for moved in (0.0, 0.3)
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = Path(sys.argv[1])
    result.write_text(json.dumps(measure(result.with_suffix(""))), encoding="utf-8")
