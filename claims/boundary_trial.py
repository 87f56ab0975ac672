"""What claims 5 and 8 read of two records, a base each: what policies reach with k tries, by three notions of success, and probes by unit.

A right answer may be a lucky one: with many tries, guessing reaches much. So success is counted by answer, by derivation (the
steps are valid, too), and by answer with guessing taken out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from claims.ledger import Record, Records, Tables
from claims.markdown import Markdown, gain
from claims.two_intervals import minus
from controlarm.analysis import boundary
from controlarm.analysis.boundary import Tries
from controlarm.analysis.contrasts import over_units, t_interval
from controlarm.analysis.folder import BASE, RIGHT, UNKNOWN, VALID, Evaluation, Trial
from controlarm.analysis.metrics import mean
from controlarm.protocol import Unit

TRIALS = ("boundary", "boundary_talker")
"""A trial a base."""
TRUTH = "ground_truth"
"""The arm that pays what is right."""

Notion = Literal["answer", "derivation", "beyond guessing"]
ANSWER: Notion = "answer"
DERIVATION: Notion = "derivation"
BEYOND: Notion = "beyond guessing"
NOTIONS = (ANSWER, DERIVATION, BEYOND)

Row = dict[str, Any]
Sign = Literal["above", "below", "not told apart", "exactly nothing"]
Successes = Bool[np.ndarray, "problem sample"]
Curves = Float[np.ndarray, "problem k"]


def told(values: Mapping[Unit, float]) -> Row:
    """A difference over the models: mean, 95 % interval by t, and which side of nothing that lies on. Units without a value are left out."""
    e = over_units({unit: value for unit, value in values.items() if not np.isnan(value)})
    low, high = t_interval(e, 0.95)
    return {
        "mean": e.mean,
        "low": low,
        "high": high,
        "sign": sign(low, high),
        "models": e.num_units,
    }


def sign(low: float, high: float) -> Sign:
    """Of the interval; without one nothing is told apart."""
    if low == high == 0:
        return "exactly nothing"
    return "above" if low > 0 else "below" if high < 0 else "not told apart"


def shown(row: Row | None) -> Markdown | None:
    """A row of `told` in points, with its interval."""
    return None if row is None else gain(row["mean"], row["low"], row["high"])


def successes(evaluation: Evaluation, notion: Notion) -> Successes:
    """Which samples succeed; an unknown verdict is no success. Guessing can be taken out of rates, not of samples."""
    sampled = evaluation.sampled
    return sampled.derived == VALID if notion == DERIVATION else sampled.strict == RIGHT


@dataclass(frozen=True)
class Reach:
    """The trial's one family at the endpoint."""

    trial: Trial

    @property
    def ks(self) -> list[int]:
        return self.trial.protocol.evaluation.pass_at_k

    @property
    def placebo(self) -> str:
        return self.trial.protocol.endpoint.placebo

    @cached_property
    def guess(self) -> Curves:
        """pass@k of each held-out problem for one who knows only how answers are distributed."""
        problems = self.trial.problems
        gold = [problem.answer for problem in problems["held_out"]]
        elsewhere = [problem.answer for problem in problems["training"]]
        return np.stack([boundary.guess_at_k(gold, k, elsewhere) for k in self.ks], axis=1)

    def evaluations(self, recipe: str, arm: str) -> dict[Unit, Evaluation]:
        """By unit; arm ``base`` is the untrained model."""
        (family,) = self.trial.protocol.design.families
        step = 0 if arm == BASE else self.trial.protocol.endpoint.step
        return self.trial.cell(family, recipe, arm, step)

    def curves(self, recipe: str, arm: str, notion: Notion) -> dict[Unit, Curves]:
        """pass@k of each problem, by unit. Samples without a verdict are not drawn."""
        found = {}
        for unit, evaluation in self.evaluations(recipe, arm).items():
            known = None if notion == DERIVATION else evaluation.sampled.strict != UNKNOWN
            counts = boundary.tries(successes(evaluation, notion), known)
            own = boundary.pass_curves(counts, self.ks)
            found[unit] = boundary.beyond_guessing(own, self.guess) if notion == BEYOND else own
        return found

    def means(self, recipe: str, arm: str, notion: Notion) -> dict[Unit, Float[np.ndarray, " k"]]:
        """Mean over problems of `curves`."""
        curves = self.curves(recipe, arm, notion)
        return {unit: boundary.mean_curve(own) for unit, own in curves.items()}

    def ends(self, recipe: str, arm: str, notion: Notion) -> list[Row]:
        """At one try and at the most: means of base and arm over the models, arm - base, and arm - placebo."""
        base, own, placebo = (self.means(recipe, a, notion) for a in (BASE, arm, self.placebo))
        rows = []
        for i, k in ((0, self.ks[0]), (-1, self.ks[-1])):
            at = [{unit: float(c[i]) for unit, c in m.items()} for m in (base, own, placebo)]
            rows.append({
                "recipe": recipe, "arm": arm, "notion": notion, "k": k,
                "base": over_units(at[0]).mean, "value": over_units(at[1]).mean,
                **told(minus(at[1], at[0])),
                "over_placebo": None if arm == self.placebo else told(minus(at[1], at[2])),
            })  # fmt: skip
        return rows

    def facts(self) -> Row:
        """What stands on both pages."""
        protocol = self.trial.protocol
        evaluations = [e for run in self.trial.runs for e in run.evaluations.values()]
        missed = [
            mean((successes(e, ANSWER).sum(axis=1) == 0).astype(float))
            for e in self.evaluations(next(iter(protocol.recipes)), BASE).values()
        ]
        return {
            "unsolved": mean(np.array(missed)), "k": self.ks[-1], "samples": protocol.evaluation.samples, "problems": protocol.evaluation.num_problems,
            "step": protocol.endpoint.step, "placebo": self.placebo, "runs": len(self.trial.runs),
            "unfinished": sum(run.state != "finished" for run in self.trial.runs),
            "models": len(set(protocol.design.pretraining_seeds)),
            "probe_samples": protocol.probes.samples,
            "without_verdict": int(sum((e.sampled.strict == UNKNOWN).sum() for e in evaluations)),
            "guess": float(np.nanmean(self.guess[:, -1])) if np.isfinite(self.guess[:, -1]).any() else None,
        }  # fmt: skip


def by_base(
    records: Records, tables: Callable[[Record], Tables]
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The tables of every trial, one under the other, each row with the family that its base is of."""
    made: dict[str, list[Mapping[str, Any]]] = {}
    for trial in TRIALS:
        if trial in records:
            (family,) = records[trial].protocol.design.families
            for key, rows in tables(records[trial]).items():
                made.setdefault(key, []).extend({"family": family, **row} for row in rows)
    return dict(made)


def families(made: Tables) -> list[str]:
    """The bases; first the one that leaves most problems unsolved, which the verdict is read on: only where something is unsolved can a boundary move."""
    rows = sorted(made["trial"], key=lambda row: -(row["unsolved"] or 0))
    return [row["family"] for row in rows]


def of(made: Tables, family: str) -> Tables:
    """One base's tables."""
    return {key: [r for r in rows if r["family"] == family] for key, rows in made.items() if key != "claim"}  # fmt: skip


def find(rows: Sequence[Row], **wanted: object) -> Row | None:
    """The first row that has these values."""
    found = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return next(found, None)


class Probed(NamedTuple):
    """Tables of one kind of probe, by unit."""

    runs: dict[tuple[str, str], dict[Unit, pa.Table]]
    """By recipe and arm."""
    bases: dict[Unit, pa.Table]
    """The base's own table, which all units of a pretrained model share."""

    def of(self, recipe: str, arm: str) -> dict[Unit, pa.Table]:
        return self.runs.get((recipe, arm), {})


def probed(record: Record, kind: str) -> Probed:
    """Split a record's probes by whose they are."""
    table = record.probes(kind)
    runs: dict[tuple[str, str], dict[Unit, pa.Table]] = {}
    for number in table["run"].unique().to_pylist():
        if number is not None:
            run = record.trial.runs[number]
            own = table.filter(pc.field("run") == number)
            runs.setdefault((run.spec.recipe, run.spec.arm), {})[run.unit] = own
    of_bases = table.filter(pc.field("run").is_null())
    bases = {
        unit: of_bases.filter(pc.field("pretraining_seed") == unit.pretraining_seed)
        for unit in record.protocol.design.units()
    }
    return Probed(runs, {unit: own for unit, own in bases.items() if own.num_rows})


def pass_of(counts: Tries, ks: Sequence[int]) -> list[float]:
    """Mean pass@k of counts, at each of ``ks``."""
    return boundary.mean_curve(boundary.pass_curves(counts, ks)).tolist()
