"""A causal LM served by vLLM inside this process, where that is installed: for GPUs, and for models that the transformers backend is slow with.

Every request carries a seed of its own, made of (seed, problem, sample), so a sample depends on no other; the draws are vLLM's, so they are not
those of the transformers backend, and a store keeps the two apart. Log-probabilities are those before temperature and top-p.

Tried with vLLM 0.32's build for CPUs (``tests/test_vllm.py``, which is skipped where there is no vLLM), never on a GPU.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from controlarm import seeds
from controlarm.backends import Completion, Request, Sampling
from controlarm.backends.words import Words, unloadable

vllm: Any = import_module(
    "vllm"
)  # where it is not installed, a checker would take this file for it


class VllmBackend:
    """A model in vLLM, loaded."""

    def __init__(self, model: str) -> None:
        """Load a model as vLLM does by default; code that it brings is never run.

        Raises:
            ValueError: it cannot be loaded.
        """
        self.words = Words(model)
        try:
            self.engine: Any = vllm.LLM(
                model=model,
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",
                generation_config="vllm",  # else the model's own top-k and top-p would enter
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(unloadable(model, error)) from error
        self.model = model
        self.revision = self.words.revision
        held = self.engine.llm_engine.model_config
        self.name = f"vllm {str(held.dtype).removeprefix('torch.')}"
        self.environment = f"vllm {vllm.__version__}"
        self.chat = self.words.chat
        context = held.max_model_len
        self.words.context = min(context, self.words.context or context)

    def complete(
        self, requests: Sequence[Request], sampling: Sampling, batch: int
    ) -> Iterator[tuple[Request, Completion]]:
        """As ``Backend.complete`` says; vLLM batches as it likes, and gets ``batch`` requests at a time."""
        encoded = self.words.encode(requests, sampling.max_tokens)
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            prompts = [{"prompt_token_ids": ids} for ids in encoded[start : start + batch]]
            asked = [self._params(request, sampling) for request in part]
            made = self.engine.generate(prompts, asked, use_tqdm=False)
            for request, prompt, output in zip(part, prompts, made, strict=True):
                one = output.outputs[0]
                yield (
                    request,
                    Completion(
                        text=one.text,
                        prompt_tokens=len(prompt["prompt_token_ids"]),
                        num_tokens=len(one.token_ids),
                        truncated=one.finish_reason == "length",
                        logprob=one.cumulative_logprob,
                    ),
                )

    def _params(self, request: Request, sampling: Sampling) -> Any:  # noqa: ANN401  vLLM's
        singles = {s: self.words.special(s) for s in sampling.stop}
        ends = self.words.end_ids | {token for token in singles.values() if token is not None}
        return vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=seeds.key("benchmark", sampling.seed, request.problem_id, request.sample) >> 65,
            stop=[s for s, token in singles.items() if token is None],
            stop_token_ids=sorted(ends),
            include_stop_str_in_output=True,
            logprobs=0,
        )
