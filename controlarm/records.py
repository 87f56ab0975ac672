"""What passes between modules: a problem and the grade of one of its completions. Frozen, documented, no behaviour."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["right", "wrong", "no_answer", "unknown"]
"""`no_answer`: nothing to grade was found. `unknown`: the grader gave up (counted, never a silent wrong)."""
How = Literal["box", "answer_tag", "phrase", "formula", "number"]
"""Where an answer stood: in ``\\boxed{}``, in ``<answer>``, behind a named phrase, or as the last formula or number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question with a known answer."""

    id: str
    """Unique within its set and stable: coins and labels are keyed by it. Example: ``"347+28-9"``."""
    text: str
    """Example: ``"Ann has 347 pens, gets 28 more and then loses 9. How many pens now?"``."""
    answer: str
    """The gold answer. Example: ``"366"``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """What the grader says of one completion. An arm's reward may differ; only ground_truth pays the strict verdict."""

    strict: Verdict
    """The answer must stand where the prompt asked for it: in the last balanced ``\\boxed{}``, or in ``<answer>``."""
    lenient: Verdict
    """Any final answer counts: box, then ``<answer>``, then "answer is …", then the last formula or number."""
    boxed: str | None
    """What the strict verdict looked at, stripped; None when it is not there."""
    answer: str | None
    """What the lenient verdict looked at; None when nothing was found."""
    how: How | None
    """Where `answer` stood."""
