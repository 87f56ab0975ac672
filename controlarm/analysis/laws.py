"""Two laws that training is said to obey, held against data they were not fitted to.

The entropy law (arXiv:2505.22617): reward is bought with entropy, R = b - a exp(H), so a policy whose entropy is spent has reached
its ceiling b - a. The catalyst law: a placebo gains what its shift of strategy is worth, Δ(code share) × (accuracy with code
- accuracy in words), the share effect of a Kitagawa split at the base's accuracies.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from controlarm.analysis.contrasts import ROUNDING, Estimate, estimate, t_interval

nan = float("nan")

LARGEST_ENTROPY = 50.0
"""Nats a token: no vocabulary reaches it, so more is a sum over tokens or another unit."""


class EntropyLaw(NamedTuple):
    """R = b - a exp(H), fitted by least squares. NaN without two distinct entropies."""

    a: float
    b: float
    rmse: float
    """Root mean square of what the law leaves, over the fitted points."""
    r2: float
    """1 - residual / total sum of squares; NaN where the reward is constant."""
    num_points: int
    at_bound: bool
    """The unbounded fit has a < 0 (reward fell with entropy): a is set to its bound 0 and b to the mean reward. The law does not hold here."""

    @property
    def ceiling(self) -> float:
        """Reward where no entropy is left, exp(0) = 1: b - a. Says nothing where ``at_bound``: it is then the mean reward."""
        return self.b - self.a

    def predict(self, entropy: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
        """Reward at these entropies."""
        return self.b - self.a * np.exp(entropy)


def entropy_law(
    entropy: Float[np.ndarray, " step"], reward: Float[np.ndarray, " step"]
) -> EntropyLaw:
    """Fit the law of arXiv:2505.22617 with a ≥ 0, over the steps where both are known (not NaN).

    It is a line in exp(H), so the fit is exact and the bounded optimum is the bound itself. Both change over training, so a high r2 alone
    shows no more than two trends: see ``forecast``.

    Raises:
        ValueError: an entropy below 0 or too large for nats a token, or an infinite reward.
    """
    entropy, reward = _both_known(entropy, reward)
    if len(entropy) == 0:
        return EntropyLaw(nan, nan, nan, nan, 0, False)
    x = np.exp(entropy)
    dx, dy = x - x.mean(), reward - reward.mean()
    if np.ptp(x) <= ROUNDING * x.max():
        return EntropyLaw(nan, nan, nan, nan, len(x), False)
    slope = float(dx @ dy / (dx @ dx))
    a = max(-slope, 0.0)
    b = float(reward.mean() + a * x.mean())
    rest = float(np.mean((dy + a * dx) ** 2))
    total = float(np.mean(dy**2))
    constant = np.ptp(reward) <= ROUNDING * np.abs(reward).max()
    return EntropyLaw(a, b, float(np.sqrt(rest)), nan if constant else 1 - rest / total, len(x), slope > 0)  # fmt: skip


def _both_known(
    entropy: Float[np.ndarray, " step"], reward: Float[np.ndarray, " step"]
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " known"]]:
    known = ~(np.isnan(entropy) | np.isnan(reward))
    entropy, reward = entropy[known], reward[known]
    if ((entropy < 0) | (entropy > LARGEST_ENTROPY)).any():
        raise ValueError(f"entropies are in nats a token, from 0 to {LARGEST_ENTROPY:g}; found {entropy.min():g} to {entropy.max():g}")  # fmt: skip
    if np.isinf(reward).any():
        raise ValueError("a reward is infinite; write NaN where there is none")
    return entropy, reward


class Forecast(NamedTuple):
    """The law fitted on the first steps, predicting the rest from their entropies."""

    law: EntropyLaw
    """Fitted on the first part."""
    rmse: float
    """Of the prediction, over the rest."""
    rmse_unchanged: float
    """Of predicting that reward stays at the mean of the fitted part: what knowing no law gives."""
    bias: float
    """Mean of predicted - observed over the rest."""
    num_predicted: int

    @property
    def skill(self) -> float:
        """1 - rmse² / rmse_unchanged²: 1 is a perfect law, 0 none at all, below 0 a harmful one. NaN where nothing changed."""
        return 1 - self.rmse**2 / self.rmse_unchanged**2 if self.rmse_unchanged > 0 else nan


def forecast(
    entropy: Float[np.ndarray, " step"], reward: Float[np.ndarray, " step"], share: float = 1 / 3
) -> Forecast:
    """Fit on the first ``share`` of the known steps, in order of training, and predict the others: out of sample."""
    if not 0 < share < 1:
        raise ValueError(f"the fitted share lies between 0 and 1, not {share}")
    entropy, reward = _both_known(entropy, reward)
    first = int(np.floor(share * len(entropy) + ROUNDING))
    law = entropy_law(entropy[:first], reward[:first])
    observed = reward[first:]
    if np.isnan(law.a) or len(observed) == 0:
        return Forecast(law, nan, nan, nan, len(observed))
    error = law.predict(entropy[first:]) - observed
    unchanged = float(reward[:first].mean()) - observed
    return Forecast(
        law, float(np.sqrt(np.mean(error**2))), float(np.sqrt(np.mean(unchanged**2))),
        float(error.mean()), len(observed),
    )  # fmt: skip


class Early(NamedTuple):
    """How much of a run's change happened in its first steps."""

    entropy_used: float
    """Share of the fall of entropy; NaN where entropy did not fall."""
    gain_made: float
    """Share of the rise of reward; NaN where reward did not rise."""


def early(
    entropy: Float[np.ndarray, " step"],
    reward: Float[np.ndarray, " step"],
    num_first: int,
    window: int = 1,
) -> Early:
    """Shares of the entropy used and of the gain made over the first ``num_first`` steps (paper: 73 % and 76 % in the first twelfth).

    (x_first - x_start) / (x_end - x_start), each x the mean over ``window`` steps: the first of all, the last of the first ``num_first``, the last of
    all. A share above 1 means that the end is nearer the start than step ``num_first`` was.
    """
    if not 1 <= window <= num_first <= len(entropy):
        raise ValueError(
            f"1 ≤ window ≤ num_first ≤ steps must hold; window is {window}, num_first {num_first}, there are {len(entropy)} steps"
        )

    def share(values: Float[np.ndarray, " step"], sign: int) -> float:
        start, end = values[:window].mean(), values[-window:].mean()
        change = sign * (end - start)
        if not change > ROUNDING * max(1.0, abs(start), abs(end)):
            return nan
        return float(sign * (values[num_first - window : num_first].mean() - start) / change)

    return Early(share(entropy, -1), share(reward, 1))


def predicted_placebo_gain(
    share_shift: Float[np.ndarray, " unit"], accuracy_gap: Float[np.ndarray, " unit"]
) -> Float[np.ndarray, " unit"]:
    """Shift of the code share × the base's accuracy gap between code and words.

    A share that did not move predicts 0 even where the gap is unknown (NaN) because one strategy never occurs; a share that moved to a strategy without a
    known accuracy predicts NaN.
    """
    return np.where(share_shift == 0, 0.0, share_shift * accuracy_gap)


class PredictionCheck(NamedTuple):
    """Predicted against observed gains over units. A law that holds has slope 1, intercept 0, r2_identity near 1."""

    slope: float
    slope_interval: tuple[float, float]
    """t with n - 2 degrees of freedom."""
    intercept: float
    intercept_interval: tuple[float, float]
    r2: float
    """Of the fitted line: squared correlation."""
    r2_interval: tuple[float, float]
    """By Fisher's z of the correlation, squared; from 0 where its interval holds 0. NaN below four units."""
    r2_identity: float
    """Of the prediction as it stands, no line fitted: 1 - Σ(observed - predicted)² / Σ(observed - mean)². Below 0: worse than their mean."""
    robust_slope: float
    """Theil (1950) and Sen (1968): median of the pairwise slopes."""
    robust_interval: tuple[float, float]
    """See ``theil_sen``; NaN below five units."""
    bias: Estimate
    """Observed - predicted: what the law leaves out."""
    bias_interval: tuple[float, float]
    num_units: int
    note: str | None = None
    """Why there is no line, where there is none."""


def prediction_check(
    predicted: Float[np.ndarray, " unit"], observed: Float[np.ndarray, " unit"], level: float = 0.95
) -> PredictionCheck:
    """Regress observed on predicted gains; units with a missing value (NaN) are left out.

    One pair a top unit (``contrasts.top_units``): training seeds of one pretrained model are not independent, and their intervals would be
    too short. Predictions that hardly differ over units make a slope of noise: read its interval. Noise in the predictions themselves (shares and
    accuracies are sampled) pulls the slope towards 0.
    """
    known = ~(np.isnan(predicted) | np.isnan(observed))
    x, y = predicted[known], observed[known]
    n = len(x)
    bias = estimate([float(d) for d in y - x])
    bias_interval = t_interval(bias, level)
    none = (nan, nan)
    spread_x, spread_y = (
        bool(n and np.ptp(v) > ROUNDING * max(1.0, np.abs(v).max())) for v in (x, y)
    )
    identity = float(1 - np.sum((y - x) ** 2) / np.sum((y - y.mean()) ** 2)) if spread_y else nan
    if n < 3 or not spread_x:
        note = (
            f"{n} units; a line needs at least 3" if n < 3 else "all predictions are equal: no line"
        )
        return PredictionCheck(nan, none, nan, none, nan, none, identity, nan, none, bias, bias_interval, n, note)  # fmt: skip
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    intercept = float(y.mean() - slope * x.mean())
    variance = float(np.sum((dy - slope * dx) ** 2)) / (n - 2)
    t = float(stats.t.ppf(0.5 + level / 2, n - 2))
    slope_half = t * float(np.sqrt(variance / (dx @ dx)))
    intercept_half = t * float(np.sqrt(variance * (1 / n + x.mean() ** 2 / (dx @ dx))))
    r = float(np.clip(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)), -1, 1)) if spread_y else nan
    robust, robust_interval = theil_sen(x, y, level)
    return PredictionCheck(
        slope, (slope - slope_half, slope + slope_half),
        intercept, (intercept - intercept_half, intercept + intercept_half),
        r**2, _r2_interval(r, n, level), identity,
        robust, robust_interval,
        bias, bias_interval, n,
    )  # fmt: skip


def theil_sen(
    x: Float[np.ndarray, " unit"], y: Float[np.ndarray, " unit"], level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Median of the slopes of all pairs with distinct x (Theil 1950, Sen 1968), and Sen's interval from the variance of Kendall's S.

    Ranks of the interval's ends are rounded outwards, and equal y are taken as distinct; both make it longer. NaN where so few pairs bound nothing.
    """
    i, j = np.triu_indices(len(x), 1)
    distinct = np.abs(x[i] - x[j]) > ROUNDING * max(1.0, float(np.abs(x).max()))
    slopes = np.sort((y[j] - y[i])[distinct] / (x[j] - x[i])[distinct])
    n, ties = len(x), np.unique(x, return_counts=True)[1]
    variance = (n * (n - 1) * (2 * n + 5) - int(np.sum(ties * (ties - 1) * (2 * ties + 5)))) / 18
    reach = float(stats.norm.ppf(0.5 + level / 2)) * float(np.sqrt(variance))
    outside = int(np.floor((len(slopes) - reach) / 2))
    if outside < 1:
        return float(np.median(slopes)), (nan, nan)
    return float(np.median(slopes)), (float(slopes[outside - 1]), float(slopes[-outside]))


def _r2_interval(r: float, num_units: int, level: float) -> tuple[float, float]:
    """Square of tanh(artanh r ± z/√(n - 3)) (Fisher 1921); the point 1 for a perfect line."""
    if num_units < 4 or np.isnan(r):
        return nan, nan
    if 1 - abs(r) <= ROUNDING:
        return 1.0, 1.0
    half = float(stats.norm.ppf(0.5 + level / 2)) / np.sqrt(num_units - 3)
    low, high = (float(np.tanh(np.arctanh(abs(r)) + sign * half)) for sign in (-1, 1))
    return max(low, 0.0) ** 2, max(high**2, low**2)
