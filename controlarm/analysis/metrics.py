"""From graded completions to one number a problem; every contrast is built on these.

A verdict ``unknown`` (the grader gave up) is NaN: out of the mean and counted in the report, never a silent wrong.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int8

from controlarm.analysis.folder import RIGHT, UNKNOWN, Evaluation

PerProblem = Float[np.ndarray, " problem"]


def right_share(verdicts: Int8[np.ndarray, "problem sample"]) -> PerProblem:
    """Share of right among the known verdicts of each problem; NaN where none is known."""
    known = (verdicts != UNKNOWN).sum(axis=1)
    right = (verdicts == RIGHT).sum(axis=1)
    return np.divide(right, known, out=np.full(len(verdicts), np.nan), where=known > 0)


def mean(values: Float[np.ndarray, " value"]) -> float:
    """Mean over the values that are there, of problems or of steps; NaN, and no warning, when none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


METRICS: dict[str, Callable[[Evaluation], PerProblem]] = {
    "accuracy": lambda e: right_share(e.sampled.strict),
    "lenient_accuracy": lambda e: right_share(e.sampled.lenient),
    "greedy_accuracy": lambda e: right_share(e.greedy.strict),
    "greedy_lenient_accuracy": lambda e: right_share(e.greedy.lenient),
    "code_share": lambda e: e.sampled.has_python.mean(axis=1),
    "parsed_code_share": lambda e: e.sampled.code_parses.mean(axis=1),
    "greedy_code_share": lambda e: e.greedy.has_python.mean(axis=1),
    "boxed_share": lambda e: e.sampled.boxed.mean(axis=1),
}
"""Each gives one number a problem; the metric is their mean. Samples are at temperature 1 unless it says greedy."""
