"""Claim 11: one learning rate was published for all rewards, so a trial's verdicts are asked for again at half and at double the rate."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from claims.c01_six_rewards import HOME
from claims.ledger import Claim, Finding, Page, Records, Tables
from claims.markdown import Markdown, count, counted, inert, listed, name, points, share, table
from claims.published import LEARNING_RATE, ONE_RATE
from claims.two_intervals import READING, SAID, both, by_unit, shown
from controlarm import markup
from controlarm.analysis import contrasts
from controlarm.analysis.contrasts import Estimate
from controlarm.analysis.folder import BASE
from controlarm.protocol import Unit

TRIAL = "rates"
TRUTH = "ground_truth"
READINGS = {
    "alone": "a trial at that rate alone",
    "within": "the same, with training seeds as units",
    "together": "all rates adjusted together",
}
"""Ways to come to a verdict; the rule goes by the first. Holm's adjustment is over the primary comparisons at one rate in the first two,
over those at all rates in the last, which is what the trial's report says."""

Row = dict[str, Any]
Case = tuple[str, str, str]
"""Family, recipe, arm."""


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``; ``rates``; ``arms`` by family, arm and rate; ``verdicts`` by family and arm; ``readings``; ``slopes``."""
    report = records[TRIAL].report
    protocol = report["trial"]["protocol"]
    design, end = protocol["design"], protocol["endpoint"]
    rates = {key: recipe["learning_rate"] for key, recipe in protocol["recipes"].items()}
    rates = dict(sorted(rates.items(), key=lambda item: item[1]))
    gained, over, together = {}, {}, {}
    for row in report["contrasts"]:
        if row["metric"] == end["metric"]:
            case = (row["family"], row["recipe"], row["arm"])
            (gained if row["versus"] == BASE else over)[case] = by_unit(row["units"], "difference")
            if row["versus"] == "placebo":
                together[case] = row["verdict"]
    ways = {
        "alone": _verdicts(gained, over, end, contrasts.over_units),
        "within": _verdicts(gained, over, end, contrasts.within_models),
        "together": together,
    }
    arms = [
        {"family": family, "arm": arm, "recipe": recipe, "rate": rates[recipe], "gain": both(values)}
        | {"over_placebo": both(over[case]) if (case := (family, recipe, arm)) in over else None}
        | {way: found.get(case) for way, found in ways.items()}
        for (family, recipe, arm), values in gained.items()
    ]  # fmt: skip
    verdicts = list(_changes(ways, list(rates)))
    trial = {
        "metric": end["metric"], "step": end["step"], "placebo": end["placebo"], "margin": end["margin"],
        "problems": report["flow"]["problems_held_out"], "runs": report["flow"]["runs_planned"],
        "failed": len(report["flow"]["runs_failed"]), "families": design["families"],
        "models": len(set(design["pretraining_seeds"])), "primary": len(end["primary"]),
    }  # fmt: skip
    return {
        "trial": [trial],
        "rates": [{"recipe": recipe, "rate": rate} for recipe, rate in rates.items()],
        "arms": arms,
        "verdicts": verdicts,
        "readings": [_reading(way, verdicts) for way in READINGS],
        "slopes": list(_slopes(gained, over, rates)),
    }


def _verdicts(
    gained: Mapping[Case, Mapping[Unit, float]], over: Mapping[Case, Mapping[Unit, float]],
    end: Row, estimate: Callable[[Mapping[Unit, float]], Estimate],
) -> dict[Case, str]:  # fmt: skip
    """As if each rate were a trial of its own: Holm over its primary comparisons, the others not adjusted."""
    p = {
        case: contrasts.intersection_union(
            *(contrasts.p_superior(estimate(values[case])) for values in (over, gained))
        )
        for case in over
        if case in gained
    }
    for recipe in dict.fromkeys(case[1] for case in p):
        primary = [(each["family"], recipe, each["arm"]) for each in end["primary"]]
        primary = [case for case in dict.fromkeys(primary) if case in p]
        adjusted = contrasts.holm([p[case] for case in primary], end["alpha"])
        p |= {case: own.p for case, own in zip(primary, adjusted, strict=True)}
    return {
        case: contrasts.verdict(estimate(over[case]), each, end["alpha"], end["margin"])[0]
        for case, each in p.items()
    }


def _changes(ways: Mapping[str, Mapping[Case, str]], recipes: Sequence[str]) -> Iterator[Row]:
    """The verdicts of one arm at every rate, from low to high, one row a reading."""
    for way, found in ways.items():
        for family, arm in dict.fromkeys((family, arm) for family, _, arm in found):
            at = [found.get((family, recipe, arm)) for recipe in recipes]
            yield {
                "reading": way, "family": family, "arm": arm, "verdicts": at,
                "complete": None not in at, "changed": None not in at and len(set(at)) > 1,
                "reversed": {"superior", "inferior"} <= set(at),
            }  # fmt: skip


def _reading(way: str, verdicts: Sequence[Row]) -> Row:
    rows = [row for row in verdicts if row["reading"] == way and row["complete"]]
    return {
        "reading": way, "compared": len(rows), "changed": sum(row["changed"] for row in rows),
        "reversed": sum(row["reversed"] for row in rows),
        "never_told": sum(set(row["verdicts"]) == {"inconclusive"} for row in rows),
    }  # fmt: skip


def _slopes(
    gained: Mapping[Case, Mapping[Unit, float]], over: Mapping[Case, Mapping[Unit, float]],
    rates: Mapping[str, float],
) -> Iterator[Row]:  # fmt: skip
    """Points a doubling of the rate: the least squares line on log2 of the rate, in every unit, of the contrast and of the gain over base."""
    for family, arm in dict.fromkeys((family, arm) for family, _, arm in gained):
        contrast, gain = (
            _slope([values.get((family, recipe, arm), {}) for recipe in rates], list(rates.values()))
            for values in (over, gained)
        )  # fmt: skip
        yield {
            "family": family, "arm": arm, "gain": both(gain),
            "over_placebo": both(contrast) if contrast else None,
        }  # fmt: skip


def _slope(at: Sequence[Mapping[Unit, float]], rates: Sequence[float]) -> dict[Unit, float]:
    units = sorted(set.intersection(*(set(values) for values in at)))
    x = np.array([math.log2(rate) for rate in rates])
    x -= x.mean()
    if not x.any():
        return {}
    return {unit: float(x @ np.array([values[unit] for values in at]) / (x @ x)) for unit in units}


RULE = (
    f"Rule, by the verdicts of {READINGS['alone']}, families and arms counted alike: *reproduced* where the truth is superior on {name(HOME)} and "
    "no verdict changes between the rates; *refuted in miniature* where an arm is superior at one rate and inferior at another, or more "
    f"than half of the verdicts change; *not at this scale* where the truth is superior on {name(HOME)} at no rate; else *partly*."
)


def _reading_of(made: Tables, way: str) -> Row:
    return next(row for row in made["readings"] if row["reading"] == way)


def _verdict_row(made: Tables, family: str, arm: str, way: str = "alone") -> Row | None:
    return next(
        (
            row
            for row in made["verdicts"]
            if (row["reading"], row["family"], row["arm"]) == (way, family, arm)
        ),
        None,
    )


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and the number of verdicts that change."""
    told, truth = _reading_of(made, "alone"), _verdict_row(made, HOME, TRUTH)
    if truth is None or "superior" not in truth["verdicts"] or not told["compared"]:
        verdict = "not at this scale"
    elif told["reversed"] or told["changed"] > told["compared"] / 2:
        verdict = "refuted in miniature"
    elif not told["changed"] and truth["complete"]:
        verdict = "reproduced"
    else:
        verdict = "partly"
    slope = next(
        (row for row in made["slopes"] if (row["family"], row["arm"]) == (HOME, TRUTH)), None
    )
    contrast = shown(slope["over_placebo"]) if slope else None
    return Finding(
        verdict,
        Markdown(
            f"{share(told['changed'], told['compared'])} verdicts change with the rate; {name(TRUTH)} over placebo on {name(HOME)}, a doubling: "
            f"{contrast or markup.MISSING}"
        ),
    )


def page(made: Tables) -> Page:
    """Contrasts and verdicts at each rate, what the placebo does, and slopes."""
    (trial,) = made["trial"]
    recipes = {row["recipe"]: row["rate"] for row in made["rates"]}
    heads = {
        recipe: f"{name(recipe)} ({markup.significant(rate, 2)})"
        for recipe, rate in recipes.items()
    }
    placebo = trial["placebo"]
    cells = {(row["family"], row["arm"], row["recipe"]): row for row in made["arms"]}
    pairs = list(dict.fromkeys((row["family"], row["arm"]) for row in made["arms"]))
    over, base = [], []
    for family, arm in pairs:
        at = {recipe: row for recipe in recipes if (row := cells.get((family, arm, recipe)))}
        head = {"family": name(family), "arm": name(arm)}
        base.append(head | {recipe: shown(row["gain"]) for recipe, row in at.items()})
        if arm != placebo:
            over.append(head | {recipe: shown(row["over_placebo"], row["alone"] or "") for recipe, row in at.items()})  # fmt: skip
    names = {"family": "family", "arm": "arm"}
    counts = [
        {"reading": READINGS[row["reading"]]} | {key: count(row[key]) for key in COUNTS}
        for row in made["readings"]
    ]
    slopes = [
        {"family": name(row["family"]), "arm": name(row["arm"])} | {key: shown(row[key]) for key in ("over_placebo", "gain")}
        for row in made["slopes"]
    ]  # fmt: skip
    found = [
        f"Gain over placebo ({name(placebo)} at the same rate) in points, and the verdict of {READINGS['alone']}. {READING}:",
        table(over, names | heads),
        "Verdicts over the rates:",
        table(counts, {"reading": "verdict of"} | COUNTS),
        _changing(made),
        "Gain over the base:",
        table(base, names | heads),
        *(_placebo(made, family, placebo) for family in trial["families"]),
        "Points a doubling of the rate, by unit:",
        table(slopes, names | {"over_placebo": "of the gain over placebo", "gain": "of the gain over the base"}),
        *(_steep(made, family) for family in trial["families"]),
    ]  # fmt: skip
    return Page(
        asked=f"Does the verdict on an arm change between {listed(recipes)} the recipe's rate? The paper has one rate for every reward, {markup.significant(LEARNING_RATE, 2)}, "
        "and no verdicts: that they hang on no particular rate is taken for granted, not claimed.",
        found="\n\n".join(text for text in found if text),
        differs=f"Small models, {inert(trial['metric'])} on {counted(trial['problems'], 'held-out problem')} and rates that fit their size; only the ratio of the rates carries over. "
        f"**The number of steps is fixed at {count(trial['step'])} for every rate, so half the rate is also half the training**: an arm that is behind at a low rate may be slower, "
        f"not worse, and nothing here tells those two apart. {counted(trial['runs'], 'run')}, {count(trial['failed'])} failed.",
        caution=f"*Inconclusive* at every rate counts as no change, and is no evidence of stability. Verdicts have edges: of two nearly equal contrasts one may be "
        f"superior and the other not, so read slopes beside counts. *Equivalent* means within {markup.percent(trial['margin'])} points either way. {counted(trial['primary'], 'comparison')} a rate are primary and "
        f"adjusted, the others exploratory. Intervals over {counted(trial['models'], 'model')} are wide; those within speak of these models only.",
    )  # fmt: skip


COUNTS = {
    "compared": "compared", "changed": "change", "reversed": "reverse", "never_told": "inconclusive throughout",
}  # fmt: skip


def _changing(made: Tables) -> str:
    """Which verdicts change, by the reading that the rule goes by."""
    rows = [row for row in made["verdicts"] if row["reading"] == "alone" and row["changed"]]
    if not rows:
        return "No verdict of a trial at one rate changes."
    said = "; ".join(
        f"{name(row['family'])} {name(row['arm'])}: {', then '.join(inert(each) for each in row['verdicts'])}"
        for row in rows
    )
    return f"From the lowest rate to the highest: {said}."


def _placebo(made: Tables, family: str, placebo: str) -> str:
    """What the placebo itself does at each rate."""
    rows = [row for row in made["arms"] if (row["family"], row["arm"]) == (family, placebo)]
    rows.sort(key=lambda row: row["rate"])
    if not rows:
        return ""
    signs = Counter(SAID[row["gain"]["within_sign"]] for row in rows)
    values = ", ".join(
        f"{points(row['gain']['mean'])} at {name(row['recipe'])} (within these models: {SAID[row['gain']['within_sign']]})"
        for row in rows
    )
    still = (
        " It never moves off the base by these intervals." if set(signs) == {"not told apart"} else ""
    )  # fmt: skip
    return f"**{name(family)}**: {name(placebo)} itself {values}.{still}"


def _steep(made: Tables, family: str) -> str:
    """Which contrasts grow and which fall with the rate."""
    rows = [row for row in made["slopes"] if row["family"] == family and row["over_placebo"]]
    kinds = {"gains": "grow", "loses": "fall"}
    said = []
    for key, of in (("sign", "over the models"), ("within_sign", "within them")):
        parts = [
            f"{verb}: {listed(arms)}"
            for kind, verb in kinds.items()
            if (arms := [row["arm"] for row in rows if row["over_placebo"][key] == kind])
        ]
        said.append(f"{of} {'; '.join(parts) or 'none is told apart'}")
    return f"**{name(family)}**, contrasts that change with the rate: {', '.join(said)}." if rows else ""  # fmt: skip


CLAIM = Claim(
    number=11,
    title="The placebo contrast against the learning rate",
    source=ONE_RATE,
    published=f"every reward is trained at one learning rate, {markup.significant(LEARNING_RATE, 2)}; nothing is said of others",
    trials=(TRIAL,),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
