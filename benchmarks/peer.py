"""The other side where no trainer is needed: Hugging Face's ``generate`` and an eager update of the same model."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
# The extra `trl` need not be installed where types are checked.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import Workload, encoded
from controlarm.organisms.export import export
from controlarm.organisms.tokenizer import PAD
from controlarm.organisms.transformer import Weights
from controlarm.update import DTYPES


class Peer:
    """One run: its rollouts in one batch, completions of the full length; our recipe, our number of updates."""

    def __init__(self, weights: Weights, work: Workload, folder: Path) -> None:
        """The model goes through a folder, as any other would.

        Raises:
            ImportError: the extra ``controlarm[trl]`` is not installed.
        """
        from transformers import LlamaForCausalLM

        self.work = work
        export(weights, work.sizes, folder / "model")
        self.dtype = DTYPES[work.precision]

        def load(dtype: torch.dtype) -> Any:  # noqa: ANN401  no types without the extra
            loaded: Any = LlamaForCausalLM.from_pretrained(folder / "model", dtype=dtype)
            return loaded.to(work.device)

        self.sampler, self.policy = load(self.dtype), load(torch.float32)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-12, fused=True)
        self.prompts = encoded(work.prompts).repeat_interleave(work.group, dim=0).to(work.device)

    @torch.no_grad()
    def generate(self) -> Tensor:
        """Prompts and completions, no end before the last token."""
        return self.sampler.generate(
            self.prompts, attention_mask=(self.prompts != PAD).long(), do_sample=True, top_k=0, top_p=1.0,
            temperature=1.0, max_new_tokens=self.work.tokens, min_new_tokens=self.work.tokens,
        )  # fmt: skip

    def logprobs(self, sequences: Tensor) -> Tensor:
        """Of each completion token, float32."""
        with torch.autocast(
            self.work.device.partition(":")[0], self.dtype, self.dtype != torch.float32
        ):
            scores = self.policy(
                sequences,
                attention_mask=(sequences != PAD).long(),
                logits_to_keep=self.work.tokens + 1,
            ).logits[:, :-1]
        chosen = sequences[:, -self.work.tokens :, None]
        return torch.log_softmax(scores.float(), dim=-1).gather(-1, chosen)[..., 0]

    def learn(self, sequences: Tensor) -> None:
        """Score what later updates need, then all updates: clipped surrogate, clipped gradient, AdamW."""
        parts = sequences.chunk(self.work.updates)
        with torch.no_grad():
            old: list[Tensor | None] = [None, *(self.logprobs(part) for part in parts[1:])]
        for part, before in zip(parts, old, strict=True):
            logprobs = self.logprobs(part)
            ratio = (logprobs - (logprobs.detach() if before is None else before)).exp()
            signs = torch.ones(len(part), 1, device=part.device)
            signs[::2] = -1.0
            loss = -torch.minimum(ratio * signs, ratio.clamp(0.8, 1.2) * signs).mean()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()

    def measure(self, now: Callable[[], float], repeats: int) -> dict[str, list[float]]:
        """Seconds of decoding and learning, after one repeat of warm-up."""
        times: dict[str, list[float]] = {"decode": [], "learn": []}
        for repeat in range(1 + repeats):
            first = now()
            sequences = self.generate()
            second = now()
            self.learn(sequences)
            if repeat:
                times["decode"].append(second - first)
                times["learn"].append(now() - second)
        return times
