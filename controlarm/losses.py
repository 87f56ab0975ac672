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
    real: Bool[Tensor, "run rollout token"], aggregation: Literal["token_mean", "sequence_mean"]
) -> Tokens:
    """Weights that sum to 1 over the real tokens of each run.

    ``token_mean``: every token alike (DAPO, arXiv:2503.14476). ``sequence_mean``: every rollout alike, its tokens sharing
    (GRPO, arXiv:2402.03300 eq. 3). Compute them over a whole update before cutting it into parts.
    """
    ones = real.float()
    if aggregation == "token_mean":
        return ones / ones.sum((1, 2), keepdim=True)
    return ones / ones.sum(2, keepdim=True) / real.shape[1]
