"""What a gain was made of: by arm (null, elicitation, reward design), by strategy (Kitagawa), by format.

Each split adds up to the gain exactly; none is a causal claim beyond the arms' own contrasts.
"""

from typing import NamedTuple

from controlarm.analysis.folder import RIGHT, UNKNOWN, Evaluation


class Parts(NamedTuple):
    """Ground truth's gain over base, of one unit."""

    null: float
    """Placebo - base: what training on noise gave."""
    elicitation: float
    """Majority - placebo: what agreeing with oneself gave beyond that."""
    reward_design: float
    """Ground truth - majority: what knowing the answers gave beyond that."""

    @property
    def total(self) -> float:
        return self.null + self.elicitation + self.reward_design


def three_parts(base: float, placebo: float, majority: float, ground_truth: float) -> Parts:
    """The telescoping sum base → placebo → majority → ground truth."""
    return Parts(placebo - base, majority - placebo, ground_truth - majority)


class Strategies(NamedTuple):
    """How often a policy writes code, and how often it is right in either strategy. NaN: no such completion."""

    code_share: float
    code_accuracy: float
    words_accuracy: float

    @property
    def accuracy(self) -> float:
        """Shares times accuracies; a strategy that never occurs adds nothing."""
        code = self.code_share * self.code_accuracy if self.code_share > 0 else 0.0
        words = (1 - self.code_share) * self.words_accuracy if self.code_share < 1 else 0.0
        return code + words


class Kitagawa(NamedTuple):
    """The two effects; their sum is the gain."""

    share_effect: float
    accuracy_effect: float


def kitagawa(before: Strategies, after: Strategies) -> Kitagawa:
    """Split a gain without an interaction term (Kitagawa 1955).

    share effect = Σ Δshare · mean accuracy; accuracy effect = Σ Δaccuracy · mean share, over the two strategies. Where a strategy occurs on one side only, its
    accuracy there stands for both: choosing it is a shift of share. The split says what moved, not why: strategies are not used on equally hard problems.
    """
    code = _filled(before.code_accuracy, after.code_accuracy)
    words = _filled(before.words_accuracy, after.words_accuracy)
    shift = after.code_share - before.code_share
    mean_share = (after.code_share + before.code_share) / 2
    return Kitagawa(
        shift * (sum(code) - sum(words)) / 2,
        (code[1] - code[0]) * mean_share + (words[1] - words[0]) * (1 - mean_share),
    )


def _filled(before: float, after: float) -> tuple[float, float]:
    known = [value for value in (before, after) if value == value]
    if not known:
        return 0.0, 0.0
    return (before if before == before else known[0]), (after if after == after else known[0])


def strategies_of(evaluation: Evaluation) -> Strategies:
    """Strategies of the samples by the substring detector, strict verdicts; completions of unknown verdict are left out."""
    known = evaluation.sampled.strict != UNKNOWN
    right = evaluation.sampled.strict == RIGHT
    code = evaluation.sampled.has_python
    num_code, num_words = int((known & code).sum()), int((known & ~code).sum())
    if num_code + num_words == 0:
        return Strategies(float("nan"), float("nan"), float("nan"))
    return Strategies(
        num_code / (num_code + num_words),
        int((right & code).sum()) / num_code if num_code else float("nan"),
        int((right & ~code).sum()) / num_words if num_words else float("nan"),
    )
