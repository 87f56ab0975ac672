"""Claim 1: rewards that know nothing gain nearly what the truth gains, on one family of models and not on others."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from claims import two_intervals
from claims.ledger import Claim, Finding, Page, Records, Tables
from claims.markdown import (
    Markdown,
    count,
    counted,
    gain,
    inert,
    listed,
    name,
    number,
    points,
    share,
    table,
)
from claims.published import CLIP_ACTIVATION, EXPLORATION, SIX_REWARDS, SPURIOUS_REWARDS
from controlarm.analysis.contrasts import holm, intersection_union, over_units, t_interval
from controlarm.analysis.folder import Trial
from controlarm.markup import percent
from controlarm.protocol import Unit

TRIAL = "six_rewards"

HOME = "coder"
"""Made after Qwen2.5-Math-7B, where the numbers were published: good code, poor words."""
QUIET = "talker"
"""Made after Llama 3, which writes no code: spurious rewards are said to give it nothing."""
TRUE = ("ground_truth", "majority", "one_shot")
SPURIOUS = ("incorrect", "random", "format")
TRUTH, COINS = "ground_truth", "random"
WINDOW = 10
"""Steps over which a journal's beginning and end are averaged."""
LUCKY = "‡"
"""Where the models agree by luck, as the report marks it."""

MODELS = "Qwen2.5-Math-7B on MATH-500"
OTHERS = "Llama 3 and OLMo 2"

Row = dict[str, Any]


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``; by family and arm ``gains``, ``boxes``, ``placebo`` and ``inside``; by family ``order`` and ``pairs``; ``controls``."""
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
        "models": len(set(design["pretraining_seeds"])), "alpha": end["alpha"], "window": WINDOW,
    }  # fmt: skip
    return {
        "trial": [trial], "gains": gains, "order": orders, "pairs": pairs,
        "boxes": [_boxes(row) for row in report["format_split"]],
        "placebo": _placebo(placebo, base, end["alpha"]),
        "controls": [{key: row[key] for key in ("family", "arm", "expect", "found", "held")} for row in report["controls"]],
        "inside": [
            _inside(records[TRIAL].trial, report["strategies"], family, arm, end["step"])
            for family in design["families"] for arm in (COINS, TRUTH)
        ],
    }  # fmt: skip


def _units(base: Mapping[tuple[str, str], Row]) -> set[Unit]:
    return {
        Unit(unit["pretraining_seed"], unit["seed"])
        for row in base.values()
        for unit in row["units"]
    }


def _gain(row: Row, placebo: Row | None) -> Row:
    low, high = row["ci95"] or (None, None)
    over = (placebo or {}).get("ci95") or (None, None)
    within = two_intervals.both(two_intervals.by_unit(row["units"], "difference"))
    return {
        "family": row["family"], "arm": row["arm"], "published": SIX_REWARDS.get(row["arm"]),
        "gain": row["estimate"], "low": low, "high": high, "sign": two_intervals.sign(low, high), "by_luck": row["by_luck"],
        **{key: within[key] for key in ("within_low", "within_high", "within_sign")},
        "over_placebo": (placebo or {}).get("estimate"), "over_low": over[0], "over_high": over[1],
        "verdict": (placebo or {}).get("verdict"),
    }  # fmt: skip


def _pair(family: str, first: Row, second: Row) -> Row:
    """Two arms in the published order: the first one's value minus the second's, by unit."""
    values = (two_intervals.by_unit(row["units"], "arm_value") for row in (first, second))
    e = over_units(two_intervals.minus(*values))
    low, high = (None, None) if e.note else t_interval(e, 0.95)
    told = {"gains": "as published", "loses": "reversed"}.get(
        two_intervals.sign(low, high), "not told apart"
    )
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


def _boxes(row: Row) -> Row:
    """The gain by the lenient grader, which ignores boxes, and what boxes add to it."""
    parts = {"lenient": "gain_lenient", "boxes": "format_part"}
    return {"family": row["family"], "arm": row["arm"]} | {
        key: two_intervals.both(two_intervals.by_unit(row["units"], column))
        for key, column in parts.items()
    }


def _placebo(
    placebo: Mapping[tuple[str, str], Row], base: Mapping[tuple[str, str], Row], alpha: float
) -> list[Row]:
    """Primary comparisons with the placebo, and all of the home family, with what decides: the larger p, of placebo and base, and Holm's level."""
    larger = {
        key: intersection_union(row["p_superior"], base[key]["p_superior"])
        for key, row in placebo.items()
        if row["p_superior"] is not None and base[key]["p_superior"] is not None
    }
    primary = [key for key, row in placebo.items() if row["primary"]]
    adjusted = holm([larger.get(key, float("nan")) for key in primary], alpha)
    levels = {key: each.level for key, each in zip(primary, adjusted, strict=True)}
    return [
        {
            "family": key[0], "arm": key[1], "primary": row["primary"], "models": _by_model(row),
            **two_intervals.both(two_intervals.by_unit(row["units"], "difference")),
            "p": larger.get(key), "level": levels.get(key), "p_holm": row["p_holm"], "smallest": row["mde"],
            "verdict": row["verdict"],
        }
        for key, row in placebo.items() if row["primary"] or key[0] == HOME
    ]  # fmt: skip


def _by_model(row: Row) -> list[float]:
    """The mean difference of each pretrained model."""
    found: dict[int, list[float]] = {}
    for unit in row["units"]:
        found.setdefault(unit["pretraining_seed"], []).append(unit["difference"])
    return [float(np.mean(values)) for values in found.values()]


def _inside(trial: Trial, strategies: Sequence[Row], family: str, arm: str, last: int) -> Row:
    """One arm before and after: how often it writes code, how good code and words are, how unsure its tokens are, and how many were clipped."""
    found: Row = {"family": family, "arm": arm}
    for row in strategies:
        if (row["family"], row["arm"], row["decoding"], row["detector"]) != (
            family,
            arm,
            "sampled",
            "substring",
        ):
            continue  # fmt: skip
        when = {0: "before", last: "after"}.get(row["step"])
        if when:
            found[f"{row['strategy']}_{when}"] = row["accuracy"]
            if row["strategy"] == "code":
                found[f"share_{when}"] = row["share"]
    (recipe,) = trial.protocol.recipes
    journals = [run.journal for run in trial.of_arm(family, recipe, arm)]
    for key, column, wanted in (
        ("entropy_before", "entropy", slice(None, WINDOW)),
        ("entropy_after", "entropy", slice(-WINDOW, None)),
        ("clip_low", "clip_low", slice(None)),
        ("clip_high", "clip_high", slice(None)),
    ):
        means = [np.mean(journal[column][wanted]) for journal in journals if column in journal]
        found[key] = float(np.mean(means)) if means else None
    return found


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
    """Signs and order by family, what boxes add, what the placebo leaves, and what coins changed."""
    (trial,) = made["trial"]
    families = [row["family"] for row in made["order"]]
    found = [
        f"Gain over the base in points; {two_intervals.READING}:",
        _by_arm(made["gains"], families, _gain_cell, {"published": "published"}),
        _lucky(made["gains"]),
        *(_sentence(made, family) for family in families),
        _orders(made["order"]),
        *_boxes_shown(made, families),
        *_placebo_shown(made, trial),
        _controls_said(made, trial),
        *_inside_shown(made, trial),
    ]
    by_luck = sum(bool(row["by_luck"]) for row in made["gains"])
    return Page(
        asked=f"Which of the signs and what of the order appear on {listed(families)}?",
        found="\n\n".join(text for text in found if text),
        differs=f"The models are small, from scratch, and told apart by what their pretraining held: {name(HOME)} is made after "
        f"the published model, {name(QUIET)} after one that writes no code. A gain is {name(trial['metric'])} on "
        f"{counted(trial['problems'], 'held-out problem')} after {counted(trial['step'], 'step')}, of samples at temperature one; the "
        f"paper's is of one run a reward, and has no intervals. "
        f"{counted(trial['runs'], 'run')} were planned, {count(trial['failed'])} of them failed.",
        caution=f"{counted(trial['models'], 'pretrained model')} a family ({counted(trial['units'], 'unit')} in all) stand behind the first intervals; "
        f"the second say nothing of other models. Neither is adjusted: with {count(len(made['gains']))} gains, {share(by_luck, len(made['gains']))} "
        f"by luck, and {count(len(made['pairs']))} pairs, some are told apart by chance. The order of arms that are not told apart means nothing.",
    )  # fmt: skip


def _by_arm(
    rows: Sequence[Row], families: Sequence[str], cell: Callable[[Row], Markdown | None], heads: Mapping[str, str]
) -> Markdown:  # fmt: skip
    """A line an arm and a column a family."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = {row["family"]: row for row in rows if row["arm"] == arm}
        cells = {family: cell(own[family]) if family in own else None for family in families}
        lines.append({"arm": name(arm), "published": points(SIX_REWARDS.get(arm))} | cells)
    return table(lines, {"arm": "arm", **heads} | {f: name(f) for f in families})


def _gain_cell(row: Row) -> Markdown | None:
    return two_intervals.shown({**row, "mean": row["gain"]}, LUCKY if row["by_luck"] else "")


def _boxes_cell(row: Row) -> Markdown:
    return Markdown(f"{two_intervals.shown(row['lenient']) or '–'}; boxes {points(row['boxes']['mean'])}")  # fmt: skip


def _lucky(gains: Sequence[Row]) -> str:
    """What the sign means, and what the seeds say where it stands."""
    said = "; ".join(
        f"{name(row['arm'])} on {name(row['family'])}, which within these models {SAID_WITHIN[row['within_sign']]}"
        for row in gains
        if row["by_luck"]
    )
    return (
        f"{LUCKY} The models agree more closely than samples alone would let them in one case of twenty: the first interval is too short "
        f"by luck. So with {said}."
        if said
        else ""
    )


SAID_WITHIN: dict[str, str] = {
    "gains": "gains",
    "loses": "loses",
    "not told apart from the base": "is not told apart from the base",
    "gains exactly nothing": "gains exactly nothing",
}


def _marked(row: Row) -> Markdown:
    return Markdown(f"{name(row['arm'])}{LUCKY if row['by_luck'] else ''}")


def _sentence(made: Tables, family: str) -> str:
    """One family: who gains and who loses, over the models and within them."""
    signs: dict[str, list[Markdown]] = {}
    within: dict[str, list[Markdown]] = {}
    for row in _of(made["gains"], family).values():
        if row["published"] is not None:
            signs.setdefault(row["sign"], []).append(_marked(row))
            if row["sign"] != row["within_sign"]:
                within.setdefault(row["within_sign"], []).append(_marked(row))
    verbs = {
        "gains": "gain", "loses": "lose", "not told apart from the base": "not told apart",
        "gains exactly nothing": "exactly nothing",
    }  # fmt: skip
    said = "; ".join(f"{verbs[key]}: {listed(arms)}" for key in verbs if (arms := signs.get(key)))
    inside = "; ".join(f"{verbs[key]}: {listed(arms)}" for key in verbs if (arms := within.get(key)))  # fmt: skip
    return (
        f"**{name(family)}**: {said}." + (f" Different within these models: {inside}." if inside else "")
    )  # fmt: skip


def _orders(orders: Sequence[Row]) -> Markdown:
    """From most to least, and how well it agrees with the published order."""
    return table(
        [{"family": name(row["family"]), "order": listed(row["order"]), "spearman": number(row["spearman"]),
          "as_published": count(row["as_published"]), "reversed": count(row["reversed"]),
          "neither": count(row["pairs"] - row["as_published"] - row["reversed"])} for row in orders],
        {"family": "family", "order": "from most to least", "spearman": "rank correlation with the published order", "as_published": "pairs in the published order",
         "reversed": "in the reverse", "neither": "not told apart"},
    )  # fmt: skip


def _boxes_shown(made: Tables, families: Sequence[str]) -> list[str]:
    """Gains by the lenient grader, and the arms whose gain is boxes."""
    boxed = []
    for family in families:
        lenient = _of(made["boxes"], family)
        only = [
            arm
            for arm, row in _of(made["gains"], family).items()
            if row["sign"] == "gains" and not row["by_luck"] and arm in lenient and lenient[arm]["lenient"]["within_sign"] != "gains"
        ]  # fmt: skip
        boxed += [f"on {name(family)} {listed(only)}"] if only else []
    said = f" Only boxes are gained {'; '.join(boxed)}." if boxed else ""
    return [
        f"The same by the lenient grader, which ignores boxes, and what boxes add.{said}",
        _by_arm(made["boxes"], families, _boxes_cell, {}),
    ]


def _p(value: float | None) -> Markdown:
    return number(value, 5)


def _placebo_shown(made: Tables, trial: Row) -> list[str]:
    """The primary comparisons, and the others of the home family."""
    if not made["placebo"]:
        return []
    return [
        f"Gain over placebo ({name(trial['placebo'])}), model by model and on average; p is the larger one, against placebo and base:",
        table(
            [{"family": name(row["family"]), "arm": name(row["arm"]), "models": _models(row), "gain": two_intervals.shown(row), "p": _p(row["p"]),
              "level": _p(row["level"]), "p_holm": _p(row["p_holm"]), "smallest": points(row["smallest"]) if row["primary"] else None, "verdict": row["verdict"]}
             for row in made["placebo"]],
            {"family": "family", "arm": "arm", "models": "by model", "gain": "gain", "p": "p", "level": "Holm's level", "p_holm": "Holm's p",
             "smallest": "smallest to be found", "verdict": "verdict"},
        ),
    ]  # fmt: skip


def _models(row: Row) -> Markdown:
    return Markdown(", ".join(points(value) for value in row["models"]))


def _controls_said(made: Tables, trial: Row) -> str:
    """Which preregistered controls failed, and why as far as the tables know."""
    controls = made["controls"]
    failed = [row for row in controls if row["held"] is False]
    if not failed:
        return ""
    compared = {(row["family"], row["arm"]): row for row in made["placebo"]}
    said = [
        f"Of {counted(len(controls), 'preregistered control')} {count(sum(row['held'] is True for row in controls))} held."
    ]
    for control in failed:
        said.append(f"**{name(control['arm'])} on {name(control['family'])} was to be {inert(control['expect'])} and came out {inert(control['found'])}**.")  # fmt: skip
        row = compared.get((control["family"], control["arm"]))
        if row and row["p_holm"] is not None:
            said.append(
                f"Its models gain {_models(row)} over placebo: p is {_p(row['p'])}, but {_p(row['p_holm'])} by Holm, where {_p(trial['alpha'])} was asked. With "
                f"{counted(len(row['models']) - 1, 'degree')} of freedom and this spread, a gain would have to be {points(row['smallest'])} to be found in four trials "
                "of five at the level that Holm leaves to the first."
            )  # fmt: skip
    primary = [row for row in made["placebo"] if row["primary"]]
    plain = sum(row["p"] is not None and row["p"] < trial["alpha"] for row in primary)
    superior = sum(row["verdict"] == "superior" for row in primary)
    if plain > superior:
        said.append(
            f"{counted(len(primary), 'primary comparison')} were too many for {counted(trial['models'], 'model')}: the first has a level of "
            f"{_p(trial['alpha'] / len(primary))}; {count(superior)} came out superior where {count(plain)} would have alone. The verdicts stand as planned."
        )  # fmt: skip
    return " ".join(said)


def _inside_shown(made: Tables, trial: Row) -> list[str]:
    """What coins changed of what pretraining knew, beside the truth."""
    keys = {
        "share": "code share", "code": "accuracy of code", "words": "accuracy of words",
        "entropy": "entropy, nats",
    }  # fmt: skip
    shown = [
        {"family": name(row["family"]), "arm": name(row["arm"])}
        | {key: _change(row, key) for key in keys}
        | {key: _millionths(row[key]) for key in ("clip_low", "clip_high")}
        for row in made["inside"]
    ]
    coins = _of(made["gains"], HOME).get(COINS)
    home = next((row for row in made["inside"] if (row["family"], row["arm"]) == (HOME, COINS)), None)  # fmt: skip
    if coins is None or home is None:
        return []
    gaining = [row for row in made["gains"] if row["arm"] == COINS and row["sign"] == "gains"]
    earned = [row["family"] for row in gaining if not row["by_luck"]]
    where = f"and gains {f'on {listed(earned)}' if earned else 'nowhere but by luck' if gaining else 'nowhere'}"
    return [
        f"**{name(COINS)}** stands at {points(coins['gain'])} on {name(HOME)}, where {points(SIX_REWARDS[COINS])} was published, {where}. Before → after, shares in "
        f"per cent; entropy in training, first and last {counted(trial['window'], 'step')}; clipped tokens of a million, all steps:",
        table(
            shown,
            {"family": "family", "arm": "arm", **keys, "clip_low": "clipped below", "clip_high": "clipped above"},
        ),
        f"Under coins on {name(HOME)} the code share goes {_change(home, 'share')}, accuracy of code {_change(home, 'code')}, of words {_change(home, 'words')}: at most "
        f"{points(_largest_rise(home))} points. Of a million tokens {_millionths(_clipped(home))} were clipped ({inert(EXPLORATION.paper)} counts "
        f"{count(round(1e6 * CLIP_ACTIVATION))}); what clipping does is [claim two](../../docs/claims.md).",
    ]  # fmt: skip


def _largest_rise(row: Row) -> float | None:
    """Of code share and either accuracy; falls are negative rises."""
    pairs = [(row.get(f"{key}_before"), row.get(f"{key}_after")) for key in ("share", "code", "words")]  # fmt: skip
    return max((after - before for before, after in pairs if before is not None and after is not None), default=None)  # fmt: skip


def _clipped(row: Row) -> float | None:
    both = row["clip_low"], row["clip_high"]
    return None if None in both else sum(both)


def _millionths(value: float | None) -> Markdown:
    return number(None if value is None else 1e6 * value, 1)


def _change(row: Row, key: str) -> Markdown | None:
    """Before → after; None where there was never any."""
    pair = [row.get(f"{key}_{when}") for when in ("before", "after")]
    if all(value is None for value in pair):
        return None
    return Markdown(" → ".join(number(value, 4) if key == "entropy" else percent(value) for value in pair))  # fmt: skip


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
