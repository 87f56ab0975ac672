"""What completions of cut problems are consistent with, for models whose corpus nobody knows.

A benchmark that a model completes word for word was read. How well it completes a set that it cannot have read says what the kind of
text alone explains; without such a set rates stand alone, and the sentence says so.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from controlarm.analysis.contamination import PERCENTS, Auroc, auroc
from controlarm.analysis.scores import Score, score

SCORES = ("logprob", "min_k", "min_k_plus")
RATES = (
    *(f"{name}_{percent}" for name in ("exact", "rouge_l") for percent in PERCENTS),
    *(f"answered_{percent}" for percent in (100, *PERCENTS)),
)


class Familiarity(NamedTuple):
    """What one model's table holds."""

    num_problems: dict[str, int]
    """Part → problems: ``benchmark``, and ``clean`` where there is such a set."""
    rates: dict[str, dict[str, Score]]
    """Part → rate → mean with its interval."""
    means: dict[str, dict[str, float]]
    """Part → score → mean."""
    aurocs: dict[str, Auroc]
    """Score → the benchmark's problems against the clean ones; empty without them."""
    num_unscored: int
    """Problems whose text has no score: one token, or longer than the context."""


def _columns(table: pa.Table) -> dict[str, Float[np.ndarray, " problem"]]:
    return {
        name: np.array([np.nan if v is None else float(v) for v in table[name].to_pylist()])
        for name in (*RATES, *SCORES)
    }


def findings(table: pa.Table) -> Familiarity:
    """Everything that is said of one model, from the table that ``controlarm contamination MODEL --problems … --out`` writes."""
    parts: Mapping[str, dict[str, Float[np.ndarray, " problem"]]] = {
        part: _columns(table.filter(np.array(table["part"].to_pylist()) == part))
        for part in dict.fromkeys(table["part"].to_pylist())
    }

    def known(part: str, name: str) -> Float[np.ndarray, " problem"]:
        values = parts[part][name]
        return values[~np.isnan(values)]

    def average(part: str, name: str) -> float:
        values = known(part, name)
        return float(values.mean()) if len(values) else float("nan")

    return Familiarity(
        num_problems={part: len(columns[SCORES[0]]) for part, columns in parts.items()},
        rates={
            part: {name: score(columns[name]) for name in RATES} for part, columns in parts.items()
        },
        means={part: {name: average(part, name) for name in SCORES} for part in parts},
        aurocs={name: auroc(known("benchmark", name), known("clean", name)) for name in SCORES}
        if "clean" in parts
        else {},
        num_unscored=sum(int(np.isnan(c[SCORES[0]]).sum()) for c in parts.values()),
    )


# In words.

_RATES = {
    "exact": "completes exactly",
    "rouge_l": "completes, ROUGE-L",
    "answered": "answer somewhere",
}
_SCORES = {"logprob": "log p", "min_k": "min-k %", "min_k_plus": "min-k %++"}


def _shown(one: Score | None) -> str:
    if one is None or np.isnan(one.value):
        return "–"
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def rate_cells(found: Familiarity) -> list[tuple[str, ...]]:
    """What is printed of each rate: name, benchmark, clean set."""
    rows = []
    for name in RATES:
        kind, _, percent = name.rpartition("_")
        sides = (found.rates.get(part, {}).get(name) for part in ("benchmark", "clean"))
        rows.append((f"{_RATES[kind]}, {percent} %", *map(_shown, sides)))
    return rows


def score_cells(found: Familiarity) -> list[tuple[str, ...]]:
    """What is printed of each score: name, mean of the benchmark, of the clean set, AUROC."""
    rows = []
    for name in SCORES:
        sides = (found.means.get(part, {}).get(name, np.nan) for part in ("benchmark", "clean"))
        area = found.aurocs.get(name)
        rows.append(
            (
                _SCORES[name],
                *("–" if np.isnan(x) else f"{x:.2f}" for x in sides),
                "–"
                if area is None or np.isnan(area.value)
                else f"{area.value:.2f} ({area.low:.2f} to {area.high:.2f})",
            )
        )
    return rows


def verdict(where: str, found: Familiarity) -> str:
    """One sentence on the model."""
    told = found.rates["benchmark"]["exact_60"]
    head = (
        f"{where}: given 60 % of a problem, the rest comes word for word in {100 * told.value:.1f} % of them (95 % interval "
        f"{100 * told.low:.1f} to {100 * told.high:.1f})"
    )
    if "clean" not in found.rates:
        return f"{head}. Without --clean, a set that the model cannot have read, nothing says how often that happens anyway."
    clean = found.rates["clean"]["exact_60"]
    beside = f"{head}, of the clean set's in {100 * clean.value:.1f} % ({100 * clean.low:.1f} to {100 * clean.high:.1f})"
    if told.low > clean.high:
        return f"{beside}. Consistent with a benchmark that the model has read, in part at least; or with one whose texts are easier to complete."
    return f"{beside}. The intervals overlap: no sign of a benchmark that was read word for word."
