"""What is minimised, per token. Aggregation is a matter of weights, so that the parts of a batch add up to the whole."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "run rollout token"]
"""Or one number a node, ``[slot, row, node]``, where rollouts share a token."""


def clipped_surrogate(
    logprobs: Tokens,
    old_logprobs: Tokens,
    gains: Tokens,
    losses: Tokens,
    epsilon_low: float,
    epsilon_high: float,
) -> Tokens:
    """-Σ min(ρA, clip(ρ, 1-ε_low, 1+ε_high)A), ρ = π/π_old: PPO (arXiv:1707.06347) eq. 7, bounds apart as in DAPO.

    The sum is over the rollouts that share the token; of their advantages only two sums matter, since clipping binds
    above where A > 0 and below where A < 0: -(min(ρ, 1+ε_high) Σ max(A, 0) + max(ρ, 1-ε_low) Σ min(A, 0)).
    A bound of infinity switches its side off. With ρ = 1 the gradient is REINFORCE's.

    Args:
        logprobs: under the policy that is trained.
        old_logprobs: under the policy that sampled.
        gains: Σ max(A, 0), weighted.
        losses: Σ min(A, 0), weighted.
        epsilon_low: bound below.
        epsilon_high: bound above.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    return -(ratio.clamp(max=1 + epsilon_high) * gains + ratio.clamp(min=1 - epsilon_low) * losses)


def kl_k3(logprobs: Tokens, other_logprobs: Tokens) -> Tokens:
    """exp(d) - d - 1 with d = other - policy: unbiased, never negative estimate of KL(policy || other).

    Source: GRPO (arXiv:2402.03300) eq. 4; J. Schulman, "Approximating KL divergence" (2020).
    """
    difference = other_logprobs - logprobs
    return torch.exp(difference) - difference - 1


def token_weights(
    real: Bool[Tensor, "run rollout token"],
    aggregation: Literal["token_mean", "sequence_mean", "constant_length"],
) -> Tokens:
    """Weights of the real tokens of each run; nothing counts of a rollout without any.

    ``token_mean``: every token alike (DAPO, arXiv:2503.14476). ``sequence_mean``: every rollout alike, its tokens sharing
    (GRPO, arXiv:2402.03300 eq. 3). Both sum to 1. ``constant_length``: every token alike, but a rollout counts as if it had the longest
    length, so that long wrong completions are not treated more gently than short ones (Dr. GRPO, arXiv:2503.20783).
    Compute them over a whole update before cutting it into parts.
    """
    ones = real.float()
    if aggregation == "token_mean":
        return ones / ones.sum((1, 2), keepdim=True).clamp(min=1)
    lengths = ones.sum(2, keepdim=True)
    rollouts = (lengths > 0).float().sum(1, keepdim=True).clamp(min=1)
    if aggregation == "sequence_mean":
        return ones / lengths.clamp(min=1) / rollouts
    return ones / rollouts / real.shape[2]


def sequence_log_ratio(
    logprobs: Float[Tensor, "run rollout token"],
    old_logprobs: Float[Tensor, "run rollout token"],
    real: Bool[Tensor, "run rollout token"],
) -> Float[Tensor, "run rollout"]:
    """log s = mean over a completion's tokens of log π - log π_old: GSPO (arXiv:2507.18071), the logarithm of its length-normalised ratio.

    0 for a completion without tokens.
    """
    difference = torch.where(real, logprobs - old_logprobs, 0.0)
    return difference.sum(-1) / real.sum(-1).clamp(min=1)
