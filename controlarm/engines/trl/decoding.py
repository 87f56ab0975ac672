"""Completions of a Hugging Face model by keyed noise: what is drawn depends on neither batch, process nor resume, but for rounding.

``generate`` would draw from torch's global stream, whose place depends on everything that was drawn before.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from controlarm import seeds
from controlarm.sampling import gumbel_noise

Path = tuple[seeds.Part, ...]


class Speaker(NamedTuple):
    """A tokenizer's special tokens, and how a model is sampled."""

    pad: int
    ends: list[int]
    """Tokens that end a completion; the first that is drawn is its last."""
    gumbel: bool
    """True for an organism: the noise of the engine lockstep, so that both engines draw the same. It takes a number for each token of
    the vocabulary at each position; otherwise one uniform number a position is turned into a token by the inverse of the distribution."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Needed where there are stops."""
    stops: tuple[str, ...] = ()
    """A completion ends behind the first token that completes one of these."""


class Decoded(NamedTuple):
    """One completion."""

    tokens: list[int]
    """Its end token included, if it has one."""
    logprobs: list[float]
    """Of each token, at temperature 1, under the model that drew it."""
    entropy: list[float]
    """Of the distribution that each token was drawn from, in nats."""
    truncated: bool


class Keyed(LogitsProcessor):
    """Draws each row's token itself and leaves ``generate`` nothing else to choose."""

    def __init__(
        self, paths: Sequence[Path | None], max_tokens: int, speaker: Speaker, start: int
    ) -> None:
        self.start, self.speaker = start, speaker
        self.greedy = torch.tensor([path is None for path in paths])
        self.paths, self.max_tokens = paths, max_tokens
        self.noise: Tensor | None = None
        self.logprobs: list[Tensor] = []
        self.entropy: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """All but the drawn token get -inf.

        Args:
            input_ids: [row, place], prompt and what was drawn so far.
            scores: [row, vocab], logits in float32.
        """
        place = input_ids.shape[1] - self.start
        told = torch.log_softmax(scores.float(), dim=-1)
        drawn = self._draw(told, place)
        self.logprobs.append(told.gather(1, drawn[:, None])[:, 0].cpu())
        self.entropy.append(torch.special.entr(told.exp()).sum(-1).cpu())
        alone = torch.full_like(scores, -torch.inf)
        return alone.scatter_(1, drawn[:, None], 0.0)

    def _draw(self, told: Tensor, place: int) -> Tensor:
        allowed = told
        if self.speaker.pad not in self.speaker.ends:  # padding marks what comes after the end
            allowed = told.clone()
            allowed[:, self.speaker.pad] = -torch.inf
        if self.noise is None:
            self.noise = self._all_noise(told.shape[1]).to(told.device)
        now = self.noise[:, place]
        best = allowed.argmax(-1)
        if self.speaker.gumbel:
            return (allowed + now).argmax(-1)
        below = allowed.double().exp().cumsum(-1)
        reached = torch.searchsorted(below, (now * below[:, -1])[:, None], right=True)[:, 0]
        # Rounding at the upper end must not reach a token of probability 0: the likeliest stands in.
        reached = torch.where(reached < told.shape[1], reached, best)
        return torch.where(self.greedy.to(best.device), best, reached)

    def _all_noise(self, vocab: int) -> Tensor:
        if self.speaker.gumbel:
            return gumbel_noise([list(self.paths)], self.max_tokens, vocab)[0]
        rows = [
            np.zeros(self.max_tokens)
            if path is None
            else seeds.generator("sampling", *path).random(self.max_tokens)
            for path in self.paths
        ]
        return torch.from_numpy(np.stack(rows))


def decode(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    paths: Sequence[Path | None],
    max_tokens: int,
    speaker: Speaker,
    rows: int,
) -> list[Decoded]:
    """Completions of prompts at temperature 1, each by the noise of its own path; greedy where the path is None.

    Args:
        model: what speaks.
        prompts: token ids, of any length but 0.
        paths: one a prompt.
        max_tokens: longest completion.
        speaker: special tokens.
        rows: completions made at once.
    """
    found: list[Decoded] = []
    for at in range(0, len(prompts), rows):
        found += _block(model, prompts[at : at + rows], paths[at : at + rows], max_tokens, speaker)
    return found


def _block(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    paths: Sequence[Path | None],
    max_tokens: int,
    speaker: Speaker,
) -> list[Decoded]:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[speaker.pad] * (longest - len(p)) + list(p) for p in prompts])
    real = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    keyed = Keyed(paths, max_tokens, speaker, longest)
    settings: dict[str, Any] = dict(
        max_new_tokens=max_tokens, do_sample=False, num_beams=1, pad_token_id=speaker.pad,
        eos_token_id=speaker.ends, disable_compile=True,
    )  # fmt: skip
    halting: dict[str, Any] = {}
    if speaker.stops:
        settings["stop_strings"] = list(speaker.stops)
        halting["tokenizer"] = speaker.tokenizer
    with torch.no_grad():
        whole: Any = model.generate(  # type: ignore[operator]
            tokens.to(model.device),
            attention_mask=real.to(model.device),
            generation_config=GenerationConfig(**settings),
            logits_processor=LogitsProcessorList([keyed]),
            **halting,
        )
    said = whole[:, longest:].tolist()
    logprobs = torch.stack(keyed.logprobs, 1).tolist()
    entropy = torch.stack(keyed.entropy, 1).tolist()
    return [cut(ids, logprobs[row], entropy[row], speaker) for row, ids in enumerate(said)]


def cut(ids: list[int], logprobs: list[float], entropy: list[float], speaker: Speaker) -> Decoded:
    """A completion up to its end: the first end token, or the token that completes a stop, whichever is first.

    Args:
        ids: drawn tokens, and whatever stands behind the end.
        logprobs: as long, or longer.
        entropy: likewise.
        speaker: says what ends it.
    """
    end = next((i for i, token in enumerate(ids) if token in speaker.ends), None)
    length = len(ids) if end is None else end + 1
    stopped = _stopped(ids[:length], speaker)
    length = min(length, stopped or length)
    return Decoded(ids[:length], logprobs[:length], entropy[:length], end is None and not stopped)


def _stopped(ids: list[int], speaker: Speaker) -> int:
    """How many tokens there are up to the one that completes a stop; 0: no stop is in the text."""
    if not speaker.stops or speaker.tokenizer is None:
        return 0

    def holds(length: int) -> bool:
        text = speaker.tokenizer.decode(ids[:length])  # type: ignore[union-attr]
        return any(stop in text for stop in speaker.stops)

    if not holds(len(ids)):
        return 0
    low, high = 1, len(ids)
    while low < high:  # a text that holds a stop still does with more tokens
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
