"""A recipe in TRL's words, and what of a recipe TRL has no words for."""

from pathlib import Path

from trl.trainer.grpo_config import GRPOConfig

from controlarm import advantages as credits
from controlarm.protocol import Recipe, TrlTable

LOSS_TYPES = {"token_mean": "dapo", "sequence_mean": "grpo", "constant_length": "dr_grpo"}
"""Our aggregation → TRL's name of the same loss. Its dapo divides by the tokens of a whole generation; the trainer hands it those of an update, over all
processes."""


def refusals(recipe: Recipe, processes: int, pass_rollouts: int) -> list[str]:
    """What of a recipe TRL cannot do, each with its field and what to do instead."""
    found = []
    if recipe.credit not in credits.BY_GROUP:
        found.append(
            f"credit: {recipe.credit!r} needs "
            + ("a value head" if recipe.learns_values else "a greedy completion beside each group")
            + ', which TRL has not; use "leave_one_out" or "group_mean"'
        )
    if recipe.dynamic_sampling:
        found.append(
            "dynamic_sampling: TRL asks one batch a step; say dynamic_sampling = 0 (algorithm dapo sets it)"
        )
    if recipe.select != "all":
        found.append('select: TRL asks for no greedy completion; say select = "all"')
    if recipe.policy_coef != 1:
        found.append("policy_coef: TRL's surrogate has no weight; leave it 1")
    update = recipe.prompts_per_step * recipe.group_size // recipe.updates_per_rollout
    if recipe.entropy_coef:
        if recipe.aggregation != "token_mean":
            found.append(
                f'entropy_coef: TRL takes the mean over tokens, not {recipe.aggregation!r}; say aggregation = "token_mean"'
            )
        if processes > 1 or 0 < pass_rollouts < update:
            found.append(
                "entropy_coef: TRL takes the mean over the tokens of each pass, and passes differ in length; use one process and "
                "trl.pass_rollouts = 0"
            )
    if (recipe.prompts_per_step // recipe.updates_per_rollout) % processes:
        found.append(
            f"prompts_per_step: {recipe.prompts_per_step // recipe.updates_per_rollout} groups an update cannot be dealt to "
            f"{processes} processes; start as many as divide it"
        )
    elif pass_rollouts and update // processes % pass_rollouts:
        found.append(
            f"trl.pass_rollouts: {pass_rollouts} does not divide the {update // processes} rollouts of an update that a process has"
        )
    return found


def configure(
    recipe: Recipe, table: TrlTable, max_tokens: int, longest: int | None, num_steps: int, processes: int, device: str, folder: Path,
) -> GRPOConfig:  # fmt: skip
    """The recipe in TRL's words.

    Args:
        recipe: without refusals.
        table: the protocol's ``[trl]``.
        max_tokens: longest completion.
        longest: prompt and completion together, for vLLM.
        num_steps: of the run; TRL counts each update.
        processes: that train together.
        device: ``cpu`` or ``cuda``.
        folder: of TRL's checkpoints.
    """
    own = recipe.prompts_per_step * recipe.group_size // processes
    update = own // recipe.updates_per_rollout
    size = table.pass_rollouts or update
    return GRPOConfig(
        output_dir=str(folder), use_cpu=device == "cpu", bf16=recipe.precision == "bfloat16", seed=0,
        model_init_kwargs={"dtype": "float32"}, disable_dropout=True, gradient_checkpointing=table.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        num_generations=recipe.group_size, generation_batch_size=own * processes,
        per_device_train_batch_size=size, gradient_accumulation_steps=update // size, num_iterations=1,
        max_steps=num_steps * recipe.updates_per_rollout, shuffle_dataset=False,
        max_completion_length=max_tokens, temperature=1.0, top_p=1.0, top_k=0,
        loss_type=LOSS_TYPES[recipe.aggregation], importance_sampling_level=recipe.ratio,
        epsilon=recipe.epsilon_low, epsilon_high=recipe.epsilon_high,
        beta=recipe.kl_coef, use_bias_correction_kl=False, entropy_coef=recipe.entropy_coef,
        optim="adamw_torch_fused", learning_rate=recipe.learning_rate, lr_scheduler_type="constant",
        adam_beta1=recipe.adam_beta1, adam_beta2=recipe.adam_beta2, adam_epsilon=1e-8,
        weight_decay=recipe.weight_decay, max_grad_norm=recipe.max_grad_norm,
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="no", save_total_limit=1,
        report_to="none", disable_tqdm=True,
        use_vllm=table.vllm is not None, vllm_mode=table.vllm or "colocate", vllm_importance_sampling_correction=False,
        vllm_server_base_url=table.vllm_url, vllm_gpu_memory_utilization=table.vllm_memory,
        vllm_max_model_length=longest,
    )  # fmt: skip
