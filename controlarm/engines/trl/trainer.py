"""TRL's ``GRPOTrainer`` with a trial's own problems, noise and credit, and a step's numbers for whoever records it.

What TRL does: the loss and its clipping, KL, gradients, accumulation, optimiser, processes, checkpoints. What it is handed: the
order of the problems, completions drawn by keyed noise, rewards of one arm, and advantages in float64 where equal rewards give
exactly 0 (TRL adds 1e-4 to the deviation, in float32). Rollouts are not shuffled between the updates of a step.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from controlarm import advantages as credits
from controlarm.engines.trl import lora, vllm
from controlarm.engines.trl.decoding import Decoded, Speaker, decode
from controlarm.engines.trl.decoding import Path as NoisePath
from controlarm.engines.trl.passes import Passes
from controlarm.protocol import Recipe
from controlarm.rewards.trl import ArmReward
from controlarm.sampling import Completions

DRAWN = 4096
"""Completions that vLLM is asked for at once."""


class Question(NamedTuple):
    """One group to be made."""

    prompt: list[int]
    """Token ids."""
    problem_id: str
    answer: str
    first_sample: int
    path: NoisePath
    """Of its noise; the sample's number is appended."""


def dealt(num_prompts: int, updates: int, processes: int) -> list[int]:
    """The places of a step's prompts in the order in which TRL deals them out: process after process, each its part of every update.

    >>> dealt(8, 2, 2)
    [0, 1, 4, 5, 2, 3, 6, 7]
    """
    share = num_prompts // updates // processes
    return [
        update * share * processes + process * share + i
        for process in range(processes)
        for update in range(updates)
        for i in range(share)
    ]


class Step(NamedTuple):
    """What happened in one step; only the first process has it."""

    step: int
    made: list[Decoded]
    """In the order of the questions, group after group."""
    rewards: np.ndarray
    """[prompt, sample], float64; NaN where a reward failed."""
    advantages: np.ndarray
    """[rollout, token] or [rollout, 1], float64."""
    metrics: dict[str, Any]

    def padded(self) -> Completions:
        """[1, prompt, sample, token], as the table of rollouts reads them."""
        group = self.rewards.shape[1]
        longest = max(len(one.tokens) for one in self.made)

        def spread(rows: list[list[Any]], dtype: torch.dtype) -> Tensor:
            padded = [row + [0] * (longest - len(row)) for row in rows]
            return torch.tensor(padded, dtype=dtype).view(1, -1, group, longest)

        return Completions(
            spread([one.tokens for one in self.made], torch.int64),
            spread([one.logprobs for one in self.made], torch.float32),
            spread([one.entropy for one in self.made], torch.float32),
        )

    def mean_advantages(self) -> np.ndarray:
        """One a rollout: the mean over its tokens, where they differ."""
        if self.advantages.shape[1] == 1:
            return self.advantages[:, 0]
        lengths = np.array([len(one.tokens) for one in self.made])
        return self.advantages.sum(1) / np.maximum(lengths, 1)


class NotFiniteError(RuntimeError):
    """The gradient of an update is not finite."""


class TrialTrainer(GRPOTrainer):
    """One run. ``recorded`` is called after each step, in every process, with the step or, beyond the first process, with None."""

    def __init__(
        self,
        model: str,
        questions: Callable[[int], Sequence[Question]],
        reward: ArmReward,
        recipe: Recipe,
        args: GRPOConfig,
        tokenizer: PreTrainedTokenizerBase,
        speaker: Speaker,
        rows: int,
        start: NoisePath,
        recorded: Callable[[int, Step | None], None],
    ) -> None:
        """Load the model and make ready.

        Args:
            model: a folder, or a name on the hub.
            questions: of a step, from 1, group after group.
            reward: what the arm pays.
            recipe: without refusals.
            args: from ``configure``.
            tokenizer: of the model, padding on the left.
            speaker: its special tokens.
            rows: completions sampled at once.
            start: path of the noise in which LoRA starts.
            recorded: see the class.

        Raises:
            ValueError: the model has no such targets of LoRA.
        """
        self.recipe, self.speaker, self.rows, self.recorded = recipe, speaker, rows, recorded
        self.questions, self.max_tokens = questions, args.max_completion_length or 0
        self.config = args
        self._made: list[Decoded] = []
        self._asked: list[Question] = []
        self._passes = Passes(recipe)
        self._rewards = np.zeros(0)
        num_steps = args.max_steps // recipe.updates_per_rollout
        order = dealt(recipe.prompts_per_step, recipe.updates_per_rollout, args.world_size)
        # A row for each prompt of each step: what stands in it is looked up when it is asked.
        rows_of = [
            {"prompt": "", "step": s, "place": p} for s in range(1, num_steps + 1) for p in order
        ]
        adapter = lora.config(recipe) if recipe.lora_rank else None
        with vllm.plain_linears("cpu" if args.use_vllm and args.use_cpu else "cuda"):
            super().__init__(
                model=model,
                reward_funcs=[reward],
                args=args,
                train_dataset=Dataset.from_list(rows_of),
                processing_class=tokenizer,
                peft_config=adapter,
            )
        if adapter is not None:
            policy: Any = self.model
            lora.start(policy, start)
        self.sampler: vllm.Sampler | None = None
        if args.use_vllm:
            self.sampler = vllm.Sampler(self.vllm_generation, recipe, speaker, self.max_tokens)

    def save(self, folder: Path) -> None:
        """The weights as ``AutoModelForCausalLM`` loads them, LoRA's change merged, and the tokenizer; all processes call it."""
        if not self.recipe.lora_rank:
            self.save_model(str(folder))
            return
        state: Any = self.accelerator.get_state_dict(self.model_wrapped)
        if self.accelerator.is_main_process:
            policy: Any = self.accelerator.unwrap_model(self.model)
            policy.get_base_model().save_pretrained(
                folder, state_dict=dict(lora.merged(state, self.recipe))
            )
            self._tokenizer.save_pretrained(folder)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All of them: the recipe's weight decay knows no exceptions, where transformers' spares biases and norms."""
        return [name for name, _ in model.named_parameters()]

    @property
    def step(self) -> int:
        """Of the rollouts that are made or trained on now, from 1."""
        return self.state.global_step // self.recipe.updates_per_rollout + 1

    def decode(
        self, prompts: Sequence[list[int]], paths: Sequence[NoisePath | None]
    ) -> list[Decoded]:
        """Completions by the policy as it is, of this process's prompts.

        Raises:
            SamplerPartedError: vLLM gives what it drew another probability than the policy does.
        """
        policy: Any = self.model
        was_training = policy.training
        if self.sampler is not None:
            found = []
            for at in range(0, len(prompts), DRAWN):
                part = prompts[at : at + DRAWN]
                drawn = self.sampler.draw(part, paths[at : at + DRAWN], self.state.global_step)
                found += self._scored(part, drawn)
            policy.train(was_training)
            return found
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.config.ds3_gather_for_generation
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            self.accelerator.autocast(),
        ):  # fmt: skip
            model.eval()
            whole = (
                model.get_base_model() if self.recipe.lora_rank else model
            )  # its layers hold LoRA's
            found = decode(whole, prompts, paths, self.max_tokens, self.speaker, self.rows)
        policy.train(was_training)
        return found

    def _scored(self, prompts: Sequence[list[int]], drawn: Sequence[Decoded]) -> list[Decoded]:
        """What vLLM drew with the entropies of the policy, which says whether vLLM has its weights."""
        pad, device = self.speaker.pad, self.accelerator.device
        before, longest = max(map(len, prompts)), max(len(one.tokens) for one in drawn)
        rows, real = [], []
        for prompt, one in zip(prompts, drawn, strict=True):
            left, right = before - len(prompt), longest - len(one.tokens)
            rows.append([pad] * left + list(prompt) + one.tokens + [pad] * right)
            real.append([0] * left + [1] * (before + longest - left - right) + [0] * right)
        policy: Any = self.model
        policy.eval()
        with torch.no_grad(), self.accelerator.autocast():
            told = self._get_per_token_logps_and_entropies(
                policy, torch.tensor(rows, device=device), torch.tensor(real, device=device), longest,
                batch_size=self.config.per_device_train_batch_size, compute_entropy=True,
            )  # fmt: skip
        logprobs, entropy = (table.float().cpu().tolist() for table in told[:2])
        sums = torch.tensor(vllm.gap(drawn, logprobs), dtype=torch.float64, device=device)
        whole: Any = self.accelerator.reduce(sums, reduction="sum")
        apart, count = whole.tolist()
        if not apart <= vllm.LARGEST_GAP * count:
            raise vllm.SamplerPartedError(
                f"after {self.state.global_step} updates vLLM gives a token of what it draws another log-probability than the trained model, "
                f"by {apart / count:.3g} nats in the mean, more than {vllm.LARGEST_GAP}: it does not hold the trainer's weights; leave out trl.vllm, "
                "or use the versions that TRL names"
            )
        return [
            one._replace(entropy=row[: len(one.tokens)])
            for one, row in zip(drawn, entropy, strict=True)
        ]

    # What TRL calls on the way from rows to a batch.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        step, size = self.step, self.recipe.group_size
        asked = self.questions(step)
        self._asked = [asked[row["place"]] for row in inputs]
        numbers = [q.first_sample + i % size for i, q in enumerate(self._asked)]
        for row, question in zip(inputs, self._asked, strict=True):
            assert row["step"] == step
            row |= {
                "problem_id": question.problem_id,
                "answer": question.answer,
                "first_sample": question.first_sample,
            }
        self._paths = [(*q.path, n) for q, n in zip(self._asked, numbers, strict=True)]
        output = super()._generate_and_score_completions(inputs)
        own = slice(
            self.accelerator.process_index * len(inputs),
            (self.accelerator.process_index + 1) * len(inputs),
        )
        lengths = np.array(gather_object([len(one.tokens) for one in self._made]))
        credit = self._credit(lengths)
        self._whole = credit
        wide = torch.from_numpy(credit[own]).float().to(self.accelerator.device)
        if wide.shape[1] > 1:
            wide = wide[:, : output["completion_ids"].shape[1]]
        output["advantages"] = wide if wide.shape[1] > 1 else wide[:, 0]
        longest = output["completion_ids"].shape[1]
        sampled = torch.zeros(len(self._made), longest)
        for i, one in enumerate(self._made):
            sampled[i, : len(one.tokens)] = torch.tensor(one.logprobs)
        output["sampled_logprobs"] = sampled.to(self.accelerator.device)
        return output

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [question.prompt for question in self._asked], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *_: object, **__: object
    ) -> tuple[list[list[int]], None]:
        self._made = self.decode(prompt_ids, self._paths)
        return [one.tokens for one in self._made], None

    def _calculate_rewards(self, *arguments: Any) -> Tensor:  # noqa: ANN401  as TRL has them
        found = super()._calculate_rewards(*arguments)
        self._rewards = found[:, 0].double().cpu().numpy()
        return found

    def _credit(self, lengths: np.ndarray) -> np.ndarray:
        """Advantages of all processes' rollouts: [rollout, token] where the recipe whitens, else [rollout, 1]."""
        recipe = self.recipe
        rewards = self._rewards.reshape(-1, recipe.group_size)
        if recipe.overlong_buffer:
            sizes = lengths.reshape(rewards.shape).astype(np.float64)
            rewards = rewards + credits.overlong(sizes, self.max_tokens, recipe.overlong_buffer)
        advantages = credits.BY_GROUP[recipe.credit](rewards).reshape(1, -1, 1)
        if recipe.whiten:
            real = np.arange(lengths.max())[None, None] < lengths[None, :, None]
            advantages = credits.whitened(advantages, real)
        return advantages[0]

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:  # noqa: ANN401  as TRL has it
        passes = self.config.steps_per_generation or 1
        each = self.config.gradient_accumulation_steps
        parts: Any = self._buffered_inputs
        if self._step % passes == 0 or parts is None:
            made = self._generate_and_score_completions(generation_batch)
            size = self.config.per_device_train_batch_size
            parts = [
                {
                    name: value[i * size : (i + 1) * size]
                    for name, value in made.items()
                    if isinstance(value, Tensor) and value.ndim
                }
                for i in range(passes)
            ]
            counts = torch.stack([part["completion_mask"].sum() for part in parts])
            totals = self.accelerator.reduce(counts.view(-1, each).sum(1), reduction="sum")
            for i, part in enumerate(parts):
                part["num_items_in_batch"] = totals[i // each] * passes / each
                if self.recipe.old_logprobs == "sampled":
                    part["old_per_token_logps"] = part["sampled_logprobs"]
                elif (
                    i < each
                ):  # the policy is still the one that sampled: the ratio is 1 by construction
                    part.pop("old_per_token_logps", None)
            self._buffered_inputs = parts
        return parts[self._step % passes]

    # What a step leaves behind.

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401  as TRL has them
        found = super()._get_per_token_logps_and_entropies(*arguments, **named)
        self._logprobs = found[0].detach()
        return found

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401  wrapped for several processes or not
        inputs: dict[str, Any],
        *arguments: Any,  # noqa: ANN401  as TRL has them
        **named: Any,  # noqa: ANN401  as TRL has them
    ) -> Tensor:
        """TRL's loss; on the way the pass is added to the update's numbers."""
        loss = super().compute_loss(model, inputs, *arguments, **named)
        with torch.no_grad():
            self._passes.add(inputs, self._logprobs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """After each update: keep its numbers; after the last of a step, all that happened in it goes to ``recorded``.

        Raises:
            NotFiniteError: the gradient is not finite.
        """
        self._metrics["train"].clear()
        if "loss" not in logs:  # transformers' summary of the whole training
            return
        if not math.isfinite(logs["grad_norm"]):
            raise NotFiniteError(f"step {self.step}: the gradient is not finite")
        self._passes.end(self.accelerator, logs["loss"], logs["grad_norm"])
        if len(self._passes.updates) < self.recipe.updates_per_rollout:
            return
        step = self.state.global_step // self.recipe.updates_per_rollout
        made = gather_object(self._made)
        order = np.argsort(
            dealt(
                self.recipe.prompts_per_step,
                self.recipe.updates_per_rollout,
                self.config.world_size,
            )
        )
        size = self.recipe.group_size
        rows = (order[:, None] * size + np.arange(size)).ravel()
        whole = None
        if self.accelerator.is_main_process:
            whole = Step(
                step, [made[i] for i in rows], self._rewards[rows].reshape(-1, size), self._whole[rows],
                self._passes.numbers(made),
            )  # fmt: skip
        self._passes = Passes(self.recipe)
        self.recorded(step, whole)


class Committing(TrainerCallback):
    """Tells the trainer when to save, and whoever records when it has."""

    def __init__(
        self,
        due: Callable[[int], bool],
        began: Callable[[], None],
        saved: Callable[[int, str], None],
        updates: int,
    ) -> None:
        self.due, self.began, self.saved, self.updates = due, began, saved, updates

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401  transformers'
        """Before the first step, or the first after a stop."""
        self.began()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401  transformers'
        """At the end of a step's last update."""
        step, left = divmod(state.global_step, self.updates)
        control.should_save = not left and self.due(step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401  transformers'
        """The trainer's state is on disk."""
        self.saved(state.global_step // self.updates, f"checkpoint-{state.global_step}")
