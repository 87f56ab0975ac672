"""The answer: verdicts in words, controls as found, and each arm's gain over placebo with its uncertainty."""

from controlarm.figures import Row, forest, rows_domain
from controlarm.markup import Markup, element, interval, join, p_value, percent, points
from controlarm.report.view import METRICS, Column, Entry, View, figure, missing, section, table

VERDICTS = {
    "superior": ("▲ superior", "good"),
    "inferior": ("▼ inferior", "bad"),
    "equivalent": ("≈ equivalent", "even"),
    "inconclusive": ("? inconclusive", "even"),
}

READING = (
    "Superior: better than placebo and than the base model, after Holm’s adjustment. Inferior: worse than placebo. "
    "Equivalent: the 90 % interval lies within the margin. Inconclusive: none of these. °: exploratory, not among the "
    "comparisons that the protocol names, hence not adjusted."
)

LIMITS = (
    "What an interval promises, and what not. It is Student’s t over seeds and is right when differences scatter roughly "
    "normally. It knows nothing of what no seed showed: where one run in four collapses, three seeds show no collapse in 42 % of "
    "trials, and their interval is too short. The claim is about these held-out problems; others would move it, which "
    "is in no interval (the standard error over problems says by how much in one seed). ‡: the seeds agree more closely than samples alone would let "
    "them in 19 trials of 20; that is luck, and the interval is too short."
)
"""Beside the intervals; benchmarks/instrument.py measures it."""
BY_LUCK = "the seeds agree by luck: samples alone would spread them more in 19 trials of 20, so the interval is too short"


def verdict_words(row: Entry) -> str:
    """A contrast's verdict with its sign, so that colour is not needed; ° where nothing was adjusted."""
    found = row.get("verdict")
    if not found:
        return ""
    words = VERDICTS.get(found, (str(found), ""))[0].replace(" ", "\N{NO-BREAK SPACE}")
    return words if row.get("primary") else f"{words}°"


def verdict(view: View) -> Markup:
    """What came out, in sentences and as one table of arms by families."""
    trial = view.summary.get("trial") or {}
    parts: list[object] = []
    if not trial.get("complete"):
        parts.append(element("p", element("span", "incomplete trial", class_="badge bad"),
                             " Not every planned run has finished, or a file is damaged (see Flow): what follows may still change."))  # fmt: skip
    if siblings := trial.get("siblings") or []:
        names = [
            element("li", element("code", s.get("folder")), f" (digest {str(s.get('digest'))[:8]})")
            for s in siblings[:50]
        ]
        if len(siblings) > 50:
            names.append(element("li", f"… and {len(siblings) - 50} more"))
        parts.append(
            element(
                "div",
                element("p", element("strong", "This trial name was also run with other protocols."),
                        " A verdict chosen among several protocols is weaker than it looks; compare:"),
                element("ul", *names),
                class_="warning",
                role="note",
            )
        )  # fmt: skip
    sentences = view.summary.get("headline") or []
    if sentences:
        words = element(
            "ul",
            *(element("li", s) for s in sentences[:60]),
            class_="verdict" if len(sentences) <= 5 else "verdict long",
        )
    else:
        words = missing("No verdict", "no preregistered contrast could be computed yet.")
    matrix = _matrix(view)
    parts.append(
        element("div", words, element("div", matrix), class_="answer") if matrix else words
    )
    return section("verdict", "What came out", *parts)


def _matrix(view: View) -> Markup | None:
    cells = {
        (family, recipe, row["arm"]): row
        for family, recipe in view.groups
        for row in view.endpoint_rows(family, recipe, "placebo")
    }
    arms = [a for a in view.arms if any(key[2] == a for key in cells)]
    if not arms:
        return None
    name = METRICS.get(view.metric, (view.metric, ""))[0].lower()
    rows: list[Entry] = [{"arm": arm} for arm in arms]
    columns = [Column("Arm", lambda row: row["arm"], numeric=False)]
    for family, recipe in view.groups:
        columns.append(
            Column(
                view.group_name(family, recipe),
                lambda row, f=family, r=recipe: _cell(cells.get((f, r, row["arm"]))),
                numeric=False,
            )
        )
    caption = (
        f"Gain over placebo ({view.placebo}) in {name}, percentage points, with the 95 % interval."
    )
    return join(
        [
            table(caption, columns, rows, "matrix"),
            *(element("p", words, class_="note") for words in (READING, LIMITS)),
        ]
    )


def _cell(row: Entry | None) -> object:
    if row is None:
        return Markup("–")
    found = row.get("verdict")
    kind = VERDICTS.get(str(found), ("", ""))[1]
    lines = [element("strong", points(row.get("estimate")))]
    remark = interval(row["ci95"]) if row.get("ci95") else row.get("note")
    if remark:
        lines.append(element("small", remark, "‡" if row.get("by_luck") else ""))
    if found:
        lines.append(element("small", verdict_words(row), class_=kind))
    return join(lines, " ")


def controls(view: View) -> Markup:
    """What had to come out if trial and models work, and what did."""
    lead = element(
        "p",
        "Fixed before the data: if trial and models work, these must come out. Reported as found.",
    )
    rows = view.rows("controls")
    if not rows:
        return section("controls", "Preregistered controls",
                       missing("No controls", "the protocol names none, so nothing vouches for the trial itself."))  # fmt: skip
    columns = [
        Column("Family", lambda r: r.get("family"), numeric=False),
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Expected", lambda r: r.get("expect"), numeric=False),
        Column("Found", lambda r: r.get("found") or "–", numeric=False),
        Column("Held", _held, numeric=False),
        Column("Why expected, and what was seen", _why, numeric=False),
    ]
    held = sum(r.get("held") is True for r in rows)
    caption = f"{held} of {len(rows)} controls held."
    return section(
        "controls", "Preregistered controls", lead, table(caption, columns, rows, "stack")
    )


def _held(row: Entry) -> Markup:
    held = row.get("held")
    if held is None:
        return element("strong", "not known", class_="even")
    return element(
        "strong",
        "✓\N{NO-BREAK SPACE}held"
        if held
        else "✗\N{NO-BREAK SPACE}did\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}hold",
        class_="good" if held else "bad",
    )


def _why(row: Entry) -> Markup:
    detail = row.get("detail")
    return join([row.get("why") or "", element("div", detail, class_="note") if detail else ""])


def forest_row(view: View, row: Entry) -> Row:
    """One contrast as a row of the forest plot."""
    words = points(row.get("estimate"))
    if row.get("verdict"):
        words += f"  {verdict_words(row)}"
    return Row(
        label=str(row["arm"]),
        mark=view.mark(str(row["arm"])),
        words=words,
        estimate=row.get("estimate"),
        ci95=row.get("ci95"),
        ci90=row.get("ci90"),
        dots=tuple(
            (f"seed {u.get('seed')}, pretraining seed {u.get('pretraining_seed')}: {points(u['difference'])}", u["difference"])
            for u in row.get("units") or []
            if u.get("difference") is not None
        ),
    )  # fmt: skip


def forest_panels(view: View) -> tuple[list[Markup], str]:
    """One forest plot per family and recipe, and the caption that reads them."""
    name, meaning = METRICS.get(view.metric, (view.metric, ""))
    groups = {
        g: [forest_row(view, r) for r in view.endpoint_rows(*g, "placebo")] for g in view.groups
    }
    groups = {g: rows for g, rows in groups.items() if rows}
    if not groups:
        return [], ""
    scale = rows_domain([row for rows in groups.values() for row in rows], view.margin)
    panels = [
        forest(
            f"forest-{i}",
            view.group_name(*group),
            f"Gain over placebo in {name.lower()} for {view.group_name(*group)}: "
            + "; ".join(f"{r.label} {r.words}" for r in rows),
            rows,
            scale,
            f"arm − {view.placebo}, percentage points",
            view.margin,
        )
        for i, (group, rows) in enumerate(groups.items())
    ]
    band = (
        f" The band is the margin of equivalence, ± {percent(view.margin)} points."
        if view.margin
        else ""
    )
    caption = (
        f"{name}: {meaning}. Endpoint after step {view.step}. Filled mark: mean over seeds; line: 95 % interval (t over "
        f"seeds); tall ticks: 90 % interval; rings below: one seed each.{band} An arrow head: the interval goes on. "
        "An interval clear of zero is a difference that the placebo does not explain."
    )
    return panels, caption


def effects(view: View) -> Markup:
    """Forest plots of the endpoint, then every contrast in a table."""
    panels, caption = forest_panels(view)
    if not panels:
        return section("effects", "Gain over placebo",
                       missing("No contrasts", "no arm has finished together with the placebo at the endpoint’s step."))  # fmt: skip
    lead = element("p", f"Each arm against the placebo ({view.placebo}): same model, problems, sampling noise and recipe; only the reward differs.")  # fmt: skip
    return section("effects", "Gain over placebo", lead, figure(panels, caption), _tables(view))


def _tables(view: View) -> Markup:
    everything = view.rows("contrasts")
    at_end = [
        r for r in everything if r.get("metric") == view.metric and r.get("step") == view.step
    ]
    others = [r for r in everything if r not in at_end]
    inner = table(
        "Against placebo and against base; points, unless said.", _columns(view, False), at_end
    )
    parts = [element("details", element("summary", "All numbers of the endpoint"), inner)]
    if others:
        inner = table("Other metrics and steps: exploratory, not adjusted for their number.", _columns(view, True), others[:600])  # fmt: skip
        cut = f" (the first 600 of {len(others)}; all in report.json)" if len(others) > 600 else ""
        parts.append(
            element(
                "details", element("summary", f"{len(others)} exploratory contrasts{cut}"), inner
            )
        )
    return join(parts)


def _columns(view: View, exploratory: bool) -> list[Column]:
    columns = [
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Family", lambda r: view.group_name(str(r.get("family")), str(r.get("recipe"))), numeric=False),
        Column("Against", lambda r: r.get("versus"), numeric=False),
    ]  # fmt: skip
    if exploratory:
        columns += [
            Column("Metric", lambda r: METRICS.get(str(r.get("metric")), (r.get("metric"),))[0], numeric=False),
            Column("Step", lambda r: r.get("step")),
        ]  # fmt: skip
    else:
        columns.append(
            Column("Verdict", lambda r: verdict_words(r) or "–", "of the comparison with placebo", numeric=False)
        )  # fmt: skip
        columns.append(
            Column("Kind", lambda r: "primary" if r.get("primary") else "exploratory", "primary comparisons are named in the protocol and adjusted together", numeric=False)
        )  # fmt: skip
    columns += [
        Column("Difference", lambda r: points(r.get("estimate"))),
        Column("95 % interval", lambda r: interval(r.get("ci95"))),
        Column("90 % interval", lambda r: interval(r.get("ci90"))),
        Column("SE", lambda r: percent(r.get("se")), "standard error over seeds, points"),
        Column("SE, problems", lambda r: percent(r.get("problem_se")), "standard error over problems with the seeds held fixed, points"),
        Column("SE, samples", lambda r: percent(r.get("sampling_se")), "what samples alone make of one seed’s difference, problems and models held fixed, points; seeds scatter at least as much, but for luck"),
        Column("Seeds", lambda r: r.get("num_units"), "paired differences that the interval rests on"),
    ]  # fmt: skip
    if not exploratory:
        columns += [
            Column("p", lambda r: p_value(r.get("p_superior")), "one-sided p-value for superiority, unadjusted"),
            Column("p, Holm", lambda r: p_value(r.get("p_holm")), "adjusted for all primary comparisons of the protocol"),
            Column("Holm bound", lambda r: points(r.get("holm_lower")), "lower bound of the difference after Holm’s adjustment"),
            Column("MDE", lambda r: percent(r.get("mde")), "minimum detectable effect: the true difference that this comparison by itself would find with 80 % power; superior asks to beat placebo and base at once, which has less"),
        ]  # fmt: skip
    columns.append(
        Column(
            "Remark",
            lambda r: r.get("note") or (BY_LUCK if r.get("by_luck") else ""),
            numeric=False,
        )
    )
    return columns
