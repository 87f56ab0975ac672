"""The report's sentences. A number becomes words in one place, so page and command line cannot disagree.

An arm's advantage is a gain over placebo. Only the base's comparison is a raw gain, and it is never called learning.
"""

from controlarm.analysis.contrasts import Estimate, t_interval


def points(fraction: float) -> str:
    """Percentage points with one decimal, without a sign on zero.

    >>> points(0.2134), points(-0.0004)
    ('21.3', '0.0')
    """
    return f"{round(100 * fraction, 1) + 0.0:.1f}"


def interval(e: Estimate) -> str:
    """Interval and number of units, as said in brackets."""
    if e.note is not None:
        return e.note
    low, high = t_interval(e, 0.95)
    return f"95 % interval {points(low)} to {points(high)}, {e.num_units} seeds"


def change(mean: float) -> str:
    """A verb and its points: ``gains 3.0 points``, ``loses 3.0 points``."""
    return f"{'loses' if mean < 0 else 'gains'} {points(abs(mean))} points"


def contrast(where: str, arm: str, placebo: str, e: Estimate, outcome: str, label: str = "") -> str:
    """The verdict on one arm.

    Example: ``coder: ground_truth gains 21.3 points over random (95 % interval 15.0 to 27.6, 3 seeds): superior.``
    """
    if e.num_units == 0:
        return f"{where}: {arm} cannot be compared with {placebo}: {e.note}."
    word = "against" if e.mean < 0 else "over"
    return f"{where}: {arm} {change(e.mean)} {word} {placebo} ({interval(e)}): {outcome}{label}."


def placebo_part(
    where: str, arm: str, placebo: str, raw: Estimate, null: Estimate, by_luck: bool
) -> str:
    """How much of an arm's raw gain over base the placebo gave by itself.

    A share is given only where both are clearly above 0: a share of nothing has no meaning, and a share that chance
    may have made would be read as a finding. ``by_luck``: the placebo's interval is too short to say so.
    """
    alone = f"{placebo} alone {change(null.mean)} ({interval(null)})"
    start = f"{where}: over the base, {arm} {change(raw.mean)} and {alone}"
    if not t_interval(raw, 0.95)[0] > 0:
        return f"{start}; no share is given, since the raw gain is not clearly above 0."
    low, high = t_interval(null, 0.95)
    if low <= 0 <= high:
        return f"{start}; no share is given, since {placebo}'s own gain is not told apart from 0."
    if by_luck:
        return f"{start}; no share is given, since seeds that agree by luck make {placebo}'s own interval too short."
    if high < 0:
        return f"{start}: none of the raw gain came with the placebo."
    return f"{start}: {100 * null.mean / raw.mean:.0f} % of the raw gain came with the placebo."
