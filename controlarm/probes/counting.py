"""What one problem's completions came to, as counts: the columns that the tables of several probes share."""

from collections.abc import Sequence

import pyarrow as pa

from controlarm.evaluation import Sampled, judge

COUNT_FIELDS = [
    ("samples", pa.int32()),
    ("right", pa.int32()),
    ("lenient_right", pa.int32()),
    ("unknown", pa.int32()),
    ("lenient_unknown", pa.int32()),
    ("derived", pa.int32()),
    ("boxed", pa.int32()),
    ("code", pa.int32()),
    ("truncated", pa.int32()),
    ("greedy_right", pa.bool_()),
    ("greedy_lenient_right", pa.bool_()),
    ("greedy_boxed", pa.bool_()),
    ("greedy_code", pa.bool_()),
]


def counts(completions: Sequence[Sampled]) -> dict[str, int | bool | None]:
    """Counts over the samples of a problem, whose greedy completion comes first.

    An unknown verdict is counted apart; that of the greedy completion is None. ``derived`` are valid: they derive the
    answer step by step (``detectors.derivation_holds``), box or no box.
    """
    greedy, *sampled = [judge(one.text, one.problem) for one in completions]
    return {
        "samples": len(sampled),
        "right": sum(said.grade.strict == "right" for said in sampled),
        "lenient_right": sum(said.grade.lenient == "right" for said in sampled),
        "unknown": sum(said.grade.strict == "unknown" for said in sampled),
        "lenient_unknown": sum(said.grade.lenient == "unknown" for said in sampled),
        "derived": sum(said.derived is True for said in sampled),
        "boxed": sum(said.grade.boxed is not None for said in sampled),
        "code": sum(said.has_python for said in sampled),
        "truncated": sum(one.truncated for one in completions[1:]),
        "greedy_right": is_right(greedy.grade.strict),
        "greedy_lenient_right": is_right(greedy.grade.lenient),
        "greedy_boxed": greedy.grade.boxed is not None,
        "greedy_code": greedy.has_python,
    }


def is_right(verdict: str) -> bool | None:
    """None where the grader gave up."""
    return None if verdict == "unknown" else verdict == "right"
