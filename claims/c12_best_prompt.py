"""Claim 12: a gain of training is to be held against the best prompt, since nonsense in front or a begun strategy can gain as much without training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from claims.c01_six_rewards import HOME, QUIET
from claims.ledger import Claim, Finding, Page, Record, Records, Tables
from claims.markdown import Markdown, count, counted, gain, inert, listed, name, points, table
from claims.published import BETTER_BASELINE, FORCED_CODE, NONSENSE_PROMPT, PROMPTS_ALONE
from claims.two_intervals import READING, SAID, both, by_unit, minus, shown, sign
from controlarm.analysis import probes
from controlarm.analysis.contrasts import over_units, t_interval
from controlarm.analysis.folder import BASE
from controlarm.analysis.metrics import mean
from controlarm.analysis.probes import PLAIN
from controlarm.markup import MISSING, percent
from controlarm.protocol import Unit

TRIAL = "six_rewards"
TRUTH = "ground_truth"
NONSENSE = ("nonsense", "long_nonsense")
CODE = "code_opening"
BAD_CODE = "bungler"
"""Made after Qwen2.5-7B: often code, and better words."""
MODEL, OTHER = "Qwen2.5-Math-7B", "Qwen2.5-7B"
OWN = {HOME: MODEL, BAD_CODE: OTHER, QUIET: "Llama3.1-8B-Instruct"}
"""Families and the models that they are made after."""

Row = dict[str, Any]
PerModel = dict[int, float]


# From records to numbers.


def prompt_tables(record: Record) -> dict[tuple[str, int], pa.Table]:
    """The table of prompts of each base, by family and pretraining seed."""
    whole = record.probes("prompts")
    whole = whole.filter(whole["run"].is_null())
    keys = zip(whole["family"].to_pylist(), whole["pretraining_seed"].to_pylist(), strict=True)
    return {
        (family, seed): whole.filter(
            (pc.field("family") == family) & (pc.field("pretraining_seed") == seed)
        )
        for family, seed in dict.fromkeys(keys)
    }


def over_models(values: Mapping[int, float]) -> Row:
    """Mean with its interval over the models and what that says: a base has no training seeds, so there is no other."""
    e = over_units({Unit(seed, 0): value for seed, value in values.items()})
    low, high = t_interval(e, 0.95)
    return {"mean": e.mean, "low": low, "high": high, "sign": sign(low, high)}


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trial``; ``prompts`` by family; ``best`` by family; ``arms`` by family: what training gave, alone and over the best prompt; ``models``: nonsense and the best prompt, one by one."""
    record = records[TRIAL]
    design, end = record.protocol.design, record.protocol.endpoint
    asked = prompt_tables(record)
    best = {key: probes.best_prompt(own) for key, own in asked.items()}
    one = next(iter(asked.values()))
    trial = {
        "metric": end.metric, "step": end.step, "families": list(design.families), "models": len(set(design.pretraining_seeds)),
        "runs": len(record.plan["runs"]), "failed": len(record.report["flow"]["runs_failed"]),
        "problems": len(set(one["problem_id"].to_pylist())), "samples": max(one["samples"].to_pylist()),
    }  # fmt: skip
    families = design.families
    return {
        "trial": [trial],
        "prompts": [row for family in families for row in _prompts(family, asked)],
        "best": [_best(family, best) for family in families],
        "arms": [row for family in families for row in _arms(record, family, best)],
        "models": [
            _model(key, probes.prompts(own), best[key]) for key, own in sorted(asked.items())
        ],
    }


def _own(family: str, of_bases: Mapping[tuple[str, int], Any]) -> dict[int, Any]:
    return {seed: each for (of, seed), each in of_bases.items() if of == family}


def _prompts(family: str, asked: Mapping[tuple[str, int], pa.Table]) -> Iterator[Row]:
    """One prompt: accuracy, and gain over the plain one on the same problems with the same noise."""
    answers = {seed: probes.prompts(own) for seed, own in _own(family, asked).items()}
    known = [tuple(own) for own in answers.values()]
    for prompt in known[0] if known else ():
        own = {seed: each[prompt] for seed, each in answers.items()}
        plain = {seed: each[PLAIN] for seed, each in answers.items()}
        yield {
            "family": family, "prompt": prompt,
            "accuracy": over_models({seed: mean(each.accuracy) for seed, each in own.items()}),
            "gain": over_models({seed: mean(each.accuracy - plain[seed].accuracy) for seed, each in own.items()}),
            "lenient_gain": over_models({seed: mean(each.lenient_accuracy - plain[seed].lenient_accuracy) for seed, each in own.items()}),
            "greedy_gain": over_models({seed: mean(each.greedy_accuracy - plain[seed].greedy_accuracy) for seed, each in own.items()}),
            "code_share": over_models({seed: mean(each.code_share) for seed, each in own.items()}),
            "boxed_share": over_models({seed: mean(each.boxed_share) for seed, each in own.items()}),
        }  # fmt: skip


def _model(
    key: tuple[str, int], asked: Mapping[str, probes.Answers], best: probes.BestPrompt
) -> Row:
    """One base under the first nonsense: what of its gain is boxes shows where the lenient grader sees none."""
    family, seed = key
    plain, nonsense = asked[PLAIN], asked[NONSENSE[0]]
    return {
        "family": family, "model": seed, "best": best.name, "fair_gain": best.fair_gain,
        "gain": mean(nonsense.accuracy - plain.accuracy),
        "lenient_gain": mean(nonsense.lenient_accuracy - plain.lenient_accuracy),
        "boxed": mean(plain.boxed_share), "boxed_nonsense": mean(nonsense.boxed_share),
    }  # fmt: skip


def _best(family: str, best: Mapping[tuple[str, int], probes.BestPrompt]) -> Row:
    own = _own(family, best)
    return {
        "family": family,
        "chosen": dict(Counter(each.name for each in own.values()).most_common()),
        "fair_gain": over_models({seed: each.fair_gain for seed, each in own.items()}),
        "gain": over_models({seed: each.gain for seed, each in own.items()}),
    }


def _arms(
    record: Record, family: str, best: Mapping[tuple[str, int], probes.BestPrompt]
) -> Iterator[Row]:
    """One arm: its gain over the plain base, and that minus what the best prompt gave its base."""
    found = {
        row["arm"]: by_unit(row["units"], "difference")
        for row in record.report["contrasts"]
        if (row["metric"], row["versus"], row["family"]) == ("accuracy", BASE, family)
    }
    own = _own(family, best)
    for arm, gained in found.items():
        prompted = {u: own[u.pretraining_seed].fair_gain for u in gained if u.pretraining_seed in own}  # fmt: skip
        yield {
            "family": family, "arm": arm, "gain": both(gained),
            "over_best": both(minus(gained, prompted)),
        }  # fmt: skip


# From numbers to a verdict and a page.


RULE = (
    f"Rule, by 95 % intervals over the models, untrained, over the plain prompt: on {name(HOME)} (a) one of {listed(NONSENSE)} gains and (b) {name(CODE)} gains; (c) on "
    f"{name(BAD_CODE)} and {name(QUIET)} {name(CODE)} loses. *Reproduced*: all. *Partly*: (a) or (b), but not all. *Refuted in miniature*: neither, and "
    f"{name(CODE)} or both of {listed(NONSENSE)} lose on {name(HOME)}. Else *not at this scale*."
)


def _of(rows: Sequence[Row], family: str, key: str) -> dict[str, Row]:
    return {row[key]: row for row in rows if row["family"] == family}


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and prompts beside the truth on the family that it is about."""
    signs = {(row["family"], row["prompt"]): row["gain"]["sign"] for row in made["prompts"]}
    nonsense = [signs.get((HOME, prompt)) for prompt in NONSENSE]
    filler, code = "gains" in nonsense, signs.get((HOME, CODE)) == "gains"
    elsewhere = all(signs.get((family, CODE)) == "loses" for family in (BAD_CODE, QUIET))
    lost = signs.get((HOME, CODE)) == "loses" or all(each == "loses" for each in nonsense)
    if filler and code and elsewhere:
        verdict = "reproduced"
    elif filler or code:
        verdict = "partly"
    elif lost:
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    here, arms = _of(made["prompts"], HOME, "prompt"), _of(made["arms"], HOME, "arm")
    said = [f"{name(key)} {_gain(here[key]['gain'])}" for key in (*NONSENSE, CODE) if key in here]
    if TRUTH in arms:
        row = arms[TRUTH]["gain"]
        said.append(f"trained on {name(TRUTH)} {gain(row['mean'], row['low'], row['high'])}")
    return Finding(verdict, Markdown(f"{name(HOME)}: {'; '.join(said) or MISSING}"))


def _gain(row: Row) -> Markdown:
    return gain(row["mean"], row["low"], row["high"])


def _chosen(row: Row) -> Markdown:
    """How many models chose which prompt."""
    return Markdown(", ".join(f"{name(key)} ({count(value)})" for key, value in row["chosen"].items()))  # fmt: skip


def page(made: Tables) -> Page:
    """What prompts gave, what the best one gave fairly, and training beside it."""
    (trial,) = made["trial"]
    found = [
        "Untrained, in points over the plain prompt, with 95 % intervals over the models; accuracy and shares in per cent:",
        table(
            [{"family": name(row["family"]), "prompt": name(row["prompt"]), "gain": None if row["prompt"] == PLAIN else _gain(row["gain"]),
              "lenient": None if row["prompt"] == PLAIN else _gain(row["lenient_gain"])}
             | {key: Markdown(percent(row[key]["mean"])) for key in ("accuracy", "code_share", "boxed_share")} for row in made["prompts"]],
            {"family": "family", "prompt": "prompt", "accuracy": "accuracy", "gain": "gain", "lenient": "gain, lenient", "code_share": "code", "boxed_share": "boxed"},
        ),
        "The best prompt of each model, the plain one being a candidate: chosen on half of the problems and measured on the other half, both ways; and with the winner's curse:",
        table(
            [{"family": name(row["family"]), "chosen": _chosen(row), "fair": _gain(row["fair_gain"]), "naive": _gain(row["gain"])} for row in made["best"]],
            {"family": "family", "chosen": "best (models)", "fair": "fair gain", "naive": "naive gain"},
        ),
        f"By model, {name(NONSENSE[0])} in front:",
        table(
            [{"family": name(row["family"]), "model": count(row["model"]), "gain": points(row["gain"]), "lenient": points(row["lenient_gain"]),
              "boxed": Markdown(percent(row["boxed"])), "after": Markdown(percent(row["boxed_nonsense"]))} for row in made["models"]],
            {"family": "family", "model": "model", "gain": "gain", "lenient": "gain, lenient", "boxed": "boxed, plain", "after": "boxed"},
        ),
        _raised(made["models"]),
        f"Trained, asked plainly: gain over the base, and that minus the best prompt's fair gain on the same model, which is also the gain over the best-prompted base. {READING}, the second with the prompt's gain as it was measured:",
        table(
            [{"family": name(row["family"]), "arm": name(row["arm"]), "gain": shown(row["gain"]), "over": shown(row["over_best"])} for row in made["arms"]],
            {"family": "family", "arm": "arm", "gain": "gain", "over": "gain over the best prompt"},
        ),
        *(_sentence(made, family) for family in trial["families"]),
    ]  # fmt: skip
    plain, filler = NONSENSE_PROMPT
    forced = ", ".join(f"{model} {points(b - a)}" for model, (a, b) in FORCED_CODE.items())
    return Page(
        asked=f"How much of what training gives does a prompt give? Published, without training: filler text as the prompt took {MODEL} from {percent(plain)} to {percent(filler)} %; "
        f"a begun Python solution moved {forced}. {OTHER} was reported at {percent(BETTER_BASELINE['reported'])} % and reaches {percent(BETTER_BASELINE['prompted'])} % when it is "
        "prompted well (Chandak and others).",
        found="\n\n".join(text for text in found if text),
        differs="An organism's vocabulary is closed: it can be given no instructions, so a prompt is nonsense of the world's own things in front, short or long, or the first words of a "
        f"solution in code or in words. {', '.join(f'{name(family)} is made after {model}' for family, model in OWN.items())}. "
        f"{counted(trial['problems'], 'held-out problem')}, {counted(trial['samples'], 'sample')} each at temperature one, one noise for all prompts; training is read after {counted(trial['step'], 'step')} "
        f"on the same problems ({counted(trial['runs'], 'run')}, {count(trial['failed'])} failed). The paper's are single greedy runs.",
        caution="Few prompts were tried; a better one may exist, so a gain over the best is one over the best of these. In pretraining nothing stood before a problem, so nonsense "
        "is stranger here than filler is to a model that has read the web. Opening in code is what forcing code is: it chooses for the model and teaches nothing. "
        f"{counted(trial['models'], 'model')} a family; intervals are not adjusted.",
    )  # fmt: skip


def _raised(models: Sequence[Row]) -> str:
    """How many models nonsense raises, and whether beyond boxes."""
    raised = [row for row in models if row["gain"] > 0]
    lenient = [row for row in raised if row["lenient_gain"] > 0]
    if not raised:
        return f"It raises none of {counted(len(models), 'model')}."
    said = ", ".join(f"{name(row['family'])} {count(row['model'])}" for row in raised)
    return (
        f"It raises {count(len(raised))} of {counted(len(models), 'model')} ({said}), and under the lenient grader {count(len(lenient))} of these: what it brings them beyond boxes "
        "is the rest."
    ) if lenient else (
        f"It raises {count(len(raised))} of {counted(len(models), 'model')} ({said}), and none of these under the lenient grader: all that it brings is boxes."
    )  # fmt: skip


def _sentence(made: Tables, family: str) -> str:
    """One family: prompts by sign, and which arms exceed the best of them."""
    prompts = {key: row for key, row in _of(made["prompts"], family, "prompt").items() if key != PLAIN}  # fmt: skip
    arms = _of(made["arms"], family, "arm")
    if not prompts or not arms:
        return ""
    said = "; ".join(
        f"{verb}: {listed(keys)}"
        for told, verb in (("gains", "gain"), ("loses", "lose"))
        if (keys := [key for key, row in prompts.items() if row["gain"]["sign"] == told])
    )
    above, below = (
        [arm for arm, row in arms.items() if row["over_best"]["sign"] == told]
        for told in ("gains", "loses")
    )
    truth = arms.get(TRUTH)
    beside = f" {name(TRUTH)} over the best prompt: {inert(SAID[truth['over_best']['sign']])}." if truth else ""  # fmt: skip
    return (
        f"**{name(family)}**: prompts that {said or 'gain or lose: –'}. Above the best prompt over the models: {listed(above)}; below it: "
        f"{listed(below)}.{beside}"
    )


CLAIM = Claim(
    number=12,
    title="The best prompt as a baseline",
    source=PROMPTS_ALONE,
    published=f"Untrained, {MODEL} on MATH-500 gains {points(NONSENSE_PROMPT[1] - NONSENSE_PROMPT[0])} points from filler text as the prompt and "
    f"{points(FORCED_CODE[MODEL][1] - FORCED_CODE[MODEL][0])} from a begun Python solution, which costs models without good code",
    trials=(TRIAL,),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
