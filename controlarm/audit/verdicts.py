"""Strict and lenient verdicts on a whole log at once: each distinct pair of gold and answer is judged once."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

from controlarm import grading
from controlarm.analysis.folder import NO_ANSWER, RIGHT, UNKNOWN, WRONG
from controlarm.audit.samples import TOO_LONG, Samples

NOT_GRADED = -1
"""The log has no gold answer for the row."""

Pair = tuple[str, str]


class Verdicts(NamedTuple):
    """Verdicts of all rows, as in ``analysis.folder.VERDICTS``, or `NOT_GRADED`."""

    strict: Int8[np.ndarray, " row"]
    lenient: Int8[np.ndarray, " row"]
    said: Int8[np.ndarray, " row"]
    """On what the log's own grader took for the answer; NO_ANSWER where it logged none."""


def decide(pairs: Iterable[Pair]) -> dict[Pair, bool | None]:
    """Whether each answer equals its gold answer; None: unknown."""
    return {(gold, answer): grading.same(gold, answer) for gold, answer in pairs}


VERSION = grading.VERSION


def judge(logs: list[Samples]) -> list[Verdicts]:
    """The verdicts of several logs, so that what they share is judged once."""
    asked: set[Pair] = set()
    for log in logs:
        for answers in _columns(log):
            known = (answers >= 0) & (log.gold >= 0)
            pairs = np.unique(np.stack([log.gold[known], answers[known]]), axis=1)
            asked |= {(log.golds[g], log.answers[a]) for g, a in pairs.T}
    said = decide(sorted(asked))
    return [Verdicts(*(_verdicts(log, answers, said) for answers in _columns(log))) for log in logs]


def _columns(log: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return log.look("boxed").astype(np.int64), log.look("answer").astype(np.int64), log.said


def _verdicts(log: Samples, answers: np.ndarray, said: dict[Pair, bool | None]) -> np.ndarray:
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
