"""Whether training reaches problems that sampling the base more often does not: pass@k, its difference from the base, who solves what."""

from collections.abc import Sequence

from controlarm.figures import (
    WIDTH,
    Bar,
    Row,
    Series,
    bars_domain,
    domain,
    forest,
    lines,
    rows_domain,
    stacked,
)
from controlarm.markup import MISSING, Markup, element, interval, join, number, percent, points
from controlarm.report.view import (
    Column,
    Entry,
    View,
    case_columns,
    figure,
    folded,
    legend,
    listing,
    missing,
    ordered,
    percent_tick,
    section,
    table,
)

NOTIONS = {
    "values": "right answer",
    "pass_by_derivation": "valid derivation",
    "pass_beyond_guessing": "right answer, guessing taken out",
}
"""What may count as solved, and the key of its curve."""

OUTCOMES = {"established": "overtaken", "none": "no crossing", "undetermined": "not decided"}

ONLY = ("only the arm solves it", "only its base does")

SENTENCES = 8
"""Crossings said on the page; further ones are folded."""


def boundary(view: View) -> Markup:
    """Whether training reaches problems that sampling the base more often does not."""
    rows = view.rows("pass_at_k")
    if not rows:
        return section("passk", "Sampling more: pass@k", missing("No pass@k", "no sampled completions were evaluated."))  # fmt: skip
    caption = "pass@k: chance that at least one of k samples is right (unbiased estimate). Guessing: what random answers of the right form would reach. Where an arm leads at k = 1 but not at large k, training sharpened what the base could already sample."  # fmt: skip
    derived = None
    if any(r.get("pass_by_derivation") for r in rows):
        words = "pass@k by derivation: at least one of k samples goes from the story’s numbers to the answer by valid steps, boxed or not. A right answer that was guessed does not count."  # fmt: skip
        derived = folded(
            "The same by valid derivation",
            figure(_curves(view, rows, "pass_by_derivation", "derived"), words),
        )
    return section(
        "passk", "Sampling more: pass@k",
        figure(_curves(view, rows, "values", "passk"), caption), derived, _numbers(view, rows), _against_base(view),
    )  # fmt: skip


def _curves(view: View, rows: Sequence[Entry], key: str, ident: str) -> list[Markup]:
    """One panel a group; guessing is drawn beside what counts answers."""
    rows = [r for r in rows if r.get(key)]
    guesses = {r.get("family"): r for r in view.rows("guess")} if key == "values" else {}
    every_k = sorted({k for r in rows for k in r["k"]})
    scale = domain([v for r in rows for v in r[key]], 0.0, None)
    panels = []
    for i, (family, recipe) in enumerate(view.groups):
        mine = [r for r in rows if r["family"] == family and r["recipe"] == recipe]
        last = max((r["step"] for r in mine), default=0)
        kept = [r for r in view.by_arm(mine) if r["arm"] == "base" or r["step"] == last]
        series = [Series(r["arm"], view.mark(r["arm"]), r["k"], r[key]) for r in kept]
        if family in guesses and series:
            series.append(
                Series("guessing", "guess", guesses[family]["k"], guesses[family]["values"])
            )
        if series:
            name = view.group_name(family, recipe)
            panels.append(
                lines(f"{ident}-{i}", name, f"pass@k by {NOTIONS[key]} of base and arms for {name}, k from {every_k[0]} to {every_k[-1]}",
                      series, scale, "k, samples per problem", percent_tick, x_log=True,
                      x_marks=_marks(every_k))
            )  # fmt: skip
    return panels


def _marks(every_k: Sequence[int]) -> list[int]:
    """Marks on the axis of k: as many as fit."""
    step = -(-len(every_k) // int(WIDTH / 40))
    return list(every_k[::step])


def _numbers(view: View, rows: Sequence[Entry]) -> Markup:
    every_k = sorted({k for r in rows for k in r["k"]})
    flat = [
        {**r, "counted": words, "curve": r[key]}
        for r in rows for key, words in NOTIONS.items() if r.get(key)
    ]  # fmt: skip
    columns = [
        *case_columns(view),
        Column("Step", lambda r: r.get("step")),
        Column("Counted", lambda r: r["counted"], "what counts as solved; guessing is taken out problem by problem, (p − g)/(1 − g), and may leave less than nothing", numeric=False),
        *(Column(f"k = {k}", lambda r, k=k: percent(_at(r, "curve", k))) for k in every_k),
    ]  # fmt: skip
    tables = [table("pass@k, %, mean over units.", columns, flat)]
    if majorities := view.rows("maj_at_k"):
        columns = [
            *case_columns(view),
            Column("Step", lambda r: r.get("step")),
            Column("k", lambda r: r.get("k")),
            Column("maj@k", lambda r: percent(r.get("value"))),
        ]
        tables.append(table("maj@k, %: the most frequent of k answers is right.", columns, majorities))  # fmt: skip
    return folded("Numbers: pass@k and maj@k", *tables)


def _at(row: Entry, key: str, k: int) -> float | None:
    return dict(zip(row["k"], row.get(key) or (), strict=False)).get(k)


def _against_base(view: View) -> Markup | None:
    rows = ordered(view, view.rows("boundary"))
    if not rows:
        return None
    return join([_crossings(view, rows), _solvable(view, rows)])


def _crossings(view: View, rows: Sequence[Entry]) -> Markup:
    groups: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        last = _end(r, -1)
        low, high = last["low"], last["high"]
        words = f"{points(last['difference'])}  {_outcome(r)}"
        groups.setdefault((r["family"], r["recipe"]), []).append(
            Row(str(r["arm"]), view.mark(r["arm"]), words, last["difference"],
                None if low is None or high is None else (low, high))
        )  # fmt: skip
    every_k = sorted({k for r in rows for k in r["k"]})
    scale = rows_domain(row for group in groups.values() for row in group)
    panels = [
        forest(f"reach-{i}", view.group_name(*group),
               f"Arm minus base in pass@{every_k[-1]} for {view.group_name(*group)}: "
               + "; ".join(f"{r.label} {r.words}" for r in groups[group]),
               groups[group], scale, f"arm − base in pass@{every_k[-1]}, percentage points")
        for i, group in enumerate(view.groups) if group in groups
    ]  # fmt: skip
    caption = (
        f"Arm minus base at k = {every_k[-1]}. Line: 95 % band, right at all k of the trial together, of this arm alone; the unit is the problem: it is "
        "about these checkpoints on further such problems, and says nothing of further training runs. Overtaken: the arm is above at some k, and the base above at "
        "a larger one, both by the band; where no crossing is said, the band admits none. Not decided: it admits a crossing and admits none."
    )
    columns = [
        *case_columns(view),
        Column("At the least k", lambda r: points(_end(r, 0)["difference"]), "arm − base in pass@k, points"),
        Column("95 % band", lambda r: _span(_end(r, 0)), "simultaneous over k; unit: problem"),
        Column("At the most k", lambda r: points(_end(r, -1)["difference"]), "arm − base in pass@k, points"),
        Column("95 % band", lambda r: _span(_end(r, -1)), "simultaneous over k; unit: problem"),
        Column("Crossing", lambda r: _outcome(r).replace(" ", "\N{NO-BREAK SPACE}"), "whether the base overtakes the arm", numeric=False),
        Column("at k", lambda r: number(r.get("crossover"), 0), "the smallest k of the trial at which the estimate is at or below 0 after having been above"),
        Column("k not excluded", lambda r: _ks(r.get("crossover_interval")), "at which some curve in the band crosses"),
        Column("Sampling gap", lambda r: points(r.get("sampling_gap")), "pass@k of the base at the most k − pass@1 of the arm, points; lower is better"),
        Column("Problems", lambda r: _range(r.get("num_problems"))),
        Column("Units", lambda r: number(r.get("num_units"), 0), "whose curves are averaged"),
    ]  # fmt: skip
    said = [r["sentence"] for r in sorted(rows, key=lambda r: not _named(view, r)) if r.get("sentence")]  # fmt: skip
    parts: list[object] = [
        element("h3", "Does the base overtake, with more tries?"),
        listing(said[:SENTENCES]),
    ]
    if said[SENTENCES:]:
        parts.append(folded("The same for the other arms", listing(said[SENTENCES:])))
    gaps, meaning = [], ""
    for r in rows:
        said_of, _, meaning = str(r.get("gap_sentence") or "").partition(". ")
        name = view.group_name(str(r["family"]), str(r["recipe"]))
        gaps.append(f"{name}, {r['arm']}: {said_of}")
    parts += [
        figure(panels, caption),
        folded(
            "Numbers: bands, crossings, sampling gap",
            table(f"Arm against base over k = {', '.join(map(str, every_k))}.", columns, rows),
            listing(gaps),
            element("p", meaning, class_="note"),
        ),
    ]
    return join(parts)


def _named(view: View, row: Entry) -> bool:
    """Whether the case is one of the protocol's primary comparisons."""
    return bool(view.rows("contrasts", family=row["family"], recipe=row["recipe"], arm=row["arm"], primary=True))  # fmt: skip


def _end(row: Entry, at: int) -> Entry:
    return {key: (row.get(key) or [None])[at] for key in ("difference", "low", "high")}


def _span(end: Entry) -> str:
    low, high = end["low"], end["high"]
    return MISSING if low is None or high is None else interval((low, high))


def _outcome(row: Entry) -> str:
    if row.get("same"):
        return "the same"
    found = str(row.get("outcome"))
    return OUTCOMES.get(found, found)


def _ks(pair: Sequence[int] | None) -> str:
    if not pair:
        return MISSING
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"


def _range(counts: Sequence[int] | None) -> str:
    """A number of problems, which may fall with k."""
    if not counts:
        return MISSING
    low, high = min(counts), max(counts)
    return number(low, 0) if low == high else f"{number(low, 0)} to {number(high, 0)}"


CELLS = {
    "both": ("Both", "solved by base and arm"),
    "base_only": ("Base only", "lost"),
    "trained_only": ("Arm only", "new"),
    "neither": ("Neither", "solved by neither"),
}


def _solvable(view: View, rows: Sequence[Entry]) -> Markup:
    bars: dict[tuple[str, str], list[Bar]] = {}
    for r in rows:
        cells = r["solvable"]
        total = sum(cells[c] for c in CELLS)
        if total:
            new, lost = cells["trained_only"] / total, cells["base_only"] / total
            bars.setdefault((r["family"], r["recipe"]), []).append(
                Bar(str(r["arm"]), view.mark(r["arm"]), f"{points(new)} {points(-lost)}", (new, -lost))
            )  # fmt: skip
    scale = bars_domain(bar for group in bars.values() for bar in group)
    panels = [
        stacked(f"solvable-{i}", view.group_name(*group),
                f"Problems per hundred that only the arm or only its base solves in {view.group_name(*group)}: "
                + "; ".join(f"{b.label} {b.words}" for b in bars[group]),
                bars[group], ONLY, scale, "problems per hundred")
        for i, group in enumerate(view.groups) if group in bars
    ]  # fmt: skip
    columns = [
        *case_columns(view),
        *(Column(f"{name}, %", lambda r, c=c: _cell(r, c), f"{words}: share of all pairs of a problem and a unit, with its 95 % interval", numeric=False) for c, (name, words) in CELLS.items()),
        Column("SRR, %", lambda r: percent(r.get("srr")), "support retention rate: of what the base solves, what the arm still solves"),
        Column("NDR, %", lambda r: percent(r.get("ndr")), "net discovery rate: of what the arm solves, what its base does not"),
        Column("SDS, %", lambda r: percent(r.get("sds")), "support dynamic score: harmonic mean of the two"),
        Column("NSCR, %", lambda r: percent(r.get("nscr")), "net support change rate: (new − lost) / all that either solves"),
        Column("New to the arm", lambda r: number(r.get("new_to_trained")), "pairs that half of the base’s samples miss, and as many others of the arm’s solve"),
        Column("New to the base itself", lambda r: number(r.get("new_to_base")), "the same of the base’s own other half: what sampling alone makes new"),
        Column("Left out", lambda r: number(r.get("without_all_samples"), 0), "pairs with a sample of unknown verdict: one side would have had fewer tries"),
    ]  # fmt: skip
    key = legend([
        (name, element("rect", x=1, y=1, width=14, height=12, class_=f"p{i}")) for i, name in enumerate(ONLY)
    ])  # fmt: skip
    return join([
        element("h3", "Which problems only the arm solves, and which only its base"),
        key,
        figure(panels, f"Solved: any of the samples is right. Counted per unit and summed over units. {_visible(rows)}"),
        folded(
            "Numbers: solved by whom",
            table("Pairs of a problem and a unit: count, share in % and its Clopper–Pearson 95 % interval, in which a problem counts once however many units share it.", columns, rows),
        ),
    ])  # fmt: skip


def _cell(row: Entry, name: str) -> str:
    cells, bounds = row["solvable"], (row.get("solvable_ci95") or {}).get(name)
    total = sum(cells[c] for c in CELLS)
    if not total:
        return MISSING
    words = f"{number(cells[name], 0)}: {percent(cells[name] / total)}"
    if bounds and None not in bounds:
        words += f" ({percent(bounds[0])} to {percent(bounds[1])})"
    return words


def _visible(rows: Sequence[Entry]) -> str:
    """What so many samples can tell at all."""
    seen: dict[int, float] = {
        r["num_samples"]: r["smallest_visible"]
        for r in rows if r.get("num_samples") and r.get("smallest_visible") is not None
    }  # fmt: skip
    return " ".join(_says(n, rate) for n, rate in sorted(seen.items()))


def _says(num_samples: int, rate: float) -> str:
    many = "s" if num_samples > 1 else ""
    return (
        f"With {number(num_samples, 0)} sample{many} a problem that is solved in fewer than {percent(rate)} % of tries may well be missed (with "
        "probability .05 or more): “only” means no more than that, and two samplings of one model already differ."
    )
