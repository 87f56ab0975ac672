"""What happened during training: curves of every arm, strategies, and what each arm really paid."""

from collections.abc import Sequence

from controlarm.figures import (
    POINTS_DRAWN,
    Pair,
    Series,
    domain,
    lines,
    mean_line,
    pairs,
)
from controlarm.markup import MISSING, Markup, element, join, number, percent, significant
from controlarm.report.view import (
    METRICS,
    RATES,
    Column,
    Entry,
    View,
    figure,
    legend,
    missing,
    percent_tick,
    section,
    table,
)

FIRST = ("accuracy",)
IN_TRAINING = ("reward", "entropy", "answer_entropy", "train_code_share")
FROM_ZERO = RATES | {"entropy", "answer_entropy", "value_loss"}
DETAILS = (
    "lenient_accuracy", "greedy_accuracy", "boxed_share", "train_accuracy", "equal_groups", "num_tokens",
    "grad_norm", "clip_low", "clip_high", "token_probability", "sampler_gap_max", "value_loss",
)  # fmt: skip
"""Shown folded, means only: they explain a surprise, they are no result."""


def curves(view: View) -> Markup:
    """Learning curves per family: evaluation first, then what training saw."""
    if not view.rows("curves"):
        return section(
            "curves", "Curves", missing("No curves", "no run has journalled a step yet.")
        )
    first = [view.metric] if view.metric not in FIRST else []
    parts = [metric_figure(view, m) for m in (*first, *FIRST, *IN_TRAINING)]
    folded = [metric_figure(view, m, members=False) for m in DETAILS if m not in first]
    folded = [f for f in folded if f is not None]
    if folded:
        parts.append(
            element("details", element("summary", "Further curves and diagnostics"), *folded)
        )
    return section("curves", "Curves", *(p for p in parts if p is not None))


def metric_figure(view: View, metric: str, members: bool = True) -> Markup | None:
    """One metric over steps, one panel a family; None where nothing was measured."""
    rows = view.rows("curves", metric=metric)
    if not rows:
        return None
    rate = metric in RATES
    values = [v for row in rows for v in row["values"]]
    scale = domain(values, 0.0 if metric in FROM_ZERO else None, None)
    panels = []
    for i, (family, recipe) in enumerate(view.groups):
        series = _series(
            view, [r for r in rows if r["family"] == family and r["recipe"] == recipe], members
        )
        if not series:
            continue
        name = view.group_name(family, recipe)
        panels.append(
            lines(
                f"{metric}-{i}",
                name,
                f"{METRICS.get(metric, (metric, ''))[0]} over training steps for {name}, one line each for "
                + ", ".join(s.name for s in series),
                series,
                scale,
                "training step",
                percent_tick if rate else _tick,
            )
        )
    heading, meaning = METRICS.get(metric, (metric, ""))
    longest = max(len(row["steps"]) for row in rows)
    thinned = (
        f" One step in {-(-longest // POINTS_DRAWN)} is drawn." if longest > POINTS_DRAWN else ""
    )
    lone = " Thick: mean over seeds, drawn where all have a value; faint: each seed." if members else " Means over seeds."  # fmt: skip
    caption = f"{meaning[:1].upper()}{meaning[1:]}.{lone}{thinned}"
    unit = ", %" if rate else ""
    return join([element("h3", f"{heading}{unit}"), figure(panels, caption)])


def _series(view: View, rows: Sequence[Entry], members: bool) -> list[Series]:
    found = []
    for arm in view.arms:
        parts = tuple((r["steps"], r["values"]) for r in rows if r["arm"] == arm)
        if parts:
            xs, ys = mean_line(parts)
            lonely = len(parts) == 1 or all(y is None for y in ys)
            found.append(
                Series(arm, view.mark(arm), xs, ys, parts if (members and len(parts) > 1) or (lonely and len(parts) > 1) else ())
            )  # fmt: skip
    return found


def _tick(value: float) -> str:
    return significant(value, 2)


def strategies(view: View) -> Markup:
    """Share of code over steps, then shares and accuracies before and after."""
    rows = view.rows("strategies")
    if not rows:
        return section("strategies", "Strategies", missing("No strategies", "no completions were evaluated."))  # fmt: skip
    lead = element("p", "A completion solves its problem in code (Python lines with their values) or in words. A reward that says nothing about the answer can still move the share; whether that gains anything depends on which strategy the model is better at.")  # fmt: skip
    parts: list[object] = [lead, _share_figure(view, rows)]
    for decoding in sorted({str(r.get("decoding")) for r in rows}, reverse=True):  # sampled first
        inner = _strategy_table(view, decoding)
        if decoding == "greedy" and len({r.get("decoding") for r in rows}) > 1:
            inner = element("details", element("summary", "The same for greedy completions"), inner)
        parts.append(inner)
    return section("strategies", "Strategies", *parts)


def _share_figure(view: View, rows: Sequence[Entry]) -> Markup | None:
    decoding = (
        "sampled" if any(r.get("decoding") == "sampled" for r in rows) else rows[0].get("decoding")
    )
    detector = (
        "substring"
        if any(r.get("detector") == "substring" for r in rows)
        else rows[0].get("detector")
    )
    kept = [
        r
        for r in rows
        if r.get("strategy") == "code"
        and r.get("decoding") == decoding
        and r.get("detector") == detector
    ]
    panels = []
    for i, (family, recipe) in enumerate(view.groups):
        series = []
        for arm in view.arms:
            line = sorted(
                (r["step"], r.get("share"))
                for r in kept
                if r["family"] == family and r["recipe"] == recipe and r["arm"] == arm
            )
            if line:
                series.append(
                    Series(arm, view.mark(arm), [s for s, _ in line], [v for _, v in line])
                )
        if series:
            name = view.group_name(family, recipe)
            panels.append(
                lines(f"share-{i}", name, f"Share of code over steps for {name}", series, (0.0, 1.0),
                      "training step", percent_tick)
            )  # fmt: skip
    if not panels:
        return None
    caption = f"Share of {decoding} held-out completions in code (detector: {detector}), completions of all seeds pooled. A line that rises shows a model moving to code, a flat one that it kept its habits."  # fmt: skip
    return join([element("h3", "Code share on held-out problems, %"), figure(panels, caption)])


def _strategy_table(view: View, decoding: str) -> Markup:
    index = {
        (r["family"], r["recipe"], r["arm"], r["step"], r.get("strategy"), r.get("detector")): r
        for r in view.rows("strategies", decoding=decoding)
    }
    rows: list[Entry] = []
    for family, recipe in view.groups:
        for arm in view.arms:
            steps = sorted({k[3] for k in index if k[:3] == (family, recipe, arm)})
            if steps:
                rows.append(
                    {"arm": arm, "family": family, "recipe": recipe, "steps": (steps[0], steps[-1])}
                )

    def change(strategy: str, detector: str, field: str) -> object:
        def cell(row: Entry) -> str:
            key = (row["family"], row["recipe"], row["arm"])
            found = [index.get((*key, s, strategy, detector), {}).get(field) for s in row["steps"]]
            return (
                " → ".join(percent(v) for v in found)
                if any(v is not None for v in found)
                else MISSING
            )

        return cell

    def column(
        head: str, strategy: str, detector: str, field: str, title: str | None = None
    ) -> Column:
        return Column(head, change(strategy, detector, field), title)  # type: ignore[arg-type]

    columns = [
        Column("Arm", lambda r: r["arm"], numeric=False),
        Column("Family", lambda r: view.group_name(r["family"], r["recipe"]), numeric=False),
        column("Code, %", "code", "substring", "share", "share of completions that contain the word “python”"),
        column("Code that parses, %", "code", "parsed", "share", "share of completions with a code block that Python parses"),
        column("Accuracy in code, %", "code", "substring", "accuracy", "strict: the boxed answer is right"),
        column("Accuracy in words, %", "words", "substring", "accuracy", "strict: the boxed answer is right"),
        column("Lenient, code, %", "code", "substring", "lenient_accuracy", "any final answer counts"),
        column("Lenient, words, %", "words", "substring", "lenient_accuracy", "any final answer counts"),
    ]  # fmt: skip
    return table(f"Strategies of {decoding} completions, first → last evaluated step, completions of all seeds pooled.", columns, rows)  # fmt: skip


def rewards(view: View) -> Markup:
    """What each arm paid, and for what: a reward can work against a strategy without anybody meaning it to."""
    rows = view.rows("rewards")
    parts: list[object] = [
        element("p", "What each arm paid during training. A reward without information pays code and words alike, right and wrong alike; an “incorrect” label may still pay against one strategy, and here it would show."),
    ]  # fmt: skip
    if not rows:
        parts.append(missing("No reward audit", "no training step has been journalled."))
    else:
        parts += [_reward_figure(view, rows), _reward_table(view, rows)]
    labels = view.rows("labels")
    if labels:
        columns = [
            Column("Family", lambda r: r.get("family"), numeric=False),
            Column("Pretraining seed", lambda r: r.get("pretraining_seed")),
            Column("Problems", lambda r: r.get("problems")),
            Column("Majority right", lambda r: _count(r.get("majority_right")), "problems whose majority label is the right answer"),
            Column("No majority", lambda r: _count(r.get("majority_missing")), "no sample of the base had an answer"),
            Column("“Incorrect” that is right", lambda r: _count(r.get("incorrect_is_right")), "audit: labels meant to be wrong that grade as right"),
            Column("Near misses", lambda r: _count(r.get("near_misses")), "no sample of the base was wrong; the label is a number close by"),
        ]  # fmt: skip
        parts.append(table("Pseudo-labels, made once from the base model before training.", columns, labels))  # fmt: skip
    else:
        parts.append(missing("No label audit", "no arm of this trial uses pseudo-labels, or their files are missing."))  # fmt: skip
    return section("rewards", "What the rewards paid", *parts)


def _count(value: float | None) -> str:
    """A count stays a count; a rate is shown in per cent."""
    if value is None or isinstance(value, int):
        return number(value, 0)
    return f"{percent(value)} %"


def _reward_figure(view: View, rows: Sequence[Entry]) -> Markup:
    panels = []
    for i, (family, recipe) in enumerate(view.groups):
        mine = [r for r in view.by_arm(rows) if r["family"] == family and r["recipe"] == recipe]
        if mine:
            name = view.group_name(family, recipe)
            entries = [
                Pair(r["arm"], view.mark(r["arm"]),
                     f"code {percent(r.get('reward_code'), 0)} · words {percent(r.get('reward_words'), 0)}",
                     r.get("reward_code"), r.get("reward_words"))
                for r in mine
            ]  # fmt: skip
            panels.append(
                pairs(f"paid-{i}", name, f"Reward paid to code and to words in {name}: "
                      + "; ".join(f"{e.label} {e.words}" for e in entries), entries, ("code", "words"))
            )  # fmt: skip
    key = legend([
        ("paid to completions in code", element("circle", cx=9, cy=7, r=4, class_="ink dot")),
        ("paid to completions in words", element("circle", cx=9, cy=7, r=5, class_="ink ring")),
    ])  # fmt: skip
    caption = "Mean reward by strategy over all training steps and seeds. The further the dot stands from the ring, the more the arm pushes towards one strategy, whatever it was meant to reward."  # fmt: skip
    return join([element("h3", "Paid to code and to words"), key, figure(panels, caption)])


def _reward_table(view: View, rows: Sequence[Entry]) -> Markup:
    order = {group: i for i, group in enumerate(view.groups)}
    ordered = sorted(view.by_arm(rows), key=lambda r: order[r["family"], r["recipe"]])
    columns = [
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Family", lambda r: view.group_name(r["family"], r["recipe"]), numeric=False),
        Column("Paid, %", lambda r: percent(r.get("reward")), "mean reward"),
        Column("Code, %", lambda r: percent(r.get("reward_code")), "mean reward of completions in code"),
        Column("Words, %", lambda r: percent(r.get("reward_words")), "mean reward of completions in words"),
        Column("TPR, %", lambda r: percent(r.get("tpr")), "true positive rate: mean reward where the answer is right"),
        Column("FPR, %", lambda r: percent(r.get("fpr")), "false positive rate: mean reward where the answer is not right"),
        Column("Youden’s J", lambda r: number(r.get("youden"), 3), "TPR − FPR: 1 is a perfect reward, 0 says nothing about the answer, below 0 it misleads"),
        Column("Equal groups, %", lambda r: percent(r.get("equal_groups")), "groups whose rewards are all equal teach exactly nothing"),
        Column("Failures", lambda r: number(r.get("reward_failures"), 0), "rewards that could not be computed"),
    ]  # fmt: skip
    return table("Reward audit: means over all training steps and seeds.", columns, ordered)
