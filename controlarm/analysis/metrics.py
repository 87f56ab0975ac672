"""From graded completions to numbers, one a sample, and from these to one a problem; every contrast is built on these.

A verdict ``unknown`` (the grader gave up) is NaN: out of the mean and counted in the report, never a silent wrong.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int8

from controlarm.analysis.folder import RIGHT, UNKNOWN, Evaluation

PerSample = Float[np.ndarray, "problem sample"]
PerProblem = Float[np.ndarray, " problem"]


def right(verdicts: Int8[np.ndarray, "problem sample"]) -> PerSample:
    """1 where the verdict is right, 0 where it is wrong or there is no answer, NaN where it is unknown."""
    return np.where(verdicts == UNKNOWN, np.nan, verdicts == RIGHT)


def _present(flags: Bool[np.ndarray, "problem sample"]) -> PerSample:
    return flags.astype(float)


def per_problem(values: PerSample) -> PerProblem:
    """Mean over the samples of each problem that have a value; NaN where none has."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.divide(
        total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1)
    )


def mean(values: Float[np.ndarray, " value"]) -> float:
    """Mean over the values that are there, of problems or of steps; NaN, and no warning, when none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


METRICS: dict[str, Callable[[Evaluation], PerSample]] = {
    "accuracy": lambda e: right(e.sampled.strict),
    "lenient_accuracy": lambda e: right(e.sampled.lenient),
    "greedy_accuracy": lambda e: right(e.greedy.strict),
    "greedy_lenient_accuracy": lambda e: right(e.greedy.lenient),
    "code_share": lambda e: _present(e.sampled.has_python),
    "parsed_code_share": lambda e: _present(e.sampled.code_parses),
    "greedy_code_share": lambda e: _present(e.greedy.has_python),
    "boxed_share": lambda e: _present(e.sampled.boxed),
}
"""Each gives one number a sample; the metric is the mean over problems of their means. Samples are at temperature 1 unless it
says greedy."""
