"""Credit: from the rewards of a group to the advantages of its members, in float64. Every algorithm's, side by side.

A group of equal rewards has *exactly* zero advantage: least and greatest are compared, no subtraction is trusted. In
float32 eight rewards of 0.1 would get -0.41 each out of rounding, a signal that no placebo trial can afford.

A sample whose reward failed (NaN) gets 0 and does not count in its group.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

EPS = 1e-6

Rewards = Float[np.ndarray, "*batch sample"]


class _Group(NamedTuple):
    """Rewards with what is known of each group."""

    residual: Rewards
    """Reward minus the group's mean; 0 where it failed."""
    num_paid: Float[np.ndarray, "*batch 1"]
    differs: Bool[np.ndarray, "*batch 1"]
    """False where all rewards of the group are equal."""


def _grouped(rewards: Rewards) -> _Group:
    rewards = rewards.astype(np.float64)
    paid = ~np.isnan(rewards)
    count = paid.sum(-1, keepdims=True).astype(np.float64)
    known = np.where(paid, rewards, 0.0)
    mean = known.sum(-1, keepdims=True) / np.maximum(count, 1)
    least = np.where(paid, rewards, np.inf).min(-1, keepdims=True)
    greatest = np.where(paid, rewards, -np.inf).max(-1, keepdims=True)
    return _Group(np.where(paid, rewards - mean, 0.0), count, least < greatest)


def group_relative(rewards: Rewards) -> Rewards:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-6), std with n - 1: GRPO (arXiv:2402.03300), section 4.1.2.

    >>> group_relative(np.array([[0.1, 0.1, 0.1], [0.0, 1.0, np.nan]]))
    array([[ 0.        ,  0.        ,  0.        ],
           [-0.70710578,  0.70710578,  0.        ]])
    """
    group = _grouped(rewards)
    squares = (group.residual**2).sum(-1, keepdims=True)
    deviation = np.sqrt(squares / np.maximum(group.num_paid - 1, 1))
    return np.where(group.differs, group.residual / (deviation + EPS), 0.0)


def group_mean(rewards: Rewards) -> Rewards:
    """A_i = r_i - mean(r): Dr. GRPO (arXiv:2503.20783), which leaves the deviation out since it weighs easy and hard problems up.

    >>> group_mean(np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    array([[-0.5,  0.5,  0.5, -0.5],
           [ 0. ,  0. ,  0. ,  0. ]])
    """
    group = _grouped(rewards)
    return np.where(group.differs, group.residual, 0.0)


def leave_one_out(rewards: Rewards) -> Rewards:
    """A_i = r_i - mean of the others = n/(n - 1) · (r_i - mean(r)): RLOO (arXiv:2402.14740). 0 for a group of one.

    >>> leave_one_out(np.array([[0.0, 1.0, 1.0]]))
    array([[-1. ,  0.5,  0.5]])
    """
    group = _grouped(rewards)
    factor = np.where(group.num_paid > 1, group.num_paid / np.maximum(group.num_paid - 1, 1), 0.0)
    return np.where(group.differs, factor * group.residual, 0.0)


def plain(rewards: Rewards) -> Rewards:
    """A_i = r_i; what it is compared with is the batch, by ``whitened``: REINFORCE++ (arXiv:2501.03262), without discount."""
    return np.nan_to_num(rewards.astype(np.float64), nan=0.0)


def over_greedy(rewards: Rewards, greedy: Float[np.ndarray, "*batch"]) -> Rewards:
    """A_i = r_i - r(greedy completion): ReMax (arXiv:2310.10505). 0 where either reward failed.

    >>> over_greedy(np.array([[0.0, 1.0]]), np.array([1.0]))
    array([[-1.,  0.]])
    """
    return np.nan_to_num(rewards.astype(np.float64) - greedy[..., None], nan=0.0)


BY_GROUP: dict[str, Callable[[Rewards], Rewards]] = {
    "group_relative": group_relative,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
    "reward": plain,
}
"""Credit that needs no more than the group's rewards."""


def generalised(
    rewards: Float[np.ndarray, "run rollout"],
    values: Float[np.ndarray, "run rollout token"],
    real: Bool[np.ndarray, "run rollout token"],
    lam: float,
) -> Float[np.ndarray, "run rollout token"]:
    """GAE (arXiv:1506.02438) eq. 16 with γ = 1 and the reward at the last token.

    A_t = Σ_l λ^l δ_{t+l}, δ_t = V_{t+1} - V_t, and r - V_T at the end. With λ = 1 it is r - V_t. A completion whose reward failed
    has 0 throughout.

    Args:
        rewards: of whole completions.
        values: of the state before each token.
        real: where a token was sampled; completions are right-padded.
        lam: λ.
    """
    found = np.zeros(values.shape)
    paid = ~np.isnan(rewards)
    carried, following = np.zeros(rewards.shape), np.zeros(rewards.shape)
    ended = np.zeros(rewards.shape, dtype=bool)
    for t in reversed(range(values.shape[-1])):
        here = real[..., t]
        reached = np.where(ended, following, np.nan_to_num(rewards))
        delta = reached - values[..., t]
        carried = np.where(here, delta + lam * np.where(ended, carried, 0.0), carried)
        found[..., t] = np.where(here & paid, carried, 0.0)
        following = np.where(here, values[..., t], following)
        ended = ended | here
    return found


def whitened(
    advantages: Float[np.ndarray, "run rollout #token"], real: Bool[np.ndarray, "run rollout token"]
) -> Float[np.ndarray, "run rollout token"]:
    """(A - mean) / sqrt(variance + 1e-8) over the tokens of each run's rollout batch, each token alike, variance with n - 1.

    REINFORCE++ (arXiv:2501.03262) and PPO as run on language models do it. So did the code of arXiv:2506.10947 after group-relative credit: the
    mean over *tokens* of credit that is centred over *rollouts* is not 0 where lengths differ, so a group of equal rewards gets a constant that
    is not 0. A batch whose advantages are all equal has exactly 0.
    """
    wide = np.broadcast_to(advantages, real.shape)
    count = real.sum((-2, -1), keepdims=True).astype(np.float64)
    known = np.where(real, wide, 0.0)
    mean = known.sum((-2, -1), keepdims=True) / np.maximum(count, 1)
    residual = np.where(real, wide - mean, 0.0)
    variance = (residual**2).sum((-2, -1), keepdims=True) / np.maximum(count - 1, 1)
    least = np.where(real, wide, np.inf).min((-2, -1), keepdims=True)
    greatest = np.where(real, wide, -np.inf).max((-2, -1), keepdims=True)
    return np.where(least < greatest, residual / np.sqrt(variance + 1e-8), 0.0)


def overlong(
    lengths: Float[np.ndarray, "*batch"], max_tokens: int, buffer: int
) -> Float[np.ndarray, "*batch"]:
    """What a long completion loses: 0 up to max_tokens - buffer, then linear to -1 at max_tokens: DAPO (arXiv:2503.14476) eq. 13.

    >>> overlong(np.array([20.0, 30.0, 32.0]), 32, 4)
    array([ 0. , -0.5, -1. ])
    """
    return np.minimum(0.0, (max_tokens - buffer - lengths) / buffer) if buffer else 0.0 * lengths
