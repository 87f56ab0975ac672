"""What the log itself says of its completions, rewards and verdicts, against ours: agreement, rates, and every difference with a reason."""

from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int8

from controlarm.analysis.folder import NO_ANSWER, RIGHT, UNKNOWN, VERDICTS
from controlarm.audit.gain import Side
from controlarm.audit.samples import HOW

EXAMPLES = 40
"""Differences shown for each score; all are counted."""


def paid(values: Float[np.ndarray, " row"]) -> tuple[float, Bool[np.ndarray, " row"]]:
    """The middle between the least and the most that a score gave, and where it gave more; NaN and nothing where all is the same."""
    known = values[~np.isnan(values)]
    if not len(known) or known.min() == known.max():
        return float("nan"), np.zeros(len(values), dtype=bool)
    middle = float(known.min() + known.max()) / 2
    return middle, values > middle


def rates(values: Float[np.ndarray, " row"], verdicts: Int8[np.ndarray, " row"], high: Bool[np.ndarray, " row"]) -> dict[str, float]:  # fmt: skip
    """True and false positive rate of a score against the verdicts, and Youden's J = TPR - FPR (1950); NaN of nothing."""
    known = ~np.isnan(values) & (verdicts >= 0) & (verdicts != UNKNOWN)
    right = verdicts == RIGHT
    tpr, fpr = (_mean(high[known & side]) for side in (right, ~right))
    return {"tpr": tpr, "fpr": fpr, "youden": tpr - fpr}


def _mean(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def against(side: Side) -> list[dict[str, Any]]:
    """Each logged score against our verdicts: rates, the table of agreement, differences by reason with examples.

    A score is compared with the one of our two verdicts, strict or lenient, that it agrees with more often: a log's grader has one notion of an answer.
    """
    found = []
    for name, all_values in side.samples.scores.items():
        values = np.where(side.chosen, all_values, np.nan)
        threshold, high = paid(values)
        known = ~np.isnan(values)
        graded = known & (side.verdicts.strict >= 0)
        if not known.any():
            continue
        entry: dict[str, Any] = {
            "score": name, "num_values": int(known.sum()), "missing": int((side.chosen & ~known).sum()), "mean": float(values[known].mean()),
            "num_levels": len(np.unique(values[known])), "threshold": threshold,
            "share_high": _mean(high[known]) if threshold == threshold else float("nan"),
        }  # fmt: skip
        if not graded.any() or threshold != threshold:
            found.append(entry | {"note": "the score never varies" if graded.any() else "the log has no gold answers"})  # fmt: skip
            continue
        by = {n: getattr(side.verdicts, n) for n in ("strict", "lenient")}
        agree = {n: _mean((high == (v == RIGHT))[graded & (v != UNKNOWN)]) for n, v in by.items()}
        # What our equality makes of the answers that the log's own grader read: the log's accuracy without its equality.
        read = np.where(side.samples.said == -1, -1, side.verdicts.said)
        extracts = [("their_answers", read)] if (read[graded] >= 0).all() else []
        notion = "lenient" if agree["lenient"] >= agree["strict"] else "strict"
        verdicts = by[notion]
        entry |= {
            "against": notion, "agreement": agree,
            "accuracy": {n: _mean((v == RIGHT)[graded & (v != UNKNOWN)]) for n, v in (*by.items(), *extracts)},
            "strict": rates(values, by["strict"], high), "lenient": rates(values, by["lenient"], high),
            "table": _table(high[graded], verdicts[graded]),
        }  # fmt: skip
        found.append(entry | _differences(side, graded, high, verdicts))
    return found


def _table(high: Bool[np.ndarray, " row"], verdicts: Int8[np.ndarray, " row"]) -> dict[str, dict[str, int]]:  # fmt: skip
    return {
        said: {v: int(((verdicts == i) & (high == theirs)).sum()) for i, v in enumerate(VERDICTS)}
        for said, theirs in (("high", True), ("low", False))
    }


REASONS = {
    "unknown": "our grader gave up, so there is no verdict of ours to differ from",
    "extraction": "another answer was read: on the log's own extract our grader agrees with it",
    "equality": "the same answer was read, or one that our grader judges alike, and it was judged otherwise",
    "not found": "we found no answer in the text, and the log does not say what it read",
    "not logged": "the log does not say which answer it read",
}
"""Why a logged score and our verdict differ."""


def _differences(
    side: Side, graded: Bool[np.ndarray, " row"], high: Bool[np.ndarray, " row"], verdicts: Int8[np.ndarray, " row"]
) -> dict[str, Any]:  # fmt: skip
    differ = np.flatnonzero(graded & ((verdicts == UNKNOWN) | (high != (verdicts == RIGHT))))
    reasons = {int(i): _reason(side, int(i), bool(high[i]), int(verdicts[i])) for i in differ}
    chosen = sorted(reasons, key=lambda i: (int(side.samples.order[i]), i))[:EXAMPLES]
    counts = Counter(reasons.values())
    return {
        "num_different": len(reasons),
        "reasons": {reason: counts[reason] for reason in REASONS if counts[reason]},
        "differences": [_example(side, i, bool(high[i]), reasons[i], int(verdicts[i])) for i in chosen],
    }  # fmt: skip


def _reason(side: Side, row: int, high: bool, ours: int) -> str:
    if ours == UNKNOWN:
        return "unknown"
    if side.samples.said[row] != -1:
        on_theirs = side.verdicts.said[row]
        return "extraction" if on_theirs != UNKNOWN and (on_theirs == RIGHT) == high else "equality"
    return "not found" if ours == NO_ANSWER else "not logged"


def _example(side: Side, row: int, high: bool, reason: str, ours: int) -> dict[str, Any]:
    samples = side.samples
    look = samples.looks[samples.text[row]]
    said = int(samples.said[row])
    return {
        "file": samples.log.files[samples.files[row]].name, "line": int(samples.lines[row]),
        "gold": samples.golds[samples.gold[row]][:400], "theirs": "high" if high else "low", "ours": VERDICTS[ours], "reason": reason,
        "our_answer": samples.answers[look.answer][:400] if look.answer >= 0 else None, "how": HOW[look.how] if look.how >= 0 else None,
        "their_answer": samples.answers[said][:400] if said >= 0 else None,
        "end": samples.tails[samples.text[row]],
    }  # fmt: skip
