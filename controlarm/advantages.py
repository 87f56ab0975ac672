"""Credit: from the rewards of a group to the advantages of its members, in float64.

A group of equal rewards has *exactly* zero advantage: least and greatest are compared, no subtraction is trusted. In
float32 eight rewards of 0.1 would get -0.41 each out of rounding, a signal that no placebo trial can afford.
"""

import numpy as np
from jaxtyping import Float

EPS = 1e-6


def group_relative(
    rewards: Float[np.ndarray, "*batch sample"],
) -> Float[np.ndarray, "*batch sample"]:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-6), std with n - 1: GRPO (arXiv:2402.03300), section 4.1.2.

    A sample whose reward failed (NaN) gets 0 and does not count in its group's mean and deviation.

    >>> group_relative(np.array([[0.1, 0.1, 0.1], [0.0, 1.0, np.nan]]))
    array([[ 0.        ,  0.        ,  0.        ],
           [-0.70710578,  0.70710578,  0.        ]])
    """
    rewards = rewards.astype(np.float64)
    paid = ~np.isnan(rewards)
    count = paid.sum(-1, keepdims=True)
    known = np.where(paid, rewards, 0.0)
    mean = known.sum(-1, keepdims=True) / np.maximum(count, 1)
    residual = np.where(paid, rewards - mean, 0.0)
    deviation = np.sqrt((residual**2).sum(-1, keepdims=True) / np.maximum(count - 1, 1))
    least = np.where(paid, rewards, np.inf).min(-1, keepdims=True)
    greatest = np.where(paid, rewards, -np.inf).max(-1, keepdims=True)
    return np.where(least < greatest, residual / (deviation + EPS), 0.0)
