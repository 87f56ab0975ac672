"""Claim 5: whatever the algorithm, reinforcement learning solves with one try what its base solves with many, and nothing that the base cannot."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from claims.boundary_trial import (
    ANSWER,
    BEYOND,
    DERIVATION,
    NOTIONS,
    TRIALS,
    TRUTH,
    Notion,
    Probed,
    Reach,
    by_base,
    families,
    find,
    of,
    pass_of,
    probed,
    shown,
    successes,
    told,
)
from claims.ledger import Claim, Finding, Page, Record, Records, Tables, Verdict
from claims.markdown import Markdown, count, counted, listed, name, number, points, share, table
from claims.published import (
    BOUNDARY_AIME24,
    BOUNDARY_DAPO_COST,
    BOUNDARY_GAP,
    BOUNDARY_TEST,
    BOUNDARY_TRAIN,
    LIMIT_OF_RLVR,
)
from claims.two_intervals import minus
from controlarm import markup
from controlarm.analysis import bands, coverage, probes
from controlarm.analysis.boundary import Tries, mean_curve, tries
from controlarm.analysis.contamination import auroc
from controlarm.analysis.contrasts import over_units, top_units
from controlarm.analysis.folder import BASE
from controlarm.analysis.metrics import mean
from controlarm.markup import percent
from controlarm.protocol import Unit

ALGORITHMS = {
    "grpo": "GRPO",
    "ppo": "PPO",
    "remax": "ReMax",
    "rloo": "RLOO",
    "reinforce_pp": "Reinforce++",
    "dapo": "DAPO",
    "dr_grpo": "Dr. GRPO",
    "gspo": "GSPO",
}
"""Recipe → the algorithm's name; the paper has the first six."""

SOLVING = (ANSWER, DERIVATION)
"""Notions that tell of a sample, and so of a problem, whether it succeeds."""

MODELS = "Qwen2.5-7B"
ONCE, OFTEN = "pass@1", "pass@256"
"""What the paper compares."""
LARGEST = "1,024"
"""Tries at AIME24."""

Row = dict[str, Any]


# Tables.


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """By base ``trial``; by algorithm ``ends``, ``curves``, ``sets``, ``excess``, ``histograms``, ``perplexity``, ``temperature``, ``cost``; ``overlap`` across them."""
    return by_base(records, _tables)


def _tables(record: Record) -> Tables:
    reach = Reach(record.trial)
    own = [recipe for recipe in ALGORITHMS if recipe in record.protocol.recipes]
    sets = [row for recipe in own for notion in SOLVING for row in _sets(reach, recipe, notion)]
    perplexity, temperature, solutions = (
        probed(record, kind) for kind in ("perplexity", "temperature", "solutions")
    )
    return {
        "trial": [reach.facts()],
        "ends": [
            row
            for recipe in own for arm in (TRUTH, reach.placebo) for notion in NOTIONS
            for row in reach.ends(recipe, arm, notion)
        ],
        "curves": [row for recipe in own for n in NOTIONS for row in _curves(reach, recipe, n)],
        "sets": sets,
        "excess": [_excess(sets, recipe, notion) for recipe in own for notion in SOLVING],
        "overlap": [row for n in SOLVING for apart in (False, True) for row in _overlaps(reach, own, n, apart)],
        "histograms": list(_histograms(reach, own)),
        "perplexity": list(_perplexities(perplexity, own, reach.placebo)),
        "temperature": list(_temperatures(temperature, solutions, own)),
        "cost": list(_costs(reach, own)),
    }  # fmt: skip


def _curves(reach: Reach, recipe: str, notion: Notion) -> Iterator[Row]:
    """Trained - base at all k: one band a pretrained model, over its problems, and one over the models."""
    base, trained = (reach.curves(recipe, arm, notion) for arm in (BASE, TRUTH))
    both = sorted(base.keys() & trained.keys())
    bounds = (-np.inf, np.inf) if notion == BEYOND else (-1.0, 1.0)
    head = {"recipe": recipe, "notion": notion}
    for unit in both:
        band = bands.difference_band(base[unit], trained[unit], reach.ks, possible=bounds)
        means = mean_curve(base[unit]), mean_curve(trained[unit])
        yield {**head, "scope": f"p{unit.pretraining_seed}", **_band(*means, band)}
    if both:
        means = [np.stack([mean_curve(c[u]) for u in both]) for c in (base, trained)]
        over = [
            np.array([top_units(dict(zip(both, column.tolist(), strict=True))) for column in m.T])
            for m in means
        ]
        band = bands.unit_band((over[1] - over[0]).T, reach.ks)
        yield {**head, "scope": "models", **_band(over[0].mean(1), over[1].mean(1), band)}


def _band(base: np.ndarray, trained: np.ndarray, band: bands.Band) -> Row:
    crossed = bands.crossover(band)
    first, last = crossed.interval or (None, None)
    return {
        "k": band.ks.tolist(), "base": base.tolist(), "trained": trained.tolist(),
        "difference": band.estimate.tolist(), "low": band.low.tolist(), "high": band.high.tolist(),
        "outcome": crossed.outcome, "crossing": crossed.estimate, "first": first, "last": last,
    }  # fmt: skip


def _sets(reach: Reach, recipe: str, notion: Notion) -> Iterator[Row]:
    """Who solves what in all tries, by model, and how much the base makes new against itself."""
    base, trained = (reach.evaluations(recipe, arm) for arm in (BASE, TRUTH))
    for unit in sorted(base.keys() & trained.keys()):
        before, after = (successes(of[unit], notion) for of in (base, trained))
        cells = coverage.table(*(tries(of).num_right > 0 for of in (before, after)))
        found = coverage.nested(before, after)
        shares = {
            f"{which}_{end}": value
            for which, part in cells.shares().items()
            for end, value in (("low", part.low), ("high", part.high))
        }
        yield {
            "recipe": recipe, "notion": notion, "model": unit.pretraining_seed, "seed": unit.seed,
            **cells._asdict(), **shares, **coverage.support(cells)._asdict(),
            "half": found.half, "new_to_trained": found.new_to_trained, "new_to_base": found.new_to_base,
            "excess": found.excess, "excess_low": found.low, "excess_high": found.high,
        }  # fmt: skip


def _excess(sets: Sequence[Row], recipe: str, notion: Notion) -> Row:
    """New problems beyond the base's own, over the models; and the cells of all models together.

    Models share their problems, so what is summed over them has no interval of its own: shown is what all models' intervals span.
    """
    own = [row for row in sets if (row["recipe"], row["notion"]) == (recipe, notion)]
    cells = coverage.Table(*(sum(row[cell] for row in own) for cell in coverage.Table._fields))
    values = {Unit(row["model"], row["seed"]): row["excess"] for row in own}
    return {
        "recipe": recipe, "notion": notion, **told(values), **cells._asdict(), **coverage.support(cells)._asdict(),
        "new_to_trained": sum(row["new_to_trained"] for row in own), "new_to_base": sum(row["new_to_base"] for row in own),
        "trained_only_low": min((row["trained_only_low"] for row in own), default=None),
        "trained_only_high": max((row["trained_only_high"] for row in own), default=None),
    }  # fmt: skip


def difficulty(counts: Tries) -> Int[np.ndarray, " problem"]:
    """Strata of problems that the base finds about as hard: successes by powers of two, none apart."""
    return np.array([int(c).bit_length() for c in counts.num_right])


def _overlaps(reach: Reach, recipes: Sequence[str], notion: Notion, apart: bool) -> Iterator[Row]:
    """Are the algorithms' sets more alike than random ones of the same sizes and difficulty: all solved, newly solved, lost.

    Sample k of all policies is drawn with the same noise, which makes sets alike. ``apart``: base and algorithms are each given an
    equal part of the samples, their own.
    """
    base = reach.evaluations(recipes[0], BASE) if recipes else {}
    trained = {recipe: reach.evaluations(recipe, TRUTH) for recipe in recipes}
    for unit in sorted(base):
        found = {BASE: successes(base[unit], notion)}
        found |= {r: successes(of[unit], notion) for r, of in trained.items() if unit in of}
        strata = difficulty(tries(found[BASE]))
        num = found[BASE].shape[1]
        if apart:
            num //= len(found)
            found = {who: s[:, i * num : (i + 1) * num] for i, (who, s) in enumerate(found.items())}
        own = {who: tries(s).num_right > 0 for who, s in found.items()}
        solved = own.pop(BASE)
        if len(own) < 2:
            continue
        kinds = {"solved": coverage.overlap(own, np.ones_like(solved), strata)}
        for which, alike in (kinds | coverage.overlaps(solved, own, strata)).items():
            yield {
                "notion": notion, "apart": apart, "tries": num, "model": unit.pretraining_seed, "sets": which, "pool": alike.pool,
                "smallest": min(alike.sizes.values()), "largest": max(alike.sizes.values()),
                "in_every": int(_common(own, solved, which).sum()),
                "jaccard": alike.jaccard, "by_chance": alike.by_chance, "p": alike.p,
            }  # fmt: skip


def _common(own: Mapping[str, np.ndarray], solved: np.ndarray, which: str) -> np.ndarray:
    """Problems in the sets of all algorithms."""
    every, none = np.all(list(own.values()), axis=0), ~np.any(list(own.values()), axis=0)
    return {"solved": every, "newly_solved": every & ~solved, "lost": none & solved}[which]


def _histograms(reach: Reach, recipes: Sequence[str]) -> Iterator[Row]:
    """Problems by accuracy, of all models together."""
    whose = [(BASE, recipes[0], BASE)] if recipes else []
    whose += [(recipe, recipe, TRUTH) for recipe in recipes]
    for who, recipe, arm in whose:
        total = np.zeros(len(coverage.BINS), int)
        for evaluation in reach.evaluations(recipe, arm).values():
            total += coverage.accuracy_histogram(tries(successes(evaluation, ANSWER))).counts
        yield {"who": who, "bins": list(coverage.BINS), "problems": total.tolist()}


def less_surprising(trained: probes.Perplexities, base: probes.Perplexities) -> float:
    """Probability that, of two texts on a problem, the trained policy's has the lower perplexity under the base; mean over problems, a tie is one half."""
    found = []
    ids, theirs = np.array(trained.problem_ids), np.array(base.problem_ids)
    for problem in dict.fromkeys(trained.problem_ids):
        own, other = trained.base[ids == problem], base.base[theirs == problem]
        found.append(auroc(-own[~np.isnan(own)], -other[~np.isnan(other)]).value)
    return mean(np.array(found))


def _perplexities(found: Probed, recipes: Sequence[str], placebo: str) -> Iterator[Row]:
    """How surprising to the base is what policies write, against what the base writes itself."""
    itself = {unit: probes.perplexities(own, "sampled") for unit, own in found.bases.items()}
    medians = {unit: coverage.spread(own.base).median for unit, own in itself.items()}
    for recipe in recipes:
        for arm in (TRUTH, placebo):
            trained = found.of(recipe, arm)
            own = {unit: probes.perplexities(t, "sampled") for unit, t in trained.items()}
            own = {unit: each for unit, each in own.items() if unit in itself}
            spreads = [coverage.spread(each.base) for each in own.values()]
            lower = {unit: less_surprising(each, itself[unit]) - 0.5 for unit, each in own.items()}
            yield {
                "recipe": recipe, "arm": arm, "base_median": over_units(medians).mean,
                **{q: mean(np.array([getattr(s, q) for s in spreads])) for q in ("q25", "median", "q75")},
                "beyond_half": told(lower),
            }  # fmt: skip


def _temperatures(tempered: Probed, solutions: Probed, recipes: Sequence[str]) -> Iterator[Row]:
    """pass@1 and pass@n on the probes' samples: base, policy, and policy with the base's entropy."""
    for recipe in recipes:
        found = {u: probes.matched(own) for u, own in tempered.of(recipe, TRUTH).items()}
        plain = solutions.of(recipe, TRUTH)
        values: dict[str, dict[Unit, list[float]]] = {"base": {}, "plain": {}, "matched": {}}
        num = 0
        for unit, each in found.items():
            if unit not in plain:
                continue
            once = probes.rows(plain[unit], "source", "code")
            samples = probes.column(once, "samples").astype(int)
            num = int(samples[0])
            for who, column in (("base", "base_right"), ("plain", "right")):
                right = probes.column(once, column).astype(int)
                values[who][unit] = pass_of(Tries(samples, right), [1, num])
            counts = Tries(each.answers.num_samples, each.answers.num_right)
            values["matched"][unit] = pass_of(counts, [1, num])
        ends = [
            {who: {unit: pair[i] for unit, pair in of.items()} for who, of in values.items()}
            for i in (0, 1)
        ]
        yield {
            "recipe": recipe, "tries": num, "runs": len(found),
            "is_matched": sum(each.is_matched for each in found.values()),
            "temperature": mean(np.array([each.temperature for each in found.values()])),
            "entropy": mean(np.array([each.policy_entropy for each in found.values()])),
            "base_entropy": mean(np.array([each.base_entropy for each in found.values()])),
            **{f"{who}_{end}": over_units(of).mean for end, at in zip(("one", "many"), ends, strict=True) for who, of in at.items()},
            "matched_minus_base": told(minus(ends[1]["matched"], ends[1]["base"])),
            "matched_minus_plain": told(minus(ends[1]["matched"], ends[1]["plain"])),
        }  # fmt: skip


def _costs(reach: Reach, recipes: Sequence[str]) -> Iterator[Row]:
    """Completions that a run had to sample for its training."""
    (family,) = reach.trial.protocol.design.families
    sampled = {
        r: [float(run.journal["generated"].sum()) for run in reach.trial.of_arm(family, r, TRUTH)]
        for r in recipes
    }
    means = {recipe: mean(np.array(own)) for recipe, own in sampled.items()}
    for recipe in recipes:
        yield {"recipe": recipe, "sampled": means[recipe], "by_grpo": means[recipe] / means.get("grpo", np.nan)}  # fmt: skip


# Verdict.


ROOM = 0.05
"""Share of problems that the base must leave unsolved, or nothing can be said of what lies beyond it."""

RULE = (
    "Rule, by answer and again by derivation: every algorithm gains at one try (95 % intervals over the models); none gains at the most tries; none solves "
    "more new problems than the base does against itself; most pairs of algorithm and model have a crossing that the band over problems *establishes*; and "
    f"the base leaves at least {percent(ROOM, 0)} % of the problems unsolved. Read on the base that leaves most unsolved in all tries. *Reproduced* where all of that holds; *not at this scale* where an algorithm does not gain "
    "at one try by answer; *refuted in miniature* where most gain at the most tries and solve more new ones; else *partly*."
)


def read(made: Tables, notion: Notion) -> dict[str, Any]:
    """The parts of the rule by one notion: names of algorithms that gain at one and at the most tries and that have an excess, and crossings."""
    (trial,) = made["trial"]
    ends = [row for row in made["ends"] if (row["arm"], row["notion"]) == (TRUTH, notion)]
    many = {row["recipe"]: row["sign"] for row in ends if row["k"] == trial["k"]}
    one = {row["recipe"]: row["sign"] for row in ends if row["k"] != trial["k"]}
    curves = [row for row in made["curves"] if row["notion"] == notion and row["scope"] != "models"]
    excess = [row for row in made["excess"] if row["notion"] == notion]
    unsolved = excess[0]["trained_only"] + excess[0]["neither"] if excess else 0
    return {
        "recipes": list(many),
        "gain_at_one": [r for r, sign in one.items() if sign == "above"],
        "gain_at_most": [r for r, sign in many.items() if sign == "above"],
        "lose_at_most": [r for r, sign in many.items() if sign == "below"],
        "more_new": [row["recipe"] for row in excess if row["sign"] == "above"],
        "unsolved": unsolved,
        "problems": sum(excess[0][cell] for cell in coverage.Table._fields) if excess else 0,
        "curves": len(curves),
        "established": sum(row["outcome"] == "established" for row in curves),
        "by_estimate": sum(row["crossing"] is not None for row in curves),
    }  # fmt: skip


def _whole(found: Mapping[str, Any]) -> bool:
    return (
        len(found["gain_at_one"]) == len(found["recipes"])
        and not found["gain_at_most"]
        and not found["more_new"]
        and 2 * found["established"] > found["curves"]
        and found["unsolved"] >= ROOM * found["problems"]
    )


def verdict(made: Tables) -> Verdict:
    """By the rule, on one base."""
    by_answer = read(made, ANSWER)
    half = len(by_answer["recipes"]) / 2
    if not by_answer["recipes"] or len(by_answer["gain_at_one"]) < len(by_answer["recipes"]):
        return "not at this scale"
    if all(_whole(read(made, notion)) for notion in SOLVING):
        return "reproduced"
    if len(by_answer["gain_at_most"]) > half and len(by_answer["more_new"]) > half:
        return "refuted in miniature"
    return "partly"


def finding(made: Tables) -> Finding:
    """The verdict by the rule; the effect is GRPO's and the range over algorithms, base by base."""
    ours = families(made)
    said = [
        f"{name(family)}, trained − base, {_effect(own)}"
        for family in ours
        if (own := of(made, family))["ends"]
    ]
    return Finding(verdict(of(made, ours[0])), Markdown(". ".join(said) or "–"))


def _effect(made: Tables) -> str:
    rows = [row for row in made["ends"] if (row["arm"], row["notion"]) == (TRUTH, ANSWER)]
    said = []
    for k in dict.fromkeys(row["k"] for row in rows):
        at = [row for row in rows if row["k"] == k and row["mean"] is not None]
        grpo = find(at, recipe="grpo")
        if at:
            least, most = (points(f(row["mean"] for row in at)) for f in (min, max))
            said.append(
                f"pass@{count(k)}: {name('grpo')} {shown(grpo)}, the algorithms {least} to {most}"
            )
    return "; ".join(said)


# Page.


def page(made: Tables) -> Page:
    """Curves, sets and what outputs are to the base, an algorithm a row, base by base."""
    ours = families(made)
    trials = {family: of(made, family)["trial"][0] for family in ours}
    trial = trials[ours[0]]
    before, all_before = BOUNDARY_TEST["base"]
    one, most = BOUNDARY_TEST["grpo"]
    runs, unfinished, unknown = (
        sum(each[key] for each in trials.values())
        for key in ("runs", "unfinished", "without_verdict")
    )
    return Page(
        asked=f"Under GRPO {MODELS} goes from {percent(before)} to {percent(one)} % of held-out problems at {ONCE}, and from "
        f"{percent(all_before)} to {percent(most)} % at {OFTEN}. Do algorithms from one base solve the same problems, does any solve what the base cannot, "
        "and where do the curves cross?",
        found="\n\n".join([_legend(trial), *(_found(of(made, family), family) for family in ours)]),
        differs="Small models, arithmetic stories, derivations checked by a program, temperature one without a nucleus; "
        f"{name(trial['placebo'])} is a coin. The paper has one run an algorithm, no intervals, and up to {LARGEST} tries. "
        f"Of {counted(runs, 'run')} {count(unfinished)} are not finished; {counted(unknown, 'completion')} had no verdict.",
        caution=f"One training seed on each of {counted(trial['models'], 'model')}: intervals over models are wide, and *no gain* means that none was seen. None is "
        f"adjusted for the number of algorithms. Models share their problems, so sums over models are not of independent cases. {_saturation(made)}",
    )  # fmt: skip


def _legend(trial: Row) -> str:
    """What the tables of all bases have."""
    low, high = BOUNDARY_GAP
    least, most = BOUNDARY_DAPO_COST
    return (
        f"Of each base: pass in %, trained − base in points with 95 % intervals over {counted(trial['models'], 'model')}, *published* of Omni-MATH. Problems solved in "
        f"{count(trial['samples'])} tries by answer, models together; *new*: in one half of the samples and not in the other half of the base's, by the trained policy and (by the base); "
        "*trained only* with what the models' 95 % intervals (Clopper and Pearson) span; *crossing*: k at which each model's base has caught up, and what the band admits. "
        "The parts of the rule. Likeness of the algorithms' sets, by answer, against chance among problems as hard for the base. Perplexity of "
        f"outputs under the base, pass@{count(trial['probe_samples'])} at the base's entropy, and the sampling-efficiency gap: the base's pass@{count(trial['k'])} − "
        f"trained pass@{count(1)} (published {points(low)} to {points(high)}; lower is better). Published of DAPO: {least} to {most} times the samples."
    )


def _found(made: Tables, family: str) -> str:
    """Everything that is told of one base."""
    parts = [
        f"**{name(family)}: {verdict(made)}.**",
        _ends_table(made),
        _ends_sentence(made),
        _sets_table(made),
        _rule_table(made),
        _overlap_table(made),
        _histogram_sentence(made),
        _outputs_table(made),
        _outputs_sentence(made),
    ]
    return "\n\n".join(part for part in parts if part)


def _recipes(made: Tables) -> list[str]:
    return list(dict.fromkeys(row["recipe"] for row in made["ends"]))


def share_of(row: Row | None, key: str) -> Markdown | None:
    """A share of a row in per cent."""
    return Markdown(percent(row[key])) if row else None


def _ends_table(made: Tables) -> Markdown:
    (trial,) = made["trial"]
    rows = []
    for recipe in _recipes(made):
        paper = BOUNDARY_TEST.get(recipe)
        at = {(r["notion"], r["k"] == trial["k"], r["arm"]): r for r in made["ends"] if r["recipe"] == recipe}  # fmt: skip
        one, most, derived, beyond = (
            at.get(key) for key in ((ANSWER, False, TRUTH), (ANSWER, True, TRUTH), (DERIVATION, True, TRUTH), (BEYOND, True, TRUTH))
        )  # fmt: skip
        rows.append({
            "recipe": name(recipe),
            "published": Markdown(f"{percent(paper[0])} / {percent(paper[1])}") if paper else None,
            "one": share_of(one, "value"), "one_gain": shown(one),
            "most": share_of(most, "value"), "most_gain": shown(most),
            "derived": shown(derived), "beyond": shown(beyond), "placebo": shown(at.get((ANSWER, True, trial["placebo"]))),
        })  # fmt: skip
    base = [find(made["ends"], notion=ANSWER, k=k) for k in dict.fromkeys(r["k"] for r in made["ends"])]  # fmt: skip
    if len(base) == 2 and all(base):
        paper = BOUNDARY_TEST["base"]
        first = {
            "recipe": name(BASE),
            "published": Markdown(f"{percent(paper[0])} / {percent(paper[1])}"),
        }
        rows.insert(0, first | {key: share_of(row, "base") for key, row in zip(("one", "most"), base, strict=True) if row})  # fmt: skip
    k = count(trial["k"])
    heads = {
        "recipe": "algorithm", "published": f"published, {ONCE} / {OFTEN}", "one": f"pass@{count(1)}", "one_gain": "− base", "most": f"pass@{k}",
        "most_gain": "− base", "derived": f"pass@{k} by derivation, − base", "beyond": f"pass@{k} beyond guessing, − base",
        "placebo": f"pass@{k} under {name(trial['placebo'])}, − base",
    }  # fmt: skip
    return table(rows, heads)


def _ends_sentence(made: Tables) -> str:
    (trial,) = made["trial"]
    found = read(made, ANSWER)
    bases = {n: find(made["ends"], notion=n, k=trial["k"]) for n in NOTIONS}
    reached = ", ".join(f"{percent(row['base'])} ({n})" for n, row in bases.items() if row)
    return (
        f"At pass@{count(1)} {count(len(found['gain_at_one']))} of {counted(len(found['recipes']), 'algorithm')} gain. At pass@{count(trial['k'])} the base reaches, in %, "
        f"{reached}; guessing alone {percent(trial['guess'])}. There gain {listed(found['gain_at_most'])} and lose {listed(found['lose_at_most'])}."
    )


def _crossings(made: Tables, recipe: str) -> Markdown:
    """One word a model."""
    cells = []
    for row in made["curves"]:
        if (row["recipe"], row["notion"]) != (recipe, ANSWER) or row["scope"] == "models":
            continue
        at = "none" if row["crossing"] is None else count(row["crossing"])
        span = "" if row["first"] is None else f" ({count(row['first'])} to {count(row['last'])})"
        mark = {"established": ", *established*", "none": ", *excluded*"}.get(row["outcome"], "")
        cells.append(f"{at}{span}{mark}")
    return Markdown("; ".join(cells) or markup.MISSING)


def _sets_table(made: Tables) -> Markdown:
    rows = []
    for row in made["excess"]:
        if row["notion"] != ANSWER:
            continue
        rows.append({
            "recipe": name(row["recipe"]), "both": row["both"], "base": row["base_only"], "neither": row["neither"],
            "trained": Markdown(f"{count(row['trained_only'])} ({percent(row['trained_only_low'])} to {percent(row['trained_only_high'])} %)"),
            "new": Markdown(f"{number(row['new_to_trained'], 1)} ({number(row['new_to_base'], 1)})"),
            "support": Markdown(" / ".join(number(row[key], 3) for key in ("srr", "ndr", "sds", "nscr"))),
            "crossing": _crossings(made, row["recipe"]),
        })  # fmt: skip
    both, base, trained, neither = BOUNDARY_AIME24
    first = {
        "recipe": "published, AIME24",
        "both": both,
        "base": base,
        "trained": trained,
        "neither": neither,
    }
    heads = {
        "recipe": "algorithm", "both": "both", "base": "base only", "trained": "trained only", "neither": "neither",
        "new": "new", "support": "SRR / NDR / SDS / NSCR", "crossing": "crossing",
    }  # fmt: skip
    return table([first, *rows], heads)


def _rule_table(made: Tables) -> Markdown:
    """The parts of the rule, by notion."""
    rows = []
    for notion in SOLVING:
        found = read(made, notion)
        own = [row for row in made["excess"] if row["notion"] == notion]
        new, itself = (sum(row[key] for row in own) for key in ("new_to_trained", "new_to_base"))
        rows.append({
            "notion": notion, "one": Markdown(f"{count(len(found['gain_at_one']))} of {count(len(found['recipes']))}"),
            "most": listed(found["gain_at_most"]), "lose": listed(found["lose_at_most"]),
            "alone": sum(row["trained_only"] for row in own), "new": Markdown(f"{number(new, 1)} ({number(itself, 1)})"),
            "more": listed(found["more_new"]), "unsolved": share(found["unsolved"], found["problems"]),
            "crossings": Markdown(f"{count(found['established'])}, {count(found['by_estimate'])} of {count(found['curves'])}"),
        })  # fmt: skip
    heads = {
        "notion": "success by", "one": "gain at one try", "most": "gain at the most", "lose": "lose there", "alone": "solved by trained alone, sum",
        "new": "new, sum", "more": "more new than the base's own", "crossings": "crossings established, seen", "unsolved": "base leaves unsolved",
    }  # fmt: skip
    return table(rows, heads)


SETS = {"solved": "solved", "newly_solved": "newly solved", "lost": "lost"}


def _overlap_table(made: Tables) -> Markdown:
    """Likeness of the sets, mean over the models that have any."""
    rows = []
    for apart in (False, True):
        for which, words in SETS.items():
            own = [r for r in made["overlap"] if (r["notion"], r["apart"], r["sets"]) == (ANSWER, apart, which)]  # fmt: skip
            some = [row for row in own if row["jaccard"] is not None]
            if not own:
                continue
            row = {"sets": f"{words}, {'own samples' if apart else 'common noise'}", "tries": own[0]["tries"], "models": len(some)}  # fmt: skip
            if some:
                smallest, largest = min(r["smallest"] for r in some), max(r["largest"] for r in some)  # fmt: skip
                row |= {
                    "sizes": Markdown(f"{count(smallest)} to {count(largest)}"),
                    **{key: Markdown(number(mean(np.array([r[key] for r in some])))) for key in ("jaccard", "by_chance")},
                    "p": Markdown(number(max(r["p"] for r in some), 4)),
                }  # fmt: skip
            rows.append(row)
    heads = {
        "sets": "sets", "tries": "tries", "sizes": "sizes", "jaccard": "mean Jaccard index of pairs", "by_chance": "by chance",
        "p": "largest p", "models": "models that have pairs",
    }  # fmt: skip
    return table(rows, heads)


def _histogram_sentence(made: Tables) -> str:
    """Where accuracy piles up: at nothing and at all."""
    rows = [find(made["histograms"], who=who) for who in (BASE, "grpo")]
    if not all(rows):
        return ""
    said = [f"{count(row['problems'][i])}" for i in (0, -1) for row in rows if row]
    return f"Problems that no sample solves: {said[0]}, under GRPO {said[1]}; that all samples solve: {said[2]}, {said[3]}."


def _outputs_table(made: Tables) -> Markdown:
    rows = []
    for recipe in _recipes(made):
        perplexity = find(made["perplexity"], recipe=recipe, arm=TRUTH)
        hot, cost = find(made["temperature"], recipe=recipe), find(made["cost"], recipe=recipe)
        gap = _gap(made, recipe)
        row: Row = {"recipe": name(recipe), "gap": points(gap.value) if gap else None}
        if perplexity:
            lower = perplexity["beyond_half"]["mean"]
            row |= {
                "ppl": Markdown(f"{number(perplexity['median'], 3)} ({number(perplexity['base_median'], 3)})"),
                "lower": None if lower is None else Markdown(percent(lower + 0.5)),
            }  # fmt: skip
        if hot:
            three = (percent(hot[f"{who}_many"]) for who in ("base", "plain", "matched"))
            row |= {
                "temperature": Markdown(f"{number(hot['temperature'])} ({hot['is_matched']} of {hot['runs']})"),
                "many": Markdown(" / ".join(three)), "minus": shown(hot["matched_minus_base"]),
            }  # fmt: skip
        rows.append(row | {"cost": Markdown(number(cost["by_grpo"])) if cost else None})
    probe = made["trial"][0]["probe_samples"]
    heads = {
        "recipe": "algorithm", "gap": "sampling-efficiency gap", "ppl": "median perplexity (base's own)", "lower": "less surprising than the base's own, %",
        "temperature": "temperature (matched)", "many": f"pass@{count(probe)}: base / trained / matched, %", "minus": "matched − base", "cost": "samples, by GRPO's",
    }  # fmt: skip
    return table(rows, heads)


def _gap(made: Tables, recipe: str) -> coverage.SamplingGap | None:
    rows = [row for row in made["ends"] if (row["recipe"], row["arm"], row["notion"]) == (recipe, TRUTH, ANSWER)]  # fmt: skip
    if len(rows) != 2 or rows[1]["base"] is None or rows[0]["value"] is None:
        return None
    return coverage.SamplingGap(rows[1]["base"], rows[0]["value"], rows[1]["k"])


def _outputs_sentence(made: Tables) -> str:
    """What entropy gives back."""
    rows = [row for row in made["temperature"] if row["matched_minus_base"]["sign"] is not None]
    signs = [row["matched_minus_base"]["sign"] for row in rows]
    if not rows:
        return ""
    return (
        f"With the base's entropy {count(signs.count('below'))} of {counted(len(signs), 'algorithm')} are below it at pass@{count(rows[0]['tries'])}, "
        f"{count(signs.count('above'))} above."
    )


def _saturation(made: Tables) -> str:
    """How much room there is at all."""
    said = []
    for family in families(made):
        found = {notion: read(of(made, family), notion) for notion in SOLVING}
        left = " and ".join(
            f"{share(of_['unsolved'], of_['problems'])} by {notion}"
            for notion, of_ in found.items()
        )
        said.append(f"{name(family)} leaves {left} unsolved")
    return f"{'; '.join(said)}: only there could a boundary move outwards."


CLAIM = Claim(
    number=5,
    title="The boundary stays where the base had it",
    source=LIMIT_OF_RLVR,
    published=f"On its training problems {MODELS} goes from {percent(BOUNDARY_TRAIN['base'][0])} to {percent(BOUNDARY_TRAIN['grpo'][0])} % at {ONCE} and from "
    f"{percent(BOUNDARY_TRAIN['base'][1])} to {percent(BOUNDARY_TRAIN['grpo'][1])} % at {OFTEN} under GRPO",
    trials=TRIALS,
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
