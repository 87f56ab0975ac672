"""Claim 6: what pretraining held decides what a reward gains, more than the reward's quality and the number of problems do.

The map is code share × reward quality × number of training problems, one trial a number of problems. Quality is Youden's J of a
truth that is flipped with probability p: J = (1 - p) - p. The placebos, which pay for something else, stand beside the map; what
they gain is predicted from the shift of the code share they cause and the base's accuracies.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from claims.c01_six_rewards import HOME, QUIET
from claims.ledger import Claim, Finding, Page, Record, Records, Tables
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
    table,
)
from claims.published import (
    EXPOSURE,
    FLIPPED,
    IMPERFECT_VERIFIER,
    INTERPLAY,
    LABEL_AUDIT,
    NOISE_BORNE,
    NOISY_REWARDS,
    TRULY_INCORRECT,
)
from claims.two_intervals import SAID, by_unit, minus, sign
from controlarm import archive, markup
from controlarm.analysis import catalyst, laws, probes
from controlarm.analysis.catalyst import FACTORS, CatalystMap, Cell
from controlarm.analysis.contrasts import Estimate, over_units, t_interval
from controlarm.analysis.decomposition import Strategies, strategies_of
from controlarm.analysis.folder import BASE
from controlarm.analysis.metrics import mean
from controlarm.organisms.corpus import FAMILIES, Mixture
from controlarm.problems.arithmetic import NAMES
from controlarm.protocol import Unit

TRIALS = ("catalyst_1", "catalyst_4", "catalyst_16", "catalyst_128")
TRUTH = "ground_truth"
FLIPS = {TRUTH: 0.0, "flipped_10": 0.1, "flipped_30": 0.3, "flipped_50": 0.5}
"""Probability that the truth's reward is flipped, by arm: the levels of the map."""
BESIDE = ("random", "python")
"""Placebos that are no level of it."""
PREDICTED = (*BESIDE, "flipped_50")
"""Arms that know no answer: what they gain is what the law predicts."""
START = ("flipped_30", 4)
"""Reward and number of training problems that the price of a point is asked at, in every family."""
POINT = 0.01
MODEL = "Qwen2.5-7B"
FEWEST = 20
"""Completions of a base in either strategy below which its accuracy there is no accuracy: a standard error above a tenth, times a shift of up to one."""

CODE, QUALITY, PROBLEMS = FACTORS
FACTOR = {CODE: "code share", QUALITY: "reward quality", PROBLEMS: "number of problems"}

Row = dict[str, Any]
Gains = dict[tuple[str, str, int], dict[Unit, float]]
"""Family, arm, number of training problems → gain over the base in every unit."""


def code_share(mixture: Mixture) -> float:
    """Of all documents, over people."""
    preferring = mixture.code_names / len(NAMES)
    return preferring * mixture.code_share_preferred + (1 - preferring) * mixture.code_share_other


def quality(flip_rate: float) -> float:
    """Youden's J: true positive rate less false positive rate."""
    return 1 - 2 * flip_rate


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trials``; ``gains`` by family, arm and number of problems, and ``margins`` of them; of the map ``map``, ``factors``, ``variance``, ``interactions``
    and ``prices``; ``noise`` (flipped - truth); ``rungs``; of the law ``bases``, ``pairs`` and ``predictions``.
    """  # noqa: D205
    trials = [_trial(trial, record) for trial, record in records.items()]
    gains = _gains(records)
    design = next(iter(records.values())).protocol.design
    families = sorted(design.families, key=_share_of)
    cells = _cells(gains, families)
    whole = catalyst.catalyst_map(cells)
    bases, pairs = _law(records, gains, families)
    most = max(trial["trained_on"] for trial in trials)
    return {
        "trials": trials,
        "gains": [
            {"family": family, "code_share": _share_of(family), "arm": arm, "problems": problems, **told(values)}
            for (family, arm, problems), values in gains.items()
        ],
        "margins": list(_margins(gains, families)),
        "map": [_map_row(whole)],
        "factors": [_factor(whole, factor) for factor in FACTORS],
        "variance": [_effect(effect) for effect in catalyst.variance(whole).effects],
        "interactions": [_interaction(whole, *pair) for pair in ((CODE, QUALITY), (CODE, PROBLEMS), (QUALITY, PROBLEMS))],
        "prices": [row for family in families for row in _prices(whole, family)],
        "noise": list(_noise(gains, families)),
        "rungs": list(_rungs(records, gains, families, most)),
        "bases": bases,
        "pairs": pairs,
        "predictions": list(_predictions(pairs)),
    }  # fmt: skip


def _trial(trial: str, record: Record) -> Row:
    report = record.report
    end = report["trial"]["protocol"]["endpoint"]
    paid = [row["youden"] for row in report["rewards"] if row["arm"] in FLIPS]
    expected = [quality(FLIPS[row["arm"]]) for row in report["rewards"] if row["arm"] in FLIPS]
    off = [abs(a - b) for a, b in zip(paid, expected, strict=True) if a is not None]
    return {
        "trial": trial, "trained_on": record.protocol.design.num_problems, "metric": end["metric"], "step": end["step"],
        "problems": report["flow"]["problems_held_out"], "runs": report["flow"]["runs_planned"],
        "failed": len(report["flow"]["runs_failed"]), "models": len(set(record.protocol.design.pretraining_seeds)),
        "prompts": next(iter(record.protocol.recipes.values())).prompts_per_step,
        "quality_off": max(off) if off else None,
    }  # fmt: skip


def _share_of(family: str) -> float:
    # Rounded: the rungs are stated to three decimals, and a level that is a hair below one per cent is meant as one.
    return round(code_share(FAMILIES[family]), 6)


def told(values: Mapping[Unit, float]) -> Row:
    """Mean over the models with its 95 % interval and what it says. Undefined numbers are NaN, which become null."""
    return _told(over_units(values))


def _told(e: Estimate) -> Row:
    low, high = t_interval(e, 0.95)
    return {"mean": e.mean, "low": low, "high": high, "sign": sign(low, high), "units": e.num_units}


def _gains(records: Records) -> Gains:
    found: Gains = {}
    for record in records.values():
        problems, metric = record.protocol.design.num_problems, record.protocol.endpoint.metric
        for row in record.report["contrasts"]:
            if (row["metric"], row["versus"]) == (metric, BASE):
                key = (row["family"], row["arm"], problems)
                found[key] = by_unit(row["units"], "difference")
    return found


# The map.


def _cells(gains: Gains, families: Sequence[str]) -> dict[Cell, Mapping[Unit, float]]:
    """Levels are the share itself, J, and log2 of the number of problems, in which prices are interpolated."""
    return {
        (_share_of(family), quality(FLIPS[arm]), math.log2(problems)): values
        for (family, arm, problems), values in gains.items()
        if family in families and arm in FLIPS
    }


def _map_row(whole: CatalystMap) -> Row:
    variance = catalyst.variance(whole)
    total = variance.total_ss
    return {
        "cells": int(np.prod(whole.gains.shape[:3])), "units": len(whole.units), "incomplete": len(whole.incomplete),
        "noise_share": variance.noise_share, "unit_share": variance.unit_ss / total if total > 0 else None,
    }  # fmt: skip


def _factor(whole: CatalystMap, factor: str) -> Row:
    found = catalyst.factor_range(whole, factor)
    levels = whole.levels[FACTORS.index(factor)]
    means = np.array(found.means)
    return {
        "factor": factor, "levels": list(levels), "means": list(found.means), "range": found.range,
        "best": levels[int(means.argmax())], "worst": levels[int(means.argmin())], "honest": _told(found.honest),
    }  # fmt: skip


def _effect(effect: catalyst.Effect) -> Row:
    low, high = effect.preset_interval
    return {
        "factors": list(effect.factors), "share": effect.share, "preset_share": effect.preset_share,
        "preset_low": low, "preset_high": high, "f": effect.f, "p": effect.p,
    }  # fmt: skip


def _interaction(whole: CatalystMap, first: str, second: str) -> Row:
    return {"first": first, "second": second, "difference": _told(catalyst.interaction(whole, first, second).difference)}  # fmt: skip


def _prices(whole: CatalystMap, family: str) -> Iterator[Row]:
    arm, problems = START
    start = (_share_of(family), quality(FLIPS[arm]), math.log2(problems))
    if start[2] in whole.levels[2]:
        for route in catalyst.routes(whole, start, POINT):
            yield {"family": family, "factor": route.factor} | {
                key: _change(getattr(route, key)) for key in ("cost", "least", "most")
            }


def _change(value: float) -> Row:
    """JSON has no infinity: a point that the levels do not hold is not an unknown price."""
    known = not math.isnan(value)
    return {"change": value, "within": math.isfinite(value) if known else None}


def _average(cells: Sequence[Mapping[Unit, float]]) -> dict[Unit, float]:
    """Mean over cells in every unit that all have."""
    units = set.intersection(*map(set, cells)) if cells else set()
    return {unit: float(np.mean([cell[unit] for cell in cells])) for unit in sorted(units)}


def _margins(gains: Gains, families: Sequence[str]) -> Iterator[Row]:
    """By family, over numbers of problems; and by number of problems, over families."""
    arms = [*FLIPS, *BESIDE]
    for level, at in (("family", 0), ("problems", 2)):
        own = {key: values for key, values in gains.items() if key[0] in families}
        keys = families if at == 0 else sorted({key[2] for key in own})
        for value in keys:
            for arm in arms:
                cells = [v for key, v in own.items() if key[at] == value and key[1] == arm]
                yield {"by": level, "level": value, "arm": arm, **told(_average(cells))}


def _noise(gains: Gains, families: Sequence[str]) -> Iterator[Row]:
    """What flipping costs: arm minus truth, over numbers of problems."""
    numbers = {key[2] for key in gains}
    for family in families:
        truth = _average([gains.get((family, TRUTH, n), {}) for n in numbers])
        for arm, rate in FLIPS.items():
            if arm != TRUTH:
                noisy = _average([gains.get((family, arm, n), {}) for n in numbers])
                yield {"family": family, "arm": arm, "rate": rate, **told(minus(noisy, truth))}


def _rungs(records: Records, gains: Gains, families: Sequence[str], most: int) -> Iterator[Row]:
    """On the most problems: gain minus the gain of the family without code, paired by seeds, and the code share reached."""
    record = next(r for r in records.values() if r.protocol.design.num_problems == most)
    for family in families:
        for arm in (TRUTH, "python"):
            own, quiet = (gains.get((of, arm, most), {}) for of in (family, QUIET))
            after = {unit: s.code_share for unit, s in _strategies(record, family, arm).items()}
            yield {
                "family": family, "code_share": _share_of(family), "arm": arm, "after": told(after),
                "over_quiet": told(minus(own, quiet)) if family != QUIET else None,
            }  # fmt: skip


# The law of placebos.


class Base(NamedTuple):
    """One unit's base, as one trial has it."""

    chosen: Strategies
    forced_gap: float
    """Accuracy with code forced - with words forced; NaN without that probe."""
    code: int
    """Completions in code, of ``total``."""
    total: int

    @property
    def chosen_gap(self) -> float:
        """NaN where either strategy is too rare in the base."""
        if min(self.code, self.total - self.code) < FEWEST:
            return math.nan
        return self.chosen.code_accuracy - self.chosen.words_accuracy


def _strategies(record: Record, family: str, arm: str) -> dict[Unit, Strategies]:
    (recipe,) = record.protocol.recipes
    step = 0 if arm == BASE else record.protocol.endpoint.step
    cell = record.trial.cell(family, recipe, arm, step)
    return {unit: strategies_of(cell[unit]) for unit in sorted(cell)}


def _bases(record: Record, family: str, forced: Mapping[tuple[str, int], float]) -> dict[Unit, Base]:  # fmt: skip
    (recipe,) = record.protocol.recipes
    cell = record.trial.cell(family, recipe, BASE, 0)
    return {
        unit: Base(
            own, forced.get((family, unit.pretraining_seed), math.nan),
            int(cell[unit].sampled.has_python.sum()), cell[unit].sampled.has_python.size,
        )
        for unit, own in _strategies(record, family, BASE).items()
    }  # fmt: skip


def _forced(record: Record) -> dict[tuple[str, int], float]:
    """The gap where either strategy was forced on the base, by family and pretraining seed; empty without that probe."""
    if "forced" not in archive.probe_kinds(record.path):
        return {}
    rows = record.probes("forced").filter(pc.field("run").is_null())
    found = {}
    for base in rows.select(["family", "pretraining_seed"]).group_by(["family", "pretraining_seed"]).aggregate([]).to_pylist():  # fmt: skip
        family, seed = base["family"], base["pretraining_seed"]
        answers = probes.forced(rows.filter((pc.field("family") == family) & (pc.field("pretraining_seed") == seed)))  # fmt: skip
        found[family, seed] = mean(answers["code"].accuracy) - mean(answers["words"].accuracy)
    return found


def _law(records: Records, gains: Gains, families: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The bases of each family, and predicted beside observed gains of each unit, arm and number of problems."""
    bases: dict[str, list[Base]] = {family: [] for family in families}
    pairs = []
    for record in records.values():
        problems, forced = record.protocol.design.num_problems, _forced(record)
        for family in families:
            own = _bases(record, family, forced)
            bases[family] += own.values()
            for arm in PREDICTED:
                after = _strategies(record, family, arm)
                observed = gains.get((family, arm, problems), {})
                for unit in sorted(own.keys() & after.keys() & observed.keys()):
                    shift = after[unit].code_share - own[unit].chosen.code_share
                    gaps = {"chosen": own[unit].chosen_gap, "forced": own[unit].forced_gap}
                    pairs.append({
                        "family": family, "arm": arm, "problems": problems, "pretraining_seed": unit.pretraining_seed,
                        "seed": unit.seed, "shift": shift, "observed": observed[unit],
                        **{key: _predict(shift, gap) for key, gap in gaps.items() if key == "chosen" or forced},
                    })  # fmt: skip
    return [_base_row(family, own) for family, own in bases.items()], pairs


def _predict(shift: float, gap: float) -> float:
    return float(laws.predicted_placebo_gain(np.array([shift]), np.array([gap]))[0])


def _base_row(family: str, bases: Sequence[Base]) -> Row:
    """Means over the units that have the number; the base of a unit is the same in all trials."""
    return {
        "family": family, "code_share": _share_of(family), "written": mean(np.array([b.chosen.code_share for b in bases])),
        "code": mean(np.array([b.chosen.code_accuracy for b in bases])),
        "words": mean(np.array([b.chosen.words_accuracy for b in bases])),
        "chosen_gap": mean(np.array([b.chosen_gap for b in bases])),
        "forced_gap": mean(np.array([b.forced_gap for b in bases])),
        "fewest_code": min((b.code for b in bases), default=None), "completions": max((b.total for b in bases), default=None),
    }  # fmt: skip


def _predictions(pairs: Sequence[Row]) -> Iterator[Row]:
    """Of each arm a line over models, numbers of problems averaged; of all arms a line in each unit, whose slopes are averaged."""
    readings = [key for key in ("chosen", "forced") if any(key in pair for pair in pairs)]
    for reading in readings:
        known = [p for p in pairs if not math.isnan(p.get(reading, math.nan))]
        yield _within_units(reading, known, len(pairs) - len(known))
        for arm in PREDICTED:
            planned = [p for p in pairs if p["arm"] == arm]
            own = [p for p in known if p["arm"] == arm]
            yield _over_models(reading, arm, own, len(planned) - len(own))


def _arrays(pairs: Sequence[Row], reading: str) -> tuple[np.ndarray, np.ndarray]:
    predicted, observed = (
        np.array([p[key] for p in pairs], float) for key in (reading, "observed")
    )
    return predicted, observed


def _within_units(reading: str, known: Sequence[Row], unknown: int) -> Row:
    by: dict[Unit, list[Row]] = {}
    for pair in known:
        by.setdefault(Unit(pair["pretraining_seed"], pair["seed"]), []).append(pair)
    checks = {unit: laws.prediction_check(*_arrays(own, reading)) for unit, own in by.items()}
    lines = {unit: check.slope for unit, check in checks.items() if not math.isnan(check.slope)}
    fits = [check.r2_identity for check in checks.values()]
    return {
        "reading": reading, "arm": None, "slope": told(lines), "robust_slope": None, "identity": mean(np.array(fits)),
        "bias": told({unit: check.bias.mean for unit, check in checks.items()}), "points": len(known), "unknown": unknown,
    }  # fmt: skip


def _over_models(reading: str, arm: str, known: Sequence[Row], unknown: int) -> Row:
    by: dict[tuple[str, int, int], list[Row]] = {}
    for pair in known:
        by.setdefault((pair["family"], pair["pretraining_seed"], pair["seed"]), []).append(pair)
    each = [_arrays(own, reading) for own in by.values()]
    predicted, observed = (np.array([float(xy[i].mean()) for xy in each]) for i in (0, 1))
    check = laws.prediction_check(predicted, observed)
    (low, high), (bias_low, bias_high) = check.slope_interval, check.bias_interval
    return {
        "reading": reading, "arm": arm,
        "slope": {"mean": check.slope, "low": low, "high": high, "sign": sign(low, high), "units": check.num_units},
        "robust_slope": check.robust_slope, "identity": check.r2_identity,
        "bias": {"mean": check.bias.mean, "low": bias_low, "high": bias_high, "sign": sign(bias_low, bias_high), "units": check.num_units},
        "points": check.num_units, "unknown": unknown,
    }  # fmt: skip


RULE = (
    f"Rule, by 95 % intervals over the models: (a) the range of gain over code shares, chosen and measured on different models, is above nothing, and code share has a larger "
    f"share of the variance over the levels than quality and number of problems; (b) of observed on predicted gains of {listed(PREDICTED)}, strategies as chosen and written {count(FEWEST)} times or more by the base, the slope is above "
    f"nothing and its interval holds one; (c) on the most problems {name(TRUTH)} gains more than on {name(QUIET)} in every family from "
    f"{markup.percent(EXPOSURE['suffices'], 0)} % of code on, and in none with less. *Reproduced*: all hold. *Partly*: one does. *Refuted in miniature*: none does, and another factor "
    f"has the largest share and a range above nothing. Else, or where {name(TRUTH)} gains in no family on the most problems, *not at this scale*."
)


def _row(rows: Sequence[Row], **wanted: object) -> Row | None:
    found = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return next(found, None)


def _shares(made: Tables) -> dict[str, float | None]:
    """Of the variance over the preset levels, by factor alone."""
    return {row["factors"][0]: row["preset_share"] for row in made["variance"] if len(row["factors"]) == 1}  # fmt: skip


def _leader(made: Tables) -> str | None:
    """The factor with the largest share; None where a share is unknown or two are the largest."""
    shares = _shares(made)
    known = {factor: value for factor, value in shares.items() if value is not None}
    largest = [factor for factor, value in known.items() if value == max(known.values())]
    return largest[0] if len(known) == len(FACTORS) and len(largest) == 1 else None


def _moves(made: Tables) -> dict[str, bool]:
    return {row["factor"]: row["honest"]["sign"] == "gains" for row in made["factors"]}


def _predicts(row: Row | None) -> bool:
    if row is None or row["slope"]["low"] is None:
        return False
    return row["slope"]["low"] > 0 and row["slope"]["low"] <= 1 <= row["slope"]["high"]


def _threshold(made: Tables) -> bool:
    """Truth gains more than without code from the published share on, and not below."""
    rungs = [row for row in made["rungs"] if row["arm"] == TRUTH and row["over_quiet"] is not None]
    enough = [row["over_quiet"]["sign"] == "gains" for row in rungs if row["code_share"] >= EXPOSURE["suffices"]]  # fmt: skip
    little = [row["over_quiet"]["sign"] == "gains" for row in rungs if row["code_share"] < EXPOSURE["suffices"]]  # fmt: skip
    return bool(enough) and all(enough) and not any(little)


def finding(made: Tables) -> Finding:
    """The verdict by the rule; the range over code shares, its share of the variance, and the law's slope."""
    most = max(row["trained_on"] for row in made["trials"])
    truth = [row for row in made["gains"] if (row["arm"], row["problems"]) == (TRUTH, most)]
    moves, leader = _moves(made), _leader(made)
    law = _row(made["predictions"], reading="chosen", arm=None)
    holds = (moves[CODE] and leader == CODE, _predicts(law), _threshold(made))
    if not any(row["sign"] == "gains" for row in truth):
        verdict = "not at this scale"
    elif any(holds):
        verdict = "reproduced" if all(holds) else "partly"
    elif leader not in (None, CODE) and moves[leader]:
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    code = _row(made["factors"], factor=CODE)
    assert code is not None
    return Finding(
        verdict,
        Markdown(
            f"over code shares the gain ranges by {_points(code['honest'])}, {_percent(_shares(made)[CODE])} of the variance; observed on predicted gain of the placebos, "
            f"slope: {_slope(law['slope'] if law else None)}"
        ),
    )


def _points(row: Row | None) -> Markdown:
    return Markdown(markup.MISSING) if row is None else gain(row["mean"], row["low"], row["high"])


def _percent(value: float | None) -> Markdown:
    return Markdown(markup.MISSING if value is None else f"{markup.percent(value, 0)} %")


def _slope(row: Row | None) -> Markdown:
    if row is None or row["mean"] is None:
        return Markdown(markup.MISSING)
    low, high = row["low"], row["high"]
    return Markdown(f"{number(row['mean'])} ({'no interval' if low is None else f'{number(low)} to {number(high)}'})")  # fmt: skip


def _level(factor: str, level: float) -> Markdown:
    shown = {
        CODE: lambda: Markdown(f"{markup.significant(100 * level, 4)} %"),
        QUALITY: lambda: number(level, 1),
        PROBLEMS: lambda: count(round(2**level)),
    }
    return shown[factor]()


def _price(factor: str, change: Row) -> Markdown:
    if not change["within"]:
        return Markdown(markup.MISSING if change["within"] is None else "beyond")
    value = change["change"]
    shown = {
        CODE: lambda: points(value),
        # A step of J is two of the flip rate, downwards.
        QUALITY: lambda: points(-value / 2),
        PROBLEMS: lambda: Markdown(f"×{number(2**value, 1)}"),
    }
    return shown[factor]()


def _priced(row: Row | None) -> Markdown | None:
    if row is None:
        return None
    cost, least, most = (_price(row["factor"], row[key]) for key in ("cost", "least", "most"))
    return Markdown(f"{cost} ({least} to {most})")


def page(made: Tables) -> Page:
    """The map by its margins, factors, prices, the law, and the rungs."""
    trials, (whole,) = made["trials"], made["map"]
    families = {row["family"]: row for row in made["bases"]}
    first = trials[0]
    arms = [*FLIPS, *BESIDE]
    margins = [
        {"level": _margin_name(by, level, families)}
        | {arm: _points(_row(made["margins"], by=by, level=level, arm=arm)) for arm in arms}
        for by, level in dict.fromkeys((row["by"], row["level"]) for row in made["margins"])
    ]
    heads = {arm: f"{name(arm)}{f', J = {number(quality(FLIPS[arm]), 1)}' if arm in FLIPS else ''}" for arm in arms}  # fmt: skip
    arm, problems = START
    found = [
        "Gain over the base in points, with 95 % intervals over the models. Rows of families average over numbers of problems, the others over families:",
        table(margins, {"level": "row"} | heads),
        f"The map has {counted(whole['cells'], 'cell')} with {counted(whole['units'], 'unit')} in each:",
        table([_factor_shown(made, row) for row in made["factors"]], {
            "factor": "factor", "range": "range of mean gains", "honest": "range, chosen on other models", "best": "most at", "worst": "least at",
            "share": "share of variance over the levels",
        }),
        _interactions(made),
        f"What a point of accuracy costs under {name(arm)} on {counted(problems, 'problem')} (in brackets: least that cannot be excluded, and what surely does):",
        table(
            [{"family": name(family)} | {factor: _priced(_row(made["prices"], family=family, factor=factor)) for factor in FACTORS} for family in families],
            {"family": "family", CODE: "code in pretraining, points", QUALITY: "rewards flipped, points", PROBLEMS: "problems"},
        ),
        "Predicted: shift of the code share times the base's accuracy gap between code and words. Observed on predicted:",
        table([_law_shown(row) for row in made["predictions"]], {
            "arm": "arms", "reading": "accuracies", "slope": "slope", "identity": "R² of the prediction as it stands", "bias": "observed − predicted", "points": "points", "unknown": "unknown",
        }),
        _law_said(made),
        f"The rungs, on {counted(max(row['trained_on'] for row in trials), 'problem')}:",
        table([_rung_shown(made, row) for row in made["bases"]], {
            "family": "family", "share": "code in pretraining", "written": "written by the base", "accuracy": "right in code, in words", TRUTH: f"code after {name(TRUTH)}",
            "python": f"code after {name('python')}", "truth_over": f"{name(TRUTH)}, gain minus that on {name(QUIET)}", "python_over": f"{name('python')}, the same",
        }),
        *(_noise_said(made, family) for family in (HOME, QUIET)),
    ]  # fmt: skip
    fails = " and ".join(f"{markup.significant(100 * share)} %" for share in EXPOSURE["fails"])
    rate, within = NOISE_BORNE
    off = max((row["quality_off"] for row in trials if row["quality_off"] is not None), default=None)  # fmt: skip
    failed = sum(row["failed"] for row in trials)
    return Page(
        asked=f"Does pretraining decide what a reward gains? Published: RL carries over to a context with {markup.percent(EXPOSURE['suffices'], 0)} % of pretraining, and not with {fails}; "
        f"with {markup.percent(FLIPPED['rate'], 0)} % of rewards flipped {MODEL} reaches {markup.percent(FLIPPED['flipped'], 0)} % where clean ones give {markup.percent(FLIPPED['clean'], 0)} % "
        f"(arXiv:{NOISY_REWARDS.arxiv}); up to {markup.percent(rate, 0)} % cost no more than {markup.percent(within, 0)} points (arXiv:{IMPERFECT_VERIFIER.arxiv}); labels that are truly wrong cost "
        f"{markup.percent(-TRULY_INCORRECT, 0)} (arXiv:{LABEL_AUDIT.arxiv}).",
        found="\n\n".join(text for text in found if text),
        differs=f"What pretraining shares out here is a strategy, not a context, and gains are on the same kind of problems. Flips are drawn for each completion, not for each problem; "
        f"measured in training, J is off by {number(off)} at most. {name(first['metric'])} on {counted(first['problems'], 'held-out problem')} after {counted(first['step'], 'step')}; few problems "
        f"are repeated until {count(first['prompts'])} fill a step, so all trials make as many updates. {counted(sum(row['runs'] for row in trials), 'run')}, {count(failed)} failed.",
        caution=f"{counted(first['models'], 'model')} a family, one training seed each: intervals are wide, and no training noise is told apart from the models'. Shares of variance hold for "
        f"these levels only: others would give other shares. {counted(whole['incomplete'], 'unit')} lacked a cell. {_reading_said(made)} Observed gain and "
        "shift are of the same completions, and noise in the predictions pulls the slope towards nothing.",
    )  # fmt: skip


def _margin_name(by: str, level: str | int, families: Mapping[str, Row]) -> Markdown:
    if by == "problems":
        return counted(int(level), "problem")
    return Markdown(f"{name(level)} ({_level(CODE, families[str(level)]['code_share'])})")


def _factor_shown(made: Tables, row: Row) -> Row:
    factor = row["factor"]
    effect = _row(made["variance"], factors=[factor]) or {}
    low, high = effect.get("preset_low"), effect.get("preset_high")
    between = "no interval" if low is None else f"{_percent(low)} to {_percent(high)}"
    return {
        "factor": FACTOR[factor], "range": points(row["range"]), "honest": _points(row["honest"]),
        "best": _level(factor, row["best"]), "worst": _level(factor, row["worst"]),
        "share": Markdown(f"{_percent(effect.get('preset_share'))} ({between})"),
    }  # fmt: skip


def _interactions(made: Tables) -> str:
    (whole,) = made["map"]
    said = "; ".join(
        f"{FACTOR[row['first']]} × {FACTOR[row['second']]} {_points(row['difference'])}"
        for row in made["interactions"]
    )
    joint = [row["preset_share"] for row in made["variance"] if len(row["factors"]) > 1]
    share = None if None in joint else sum(joint)
    return (
        f"Interactions, between extreme levels: {said}; with that of all three they have {_percent(share)} of the variance over the levels. Units and noise have "
        f"{_percent(whole['noise_share'])} of all variation."
    )


def _law_shown(row: Row) -> Row:
    arm = Markdown("all, a line in each unit") if row["arm"] is None else name(row["arm"])
    return {
        "arm": arm, "reading": {"chosen": "as chosen", "forced": "forced"}[row["reading"]], "slope": _slope(row["slope"]), "identity": number(row["identity"]),
        "bias": _points(row["bias"]), "points": count(row["points"]), "unknown": count(row["unknown"]),
    }  # fmt: skip


def _law_said(made: Tables) -> str:
    law = _row(made["predictions"], reading="chosen", arm=None)
    if law is None or law["slope"]["mean"] is None:
        return "No line can be drawn."
    verb = "holds" if _predicts(law) else "does not hold by the rule"
    return f"The prediction {verb}; what it leaves out: {SAID[law['bias']['sign']]}."


def _reading_said(made: Tables) -> str:
    if any(row["reading"] == "forced" for row in made["predictions"]):
        return "Accuracies as chosen are of other problems in code than in words, which forcing either strategy avoids."
    rare = [row["fewest_code"] for row in made["bases"] if row["code_share"] > 0]
    few = [each for each in rare if each is not None]
    return (
        "No strategy was forced on these bases, so accuracies are as chosen only: of other problems in code than in words, and of few completions where code is rare "
        f"({counted(min(few, default=0), 'completion')} in a unit at the least)."
    )


def _rung_shown(made: Tables, base: Row) -> Row:
    family = base["family"]
    arms = {arm: _row(made["rungs"], family=family, arm=arm) for arm in (TRUTH, "python")}
    after = {arm: _percent(row["after"]["mean"]) if row else None for arm, row in arms.items()}
    over = {arm: _points(row["over_quiet"]) if row else None for arm, row in arms.items()}
    return {
        "family": name(family), "share": _level(CODE, base["code_share"]), "written": Markdown(markup.MISSING if base["written"] is None else f"{markup.percent(base['written'])} %"),
        "accuracy": Markdown(f"{_percent(base['code'])}, {_percent(base['words'])}"), **after,
        "truth_over": over[TRUTH], "python_over": over["python"],
    }  # fmt: skip


def _noise_said(made: Tables, family: str) -> str:
    rows = [row for row in made["noise"] if row["family"] == family]
    said = ", ".join(f"{name(row['arm'])} {_points(row)}" for row in rows)
    return f"Minus {name(TRUTH)}, on {name(family)}: {said or inert(markup.MISSING)}."


CLAIM = Claim(
    number=6,
    title="Pretraining decides",
    source=INTERPLAY,
    published=f"RL carries over to what has {markup.percent(EXPOSURE['suffices'], 0)} % of pretraining, and not to what has {' or '.join(f'{markup.significant(100 * share)} %' for share in EXPOSURE['fails'])}",
    trials=TRIALS,
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
