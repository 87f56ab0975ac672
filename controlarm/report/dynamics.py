"""How training went: whether it jumped or drifted, what entropy it spent, when it had nothing more to teach, what was clipped, what it cost."""

from collections.abc import Sequence

from controlarm.figures import Bar, bars_domain, stacked
from controlarm.markup import (
    MISSING,
    Markup,
    element,
    interval,
    join,
    number,
    percent,
    points,
    significant,
)
from controlarm.report.view import (
    METRICS,
    Column,
    Entry,
    View,
    case_columns,
    figure,
    folded,
    legend,
    missing,
    ordered,
    section,
    table,
)

SHAPES = ("constant", "linear", "step", "logistic")

BANDS = {
    "rare": "rare: at most .1",
    "open": "open: to .5",
    "likely": "likely: to 1/1.2",
    "sure": "sure: above 1/1.2",
}


def dynamics(view: View) -> Markup:
    """Transitions, the entropy law, saturation, clipping, cost."""
    if not (view.rows("transitions") or view.rows("entropy_law") or view.rows("clipping")):
        return section("dynamics", "Dynamics", missing("No dynamics", "no run has journalled a step yet."))  # fmt: skip
    return section(
        "dynamics", "Dynamics", _transitions(view), _entropy(view), _saturation(view), _clipping(view), _cost(view)
    )  # fmt: skip


def _transitions(view: View) -> Markup | None:
    rows = ordered(view, view.rows("transitions"))
    if not rows:
        return None
    metrics = list(dict.fromkeys(str(r.get("metric")) for r in rows))
    bars: dict[tuple[str, tuple[str, str]], list[Bar]] = {}
    for r in rows:
        verdicts, runs = r.get("verdicts") or {}, r.get("num_runs")
        if runs:
            known = tuple(verdicts.get(shape, 0) / runs for shape in SHAPES)
            place = (str(r.get("metric")), (r["family"], r["recipe"]))
            bars.setdefault(place, []).append(
                Bar(str(r["arm"]), view.mark(r["arm"]), _verdicts(r), known)
            )
    scale = bars_domain([*(bar for group in bars.values() for bar in group), Bar("", "", "", (1.0,))])  # fmt: skip
    parts: list[object] = [
        element("h3", "Jump, climb, drift or nothing"),
        legend([
            (name, element("rect", x=1, y=1, width=14, height=12, class_=f"p{i}")) for i, name in enumerate(SHAPES)
        ]),
    ]  # fmt: skip
    for j, metric in enumerate(metrics):
        name = METRICS.get(metric, (metric, ""))[0]
        panels = [
            stacked(f"shape-{j}-{i}", view.group_name(*group),
                    f"Shape of {name.lower()} in {view.group_name(*group)}, runs: "
                    + "; ".join(f"{b.label} {b.words}" for b in bars[metric, group]),
                    bars[metric, group], SHAPES, scale, "runs, %")
            for i, group in enumerate(view.groups) if (metric, group) in bars
        ]  # fmt: skip
        caption = f"{name}: the shape that fits each run’s curve best, noise being correlated from step to step. A step or a logistic is a change at a certain time."
        caption += _beside(view, [r for r in rows if str(r.get("metric")) == metric])
        parts.append(figure(panels, caption))
    columns = [
        *case_columns(view),
        Column("Runs", lambda r: number(r.get("num_runs"), 0)),
        *(Column(shape.capitalize(), lambda r, s=shape: number((r.get("verdicts") or {}).get(s), 0)) for shape in (*SHAPES, "unknown")),
        Column("Change at step", lambda r: number(r.get("change_point"), 1), "median over the runs with a step or a logistic"),
        Column("First to last", lambda r: _between(r.get("first_change"), r.get("last_change")), "of these runs"),
        Column("Placebo’s changes, %", lambda r: percent(r.get("false_detections")), f"share of the runs of {view.placebo} in this family that are said to have a step or a logistic"),
        Column("95 % interval", lambda r: _share(r.get("false_detections_ci95"))),
        Column("of runs", lambda r: number(r.get("num_placebo"), 0)),
    ]  # fmt: skip
    tables = [
        table(f"Shapes of {METRICS.get(m, (m, ''))[0].lower()} over the runs.", columns, [r for r in rows if str(r.get("metric")) == m])
        for m in metrics
    ]  # fmt: skip
    note = f"Changes that the placebo ({view.placebo}) is said to have are the rate of false detections, or a real shift that no reward asked for. Unknown: fewer than 12 points. Of a long journal windows are told apart, not steps."
    parts.append(folded("Numbers: shapes and false detections", element("p", note, class_="note"), *tables))  # fmt: skip
    return join(parts)


def _verdicts(row: Entry) -> str:
    verdicts = row.get("verdicts") or {}
    return ", ".join(f"{verdicts[name]} {name}" for name in (*SHAPES, "unknown") if verdicts.get(name))  # fmt: skip


def _beside(view: View, rows: Sequence[Entry]) -> str:
    """How often the placebo is said to change, which every verdict has to be read against."""
    said = {
        view.group_name(r["family"], r["recipe"]): (r["false_detections"], r["num_placebo"])
        for r in rows if r.get("false_detections") is not None
    }  # fmt: skip
    if not said:
        return f" No run of the placebo ({view.placebo}) tells how often this is said falsely."
    found = ", ".join(f"{name} {number(rate * n, 0)} of {n}" for name, (rate, n) in said.items())
    return f" Runs of the placebo ({view.placebo}) that are said to change so: {found}."


def _between(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{number(low, 1)} to {number(high, 1)}"


def _share(pair: Sequence[float | None] | None) -> str:
    if not pair or None in pair:
        return MISSING
    return f"{percent(pair[0])} to {percent(pair[1])}"


def _entropy(view: View) -> Markup | None:
    rows = ordered(view, view.rows("entropy_law"))
    if not rows:
        return None
    columns = [
        *case_columns(view),
        Column("Runs", lambda r: number(r.get("num_runs"), 0)),
        Column("Fitted", lambda r: number(r.get("num_fitted"), 0), "runs where entropy and reward both vary"),
        Column("Against the law", lambda r: number(r.get("num_at_bound"), 0), "fitted runs where reward did not rise as entropy fell; the medians leave them out"),
        Column("a", lambda r: significant(r.get("a")), "reward bought by entropy, median over runs"),
        Column("b", lambda r: significant(r.get("b"))),
        Column("Ceiling b − a", lambda r: significant(r.get("ceiling")), "reward where no entropy is left, if the law holds that far"),
        Column("r²", lambda r: number(r.get("r2"), 2), "of the fit itself: two trends in step are enough for a high one"),
        Column("Residual", lambda r: significant(r.get("rmse"), 2), "root mean square, reward"),
        Column("Skill", lambda r: number(r.get("skill"), 2), "fitted to the first third of the steps and held against the rest: 1 is a perfect law, 0 no better than “reward stays”"),
    ]  # fmt: skip
    return join([
        element("h3", "Reward bought with entropy"),
        element("p", "The entropy law (arXiv:2505.22617) says R = b − a exp(H): reward R is bought with entropy H, so there is a ceiling. Fitted to each run; medians over the runs where reward rose as entropy fell.", class_="note"),
        folded("Numbers: the entropy law", table("The entropy law, run by run.", columns, rows)),
    ])  # fmt: skip


def _saturation(view: View) -> Markup:
    rows = ordered(view, view.rows("saturation"))
    heading = element("h3", "After training has nothing more to teach")
    count = len({(r.get("family"), r.get("recipe"), r.get("arm")) for r in view.rows("entropy_law")})  # fmt: skip
    if not rows:
        words = f"Training accuracy reached 95 % at ten steps in succession in no run of {number(count, 0)} cases."
        return join([heading, element("p", words, class_="note")])
    name = METRICS.get(view.metric, (view.metric, ""))[0]
    columns = [
        *case_columns(view),
        Column("Saturated runs", lambda r: f"{number(r.get('num_saturated'), 0)} of {number(r.get('num_runs'), 0)}"),
        Column("At step", lambda r: number(r.get("saturation_step"), 1), "mean over units; of runs that saturate"),
        Column("95 % interval", lambda r: _between(*(r.get("saturation_step_ci95") or (None, None)))),
        Column("Gain afterwards", lambda r: points(r.get("post_saturation_gain")), f"{name.lower()} at the last evaluation minus at the first after saturation, points"),
        Column("95 % interval", lambda r: interval(r.get("post_saturation_gain_ci95"))),
        Column("of runs", lambda r: number(r.get("num_gains"), 0), "saturated runs with a later evaluation to compare with"),
    ]  # fmt: skip
    caption = f"Saturated: training accuracy of at least 95 % at ten steps in succession; {len(rows)} of {number(count, 0)} cases have such a run."
    return join([heading, table(caption, columns, rows)])


def _clipping(view: View) -> Markup | None:
    rows = ordered(view, view.rows("clipping"))
    if not rows:
        return None
    flat = [{**r, "band": band} for r in rows for band in BANDS]

    def cell(part: str) -> Column:
        heads = {
            "prior": ("Tokens, %", "share of all tokens whose probability before the update lies in the band"),
            "clip_low": ("Clipped below, %", "share of all tokens: punished, and already less likely than the lower bound allows"),
            "clip_high": ("Clipped above, %", "share of all tokens: paid, and already likelier than the upper bound allows"),
        }  # fmt: skip
        head, title = heads[part]
        return Column(head, lambda r: percent(r.get(f"{part}_{r['band']}"), 3), title)

    columns = [
        *case_columns(view),
        Column("Probability before", lambda r: BANDS[r["band"]], numeric=False),
        *(cell(part) for part in ("prior", "clip_low", "clip_high")),
    ]
    return join([
        element("h3", "What clipping holds back"),
        element("p", "Clipping bounds a ratio, so a token that is nearly certain reaches no bound from above, and a rare one soon does: which tokens are held back depends on how likely they were (arXiv:2506.10947, appendix B). Means over all training steps, then runs.", class_="note"),
        folded("Numbers: clipping by the token’s probability", table("Tokens and clipped tokens by the token’s probability before the update.", columns, flat)),
    ])  # fmt: skip


def _cost(view: View) -> Markup | None:
    rows = ordered(view, view.rows("sampling_cost"))
    if not rows:
        return None
    columns = [
        *case_columns(view),
        Column("Sampled", lambda r: number(r.get("generated"), 0)),
        Column("Trained on", lambda r: number(r.get("trained"), 0)),
        Column("Sampled for each", lambda r: number(r.get("cost"), 2), "completions sampled for each one trained on"),
    ]  # fmt: skip
    return join([
        element("h3", "What sampling cost"),
        table("Cases that had more completions sampled than they trained on; all others had exactly as many.", columns, rows),
    ])  # fmt: skip
