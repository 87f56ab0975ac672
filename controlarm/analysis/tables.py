"""The tables of ``report.json``: one function a table, one dict a row."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from controlarm.analysis import (
    boundary,
    contrasts,
    controls,
    coverage,
    decomposition,
    dynamics,
    reach,
    strategies,
    wording,
)
from controlarm.analysis.contrasts import Adjusted, Estimate, UnitDifference, over_units
from controlarm.analysis.folder import BASE, Completions, Evaluation, Run, Trial, read_texts
from controlarm.analysis.metrics import METRICS, PerProblem, PerSample, mean, per_problem
from controlarm.analysis.transitions import FalseDetections
from controlarm.protocol import RunSpec, Unit
from controlarm.records import Problem

CONTRAST_METRICS = (
    "accuracy", "lenient_accuracy", "greedy_accuracy", "greedy_lenient_accuracy", "code_share", "boxed_share",
)  # fmt: skip
"""Compared at the endpoint's step, beside the endpoint's metric."""
EVALUATION_CURVES = ("accuracy", "lenient_accuracy", "greedy_accuracy", "code_share", "boxed_share")
MOST_TEXTS = 1200
"""Completions in the report, side by side: they are most of its size."""
MOST_TEXT_PROBLEMS = 24

Row = dict[str, Any]
Case = tuple[str, str, str]
"""Family, recipe, arm."""


def _short(values: Sequence[float]) -> list[float]:
    """Six digits: enough for a curve, and half the size."""
    return [float(f"{value:.6g}") for value in values]


def _interval(e: Estimate, level: float) -> tuple[float, float] | None:
    return None if e.note else contrasts.t_interval(e, level)


def _per_sample(trial: Trial, case: Case, step: int, metric: str) -> dict[Unit, PerSample]:
    return {unit: METRICS[metric](e) for unit, e in trial.cell(*case, step).items()}


def _per_problem(trial: Trial, case: Case, step: int, metric: str) -> dict[Unit, PerProblem]:
    return {unit: per_problem(v) for unit, v in _per_sample(trial, case, step, metric).items()}


def cases(trial: Trial) -> Iterator[Case]:
    """Every arm of every family and recipe, in the protocol's order."""
    yield from product(trial.protocol.design.families, trial.protocol.recipes, trial.protocol.arms)


def arm_paying(trial: Trial, reward: str) -> str | None:
    """The arm that pays this reward: the one of its name, or else the first that names it."""
    arms = trial.protocol.arms
    if reward in arms and arms[reward].reward in (None, reward):
        return reward
    return next((name for name, table in arms.items() if table.reward == reward), None)


def _unit_row(unit: Unit, **values: float) -> Row:
    return {"pretraining_seed": unit.pretraining_seed, "seed": unit.seed, **values}


class Contrast(NamedTuple):
    """An arm against the placebo or the base, in one metric at one step."""

    differences: list[UnitDifference]
    estimate: Estimate


def contrast_of(trial: Trial, case: Case, other: str, metric: str) -> Contrast:
    """An arm minus another (or the base) at the endpoint's step."""
    step = trial.protocol.endpoint.step
    differences = contrasts.unit_differences(
        _per_sample(trial, case, step, metric),
        _per_sample(trial, (case[0], case[1], other), step, metric),
    )
    return Contrast(differences, over_units({d.unit: d.difference for d in differences}))


class Endpoint(NamedTuple):
    """The endpoint's contrast of one arm with placebo and base, and what is concluded."""

    placebo: Contrast
    base: Contrast
    adjusted: Adjusted | None
    """None: not a primary comparison, so nothing is adjusted and the verdict is exploratory."""
    verdict: controls.Verdict


def where(trial: Trial, case: Case) -> str:
    """The family, and the recipe where there are several."""
    return case[0] if len(trial.protocol.recipes) == 1 else f"{case[0]} ({case[1]})"


def primary_cases(trial: Trial) -> list[Case]:
    """The comparisons that Holm adjusts together; with several recipes each counts once a recipe."""
    return list(
        dict.fromkeys(
            (comparison.family, recipe, comparison.arm)
            for recipe in trial.protocol.recipes
            for comparison in trial.protocol.endpoint.primary
        )
    )


def endpoints(trial: Trial) -> dict[Case, Endpoint]:
    """The endpoint of every arm but the placebo."""
    end = trial.protocol.endpoint
    pairs = {
        case: (contrast_of(trial, case, end.placebo, end.metric), contrast_of(trial, case, BASE, end.metric))
        for case in cases(trial)
        if case[2] != end.placebo
    }  # fmt: skip
    p_both = {
        case: contrasts.intersection_union(*(contrasts.p_superior(c.estimate) for c in pair))
        for case, pair in pairs.items()
    }
    primary = primary_cases(trial)
    holm = contrasts.holm([p_both[case] for case in primary], end.alpha)
    adjusted = dict(zip(primary, holm, strict=True))
    found = {}
    for case, (placebo, base) in pairs.items():
        own = adjusted.get(case)
        p = own.p if own else p_both[case]
        outcome, reason = contrasts.verdict(placebo.estimate, p, end.alpha, end.margin)
        label = "" if own else " (exploratory)"
        models = {d.unit.pretraining_seed for d in placebo.differences}
        if len(models) < contrasts.UNITS_FOR_FAMILY_CLAIM and models:
            label += f"; a claim about {len(models)} pretrained model{'s' if len(models) > 1 else ''}, not the family"
        sentence = wording.contrast(
            where(trial, case), case[2], end.placebo, placebo.estimate, outcome, label
        )
        found[case] = Endpoint(placebo, base, own, controls.Verdict(outcome, reason, sentence))
    return found


def by_luck(contrast: Contrast) -> bool:
    """Whether there is an interval, and one too short because units agree by luck (`contrasts.by_luck`)."""
    e, sampling = contrast.estimate, contrasts.sampling_noise(contrast.differences)
    return e.note is None and bool(
        contrasts.by_luck(np.array([e.sd]), np.array([sampling]), e.num_units)[0]
    )


def _contrast_row(
    trial: Trial, case: Case, versus: str, metric: str, contrast: Contrast, end: Endpoint | None
) -> Row:
    """``end`` is given where this is the endpoint's own contrast."""
    e, endpoint = contrast.estimate, trial.protocol.endpoint
    adjusted = end.adjusted if end else None
    m = len(primary_cases(trial)) if adjusted else 1
    errors = [d.problem_se for d in contrast.differences]
    sampling = contrasts.sampling_noise(contrast.differences)
    return {
        "family": case[0], "recipe": case[1], "arm": case[2], "versus": versus, "metric": metric,
        "step": endpoint.step, "primary": adjusted is not None, "exploratory": adjusted is None,
        "num_units": e.num_units, "estimate": e.mean, "sd": e.sd, "se": e.se,
        "ci95": _interval(e, 0.95), "ci90": _interval(e, 0.90), "p_superior": contrasts.p_superior(e),
        "p_holm": adjusted.p if adjusted else None,
        "holm_lower": contrasts.lower_bound(e, adjusted.level) if adjusted else None,
        "problem_se": float(np.sqrt(np.mean(np.square(errors)))) if errors else None,
        "sampling_se": sampling,
        "by_luck": by_luck(contrast),
        "mde": contrasts.mde(e.sd, e.num_units, endpoint.alpha, m) if e.sd > 0 else None,
        "family_claim": contrasts.family_claim([d.unit for d in contrast.differences]),
        "verdict": end.verdict.outcome if end and versus == "placebo" else None,
        "note": e.note,
        "units": [
            _unit_row(
                d.unit, arm_value=d.arm_value, other_value=d.other_value, difference=d.difference,
                problem_se=d.problem_se,
            )
            for d in contrast.differences
        ],
    }  # fmt: skip


def contrast_rows(trial: Trial, ends: Mapping[Case, Endpoint]) -> list[Row]:
    """Endpoint first, then the other metrics; the placebo itself is compared with base only."""
    end = trial.protocol.endpoint
    rows = []
    for metric in dict.fromkeys((end.metric, *CONTRAST_METRICS)):
        for case in cases(trial):
            own = ends.get(case) if metric == end.metric else None
            if case[2] != end.placebo:
                found = own.placebo if own else contrast_of(trial, case, end.placebo, metric)
                rows.append(_contrast_row(trial, case, "placebo", metric, found, own))
            found = own.base if own else contrast_of(trial, case, BASE, metric)
            rows.append(_contrast_row(trial, case, "base", metric, found, own))
    return rows


def control_rows(trial: Trial, ends: Mapping[Case, Endpoint]) -> list[Row]:
    """Every preregistered control, once a recipe."""
    verdicts = {case: end.verdict for case, end in ends.items()}
    return [
        {"family": c.family, "recipe": recipe, "arm": c.arm, "expect": c.expect, "why": c.why}
        | controls.check(trial, c, recipe, verdicts)._asdict()
        for recipe in trial.protocol.recipes
        for c in trial.protocol.controls
    ]


def evaluated(evaluation: Evaluation) -> dict[str, float]:
    """The held-out metrics that have a curve; NaN over nothing."""
    return {name: mean(per_problem(METRICS[name](evaluation))) for name in EVALUATION_CURVES}


def training_rows(
    run: Run, most: int, metrics: Iterable[str] = dynamics.TRAINING_CURVES
) -> list[Row]:
    """A run's curves of training metrics, thinned to at most ``most`` points; none of a term that its recipe does not have."""
    rows = []
    for metric in metrics if len(run.journal["step"]) else ():
        curve = dynamics.training_curve(run, metric, most)
        if not np.isnan(curve.values).all():
            rows.append({**curve_head(run.spec), "metric": metric, "steps": curve.steps, "values": _short(curve.values)})  # fmt: skip
    return rows


def evaluation_rows(spec: RunSpec, by_step: Mapping[int, Mapping[str, float]]) -> list[Row]:
    """A run's curves of held-out metrics."""
    if not by_step:
        return []
    return [
        {**curve_head(spec), "metric": metric, "steps": list(by_step), "values": _short([values[metric] for values in by_step.values()])}
        for metric in EVALUATION_CURVES
    ]  # fmt: skip


def curve_head(spec: RunSpec) -> Row:
    """Whose curve it is."""
    head = {"family": spec.family, "recipe": spec.recipe, "arm": spec.arm}
    return head | _unit_row(Unit(spec.pretraining_seed, spec.seed))


def curve_rows(trial: Trial) -> list[Row]:
    """Held-out metrics over evaluation steps and training metrics over steps, one row a run."""
    rows, most = [], dynamics.points_for(len(trial.runs))
    for run in trial.runs:
        rows += evaluation_rows(run.spec, {s: evaluated(e) for s, e in run.evaluations.items()})
        rows += training_rows(run, most)
    return rows


def strategy_rows(trial: Trial) -> list[Row]:
    """Use of both strategies, units pooled."""
    rows = []
    for (family, recipe, arm), step in product(
        cases(trial), sorted(trial.protocol.evaluation.steps)
    ):
        cell = trial.cell(family, recipe, arm, step).values()
        if not cell:
            continue
        for decoding, detector, strategy in product(
            ("greedy", "sampled"), strategies.DETECTORS, strategies.STRATEGIES
        ):
            parts: list[Completions] = [getattr(e, decoding) for e in cell]
            rows.append(
                {"family": family, "recipe": recipe, "arm": arm, "step": step, "decoding": decoding,
                 "strategy": strategy, "detector": detector}
                | strategies.use(parts, strategy, detector)._asdict()
            )  # fmt: skip
    return rows


def partition_rows(trial: Trial) -> list[Row]:
    """Greedy problems by strategy before and after, counts summed over units."""
    rows = []
    for case, step in product(cases(trial), sorted(trial.protocol.evaluation.steps)):
        base, after = trial.cell(case[0], case[1], BASE, 0), trial.cell(*case, step)
        units = base.keys() & after.keys()
        if step == 0 or not units:
            continue
        cells = strategies.add(
            strategies.greedy_partition(base[u], after[u]) for u in sorted(units)
        )
        shares = strategies.shares_of_gain(cells)
        rows.append({
            "family": case[0], "recipe": case[1], "arm": case[2], "step": step,
            "cells": {path: {**cell._asdict(), "change": cell.change, "share_of_gain": shares[path]}
                      for path, cell in cells.items()},
            "change_total": sum(cell.change for cell in cells.values()),
        })  # fmt: skip
    return rows


def kitagawa_rows(trial: Trial) -> list[Row]:
    """Gain over base by what moved: the share of code, or the accuracy within strategies."""
    step = trial.protocol.endpoint.step
    rows = []
    for case in cases(trial):
        base, after = trial.cell(case[0], case[1], BASE, 0), trial.cell(*case, step)
        gains: dict[Unit, float] = {}
        effects: dict[Unit, decomposition.Kitagawa] = {}
        for unit in sorted(base.keys() & after.keys()):
            first, second = (decomposition.strategies_of(e[unit]) for e in (base, after))
            effect = decomposition.kitagawa(first, second)
            if not math.isnan(effect.share_effect + effect.accuracy_effect):
                effects[unit], gains[unit] = effect, second.accuracy - first.accuracy
        if not effects:
            continue
        share = over_units({u: e.share_effect for u, e in effects.items()})
        accuracy = over_units({u: e.accuracy_effect for u, e in effects.items()})
        rows.append({
            "family": case[0], "recipe": case[1], "arm": case[2], "step": step,
            "gain": over_units(gains).mean, "share_effect": share.mean, "accuracy_effect": accuracy.mean,
            "interaction_free": True, "units": [_unit_row(u, gain=gains[u], **e._asdict()) for u, e in effects.items()],
            "share_effect_ci95": _interval(share, 0.95), "accuracy_effect_ci95": _interval(accuracy, 0.95),
        })  # fmt: skip
    return rows


def format_rows(trial: Trial) -> list[Row]:
    """Gain over base under the strict and the lenient grader; their difference is the boxes'."""
    rows = []
    for case in cases(trial):
        strict, lenient = (
            contrast_of(trial, case, BASE, m) for m in ("accuracy", "lenient_accuracy")
        )
        if not strict.differences:
            continue
        lenient_by_unit = {d.unit: d.difference for d in lenient.differences}
        units = {
            d.unit: (d.difference, lenient_by_unit[d.unit])
            for d in strict.differences
            if d.unit in lenient_by_unit
        }
        part = over_units({unit: a - b for unit, (a, b) in units.items()})
        rows.append({
            "family": case[0], "recipe": case[1], "arm": case[2], "step": trial.protocol.endpoint.step,
            "gain_strict": strict.estimate.mean, "gain_lenient": lenient.estimate.mean, "format_part": part.mean,
            "gain_strict_ci95": _interval(strict.estimate, 0.95),
            "gain_lenient_ci95": _interval(lenient.estimate, 0.95), "format_part_ci95": _interval(part, 0.95),
            "units": [_unit_row(u, gain_strict=a, gain_lenient=b, format_part=a - b) for u, (a, b) in units.items()],
        })  # fmt: skip
    return rows


def decomposition_rows(trial: Trial) -> list[Row]:
    """Null, elicitation, reward design and their total, in the endpoint's metric, against the protocol's placebo; nothing where an arm is absent."""
    end = trial.protocol.endpoint
    majority, truth = arm_paying(trial, "majority"), arm_paying(trial, "ground_truth")
    rows: list[Row] = []
    if majority is None or truth is None:
        return rows
    for family, recipe in product(trial.protocol.design.families, trial.protocol.recipes):
        # All four on the problems that have a value in each, or the parts would not add up.
        values = [
            _per_problem(trial, (family, recipe, arm), end.step, end.metric)
            for arm in (BASE, end.placebo, majority, truth)
        ]
        parts: dict[Unit, decomposition.Parts] = {}
        for unit in sorted(set.intersection(*(set(v) for v in values))):
            grid = np.array([v[unit] for v in values])
            known = ~np.isnan(grid).any(axis=0)
            if known.any():
                parts[unit] = decomposition.three_parts(*map(float, grid[:, known].mean(axis=1)))
        for part in ("null", "elicitation", "reward_design", "total") if parts else ():
            by_unit = {unit: float(getattr(p, part)) for unit, p in parts.items()}
            e = over_units(by_unit)
            rows.append({
                "family": family, "recipe": recipe, "part": part, "estimate": e.mean, "ci95": _interval(e, 0.95),
                "units": [_unit_row(unit, value=value) for unit, value in by_unit.items()],
            })  # fmt: skip
    return rows


def _boundary_cells(trial: Trial) -> Iterator[tuple[Case, int, list[Completions], list[Unit]]]:
    """Samples of the base and of each arm at the endpoint's step, by unit."""
    for family, recipe in product(trial.protocol.design.families, trial.protocol.recipes):
        for arm in (BASE, *trial.protocol.arms):
            step = 0 if arm == BASE else trial.protocol.endpoint.step
            cell = trial.cell(family, recipe, arm, step)
            if cell:
                units = sorted(cell)
                yield (family, recipe, arm), step, [cell[u].sampled for u in units], units


def _at_k(
    trial: Trial, measure: Callable[[Completions, int], float]
) -> Iterator[tuple[Row, list[list[float]], list[float]]]:
    """Row head, values [unit, k], means over top units [k]."""
    ks = trial.protocol.evaluation.pass_at_k
    for (family, recipe, arm), step, parts, units in _boundary_cells(trial):
        values = [[measure(part, k) for k in ks] for part in parts]
        means = [
            over_units(dict(zip(units, column, strict=True))).mean
            for column in zip(*values, strict=True)
        ]
        yield {"family": family, "recipe": recipe, "arm": arm, "step": step}, values, means


def pass_rows(trial: Trial) -> list[Row]:
    """pass@k of the base and of every arm at the endpoint's step: by answer, by valid derivation, and by answer with guessing taken out."""
    ks = trial.protocol.evaluation.pass_at_k
    guess = _guesses(trial, ks)
    cells = list(_boundary_cells(trial))
    followed = {
        family: reach.has_derivations(part for c in cells if c[0][0] == family for part in c[2])
        for family in trial.protocol.design.families
    }
    rows = []
    for (head, values, means), (case, _, parts, units) in zip(
        _at_k(trial, boundary.mean_pass_at_k), cells, strict=True
    ):
        valid: dict[Unit, reach.Curves] = {}
        beyond: dict[Unit, reach.Curves] = {}
        for unit, part in zip(units, parts, strict=True):
            if followed[case[0]]:
                valid[unit] = _pass_curves(reach.by_derivation(part), ks)
            if guess is not None:
                curves = _pass_curves(reach.by_answer(part), ks)
                beyond[unit] = boundary.beyond_guessing(curves, guess)
        rows.append({
            **head, "k": ks, "values": means, "units": values,
            "pass_by_derivation": _mean_over_models(valid), "pass_beyond_guessing": _mean_over_models(beyond),
        })  # fmt: skip
    return rows


def _pass_curves(counts: boundary.Tries, ks: Sequence[int]) -> reach.Curves:
    """Columns as the protocol lists its k, which need not increase."""
    ordered = sorted(ks)
    return boundary.pass_curves(counts, ordered)[:, [ordered.index(k) for k in ks]]


def _mean_over_models(curves: Mapping[Unit, reach.Curves]) -> list[float] | None:
    """A case's curve; None where no unit has one."""
    return boundary.mean_curve(reach.over_models(curves)).tolist() if curves else None


def _guesses(trial: Trial, ks: Sequence[int]) -> reach.Curves | None:
    """Of each held-out problem, what guessing reaches; None where the problems cannot be read."""
    gold = [problem.answer for problem in trial.problems["held_out"]]
    elsewhere = [problem.answer for problem in trial.problems["training"]]
    if not gold:
        return None
    return np.stack([boundary.guess_at_k(gold, k, elsewhere) for k in ks], axis=1)


def boundary_rows(trial: Trial) -> list[Row]:
    """Every arm against its base at the endpoint's step: who solves more with k tries, and who solves what."""
    ks, step = sorted(trial.protocol.evaluation.pass_at_k), trial.protocol.endpoint.step
    rows = []
    for case in cases(trial):
        base, trained = (
            {unit: e.sampled for unit, e in trial.cell(*case[:2], arm, at).items()}
            for arm, at in ((BASE, 0), (case[2], step))
        )
        found = reach.compare(base, trained, ks)
        if found is None:
            continue
        band, cross, solvable = found.band, found.crossover, found.solvable
        sentence = reach.crossing(where(trial, case), case[2], found)
        rows.append({
            "family": case[0], "recipe": case[1], "arm": case[2], "step": step, "num_units": found.num_units,
            "num_samples": found.num_samples, "smallest_visible": coverage.smallest_visible(found.num_samples),
            "k": ks, "difference": _short(band.estimate.tolist()),
            "low": _short(band.low.tolist()), "high": _short(band.high.tolist()),
            "num_problems": band.num_units.tolist(), "crossover": cross.estimate, "crossover_interval": cross.interval,
            "outcome": cross.outcome, "same": found.same, "sentence": sentence, "solvable": solvable._asdict(),
            "solvable_ci95": {
                name: reach.share_interval(count, solvable.num_problems, found.num_units)
                for name, count in solvable._asdict().items()
            },
            "without_all_samples": found.without_all_samples, **found.support._asdict(),
            "sampling_gap": found.gap.value, "gap_sentence": found.gap.sentence,
            "new_to_trained": found.new_to_trained, "new_to_base": found.new_to_base,
        })  # fmt: skip
    return rows


def majority_rows(trial: Trial) -> list[Row]:
    """maj@k likewise, one row a k."""
    return [
        {**head, "k": k, "value": means[i], "units": [unit[i] for unit in values]}
        for head, values, means in _at_k(trial, boundary.mean_majority_right)
        for i, k in enumerate(trial.protocol.evaluation.pass_at_k)
    ]


def guess_rows(trial: Trial) -> list[Row]:
    """The guess curve of the held-out problems, which all families share."""
    gold = [problem.answer for problem in trial.problems["held_out"]]
    ks = trial.protocol.evaluation.pass_at_k
    if not gold:
        return []
    values = boundary.guess_curve(gold, ks, [p.answer for p in trial.problems["training"]])
    return [{"family": f, "k": ks, "values": values} for f in trial.protocol.design.families]


def reward_rows(trial: Trial) -> list[Row]:
    """What each arm paid for."""
    rows = []
    for _, head, runs in _trained(trial):
        paid = dynamics.paid(runs)
        rows.append({**head, **paid._asdict(), "youden": paid.youden})
    return rows


def _trained(trial: Trial) -> Iterator[tuple[Case, Row, list[Run]]]:
    """Every case with its row's head and its runs that have a journal; without such runs it has no row."""
    for case in cases(trial):
        runs = [run for run in trial.of_arm(*case) if len(run.journal["step"])]
        if runs:
            yield case, {"family": case[0], "recipe": case[1], "arm": case[2]}, runs


def transition_rows(trial: Trial) -> list[Row]:
    """How training code share and training accuracy changed, and how often the placebo's are said to have."""
    placebo = trial.protocol.endpoint.placebo
    false: dict[tuple[str, str, str], FalseDetections] = {}
    rows = []
    for (family, recipe, _), head, runs in _trained(trial):
        for metric in dynamics.MAY_CHANGE:
            if (family, recipe, metric) not in false:
                null = [r for r in trial.of_arm(family, recipe, placebo) if len(r.journal["step"])]
                false[family, recipe, metric] = dynamics.false_shapes(null, metric)
            found, beside = dynamics.shapes(runs, metric), false[family, recipe, metric]
            rows.append({
                **head, "metric": metric, **found._asdict(), "false_detections": beside.rate,
                "false_detections_ci95": beside.interval, "num_placebo": beside.num_curves,
            })  # fmt: skip
    return rows


def entropy_rows(trial: Trial) -> list[Row]:
    """The entropy law in every case."""
    return [{**head, **dynamics.entropy_fits(runs)._asdict()} for _, head, runs in _trained(trial)]


def saturation_rows(trial: Trial) -> list[Row]:
    """Cases where training accuracy saturated in a run; the others have no row."""
    rows = []
    for _, head, runs in _trained(trial):
        found = dynamics.saturated(runs, trial.protocol.endpoint.metric)
        if found.num_saturated:
            rows.append({
                **head, "num_runs": found.num_units, "num_saturated": found.num_saturated, "num_gains": found.num_gains,
                "saturation_step": found.step.mean, "saturation_step_ci95": _interval(found.step, 0.95),
                "post_saturation_gain": found.gain.mean, "post_saturation_gain_ci95": _interval(found.gain, 0.95),
            })  # fmt: skip
    return rows


def clipping_rows(trial: Trial) -> list[Row]:
    """Tokens and clipped tokens by the token's probability before the update."""
    return [{**head, **dynamics.clipped(runs)} for _, head, runs in _trained(trial)]


def cost_rows(trial: Trial) -> list[Row]:
    """Cases that had more completions sampled than they trained on; the others have no row."""
    rows = []
    for case, head, runs in _trained(trial):
        recipe = trial.protocol.recipes[case[1]]
        found = dynamics.cost(runs, recipe.prompts_per_step * recipe.group_size)
        if found.cost > 1:
            rows.append({**head, **found._asdict(), "cost": found.cost})
    return rows


def label_rows(trial: Trial) -> list[Row]:
    """The audit of the pseudo-labels; counts."""
    gold = {problem.id: problem.answer for problem in trial.problems["training"]}
    return [
        {"family": family, "pretraining_seed": seed, **dynamics.audit(labels, gold)._asdict()}
        for (family, seed), labels in sorted(trial.labels.items())
    ]


def shown(trial: Trial) -> tuple[list[Problem], list[tuple[int, int, str]]]:
    """Which completions the report shows: of the first problems, of each family's first unit, as many as fit.

    Returns:
        The problems, and the run (its place in ``trial.runs``), the step and the arm's name, or ``base``.
    """
    design, held_out = trial.protocol.design, trial.problems["held_out"]
    columns = (
        len(design.families) * len(trial.protocol.recipes) * (1 + len(trial.protocol.arms)) * 2
    )
    chosen = held_out[: min(MOST_TEXT_PROBLEMS, max(2, MOST_TEXTS // columns))]
    found: list[tuple[int, int, str]] = []
    with_base: set[tuple[str, str]] = set()
    for i, run in enumerate(trial.runs):
        s = run.spec
        if run.unit != design.units()[0]:
            continue
        for step, arm in ((0, BASE), (trial.protocol.endpoint.step, s.arm)):
            if step not in run.evaluations or (arm == BASE and (s.family, s.recipe) in with_base):
                continue
            if arm == BASE:
                with_base.add((s.family, s.recipe))
            found.append((i, step, arm))
    return chosen, found


def rollout_rows(trial: Trial) -> list[Row]:
    """The same problems across base and arms, greedy and one sample."""
    chosen, evaluated = shown(trial)
    by_id = {problem.id: problem for problem in chosen}
    rows = []
    for i, step, arm in evaluated:
        run = trial.runs[i]
        for text in read_texts(trial, i, step, list(by_id)):
            problem = by_id[text["problem_id"]]
            rows.append({
                "family": run.spec.family, "recipe": run.spec.recipe, **_unit_row(run.unit), "problem_id": problem.id,
                "problem": problem.text, "gold": problem.answer, "arm": arm, "step": step,
                "decoding": text["decoding"], "text": text["text"], "strict": text["strict"],
                "lenient": text["lenient"], "answer": text["answer"], "code": text["has_python"],
            })  # fmt: skip
    return rows
