"""Claim 1: rewards that know nothing gain nearly what the truth gains, on one family of models and not on others."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy import stats

from claims.ledger import Claim, Finding, Page, Records, Tables
from claims.markdown import (
    Markdown,
    count,
    counted,
    gain,
    listed,
    name,
    number,
    points,
    share,
    table,
)
from claims.published import SIX_REWARDS, SPURIOUS_REWARDS
from controlarm.analysis.contrasts import over_units, t_interval
from controlarm.protocol import Unit

TRIAL = "six_rewards"

HOME = "coder"
"""Made after Qwen2.5-Math-7B, where the numbers were published: good code, poor words."""
QUIET = "talker"
"""Made after Llama 3, which writes no code: spurious rewards are said to give it nothing."""
TRUE = ("ground_truth", "majority", "one_shot")
SPURIOUS = ("incorrect", "random", "format")

MODELS = "Qwen2.5-Math-7B on MATH-500"
OTHERS = "Llama 3 and OLMo 2"

Row = dict[str, Any]
Sign = Literal["gains", "loses", "not told apart from the base", "gains exactly nothing"]


def sign(low: float | None, high: float | None) -> Sign:
    """What the 95 % interval of a gain over the base says; without one nothing is told apart."""
    if low is None or high is None:
        return "not told apart from the base"
    if low == high == 0:
        return "gains exactly nothing"
    return "gains" if low > 0 else "loses" if high < 0 else "not told apart from the base"


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``, ``gains`` by family and arm, ``order`` by family, ``pairs`` of the six arms by family."""
    report = records[TRIAL].report
    design = report["trial"]["protocol"]["design"]
    end = report["trial"]["protocol"]["endpoint"]
    found = [row for row in report["contrasts"] if row["metric"] == end["metric"]]
    base = {(row["family"], row["arm"]): row for row in found if row["versus"] == "base"}
    placebo = {(row["family"], row["arm"]): row for row in found if row["versus"] == "placebo"}
    gains, orders, pairs = [], [], []
    for family in design["families"]:
        own = {arm: row for (of, arm), row in base.items() if of == family}
        gains += [_gain(row, placebo.get((family, arm))) for arm, row in own.items()]
        six = [arm for arm in SIX_REWARDS if arm in own and own[arm]["estimate"] is not None]
        apart = [_pair(family, own[a], own[b]) for a, b in combinations(six, 2)]
        pairs += apart
        orders.append(_order(family, {arm: own[arm]["estimate"] for arm in six}, apart))
    trial = {
        "metric": end["metric"], "step": end["step"], "placebo": end["placebo"],
        "problems": report["flow"]["problems_held_out"], "runs": report["flow"]["runs_planned"],
        "failed": len(report["flow"]["runs_failed"]), "units": len(_units(base)),
        "models": len(set(design["pretraining_seeds"])),
    }  # fmt: skip
    return {"trial": [trial], "gains": gains, "order": orders, "pairs": pairs}


def _units(base: Mapping[tuple[str, str], Row]) -> set[Unit]:
    return {
        Unit(unit["pretraining_seed"], unit["seed"])
        for row in base.values()
        for unit in row["units"]
    }


def _gain(row: Row, placebo: Row | None) -> Row:
    low, high = row["ci95"] or (None, None)
    over = (placebo or {}).get("ci95") or (None, None)
    return {
        "family": row["family"], "arm": row["arm"], "published": SIX_REWARDS.get(row["arm"]),
        "gain": row["estimate"], "low": low, "high": high, "sign": sign(low, high), "by_luck": row["by_luck"],
        "over_placebo": (placebo or {}).get("estimate"), "over_low": over[0], "over_high": over[1],
        "verdict": (placebo or {}).get("verdict"),
    }  # fmt: skip


def _pair(family: str, first: Row, second: Row) -> Row:
    """Two arms in the published order: the first one's value minus the second's, by unit."""
    values = [
        {Unit(unit["pretraining_seed"], unit["seed"]): unit["arm_value"] for unit in row["units"]}
        for row in (first, second)
    ]
    both = sorted(values[0].keys() & values[1].keys())
    e = over_units({unit: values[0][unit] - values[1][unit] for unit in both})
    low, high = (None, None) if e.note else t_interval(e, 0.95)
    told = {"gains": "as published", "loses": "reversed"}.get(sign(low, high), "not told apart")
    return {
        "family": family, "first": first["arm"], "second": second["arm"], "difference": e.mean,
        "low": low, "high": high, "order": told,
    }  # fmt: skip


def _order(family: str, six: Mapping[str, float], pairs: Sequence[Row]) -> Row:
    told = [pair["order"] for pair in pairs]
    varies = len(six) > 2 and len(set(six.values())) > 1
    ranks = [stats.rankdata([values[arm] for arm in six]) for values in (SIX_REWARDS, six)]
    return {
        "family": family,
        "order": sorted(six, key=lambda arm: -six[arm]),
        "spearman": float(np.corrcoef(*ranks)[0, 1]) if varies else None,
        "pairs": len(told),
        "as_published": told.count("as published"),
        "reversed": told.count("reversed"),
    }


def _of(rows: Sequence[Row], family: str) -> dict[str, Row]:
    return {row["arm"]: row for row in rows if row["family"] == family}


RULE = (
    f"Rule: *reproduced* where on {name(HOME)} all six rewards gain over the base (95 % intervals above nothing), no pair of them stands "
    f"in reversed order, and on {name(QUIET)} none of {listed(SPURIOUS)} gains; *partly* where the truth and at least one of those three gain on "
    f"{name(HOME)}, but not all of that holds; *refuted in miniature* where the truth gains there, none of the three does, and one of them "
    "loses; else *not at this scale*."
)


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and the gains on the family that the numbers are about."""
    home, quiet = _of(made["gains"], HOME), _of(made["gains"], QUIET)
    signs = {arm: home[arm]["sign"] if arm in home else None for arm in SIX_REWARDS}
    told = next((row for row in made["order"] if row["family"] == HOME), None)
    spurious = [arm for arm in SPURIOUS if signs[arm] == "gains"]
    leaked = any(quiet[arm]["sign"] == "gains" for arm in SPURIOUS if arm in quiet)
    if signs["ground_truth"] != "gains":
        verdict = "not at this scale"
    elif all(s == "gains" for s in signs.values()) and told and not told["reversed"] and not leaked:
        verdict = "reproduced"
    elif spurious:
        verdict = "partly"
    elif any(signs[arm] == "loses" for arm in SPURIOUS):
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    shown = (
        f"{name(arm)} {gain(home[arm]['gain'], home[arm]['low'], home[arm]['high'])}"
        for arm in ("ground_truth", *SPURIOUS)
        if arm in home
    )
    return Finding(verdict, Markdown(f"{name(HOME)}, over the base: {'; '.join(shown)}"))


def page(made: Tables) -> Page:
    """Signs and order by family."""
    (trial,) = made["trial"]
    families = [row["family"] for row in made["order"]]
    published = ", ".join(f"{name(arm)} {points(value)}" for arm, value in SIX_REWARDS.items())
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in made["gains"]):
        cells = {family: _of(made["gains"], family).get(arm) for family in families}
        rows.append(
            {"arm": name(arm), "published": points(SIX_REWARDS.get(arm))}
            | {family: gain(row["gain"], row["low"], row["high"]) if row else None for family, row in cells.items()}
        )  # fmt: skip
    heads = {"arm": "arm", "published": "published"} | {f: name(f) for f in families}
    by_luck = sum(bool(row["by_luck"]) for row in made["gains"])
    found = [
        "Gain over the base in points, with 95 % intervals over the models:",
        table(rows, heads),
        *(_sentence(made, order) for order in made["order"]),
        _against_placebo(made, trial["placebo"]),
    ]
    return Page(
        asked=f"{MODELS} gained under six rewards: {published}; spurious ones gave {OTHERS} nothing. Which signs and which order "
        f"appear on {listed(families)}?",
        found="\n\n".join(found),
        differs=f"The models are small, from scratch, and told apart by what their pretraining held: {name(HOME)} is made after "
        f"the published model, {name(QUIET)} after one that writes no code. A gain is {name(trial['metric'])} on "
        f"{counted(trial['problems'], 'held-out problem')} after {counted(trial['step'], 'step')}, of samples at temperature one; the "
        f"paper's is of one run a reward, and has no intervals. "
        f"{counted(trial['runs'], 'run')} were planned, {count(trial['failed'])} of them failed.",
        caution=f"Intervals are over {counted(trial['models'], 'pretrained model')} a family ({counted(trial['units'], 'unit')} in all) and are not "
        f"adjusted: with {count(len(made['gains']))} gains and {count(len(made['pairs']))} pairs, some are told apart by chance. The "
        f"order of arms that are not told apart means nothing. In {share(by_luck, len(made['gains']))} gains the models agree more "
        "closely than samples alone would let them, and the interval is too short.",
    )  # fmt: skip


def _sentence(made: Tables, order: Row) -> str:
    """One family: who gains, who loses, and the order."""
    signs: dict[str, list[str]] = {}
    for row in _of(made["gains"], order["family"]).values():
        if row["published"] is not None:
            signs.setdefault(row["sign"], []).append(row["arm"])
    verbs = {
        "gains": "over the base gain",
        "loses": "lose",
        "not told apart from the base": "not told apart from it",
        "gains exactly nothing": "gain exactly nothing",
    }
    said = "; ".join(f"{verbs[key]}: {listed(arms)}" for key in verbs if (arms := signs.get(key)))
    sentences = f"**{name(order['family'])}**: {said}."
    if order["spearman"] is None:
        return sentences
    return (
        f"{sentences} From most to least: {listed(order['order'])}; rank correlation with the published order "
        f"{number(order['spearman'])}. Of {counted(order['pairs'], 'pair')} of rewards {count(order['as_published'])} stand in the published "
        f"order, {count(order['reversed'])} in the reverse, the others are not told apart."
    )


def _against_placebo(made: Tables, placebo: str) -> str:
    """What is left of the gains against the placebo, on the family that the numbers are about."""
    rows = [row for row in _of(made["gains"], HOME).values() if row["over_placebo"] is not None]
    said = ", ".join(
        f"{name(row['arm'])} {gain(row['over_placebo'], row['over_low'], row['over_high'])}"
        f"{' (' + row['verdict'] + ')' if row['verdict'] else ''}"
        for row in rows
    )
    return f"Gain over placebo ({name(placebo)}) on {name(HOME)}: {said}." if said else ""


CLAIM = Claim(
    number=1,
    title="Six rewards, one gain",
    source=SPURIOUS_REWARDS,
    published=f"{MODELS} gains {' / '.join(points(value) for value in SIX_REWARDS.values())} points under {listed(SIX_REWARDS)}; {OTHERS} gain nothing from the last three",
    trials=(TRIAL,),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
