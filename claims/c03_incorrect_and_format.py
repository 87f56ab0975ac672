"""Claim 3: format and incorrect labels gain by moving a model to its better strategy, which not paying for code takes away from one and not from the other."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from claims.c01_six_rewards import HOME
from claims.ledger import Claim, Finding, Page, Record, Records, Tables
from claims.markdown import (
    Markdown,
    count,
    counted,
    gain,
    inert,
    listed,
    name,
    points,
    share,
    table,
)
from claims.published import (
    BAD_CODE_WITHOUT_PYTHON,
    INCORRECT_LABELS_RIGHT,
    LABEL_AUDIT,
    SIX_REWARDS,
    WITHOUT_PYTHON,
    WORDS_TO_CODE,
)
from claims.two_intervals import READING, SAID, both, by_unit, minus, shown
from controlarm import markup
from controlarm.analysis.decomposition import Kitagawa, Strategies, kitagawa
from controlarm.analysis.folder import BASE, Evaluation
from controlarm.analysis.strategies import STRATEGIES, use
from controlarm.protocol import Unit

ALL, KEPT = "without_python", "majority_wrong"
"""The trial on all problems, and the one on those whose majority label is wrong."""
BAD_CODE = "bungler"
"""Made after OLMo2-7B-SFT: often code, and better words."""
PLAIN = ("format", "incorrect")
TRUTH = "ground_truth"
NOT_PAID = "no_python"
COMPOUND = {arm: f"{arm}_{NOT_PAID}" for arm in (TRUTH, *PLAIN)}
MODEL = "Qwen2.5-Math-7B on MATH-500"
OTHER = "OLMo2-7B-SFT"

Row = dict[str, Any]


def tables(records: Records) -> dict[str, Sequence[Mapping[str, Any]]]:
    """``trials``; ``gains`` by trial, family and arm; ``compounds`` (arm minus arm); ``restricted`` (trial minus trial); ``audit``."""
    found = {trial: records[trial] for trial in (ALL, KEPT)}
    gains = [row for trial, record in found.items() for row in _gains(trial, record)]
    return {
        "trials": [_trial(trial, record) for trial, record in found.items()],
        "gains": gains,
        "compounds": list(_compounds(found[ALL])),
        "restricted": list(_restricted(found)),
        "audit": [row for trial, record in found.items() for row in _audit(trial, record)],
    }


def _trial(trial: str, record: Record) -> Row:
    report = record.report
    design, end = (report["trial"]["protocol"][key] for key in ("design", "endpoint"))
    return {
        "trial": trial, "metric": end["metric"], "step": end["step"], "placebo": end["placebo"],
        "trained_on": report["flow"]["problems_training"], "problems": report["flow"]["problems_held_out"],
        "runs": report["flow"]["runs_planned"], "failed": len(report["flow"]["runs_failed"]),
        "models": len(set(design["pretraining_seeds"])), "families": design["families"],
    }  # fmt: skip


def _against(record: Record, metric: str, versus: str) -> dict[tuple[str, str], Row]:
    return {
        (row["family"], row["arm"]): row
        for row in record.report["contrasts"]
        if (row["metric"], row["versus"]) == (metric, versus)
    }


def _values(record: Record) -> dict[tuple[str, str], dict[Unit, float]]:
    """Gain over the base in every unit."""
    metric = record.protocol.endpoint.metric
    found = _against(record, metric, BASE)
    return {key: by_unit(row["units"], "difference") for key, row in found.items()}


def _by_case(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    return {(row["family"], row["arm"]): row for row in rows}


def _gains(trial: str, record: Record) -> Iterator[Row]:
    """One arm: gain, gain over placebo, the two ways to split it, and what its reward paid for."""
    placebo = _against(record, record.protocol.endpoint.metric, "placebo")
    code = _against(record, "code_share", BASE)
    split, boxes, paid = (
        _by_case(record.report[part]) for part in ("kitagawa", "format_split", "rewards")
    )
    for (family, arm), gained in _values(record).items():
        case, over = (family, arm), placebo.get((family, arm))
        lenient = _lenient_split(record, family, arm)
        strict = split[case]["units"] if case in split else []
        parts = boxes[case]["units"] if case in boxes else []
        row = {
            "gain": gained,
            "over_placebo": by_unit(over["units"], "difference") if over else {},
            "share_effect": by_unit(strict, "share_effect"),
            "accuracy_effect": by_unit(strict, "accuracy_effect"),
            "lenient_share_effect": {unit: k.share_effect for unit, k in lenient.items()},
            "lenient_accuracy_effect": {unit: k.accuracy_effect for unit, k in lenient.items()},
            "format_part": by_unit(parts, "format_part"),
            "code_share": by_unit(code[case]["units"], "difference") if case in code else {},
        }
        pays = paid.get(case, {})
        yield (
            {"trial": trial, "family": family, "arm": arm}
            | {key: both(values) for key, values in row.items()}
            | {"verdict": over["verdict"] if over else None}
            | {key: pays.get(key) for key in ("reward_code", "reward_words", "equal_groups")}
        )


def _lenient_split(record: Record, family: str, arm: str) -> dict[Unit, Kitagawa]:
    """Share and accuracy effect under the lenient grader, to which boxes are nothing: with the format part they add up to the gain."""
    (recipe,) = record.protocol.recipes
    step = record.protocol.endpoint.step
    before = record.trial.cell(family, recipe, BASE, 0)
    after = record.trial.cell(family, recipe, arm, step)
    return {
        unit: kitagawa(_lenient(before[unit]), _lenient(after[unit]))
        for unit in sorted(before.keys() & after.keys())
    }


def _lenient(evaluation: Evaluation) -> Strategies:
    code, words = (use([evaluation.sampled], each, "substring") for each in STRATEGIES)
    return Strategies(code.share, code.lenient_accuracy, words.lenient_accuracy)


def _compounds(record: Record) -> Iterator[Row]:
    """What forbidding code takes from a reward, and what the reward adds to forbidding code; unit by unit."""
    gained = _values(record)
    split = {
        case: by_unit(row["units"], "share_effect")
        for case, row in _by_case(record.report["kitagawa"]).items()
    }
    for family in record.protocol.design.families:
        for arm, compound in COMPOUND.items():
            for other in (arm, NOT_PAID):
                first, second = (family, compound), (family, other)
                if first in gained and second in gained:
                    moved = minus(split.get(first, {}), split.get(second, {}))
                    yield {
                        "family": family, "compound": compound, "minus": other,
                        "difference": both(minus(gained[first], gained[second])), "share_effect": both(moved),
                    }  # fmt: skip


def _restricted(records: Mapping[str, Record]) -> Iterator[Row]:
    """The arms of both trials: the same bases, training seeds and held-out problems, other training problems."""
    whole, kept = (_values(records[trial]) for trial in (ALL, KEPT))
    for family, arm in whole:
        if (family, arm) in kept:
            on = [both(values[family, arm]) for values in (whole, kept)]
            yield {
                "family": family, "arm": arm, "all": on[0], "kept": on[1],
                "difference": both(minus(kept[family, arm], whole[family, arm])),
                "signs": _signs(on[0]["sign"], on[1]["sign"]),
                "within_signs": _signs(on[0]["within_sign"], on[1]["within_sign"]),
            }  # fmt: skip


def _signs(first: str, second: str) -> str:
    if first == second:
        return "the same"
    return "opposite" if {first, second} == {"gains", "loses"} else "not both told apart"


def _audit(trial: str, record: Record) -> Iterator[Row]:
    """Counts over a family's models: labels, majority labels that are wrong, incorrect labels that are right."""
    for family in record.protocol.design.families:
        rows = [row for row in record.report["labels"] if row["family"] == family]
        total = {
            key: sum(row[key] for row in rows)
            for key in ("problems", "majority_right", "majority_missing", "incorrect_is_right")
        }
        wrong = total["problems"] - total["majority_right"] - total["majority_missing"]
        near = sum(row["near_misses"] for row in rows)
        yield {"trial": trial, "family": family, **total, "majority_wrong": wrong, "near_misses": near}  # fmt: skip


def _of(rows: Sequence[Row], **wanted: str) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _sign(rows: Sequence[Row], trial: str, family: str, arm: str) -> str | None:
    return next(
        (row["gain"]["sign"] for row in _of(rows, trial=trial, family=family, arm=arm)), None
    )


RULE = (
    f"Rule, by 95 % intervals over the models, on {name(HOME)}: (a) {name('format')} gains over the base, (b) {name(COMPOUND['format'])} does "
    f"not and is below it; (c) {name('incorrect')} gains in both trials, (d) {name(COMPOUND['incorrect'])} gains; "
    f"(e) on {name(BAD_CODE)} both compounds gain. Where {name(TRUTH)} gains: *reproduced*, if all holds; *partly*, if {' or '.join(map(name, PLAIN))} gains in "
    "a trial; *refuted in miniature*, if none does and one loses. Else *not at this scale*."
)


def finding(made: Tables) -> Finding:
    """The verdict by the rule, and the four gains on the family that the claim is about."""
    gains = made["gains"]
    here = {arm: _sign(gains, ALL, HOME, arm) for arm in (TRUTH, *PLAIN, *COMPOUND.values())}
    kept = {arm: _sign(gains, KEPT, HOME, arm) for arm in PLAIN}
    plain = [*(here[arm] for arm in PLAIN), *kept.values()]
    other = [_sign(gains, ALL, BAD_CODE, COMPOUND[arm]) for arm in PLAIN]
    taken = _of(made["compounds"], family=HOME, compound=COMPOUND["format"], minus="format")
    statements = (
        here["format"] == "gains",
        here[COMPOUND["format"]] not in (None, "gains") and any(row["difference"]["sign"] == "loses" for row in taken),
        here["incorrect"] == kept["incorrect"] == "gains",
        here[COMPOUND["incorrect"]] == "gains",
        all(each == "gains" for each in other),
    )  # fmt: skip
    if here[TRUTH] != "gains":
        verdict = "not at this scale"
    elif all(statements):
        verdict = "reproduced"
    elif "gains" in plain:
        verdict = "partly"
    elif "loses" in plain:
        verdict = "refuted in miniature"
    else:
        verdict = "not at this scale"
    said = (
        f"{name(arm)} {gain(*(row['gain'][key] for key in ('mean', 'low', 'high')))}"
        for plain_arm in PLAIN
        for arm in (plain_arm, COMPOUND[plain_arm])
        for row in _of(gains, trial=ALL, family=HOME, arm=arm)
    )
    return Finding(verdict, Markdown(f"{name(HOME)}, over the base: {'; '.join(said)}"))


HEADS = {"trial": "trial", "family": "family", "arm": "arm"}


def _named(row: Row) -> Row:
    return {key: name(row[key]) for key in HEADS if key in row}


def page(made: Tables) -> Page:
    """Gains, their parts, what forbidding code takes, what the choice of problems changes, and the audit."""
    whole, kept = made["trials"]
    gains = made["gains"]
    found = [
        f"{READING}; points over the base but where another is named.",
        table(
            [_named(row) | {key: shown(row[key]) for key in ("gain", "code_share")}
             | {"over": shown(row["over_placebo"], row["verdict"] or "")} for row in gains],
            HEADS | {"gain": "gain", "over": f"over {name(whole['placebo'])}, verdict", "code_share": "share of code"},
        ),
        "Share effect and accuracy effect (Kitagawa) add up to the gain; the format part, strict gain minus lenient, lies inside them, "
        "and the lenient accuracy effect has none of it:",
        table(
            [_named(row) | {key: shown(row[key]) for key in PARTS} for row in gains if row["arm"] in (TRUTH, *PLAIN, *COMPOUND.values())],
            HEADS | PARTS,
        ),
        *(_made_of(gains, family) for family in whole["families"]),
        _towards(gains, whole["placebo"]),
        "By unit, all problems:",
        table(
            [{"family": name(row["family"]), "pair": Markdown(f"{name(row['compound'])} minus {name(row['minus'])}"),
              "difference": shown(row["difference"]), "share": shown(row["share_effect"])} for row in made["compounds"]],
            {"family": "family", "pair": "arms", "difference": "gain", "share": "share effect"},
        ),
        *(_taken(made, family) for family in whole["families"]),
        "All problems against those whose majority label is wrong:",
        table(
            [_named(row) | {key: shown(row[key]) for key in ("all", "kept", "difference")} for row in made["restricted"]],
            {"family": "family", "arm": "arm", "all": "all", "kept": "majority wrong", "difference": "difference"},
        ),
        *(_restriction(made, row) for row in _of(made["restricted"], arm="incorrect")),
        "There the label is the base's own majority answer: the reward pays for agreement with itself.",
        table(
            [_named(row) | {key: count(row[key]) for key in AUDIT} for row in made["audit"]],
            {"trial": "trial", "family": "family"} | AUDIT,
        ),
        _labels(made["audit"]),
    ]  # fmt: skip
    moved = "; ".join(f"{name(arm)} {share(*pair)}" for arm, pair in WORDS_TO_CODE.items())
    bad = ", ".join(
        f"{name(arm)} {points(value)}" for arm, value in BAD_CODE_WITHOUT_PYTHON.items()
    )
    return Page(
        asked=f"How much of the gain of {listed(PLAIN)} is a shift to the better strategy, how much accuracy within it, how much boxes; what is left "
        f"without pay for code? Of the problems that {MODEL} gained, from words to code went: {moved}. {OTHER}, bad at code, gained {bad}. "
        "The paper's incorrect labels had their own problems, those whose majority label is wrong; here all arms share all, or those.",
        found="\n\n".join(text for text in found if text),
        differs=f"The incorrect label is the most frequent wrong answer, which only on majority-wrong problems is the majority label, as published. "
        f"{name(HOME)} is made after the published model, {name(BAD_CODE)} after {OTHER}. Measured is {inert(whole['metric'])} of samples on the same "
        f"{counted(whole['problems'], 'held-out problem')}, after {counted(whole['step'], 'step')}; the paper's cells sort greedy completions. "
        f"{counted(whole['runs'] + kept['runs'], 'run')}, {count(whole['failed'] + kept['failed'])} failed.",
        caution=f"Intervals over {counted(whole['models'], 'model')} are wide, those within them speak of no other; none is adjusted. "
        f"A compound also pays for words: read it beside {name(NOT_PAID)}, and one that pays seldom moves less. The trials differ in their number of problems too.",
    )  # fmt: skip


PARTS = {
    "share_effect": "share effect", "accuracy_effect": "accuracy effect", "format_part": "format part",
    "lenient_accuracy_effect": "accuracy effect, lenient",
}  # fmt: skip
AUDIT = {
    "problems": "labelled", "majority_wrong": "majority wrong", "incorrect_is_right": "incorrect but right",
    "near_misses": "near misses",
}  # fmt: skip


def _made_of(gains: Sequence[Row], family: str) -> str:
    """The gains of the plain arms in a sentence, with what their rewards paid for."""
    said = []
    for row in (row for arm in PLAIN for row in _of(gains, trial=ALL, family=family, arm=arm)):
        parts = ", ".join(
            f"{PARTS[key]} {points(row[key]['mean'])}"
            for key in ("share_effect", "accuracy_effect", "format_part")
            if row[key]["mean"] is not None
        )
        said.append(
            f"{name(row['arm'])} {points(row['gain']['mean'])} ({SAID[row['gain']['sign']]}): {parts}; paid: {_paid(row)}"
        )
    return f"**{name(family)}**, all problems: {'. '.join(said)}." if said else ""


def _taken(made: Tables, family: str) -> str:
    """What forbidding code did to each plain arm."""
    said = []
    for arm in PLAIN:
        rows = {
            row["minus"]: row
            for row in _of(made["compounds"], family=family, compound=COMPOUND[arm])
        }
        if arm in rows and NOT_PAID in rows:
            own, beside = rows[arm]["difference"], rows[NOT_PAID]["difference"]
            after = _sign(made["gains"], ALL, family, COMPOUND[arm])
            said.append(
                f"{name(arm)} {points(own['mean'])} ({SAID.get(after or '', after)} then), and {points(beside['mean'])} over {name(NOT_PAID)}"
            )
    return f"**{name(family)}**, forbidding code: {'; '.join(said)}." if said else ""


def _restriction(made: Tables, row: Row) -> str:
    """What the choice of problems does to an arm, and what its reward paid for on those whose majority label is wrong."""
    whole, kept = (
        f"{points(row[key]['mean'])} ({SAID[row[key]['sign']]})" for key in ("all", "kept")
    )
    pays = "".join(
        f", where it paid {_paid(each)}"
        for each in _of(made["gains"], trial=KEPT, family=row["family"], arm=row["arm"])
    )
    return (
        f"**{name(row['family'])}**, {name(row['arm'])}: {whole} on all, {kept} on majority-wrong problems{pays}; signs {row['signs']}."
    )  # fmt: skip


def _paid(row: Row) -> str:
    code, words = (markup.percent(row[key]) for key in ("reward_code", "reward_words"))
    return f"{code} % of code, {words} % of words"


def _towards(gains: Sequence[Row], placebo: str) -> str:
    """Whether shares move towards what is paid more, which is all that most of these rewards know."""
    known = [
        (row["reward_code"] - row["reward_words"], row["code_share"]["mean"])
        for row in gains
        if row["arm"] != placebo
        and None not in (row["reward_code"], row["reward_words"], row["code_share"]["mean"])
    ]
    if not known:
        return ""
    along = sum(paid * moved > 0 for paid, moved in known)
    return (
        f"In {share(along, len(known))} rows of the first table but the placebo's, the share of code moved towards the strategy paid more in training."
    )  # fmt: skip


def _labels(audit: Sequence[Row]) -> str:
    right = sum(row["incorrect_is_right"] for row in audit)
    return (
        f"Incorrect labels that are right: {count(right)} in both trials together; of the paper's, {markup.percent(INCORRECT_LABELS_RIGHT)} % "
        f"({LABEL_AUDIT.paper}, arXiv:{LABEL_AUDIT.arxiv})."
    )


CLAIM = Claim(
    number=3,
    title="Incorrect labels and format",
    source=WITHOUT_PYTHON,
    published=f"{MODEL} gains {' and '.join(points(SIX_REWARDS[arm]) for arm in PLAIN)} points under {listed(PLAIN)}; where code is not paid, the first gain is gone and the second stays",
    trials=(ALL, KEPT),
    rule=RULE,
    tables=tables,
    finding=finding,
    page=page,
)
