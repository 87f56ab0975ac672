"""What a trial will cost and what it can see, from its protocol alone: completions, time, memory, detectable effect."""

import math
from typing import NamedTuple

from controlarm.analysis import contrasts
from controlarm.arms import needs_labels
from controlarm.protocol import Protocol, Recipe, runs, shards

SECONDS_PER_ROLLOUT = 0.55e-3
"""Sampling and training on one rollout of up to 32 tokens, compiled: processor seconds of one core, as in the quick trial's record."""
SECONDS_PER_COMPLETION = 0.2e-3
"""Sampling and grading one completion of up to 32 tokens, for labels and evaluation; the same core."""
SECONDS_PER_PROBE = {
    "forced": 1.3, "prompts": 4.0, "perplexity": 0.5, "temperature": 1.7, "interference": 1.0,
    "solutions": 0.5, "sparsity": 0.05,
}  # fmt: skip
"""Of one checkpoint with 128 problems × 8 samples of up to 32 tokens; the same core, busy."""
PROBED_COMPLETIONS = 0.8
"""Plain samples of policy or base that its probes share, likewise."""
EAGER = 2.0
"""How many times longer all of it takes without a compiler."""
COMPILING = 45.0
"""Seconds of each worker before its first step."""
WORKER_BYTES = 0.5e9
"""A worker before it holds any run: the libraries and the compiled functions."""
RUN_BYTES = 8e6
"""A run's weights in two precisions, gradient, two moments."""
ROLLOUT_BYTES = 0.27e6
"""A rollout's noise, cached keys and values, and its part of an update, at 32 tokens."""
BLOCK_BYTES = 48e6
"""The same of what evaluation decodes at once for a run, where no two texts are alike. Organisms of the quick trial: 0.76 GB measured for seven runs."""


PEAK_FLOPS = 989e12
"""Of an H100 SXM in bfloat16 without sparsity: NVIDIA's data sheet."""
TRAINING_SHARE = 0.35
"""Assumption: share of the peak that forward and backward passes reach."""
SAMPLING_SHARE = 0.05
"""Assumption: the same of decoding, which waits for memory."""
MEAN_LENGTH = 0.3
"""Assumption: a mean completion's length over the longest that is allowed."""
WEIGHT_BYTES = 4
"""A parameter's: float32."""
STATE_BYTES = 16
"""A parameter's, in training: float32 weight, gradient and two moments."""
LORA_SHARE = 1 / 3000
"""Assumption: parameters that LoRA trains beside one of the model, for each rank: Qwen2.5-7B's 2.5 of 7,600 million under all-linear."""
GPU_BYTES = 80e9
"""Of an H100."""


class GpuCosts(NamedTuple):
    """Of the models by path, for one H100; estimates from a parameter count. Nothing of it was measured."""

    sampling_hours: float
    """Rollouts, labels and evaluations: 2 · parameters · tokens / (SAMPLING_SHARE · peak)."""
    training_hours: float
    """A pass before the first of several updates (2) and the updates (6): 8 or 6 · parameters · tokens / (TRAINING_SHARE · peak). LoRA spares 2."""
    state_bytes: float
    """Of one run, activations and cached keys excepted: weights, what training them takes, and the base where a KL is paid."""


def room(cost: GpuCosts) -> str:
    """What to do where a run's state does not fit a GPU, as the end of a sentence; empty where it does."""
    if cost.state_bytes <= GPU_BYTES:
        return ""
    return (
        f", more than the {GPU_BYTES / 1e9:.0f} GB of one: shard it over several (accelerate launch with FSDP or DeepSpeed), or train less of it "
        "(lora_rank)"
    )


def _state_bytes(parameters: float, recipe: Recipe) -> float:
    if recipe.lora_rank:
        return parameters * (WEIGHT_BYTES + recipe.lora_rank * LORA_SHARE * STATE_BYTES)
    return parameters * (STATE_BYTES + (WEIGHT_BYTES if recipe.kl_coef else 0))


def gpu_costs(trial: Protocol) -> GpuCosts | None:
    """None where some family has no parameter count."""
    sizes = [trial.models[f].num_parameters for f in trial.design.families if f in trial.models]
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(trial.design.families):
        return None
    counts, length = costs(trial), MEAN_LENGTH * trial.design.max_tokens
    mean = sum(known) / len(known)
    sampled = counts.num_rollouts + counts.num_labelled + counts.num_evaluated
    passes = 8 if any(r.updates_per_rollout > 1 for r in trial.recipes.values()) else 6
    hour = 3600 * PEAK_FLOPS
    return GpuCosts(
        2 * mean * sampled * length / (hour * SAMPLING_SHARE),
        passes * mean * counts.num_rollouts * length / (hour * TRAINING_SHARE),
        max(_state_bytes(size, recipe) for size in known for recipe in trial.recipes.values()),
    )


class Costs(NamedTuple):
    """Counts over the whole trial; seconds and bytes are estimates."""

    num_runs: int
    num_shards: int
    num_rollouts: int
    num_labelled: int
    """Completions of the base models for labels."""
    num_evaluated: int
    num_probed: int
    """Checkpoints, bases among them."""
    processor_seconds: float
    """Over all workers, compiling excepted."""
    worker_bytes: float

    def seconds(self, workers: int, compiled: bool) -> float:
        """Wall time on so many free cores; shards are the unit of work, so the last round may be partly idle."""
        rounds = math.ceil(self.num_shards / workers)
        work = self.processor_seconds / self.num_shards * rounds
        return work + COMPILING if compiled else work * EAGER


def costs(trial: Protocol) -> Costs:
    """What will be generated, and about what it takes."""
    design, evaluation = trial.design, trial.evaluation
    num_units, num_arms = len(design.units()), len(trial.arms)
    num_cells = len(design.families) * len(trial.recipes) * num_units
    batches = [r.prompts_per_step * r.group_size for r in trial.recipes.values()]
    bases = len(design.families) * len(set(design.pretraining_seeds))
    rollouts = len(design.families) * num_units * num_arms * design.num_steps * sum(batches)
    labelled = bases * design.num_problems * trial.labels.samples
    if trial.trial.engine == "trl" and not needs_labels(trial):
        labelled = 0
    each = evaluation.num_problems * (1 + evaluation.samples)
    evaluated = num_cells * each * (1 + num_arms * (len(evaluation.steps) - 1))
    length = design.max_tokens / 32
    probes, probed, probing = trial.probes, 0, 0.0
    share = probes.num_problems * probes.samples / 1024
    for kinds, checkpoints, sampled in (
        (probes.kinds, len(runs(trial)), 2),
        (probes.base, bases, 1),
    ):
        if kinds:
            each_one = sampled * PROBED_COMPLETIONS + sum(SECONDS_PER_PROBE[k] for k in kinds)
            probed, probing = probed + checkpoints, probing + checkpoints * share * each_one
    return Costs(
        num_runs=len(runs(trial)),
        num_shards=len(shards(trial)),
        num_rollouts=rollouts,
        num_labelled=labelled,
        num_evaluated=evaluated,
        num_probed=probed,
        processor_seconds=length
        * (
            rollouts * SECONDS_PER_ROLLOUT
            + (labelled + evaluated) * SECONDS_PER_COMPLETION
            + probing
        ),
        worker_bytes=WORKER_BYTES
        + max(map(len, shards(trial)))
        * (RUN_BYTES + max(BLOCK_BYTES, max(batches) * length * ROLLOUT_BYTES)),
    )


def num_top_units(trial: Protocol) -> int:
    """Units of a contrast: pretrained models, or the training seeds of a single one."""
    models = len(set(trial.design.pretraining_seeds))
    return models if models > 1 else len(trial.design.seeds)


def detectable_effect(trial: Protocol) -> float:
    """The true gain over placebo that a primary comparison finds four times in five, at Holm's strictest level; NaN: none."""
    end = trial.endpoint
    compared = len(end.primary) * len(trial.recipes)
    return contrasts.mde(end.planning_sd, num_top_units(trial), end.alpha, compared)


def family_claim(trial: Protocol) -> bool:
    """Whether a contrast can speak of a family, or only of the models at hand."""
    return contrasts.family_claim(trial.design.units())
