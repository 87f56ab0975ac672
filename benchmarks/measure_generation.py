"""One way to generate, in this process: `python -m benchmarks.measure_generation RESULT.json MODEL WAY PROBLEMS SAMPLES BATCH`."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig

from controlarm import prompts
from controlarm.backends import Request, Sampling
from controlarm.backends.transformers import TransformersBackend
from controlarm.problems import arithmetic

MAX_TOKENS = 40


def by_backend(backend: TransformersBackend, requests: Sequence[Request], batch: int) -> int:
    """Tokens that the backend generates."""
    sampling = Sampling(1.0, 1.0, MAX_TOKENS, 1)
    return sum(c.num_tokens for _, c in backend.complete(requests, sampling, batch))


def by_generate(cache: str | None) -> Callable[[TransformersBackend, Sequence[Request], int], int]:
    """The same by ``generate``, one batch after the other."""

    def generate(backend: TransformersBackend, requests: Sequence[Request], batch: int) -> int:
        tokens = 0
        for start in range(0, len(requests), batch):
            texts = [request.prompt.text for request in requests[start : start + batch]]
            asked = backend.words.tokenizer(texts, return_tensors="pt", padding=True)
            extra = {"cache_implementation": cache} if cache else {}
            with torch.inference_mode():
                made = backend.network.generate(
                    **asked, max_new_tokens=MAX_TOKENS, do_sample=True, temperature=1.0, top_k=0, disable_compile=True, **extra,
                )  # fmt: skip
            said = made[:, asked["input_ids"].shape[1] :]
            tokens += int((said != backend.words.pad_id).sum())
        return tokens

    return generate


def by_continuous_batching(
    backend: TransformersBackend, requests: Sequence[Request], batch: int
) -> int:
    """The same by ``generate_batch``, which sizes its batches itself."""
    config = GenerationConfig(
        max_new_tokens=MAX_TOKENS, do_sample=True, temperature=1.0, eos_token_id=min(backend.words.end_ids),
        pad_token_id=backend.words.pad_id,
    )  # fmt: skip
    ids = [backend.words.tokens(request.prompt.text, special=True) for request in requests]
    made = backend.network.generate_batch(inputs=ids, generation_config=config)
    return sum(len(one.generated_tokens) for one in made.values())


WAYS = {
    "backend": by_backend,
    "generate, growing cache": by_generate(None),
    "generate, static cache": by_generate("static"),
    "continuous batching": by_continuous_batching,
}


def main() -> None:
    """Warm up on one batch of at most a quarter, then time the whole."""
    result, model, way, problems, samples, batch = sys.argv[1:]
    backend = TransformersBackend(model, "cpu")
    line = prompts.TEMPLATES["line"]
    requests = [
        Request(p.id, s, prompts.prompt(line, p.text, None))
        for p in arithmetic.problems("held_out", int(problems), "trial")
        for s in range(int(samples))
    ]
    run = WAYS[way]
    run(backend, requests[: max(1, len(requests) // 4)], int(batch))
    began = time.process_time()
    tokens = run(backend, requests, int(batch))
    processor = time.process_time() - began
    found = {"completions": len(requests), "tokens": tokens, "processor": processor}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
