"""Claim 7: training collapses to one of the strategies that pretraining held; a leash to the base keeps the others, and pass@k with them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

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
from claims.published import ECHO_CHAMBER, ECHO_KL, ECHO_WINNER
from claims.two_intervals import both, minus, sign
from controlarm.analysis import decomposition, transitions
from controlarm.analysis.boundary import mean_pass_at_k
from controlarm.analysis.contrasts import unit_differences
from controlarm.analysis.decomposition import Strategies
from controlarm.analysis.folder import BASE, Evaluation, Trial
from controlarm.analysis.metrics import METRICS, mean
from controlarm.protocol import Unit

TRIAL = "echo"

TRUTH = "ground_truth"
FREE = "free"
"""The recipe without a KL term; the others are compared with it."""
TIGHT = "kl_large"
"""The recipe with the largest KL term."""

COLLAPSED = 0.95
"""Share of held-out completions in one strategy that counts as collapse to it."""

CURVE = "code_share"
"""Column of the journal whose shape is told, and the metric of the same name on held-out problems."""

SAID = {"gains": "as published", "loses": "reversed"}
"""What the sign of a difference says of the claim, where the claim is that it is above nothing."""

Row = dict[str, Any]
Cell = tuple[str, str, str]
"""Family, recipe, arm."""


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``, ``bases`` by model; ``shares``, ``winners``, ``shapes`` by family, recipe and arm; ``false``; ``leash``; ``tries``; ``readings`` by family."""
    trial = records[TRIAL].trial
    made: dict[str, list[Row]] = {
        "trial": [_design(trial)],
        "bases": list(_bases(trial)),
        "shares": [row for cell in _cells(trial) for row in _shares(trial, cell)],
        "winners": [_winners(trial, cell) for cell in _cells(trial)],
        "shapes": [_shapes(trial, cell) for cell in _cells(trial)],
        "false": [_false(trial)],
        "leash": list(_leash(trial)),
        "tries": [row for cell in _cells(trial) for row in _tries(trial, cell)],
    }
    return {
        **made,
        "readings": [_readings(made, family) for family in trial.protocol.design.families],
    }


def _design(trial: Trial) -> Row:
    design, end, evaluation = (
        trial.protocol.design,
        trial.protocol.endpoint,
        trial.protocol.evaluation,
    )
    steps = sorted(step for step in evaluation.steps if step)
    return {
        "metric": end.metric, "step": end.step, "early": steps[0], "placebo": end.placebo, "tries": max(evaluation.pass_at_k),
        "problems": evaluation.num_problems, "runs": len(trial.runs), "failed": sum(run.state == "failed" for run in trial.runs),
        "units": len(design.units()), "models": len(set(design.pretraining_seeds)), "collapsed": COLLAPSED,
    }  # fmt: skip


def _cells(trial: Trial) -> list[Cell]:
    protocol = trial.protocol
    return [
        (family, recipe, arm)
        for family in protocol.design.families
        for recipe in protocol.recipes
        for arm in protocol.arms
    ]


def _base(trial: Trial, cell: Cell) -> dict[Unit, Evaluation]:
    return trial.cell(cell[0], cell[1], BASE, 0)


def _at(trial: Trial, cell: Cell, step: int) -> dict[Unit, Evaluation]:
    return trial.cell(*cell, step) if step else _base(trial, cell)


def _head(cell: Cell) -> Row:
    return dict(zip(("family", "recipe", "arm"), cell, strict=True))


def commonest(base: Strategies) -> str:
    """The strategy that the base uses more often; code where both are equal."""
    return "code" if base.code_share >= 0.5 else "words"


def most_accurate(base: Strategies) -> str:
    """The strategy that the base is right with more often; the one that it uses, where it uses only one."""
    if np.isnan(base.code_accuracy) or np.isnan(base.words_accuracy):
        return commonest(base)
    return "code" if base.code_accuracy >= base.words_accuracy else "words"


def _bases(trial: Trial) -> Iterator[Row]:
    """One row a pretrained model, of its first unit's samples."""
    for family in trial.protocol.design.families:
        recipe = next(iter(trial.protocol.recipes))
        seen: set[int] = set()
        for unit, evaluation in sorted(trial.cell(family, recipe, BASE, 0).items()):
            if unit.pretraining_seed in seen:
                continue
            seen.add(unit.pretraining_seed)
            base = decomposition.strategies_of(evaluation)
            yield {
                "family": family, "pretraining_seed": unit.pretraining_seed, **base._asdict(),
                "commonest": commonest(base), "most_accurate": most_accurate(base),
            }  # fmt: skip


def _shares(trial: Trial, cell: Cell) -> Iterator[Row]:
    """Share of code, and accuracy within both strategies, at every evaluation."""
    for step in sorted(trial.protocol.evaluation.steps):
        found = _at(trial, cell, step)
        used = {unit: decomposition.strategies_of(e) for unit, e in found.items()}
        row = _head(cell) | {"step": step}
        row |= both({unit: s.code_share for unit, s in used.items()})
        row |= {
            key: mean(np.array([getattr(s, key) for s in used.values()]))
            for key in ("code_accuracy", "words_accuracy", "accuracy")
        }
        yield row


def _winners(trial: Trial, cell: Cell) -> Row:
    """Which strategy most completions use after training, and whether that is the base's commonest or its most accurate one."""
    end = trial.protocol.endpoint
    before, after = _base(trial, cell), _at(trial, cell, end.step)
    units = sorted(before.keys() & after.keys())
    bases, ends = (
        [decomposition.strategies_of(side[u]) for u in units] for side in (before, after)
    )
    won = [commonest(s) for s in ends]
    largest = [max(s.code_share, 1 - s.code_share) for s in ends]
    moved = {
        u: e - max(b.code_share, 1 - b.code_share)
        for u, e, b in zip(units, largest, bases, strict=True)
    }
    gained = {d.unit: d.difference for d in unit_differences(
        {u: METRICS[end.metric](after[u]) for u in units}, {u: METRICS[end.metric](before[u]) for u in units},
    )}  # fmt: skip
    over, dominance = both(gained), both(moved)
    parts = [decomposition.kitagawa(b, e) for b, e in zip(bases, ends, strict=True)]
    return _head(cell) | {
        "units": len(units), "collapsed": sum(s >= COLLAPSED for s in largest), "code": won.count("code"),
        "as_commonest": sum(w == commonest(b) for w, b in zip(won, bases, strict=True)),
        "as_most_accurate": sum(w == most_accurate(b) for w, b in zip(won, bases, strict=True)),
        "rose_code": sum(e.code_share > b.code_share for e, b in zip(ends, bases, strict=True)),
        "largest": mean(np.array(largest)), "dominance": dominance["mean"], "dominance_low": dominance["low"], "dominance_high": dominance["high"],
        "gain": over["mean"], "low": over["low"], "high": over["high"], "sign": over["sign"],
        "share_effect": mean(np.array([p.share_effect for p in parts])), "accuracy_effect": mean(np.array([p.accuracy_effect for p in parts])),
    }  # fmt: skip


def _shapes(trial: Trial, cell: Cell) -> Row:
    """Verdicts on the runs' code share, step by step of training."""
    found = [
        transitions.transition(run.journal["step"], run.journal[CURVE])
        for run in trial.of_arm(*cell)
    ]
    changed = [t for t in found if t.verdict in ("step", "logistic")]
    return _head(cell) | {
        "runs": len(found), "changed": len(changed), "drifted": sum(t.verdict == "linear" for t in found),
        "constant": sum(t.verdict == "constant" for t in found),
        "change_point": float(np.median([t.change_point for t in changed])) if changed else None,
        "width": float(np.median([t.width for t in changed])) if changed else None,
    }  # fmt: skip


def _false(trial: Trial) -> Row:
    """How often the placebo's runs are said to change; one a family and unit, without a leash."""
    placebo = trial.protocol.endpoint.placebo
    curves = [
        (run.journal["step"], run.journal[CURVE])
        for family in trial.protocol.design.families
        for run in trial.of_arm(family, FREE, placebo)
    ]
    found = transitions.false_detections(curves)
    return {
        "arm": placebo, "recipe": FREE, "rate": found.rate, "low": found.interval[0], "high": found.interval[1],
        "detected": found.num_detected, "curves": found.num_curves,
    }  # fmt: skip


def minority_shares(
    bases: Mapping[Unit, Evaluation], after: Mapping[Unit, Evaluation]
) -> dict[Unit, float]:
    """Share after training of the strategy that each unit's base uses less often."""
    found = {}
    for unit in sorted(bases.keys() & after.keys()):
        code = decomposition.strategies_of(after[unit]).code_share
        rare_is_code = commonest(decomposition.strategies_of(bases[unit])) == "words"
        found[unit] = code if rare_is_code else 1 - code
    return found


def _leash(trial: Trial) -> Iterator[Row]:
    """The minority strategy's share and pass@k at the end, and both minus the same without a leash, unit by unit."""
    protocol = trial.protocol
    step, tries = protocol.endpoint.step, max(protocol.evaluation.pass_at_k)
    for family in protocol.design.families:
        for arm in protocol.arms:
            sides = {recipe: _at(trial, (family, recipe, arm), step) for recipe in protocol.recipes}
            bases = {recipe: _base(trial, (family, recipe, arm)) for recipe in protocol.recipes}
            rare = {r: minority_shares(bases[r], sides[r]) for r in protocol.recipes}
            many = {r: _pass(sides[r], tries) for r in protocol.recipes}
            for recipe, settings in protocol.recipes.items():
                own = both(rare[recipe])
                row = _head((family, recipe, arm)) | {"kl_coef": settings.kl_coef, "minority": own["mean"]}  # fmt: skip
                row |= {"base": mean(np.array(list(minority_shares(bases[recipe], bases[recipe]).values())))}  # fmt: skip
                if recipe != FREE and FREE in protocol.recipes:
                    for key, values in (("kept", rare), ("tries", many)):
                        than = both(minus(values[recipe], values[FREE]))
                        row |= {f"{key}_{part}" if part != "mean" else key: v for part, v in than.items()}  # fmt: skip
                yield row


def _pass(evaluations: Mapping[Unit, Evaluation], tries: int) -> dict[Unit, float]:
    return {unit: mean_pass_at_k(e.sampled, tries) for unit, e in evaluations.items()}


def _tries(trial: Trial, cell: Cell) -> Iterator[Row]:
    """pass@k minus the base's, early and late, and late minus early; of one try and of the most."""
    steps = sorted(step for step in trial.protocol.evaluation.steps if step)
    for k in sorted({1, max(trial.protocol.evaluation.pass_at_k)}):
        base = _pass(_base(trial, cell), k)
        after = {step: _pass(_at(trial, cell, step), k) for step in steps}
        whens = {f"step {step}": minus(after[step], base) for step in steps}
        whens["late minus early"] = minus(after[steps[-1]], after[steps[0]])
        for when, values in whens.items():
            own = both(values)
            yield _head(cell) | {
                "k": k, "when": when, "base": mean(np.array(list(base.values()))), **own,
            }  # fmt: skip


def _readings(made: Mapping[str, Sequence[Row]], family: str) -> Row:
    """The claim's three parts on one family, under the truth."""
    won = _one(made["winners"], family=family, recipe=FREE, arm=TRUTH)
    leash = _one(made["leash"], family=family, recipe=TIGHT, arm=TRUTH)
    (trial,) = made["trial"]
    late = _one(made["tries"], family=family, recipe=FREE, arm=TRUTH, k=trial["tries"], when="late minus early")  # fmt: skip
    fell = sign(won["dominance_low"], won["dominance_high"]) == "loses"
    whole = won["units"] > 0 and won["collapsed"] == won["units"]
    collapse = "as published" if whole else "reversed" if fell else "not told apart"
    down = {"loses": "as published", "gains": "reversed"}
    return {
        "family": family,
        "truth": won["sign"],
        "collapse": collapse,
        "leash": SAID.get(sign(leash["kept_low"], leash["kept_high"]), "not told apart"),
        "late": down.get(late["sign"], "not told apart"),
    }


def _one(rows: Sequence[Row], **where: Any) -> Row:  # noqa: ANN401  any value of a cell
    (found,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return found


PARTS = ("collapse", "leash", "late")

RULE = (
    f"Rule, under {name(TRUTH)} and by 95 % intervals over the models: read are *collapse* ({name(FREE)}: every run has at least {number(100 * COLLAPSED, 0)} % of its held-out "
    f"completions in one strategy; reversed where the larger share falls), *leash* (under {name(TIGHT)} the base's rarer strategy keeps more than under {name(FREE)}) and *late* "
    f"({name(FREE)}: pass@k falls from the first evaluation to the last). *Reproduced* where all three are as published on every family; *partly* where the truth gains on a family and "
    "one of them is as published there; *refuted in miniature* where the truth gains, none is as published and one is reversed; else *not at this scale*."
)


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and how far the larger strategy went on each family."""
    readings = [row for row in made["readings"] if row["truth"] == "gains"]
    told = [row[part] for row in readings for part in PARTS]
    everywhere = [row[part] for row in made["readings"] for part in PARTS]
    if readings and all(said == "as published" for said in everywhere):
        verdict = "reproduced"
    elif "as published" in told:
        verdict = "partly"
    elif "reversed" in told:
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    said = []
    for row in made["readings"]:
        won = _one(made["winners"], family=row["family"], recipe=FREE, arm=TRUTH)
        said.append(
            f"{name(row['family'])}: larger strategy {gain(won['dominance'], won['dominance_low'], won['dominance_high'])}, "
            f"{count(won['collapsed'])} of {counted(won['units'], 'run')} collapsed"
        )
    return Finding(verdict, Markdown("; ".join(said)))


def _percent(rate: float | None) -> Markdown:
    return number(None if rate is None else 100 * rate, 1)


def _estimate(row: Row, key: str = "") -> Markdown:
    """A difference in points, its interval over models, and the one within these models."""
    mean_, before = (row[key], f"{key}_") if key else (row["mean"], "")
    over = gain(mean_, row[f"{before}low"], row[f"{before}high"])
    low, high = row[f"{before}within_low"], row[f"{before}within_high"]
    return over if low is None else Markdown(f"{over}; within {points(low)} to {points(high)}")  # fmt: skip


def page(made: Tables) -> Page:
    """Shares, who wins, the leash, many tries, the shape of the change."""
    (trial,) = made["trial"]
    largest = ECHO_KL[-1]
    return Page(
        asked=f"Models pretrained from scratch collapse under RL to one format of pretraining within the first epoch, not always to the commonest or most accurate (one with "
        f"{_percent(ECHO_WINNER)} % at first won); KL of {number(largest)}, against none, keeps the others, and pass@k falls late. Here the formats are code and words. "
        "Which wins, and what does KL keep?",
        found="\n\n".join([
            _bases_table(made), _shares_table(made, trial), _readings_sentence(made), _leash_table(made, trial), _tries_table(made, trial), _shapes_sentence(made),
        ]),
        differs=f"The bases use two strategies that are told apart by one word, and which one they use follows the person that a problem is about: to collapse, training has to overrule "
        f"that. The optimiser and its rate are those of our other trials; {counted(trial['step'], 'step')} are made. pass@k is over {counted(trial['problems'], 'held-out problem')} "
        f"at temperature one. {counted(trial['runs'], 'run')} were planned, {count(trial['failed'])} of them failed.",
        caution=f"Intervals are over {counted(trial['models'], 'pretrained model')} and not adjusted; those *within* are over training seeds and speak of these models alone. Two families are two cases of "
        f"which strategy is better, not a law of which wins. Where training makes the rarer strategy win, a leash holds that one back, so *rarer* does not mean diverse there. With {counted(trial['tries'], 'try', 'tries')} at each problem pass@k is near its ceiling, so a fall is small where it exists. "
        "The placebo can shift strategies by itself, so its rate of changes is an upper bound for false ones.",
    )  # fmt: skip


def _bases_table(made: Tables) -> Markdown:
    rows = [
        {
            "family": name(row["family"]), "model": count(row["pretraining_seed"]), "share": _percent(row["code_share"]),
            "code": _percent(row["code_accuracy"]), "words": _percent(row["words_accuracy"]),
            "commonest": inert(row["commonest"]), "best": inert(row["most_accurate"]),
        }
        for row in made["bases"]
    ]  # fmt: skip
    heads = {
        "family": "base", "model": "model", "share": "code, %", "code": "right in code, %", "words": "right in words, %",
        "commonest": "commonest", "best": "most accurate",
    }  # fmt: skip
    return Markdown(f"The bases, by samples of held-out problems:\n\n{table(rows, heads)}")


def _shares_table(made: Tables, trial: Row) -> Markdown:
    steps = sorted({row["step"] for row in made["shares"]})
    rows = []
    for won in made["winners"]:
        where = {key: won[key] for key in ("family", "recipe", "arm")}
        shares = {step: _one(made["shares"], **where, step=step)["mean"] for step in steps}
        rows.append(
            {"family": name(won["family"]), "recipe": name(won["recipe"]), "arm": name(won["arm"])}
            | {f"at {step}": _percent(value) for step, value in shares.items()}
            | {
                "gain": gain(won["gain"], won["low"], won["high"]),
                "collapsed": Markdown(f"{count(won['collapsed'])} of {count(won['units'])}"),
                "commonest": count(won["as_commonest"]),
                "best": count(won["as_most_accurate"]),
            }
        )
    heads = {"family": "family", "recipe": "recipe", "arm": "arm"}
    heads |= {f"at {step}": f"code at {count(step)}, %" for step in steps}
    heads |= {
        "gain": f"gain in {trial['metric']}", "collapsed": "runs collapsed", "commonest": "won by the commonest", "best": "by the most accurate",
    }  # fmt: skip
    heads = {key: str(inert(text)) for key, text in heads.items()}
    return Markdown(
        f"Share of code in held-out completions, mean over units; *won* is the strategy that most completions use after training, in how many runs:\n\n{table(rows, heads)}"
    )


def _readings_sentence(made: Tables) -> str:
    said = []
    for row in made["readings"]:
        won = _one(made["winners"], family=row["family"], recipe=FREE, arm=TRUTH)
        said.append(
            f"{name(row['family'])}: collapse {row['collapse']}, leash {row['leash']}, late {row['late']}; of the gain {gain(won['gain'], won['low'], won['high'])}, "
            f"{points(won['share_effect'])} come with the shift of strategy and {points(won['accuracy_effect'])} from being right more often within one"
        )
    return f"Read by the rule, {'. '.join(said)}."


def _leash_table(made: Tables, trial: Row) -> Markdown:
    rows = [
        {
            "family": name(row["family"]), "arm": name(row["arm"]), "recipe": name(row["recipe"]), "kl": number(row["kl_coef"]),
            "base": _percent(row["base"]), "minority": _percent(row["minority"]),
            "kept": _estimate(row, "kept") if "kept" in row else None, "tries": _estimate(row, "tries") if "tries" in row else None,
        }
        for row in made["leash"]
        if row["arm"] != trial["placebo"]
    ]  # fmt: skip
    heads = {
        "family": "family", "arm": "arm", "recipe": "recipe", "kl": "KL", "base": "rarer strategy in the base, %", "minority": "after training, %",
        "kept": f"minus {name(FREE)}", "tries": f"pass@k minus {name(FREE)}",
    }  # fmt: skip
    return Markdown(
        f"The base's rarer strategy and pass@{count(trial['tries'])} at the end, by the weight of KL:\n\n{table(rows, heads)}"
    )


def _tries_table(made: Tables, trial: Row) -> Markdown:
    """pass@k of the truth, early and late."""
    kept = [row for row in made["tries"] if row["arm"] == TRUTH]
    rows = []
    for family, recipe in dict.fromkeys((row["family"], row["recipe"]) for row in kept):
        mine = [row for row in kept if (row["family"], row["recipe"]) == (family, recipe)]
        for k in dict.fromkeys(row["k"] for row in mine):
            own = [row for row in mine if row["k"] == k]
            rows.append(
                {"family": name(family), "recipe": name(recipe), "k": count(k), "base": _percent(own[0]["base"])}
                | {row["when"]: _estimate(row) for row in own}
            )  # fmt: skip
    heads = {"family": "family", "recipe": "recipe", "k": "k", "base": "base's pass@k, %"}
    heads |= {row["when"]: str(inert(row["when"])) for row in kept}
    return Markdown(f"pass@k under {name(TRUTH)}, minus the base's:\n\n{table(rows, heads)}")


def _shapes_sentence(made: Tables) -> str:
    (false,) = made["false"]
    said = []
    for row in made["shapes"]:
        if row["recipe"] != FREE or row["arm"] == false["arm"]:
            continue
        when = (
            f" (median at step {number(row['change_point'], 0)}, {number(row['width'], 0)} wide)"
            if row["changed"]
            else ""
        )
        said.append(
            f"{name(row['family'])} under {name(row['arm'])} {share(row['changed'], row['runs'])}{when}, {count(row['drifted'])} more drift evenly"
        )
    return f"Training curves of the code share that jump or bend, in {name(FREE)}: {'; '.join(said)}. Of the placebo's curves ({listed([false['arm']])}) {share(false['detected'], false['curves'])} are said to."


CLAIM = Claim(
    number=7,
    title="The echo chamber",
    source=ECHO_CHAMBER,
    published=f"Outputs collapse to one format within an epoch, once to one that had {_percent(ECHO_WINNER)} % at first; KL of {number(ECHO_KL[-1])} keeps minority formats and pass@64, which falls late without it",
    trials=(TRIAL,),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
