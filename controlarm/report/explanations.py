"""What the gains are made of: three-way decomposition, share against accuracy, format."""

from collections.abc import Sequence

from controlarm.figures import (
    Bar,
    Row,
    bars_domain,
    forest,
    rows_domain,
    stacked,
)
from controlarm.markup import Markup, element, interval, join, number, percent, points
from controlarm.report.view import (
    Column,
    Entry,
    View,
    figure,
    legend,
    missing,
    section,
    table,
)

CELLS = {
    "code_code": "code → code",
    "code_words": "code → words",
    "words_code": "words → code",
    "words_words": "words → words",
}


def parts_named(placebo: str) -> dict[str, tuple[str, str]]:
    """Part of the decomposition → its name and the difference that it is, in the order in which they add up."""
    return {
        "null": ("null", f"{placebo} − base"),
        "elicitation": ("elicitation", f"majority − {placebo}"),
        "reward_design": ("reward design", "truth − majority"),
        "total": ("total", "truth − base"),
    }


def decomposition(view: View) -> Markup:
    """How much of the gain the placebo gives, how much the model already knew, how much the right reward adds."""
    lead = element("p", f"How much of the gain over the base model does the placebo ({view.placebo}) give (null), how much comes from rewarding what the model already believes (elicitation), and how much from knowing the right answers (reward design)?")  # fmt: skip
    return section(
        "decomposition", "What the gain is made of",
        lead, _waterfall(view), _kitagawa(view), _partition(view), _format(view),
    )  # fmt: skip


def _waterfall(view: View) -> Markup:
    if not view.rows("decomposition"):
        return missing("No decomposition", "it needs finished arms that pay ground truth and majority rewards, beside the placebo.")  # fmt: skip
    parts = parts_named(view.placebo)
    groups: dict[tuple[str, str], list[Row]] = {}
    for group in view.groups:
        entries = {
            r["part"]: r for r in view.rows("decomposition", family=group[0], recipe=group[1])
        }
        rows, start = [], 0.0
        for part, (name, difference) in parts.items():
            entry = entries.get(part)
            if entry is None or entry.get("estimate") is None:
                continue
            begin = 0.0 if part == "total" else start
            estimate = float(entry["estimate"])
            values = [float(u["value"]) for u in entry.get("units") or []]
            rows.append(
                Row(
                    f"{name}: {difference}",
                    {"null": "placebo", "total": "base"}.get(
                        part, "a0" if part == "elicitation" else "a2"
                    ),
                    points(estimate),
                    begin + estimate,
                    [begin + v for v in entry["ci95"]] if entry.get("ci95") else None,
                    dots=tuple((f"seed: {points(v)}", v) for v in values),
                    start=begin,
                    shift=begin,
                )
            )
            start = begin + estimate
        if rows:
            groups[group] = rows
    scale = rows_domain(row for rows in groups.values() for row in rows)
    panels = [
        forest(f"parts-{i}", view.group_name(*g),
               f"Parts of the gain in {view.group_name(*g)}: " + "; ".join(f"{r.label} {r.words}" for r in rows),
               rows, scale, "gain over base, percentage points")
        for i, (g, rows) in enumerate(groups.items())
    ]  # fmt: skip
    columns = [
        Column("Part", lambda r: ": ".join(parts[r["part"]]), numeric=False),
        Column("Family", lambda r: view.group_name(r["family"], r["recipe"]), numeric=False),
        Column("Points", lambda r: points(r.get("estimate"))),
        Column("95 % interval", lambda r: interval(r.get("ci95"))),
    ]  # fmt: skip
    caption = "Each bar starts where the one above it ends; the last is the whole. Line: 95 % interval of that part alone, rings: seeds. Where “null” is long, the reward’s content had little to do with the gain."  # fmt: skip
    numbers = element(
        "details",
        element("summary", "Numbers of the decomposition"),
        table("Parts of the gain over base, points.", columns, view.rows("decomposition")),
    )
    return join(
        [element("h3", "Null, elicitation, reward design"), figure(panels, caption), numbers]
    )


def _bars_figure(
    view: View, kind: str, bars: dict[tuple[str, str], list[Bar]], names: Sequence[str], axis: str
) -> list[Markup]:
    scale = bars_domain(bar for rows in bars.values() for bar in rows)
    return [
        stacked(f"{kind}-{i}", view.group_name(*group),
                f"{axis} in {view.group_name(*group)}: " + "; ".join(f"{b.label} {b.words}" for b in rows),
                rows, names, scale, axis)
        for i, (group, rows) in enumerate(bars.items())
    ]  # fmt: skip


def _part_legend(names: Sequence[str]) -> Markup:
    return legend(
        [
            (name, element("rect", x=1, y=1, width=14, height=12, class_=f"p{i}"))
            for i, name in enumerate(names)
        ]
    )


def _last(view: View, name: str, family: str, recipe: str) -> list[Entry]:
    rows = view.rows(name, family=family, recipe=recipe)
    last = max((r["step"] for r in rows), default=0)
    return view.by_arm(r for r in rows if r["step"] == last)


def _kitagawa(view: View) -> Markup:
    rows = view.rows("kitagawa")
    heading = element("h3", "Choosing code more often, or being right more often within a strategy")
    if not rows:
        return join([heading, missing("No split", "strategies were not measured for any finished arm.")])  # fmt: skip
    names = ("choice of strategy", "accuracy within strategies")
    bars = {
        (f, r): [
            Bar(e["arm"], view.mark(e["arm"]), points(e.get("gain")),
                (e.get("share_effect"), e.get("accuracy_effect")))
            for e in _last(view, "kitagawa", f, r)
        ]
        for f, r in view.groups
    }  # fmt: skip
    bars = {group: found for group, found in bars.items() if found}
    columns = [
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Family", lambda r: view.group_name(r["family"], r["recipe"]), numeric=False),
        Column("Step", lambda r: r.get("step")),
        Column("Gain", lambda r: points(r.get("gain")), "over base, points"),
        Column("Choice of strategy", lambda r: points(r.get("share_effect"))),
        Column("95 % interval", lambda r: interval(r.get("share_effect_ci95"))),
        Column("Accuracy within", lambda r: points(r.get("accuracy_effect"))),
        Column("95 % interval", lambda r: interval(r.get("accuracy_effect_ci95"))),
    ]  # fmt: skip
    caption = "Gain over base, split after Kitagawa (1955): change of the share of code × gap between the strategies’ accuracies, and change of accuracy within strategies × their shares. The two add up to the gain."  # fmt: skip
    return join([
        heading, _part_legend(names),
        figure(_bars_figure(view, "split", bars, names, "gain over base, percentage points"), caption),
        element("details", element("summary", "Numbers of the split"), table("Kitagawa’s split, points.", columns, rows)),
    ])  # fmt: skip


def _partition(view: View) -> Markup:
    rows = view.rows("partition")
    heading = element("h3", "Which problems gained: by strategy before and after")
    if not rows:
        return join([heading, missing("No partition", "it needs greedy completions of base and trained model on the same problems.")])  # fmt: skip
    bars: dict[tuple[str, str], list[Bar]] = {}
    for group in view.groups:
        found = []
        for e in _last(view, "partition", *group):
            total = sum(e["cells"][c]["num_problems"] for c in CELLS)
            changes = tuple(_share(e["cells"][c]["change"], total) for c in CELLS)
            found.append(Bar(e["arm"], view.mark(e["arm"]), _problems(e["change_total"]), changes))
        if found:
            bars[group] = found
    columns = [
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Family", lambda r: view.group_name(r["family"], r["recipe"]), numeric=False),
        *(Column(words, lambda r, c=c: _cell(r["cells"][c]), "problems: right before → right after (share of the whole gain)") for c, words in CELLS.items()),
        Column("Gain", lambda r: _problems(r["change_total"])),
    ]  # fmt: skip
    caption = "Every held-out problem falls in one of four cells: how the base solved it → how the trained model solves it (greedy, summed over units). Bars: problems gained or lost per hundred. A gain made in “words → code” is a gain by switching strategy."  # fmt: skip
    return join([
        heading, _part_legend(tuple(CELLS.values())),
        figure(_bars_figure(view, "cells", bars, tuple(CELLS.values()), "problems gained per hundred"), caption),
        element("details", element("summary", "Numbers of the partition"),
                table("Problems in each cell: right before → right after of how many (share of the gain).", columns, rows)),
    ])  # fmt: skip


def _share(change: int, total: int) -> float | None:
    return change / total if total else None


def _problems(change: int) -> str:
    return ("+" if change > 0 else "") + number(change, 0)


def _cell(cell: Entry) -> str:
    if not cell["num_problems"]:
        return "no problem"
    share = cell.get("share_of_gain")
    words = f"{cell['right_before']} → {cell['right_after']} of {cell['num_problems']}"
    return words + (f" ({percent(share)} %)" if share is not None else "")


def _format(view: View) -> Markup:
    rows = view.rows("format_split")
    heading = element("h3", "Being right, or only boxing what was right already")
    if not rows:
        return join([heading, missing("No format split", "lenient verdicts are missing.")])
    names = ("gain under the lenient grader", "format: right before, boxed now")
    bars = {
        group: [
            Bar(r["arm"], view.mark(r["arm"]), points(r.get("gain_strict")),
                (r.get("gain_lenient"), r.get("format_part")))
            for r in _last(view, "format_split", *group)
        ]
        for group in view.groups
    }  # fmt: skip
    bars = {group: found for group, found in bars.items() if found}
    columns = [
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Family", lambda r: view.group_name(r["family"], r["recipe"]), numeric=False),
        Column("Gain, strict", lambda r: points(r.get("gain_strict")), "only a boxed answer counts"),
        Column("Gain, lenient", lambda r: points(r.get("gain_lenient")), "any final answer counts"),
        Column("Format part", lambda r: points(r.get("format_part")), "strict gain minus lenient gain"),
        Column("95 % interval", lambda r: interval(r.get("format_part_ci95")), "of the format part"),
    ]  # fmt: skip
    caption = "The strict gain (number at the right) is the gain when any final answer counts, plus what came from putting answers in a box. A gain that is mostly format is no gain in arithmetic."
    return join([
        heading, _part_legend(names),
        figure(_bars_figure(view, "format", bars, names, "gain over base, percentage points"), caption),
        element("details", element("summary", "Numbers of the format split"),
                table("Gain over base under the strict and the lenient grader, points.", columns, rows)),
    ])  # fmt: skip
