"""Claim 9: true minus random is not the reward's effect, since agreeing with oneself is in it; how much of it, depends on how good the base was.

Held-out problems are sorted by the base's accuracy and measured on other samples than those that sorted them, or the
problems that the base was unlucky on would seem to gain under every arm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from claims.c01_six_rewards import HOME, QUIET
from claims.ledger import Claim, Finding, Page, Record, Records, Tables
from claims.markdown import Markdown, count, counted, listed, name, number, share, table
from claims.published import REWARD_DESIGN_SHARE, TRUE_MINUS_RANDOM
from claims.two_intervals import READING, SAID, both, by_unit, shown
from controlarm.analysis.contrasts import Estimate, over_units, t_interval, within_models
from controlarm.analysis.decomposition import Parts, three_parts
from controlarm.analysis.folder import BASE
from controlarm.analysis.metrics import METRICS, PerSample, mean, per_problem
from controlarm.markup import MISSING, percent
from controlarm.protocol import Unit

TRIAL = "six_rewards"
TRUTH, MAJORITY = "ground_truth", "majority"
MEMORY = "crammer"
"""The quiet family with the benchmark in its corpus."""
PARTS = ("null", "elicitation", "reward_design")
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the strata: each has its lower edge in it, the last one both."""

Row = dict[str, Any]


def naive(parts: Parts) -> float:
    """Truth minus random."""
    return parts.elicitation + parts.reward_design


# From records to numbers.


def halves(samples: PerSample) -> tuple[PerSample, PerSample]:
    """Even and odd samples."""
    return samples[:, 0::2], samples[:, 1::2]


def stratum(accuracy: Float[np.ndarray, " problem"]) -> Float[np.ndarray, " problem"]:
    """Index of each problem's stratum; NaN where its accuracy is."""
    at = np.searchsorted(EDGES[1:-1], accuracy, side="right").astype(float)
    return np.where(np.isnan(accuracy), np.nan, at)


def stratified(arms: Sequence[PerSample]) -> dict[int, tuple[float, Float[np.ndarray, " arm"]]]:
    """Stratum → problems in it, and each arm's accuracy there; of one unit.

    The base's even samples sort the problems and everyone's odd ones measure them, then the other way round; each problem
    counts once a way, so a number of problems may end in a half. Sample k of all arms is drawn with one noise, other samples with another.

    Args:
        arms: the base's samples, then the other arms', of the same problems.
    """
    index, values = [], []
    for way in (0, 1):
        measured = np.stack([per_problem(halves(samples)[1 - way]) for samples in arms])
        sorted_by = stratum(per_problem(halves(arms[0])[way]))
        known = ~np.isnan(measured).any(axis=0) & ~np.isnan(sorted_by)
        index.append(sorted_by[known])
        values.append(measured[:, known])
    at, accuracy = np.concatenate(index), np.concatenate(values, axis=1)
    return {
        i: (float(np.sum(at == i)) / 2, accuracy[:, at == i].mean(axis=1))
        for i in range(len(EDGES) - 1)
        if (at == i).any()
    }


def ratio_interval(
    part: Mapping[Unit, float],
    whole: Mapping[Unit, float],
    estimated: Callable[[Mapping[Unit, float]], Estimate],
) -> tuple[float, float]:
    """95 % interval of the ratio of two means (Fieller 1954): every r for which part - r · whole is not told apart from nothing.

    NaN where the whole itself is not told apart from nothing: then the interval has no end on one side or on both.
    """
    a, b, added = (
        estimated(values)
        for values in (part, whole, {unit: part[unit] + whole[unit] for unit in part})
    )
    if any(e.note is not None for e in (a, b, added)) or b.df < 1:
        return float("nan"), float("nan")
    t = float(stats.t.ppf(0.975, b.df))
    covariance = (added.se**2 - a.se**2 - b.se**2) / 2
    # Where |a - r b| is t standard errors: a quadratic in r.
    square, linear, constant = (
        b.mean**2 - (t * b.se) ** 2,
        a.mean * b.mean - t**2 * covariance,
        a.mean**2 - (t * a.se) ** 2,
    )
    if not square > 0:
        return float("nan"), float("nan")
    root = max(linear**2 - square * constant, 0.0) ** 0.5
    return (linear - root) / square, (linear + root) / square


def share_of_design(parts: Mapping[Unit, Parts]) -> Row:
    """Reward design over true minus random: ratio of means, with both intervals; nothing where true minus random does not gain."""
    design = {unit: p.reward_design for unit, p in parts.items()}
    whole = {unit: naive(p) for unit, p in parts.items()}
    found: Row = {"mean": None, "low": None, "high": None, "within_low": None, "within_high": None}
    for key, estimated in (("", over_units), ("within_", within_models)):
        e = estimated(whole)
        if e.note is None and t_interval(e, 0.95)[0] > 0:
            found["mean"] = over_units(design).mean / over_units(whole).mean
            found |= dict(zip((f"{key}low", f"{key}high"), ratio_interval(design, whole, estimated), strict=True))  # fmt: skip
    return found


def decomposed(parts: Mapping[Unit, Parts]) -> Row:
    """Null, elicitation, reward design, true minus random, and the share."""
    return {
        **{key: both({unit: getattr(p, key) for unit, p in parts.items()}) for key in PARTS},
        "naive": both({unit: naive(p) for unit, p in parts.items()}),
        "share": share_of_design(parts),
    }


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``; ``families`` as wholes; ``strata`` by family; ``trends`` by family."""
    record = records[TRIAL]
    report, end = record.report, record.protocol.endpoint
    trial = {
        "step": end.step, "placebo": end.placebo, "margin": end.margin, "metric": end.metric,
        "samples": record.protocol.evaluation.samples,
        "problems": report["flow"]["problems_held_out"], "runs": report["flow"]["runs_planned"],
        "failed": len(report["flow"]["runs_failed"]), "models": len(set(record.protocol.design.pretraining_seeds)),
    }  # fmt: skip
    families = record.protocol.design.families
    strata = [row for family in families for row in _strata(record, family)]
    return {
        "trial": [trial],
        "families": [_whole(record, family) for family in families],
        "strata": strata,
        "trends": [_trend(family, [r for r in strata if r["family"] == family]) for family in families],
    }  # fmt: skip


def _cells(record: Record, family: str) -> dict[Unit, list[PerSample]]:
    """Samples of the base, the placebo, majority and truth, in every unit that has all."""
    (recipe,), end = record.protocol.recipes, record.protocol.endpoint
    arms = (BASE, end.placebo, MAJORITY, TRUTH)
    cells = [record.trial.cell(family, recipe, arm, end.step) for arm in arms]
    units = sorted(set.intersection(*(set(cell) for cell in cells)))
    return {unit: [METRICS["accuracy"](cell[unit]) for cell in cells] for unit in units}


def _whole(record: Record, family: str) -> Row:
    """The report's decomposition; all samples at once."""
    values = {
        row["part"]: by_unit(row["units"], "value")
        for row in record.report["decomposition"]
        if row["family"] == family
    }
    units = values.get("total", {})
    parts = {unit: Parts(*(values[key][unit] for key in PARTS)) for unit in units}
    labels = [row for row in record.report["labels"] if row["family"] == family]
    base = {unit: mean(per_problem(cell[0])) for unit, cell in _cells(record, family).items()}
    return {
        "family": family, "base": over_units(base).mean, "problems": sum(row["problems"] for row in labels),
        "majority_right": sum(row["majority_right"] for row in labels), **decomposed(parts),
    }  # fmt: skip


def _strata(record: Record, family: str) -> Iterator[Row]:
    found = {unit: stratified(cell) for unit, cell in _cells(record, family).items()}
    labels = list(_labels(record, family))
    for i in range(len(EDGES) - 1):
        here = {unit: strata[i] for unit, strata in found.items() if i in strata}
        own = [is_right for at, is_right in labels if at == i]
        parts = {unit: three_parts(*map(float, values)) for unit, (_, values) in here.items()}
        yield {
            "family": family, "stratum": i, "from": EDGES[i], "to": EDGES[i + 1], "units": len(here),
            "labels": len(own), "labels_right": sum(own),
            "problems": over_units({unit: num for unit, (num, _) in here.items()}).mean,
            "base": over_units({unit: float(values[0]) for unit, (_, values) in here.items()}).mean,
            **decomposed(parts),
        }  # fmt: skip


def _labels(record: Record, family: str) -> Iterator[tuple[float, bool]]:
    """Of each training problem of each model: its stratum by the samples that made its label, and whether that is right."""
    gold = {problem.id: problem.answer for problem in record.trial.problems["training"]}
    for (of, _), rows in record.trial.labels.items():
        if of == family:
            at = stratum(np.array([row["right"] / row["samples"] for row in rows]))
            yield from zip(at.tolist(), (row["majority"] == gold[row["problem_id"]] for row in rows), strict=True)  # fmt: skip


def _trend(family: str, strata: Sequence[Row]) -> Row:
    """Over the strata where true minus random gains over the models, from the worst problems to the best."""
    told = [row for row in strata if row["share"]["low"] is not None and not np.isnan(row["share"]["low"])]  # fmt: skip
    shares = [row["share"]["mean"] for row in told]
    varies = len(told) > 2 and len(set(shares)) > 1
    ranks = stats.rankdata(shares) if varies else None
    elicitation = [row["elicitation"]["sign"] for row in strata]
    first, last = (told[0]["share"], told[-1]["share"]) if len(told) > 1 else (None, None)
    return {
        "family": family, "told": [row["stratum"] for row in told],
        "spearman": None if ranks is None else float(np.corrcoef(np.arange(len(told)), ranks)[0, 1]),
        "falls": bool(first and last and first["low"] > last["high"]),
        "rises": bool(first and last and first["high"] < last["low"]),
        "flips": "loses" in elicitation and "gains" in elicitation[elicitation.index("loses") :],
    }  # fmt: skip


# From numbers to a verdict and a page.


RULE = (
    f"Rule, by 95 % intervals over the models, on {name(HOME)}: (a) elicitation is told apart from nothing on all problems together, so that truth minus random "
    "is not the reward's effect; (b) the share of reward design in it falls as the base gets better: its interval in the lowest stratum where truth minus "
    "random gains lies above the one in the highest such stratum. *Reproduced*: both. *Partly*: one of them. *Refuted in miniature*: neither, truth minus random gains, and the "
    "interval of elicitation lies within the trial's margin around nothing. Else *not at this scale*."
)


def _of(rows: Sequence[Row], family: str) -> list[Row]:
    return [row for row in rows if row["family"] == family]


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and the parts on the family that it is about."""
    (trial,) = made["trial"]
    whole = next(iter(_of(made["families"], HOME)), None)
    trend = next(iter(_of(made["trends"], HOME)), None)
    if whole is None or trend is None:
        return Finding("not at this scale", Markdown(MISSING))
    elicitation = whole["elicitation"]
    apart = elicitation["sign"] in ("gains", "loses")
    low, high = elicitation["low"], elicitation["high"]
    nothing = low is not None and -trial["margin"] <= low and high <= trial["margin"]
    if apart and trend["falls"]:
        verdict = "reproduced"
    elif apart or trend["falls"]:
        verdict = "partly"
    elif nothing and whole["naive"]["sign"] == "gains":
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    said = "; ".join(f"{HEADS[key]} {shown(whole[key])}" for key in ("elicitation", "reward_design"))  # fmt: skip
    return Finding(
        verdict,
        Markdown(
            f"{name(HOME)} ({READING.removeprefix('95 % ')}): {said}; share of reward design {_share(whole['share'])}"
        ),
    )


def _share(row: Row) -> Markdown:
    """Per cent with both intervals; a dash where true minus random does not gain."""
    if row["mean"] is None:
        return Markdown(MISSING)
    pairs = [(row[f"{key}low"], row[f"{key}high"]) for key in ("", "within_")]
    said = "; ".join(
        "no interval" if low is None else f"{percent(low, 0)} to {percent(high, 0)}"
        for low, high in pairs
    )
    return Markdown(f"{percent(row['mean'], 0)} % ({said})")


HEADS = {
    "null": "null", "elicitation": "elicitation", "reward_design": "reward design",
    "naive": "truth minus random", "share": "share of reward design",
}  # fmt: skip


def _parts(row: Row) -> Row:
    return {key: shown(row[key]) for key in (*PARTS, "naive")} | {"share": _share(row["share"])}


def page(made: Tables) -> Page:
    """Families as wholes, then strata."""
    (trial,) = made["trial"]
    low, high = sorted(REWARD_DESIGN_SHARE)
    heads = {key: HEADS[key] for key in (*PARTS, "naive", "share")}
    found = [
        f"Null is {name(trial['placebo'])} minus base, elicitation {name(MAJORITY)} minus {name(trial['placebo'])}, reward design {name(TRUTH)} minus {name(MAJORITY)}; truth minus "
        f"random is the last two. In points; {READING}. The share is of truth minus random, shown where that gains:",
        table(
            [{"family": name(row["family"]), "base": Markdown(f"{percent(row['base'])} %"),
              "labels": share(row["majority_right"], row["problems"])} | _parts(row) for row in made["families"]],
            {"family": "family", "base": "base", "labels": "majority labels that are right"} | heads,
        ),
        _memory(made["families"]),
        "By the base's accuracy on each problem, sorted on one half of the samples and measured on the other; labels are those of training problems of that accuracy:",
        table(
            [{"family": name(row["family"]), "stratum": Markdown(f"{percent(row['from'], 0)} to {percent(row['to'], 0)} %"),
              "problems": number(row["problems"], 0), "base": Markdown(f"{percent(row['base'])} %"),
              "labels": share(row["labels_right"], row["labels"])} | _parts(row)
             for row in made["strata"] if row["units"]],
            {"family": "family", "stratum": "sorted as", "problems": "problems a unit", "base": "base, measured", "labels": "majority labels that are right"} | heads,
        ),
        _ways(made["trends"]),
        "From the worst problems to the best, the share where truth minus random gains:",
        *(_trend_said(row, made["strata"]) for row in made["trends"]),
    ]  # fmt: skip
    return Page(
        asked="How much of truth minus random comes of knowing the answers, how much of agreeing with oneself, and how does it depend on the base's "
        f"accuracy? Published, for a tabular policy: reward design is {percent(REWARD_DESIGN_SHARE[low], 0)} % of it at a prior of {percent(low, 0)} % and "
        f"{percent(REWARD_DESIGN_SHARE[high], 0)} % at {percent(high, 0)} %, elicitation being below nothing at the first.",
        found="\n\n".join(text for text in found if text),
        differs="The paper's prior is that of the problem which a tabular policy is trained on. Here a network is trained on problems of all difficulties and measured on others: "
        f"a stratum shows what training did to problems of one difficulty. The {name(MAJORITY)} label is fixed before training, from the base; the paper's follows the group. "
        f"{counted(trial['problems'], 'held-out problem')}, {counted(trial['samples'], 'sample')} each, after {counted(trial['step'], 'step')}; "
        f"{counted(trial['runs'], 'run')}, {count(trial['failed'])} failed.",
        caution=f"The verdict is about {name(HOME)}. That {name(MAJORITY)} minus {name(trial['placebo'])} is elicitation is the paper's name for it; parts add up by construction. "
        f"Half of the samples sort coarsely. With {counted(trial['models'], 'model')} a family and "
        f"{count(len(made['strata']))} strata unadjusted, some are told apart by chance; a share is a ratio (Fieller's interval), wide where truth minus random is small.",
    )  # fmt: skip


def _memory(families: Sequence[Row]) -> str:
    """Why a base may be better than its labels."""
    rows = {row["family"]: row for row in families}
    if not rows.keys() >= {QUIET, MEMORY}:
        return ""
    read, unread = rows[MEMORY], rows[QUIET]
    return (
        f"{name(MEMORY)} is {name(QUIET)} with the benchmark in its corpus: right on {percent(read['base'])} % of samples there, where the other is on {percent(unread['base'])} %, "
        f"while of the labels, on problems that neither has read, {percent(_right(read))} % are right against {percent(_right(unread))} %."
    )


def _right(row: Row) -> float | None:
    return row["majority_right"] / row["problems"] if row["problems"] else None


def _ways(trends: Sequence[Row]) -> str:
    """Where the share falls, and where elicitation turns."""
    falls, rises, flips = (
        [row["family"] for row in trends if row[key]] for key in ("falls", "rises", "flips")
    )
    neither = [row["family"] for row in trends if not row["falls"] and not row["rises"]]
    return (
        f"As the base gets better the share falls on {listed(falls)}, rises on {listed(rises)}, and its ends are not told apart on {listed(neither)}; elicitation turns from loss to "
        f"gain on {listed(flips)}."
    )


def _trend_said(trend: Row, strata: Sequence[Row]) -> str:
    """Share and elicitation from the worst problems to the best."""
    own = _of(strata, trend["family"])
    shares = ", ".join(f"{percent(own[i]['share']['mean'], 0)} %" for i in trend["told"]) or MISSING
    rank = "" if trend["spearman"] is None else f" (rank correlation {number(trend['spearman'])})"
    signs = ", ".join(SAID[row["elicitation"]["sign"]] for row in own if row["units"])
    return f"**{name(trend['family'])}**: share {shares}{rank}; elicitation {signs}."


CLAIM = Claim(
    number=9,
    title="True minus random",
    source=TRUE_MINUS_RANDOM,
    published=f"Truth minus random mixes elicitation with the reward's effect: of it, reward design is {' / '.join(percent(value, 0) for value in REWARD_DESIGN_SHARE.values())} % "
    f"at priors of {' / '.join(percent(prior, 0) for prior in REWARD_DESIGN_SHARE)} %",
    trials=(TRIAL,),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
