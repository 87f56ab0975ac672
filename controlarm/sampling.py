"""Batched decoding of all runs in lockstep, with a key-value cache whose prompt part the samples of a group share.

Sampling is Gumbel-max: token = argmax(log p + g), the noise g keyed by seed, step, problem, sample and position, not by
run. Two runs that hold the same policy and see the same problems therefore sample the same texts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from controlarm import seeds
from controlarm.organisms.tokenizer import END, PAD
from controlarm.organisms.transformer import (
    MASKED,
    Shape,
    Weights,
    compiled_form,
    embed,
    hidden_states_with_cache,
    logits,
    mlp,
    project,
    rms_norm,
    rotary,
    rotate,
)

TINY = np.finfo(np.float32).tiny
"""Floor of an exponential draw, so that its logarithm is finite."""


class Completions(NamedTuple):
    """What was sampled. Positions after the end token are padding with log-probability and entropy 0."""

    tokens: Int[Tensor, "run prompt sample token"]
    logprobs: Float[Tensor, "run prompt sample token"]
    """float32, of each token under the policy that sampled it, temperature 1."""
    entropy: Float[Tensor, "run prompt sample token"]
    """float32, of the distribution that each token was drawn from, in nats."""


def gumbel_noise(
    paths: Sequence[Sequence[tuple[seeds.Part, ...] | None]], num_tokens: int, vocab: int
) -> Float[Tensor, "prompt sample token vocab"]:
    """Standard Gumbel noise, each sample keyed by its own path; zero, which decodes greedily, where the path is None.

    Padding gets -inf, so that it is never drawn: it marks what comes after the end token.
    """
    noise = np.zeros((len(paths), len(paths[0]), num_tokens, vocab), dtype=np.float32)
    for i, row in enumerate(paths):
        for j, path in enumerate(row):
            if path is None:
                continue
            rng = seeds.generator("sampling", *path)
            rng.standard_exponential(out=noise[i, j], dtype=np.float32)
            np.log(np.maximum(noise[i, j], TINY), out=noise[i, j])
    noise[..., PAD] = np.inf
    return torch.from_numpy(noise).neg_()


class Cache(NamedTuple):
    """Rotated keys and values: of the prompts, shared by their samples, and of each sample's own tokens."""

    prompt_keys: list[Float[Tensor, "run prompt head place width"]]
    """One tensor a layer, here and below."""
    prompt_values: list[Float[Tensor, "run prompt head place width"]]
    prompt_bias: Float[Tensor, "run prompt 1 1 place"]
    """Zero, or a large negative number at padding."""
    keys: list[Float[Tensor, "run prompt head sample width token"]]
    """Tokens innermost: scores are then sums over rows of one contiguous vector."""
    values: list[Float[Tensor, "run prompt head sample token width"]]


class Choice(NamedTuple):
    """One decoded token of every rollout."""

    token: Int[Tensor, "run row"]
    logprob: Float[Tensor, "run row"]
    entropy: Float[Tensor, "run row"]


def choose(scores: Float[Tensor, "run row vocab"], noise: Float[Tensor, "run row vocab"]) -> Choice:
    """Gumbel-max draw from softmax(scores); zero noise is greedy."""
    logp = torch.log_softmax(scores, dim=-1)
    token = (logp + noise).argmax(-1)
    logprob = logp.gather(-1, token[..., None])[..., 0]
    return Choice(token, logprob, -(logp.exp() * logp).sum(-1))


def decode_step(
    weights: Weights,
    cache: Cache,
    token: Int[Tensor, "run row"],
    noise: Float[Tensor, "run row vocab"],
    place: Int[Tensor, " 1"],
    shape: Shape,
) -> Choice:
    """Append ``token`` at completion position ``place``, whose keys and values enter the cache, and draw the next one."""
    runs, num_prompts, heads, num_samples, width, max_tokens = cache.keys[0].shape
    dtype, prompt_length = weights["embed"].dtype, cache.prompt_keys[0].shape[-2]
    cos, sin = rotary(place + prompt_length, width, dtype)
    own_bias = torch.where(torch.arange(max_tokens, device=place.device) <= place, 0.0, MASKED)
    x = embed(weights, token, dtype)
    for i in range(shape.layers):
        h = rms_norm(x, weights[f"{i}.norm1"])
        q, k, v = (
            project(h, weights[f"{i}.{name}"])
            .view(runs, num_prompts, num_samples, heads, width)
            .transpose(2, 3)
            for name in "qkv"
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        cache.keys[i].index_copy_(-1, place, k[..., None])
        cache.values[i].index_copy_(-2, place, v[..., None, :])
        to_prompt = (q @ cache.prompt_keys[i].transpose(-1, -2)).float() * width**-0.5
        to_own = (q[..., None].float() * cache.keys[i].float()).sum(-2) * width**-0.5
        both = torch.cat((to_prompt + cache.prompt_bias, to_own + own_bias), dim=-1)
        attention = torch.softmax(both, dim=-1)
        of_prompt, of_own = attention.split((prompt_length, max_tokens), dim=-1)
        mixed = of_prompt.to(dtype) @ cache.prompt_values[i]
        mixed = mixed + (of_own[..., None] * cache.values[i].float()).sum(-2).to(dtype)
        x = x + project(mixed.transpose(2, 3).reshape(x.shape), weights[f"{i}.o"])
        x = x + mlp(weights, i, rms_norm(x, weights[f"{i}.norm2"]))
    return choose(logits(weights, rms_norm(x, weights["norm"])), noise)


@torch.no_grad()
def sample(
    weights: Weights,
    prompts: Int[Tensor, "run prompt place"],
    noise: Float[Tensor, "run prompt sample token vocab"],
    shape: Shape,
    compiled: bool,
) -> Completions:
    """Decode completions of every prompt.

    Args:
        weights: compute copy; its dtype is the compute dtype.
        prompts: left-padded.
        noise: Gumbel noise, zero where decoding is greedy; its shape says how many samples and tokens.
        shape: sizes of the model.
        compiled: use the compiled step.

    Returns:
        Completions; one without an end token within the noise's length is truncated.
    """
    runs, num_prompts, num_samples, max_tokens, vocab = noise.shape
    rows = num_prompts * num_samples
    hidden, layers = hidden_states_with_cache(weights, prompts, shape)
    own = (runs, num_prompts, shape.heads, num_samples)
    like = {"dtype": hidden.dtype, "device": hidden.device}
    cache = Cache(
        [keys.contiguous() for keys, _ in layers],
        [values.contiguous() for _, values in layers],
        torch.where(prompts == PAD, MASKED, 0.0)[:, :, None, None, :],
        [torch.zeros(*own, shape.head, max_tokens, **like) for _ in layers],
        [torch.zeros(*own, max_tokens, shape.head, **like) for _ in layers],
    )
    step = compiled_form(decode_step) if compiled else decode_step
    noise = noise.reshape(runs, rows, max_tokens, vocab)
    first = logits(weights, hidden[:, :, -1:]).expand(runs, num_prompts, num_samples, vocab)
    drawn = choose(first.reshape(runs, rows, vocab), noise[:, :, 0])
    alive = torch.ones_like(drawn.token, dtype=torch.bool)
    tokens = torch.full((runs, rows, max_tokens), PAD, device=prompts.device)
    logprobs = torch.zeros(runs, rows, max_tokens, device=prompts.device)
    entropy = torch.zeros_like(logprobs)
    for t in range(max_tokens):
        tokens[..., t] = torch.where(alive, drawn.token, PAD)
        logprobs[..., t] = torch.where(alive, drawn.logprob, 0.0)
        entropy[..., t] = torch.where(alive, drawn.entropy, 0.0)
        alive &= drawn.token != END
        if t + 1 == max_tokens or not alive.any():
            break
        place = torch.tensor([t], device=prompts.device)
        drawn = step(weights, cache, tokens[..., t], noise[:, :, t + 1].contiguous(), place, shape)
    grid = (runs, num_prompts, num_samples, max_tokens)
    return Completions(tokens.view(grid), logprobs.view(grid), entropy.view(grid))
