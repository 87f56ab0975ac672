"""Claim 8: learning some problems makes right solutions of others less likely, the likely ones win, and choosing what is not yet solved gives reach back.

SELF trains on the problems whose greedy completion is wrong, with a forward divergence from the base. Recipe ``selective`` has its
selection alone; ``selective_kl`` adds k3, whose gradient on the policy's own samples is the forward divergence's (``docs/algorithms.md``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from claims.boundary_trial import (
    ANSWER,
    DERIVATION,
    NOTIONS,
    TRIALS,
    TRUTH,
    Probed,
    Reach,
    by_base,
    families,
    find,
    of,
    probed,
    shown,
    told,
)
from claims.ledger import Claim, Finding, Page, Record, Records, Tables, Verdict
from claims.markdown import Markdown, count, counted, name, number, points, table
from claims.published import SELF, SELF_TABLE
from claims.two_intervals import minus
from controlarm import markup
from controlarm.analysis import probes
from controlarm.analysis.contrasts import over_units
from controlarm.analysis.folder import BASE
from controlarm.analysis.metrics import mean
from controlarm.markup import percent
from controlarm.protocol import Unit

PLAIN, SELECTIVE, WHOLE = "grpo", "selective", "selective_kl"
"""GRPO, the selection, and SELF as published: the selection with the divergence."""
PUBLISHED = "published, with 256 tries"
OURS = (PLAIN, SELECTIVE, WHOLE)

MARGIN = 0.03
"""SELF may lose so much at one try and still be said to keep it: the published ones lose 2 points at most."""

SOURCES = ("reference", "base", "policy")
"""Whose right solutions: the first is what the claim is read on, since no policy chose it."""

PRECISIONS = ("float32", "bfloat16")

Row = dict[str, Any]


# Tables.


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """By base ``trial``; by recipe ``ends``, ``interference``, ``winners``, ``sparsity``, ``selection``; ``versus`` GRPO; ``tracking`` of lost reach."""
    return by_base(records, _tables)


def _tables(record: Record) -> Tables:
    reach = Reach(record.trial)
    own = [recipe for recipe in OURS if recipe in record.protocol.recipes]
    arms = (TRUTH, reach.placebo)
    matrices, solutions, sparsity = (probed(record, k) for k in ("interference", "solutions", "sparsity"))  # fmt: skip
    return {
        "trial": [reach.facts()],
        "ends": [row for recipe in own for arm in arms for n in NOTIONS for row in reach.ends(recipe, arm, n)],
        "versus": [row for recipe in own if recipe != PLAIN for n in NOTIONS for row in _versus(reach, recipe, n)],
        "interference": [_interference(matrices, recipe, arm) for recipe in own for arm in arms],
        "winners": [_winners(solutions, recipe, arm, s) for recipe in own for arm in arms for s in SOURCES],
        "sparsity": [_sparsity(sparsity, recipe, arm, p) for recipe in own for arm in arms for p in PRECISIONS],
        "selection": list(_selection(record, own)),
        "tracking": [_tracking(reach, matrices)],
    }  # fmt: skip


def _versus(reach: Reach, recipe: str, notion: Any) -> Iterator[Row]:  # noqa: ANN401  a Notion
    """Recipe - GRPO under the truth, paired by unit; and under the placebo, which has learnt from nothing."""
    for arm in (TRUTH, reach.placebo):
        own, other = (reach.means(r, arm, notion) for r in (recipe, PLAIN))
        for i, k in ((0, reach.ks[0]), (-1, reach.ks[-1])):
            at = [{unit: float(curve[i]) for unit, curve in of.items()} for of in (own, other)]
            yield {"recipe": recipe, "arm": arm, "notion": notion, "k": k, **told(minus(*at))}


def _interference(found: Probed, recipe: str, arm: str) -> Row:
    """What learning one problem does to the others' right solutions, of the base and after training; nats a step of fixed length."""
    before = {unit: probes.interference(own) for unit, own in found.bases.items()}
    after = {unit: probes.interference(own) for unit, own in found.of(recipe, arm).items()}
    pairs = {unit: common(before[unit], after[unit]) for unit in before.keys() & after.keys()}
    row: Row = {"recipe": recipe, "arm": arm}
    for key in ("others", "own", "share_negative"):
        values = [{unit: getattr(m, key) for unit, m in of.items()} for of in (before, after)]
        row |= {
            f"{key}_before": told(values[0]), f"{key}_after": told(values[1]),
            f"{key}_change": told(minus(values[1], values[0])),
        }  # fmt: skip
    teachers = [mean(np.array([float(len(m.teachers)) for m in of.values()])) for of in (before, after)]  # fmt: skip
    return row | {
        "teachers_before": teachers[0], "teachers_after": teachers[1],
        "common_pairs": sum(len(of) for of in pairs.values()),
        "common_change": told({unit: mean(of) for unit, of in pairs.items()}),
    }  # fmt: skip


def common(before: probes.Interference, after: probes.Interference) -> np.ndarray:
    """After - before, of the pairs of different problems that both matrices have: training changes which problems teach."""
    teachers = [t for t in before.teachers if t in after.teachers]
    learners = [i for i in before.learners if i in after.learners]

    def part(matrix: probes.Interference) -> np.ndarray:
        rows = [matrix.teachers.index(t) for t in teachers]
        return matrix.delta[rows][:, [matrix.learners.index(i) for i in learners]]

    different = np.array([[t != i for i in learners] for t in teachers], bool)
    return (part(after) - part(before))[different] if teachers and learners else np.array([])


def _winners(found: Probed, recipe: str, arm: str, source: Any) -> Row:  # noqa: ANN401  a probes.Source
    """The slope, over the models, and how much right solutions gained."""
    own = {unit: probes.winners(each, source) for unit, each in found.of(recipe, arm).items()}
    return {
        "recipe": recipe, "arm": arm, "source": source,
        "slope": told({unit: each.slope for unit, each in own.items()}),
        "change": told({unit: mean(each.change) for unit, each in own.items()}),
        "fell": told({unit: mean((each.change < 0).astype(float)) for unit, each in own.items()}),
        "problems": sum(len(each.change) for each in own.values()),
    }  # fmt: skip


def _sparsity(found: Probed, recipe: str, arm: str, precision: Any) -> Row:  # noqa: ANN401  a literal
    """Share of weights that training left exactly as they were."""
    values = {u: probes.update_sparsity(t, precision, 0.0) for u, t in found.of(recipe, arm).items()}  # fmt: skip
    return {
        "recipe": recipe, "arm": arm, "precision": precision, "unchanged": over_units(values).mean,
        "least": min(values.values(), default=None), "most": max(values.values(), default=None),
    }  # fmt: skip


def _selection(record: Record, recipes: Sequence[str]) -> Iterator[Row]:
    """How much of each rollout batch counted: a selection trains on fewer groups, which is no part of the idea."""
    (family,) = record.protocol.design.families
    for recipe in recipes:
        runs = record.trial.of_arm(family, recipe, TRUTH)
        yield {
            "recipe": recipe,
            "counted_groups": mean(np.array([mean(run.journal["counted_groups"]) for run in runs])),
            "sampled": mean(np.array([float(run.journal["generated"].sum()) for run in runs])),
            "kl_coef": record.protocol.recipes[recipe].kl_coef,
        }


def _tracking(reach: Reach, matrices: Probed) -> Row:
    """Do recipes whose runs end with more interference lose more reach: correlation over all recipes of the trial, model by model."""
    others: dict[Unit, dict[str, float]] = {}
    change: dict[Unit, dict[str, float]] = {}
    for recipe in reach.trial.protocol.recipes:
        base, own = (reach.means(recipe, arm, ANSWER) for arm in (BASE, TRUTH))
        for unit, matrix in matrices.of(recipe, TRUTH).items():
            if unit in own and unit in base:
                others.setdefault(unit, {})[recipe] = probes.interference(matrix).others
                change.setdefault(unit, {})[recipe] = float(own[unit][-1] - base[unit][-1])
    found = {
        unit: correlation(list(own.values()), list(change[unit].values()))
        for unit, own in others.items()
    }
    return {"recipes": max(map(len, others.values()), default=0), **told(found)}


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's; NaN with fewer than three pairs, or where either does not vary."""
    pairs = np.array([first, second])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if pairs.shape[1] < 3 or (np.ptp(pairs, axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(pairs)[0, 1])


# Verdict.

RULE = (
    f"Rule, three parts, each by its 95 % interval over the models: learning one problem makes others' right solutions less likely, in the base or "
    f"after {name(PLAIN)}; the slope of {name(PLAIN)} on reference solutions is above nothing; {name(WHOLE)} is above {name(PLAIN)} at the most tries by answer, "
    f"and at one try the mean is no more than {points(MARGIN).lstrip('+')} points below it. Read on the base that leaves most unsolved in all tries. *Reproduced* where all three hold; *not at this scale* where {name(PLAIN)} does not "
    "gain at one try; *partly* where at least one part holds; *refuted in miniature* where none holds and one lies on the other side; else *not at this scale*."
)

Part = str


def parts(made: Tables) -> dict[Part, str]:
    """Part of the rule → ``holds``, ``reversed`` or ``open``."""
    (trial,) = made["trial"]
    found: dict[Part, str] = dict.fromkeys(("interference", "winners", "selection"), "open")
    row = find(made["interference"], recipe=PLAIN, arm=TRUTH)
    if row:
        signs = {row[f"others_{when}"]["sign"] for when in ("before", "after")}
        found["interference"] = "holds" if "below" in signs else "reversed" if signs == {"above"} else "open"  # fmt: skip
    row = find(made["winners"], recipe=PLAIN, arm=TRUTH, source="reference")
    if row:
        found["winners"] = {"above": "holds", "below": "reversed"}.get(row["slope"]["sign"], "open")
    rows = [row for row in made["versus"] if (row["recipe"], row["arm"], row["notion"]) == (WHOLE, TRUTH, ANSWER)]  # fmt: skip
    one, many = (
        next((row for row in rows if (row["k"] == trial["k"]) == last), None)
        for last in (False, True)
    )
    if one and many and one["mean"] is not None:
        if many["sign"] == "above" and one["mean"] >= -MARGIN:
            found["selection"] = "holds"
        elif many["sign"] == "below":
            found["selection"] = "reversed"
    return found


def verdict(made: Tables) -> Verdict:
    """By the rule, on one base."""
    (trial,) = made["trial"]
    found = list(parts(made).values())
    ends = [row for row in made["ends"] if (row["recipe"], row["arm"], row["notion"]) == (PLAIN, TRUTH, ANSWER)]  # fmt: skip
    if not any(row["sign"] == "above" for row in ends if row["k"] != trial["k"]):
        return "not at this scale"
    if found.count("holds") == len(found):
        return "reproduced"
    if "holds" in found:
        return "partly"
    return "refuted in miniature" if "reversed" in found else "not at this scale"


def finding(made: Tables) -> Finding:
    """The verdict by the rule; the effect is SELF minus GRPO, base by base."""
    ours, said = families(made), []
    for family in ours:
        rows = [row for row in of(made, family)["versus"] if (row["recipe"], row["arm"], row["notion"]) == (WHOLE, TRUTH, ANSWER)]  # fmt: skip
        if rows:
            at = ", ".join(f"pass@{count(row['k'])} {shown(row)}" for row in rows)
            said.append(f"{name(family)}, {name(WHOLE)} − {name(PLAIN)}: {at}")
    return Finding(verdict(of(made, ours[0])), Markdown("; ".join(said) or markup.MISSING))


# Page.


def plainly(row: Row, digits: int = 3) -> Markdown:
    """A row of `told` that is no share: mean and interval."""
    if row["mean"] is None:
        return Markdown(markup.MISSING)
    low, high = row["low"], row["high"]
    span = "no interval" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"  # fmt: skip
    return Markdown(f"{number(row['mean'], digits)} ({span})")


def page(made: Tables) -> Page:
    """Interference, winners, SELF against GRPO, base by base."""
    ours = families(made)
    trial = of(made, ours[0])["trial"][0]
    return Page(
        asked=f"Does learning one problem press down right solutions of others (interference), do the problems that the base finds likely take all, and "
        f"does SELF, which trains where the greedy answer is wrong, reach more with {count(trial['k'])} tries than GRPO at the same pass@{count(1)}?",
        found="\n\n".join([_legend(trial), *(_found(of(made, family), family) for family in ours)]),
        differs=f"The paper's models are pretrained on the web and tried up to a thousand times; ours are small and {count(trial['k'])} tries are made. Interference is measured as defined, one "
        f"on-policy step of {name(PLAIN)} in float32 from the same weights a problem. The released script of SELF has no divergence; {name(SELECTIVE)} has none, "
        f"{name(WHOLE)} has k3. A step where no group counts is counted, theirs is not. {name(trial['placebo'])} is trained by each recipe as a placebo.",
        caution=f"One training seed a model, {counted(trial['models'], 'model')}: intervals are wide. Before and after, other problems teach (those with mixed groups), so "
        f"pairs that both matrices have are compared, too. Selecting means fewer groups a step, which may itself cost pass@{count(1)}. A slope over what a policy "
        "said right is steep by selection; references are not, but their scale includes how strange the base finds their wording.",
    )  # fmt: skip


def _legend(trial: Row) -> str:
    """What the tables of all bases have."""
    return (
        f"Of each base, with 95 % intervals over {counted(trial['models'], 'model')}: what one step on a problem (gradient brought to a fixed length) does to log-probabilities of right solutions, in "
        "thousandths of a nat, shares in %; least squares of what training added to a problem's right solution on what it had under the base, nats by nats (above nothing, winners take "
        "all); SELF against GRPO, points by unit."
    )


def _found(made: Tables, family: str) -> str:
    """Everything that is told of one base."""
    found = [
        f"**{name(family)}: {verdict(made)}.**",
        _interference_table(made),
        _interference_sentence(made),
        _winners_table(made),
        _winners_sentence(made),
        _versus_table(made),
        _versus_sentence(made),
        _tracking_sentence(made),
        _sparsity_sentence(made),
    ]
    return "\n\n".join(part for part in found if part)


def _thousandths(row: Row) -> Markdown:
    scaled = {key: None if row[key] is None else 1000 * row[key] for key in ("mean", "low", "high")}
    return plainly(scaled, 2)


def _shares(row: Row) -> Markdown:
    if row["mean"] is None:
        return Markdown(markup.MISSING)
    low, high = row["low"], row["high"]
    span = "no interval" if low is None or high is None else f"{percent(low)} to {percent(high)}"
    return Markdown(f"{percent(row['mean'])} ({span})")


def _interference_table(made: Tables) -> Markdown:
    rows = []
    for row in made["interference"]:
        own = {key: row[f"{key}_after"] for key in ("others", "own", "share_negative")}
        if not rows:
            rows.append({
                "who": name(BASE), "others": _thousandths(row["others_before"]), "own": _thousandths(row["own_before"]),
                "negative": _shares(row["share_negative_before"]),
            })  # fmt: skip
        rows.append({
            "who": Markdown(f"{name(row['recipe'])}, {name(row['arm'])}"), "others": _thousandths(own["others"]),
            "own": _thousandths(own["own"]), "negative": _shares(own["share_negative"]),
            "change": _thousandths(row["others_change"]), "common": _thousandths(row["common_change"]),
        })  # fmt: skip
    heads = {
        "who": "policy", "others": "on other problems", "own": "on itself", "negative": "pairs pressed down",
        "change": "others, after − before", "common": "the same, same pairs",
    }  # fmt: skip
    return table(rows, heads)


SAID = {
    "above": "raises them",
    "below": "lowers them",
    "exactly nothing": "leaves them",
    "not told apart": "does neither that can be told",
    None: "is not known to do anything",
}


def _interference_sentence(made: Tables) -> str:
    row = find(made["interference"], recipe=PLAIN, arm=TRUTH)
    if not row:
        return ""
    before, after = (row[f"others_{when}"] for when in ("before", "after"))
    return (
        f"On average over other problems' solutions, a step on one problem {SAID[before['sign']]} in the base and {SAID[after['sign']]} after {name(PLAIN)}. "
        f"Problems that teach, on average: {number(row['teachers_before'], 1)} and {number(row['teachers_after'], 1)}; {counted(row['common_pairs'], 'pair')} are in both."
    )


def _winners_table(made: Tables) -> Markdown:
    rows = []
    for key in dict.fromkeys((row["recipe"], row["arm"]) for row in made["winners"]):
        own = {r["source"]: r for r in made["winners"] if (r["recipe"], r["arm"]) == key}
        rows.append(
            {"who": Markdown(f"{name(key[0])}, {name(key[1])}")}
            | {source: plainly(row["slope"]) for source, row in own.items()}
            | {"change": plainly(own["reference"]["change"], 2), "fell": _shares(own["reference"]["fell"])}
        )  # fmt: skip
    heads = {
        "who": "policy", "reference": "slope, references", "base": "slope, what the base said right", "policy": "slope, what the policy says right",
        "change": "references gained, nats", "fell": "references that fell, %",
    }  # fmt: skip
    return table(rows, heads)


def _winners_sentence(made: Tables) -> str:
    row = find(made["winners"], recipe=PLAIN, arm=TRUTH, source="reference")
    said = {
        "above": "winners take all",
        "below": "the unlikely catch up",
        "exactly nothing": "nothing moved",
    }
    return f"Under {name(PLAIN)}, by references, {said.get(row['slope']['sign'], 'neither winners nor losers can be told')}." if row else ""  # fmt: skip


def _versus_table(made: Tables) -> Markdown:
    rows = []
    for model, benchmarks in SELF_TABLE.items():
        for benchmark, by in benchmarks.items():
            one, many = (a - b for a, b in zip(by["self"], by["grpo"], strict=True))
            rows.append({"who": Markdown(f"{PUBLISHED}: {model}, {benchmark}"), "one": points(one), "many": points(many)})  # fmt: skip
    (trial,) = made["trial"]
    for key in dict.fromkeys((row["recipe"], row["arm"]) for row in made["versus"]):
        own = {(r["notion"], r["k"] == trial["k"]): r for r in made["versus"] if (r["recipe"], r["arm"]) == key}  # fmt: skip
        rows.append({
            "who": Markdown(f"{name(key[0])}, {name(key[1])}"), "one": shown(own.get((ANSWER, False))), "many": shown(own.get((ANSWER, True))),
            "derived": shown(own.get((DERIVATION, True))),
        })  # fmt: skip
    k = count(trial["k"])
    heads = {"who": "SELF − GRPO", "one": f"pass@{count(1)}", "many": f"pass@{k}", "derived": f"pass@{k} by derivation"}  # fmt: skip
    return table(rows, heads)


def _versus_sentence(made: Tables) -> str:
    """Against the base, and how much was selected."""
    (trial,) = made["trial"]
    said = []
    for row in made["selection"]:
        ends = [r for r in made["ends"] if (r["recipe"], r["arm"], r["notion"]) == (row["recipe"], TRUTH, ANSWER)]  # fmt: skip
        gains = ", ".join(f"pass@{count(r['k'])} {shown(r)}" for r in ends)
        said.append(
            f"{name(row['recipe'])} {gains}; {percent(row['counted_groups'])} % of groups count"
        )
    base = find(made["ends"], notion=ANSWER, k=trial["k"])
    reached = f" The base's pass@{count(trial['k'])} is {percent(base['base'])} %." if base else ""
    return f"Over the base: {'. '.join(said)}.{reached}" if said else ""


def _tracking_sentence(made: Tables) -> str:
    (row,) = made["tracking"]
    if row["mean"] is None:
        return ""
    return (
        f"Over {counted(row['recipes'], 'recipe')} of the trial, the correlation of interference after training with the change at pass@{count(made['trial'][0]['k'])} is "
        f"{plainly(row, 2)}; the paper expects it above nothing."
    )


def _sparsity_sentence(made: Tables) -> str:
    """Update sparsity in both precisions."""
    said = []
    for precision in PRECISIONS:
        own = [
            f"{name(row['recipe'])} {percent(row['unchanged'])}"
            for row in made["sparsity"]
            if (row["arm"], row["precision"]) == (TRUTH, precision)
        ]
        if own:
            said.append(f"in {precision} {', '.join(own)}")
    return f"Weights that training left exactly as they were, %: {'; '.join(said)}." if said else ""


CLAIM = Claim(
    number=8,
    title="Learning one problem costs others, and selection gives it back",
    source=SELF,
    published="SELF against GRPO at pass@1 / pass@256: "
    + "; ".join(
        f"{model} on MATH500 {points(by['self'][0] - by['grpo'][0])} / {points(by['self'][1] - by['grpo'][1])}"
        for model, by in ((model, of["MATH500"]) for model, of in SELF_TABLE.items())
    ),
    trials=TRIALS,
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
