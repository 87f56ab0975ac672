"""The page of an audit: what was read, what the gain was made of, what the log's own scores are worth, what is missing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from controlarm import files
from controlarm.audit.gain import PATHS
from controlarm.audit.hints import MEANING
from controlarm.audit.scores import REASONS
from controlarm.audit.unrun import FLOP_PER_PARAMETER, FLOPS
from controlarm.figures import Bar, Series, arm_mark, bars_domain, domain, lines, stacked
from controlarm.markup import (  # fmt: skip
    MISSING,
    Markup,
    element,
    escaped,
    interval,
    join,
    number,
    percent,
    points,
    significant,
)
from controlarm.report.page import document
from controlarm.report.view import (  # fmt: skip
    Column,
    Entry,
    figure,
    folded,
    legend,
    listing,
    missing,
    percent_tick,
    section,
    table,
)

CELLS = {path: path.replace("_", " → ") for path in PATHS}
PARTS = {
    "format": ("format", "right before, and now where it was asked for"),
    "share": ("shift between code and words", "change of shares × mean gap between the strategies"),
    "within": ("accuracy within strategy", "change of accuracy × mean share"),
}


def write(folder: Path, found: Entry) -> Path:
    """Write ``audit.json`` and ``audit.html`` into the folder; returns the page's path.

    Raises:
        OSError: a file cannot be written; what was there before stays.
    """
    from controlarm.report import as_json

    files.make_folder(folder)
    files.write_atomic(folder / "audit.json", as_json(found).encode())
    files.write_atomic(folder / "audit.html", render(found).encode())
    return folder / "audit.html"


def render(found: Entry) -> str:
    """The whole page, a pure function of what was found."""
    names = found["audit"]["names"]
    marks = {name: arm_mark(i) for i, name in enumerate(names)}
    marks |= {names[0]: "base"} if len(names) > 1 else {}
    parts = [
        ("verdict", "In short", _verdict(found)),
        ("split", "The gain", _split(found, marks)),
        ("reach", "With more tries", _reach(found)),
        ("curves", "Over steps", _curves(found, marks)),
        ("scores", "The log’s own scores", _scores(found)),
        ("texts", "Texts", _texts(found)),
        ("hints", "Contamination", _hints(found)),
        ("controls", "Controls", _controls(found)),
        ("read", "What was read", _read(found)),
        ("completions", "Completions", _completions(found)),
    ]
    contents = [element("li", element("a", name, href=f"#{ident}")) for ident, name, _ in parts]
    rows = sum(log["num_rows"] for log in found["logs"])
    damaged = sum(log["num_damaged"] for log in found["logs"])
    facts = [
        f"{number(rows, 0)} completions",
        f"grader {found['audit']['grader']}",
        element("span", f"{number(damaged, 0)} damaged rows", class_="badge bad") if damaged else "no damaged row",
    ]  # fmt: skip
    title = f"{', '.join(names[1:])} against {names[0]}" if len(names) > 1 else names[0]
    header = element(
        "header",
        element("p", "Audit of logs", class_="over"),
        element("h1", title),
        element("ul", *(element("li", fact) for fact in facts), class_="meta"),
        element("button", "Dark page", id="theme", type="button", hidden=True),
        element("nav", element("ul", *contents, class_="contents"), aria_label="Contents"),
    )
    sections = [section(ident, name, body) for ident, name, body in parts]
    foot = "Every number on this page is in audit.json beside it. Made by controlarm from the logs alone: no model was asked."
    return document(f"{escaped(title, 200)}: audit of logs", header, sections, foot)


def _verdict(found: Entry) -> Markup:
    items = [element("li", line) for line in found["sentences"]]
    return element("ul", *items, class_="verdict long")


def _between(c: Entry) -> str:
    return f"{c['before_name']} → {c['after_name']}"


def _label(c: Entry, whole: Sequence[Entry]) -> str:
    """The log after, and against what where not all are against one."""
    one = len({other["before_name"] for other in whole}) == 1
    return c["after_name"] if one else f"{c['after_name']} − {c['before_name']}"


def _split(found: Entry, marks: dict[str, str]) -> Markup:
    whole = [c for c in found["comparisons"] if "split" in c]
    without = [missing(_between(c), c["note"]) for c in found["comparisons"] if c.get("note")]
    paired = [c for c in whole if "partition" in c]
    if not whole:
        return join(without) or missing("No gain", "it takes two logs of the same problems, or one log over steps.")  # fmt: skip
    bars = [
        Bar(_label(c, whole), marks.get(c["after_name"], "a0"), points(c["split"]["gain"]["estimate"]),
            tuple(c["split"][p]["estimate"] for p in PARTS))
        for c in whole
    ]  # fmt: skip
    cells = [
        Bar(_label(c, whole), marks.get(c["after_name"], "a0"), points(_change(c) / c["num_compared"]),
            tuple(c["partition"][p]["change"] / c["num_compared"] for p in PATHS))
        for c in paired
    ]  # fmt: skip
    parts = [
        stacked(
            "split",
            "Strict gain",
            _described("Parts of the gain", bars),
            bars,
            list(PARTS),
            bars_domain(bars),
            "percentage points",
        )
    ]
    paths = [stacked("cells", "Strategy before → after", _described("Problems gained per hundred", cells), cells, PATHS, bars_domain(cells), "problems gained per hundred")]  # fmt: skip
    columns = [
        Column("From → to", _between, numeric=False),
        *(Column(name, lambda c, k=key: _part(c["split"][k]), meaning) for key, name, meaning in (
            ("gain", "Gain, strict", "boxed answers only; the sum of the next three"),
            *((k, v[0], v[1]) for k, v in PARTS.items()),
            ("gain_lenient", "Gain, lenient", "any final answer counts; shift + within"))),
    ]  # fmt: skip
    accuracies = [
        Column("Log", lambda r: r["name"], numeric=False),
        Column("Strict, %", lambda r: percent(r["accuracy"])),
        Column("Lenient, %", lambda r: percent(r["lenient_accuracy"])),
        Column("Code, %", lambda r: percent(r["code_share"]), "completions with the word “python”"),
        Column("Right in code, %", lambda r: percent(r["code_accuracy"]), "strict"),
        Column("Right in words, %", lambda r: percent(r["words_accuracy"]), "strict"),
        Column("Completions", lambda r: number(r["num_samples"], 0)),
    ]
    on_common = [{"name": c[f"{side}_name"], **c[side]} for c in whole for side in ("before", "after")]  # fmt: skip
    on_common = [r for i, r in enumerate(on_common) if r not in on_common[:i]]
    four = [
        Column("From → to", _between, numeric=False),
        *(Column(words, lambda c, k=key: _cell(c["partition"][k]), "right before → right after of how many problems (share of the whole gain)", numeric=False) for key, words in CELLS.items()),
    ]  # fmt: skip
    return join([
        *without, _key([name for name, _ in PARTS.values()]),
        figure(parts, "The strict gain is what format gave, plus the shift of shares between code and words, plus accuracy within them."),
        table("Parts of the gain, points, with 95 % intervals over problems.", columns, whole),
        table("On the compared problems, each weighing the same.", accuracies, on_common),
        listing([*map(_compared, whole), *(said for c in whole for said in _borrowed(c))]),
        *_cells(paths, four, paired),
        element("p", "Intervals are over problems: they tell how well these policies are known on such problems, not what a further training run would do.", class_="note"),
    ])  # fmt: skip


def _cells(
    panels: Sequence[Markup], columns: Sequence[Column], paired: Sequence[Entry]
) -> list[Markup]:
    """The four-way partition, where problems are paired."""
    heading = element("h3", "Which problems gained: by strategy before and after")
    if not paired:
        return [heading, missing("No partition", "it takes the same problems before and after.")]
    return [
        heading, _key(list(CELLS.values())),
        figure(panels, "Every problem by how it was solved before → after, and how many more of them are right. A gain made in “words → code” is one by switching strategy."),
        folded("Numbers of the partition", table("Problems by strategy before → after.", columns, paired)),
    ]  # fmt: skip


def _compared(c: Entry) -> str:
    if c["matched_by"] is None:
        return f"{_between(c)}: at least {c['num_compared']:,} problems at each end, not the same ones."
    only = (
        f"{c['only_before']:,} only before and {c['only_after']:,} only after, which are left out"
    )
    return f"{_between(c)}: {c['num_compared']:,} of {c['num_common']:,} common problems compared, matched by {c['matched_by']}; {only}."


def _borrowed(c: Entry) -> list[str]:
    """Which strategy occurs on one side only, so that the split takes its accuracy from there for both."""
    said = []
    for strategy in ("code", "words"):
        absent = [c[f"{s}_name"] for s in ("before", "after") if c[s][f"{strategy}_accuracy"] is None]  # fmt: skip
        if len(absent) == 1:
            said.append(
                f"{_between(c)}: no completion of {absent[0]} is in {strategy}, so the split lends it the other side's accuracy in {strategy}: "
                "what taking up or giving up that strategy did is counted as shift."
            )
    return said


def _described(what: str, bars: Sequence[Bar]) -> str:
    return f"{what}: " + "; ".join(f"{b.label} {b.words}" for b in bars)


def _change(c: Entry) -> float:
    return sum(cell["change"] for cell in c["partition"].values())


def _part(part: Entry) -> str:
    bounds = interval((part["low"], part["high"])) if part["low"] is not None else "no interval"
    return f"{points(part['estimate'])} ({bounds})"


def _cell(cell: Entry) -> str:
    if not cell["num_problems"]:
        return "no problem"
    shown = [number(cell[k], 0 if float(cell[k]).is_integer() else 1) for k in ("right_before", "right_after", "num_problems")]  # fmt: skip
    share = cell["share_of_gain"]
    return f"{shown[0]} → {shown[1]} of {shown[2]}" + (f" ({percent(share)} %)" if share is not None else "")  # fmt: skip


def _key(names: Sequence[str]) -> Markup:
    return legend([
        (name, element("rect", x=1, y=1, width=14, height=12, class_=f"p{i}"))
        for i, name in enumerate(names)
    ])  # fmt: skip


def _reach(found: Entry) -> Markup:
    whole = [c for c in found["comparisons"] if "pass_at_k" in c]
    if not whole:
        return missing("No pass@k", "it takes two logs of the same problems with verdicts.")
    panels = []
    for i, c in enumerate(whole):
        passed = c["pass_at_k"]
        ks = passed["ks"]
        if len(ks) < 2:
            continue
        series = [
            Series(c[f"{side}_name"], mark, ks, passed[side]["estimate"], ((ks, passed[side]["low"]), (ks, passed[side]["high"])))
            for side, mark in (("before", "base"), ("after", "a0"))
        ]  # fmt: skip
        every = [v for s in series for _, ys in (*s.members, (ks, s.ys)) for v in ys]
        panels.append(
            lines(f"reach-{i}", _between(c), "pass@k of both", series, domain(every), "k, tries", percent_tick, x_log=True, x_marks=ks)
        )  # fmt: skip
    columns = [
        Column("From → to", _between, numeric=False),
        Column("k", lambda c: number(c["pass_at_k"]["ks"][-1], 0), "the most tries that nine problems of ten have on both sides"),
        *(Column(f"pass@k {side}, %", lambda c, s=side: percent(c["pass_at_k"][s]["estimate"][-1])) for side in ("before", "after")),
        Column("Difference", lambda c: points(c["pass_at_k"]["difference"]["estimate"][-1])),
        Column("95 % band", lambda c: interval((c["pass_at_k"]["difference"]["low"][-1], c["pass_at_k"]["difference"]["high"][-1])), "at all k together; unit: problem"),
        Column("Crossing", lambda c: c["pass_at_k"]["crossover"]["outcome"], "whether the one before overtakes as k grows", numeric=False),
        Column("at k", lambda c: number(c["pass_at_k"]["crossover"]["k"], 0)),
        Column("Problems left out", lambda c: number(c["pass_at_k"]["left_out"], 0), "with fewer samples than k"),
    ]  # fmt: skip
    solved = [
        Column("From → to", _between, numeric=False),
        Column("Tries", lambda c: number(c["solvable"]["num_samples"], 0)),
        *(Column(f"{words}, %", lambda c, k=key: _share(c["solvable"]["cells"][k]), numeric=False)
          for key, words in (("both", "Both"), ("base_only", "Before only"), ("trained_only", "After only"), ("neither", "Neither"))),
        Column("SRR, %", lambda c: percent(c["solvable"]["srr"]), "support retention rate: of what was solved before, what still is"),
        Column("NDR, %", lambda c: percent(c["solvable"]["ndr"]), "net discovery rate: of what is solved after, what was not before"),
        Column("Visible from, %", lambda c: percent(c["solvable"]["smallest_visible"]), "a success rate below this may be missed in so many tries (with probability .05)"),
    ]  # fmt: skip
    drawn = figure(panels, "Faint lines: the 95 % band of each curve, right at all k together.") if panels else missing("No curve", "most problems have one completion on a side.")  # fmt: skip
    return join([
        drawn,
        table("pass@k at the most tries.", columns, whole),
        table("Which problems are solved at all: count, share and Clopper–Pearson 95 % interval.", solved, whole),
    ])  # fmt: skip


def _share(cell: Entry) -> str:
    if cell["share"] is None:
        return MISSING
    return f"{number(cell['count'], 0)}: {percent(cell['share'])} ({percent(cell['low'])} to {percent(cell['high'])})"


CURVES = {
    "accuracy": "Accuracy, strict", "lenient_accuracy": "Accuracy, lenient", "code_share": "Code share", "boxed_share": "Boxed share",
    "no_answer_share": "Without any answer", "truncated_share": "Truncated", "looping_share": "Looping", "length": "Length, characters", "num_tokens": "Length, tokens",
}  # fmt: skip
COUNTS = ("length", "num_tokens")


def _curves(found: Entry, marks: dict[str, str]) -> Markup:
    whole = found["curves"]
    if not whole:
        return missing("No curves", "no log names the training step of its completions.")
    panels = []
    for key, words in CURVES.items():
        series = [Series(c["name"], marks.get(c["name"], "a0"), c["steps"], c[key]) for c in whole]
        panels += _panel(key, words, series, key in COUNTS)
    scored = sorted({s for c in whole for s in c["scores"]})
    for i, score in enumerate(scored):
        for c in whole:
            if score not in c["scores"]:
                continue
            s = c["scores"][score]
            three = [Series(n, f"a{j}", c["steps"], s[k]) for j, (k, n) in enumerate((("tpr", "paid if right"), ("fpr", "paid if not"), ("youden", "J")))]  # fmt: skip
            panels += _panel(f"score-{i}-{c['name']}", f"{score} against our verdict", three, False)
            panels += _panel(f"mean-{i}-{c['name']}", f"Mean of {score}", [Series(c["name"], "a0", c["steps"], s["mean"])], True)  # fmt: skip
            panels += _panel(f"equal-{i}-{c['name']}", f"Groups of equal {score}", [Series(c["name"], "a0", c["steps"], s["equal_groups"])], False)  # fmt: skip
    together = max(c["steps_together"] for c in whole)
    caption = "Means over the completions of a step" + (f", {together} steps together" if together > 1 else "") + ". Paid: the score is above the middle of its range. J: Youden’s, true minus false positive rate; at 0 the score knows nothing of our verdict, below 0 it is against it."  # fmt: skip
    own = [c for c in found["history"] if len(c) > 2]
    columns = [Column("Step", lambda r: number(r["step"], 0))] + [
        Column(key.replace("_", " "), lambda r, k=key: significant(r.get(k)), numeric=True)
        for key in sorted({k for r in own for k in r} - {"step", "name"})
    ]
    history = folded("The trainer’s own numbers", table("As in trainer_state.json.", columns, _thinned(own))) if own else None  # fmt: skip
    return join([figure(panels, caption), *([history] if history else [])])


def _thinned(rows: Sequence[Entry], most: int = 100) -> list[Entry]:
    every = -(-len(rows) // most)
    return list(rows[::every]) if every else []


def _panel(ident: str, words: str, series: Sequence[Series], any_size: bool) -> list[Markup]:
    every = [v for s in series for v in s.ys if v is not None]
    if not every:
        return []
    tick: Callable[[float], str] = (lambda v: significant(v)) if any_size else percent_tick
    safe = "".join(c if c.isalnum() else "-" for c in ident)[:60]
    return [lines(f"curve-{safe}", words, f"{words} over steps", series, domain([*every, 0.0] if any_size else [*every, 0.0, 0.05]), "step", tick)]  # fmt: skip


def _scores(found: Entry) -> Markup:
    rows = found["scores"]
    if not rows:
        return missing("No scores", "the logs hold no reward and no verdict of their own.")
    judged = [r for r in rows if "table" in r]
    columns = [
        Column("Log", lambda r: r["name"], numeric=False),
        Column("Score", lambda r: r["score"], numeric=False),
        Column("Mean", lambda r: significant(r["mean"])),
        Column("High, %", lambda r: percent(r["share_high"]), "above the middle of its range"),
        *(Column(f"{words}, %", lambda r, k=key: percent((r.get("accuracy") or {}).get(k)), title) for key, words, title in (
            ("their_answers", "Their answers, our equality", "right by our grader on the answers that the log’s own grader read"),
            ("lenient", "Lenient", "right by our lenient verdict"), ("strict", "Strict", "right by our strict verdict"))),
        *(Column(name, lambda r, k=key: percent((r.get(r.get("against", "")) or {}).get(k)), f"{title}, against the verdict of the next column") for key, name, title in (
            ("tpr", "High if right, %", "true positive rate"), ("fpr", "High if not, %", "false positive rate"), ("youden", "J, %", "Youden’s J"))),
        Column("Against", lambda r: r.get("against", r.get("note", MISSING)), "the verdict that it agrees with more often", numeric=False),
        Column("Differ", lambda r: number(r.get("num_different"), 0)),
        Column("No value", lambda r: number(r["missing"], 0)),
    ]  # fmt: skip
    parts: list[object] = [table("What the log says of its completions, beside our verdicts.", columns, rows)]  # fmt: skip
    for r in judged:
        cells = [{"said": said, **r["table"][said]} for said in ("high", "low")]
        agreement = [
            Column(f"{r['score']} is", lambda c: c["said"], numeric=False),
            *(Column(v.replace("_", " "), lambda c, v=v: number(c[v], 0)) for v in ("right", "wrong", "no_answer", "unknown")),
        ]  # fmt: skip
        reasons = [f"{count:,}: {REASONS[reason]}" for reason, count in r["reasons"].items()]
        examples = [
            Column("Where", lambda d: f"{d['file']}:{d['line']}", numeric=False),
            Column("Theirs", lambda d: d["theirs"], numeric=False),
            Column("Ours", lambda d: d["ours"].replace("_", " "), numeric=False),
            Column("Gold", lambda d: d["gold"], numeric=False),
            Column("We read", lambda d: MISSING if d["our_answer"] is None else d["our_answer"], numeric=False),
            Column("They read", lambda d: MISSING if d["their_answer"] is None else d["their_answer"], numeric=False),
            Column("Why", lambda d: d["reason"], numeric=False),
        ]  # fmt: skip
        parts += [
            element("h3", f"{r['name']}: {r['score']} and our {r['against']} verdict"),
            table("Completions by both.", agreement, cells),
            listing(reasons),
            folded(
                f"{len(r['differences'])} of {number(r['num_different'], 0)} differences",
                table("A choice that does not depend on the order of rows.", examples, r["differences"]),
            ),
        ]  # fmt: skip
    return join(parts)


def _texts(found: Entry) -> Markup:
    columns = [
        Column("Log", lambda r: r["name"], numeric=False),
        Column("Completions", lambda r: number(r["num_samples"], 0)),
        Column("Problems", lambda r: number(r["num_problems"], 0)),
        Column("Each", lambda r: _three(r["samples_per_problem"]), "completions a problem: least, median, most"),
        Column("Strict, %", lambda r: percent(r["accuracy"]), "mean over problems"),
        Column("Lenient, %", lambda r: percent(r["lenient_accuracy"]), "mean over problems"),
        Column("Unknown", lambda r: number(r["unknown"], 0), "our grader gave up"),
        Column("No gold", lambda r: number(r["without_gold"], 0)),
    ]  # fmt: skip
    looks = [
        Column("Log", lambda r: r["name"], numeric=False),
        Column("Boxed, %", lambda r: percent(r["boxed_share"])),
        Column("No answer, %", lambda r: percent(r["no_answer_share"])),
        Column("Code, %", lambda r: percent(r["code_share"]), "with the word “python”"),
        Column("Code that parses, %", lambda r: percent(r["parsed_code_share"])),
        Column("Characters", lambda r: _three([(r["length"] or {}).get(k) for k in ("q05", "median", "q95")]), "5 %, median, 95 %"),
        Column("Tokens", lambda r: number(r["num_tokens"]), "mean, where logged"),
        Column("Truncated, %", lambda r: percent(r["truncated_share"]), "where the log says so"),
        Column("Ends open, %", lambda r: percent(r["ends_open_share"]), "ends in a letter, digit or operator: a hint of truncation where the log says nothing"),
        Column("Repetition, %", lambda r: percent(r["repetition"]), "rep-4: share of repeated 4-grams among the last 400 words"),
        Column("Looping, %", lambda r: percent(r["looping_share"]), "rep-4 above one half"),
        Column("Distinct, %", lambda r: percent(r["distinct_share"]), "distinct texts of all"),
    ]  # fmt: skip
    return join([
        table("Completions of each log and our verdicts.", columns, found["sides"]),
        table("What their texts show by themselves.", looks, found["sides"]),
    ])  # fmt: skip


def _three(values: Sequence[Any] | None) -> str:
    return " · ".join(number(v, 0) for v in values) if values else MISSING


def _hints(found: Entry) -> Markup:
    columns = [
        Column("Log", lambda r: r["name"], numeric=False),
        Column("Hint", lambda r: MEANING[r["hint"]], numeric=False),
        Column("Count", lambda r: f"{number(r['count'], 0)} of {number(r['out_of'], 0)}"),
        Column("Share, %", lambda r: percent(r["share"])),
        Column("95 % interval, %", lambda r: MISSING if r["share"] is None else f"{percent(r['low'])} to {percent(r['high'])}", "Clopper–Pearson"),
    ]  # fmt: skip
    lead = "Texts alone prove no contamination and exclude none. What tells more, completions of cut prompts and probabilities against clean twins, needs the model."
    return join([element("p", lead), table("Hints.", columns, found["hints"])])


def _controls(found: Entry) -> Markup:
    rows = found["controls"]
    columns = [
        Column("Control", lambda r: r["control"], numeric=False),
        Column("Given", lambda r: "yes" if r["run"] else "no", numeric=False),
        Column("What it tells", lambda r: r["purpose"], numeric=False),
        Column("Rollouts", lambda r: number(r["rollouts"], 0)),
        Column("Tokens", lambda r: significant(r["tokens"])),
        Column("GPU hours per 10⁹ parameters", lambda r: significant(r["gpu_hours_per_billion"]), "at 40 % of an H100’s bfloat16 peak"),
    ]  # fmt: skip
    counted = "as logged" if rows[0]["tokens_counted"] else "estimated as characters / 4"
    formula = (
        f"Tokens: the audited log’s rollouts × (prompt + completion), completions {counted}, prompts as characters / 4. Hours: {FLOP_PER_PARAMETER['train']} operations a "
        f"parameter and token to sample and train, {FLOP_PER_PARAMETER['evaluate']} to sample, {significant(FLOPS)} operations a second."
    )
    unknown = "" if rows[0]["tokens"] is not None else " The last log names no training steps, so it is an evaluation, and what training a control costs cannot be told from it."  # fmt: skip
    return join([table("Controls, and what one costs.", columns, rows), element("p", formula + unknown, class_="note")])  # fmt: skip


def _read(found: Entry) -> Markup:
    columns = [
        Column("Log", lambda r: r["name"], numeric=False),
        Column("Format", lambda r: r["format"], numeric=False),
        Column("Files", lambda r: number(r["num_files"], 0)),
        Column("Rows", lambda r: number(r["num_rows"], 0)),
        Column("Damaged", lambda r: number(r["num_damaged"], 0)),
        Column("Written twice", lambda r: number(r["num_rewritten"], 0), "by the trainer, for a further update on the same rollouts; read once"),
        Column("Distinct texts", lambda r: number(r["num_distinct"], 0)),
        Column("Problems", lambda r: number(r["num_problems"], 0)),
        Column("No prompt", lambda r: number(r["without_prompt"], 0)),
        Column("Several golds", lambda r: number(r["several_golds"], 0), "problems whose rows name more than one right answer"),
        Column("Steps", lambda r: MISSING if r["first_step"] is None else f"{number(r['first_step'], 0)} to {number(r['last_step'], 0)}"),
    ]  # fmt: skip
    places = [f"{d['name']}: {d['place']}: {d['what']}" for d in found["damaged"]]
    total = sum(log["num_damaged"] for log in found["logs"])
    notes = [log["sentence"] for log in found["logs"]]
    notes.append(_opinion(found["audit"]))
    notes += [log["history_damage"] for log in found["logs"] if log["history_damage"]]
    parts: list[object] = [table("Logs.", columns, found["logs"]), listing(notes)]
    if places:
        parts.append(
            folded(f"{len(places)} of {number(total, 0)} damaged rows", listing(places[:100]))
        )
    return join(parts)


def _opinion(facts: Entry) -> str:
    """How sure the grader is, in a sentence."""
    second = facts["second_opinion"]
    where = "in \\boxed{}" if facts["form"] == "box" else "in <answer>"
    return (
        f"{number(facts['num_pairs'], 0)} distinct pairs of gold answer and answer were judged by {facts['grader']}; strictly right answers stand {where}. Of {number(second['num_drawn'], 0)} pairs "
        f"drawn for a second judge, it could read {number(second['num_judged'], 0)} and judged {number(second['num_different'], 0)} otherwise."
    )


def _completions(found: Entry) -> Markup:
    groups: dict[str, list[Entry]] = {}
    for one in found["completions"]:
        groups.setdefault(one["problem"], []).append(one)
    order = sorted(groups.items(), key=lambda item: -len(item[1]))[:24]
    shown = [
        element(
            "article",
            element("h3", problem or "(no prompt in the log)"),
            element("p", f"right answer {ones[0]['gold'] or MISSING}", class_="where"),
            element("div", *(_tile(one) for one in ones), class_="tiles"),
            class_="problem",
        )
        for problem, ones in order
    ]
    return join([element("p", "A choice of problems that does not depend on the order of rows; texts are cut."), *shown])  # fmt: skip


def _tile(one: Entry) -> Markup:
    kinds = {"right": ("✓ right", "good"), "wrong": ("✗ wrong", "bad")}
    words, kind = kinds.get(one["verdict"] or "", ((one["verdict"] or "no gold").replace("_", " "), "even"))  # fmt: skip
    foot = ["code" if one["code"] else "words", f"answer {one['answer'] or MISSING}"]
    foot += [f"step {one['step']}"] if one["step"] is not None else []
    foot += [f"{name} {significant(value)}" for name, value in one["scores"].items()]
    text = one["text"] + ("…" if one["characters"] > len(one["text"]) else "")
    return element(
        "article",
        element("div", element("b", one["name"]), element("span", words, class_=kind), class_="who"),
        element("p", escaped(text, 2_000), class_="text"),
        element("p", " · ".join(foot), class_="foot"),
        class_="tile",
    )  # fmt: skip
