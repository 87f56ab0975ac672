"""Strict and lenient verdicts on a whole log at once: each distinct pair of gold and answer is judged once."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

from controlarm import referee
from controlarm.analysis.folder import NO_ANSWER, RIGHT, UNKNOWN, WRONG
from controlarm.audit.samples import TOO_LONG, Samples
from controlarm.referee import Opinion, Referee

NOT_GRADED = -1
"""The log has no gold answer for the row."""


class Verdicts(NamedTuple):
    """Verdicts of all rows, as in ``analysis.folder.VERDICTS``, or `NOT_GRADED`."""

    strict: Int8[np.ndarray, " row"]
    lenient: Int8[np.ndarray, " row"]
    said: Int8[np.ndarray, " row"]
    """On what the log's own grader took for the answer; NO_ANSWER where it logged none."""


VERSION = referee.VERSION


class Judged(NamedTuple):
    """The verdicts of several logs, and how sure the judge is."""

    verdicts: list[Verdicts]
    num_pairs: int
    """Distinct pairs of gold answer and answer."""
    opinion: Opinion
    """What a second judge says of a sample of them."""


def judge(logs: list[Samples], cache: Path | None = None) -> Judged:
    """The verdicts of several logs; what they share is judged once.

    Args:
        logs: any number.
        cache: file in which the referee keeps verdicts; None: memory only.
    """
    asked: set[referee.Pair] = set()
    for log in logs:
        for answers in _columns(log):
            known = (answers >= 0) & (log.gold >= 0)
            pairs = np.unique(np.stack([log.gold[known], answers[known]]), axis=1)
            asked |= {(log.golds[g], log.answers[a]) for g, a in pairs.T}
    with Referee(cache) as judge_of_pairs:
        said = judge_of_pairs.decide(sorted(asked))
    found = [
        Verdicts(*(_verdicts(log, answers, said) for answers in _columns(log))) for log in logs
    ]
    return Judged(found, len(asked), referee.second_opinion(said))


def _columns(log: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return log.look("boxed").astype(np.int64), log.look("answer").astype(np.int64), log.said


def _verdicts(
    log: Samples, answers: np.ndarray, said: dict[referee.Pair, bool | None]
) -> np.ndarray:
    codes = {True: RIGHT, False: WRONG, None: UNKNOWN}
    known = (answers >= 0) & (log.gold >= 0)
    pairs, inverse = np.unique(
        np.stack([log.gold[known], answers[known]]), axis=1, return_inverse=True
    )
    judged = [codes[said[log.golds[g], log.answers[a]]] for g, a in pairs.T]
    verdicts = np.full(len(log), NO_ANSWER, dtype=np.int8)
    verdicts[answers == TOO_LONG] = UNKNOWN
    verdicts[known] = np.array(judged, dtype=np.int8)[inverse.ravel()] if judged else []
    verdicts[log.gold < 0] = NOT_GRADED
    return verdicts
