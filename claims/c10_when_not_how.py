"""Claim 10: RL teaches when, not how: what a base could gain by choosing better alone, and what training changed where nothing could be chosen.

An organism's first token is its choice of strategy, so forcing a strategy is conditioning on it: on each problem the shares of code and
words times their forced accuracies are the accuracy as chosen, but for the luck of samples. A gain is then a shift of shares
(when) plus a change of forced accuracies (how), problem by problem, and no problem counts as learnt because its strategy changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from claims.c01_six_rewards import HOME
from claims.ledger import Claim, Finding, Page, Record, Records, Tables
from claims.markdown import Markdown, count, counted, gain, inert, listed, name, points, table
from claims.published import RECOVERED, STEERED_TOKENS, WHEN_NOT_HOW
from claims.two_intervals import READING, SAID, both, minus, shown
from controlarm.analysis import probes
from controlarm.analysis.choosing import (
    Choosing,
    Tally,
    choosing_of_counts,
    share_under_bound,
)
from controlarm.analysis.contrasts import over_units, t_interval
from controlarm.analysis.decomposition import Strategies, kitagawa
from controlarm.analysis.folder import BASE, Evaluation
from controlarm.analysis.metrics import METRICS, mean, per_problem
from controlarm.analysis.strategies import Strategy
from controlarm.markup import MISSING, percent
from controlarm.protocol import Unit

TRIAL = "six_rewards"
TRUTH = "ground_truth"
TWO_STRATEGIES = (HOME, "bungler")
"""Families whose corpus has both strategies; the others write no code, so they have nothing to choose."""

Row = dict[str, Any]
Forced = dict[Strategy, probes.Answers]


# From records to numbers.


def forced_tables(record: Record) -> tuple[dict[tuple[str, int], Forced], dict[int, Forced]]:
    """Forced answers of bases, by family and pretraining seed, and of runs, by index in the plan."""
    whole = record.probes("forced")
    run = whole["run"].to_pylist()
    bases: dict[tuple[str, int], Forced] = {}
    runs: dict[int, Forced] = {}
    starts = [i for i in range(len(run)) if i == 0 or _whose(whole, i) != _whose(whole, i - 1)]
    for start, end in zip(starts, [*starts[1:], len(run)], strict=True):
        own = probes.forced(whole.slice(start, end - start))
        number, family, seed = _whose(whole, start)
        if number is None:
            bases[family, seed] = own
        else:
            runs[number] = own
    return bases, runs


def _whose(table: pa.Table, row: int) -> tuple[int | None, str, int]:
    run, family, seed = (table[key][row].as_py() for key in ("run", "family", "pretraining_seed"))
    return run, family, seed


def code_shares(evaluation: Evaluation, ids: Sequence[str]) -> Float[np.ndarray, " problem"]:
    """Share of code among the samples of these problems; NaN for a problem that was not evaluated."""
    return _on(evaluation, METRICS["code_share"](evaluation), ids)


def accuracy(evaluation: Evaluation, ids: Sequence[str]) -> Float[np.ndarray, " problem"]:
    """Strict accuracy on these problems; NaN where nothing is known."""
    return _on(evaluation, METRICS["accuracy"](evaluation), ids)


def _on(evaluation: Evaluation, values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    by_id = dict(zip(evaluation.problem_ids, per_problem(values), strict=True))
    return np.array([by_id.get(problem, np.nan) for problem in ids])


class Made(NamedTuple):
    """What one run's gain was made of; means over the problems where all is known."""

    gain: float
    """As evaluated, each policy choosing for itself."""
    when: float
    """Shift of shares times the gap between forced accuracies."""
    how: float
    """Change of forced accuracies, by the shares."""
    how_lenient: float
    """The same under the lenient grader, to which boxes are nothing."""
    code: float
    """Change of accuracy with code forced, on all problems alike."""
    words: float
    share_before: float
    """Of code, as each policy chooses."""
    share_after: float

    @property
    def rest(self) -> float:
        """Gain that neither says: samples of the evaluation are others than the probe's."""
        return self.gain - self.when - self.how

    @property
    def when_minus_how(self) -> float:
        return self.when - self.how


def made_of(before: Evaluation, after: Evaluation, base: Forced, trained: Forced) -> Made:
    """Split one run's gain over its base, problem by problem (Kitagawa 1955), and average.

    Shares come from the evaluations and accuracies from the probes, whose noise differs, so that the luck of one does not meet itself
    in the other.

    Raises:
        ValueError: base and run were not forced on the same problems.
    """
    ids = base["code"].problem_ids
    if ids != trained["code"].problem_ids:
        raise ValueError("base and run were not forced on the same problems; take both from one trial")  # fmt: skip
    shares = [code_shares(e, ids) for e in (before, after)]
    reached = [accuracy(e, ids) for e in (before, after)]
    both_forced = (base, trained)
    strict = [(f["code"].accuracy, f["words"].accuracy) for f in both_forced]
    lenient = [(f["code"].lenient_accuracy, f["words"].lenient_accuracy) for f in both_forced]
    everything = np.stack([*shares, *reached, *strict[0], *strict[1], *lenient[0], *lenient[1]])
    known = np.flatnonzero(~np.isnan(everything).any(axis=0)).tolist()
    parts, without_boxes = (
        [
            kitagawa(*(_strategies(shares[i], forced[i], problem) for i in (0, 1)))
            for problem in known
        ]
        for forced in (strict, lenient)
    )

    def change(pair: Sequence[np.ndarray]) -> float:
        return mean(pair[1][known] - pair[0][known])

    return Made(
        gain=change(reached),
        when=mean(np.array([part.share_effect for part in parts])),
        how=mean(np.array([part.accuracy_effect for part in parts])),
        how_lenient=mean(np.array([part.accuracy_effect for part in without_boxes])),
        code=change([forced[0] for forced in strict]),
        words=change([forced[1] for forced in strict]),
        share_before=mean(shares[0][known]),
        share_after=mean(shares[1][known]),
    )


def _strategies(
    shares: np.ndarray, forced: tuple[np.ndarray, np.ndarray], problem: int
) -> Strategies:
    code, words = forced
    return Strategies(float(shares[problem]), float(code[problem]), float(words[problem]))


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``; ``bases`` by family: what choosing could give; ``arms`` by family: what training gave, and of what it was made; ``models``: the truth's, one by one."""
    record = records[TRIAL]
    design, end = record.protocol.design, record.protocol.endpoint
    bases, runs = forced_tables(record)
    trial = {
        "step": end.step, "problems": len(next(iter(bases.values()))["code"].problem_ids),
        "samples": int(max(f["code"].num_samples.max() for f in bases.values())),
        "models": len(set(design.pretraining_seeds)), "runs": len(record.plan["runs"]),
        "probed": len(runs), "families": list(design.families),
    }  # fmt: skip
    chosen = {key: _choosing(record, *key, forced) for key, forced in bases.items()}
    arms = [pair for family in design.families for pair in _arms(record, family, chosen, bases, runs)]  # fmt: skip
    return {
        "trial": [trial],
        "bases": [_base(record, family, chosen) for family in design.families],
        "arms": [row for row, _ in arms],
        "models": [each for row, models in arms if row["arm"] == TRUTH for each in models],
    }  # fmt: skip


def _recipe(record: Record) -> str:
    (recipe,) = record.protocol.recipes
    return recipe


def _of_base(record: Record, family: str) -> dict[Unit, Evaluation]:
    return record.trial.cell(family, _recipe(record), BASE, 0)


def _choosing(record: Record, family: str, seed: int, forced: Forced) -> Choosing:
    """Of one base; its shares are over the samples of all training seeds' evaluations of it."""
    ids = forced["code"].problem_ids
    found = [
        code_shares(evaluation, ids)
        for unit, evaluation in _of_base(record, family).items()
        if unit.pretraining_seed == seed
    ]
    shares = np.mean(found, axis=0) if found else np.full(len(ids), np.nan)
    code, words = (Tally(f.num_right, f.num_samples) for f in (forced["code"], forced["words"]))
    return choosing_of_counts(code, words, shares)


CHOICES = ("own", "code", "words", "oracle", "naive_oracle", "bound", "naive_bound")


def _over_models(values: Mapping[int, float]) -> Row:
    e = over_units({Unit(seed, 0): value for seed, value in values.items()})
    low, high = t_interval(e, 0.95)
    return {"mean": e.mean, "low": low, "high": high}


def _base(record: Record, family: str, chosen: Mapping[tuple[str, int], Choosing]) -> Row:
    own = {seed: each for (of, seed), each in chosen.items() if of == family}
    evaluated = {
        unit: mean(per_problem(METRICS["accuracy"](evaluation)))
        for unit, evaluation in _of_base(record, family).items()
    }
    shares = {
        unit: mean(per_problem(METRICS["code_share"](evaluation)))
        for unit, evaluation in _of_base(record, family).items()
    }
    return {
        "family": family, "evaluated": over_units(evaluated).mean, "code_share": over_units(shares).mean,
        "unknown": sum(each.num_unknown for each in own.values()),
        **{key: _over_models({seed: getattr(each, key) for seed, each in own.items()}) for key in CHOICES},
    }  # fmt: skip


BY_MODEL = ("gain", "when", "how", "code", "words", "share_before", "share_after")
PARTS = ("gain", "when", "how", "rest", "when_minus_how", "how_lenient", "code", "words")


def _arms(
    record: Record, family: str, chosen: Mapping[tuple[str, int], Choosing],
    bases: Mapping[tuple[str, int], Forced], runs: Mapping[int, Forced],
) -> Iterator[tuple[Row, list[Row]]]:  # fmt: skip
    """One arm: its gain, what of it lies under the bound, and what it was made of; and the last by model."""
    before, step = _of_base(record, family), record.protocol.endpoint.step
    index = {(r["family"], r["arm"], Unit(r["pretraining_seed"], r["seed"])): i for i, r in enumerate(record.plan["runs"])}  # fmt: skip
    for arm in record.protocol.arms:
        after = record.trial.cell(family, _recipe(record), arm, step)
        made = {
            unit: made_of(before[unit], after[unit], bases[family, unit.pretraining_seed], runs[number])
            for unit in sorted(before.keys() & after.keys())
            if (number := index[family, arm, unit]) in runs and (family, unit.pretraining_seed) in bases
        }  # fmt: skip
        values = {key: {u: getattr(m, key) for u, m in made.items()} for key in PARTS}
        row: Row = {"family": family, "arm": arm} | {key: both(values[key]) for key in PARTS}
        for bound in ("bound", "naive_bound"):
            own = {unit: getattr(chosen[family, unit.pretraining_seed], bound) for unit in made}
            row[f"beyond_{bound}"] = both(minus(values["gain"], own))
            row[f"under_{bound}"] = share_under_bound(row["gain"]["mean"], over_units(own).mean)
        yield row, [
            {"family": family, "model": model}
            | {key: mean(np.array([getattr(m, key) for u, m in made.items() if u.pretraining_seed == model])) for key in BY_MODEL}
            for model in sorted({u.pretraining_seed for u in made})
        ]  # fmt: skip


# From numbers to a verdict and a page.


RULE = (
    f"Rule, by 95 % intervals over the models, for {name(TRUTH)} on the families with two strategies, {listed(TWO_STRATEGIES)}: when exceeds how where it gains over the "
    "base and the interval of when minus how lies above nothing. *Reproduced*: on both. *Partly*: on one. *Refuted in miniature*: on neither, and on one at "
    "least it gains and the interval lies below nothing. Else *not at this scale*."
)


def _of(rows: Sequence[Row], family: str) -> dict[str, Row]:
    return {row["arm"]: row for row in rows if row["family"] == family}


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and when and how where the rule looks."""
    rows = [row for family in TWO_STRATEGIES if (row := _of(made["arms"], family).get(TRUTH))]
    signs = [row["when_minus_how"]["sign"] for row in rows if row["gain"]["sign"] == "gains"]
    when = signs.count("gains")
    if when == len(TWO_STRATEGIES):
        verdict = "reproduced"
    elif when:
        verdict = "partly"
    elif "loses" in signs:
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    said = "; ".join(
        f"{name(row['family'])} when {shown(row['when'])}, how {shown(row['how'])}" for row in rows
    )
    return Finding(
        verdict,
        Markdown(f"{name(TRUTH)} ({READING.removeprefix('95 % ')}): {said or MISSING}"),
    )  # fmt: skip


def _rate(row: Row) -> Markdown:
    """An accuracy over the models, in per cent."""
    return Markdown(percent(row["mean"]))


def _between(row: Row) -> Markdown:
    return gain(row["mean"], row["low"], row["high"])


def _under(row: Row) -> Markdown:
    """Shares of a gain under the honest and the naive bound; only a gain that is told apart has one."""
    if row["gain"]["sign"] != "gains" and row["gain"]["within_sign"] != "gains":
        return Markdown(MISSING)
    shares = (percent(row[f"under_{bound}"], 0) for bound in ("bound", "naive_bound"))
    return Markdown(" to ".join(shares))


HEADS = {
    "gain": "gain", "under": "under the bound, % of the gain", "beyond_bound": "gain minus bound", "when": "when", "how": "how",
    "how_lenient": "how, lenient", "code": "code forced", "words": "words forced",
}  # fmt: skip


def page(made: Tables) -> Page:
    """What choosing could give, what training gave, and what changed where nothing could be chosen."""
    (trial,) = made["trial"]
    found = [
        "Bases, accuracy in per cent: as evaluated; from shares and forced accuracies, which should agree; either strategy everywhere; the better one "
        "for each problem. The bound is what that adds, in points: chosen on half of the samples and measured on the others, and with the winner's curse; the true one lies between:",
        table(
            [{"family": name(row["family"]), "share": Markdown(percent(row["code_share"])), "evaluated": Markdown(percent(row["evaluated"])),
              "bound": _between(row["bound"]), "naive_bound": _between(row["naive_bound"])}
             | {key: _rate(row[key]) for key in ("own", "code", "words", "oracle")} for row in made["bases"]],
            {"family": "family", "share": "code share, %", "evaluated": "evaluated", "own": "own", "code": "code", "words": "words", "oracle": "oracle",
             "bound": "bound", "naive_bound": "naive bound"},
        ),
        f"Trained, in points over the base; {READING}. When and how add up to the gain, but for the luck of samples; the lenient grader ignores boxes; the "
        "last columns are what either strategy gained when forced on every problem:",
        table(
            [{"family": name(row["family"]), "arm": name(row["arm"]), "under": _under(row)}
             | {key: shown(row[key]) for key in HEADS if key != "under"} for row in made["arms"]],
            {"family": "family", "arm": "arm"} | HEADS,
        ),
        f"{name(TRUTH)} by model, where there are two strategies (means over its seeds, in points; shares in per cent):",
        table(
            [{"family": name(row["family"]), "model": count(row["model"])} | {key: points(row[key]) for key in BY_MODEL[:5]}
             | {key: Markdown(percent(row[key])) for key in BY_MODEL[5:]} for row in made["models"] if row["family"] in TWO_STRATEGIES],
            {"family": "family", "model": "model", **{key: HEADS[key] for key in BY_MODEL[:5]}, "share_before": "code share before", "share_after": "after"},
        ),
        *(_divided(made["models"], family) for family in TWO_STRATEGIES),
        *(_sentence(made, family) for family in trial["families"]),
        _luck(made["arms"]),
    ]  # fmt: skip
    return Page(
        asked=f"Could the base have had the gain by choosing better between what it can do? Published: a base steered on {percent(STEERED_TOKENS, 0)} % of the tokens "
        f"recovers up to {percent(RECOVERED, 0)} % of the gap to a thinking model, so training taught when to reason and not how.",
        found="\n\n".join(text for text in found if text),
        differs="The paper steers mechanisms within long reasoning; here there are two strategies, code and words, and the choice is the first token. "
        f"Each policy is forced on {counted(trial['problems'], 'held-out problem')}, {counted(trial['samples'], 'sample')} each, after "
        f"{counted(trial['step'], 'step')}, {counted(trial['probed'], 'run')} of {count(trial['runs'])} and all bases with one noise a model.",
        caution="The rule asks which part is larger over the models; where they go different ways neither is, which is not that nothing was taught. That a gain lies under the bound says that choosing would "
        "have sufficed, not that it happened. How includes boxing and being careful: what a strategy does at times and is taught to do always is sharpening within it, and counts as how. Families "
        f"without code have no when by construction. {counted(trial['models'], 'model')} a family; nothing is adjusted.",
    )  # fmt: skip


def _divided(models: Sequence[Row], family: str) -> str:
    """Whether the models of a family went the same way."""
    own = [row for row in models if row["family"] == family]
    when = [row for row in own if row["when"] > row["how"]]
    if not own:
        return ""
    return (
        f"On {name(family)} when exceeds how in {count(len(when))} of {counted(len(own), 'model')}: when is {points(min(row['when'] for row in own))} to {points(max(row['when'] for row in own))}, "
        f"how {points(min(row['how'] for row in own))} to {points(max(row['how'] for row in own))}."
    )


def _sentence(made: Tables, family: str) -> str:
    """One family: when and how by arm, and gains beyond the bound."""
    arms = _of(made["arms"], family)
    truth = arms.get(TRUTH)
    if truth is None:
        return ""
    gaining = {arm: row for arm, row in arms.items() if row["gain"]["sign"] == "gains"}

    def told(rows: Mapping[str, Row], key: str, sign: str) -> list[str]:
        return [arm for arm, row in rows.items() if row[key]["sign"] == sign]

    lists = {
        "of the arms that gain, when exceeds how under": told(gaining, "when_minus_how", "gains"),
        "of the arms that gain, how exceeds when under": told(gaining, "when_minus_how", "loses"),
        "how gains under": told(arms, "how", "gains"),
        "how loses under": told(arms, "how", "loses"),
        "beyond the naive bound": told(arms, "beyond_naive_bound", "gains"),
    }
    said = "; ".join(f"{what} {listed(which)}" for what, which in lists.items() if which)
    signs = ", ".join(f"{what} {inert(SAID[truth[key]['sign']])}" for key, what in (("gain", "accuracy"), ("when", "when"), ("how", "how")))  # fmt: skip
    return (
        f"**{name(family)}**: under {name(TRUTH)} {signs}; {said or 'nothing else is told apart'}."
    )


def _luck(arms: Sequence[Row]) -> str:
    """How well when and how add up to the gain."""
    rests = [abs(row["rest"]["mean"]) for row in arms if row["rest"]["mean"] is not None]
    if not rests:
        return ""
    return f"When and how miss the gain by {percent(max(rests))} points at most, {percent(float(np.mean(rests)))} on average."


CLAIM = Claim(
    number=10,
    title="When, not how",
    source=WHEN_NOT_HOW,
    published=f"A base steered on {percent(STEERED_TOKENS, 0)} % of tokens recovers up to {percent(RECOVERED, 0)} % of the gap to a thinking model, without new weights",
    trials=(TRIAL,),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
