"""Claim 4: one training problem gives most of what the full set gives, goes on giving once it is solved, and even a wrong label helps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

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
from claims.published import (
    AFTER_SATURATION,
    LOSS_TERMS,
    ONE_SHOT,
    ONE_SHOT_LABELS,
    ONE_SHOT_MATH500,
)
from claims.two_intervals import both, sign
from controlarm.analysis import decomposition, saturation
from controlarm.analysis.contrasts import t_interval, unit_differences, within_models
from controlarm.analysis.folder import BASE, Run, Trial
from controlarm.analysis.metrics import METRICS, PerSample, mean
from controlarm.protocol import Unit

TRIAL, TERMS, CHOICE = "one_shot", "loss_terms", "history"

FULL = "ground_truth"
ONE = "one_shot"
GUESSABLE, UNGUESSABLE = "one_shot_guessable", "one_shot_unguessable"
PAID = "one_shot"
"""The reward that every arm with a single problem pays."""

MODEL, BENCHMARK = "Qwen2.5-Math-1.5B", "MATH-500"

NEARLY = 0.75
"""Part of the full set's gain that counts as most of it."""

LAST = 10
"""Steps at the end of training that a training number is averaged over."""

PG, QUIET = "pg", "wd_kl"
"""Loss with the policy gradient alone, and one with everything but it and entropy."""

ENTROPY = "entropy_only"

TOLD = {
    "gains": "as published",
    "loses": "reversed",
    "gains exactly nothing": "exactly equal",
}
"""What the sign of a difference says of a published order."""

Row = dict[str, Any]


def _samples(trial: Trial, recipe: str, arm: str, step: int, metric: str) -> dict[Unit, PerSample]:
    (family,) = trial.protocol.design.families
    cells = trial.cell(family, recipe, arm, step)
    return {unit: METRICS[metric](evaluation) for unit, evaluation in cells.items()}


def difference(
    trial: Trial, recipe: str, arm: str, other: str, step: int, metric: str
) -> dict[Unit, float]:
    """Arm minus another arm, or minus the base, after so many steps, by unit."""
    sides = (
        _samples(trial, recipe, which, 0 if which == BASE else step, metric)
        for which in (arm, other)
    )
    return {d.unit: d.difference for d in unit_differences(*sides)}


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``, ``example`` by model, ``gains``, ``by_model`` and ``curve`` by arm, ``labels`` in pairs, ``saturation`` and ``strategies`` by arm, ``terms`` by recipe."""
    trial, terms, choice = (records[key].trial for key in (TRIAL, TERMS, CHOICE))
    return {
        "trial": [_design(trial, terms, choice)],
        "example": _example(trial),
        "gains": _gains(trial),
        "by_model": list(_by_model(trial)),
        "curve": list(_curve(trial)),
        "labels": _labels(trial),
        "saturation": [_saturation(trial, arm) for arm in _single(trial)],
        "strategies": [_strategies(trial, arm) for arm in trial.protocol.arms],
        "terms": _terms(terms),
        "term_curve": list(_curve(terms)),
    }


def _design(trial: Trial, terms: Trial, choice: Trial) -> Row:
    design, end = trial.protocol.design, trial.protocol.endpoint
    before = choice.protocol.design
    (recipe,) = choice.protocol.recipes.values()
    return {
        "metric": end.metric, "step": end.step, "placebo": end.placebo, "problems": trial.protocol.evaluation.num_problems,
        "training_problems": design.num_problems, "runs": len(trial.runs) + len(terms.runs),
        "failed": sum(run.state == "failed" for each in (trial, terms) for run in each.runs),
        "units": len(design.units()), "models": len(set(design.pretraining_seeds)), "family": design.families[0],
        "history_steps": before.num_steps, "history_problems": before.num_problems,
        "epochs": before.num_steps * recipe.prompts_per_step // before.num_problems,
        "history_models": len(set(before.pretraining_seeds)), "term_step": terms.protocol.endpoint.step,
        "threshold": saturation.THRESHOLD, "window": saturation.WINDOW,
    }  # fmt: skip


def _single(trial: Trial) -> list[str]:
    """The arms that train on one problem."""
    arms = trial.protocol.arms.items()
    return [arm for arm, settings in arms if (settings.reward or arm) == PAID]


def _chosen(trial: Trial) -> str | None:
    return trial.protocol.arms[ONE].problem


def _example(trial: Trial) -> list[Row]:
    """What each base makes of the problem, and which problem its own samples vary most on."""
    gold = {problem.id: problem.answer for problem in trial.problems["training"]}
    rows = []
    for (_, seed), labels in sorted(trial.labels.items()):
        by_id = {row["problem_id"]: row for row in labels}
        varied = min(labels, key=lambda r: (-r["right"] * (r["samples"] - r["right"]), r["problem_id"]))  # fmt: skip
        own = by_id[_chosen(trial) or varied["problem_id"]]
        rows.append({
            "pretraining_seed": seed, "problem_id": own["problem_id"], "answer": gold[own["problem_id"]],
            "samples": own["samples"], "right": own["right"] / own["samples"], "majority": own["majority"],
            "majority_share": own["majority_share"], "wrong": own["incorrect"], "wrong_share": own["incorrect_share"],
            "varied": varied["problem_id"], "varied_right": varied["right"] / varied["samples"],
        })  # fmt: skip
    return rows


def _gains(trial: Trial) -> list[Row]:
    end = trial.protocol.endpoint
    (recipe,) = trial.protocol.recipes
    full = both(difference(trial, recipe, FULL, BASE, end.step, end.metric))
    rows = []
    for arm in trial.protocol.arms:
        own = both(difference(trial, recipe, arm, BASE, end.step, end.metric))
        row = {"arm": arm, **own}
        for key, other in (("placebo", end.placebo), ("full", FULL)):
            if arm == other:
                continue
            than = both(difference(trial, recipe, arm, other, end.step, end.metric))
            row |= {f"over_{key}": than["mean"], f"{key}_low": than["low"], f"{key}_high": than["high"]}  # fmt: skip
            row |= {f"{key}_within_low": than["within_low"], f"{key}_within_high": than["within_high"]}  # fmt: skip
            row[f"{key}_sign"] = than["sign"]
        row["of_full"] = own["mean"] / full["mean"] if full["mean"] > 0 else None
        rows.append(row)
    return rows


def _by_model(trial: Trial) -> Iterator[Row]:
    """Gain over the base of each pretrained model, mean over its training seeds."""
    end = trial.protocol.endpoint
    (recipe,) = trial.protocol.recipes
    for arm in trial.protocol.arms:
        own = difference(trial, recipe, arm, BASE, end.step, end.metric)
        for model in sorted({unit.pretraining_seed for unit in own}):
            values = [value for unit, value in own.items() if unit.pretraining_seed == model]
            yield {"arm": arm, "pretraining_seed": model, "gain": mean(np.array(values)), "units": len(values)}  # fmt: skip


def _curve(trial: Trial) -> Iterator[Row]:
    """Gain over the base after every evaluation, by recipe and arm."""
    metric = trial.protocol.endpoint.metric
    for recipe in trial.protocol.recipes:
        for arm in trial.protocol.arms:
            for step in sorted(trial.protocol.evaluation.steps)[1:]:
                own = both(difference(trial, recipe, arm, BASE, step, metric))
                yield {"recipe": recipe, "arm": arm, "step": step, **own}


def _labels(trial: Trial) -> list[Row]:
    """The published order of labels, pair by pair: the first is said to give more than the second."""
    end = trial.protocol.endpoint
    (recipe,) = trial.protocol.recipes
    order = sorted(ONE_SHOT_LABELS, key=lambda arm: -ONE_SHOT_LABELS[arm])
    rows = []
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            own = both(difference(trial, recipe, first, second, end.step, end.metric))
            said = own["sign"]
            published = ONE_SHOT_LABELS[first] - ONE_SHOT_LABELS[second]
            rows.append({
                "first": first, "second": second, "published": published, **own,
                "order": TOLD.get(said, "not told apart"),
            })  # fmt: skip
    return rows


def _runs(trial: Trial, recipe: str, arm: str) -> list[Run]:
    (family,) = trial.protocol.design.families
    return trial.of_arm(family, recipe, arm)


def _at_end(run: Run, column: str) -> float:
    return mean(run.journal[column][-LAST:])


def _most_paid(runs: Sequence[Run]) -> float:
    """The largest share of a step's rollouts that was ever paid."""
    return max((float(np.nanmax(run.journal["reward"])) for run in runs), default=float("nan"))


def _saturation(trial: Trial, arm: str) -> Row:
    """Training on the one problem: what its label pays, when it is solved, what comes after that."""
    (recipe,) = trial.protocol.recipes
    metric = METRICS[trial.protocol.endpoint.metric]
    solved, later = {}, {}
    runs = _runs(trial, recipe, arm)
    for run in runs:
        solved[run.unit] = saturation.saturation_step(run.journal["step"], run.journal["reward"])
        steps = np.array(sorted(run.evaluations), dtype=float)
        held_out = np.array([float(np.nanmean(metric(run.evaluations[int(s)]))) for s in steps])
        later[run.unit] = saturation.post_saturation_gain(solved[run.unit], steps, held_out)
    found = saturation.over_saturated_units(solved, later)
    own = within_models({unit: value for unit, value in later.items() if value == value})
    within = t_interval(own, 0.95)
    return {
        "arm": arm, "label": trial.protocol.arms[arm].label, "problem_id": trial.protocol.arms[arm].problem,
        "units": found.num_units, "saturated": found.num_saturated, "gains": found.num_gains,
        "step": found.step.mean, "step_low": found.step_interval[0], "step_high": found.step_interval[1],
        "gain": found.gain.mean, "low": found.gain_interval[0], "high": found.gain_interval[1],
        "within_low": within[0], "within_high": within[1],
        **{
            f"{key}_{when}": mean(np.array([read(run) for run in runs]))
            for key in ("reward", "code_share", "entropy")
            for when, read in (
                ("first", lambda run, key=key: float(run.journal[key][0])),
                ("last", lambda run, key=key: _at_end(run, key)),
            )
        },
        "most_paid": _most_paid(runs),
        "equal_last": mean(np.array([_at_end(run, "equal_groups") for run in runs])),
    }  # fmt: skip


def _strategies(trial: Trial, arm: str) -> Row:
    """What moved on the held-out problems: share of code, boxes, and Kitagawa's two parts, means over units."""
    (recipe,), (family,) = trial.protocol.recipes, trial.protocol.design.families
    before = trial.cell(family, recipe, BASE, 0)
    after = trial.cell(family, recipe, arm, trial.protocol.endpoint.step)
    both = sorted(before.keys() & after.keys())
    pairs = [[decomposition.strategies_of(e[u]) for e in (before, after)] for u in both]
    parts = [decomposition.kitagawa(*pair) for pair in pairs]
    row: Row = {
        "arm": arm, "share_effect": mean(np.array([p.share_effect for p in parts])),
        "accuracy_effect": mean(np.array([p.accuracy_effect for p in parts])),
    }  # fmt: skip
    for metric in ("code_share", "boxed_share"):
        for when, cells in (("before", before), ("after", after)):
            values = [float(np.nanmean(METRICS[metric](cells[u]))) for u in both]
            row[f"{metric}_{when}"] = mean(np.array(values))
    return row


def _terms(trial: Trial) -> list[Row]:
    """Every recipe of the loss-term trial under one problem and under the placebo."""
    end = trial.protocol.endpoint
    rows = []
    for recipe, settings in trial.protocol.recipes.items():
        for arm in trial.protocol.arms:
            own = both(difference(trial, recipe, arm, BASE, end.step, end.metric))
            row = {
                "recipe": recipe, "arm": arm, "policy_coef": settings.policy_coef, "kl_coef": settings.kl_coef,
                "entropy_coef": settings.entropy_coef, "weight_decay": settings.weight_decay,
                "published": LOSS_TERMS[recipe] - LOSS_TERMS["none"] if arm == ONE else None, **own,
                "entropy_last": mean(np.array([_at_end(run, "entropy") for run in _runs(trial, recipe, arm)])),
                "most_paid": _most_paid(_runs(trial, recipe, arm)),
            }  # fmt: skip
            if arm != end.placebo:
                than = both(difference(trial, recipe, arm, end.placebo, end.step, end.metric))
                row |= {"over_placebo": than["mean"], "placebo_low": than["low"], "placebo_high": than["high"]}  # fmt: skip
                row |= {"placebo_within_low": than["within_low"], "placebo_within_high": than["within_high"]}  # fmt: skip
            rows.append(row)
    return rows


def _by(rows: Sequence[Row], *keys: str) -> dict[Any, Row]:
    """Rows by one key, or by several."""
    if len(keys) == 1:
        return {row[keys[0]]: row for row in rows}
    return {tuple(row[key] for key in keys): row for row in rows}


RULE = (
    f"Rule, by 95 % intervals over the models: *reproduced* where {name(ONE)} gains over base and placebo and has at least "
    f"{number(NEARLY)} of the full set's gain, what it gains after its problem is solved is above nothing, the policy gradient alone "
    f"({name(PG)}) gains and {name(QUIET)} does not, and no pair of labels stands in reversed order; *partly* where the full set and "
    f"{name(ONE)} gain over the base but not all of that holds; *refuted in miniature* where the full set gains and {name(ONE)} loses; else *not at this scale*."
)


def finding(made: Tables) -> Finding:
    """The verdict by the rule; the gain of one problem beside the full set's, and what came after it was solved."""
    gains, solved = _by(made["gains"], "arm"), _by(made["saturation"], "arm")
    terms = _by(made["terms"], "recipe", "arm")
    one, full = gains[ONE], gains[FULL]
    later = solved[ONE]
    whole = (
        one.get("placebo_sign") == "gains"
        and (one["of_full"] or 0) >= NEARLY
        and sign(later["low"], later["high"]) == "gains"
        and terms[PG, ONE]["sign"] == "gains"
        and terms[QUIET, ONE]["sign"] != "gains"
        and all(row["order"] != "reversed" for row in made["labels"])
    )
    if full["sign"] != "gains":
        verdict = "not at this scale"
    elif one["sign"] == "gains":
        verdict = "reproduced" if whole else "partly"
    elif one["sign"] == "loses":
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    effect = (
        f"over the base: {name(ONE)} {_gain(one)}, within these models {_within(one)}; {name(FULL)} {_gain(full)}; {name(ONE)} after its problem is solved: "
        f"{gain(later['gain'], later['low'], later['high'])}"
    )
    return Finding(verdict, Markdown(effect))


def _gain(row: Row) -> Markdown:
    return gain(row["mean"], row["low"], row["high"])


def _within(row: Row, before: str = "within_") -> Markdown:
    """The interval within these models alone, after an estimate that has been said."""
    low, high = row[f"{before}low"], row[f"{before}high"]
    return Markdown(f"{points(low)} to {points(high)}" if low is not None else "–")


def page(made: Tables) -> Page:
    """The example, the gains, what came after, the labels, the loss terms."""
    (trial,) = made["trial"]
    found = [
        _problem(made, trial),
        _gains_table(made, trial),
        _why(made),
        _after(made, trial),
        _labels_table(made),
        _terms_table(made, trial),
    ]
    published = (
        f"{points(ONE_SHOT_MATH500['full set'] - ONE_SHOT_MATH500['base'])} with the full set and "
        f"{points(ONE_SHOT_MATH500['one problem'] - ONE_SHOT_MATH500['base'])} with one problem"
    )
    return Page(
        asked=f"{MODEL} gained {published} on {BENCHMARK}, went on gaining ({points(AFTER_SATURATION)} on average) after the "
        f"problem was solved, and gained from wrong labels as well, least from a guessable one. Does that hold on {name(trial['family'])}?",
        found="\n\n".join(part for part in found if part),
        differs=f"The model is small and its problems are generated sums, {counted(trial['training_problems'], 'training problem')} in all, so the full "
        f"set is small too. Training is {counted(trial['step'], 'step')}, not thousands, and both trials end at a step fixed beforehand where the paper takes the best checkpoint on "
        f"the test benchmarks. The paper's loss always has weight decay, KL and entropy; ours has the policy gradient alone, and the terms are tried one by one. "
        f"{counted(trial['runs'], 'run')} were planned, {count(trial['failed'])} of them failed.",
        caution=f"Intervals are over {counted(trial['models'], 'pretrained model')} and not adjusted; those *within* are over training seeds and "
        f"speak of these models alone. One problem was tried for all models, and another one may do better or worse. Gain after saturation is that of the runs that saturate. "
        f"An optimiser that scales its steps moves as far for a small entropy term as for a large one where nothing else pulls: {name(ENTROPY)} says what such steps do, "
        "not how strong the term is.",
    )  # fmt: skip


def _problem(made: Tables, trial: Row) -> Markdown:
    rows = [
        {
            "model": count(row["pretraining_seed"]),
            "right": share(round(row["right"] * row["samples"]), row["samples"]),
            "wrong": Markdown(f"{name(row['wrong'])} {share(round(row['wrong_share'] * row['samples']), row['samples'])}"),
        }
        for row in made["example"]
    ]  # fmt: skip
    (row, *_) = made["example"]
    heads = {"model": "model", "right": "right", "wrong": "most frequent wrong answer"}
    return Markdown(
        f"The problem is {name(row['problem_id'])} (answer {name(row['answer'])}): of {count(trial['history_problems'])} training problems the one whose training accuracy "
        f"varied most over {counted(trial['epochs'], 'epoch')} of the trial {name(CHOICE)}, variances averaged over {counted(trial['history_models'], 'model')}. "
        f"Its rollouts are not in the record; `saturation.history` ranks them again from the run folder. Samples of the bases:\n\n{table(rows, heads)}"
    )


def _gains_table(made: Tables, trial: Row) -> Markdown:
    rows = []
    for row in made["gains"]:
        over = row.get("over_placebo")
        rows.append({
            "arm": name(row["arm"]), "gain": _gain(row), "within": _within(row),
            "placebo": None if over is None else gain(over, row["placebo_low"], row["placebo_high"]),
            "of": None if row["of_full"] is None else number(row["of_full"]),
        })  # fmt: skip
    heads = {
        "arm": "arm", "gain": "gain over base", "within": "within these models",
        "placebo": f"over {name(trial['placebo'])}", "of": "part of the full set's",
    }  # fmt: skip
    models = [points(row["gain"]) for row in made["by_model"] if row["arm"] == ONE]
    return Markdown(
        f"Gain in points after {counted(trial['step'], 'step')}, with 95 % intervals over models and within them:\n\n{table(rows, heads)}\n\n"
        f"Model by model {name(ONE)} gains {', '.join(models)}."
    )


def _why(made: Tables) -> str:
    """Kitagawa's parts of one problem and of the full set, and what each had when the one problem was solved."""
    parts, solved = _by(made["strategies"], "arm"), _by(made["saturation"], "arm")[ONE]
    said = (
        f"{name(arm)} {points(row['share_effect'])} by writing code more often ({points_of(row['code_share_before'])} % to "
        f"{points_of(row['code_share_after'])} %), {points(row['accuracy_effect'])} by being right more often within a strategy"
        for arm in (FULL, ONE)
        if (row := parts.get(arm))
    )
    text = (
        f"Where the gains sit: {'; '.join(said)}. On its own problem {name(ONE)} wrote code in {points_of(solved['code_share_first'])} % at first and "
        f"{points_of(solved['code_share_last'])} % at the end, when {points_of(solved['equal_last'])} % of its groups were equal and taught nothing."
    )
    curve = _by(made["curve"], "arm", "step")
    later = [
        step
        for arm, step in curve
        if arm == ONE and solved["step"] is not None and step >= solved["step"]
    ]
    if not later:
        return text
    then, end = min(later), max(later)
    return (
        f"{text} At step {count(then)}, with the problem solved, {name(ONE)} had {points(curve[ONE, then]['mean'])} and {name(FULL)} {points(curve[FULL, then]['mean'])}; "
        f"at step {count(end)} {points(curve[ONE, end]['mean'])} and {points(curve[FULL, end]['mean'])}."
    )


def points_of(rate: float | None) -> Markdown:
    """A share in per cent, without the sign that a difference has."""
    return number(None if rate is None else 100 * rate, 1)


def _after(made: Tables, trial: Row) -> Markdown:
    rows = [
        {
            "arm": name(row["arm"]), "first": points_of(row["reward_first"]), "last": points_of(row["reward_last"]),
            "solved": Markdown(f"{count(row['saturated'])} of {count(row['units'])}"), "step": number(row["step"], 0),
            "gain": gain(row["gain"], row["low"], row["high"]), "within": _within(row),
        }
        for row in made["saturation"]
    ]  # fmt: skip
    heads = {
        "arm": "arm", "first": "paid at first, %", "last": "paid at the end, %", "solved": "runs that solve it",
        "step": "at step", "gain": "held-out gain after that", "within": "within these models",
    }  # fmt: skip
    return Markdown(
        f"A problem is solved from where {points_of(trial['threshold'])} % of its rollouts or more are paid over {counted(trial['window'], 'step')}; "
        f"the published gain after that is {points(AFTER_SATURATION)}.\n\n{table(rows, heads)}"
    )


def _labels_table(made: Tables) -> Markdown:
    rows = [
        {
            "pair": Markdown(f"{name(row['first'])} − {name(row['second'])}"), "published": points(row["published"]),
            "found": _gain(row), "within": _within(row), "order": row["order"],
        }
        for row in made["labels"]
    ]  # fmt: skip
    heads = {
        "pair": "labels", "published": "published", "found": "difference", "within": "within these models", "order": "order",
    }  # fmt: skip
    paid = _by(made["saturation"], "arm")
    unpaid = [
        arm for arm in (GUESSABLE, UNGUESSABLE) if arm in paid and paid[arm]["most_paid"] == 0
    ]
    more = (
        f"\n\nUnder {listed(unpaid)} nothing was ever paid: every group was equal and no weight moved."
        if unpaid
        else ""
    )
    return Markdown(f"{table(rows, heads)}{more}")


def _terms_table(made: Tables, trial: Row) -> Markdown:
    terms = _by(made["terms"], "recipe", "arm")
    early = _by(made["term_curve"], "recipe", "arm", "step")
    steps = sorted({step for _, _, step in early if step < trial["term_step"]})
    rows = []
    for recipe in dict.fromkeys(row["recipe"] for row in made["terms"]):
        one, placebo = terms[recipe, ONE], terms[recipe, trial["placebo"]]
        unpaid = terms[recipe, UNGUESSABLE]
        rows.append({
            "recipe": name(recipe), "published": points(one["published"]), "one": _gain(one), "within": _within(one),
            "unpaid": _gain(unpaid), "random": _gain(placebo), **{f"at {step}": points(early[recipe, ONE, step]["mean"]) for step in steps},
        })  # fmt: skip
    heads = {
        "recipe": "terms", "published": "published", "one": f"{name(ONE)}, step {count(trial['term_step'])}",
        "within": "within these models", "unpaid": name(UNGUESSABLE), "random": name(trial["placebo"]),
        **{f"at {step}": f"{name(ONE)}, step {count(step)}" for step in steps},
    }  # fmt: skip
    alone = terms.get((ENTROPY, ONE))
    most = max(
        row["most_paid"]
        for row in made["terms"]
        if row["arm"] == UNGUESSABLE and row["policy_coef"]
    )
    heated = (
        f"\n\nWith {name(ENTROPY)} the token entropy on the problem ends at {number(alone['entropy_last'], 3)} nats, with {name(PG)} at "
        f"{number(terms[PG, ONE]['entropy_last'], 3)}."
        if alone
        else ""
    )
    return Markdown(
        f"Gain over the base in points by the terms of the loss; the label of {name(UNGUESSABLE)} is paid in at most {points_of(most)} % of a step's rollouts where there is a policy gradient, so its column is "
        f"what the terms beside the policy gradient do:\n\n{table(rows, heads)}{heated}"
    )


CLAIM = Claim(
    number=4,
    title="One problem is nearly enough",
    source=ONE_SHOT,
    published=f"{MODEL} on {BENCHMARK} gains {points(ONE_SHOT_MATH500['one problem'] - ONE_SHOT_MATH500['base'])} points with one problem, "
    f"{points(ONE_SHOT_MATH500['full set'] - ONE_SHOT_MATH500['base'])} with the full set; {points(AFTER_SATURATION)} on average after the problem is solved",
    trials=(TRIAL, TERMS, CHOICE),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
