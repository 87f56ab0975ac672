"""Completions by vLLM instead of ``generate``: colocated in the training process, or from a server that TRL sends the weights to.

Weights reach vLLM by TRL's own way. Draws do not: TRL gives all of a batch one stream, and here each completion has a seed of its own
path, so that what is drawn depends on neither batch, process nor resume, but for rounding. It is another draw than ``generate``'s.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor
from trl.generation.vllm_generation import VLLMGeneration

from controlarm import seeds
from controlarm.engines.trl import lora
from controlarm.engines.trl.decoding import Decoded, Path, Speaker, cut
from controlarm.protocol import Recipe, TrlTable

REQUESTS = 64
"""Completions that a server is asked for at once, one request each."""

LARGEST_GAP = 0.05
"""Nats between the sampler's and the trainer's log-probability of a token, mean over what was just drawn, beyond which a run stops."""


class SamplerPartedError(RuntimeError):
    """vLLM does not hold the trainer's weights."""


def misfits(table: TrlTable) -> list[str]:
    """Why a table's vLLM cannot be used here."""
    if table.vllm is not None and find_spec("vllm") is None:
        return [
            "trl.vllm: vllm is not installed; pip install 'trl[vllm]==1.16.*', or leave it out to sample with transformers"
        ]
    return []


@contextlib.contextmanager
def plain_linears(device: str) -> Iterator[None]:
    """vLLM's CPU build packs the weights of linear layers for oneDNN and from then on ignores new ones; here it is told not to."""
    if device != "cpu":
        yield
        return
    operators: Any = import_module("vllm._custom_ops")
    before, operators._supports_onednn = operators._supports_onednn, False
    try:
        yield
    finally:
        operators._supports_onednn = before


class Sampler:
    """vLLM with the policy's weights."""

    def __init__(
        self, generation: VLLMGeneration, recipe: Recipe, speaker: Speaker, max_tokens: int
    ) -> None:
        """Take over what TRL has started.

        Raises:
            ValueError: LoRA's change would have to be merged into weights that no process holds whole.
        """
        self.generation, self.speaker, self.max_tokens = generation, speaker, max_tokens
        self.synced: int | None = None
        if not recipe.lora_rank:
            return
        kind = generation.accelerator.distributed_type
        if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError(
                f"lora_rank: with trl.vllm it needs whole weights in each process, and {kind.value} shards them; use one of the two"
            )

        def merged() -> Iterator[tuple[str, Tensor]]:
            policy: Any = generation.model
            yield from lora.merged(dict(policy.named_parameters()), recipe)

        # TRL's own merges in place and takes the change out again, which leaves rounding in the base.
        changed: Any = generation
        changed._iter_named_params = merged

    def draw(
        self, prompts: Sequence[list[int]], paths: Sequence[Path | None], updates: int
    ) -> list[Decoded]:
        """Completions at temperature 1, each by the seed of its own path; greedy where the path is None. Their entropy is empty.

        Args:
            prompts: token ids, of this process.
            paths: one a prompt.
            updates: of the weights so far; vLLM gets them where it has others.
        """
        if self.synced != updates:
            self.generation.sync_weights()
            self.synced = updates
        asked = [self._asked(path) for path in paths]
        served = self.generation.mode == "server"
        made = (self._served if served else self._colocated)(prompts, asked)
        return [cut(ids, logprobs, [], self.speaker) for ids, logprobs in made]

    def _asked(self, path: Path | None) -> dict[str, Any]:
        greedy = path is None
        return {
            "temperature": 0.0 if greedy else 1.0,
            "seed": None if path is None else seeds.key("sampling", *path) >> 65,
            "max_tokens": self.max_tokens,
            "stop": list(self.speaker.stops),
            "stop_token_ids": self.speaker.ends,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "logprobs": 0,
        }

    def _colocated(
        self, prompts: Sequence[list[int]], asked: Sequence[dict[str, Any]]
    ) -> list[tuple[list[int], list[float]]]:
        vllm: Any = import_module("vllm")
        outputs = self.generation.llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            [vllm.SamplingParams(**one) for one in asked],
            use_tqdm=False,
        )
        found = []
        for output in outputs:
            (said,) = output.outputs
            ids = list(said.token_ids)
            found.append((ids, [p[t].logprob for t, p in zip(ids, said.logprobs, strict=True)]))
        return found

    def _served(
        self, prompts: Sequence[list[int]], asked: Sequence[dict[str, Any]]
    ) -> list[tuple[list[int], list[float]]]:
        accelerator = self.generation.accelerator
        own = len(prompts)
        rows = gather_object(list(zip(prompts, asked, strict=True)))
        everyone: list[Any] = [None]
        if accelerator.is_main_process:
            with ThreadPoolExecutor(REQUESTS) as requests:
                everyone = [list(requests.map(self._request, rows))]
        broadcast_object_list(everyone, from_process=0)
        return everyone[0][accelerator.process_index * own :][:own]

    def _request(self, row: tuple[list[int], dict[str, Any]]) -> tuple[list[int], list[float]]:
        prompt, asked = row
        said: Any = self.generation.vllm_client.generate([prompt], generation_kwargs=asked)
        (ids,), (logprobs,) = said["completion_ids"], said["logprobs"]
        return ids, [place[0] for place in logprobs]


def gap(drawn: Sequence[Decoded], logprobs: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Sum over tokens of abs(trainer's - sampler's log-probability), and how many tokens there are.

    Args:
        drawn: with the sampler's.
        logprobs: the trainer's, a row a completion, padded behind it.
    """
    apart = [
        np.abs(np.subtract(one.logprobs, told[: len(one.tokens)])).sum()
        for one, told in zip(drawn, logprobs, strict=True)
    ]
    return float(np.sum(apart)), sum(len(one.tokens) for one in drawn)
