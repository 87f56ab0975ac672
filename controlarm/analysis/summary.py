"""A run folder becomes ``report.json``: every number that the report shows, and the sentences made of them."""

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from controlarm.analysis import contrasts, dynamics, tables, wording
from controlarm.analysis.folder import BASE, UNKNOWN, FolderError, Trial, read_plan, read_trial
from controlarm.analysis.tables import Case, Endpoint, Row
from controlarm.protocol import RunSpec, runs, told

VERSION = 1


def plain(value: Any) -> Any:  # noqa: ANN401  any JSON value, with numpy's and NaN
    """As JSON allows: numpy's numbers become Python's, and what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flow(trial: Trial) -> Row:
    """From what was planned to what could be analysed."""
    recipes = trial.protocol.recipes
    trained = 0
    truncated_trained, truncated, unscored, completions, failures, unscored_trained = (
        0.0,
        0,
        0,
        0,
        0,
        0.0,
    )
    for run in trial.runs:
        size = recipes[run.spec.recipe].prompts_per_step * recipes[run.spec.recipe].group_size
        trained += size * len(run.journal["step"])
        truncated_trained += size * float(np.nansum(run.journal["truncated_share"]))
        unscored_trained += size * float(np.nansum(run.journal["unknown_share"]))
        failures += int(np.nansum(run.journal["reward_failures"]))
        for evaluation in run.evaluations.values():
            for part in (evaluation.greedy, evaluation.sampled):
                completions += part.strict.size
                unscored += int((part.strict == UNKNOWN).sum())
                truncated += int(part.truncated.sum())
    return {
        "runs_planned": len(trial.runs),
        "runs_finished": sum(run.state == "finished" for run in trial.runs),
        "runs_failed": [{"path": r.spec.path, **r.failure} for r in trial.runs if r.failure],
        "runs_unfinished": [r.spec.path for r in trial.runs if r.state == "unfinished"],
        "problems_training": len(trial.problems["training"]),
        "problems_held_out": len(trial.problems["held_out"]),
        "rollouts_trained": trained, "completions_evaluated": completions, "unscored": unscored,
        "unscored_trained": round(unscored_trained),
        "truncated_trained_share": truncated_trained / trained if trained else None,
        "truncated_evaluated_share": truncated / completions if completions else None,
        "reward_failures": failures, "damaged": [d._asdict() for d in trial.damaged],
    }  # fmt: skip


def siblings(folder: Path, plan: Mapping[str, Any]) -> list[Row]:
    """Run folders beside this one with the same trial name and another digest."""
    found = []
    for other in sorted(folder.resolve().parent.iterdir()):
        if other == folder.resolve() or not (other / "plan.json").is_file():
            continue
        try:
            theirs = read_plan(other)
        except FolderError:  # damage hides no trial: its folder's name tells which it was
            name, _, digest = other.name.rpartition("-")
            theirs = {"trial": name, "digest": digest}
        if theirs["trial"] == plan["trial"] and theirs["digest"] != plan["digest"]:
            found.append({"folder": other.name, "digest": theirs["digest"]})
    return found


def headline(
    trial: Trial, ends: Mapping[Case, Endpoint], found: Row, checked: list[Row]
) -> list[str]:
    """The report in sentences: is it whole, the primary comparisons, the placebo's part, the controls."""
    end = trial.protocol.endpoint
    lines = []
    missing = found["runs_planned"] - found["runs_finished"]
    if missing:
        lines.append(
            f"The trial is not complete: {missing} of {found['runs_planned']} runs are not finished "
            f"({len(found['runs_failed'])} failed); every number below is provisional."
        )
    if any(d.file == "protocol.toml" for d in trial.damaged):
        lines.append("The protocol in the folder is not the one under which the trial started: see the notes.")  # fmt: skip
    primary = tables.primary_cases(trial)
    compared = [case for case in primary if ends[case].placebo.estimate.num_units]
    lines += [ends[case].verdict.sentence for case in compared]
    if len(compared) < len(primary):
        rest = ", ".join(f"{tables.where(trial, c)} {c[2]}" for c in primary if c not in compared)
        lines.append(f"No unit has both its run and the placebo's, so nothing is said of: {rest}.")
    truth = tables.arm_paying(trial, "ground_truth")
    for family, recipe in product(trial.protocol.design.families, trial.protocol.recipes):
        arms = [c[2] for c in primary if c[:2] == (family, recipe)]
        arm = truth if truth not in (None, end.placebo) else arms[0] if arms else None
        if arm is None:
            continue
        case = (family, recipe, arm)
        raw = ends[case].base.estimate
        null = tables.contrast_of(trial, (family, recipe, end.placebo), BASE, end.metric)
        if raw.num_units and null.estimate.num_units:
            by_luck = tables.by_luck(null)
            where = tables.where(trial, case)
            lines.append(wording.placebo_part(where, arm, end.placebo, raw, null.estimate, by_luck))
    if checked:
        held = sum(row["held"] is True for row in checked)
        broken = [f"{row['arm']} on {row['family']} ({row['expect']} expected, {row['found']})"
                  for row in checked if row["held"] is False]  # fmt: skip
        untold = sum(row["held"] is None for row in checked)
        text = f"Preregistered controls: {held} of {len(checked)} came out as expected"
        text += f"; not so: {', '.join(broken)}" if broken else ""
        text += f"; {untold} could not be told or did not apply" if untold else ""
        lines.append(f"{text}.")
    lines.append(
        f"Points are percentage points of {end.metric.replace('_', ' ')} on {trial.protocol.evaluation.num_problems} "
        f"held-out problems after {end.step} steps."
    )
    return lines


def notes(trial: Trial, found: Row, sibling: list[Row]) -> list[str]:
    """What is missing, truncated, unknown or skipped."""
    p, lines = trial.protocol, []
    lines += [f"{d.file}: {d.what}; left out." if d.file != "protocol.toml" else f"{d.file}: {d.what}."
              for d in trial.damaged]  # fmt: skip
    lines += [
        f"{r['path']} failed at step {r['step']}: {r['reason']}." for r in found["runs_failed"]
    ]
    if found["runs_unfinished"]:
        waiting = found["runs_unfinished"]
        more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
        lines.append(f"Not finished: {', '.join(waiting[:5])}{more}.")
    if {tuple(r.spec) for r in trial.runs} != {tuple(spec) for spec in runs(p)}:
        lines.append("The runs of plan.json are not those of protocol.toml; the plan's are shown.")
    for case in tables.cases(trial):
        wanted = set(p.design.units())
        lost = wanted - trial.cell(*case, p.endpoint.step).keys()
        if lost and not found["runs_unfinished"]:
            names = ", ".join(f"p{u.pretraining_seed}-s{u.seed}" for u in sorted(lost))
            lines.append(f"{'/'.join(case)}: no evaluation at step {p.endpoint.step} for {names}; the contrasts leave them out.")  # fmt: skip
    for family, recipe, unit in product(p.design.families, p.recipes, p.design.units()):
        members = [
            r
            for r in trial.runs
            if (r.spec.family, r.spec.recipe, r.unit) == (family, recipe, unit)
        ]
        if len({r.evaluations[0].weights_sha256 for r in members if 0 in r.evaluations}) > 1:
            lines.append(f"{family} {recipe} p{unit.pretraining_seed}-s{unit.seed}: the arms did not start from the same weights.")  # fmt: skip
    if found["unscored"] or found["unscored_trained"]:
        lines.append(f"The grader gave up on {found['unscored']} held-out completions and {found['unscored_trained']} training rollouts; they are in no accuracy.")  # fmt: skip
    if found["truncated_evaluated_share"]:
        lines.append(f"{100 * found['truncated_evaluated_share']:.1f} % of the held-out completions reached max_tokens; they are graded as they stand.")  # fmt: skip
    if found["reward_failures"]:
        lines.append(f"{found['reward_failures']} rewards failed during training.")
    absent = [
        name for name in ("majority", "ground_truth") if tables.arm_paying(trial, name) is None
    ]
    if absent:
        lines.append(f"No decomposition: the trial has no {' and no '.join(absent)} arm.")
    if len(set(p.design.pretraining_seeds)) < contrasts.UNITS_FOR_FAMILY_CLAIM:
        lines.append("Fewer than three pretrained models a family: claims are about these models, not their families.")  # fmt: skip
    lines += [f"Recipe {name} has terms that act without a reward: no arm is claimed to leave the weights unchanged."
              for name, recipe in p.recipes.items() if not recipe.only_reward_acts]  # fmt: skip
    most = dynamics.points_for(len(trial.runs))
    if any(len(run.journal["step"]) > most for run in trial.runs):
        lines.append(f"Training curves show {most} points, each a mean over the steps since the one before.")  # fmt: skip
    for shard, why in sorted(trial.environment.get("given_up", {}).items()):
        names = ", ".join(RunSpec(**trial.plan["runs"][run]).path for run in trial.plan["shards"][int(shard)])  # fmt: skip
        lines.append(f"Shard {int(shard) + 1} of {len(trial.plan['shards'])} was given up: {why}. One of its runs may be the cause, and all of them are unfinished ({names}); the same command tries it again.")  # fmt: skip
    if trial.environment.get("fleet"):
        lines.append(repeats(trial.environment))
    elif others := trial.environment.get("continued"):
        lines.append(f"{len(others)} other environment{'s' if len(others) > 1 else ''} continued this trial: its runs are not all of one machine, and need not repeat bit for bit.")  # fmt: skip
    if sibling:
        lines.append(f"{len(sibling)} other run folders of a trial of this name have another digest: {', '.join(s['folder'] for s in sibling)}.")  # fmt: skip
    return lines


NEUTRAL = {"cores", "commit", "fingerprint", "continued", "fleet", "given_up"}
"""Of an environment, what does not change how it rounds: a run has one thread."""


def repeats(environment: Mapping[str, Any]) -> str:
    """How far a fleet's numbers repeat: by the environments that its shards ran in."""
    known = {one["fingerprint"]: one for one in (environment, *environment.get("continued", []))}
    ran = {mark for marks in environment["fleet"].values() for mark in marks}
    kinds = {
        json.dumps({k: v for k, v in known[mark].items() if k not in NEUTRAL}, sort_keys=True)
        for mark in ran if mark in known
    }  # fmt: skip
    names = "; ".join(sorted({str(known[mark].get("processor")) for mark in ran if mark in known}))
    if len(kinds) == 1:
        return f"A fleet trained the shards, on machines of one kind ({names}): from the same plan on that kind the journals repeat byte for byte."
    return f"A fleet trained the shards on machines of {len(kinds)} kinds ({names}), which round differently: run again, the trial is equal in distribution, not byte for byte."


def summarise(folder: Path) -> Row:
    """Everything in ``report.json``; reads the folder, writes nothing.

    Raises:
        ValueError: when the folder has no readable ``plan.json`` and ``protocol.toml``.
    """
    trial = read_trial(folder)
    ends = tables.endpoints(trial)
    found, checked = flow(trial), tables.control_rows(trial, ends)
    sibling = siblings(folder, trial.plan) if trial.siblings is None else trial.siblings
    whole = found["runs_finished"] == found["runs_planned"] and not trial.damaged
    return plain({
        "version": VERSION,
        "trial": {
            "name": trial.protocol.trial.name, "question": trial.protocol.trial.question,
            "digest": trial.plan["digest"], "folder": folder.resolve().name, "complete": whole,
            # "constants" keeps an infinite clip bound readable, which JSON has no number for.
            "protocol": json.loads(told(trial.protocol), parse_constant=str),
            "protocol_toml": trial.protocol_toml, "environment": trial.environment,
            "materials": trial.plan["materials"], "siblings": sibling,
        },
        "headline": headline(trial, ends, found, checked),
        "flow": found,
        "contrasts": tables.contrast_rows(trial, ends),
        "controls": checked,
        "curves": tables.curve_rows(trial),
        "strategies": tables.strategy_rows(trial),
        "partition": tables.partition_rows(trial),
        "kitagawa": tables.kitagawa_rows(trial),
        "format_split": tables.format_rows(trial),
        "decomposition": tables.decomposition_rows(trial),
        "pass_at_k": tables.pass_rows(trial),
        "guess": tables.guess_rows(trial),
        "maj_at_k": tables.majority_rows(trial),
        "boundary": tables.boundary_rows(trial),
        "transitions": tables.transition_rows(trial),
        "entropy_law": tables.entropy_rows(trial),
        "saturation": tables.saturation_rows(trial),
        "clipping": tables.clipping_rows(trial),
        "sampling_cost": tables.cost_rows(trial),
        "rewards": tables.reward_rows(trial),
        "labels": tables.label_rows(trial),
        "rollouts": tables.rollout_rows(trial),
        "notes": notes(trial, found, sibling),
    })  # fmt: skip
