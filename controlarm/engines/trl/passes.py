"""What the passes of a step's updates say for the journal: clipping by prior probability, divergences, the sampler's gap."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from controlarm.engines.trl.decoding import Decoded
from controlarm.losses import kl_k3
from controlarm.protocol import Recipe
from controlarm.update import PRIORS


class Passes:
    """One step's, in this process, update after update."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._sums: dict[str, Tensor] = {}
        self.updates: list[dict[str, float]] = []
        """Of those that have ended, means over tokens of all processes, beside loss and the gradient's norm."""

    def add(self, inputs: dict[str, Tensor], logprobs: Tensor) -> None:
        """One forward and backward pass.

        Args:
            inputs: as TRL's loss gets them: masks, advantages, log-probabilities of sampler, trainer before the updates and base.
            logprobs: [rollout, token], the policy's, now.
        """
        real = inputs["completion_mask"].bool()
        old = inputs.get("old_per_token_logps", logprobs)
        advantages = inputs["advantages"]
        advantages = advantages[:, None] if advantages.ndim == 1 else advantages
        log_ratio = torch.where(real, logprobs - old, 0.0)
        if self.recipe.ratio == "sequence":
            mean = log_ratio.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
            log_ratio = torch.where(real, mean, 0.0)
        low_end = math.log1p(-min(self.recipe.epsilon_low, 1 - 1e-12))
        low = (advantages < 0) & (log_ratio < low_end)
        high = (advantages > 0) & (log_ratio > math.log1p(self.recipe.epsilon_high))
        gap = (logprobs - inputs["sampled_logprobs"]).abs()
        sums: dict[str, Tensor] = {
            "tokens": real,
            "clip_low": low,
            "clip_high": high,
            "approx_kl": kl_k3(old[None], logprobs[None])[0],
            "sampler_gap_mean": gap,
        }
        if "ref_per_token_logps" in inputs:
            sums["kl_base"] = kl_k3(logprobs[None], inputs["ref_per_token_logps"][None])[0]
        prior, below = torch.exp(old), torch.zeros_like(real)
        for band, end in PRIORS.items():
            reached = prior <= end if end < 1 else torch.ones_like(real)
            here, below = reached & ~below, reached
            sums |= {
                f"prior_{band}": here,
                f"clip_low_{band}": low & here,
                f"clip_high_{band}": high & here,
            }
        for name, value in sums.items():
            total = torch.where(real, value.double(), 0.0).sum()
            self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + total
        for name, value in (
            ("ratio_max", log_ratio.abs()),
            ("sampler_gap_max", torch.where(real, gap, 0.0)),
        ):
            self._sums[name] = torch.maximum(
                self._sums.get(name, value.max().double()), value.max().double()
            )

    def end(self, accelerator: Accelerator, loss: float, grad_norm: float) -> None:
        """The passes so far were an update, of all processes."""
        most = ("ratio_max", "sampler_gap_max")
        names = sorted(self._sums)
        each = accelerator.gather(torch.stack([self._sums[name] for name in names])[None])
        self._sums = {}
        found = {
            name: float((each[:, i].max if name in most else each[:, i].sum)())
            for i, name in enumerate(names)
        }
        told = {
            n: v if n in most else v / max(found["tokens"], 1)
            for n, v in found.items()
            if n != "tokens"
        }
        self.updates.append(told | {"loss": loss, "grad_norm": grad_norm})

    def numbers(self, made: Sequence[Decoded]) -> dict[str, Any]:
        """The journal's numbers of a step that need no text: of lockstep's, all.

        Args:
            made: the step's completions, of all processes.
        """
        first, last = self.updates[0], self.updates[-1]
        spoken = [p for one in made for p in one.logprobs]
        found: dict[str, Any] = {
            name: float(np.mean([update[name] for update in self.updates]))
            for name in first
            if name not in ("approx_kl", "ratio_max", "sampler_gap_mean", "sampler_gap_max")
        }
        return found | {
            "kl_base": found.get("kl_base"),
            "value_loss": None,
            "clip_first": first["clip_low"] + first["clip_high"],
            "ratio_max": max(update["ratio_max"] for update in self.updates),
            "approx_kl": last["approx_kl"],
            "sampler_gap_mean": first["sampler_gap_mean"],
            "sampler_gap_max": first["sampler_gap_max"],
            "token_probability": float(np.mean(np.exp(spoken))),
            "generated": len(made),
            "counted_groups": 1.0,
        }
