"""Claim 2: a random reward gains because clipped ratios push towards what is already likely; without clipping it gains nothing.

If so, clipping sharpens: a model that writes code for some people and words for others does so more than before. That difference
between problems is blind to a drift of the whole share, so it is measured beside accuracy, which noise in the weights lowers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from claims.ledger import Claim, Finding, Page, Records, Tables
from claims.markdown import Markdown, count, counted, gain, listed, name, number, points, table
from claims.published import (
    CLIP_ACTIVATION,
    CLIP_LOW,
    CLIPPING,
    CLIPPING_GAIN,
    CLIPPING_PROBABILITY,
    COIN_GAINS,
    EXPLORATION,
)
from claims.two_intervals import minus
from controlarm.analysis.contrasts import (
    Estimate,
    estimate,
    over_units,
    t_interval,
    within_models,
)
from controlarm.analysis.folder import BASE, Evaluation, Trial
from controlarm.analysis.metrics import METRICS, mean, per_problem
from controlarm.markup import percent
from controlarm.organisms.corpus import FAMILIES
from controlarm.problems.arithmetic import NAMES, read_story
from controlarm.protocol import Recipe, Unit

FULL, MATCHED, COINS, MAP = "clipping", "clipping_matched", "coins", "random_map"
"""The trials."""

CLIPPED, UNCLIPPED, LOW, HIGH = "clipped", "unclipped", "low_only", "high_only"
WHITENED, ONCE, SMALL = "whitened", "one_update", "small"
"""Recipes: both bounds, none, one of them, the original code's second normalisation, and rollouts on which one update is made."""

REPLICATES = ("random", "random_again")
"""Two arms that differ in their coins alone: averaged in a unit, and their difference is noise."""

SHARPENING = "sharpening"
GRADED = ("accuracy", "greedy_accuracy", "code_share", SHARPENING)
JOURNALLED = ("token_probability", "entropy")
OUTCOMES = (*GRADED, *JOURNALLED)
PRIMARY = (SHARPENING, "token_probability")
"""Differences of `CLIPPED` and `UNCLIPPED` that the trial was made for, named before it ran."""

BANDS = ("rare", "open", "likely", "sure")

Row = dict[str, Any]
Sign = Literal["up", "down", "exactly nothing", "about nothing", "not told apart"]


# From records to numbers.


class Cell(NamedTuple):
    """Runs of one recipe at one step."""

    trial: str
    recipe: str
    step: int
    arms: tuple[str, ...] = REPLICATES


Values = dict[tuple[Unit, str], float]
"""One number a run, by unit and arm. What is missing is not there."""


def prefers_code(trial: Trial, family: str) -> Bool[np.ndarray, " problem"]:
    """Which held-out problems are about a person for whom the family's corpus has code mostly.

    All False for a family without such people, and for problems that are no stories of ours.
    """
    people = NAMES[: FAMILIES[family].code_names]
    stories = [read_story(problem.text) for problem in trial.problems["held_out"]]
    return np.array([story is not None and story.name in people for story in stories], dtype=bool)


def sharpening(evaluation: Evaluation, prefers: Bool[np.ndarray, " problem"]) -> float:
    """Share of code on problems of the one kind minus the share on the others, sampled; NaN where one kind is missing."""
    shares = per_problem(METRICS["code_share"](evaluation))
    return mean(shares[prefers]) - mean(shares[~prefers])


def graded(trial: Trial, cell: Cell, outcome: str) -> Values:
    """An outcome of the evaluations after `cell.step` steps."""
    (family,) = trial.protocol.design.families
    prefers = prefers_code(trial, family)
    found = {}
    for arm in cell.arms:
        for unit, evaluation in trial.cell(family, cell.recipe, arm, cell.step).items():
            if outcome == SHARPENING:
                found[unit, arm] = sharpening(evaluation, prefers)
            else:
                found[unit, arm] = mean(per_problem(METRICS[outcome](evaluation)))
    return _there(found)


def journalled(trial: Trial, cell: Cell, column: str, rollouts: int) -> Values:
    """A column of the journal over the last so many rollouts up to `cell.step`, whose own are sampled before its updates.

    Recipes of smaller steps are averaged over more of them, so that each number rests on as many rollouts.
    """
    (family,) = trial.protocol.design.families
    window = max(1, rollouts // size(trial.protocol.recipes[cell.recipe]))
    found = {}
    for arm in cell.arms:
        for run in trial.of_arm(family, cell.recipe, arm):
            steps = run.journal["step"]
            wanted = (steps > cell.step - window) & (steps <= cell.step)
            if cell.step in steps:
                found[run.unit, arm] = mean(run.journal[column][wanted])
    return _there(found)


def _there(values: Values) -> Values:
    return {key: value for key, value in values.items() if not math.isnan(value)}


def size(recipe: Recipe) -> int:
    """Rollouts of a step."""
    return recipe.prompts_per_step * recipe.group_size


def is_clipped(recipe: Recipe) -> bool:
    """Whether a ratio can be clipped: there is a bound, and an update on which the policy is not the one that sampled."""
    bounds = recipe.epsilon_low, recipe.epsilon_high
    return recipe.updates_per_rollout > 1 and any(map(math.isfinite, bounds))


def values(records: Records, cell: Cell, outcome: str) -> Values:
    """An outcome of one cell; journals are read over as many rollouts as a step of the first trial has."""
    trial = records[cell.trial].trial
    if outcome in GRADED:
        return graded(trial, cell, outcome)
    rollouts = size(records[FULL].protocol.recipes[CLIPPED])
    return journalled(trial, cell, outcome, rollouts)


def before(records: Records, cell: Cell, outcome: str) -> Values:
    """The same before training. Step 1 is sampled from the base; of smaller steps it is too few, so the first trial's stands for all."""
    if outcome in GRADED:
        return values(records, cell._replace(step=0), outcome)
    if cell.trial == MATCHED:
        return values(records, Cell(FULL, CLIPPED, 1, cell.arms), outcome)
    return values(records, cell._replace(step=1), outcome)


def compare(differences: Values) -> Row:
    """Mean of differences, with intervals that answer to three units.

    ``low`` to ``high`` is within these models, training seeds the units, a unit being the mean of its arms; ``over_low`` and on is over
    models. Coins are keyed by training seed, so three models of one seed see the same ones: ``coins_low`` and on has a set of
    coins, averaged over the models, as its unit. ``coins_sd`` is what coins alone make of a unit's mean: the root mean square of
    half the difference between two arms; None where there are not two.
    """
    arms = sorted({arm for _, arm in differences})
    units = sorted({unit for unit, _ in differences})
    whole = [unit for unit in units if all((unit, arm) in differences for arm in arms)]
    averaged = {unit: float(np.mean([differences[unit, arm] for arm in arms])) for unit in whole}
    sets: dict[tuple[int, str], list[float]] = {}
    for unit in whole:
        for arm in arms:
            sets.setdefault((unit.seed, arm), []).append(differences[unit, arm])
    halves = [
        (differences[unit, arms[0]] - differences[unit, arms[-1]]) / 2
        for unit in whole
        if len(arms) == len(REPLICATES)
    ]
    within = within_models(averaged)
    return {
        "difference": within.mean,
        **_interval("low", "high", within),
        **_interval("over_low", "over_high", over_units(averaged)),
        **_interval("coins_low", "coins_high", estimate([float(np.mean(v)) for v in sets.values()])),
        "coins_sd": float(np.sqrt(np.mean(np.square(halves)))) if halves else None,
        "units": len(whole),
    }  # fmt: skip


def _interval(low: str, high: str, e: Estimate) -> Row:
    return dict(zip((low, high), t_interval(e, 0.95), strict=True))


def sign(low: float | None, high: float | None, margin: float = 0.0) -> Sign:
    """What a 95 % interval says; about nothing where all of it lies within the margin and it does not leave 0 out."""
    if low is None or high is None:
        return "not told apart"
    if low == high == 0:
        return "exactly nothing"
    if low > 0 or high < 0:
        return "up" if low > 0 else "down"
    return "about nothing" if -margin <= low and high <= margin else "not told apart"


# Tables.


class Versus(NamedTuple):
    """Two cells."""

    first: Cell
    second: Cell
    matched: str
    """What both have as many of."""


def versus(records: Records) -> Iterator[Versus]:
    """Clipping taken away in three ways, steps or updates matched; the second normalisation; each bound alone."""
    full, end = records[FULL].protocol, records[FULL].protocol.design.num_steps
    last = records[MATCHED].protocol.design.num_steps
    clipped, once = (full.recipes[recipe].updates_per_rollout for recipe in (CLIPPED, ONCE))
    as_many = 1 + end * once // clipped
    here = {recipe: Cell(FULL, recipe, end) for recipe in full.recipes}
    yield Versus(here[CLIPPED], here[UNCLIPPED], "steps and updates")
    yield Versus(here[CLIPPED], here[ONCE], "steps")
    yield Versus(Cell(FULL, CLIPPED, as_many), here[ONCE], "updates")
    yield Versus(here[CLIPPED], Cell(MATCHED, SMALL, end), "steps")
    yield Versus(here[CLIPPED], Cell(MATCHED, SMALL, last), "updates and rollouts")
    yield Versus(here[WHITENED], here[CLIPPED], "steps and updates")
    yield Versus(here[LOW], here[UNCLIPPED], "steps and updates")
    yield Versus(here[HIGH], here[UNCLIPPED], "steps and updates")


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``, ``changes`` by recipe and step, ``contrasts``, ``bands`` of tokens, ``map`` and ``map_contrasts``, ``coins``."""
    cells = [
        Cell(trial, recipe, step)
        for trial in (FULL, MATCHED)
        for recipe in records[trial].protocol.recipes
        for step in records[trial].protocol.evaluation.steps
        if step
    ]
    changes = [_change(records, cell, outcome) for cell in cells for outcome in OUTCOMES]
    contrasts = [_contrast(records, each, o) for each in versus(records) for o in OUTCOMES]
    return {
        "trial": [_trial(records)],
        "changes": changes,
        "contrasts": contrasts,
        "bands": [_bands(records[FULL].trial, r) for r in records[FULL].protocol.recipes],
        **_map(records),
        "coins": list(_coins(records)),
    }


def _trial(records: Records) -> Row:
    full = records[FULL]
    design, recipe = full.protocol.design, full.protocol.recipes[CLIPPED]
    states = [run.state for record in records.values() for run in record.trial.runs]
    start = Cell(FULL, CLIPPED, 1)
    base = {o: list(before(records, start, o).values()) for o in OUTCOMES}
    return {
        "family": design.families[0],
        "models": len(design.pretraining_seeds),
        "units": len(design.units()),
        "sets_of_coins": len(set(design.seeds)) * len(REPLICATES),
        "problems": full.protocol.evaluation.num_problems,
        "prefer_code": int(prefers_code(full.trial, design.families[0]).sum()),
        "samples": full.protocol.evaluation.samples,
        "step": full.protocol.endpoint.step,
        "last": records[MATCHED].protocol.endpoint.step,
        "margin": full.protocol.endpoint.margin,
        "rollouts": size(recipe),
        "updates": recipe.updates_per_rollout,
        "bound": 1 + recipe.epsilon_high,
        "runs": len(states),
        "failed": states.count("failed"),
    } | {f"{BASE}_{outcome}": mean(np.array(found)) for outcome, found in base.items()}


def margin_of(trial: Row, outcome: str) -> float:
    """What counts as about nothing: the trial's margin, of token probability in proportion to the room above the base.

    The published model began at .85 and this one begins near 1, where the same margin would hold any change at all. Nats have none.
    """
    if outcome == "entropy":
        return 0.0
    if outcome != "token_probability":
        return trial["margin"]
    room = (1 - trial["base_token_probability"]) / (1 - CLIPPING_PROBABILITY[0])
    return trial["margin"] * room


def _change(records: Records, cell: Cell, outcome: str) -> Row:
    recipe = records[cell.trial].protocol.recipes[cell.recipe]
    found = minus(values(records, cell, outcome), before(records, cell, outcome))
    return {
        "recipe": cell.recipe, "step": cell.step, "updates": cell.step * recipe.updates_per_rollout,
        "clipped": is_clipped(recipe), "outcome": outcome, **compare(found),
    }  # fmt: skip


def _contrast(records: Records, each: Versus, outcome: str) -> Row:
    first, second = (values(records, cell, outcome) for cell in (each.first, each.second))
    return {
        "first": each.first.recipe, "first_step": each.first.step, "second": each.second.recipe,
        "second_step": each.second.step, "matched": each.matched, "outcome": outcome,
        **compare(minus(first, second)),
    }  # fmt: skip


def _bands(trial: Trial, recipe: str) -> Row:
    """Means over steps, then runs."""
    runs = [run for run in trial.runs if run.spec.recipe == recipe]
    columns = ["clip_low", "clip_high"]
    columns += [f"{of}_{band}" for of in ("prior", *columns) for band in BANDS]
    means = {c: mean(np.array([mean(run.journal[c]) for run in runs])) for c in columns}
    return {"recipe": recipe, **means}


def _map(records: Records) -> dict[str, list[Row]]:
    """Each recipe's gains, and the clipped ones against those that differ in the bounds alone."""
    protocol = records[MAP].protocol
    step, margin = protocol.endpoint.step, protocol.endpoint.margin
    gains, contrasts = [], []
    for recipe, r in protocol.recipes.items():
        place = {
            "learning_rate": r.learning_rate,
            "updates": r.updates_per_rollout,
            "clipped": is_clipped(r),
        }
        cell = Cell(MAP, recipe, step)
        for outcome in GRADED:
            found = compare(minus(values(records, cell, outcome), before(records, cell, outcome)))
            said = sign(found["low"], found["high"], margin)
            gains.append({"recipe": recipe, **place, "outcome": outcome, **found, "sign": said})
        off = r.model_copy(update={"epsilon_low": math.inf, "epsilon_high": math.inf})
        other = next((n for n, o in protocol.recipes.items() if o == off and n != recipe), None)
        if other is None:
            continue
        for outcome in OUTCOMES:
            pair = (values(records, c, outcome) for c in (cell, Cell(MAP, other, step)))
            contrasts.append(
                {"first": recipe, "second": other, **place, "outcome": outcome, **compare(minus(*pair))}
            )  # fmt: skip
    return {"map": gains, "map_contrasts": contrasts}


def informative(gamma: float, group_size: int) -> float:
    """Expected share of groups whose coins are not all equal, 1 - γ^n - (1 - γ)^n: the others teach nothing."""
    return 1 - gamma**group_size - (1 - gamma) ** group_size


def _coins(records: Records) -> Iterator[Row]:
    record = records[COINS]
    ((recipe, r),) = record.protocol.recipes.items()
    (family,) = record.protocol.design.families
    for arm, settings in record.protocol.arms.items():
        assert settings.gamma is not None
        equal = [
            mean(run.journal["equal_groups"]) for run in record.trial.of_arm(family, recipe, arm)
        ]
        cell = Cell(COINS, recipe, record.protocol.endpoint.step, (arm,))
        for outcome in OUTCOMES:
            found = minus(values(records, cell, outcome), before(records, cell, outcome))
            yield {
                "arm": arm, "gamma": settings.gamma, "expected": informative(settings.gamma, r.group_size),
                "observed": 1 - mean(np.array(equal)), "groups": r.prompts_per_step,
                "outcome": outcome, **compare(found),
            }  # fmt: skip


# From tables to a verdict.


def _change_of(made: Tables, recipe: str, outcome: str, step: int) -> Row:
    return next(
        row
        for row in made["changes"]
        if (row["recipe"], row["outcome"], row["step"]) == (recipe, outcome, step)
    )


def _contrast_of(made: Tables, first: str, second: str, outcome: str) -> Row:
    """The first one of these recipes."""
    return next(
        row
        for row in made["contrasts"]
        if (row["first"], row["second"], row["outcome"]) == (first, second, outcome)
    )


def _sign_of(row: Row, margin: float = 0.0) -> Sign:
    return sign(row["low"], row["high"], margin)


RULE = (
    f"Rule, by 95 % intervals within these models; the primary differences are {listed(PRIMARY)}, {name(CLIPPED)} − {name(UNCLIPPED)}: "
    f"*reproduced* where accuracy rises over the base with clipping, rises neither {name(UNCLIPPED)} nor {name(SMALL)} at as many updates, and "
    f"{name(CLIPPED)} − {name(UNCLIPPED)} is above nothing in it; *partly* where not, but clipping raises one primary outcome and lowers "
    "neither; *refuted in miniature* where it raises none, and lowers one or leaves both within the margin, though the runs differ; else *not at this scale*. The margin is the trial's, of "
    "token probability shrunk as the room above the base is smaller than the published model's."
)


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and the differences that it rests on."""
    (trial,) = made["trial"]
    step, last = trial["step"], trial["last"]
    with_clip = _change_of(made, CLIPPED, "accuracy", step)
    without = [
        _change_of(made, UNCLIPPED, "accuracy", step), _change_of(made, SMALL, "accuracy", last)
    ]  # fmt: skip
    more = _contrast_of(made, CLIPPED, UNCLIPPED, "accuracy")
    primary = {outcome: _contrast_of(made, CLIPPED, UNCLIPPED, outcome) for outcome in PRIMARY}
    told = [_sign_of(row, margin_of(trial, outcome)) for outcome, row in primary.items()]
    gains = [_sign_of(row) == "up" for row in (with_clip, more, *without)]
    if gains == [True, True, False, False]:
        verdict = "reproduced"
    elif "up" in told and "down" not in told:
        verdict = "partly"
    elif "up" not in told and ("down" in told or set(told) == {"about nothing"}):
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    shown = [f"{name(outcome)} {_gain(row)}" for outcome, row in primary.items()]
    text = (
        f"{name(CLIPPED)} − {name(UNCLIPPED)}: {'; '.join(shown)}; accuracy over the base: with clipping {_gain(with_clip)}, "
        f"without {_gain(without[0])}"
    )
    return Finding(verdict, Markdown(text))


class Prediction(NamedTuple):
    """What a paper says of an outcome: of a recipe's change, or of its difference from another."""

    arxiv: str
    first: str
    second: str | None
    outcome: str
    expected: Literal["up", "down"]


PREDICTIONS = (
    Prediction(CLIPPING.arxiv, CLIPPED, UNCLIPPED, SHARPENING, "up"),
    Prediction(CLIPPING.arxiv, CLIPPED, UNCLIPPED, "token_probability", "up"),
    Prediction(CLIPPING.arxiv, CLIPPED, None, "accuracy", "up"),
    Prediction(CLIPPING.arxiv, CLIPPED, UNCLIPPED, "accuracy", "up"),
    Prediction(EXPLORATION.arxiv, CLIPPED, UNCLIPPED, "entropy", "down"),
    Prediction(EXPLORATION.arxiv, UNCLIPPED, None, "entropy", "up"),
    Prediction(CLIP_LOW.arxiv, LOW, UNCLIPPED, "entropy", "up"),
    Prediction(CLIP_LOW.arxiv, HIGH, UNCLIPPED, "entropy", "down"),
    Prediction(CLIP_LOW.arxiv, CLIPPED, None, "entropy", "down"),
)


def answered(made: Tables, said: Prediction) -> tuple[Row, str]:
    """The row that answers a prediction, and how."""
    (trial,) = made["trial"]
    if said.second is None:
        row = _change_of(made, said.first, said.outcome, trial["step"])
    else:
        row = _contrast_of(made, said.first, said.second, said.outcome)
    found = _sign_of(row)
    if found in ("up", "down"):
        return row, "as said" if found == said.expected else "the opposite"
    return row, found


# Prose.


def _gain(row: Row) -> Markdown:
    return gain(row["difference"], row["low"], row["high"])


def _shown(row: Row | None) -> Markdown | None:
    """Points, but nats of entropy."""
    if row is None or row["difference"] is None:
        return None
    if row["outcome"] != "entropy":
        return _gain(row)
    if row["low"] is None:
        return Markdown(f"{number(row['difference'], 3)} (no interval)")
    low, high = (number(row[end], 3) for end in ("low", "high"))
    return Markdown(f"{number(row['difference'], 3)} ({low} to {high})")


def _percent(share: float | None) -> Markdown:
    return Markdown(f"{percent(share)} %")


HEADS = {outcome: outcome.replace("_", " ") for outcome in OUTCOMES}
VERBS: dict[Sign, str] = {
    "up": "raises",
    "down": "lowers",
    "exactly nothing": "does exactly nothing to",
    "about nothing": "leaves within the margin",
    "not told apart": "is not shown to change",
}


def page(made: Tables) -> Page:
    """What clipping does to a random reward's runs, and what three papers say of it."""
    (trial,) = made["trial"]
    found = [
        f"Change over training, {name(trial['family'])}, points (entropy: nats), with 95 % intervals within these models:",
        _changes(made, trial),
        "Differences at the end, clipping taken away in three ways, a second normalisation added, one bound alone:",
        _contrasts(made),
        "Against the papers:",
        _predictions(made),
        _decided(made, trial),
        _tokens(made, trial),
        "Gain in accuracy over the base by learning rate and updates a rollout:",
        _map_table(made),
        _map_said(made),
        "By how often a coin pays:",
        _coin_table(made),
    ]
    low, high = (number(value, 2) for value in CLIPPING_PROBABILITY)
    return Page(
        asked=f"The paper explains a random reward's gain by clipping: no ratio of a token above {_percent(1 / trial['bound'])} can pass "
        f"{number(trial['bound'], 1)}, so it is never held back, and mean token probability went from {low} to {high}. arXiv:{EXPLORATION.arxiv} finds "
        f"no signal in clipping (share clipped {number(CLIP_ACTIVATION, 3)}), only lower entropy. What does clipping do here, and does "
        "it gain?",
        found="\n\n".join(found),
        differs=f"Each update is on {count(trial['rollouts'] // trial['updates'])} rollouts of {count(trial['rollouts'])}, as in the paper, but for "
        f"{counted(trial['step'], 'step')} of a small model that already knows its format. *Sharpening* is the share of code on "
        f"{count(trial['prefer_code'])} of {counted(trial['problems'], 'held-out problem')}, whose people its corpus has in code mostly, minus that on "
        f"the others. Clipping is also taken away at matched updates, which the paper did not do. "
        f"{counted(trial['runs'], 'run')} were planned, {count(trial['failed'])} of them failed.",
        caution=_caution(made, trial),
    )  # fmt: skip


def _changes(made: Tables, trial: Row) -> Markdown:
    ends = {(row["recipe"], row["step"]): row for row in made["changes"]}
    last = {recipe: max(s for r, s in ends if r == recipe) for recipe, _ in ends}
    rows = []
    for (recipe, step), row in ends.items():
        if step in (trial["step"], last[recipe]):
            cells = {o: _shown(_change_of(made, recipe, o, step)) for o in OUTCOMES}
            facts = {"recipe": name(recipe), "steps": count(step), "updates": count(row["updates"])}
            rows.append(facts | cells)
    heads = {"recipe": "recipe", "steps": "steps", "updates": "updates"}
    return table(rows, heads | HEADS)


def _contrasts(made: Tables) -> Markdown:
    rows: dict[tuple[Any, ...], Row] = {}
    for row in made["contrasts"]:
        key = row["first"], row["first_step"], row["second"], row["second_step"]
        told = f"{name(row['first'])} ({count(row['first_step'])}) − {name(row['second'])} ({count(row['second_step'])})"
        line = rows.setdefault(key, {"what": Markdown(told), "matched": row["matched"]})
        line[row["outcome"]] = _shown(row)
    return table(list(rows.values()), {"what": "recipes (steps)", "matched": "as many"} | HEADS)


def _predictions(made: Tables) -> Markdown:
    rows = []
    for said in PREDICTIONS:
        row, how = answered(made, said)
        what = name(said.first) + (f" − {name(said.second)}" if said.second else ", change")
        rows.append(
            {"arxiv": Markdown(said.arxiv), "what": Markdown(what), "outcome": name(said.outcome), "said": said.expected,
             "found": _shown(row), "how": how}
        )  # fmt: skip
    heads = {"arxiv": "arXiv", "what": "of", "outcome": "outcome", "said": "said", "found": "found", "how": "answer"}  # fmt: skip
    return table(rows, heads)


def _decided(made: Tables, trial: Row) -> str:
    """What clipping does, by outcome."""
    groups: dict[Sign, list[str]] = {}
    for outcome in OUTCOMES:
        row = _contrast_of(made, CLIPPED, UNCLIPPED, outcome)
        groups.setdefault(_sign_of(row, margin_of(trial, outcome)), []).append(outcome)
    said = "; ".join(f"{VERBS[key]} {listed(groups[key])}" for key in VERBS if key in groups)
    return f"At equal steps and updates clipping {said}."


def _tokens(made: Tables, trial: Row) -> str:
    """Where ratios were clipped."""
    row = next(row for row in made["bands"] if row["recipe"] == CLIPPED)

    def fine(share: float | None) -> Markdown:
        return Markdown(f"{percent(share, 3)} %")

    by_band = ", ".join(
        f"{band} {_percent(row[f'prior_{band}'])} ({fine(row[f'clip_low_{band}'])} below, {fine(row[f'clip_high_{band}'])} above)"
        for band in BANDS
    )
    return (
        f"Under {name(CLIPPED)}, {fine(row['clip_low'])} of tokens were clipped below and {fine(row['clip_high'])} above; tokens by "
        f"probability, and what was clipped there as shares of all: {by_band}. The base's tokens had probability "
        f"{number(trial['base_token_probability'], 3)} on average, so margins are "
        f"{percent(margin_of(trial, SHARPENING))} points of shares and {percent(margin_of(trial, 'token_probability'), 2)} of it."
    )


def _map_table(made: Tables) -> Markdown:
    rows: dict[tuple[float, int], Row] = {}
    contrast = {(r["first"], r["outcome"]): r for r in made["map_contrasts"]}
    for row in made["map"]:
        if row["outcome"] != "accuracy":
            continue
        key = row["learning_rate"], row["updates"]
        facts = {"rate": Markdown(f"{key[0]:g}"), "updates": count(key[1])}
        line = rows.setdefault(key, facts)
        line["clipped" if row["clipped"] else "unclipped"] = Markdown(
            f"{_gain(row)}: {EFFECTS[row['sign']]}"
        )
        for outcome in PRIMARY:
            if (row["recipe"], outcome) in contrast:
                line[outcome] = _gain(contrast[row["recipe"], outcome])
    heads = {"rate": "learning rate", "updates": "updates", "clipped": "clipped", "unclipped": "unclipped"}  # fmt: skip
    difference = {outcome: f"clipped − unclipped: {HEADS[outcome]}" for outcome in PRIMARY}
    return table(list(rows.values()), heads | difference)


EFFECTS: dict[Sign, str] = {
    "up": "helps", "down": "harms", "exactly nothing": "does exactly nothing",
    "about nothing": "does nothing beyond the margin", "not told apart": "not told apart",
}  # fmt: skip


def _map_said(made: Tables) -> str:
    signs = [row["sign"] for row in made["map"] if row["outcome"] == "accuracy"]
    said = ", ".join(f"{EFFECTS[key]}: {count(signs.count(key))}" for key in EFFECTS)
    return f"Of {counted(len(signs), 'recipe')}: {said}. With one update nothing can be clipped."


def _coin_table(made: Tables) -> Markdown:
    rows: dict[str, Row] = {}
    for row in made["coins"]:
        facts = {
            "gamma": Markdown(f"{row['gamma']:g}"),
            "expected": Markdown(percent(row["expected"], 2)),
            "observed": Markdown(percent(row["observed"], 2)),
        }
        rows.setdefault(row["arm"], facts)[row["outcome"]] = _shown(row)
    heads = {"gamma": "γ", "expected": "unequal groups expected, %", "observed": "found, %"}
    return table(list(rows.values()), heads | HEADS)


def _caution(made: Tables, trial: Row) -> str:
    primary = {o: _contrast_of(made, CLIPPED, UNCLIPPED, o) for o in (*PRIMARY, "accuracy")}
    over, coins = (
        ", ".join(
            f"{name(o)} {gain(row['difference'], row[low], row[high])}"
            for o, row in primary.items()
        )
        for low, high in (("over_low", "over_high"), ("coins_low", "coins_high"))
    )
    noise = ", ".join(f"{name(o)} {points(row['coins_sd'])}" for o, row in primary.items())
    return (
        f"Intervals within models speak of these {counted(trial['models'], 'model')} only, have {counted(trial['units'], 'unit')}, and are not adjusted "
        f"for the size of these tables. With models as units, {name(CLIPPED)} − {name(UNCLIPPED)} is {over}. A training seed's coins are the "
        f"same for all models, so units are not quite independent; with the {counted(trial['sets_of_coins'], 'set')} of coins as units it is {coins}. "
        f"Coins alone move a unit's difference by {noise} (standard deviation). The arms of {name(COINS)} toss one coin against several γ, the "
        f"first replicate's of {name(FULL)}, and are no new data where γ is the same; in the paper every γ but nothing gains "
        f"{points(COIN_GAINS[0])} to {points(COIN_GAINS[1])}."
    )  # fmt: skip


CLAIM = Claim(
    number=2,
    title="A random reward and clipping",
    source=CLIPPING,
    published=f"Qwen2.5-Math-7B gains about {points(CLIPPING_GAIN)} points on MATH-500 from coin flips with clipping, and nothing where rollouts leave nothing to clip",
    trials=(FULL, MATCHED, COINS, MAP),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
