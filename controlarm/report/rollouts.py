"""Completions to look at: the same problem side by side across arms, filtered in the browser.

The data stands in the page as JSON in which no character can end the script element; the page's script sets it as text
only. Without scripts a few problems are shown as they are.
"""

import json
from typing import Any

from controlarm.markup import Markup, element, escaped, join, visible
from controlarm.report.view import Entry, View, missing, section

BUDGET = 1_300_000
"""Bytes of JSON: with the figures of 63 runs the page stays well under 3 MB."""
STATIC = 3
TEXT_LIMIT = 4_000

VERDICTS = {
    "right": ("✓ right", "good"),
    "wrong": ("✗ wrong", "bad"),
    "no_answer": ("no answer", "even"),
    "unknown": ("unknown", "even"),
}


def problems(view: View) -> list[Entry]:
    """Rollouts grouped by problem, families in turn, so that a cut leaves some of each.

    Before training all arms are one model: a completion of step 0 is listed once where the arms agree.
    """
    groups: dict[tuple[Any, ...], Entry] = {}
    for row in view.rows("rollouts"):
        where = tuple(
            row.get(k)
            for k in ("family", "recipe", "pretraining_seed", "seed", "problem_id", "decoding")
        )
        entry = groups.setdefault(where, {
            "f": visible(view.group_name(str(row.get("family")), str(row.get("recipe")))), "u": f"p{row.get('pretraining_seed')} · s{row.get('seed')}",
            "id": visible(row.get("problem_id"), 200), "q": visible(row.get("problem"), 1000),
            "g": visible(row.get("gold"), 200), "d": visible(row.get("decoding"), 40), "rows": [],
        })  # fmt: skip
        answer = row.get("answer")
        step = int(row.get("step") or 0)
        arm = "base" if step == 0 else visible(row.get("arm"), 60)
        tile = [arm, step, visible(row.get("text"), TEXT_LIMIT), visible(row.get("strict"), 40),
                visible(row.get("lenient"), 40), None if answer is None else visible(answer, 200), bool(row.get("code"))]  # fmt: skip
        if tile not in entry["rows"]:
            entry["rows"].append(tile)
    order = {arm: i for i, arm in enumerate(["base", *view.arms])}
    ranks: dict[str, int] = {}
    queue = []
    for entry in groups.values():
        entry["rows"].sort(key=lambda t: (t[1] != 0, order.get(t[0], len(order)), t[1]))
        rank = ranks[entry["f"]] = ranks.get(entry["f"], -1) + 1
        queue.append((rank, entry))
    return [entry for _, entry in sorted(queue, key=lambda pair: pair[0])]


def embedded(data: object) -> str:
    r"""JSON for a script element: ASCII, and nothing that HTML could read as markup.

    >>> embedded("</script>&")
    '"\\u003c/script\\u003e\\u0026"'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def within_budget(entries: list[Entry], budget: int = BUDGET) -> list[Entry]:
    """The first entries whose JSON fits."""
    kept, size = [], 0
    for entry in entries:
        size += len(embedded(entry)) + 1
        if size > budget:
            break
        kept.append(entry)
    return kept


def browser(view: View) -> Markup:
    """The filter, the problems, and the data that the script reads."""
    everything = problems(view)
    if not everything:
        return section("rollouts", "Completions", missing("No completions", "no evaluation file could be sampled."))  # fmt: skip
    kept = within_budget(everything)
    cut = f" The page holds {len(kept)} of the {len(everything)} problems in report.json, to stay small." if len(kept) < len(everything) else ""  # fmt: skip
    total = sum(len(p["rows"]) for p in kept)
    lead = f"{len(kept)} problems with {total} completions: the same problem side by side, before training and under each arm. A sample; every completion is in the run folder.{cut}"  # fmt: skip
    steps = sorted({t[1] for p in kept for t in p["rows"]} - {0})
    arms = [a for a in ["base", *view.arms] if any(t[0] == a for p in kept for t in p["rows"])]
    form = element(
        "form",
        _select("family", "Family", _once(p["f"] for p in kept), "all"),
        _select("unit", "Pretraining seed · seed", sorted({p["u"] for p in kept}), "all"),
        _select("decoding", "Decoding", _once(p["d"] for p in kept), "all"),
        _select("step", "After step", [str(s) for s in reversed(steps)], "all", first=bool(steps)),
        _select("arm", "Arm", arms, "any"),
        _select("verdict", "Verdict", list(VERDICTS), "any"),
        _select("strategy", "Strategy", ["code", "words"], "any"),
        element("label", "Text", element("input", type="search", name="text", autocomplete="off")),
        element("label", element("input", type="checkbox", name="differ", value="1"), "arms disagree", class_="check"),
        element("button", "Clear", type="reset"),
        id="filters",
        hidden=True,
        aria_label="Filter completions",
    )  # fmt: skip
    last = steps[-1] if steps else 0
    static = join(_problem(p, last) for p in kept[:STATIC])
    few = element("p", f"{min(STATIC, len(kept))} problems are shown here; with scripts allowed, the page can filter all {len(kept)}.", id="count", class_="note", role="status")  # fmt: skip
    data = Markup(f'<script type="application/json" id="rollout-data">{embedded({"problems": kept})}</script>')  # fmt: skip
    return section(
        "rollouts", "Completions",
        element("p", lead), form, few, element("div", static, id="problems"),
        element("button", "Show more", id="more", type="button", hidden=True), data,
    )  # fmt: skip


def _once(values: Any) -> list[str]:  # noqa: ANN401  any iterable of names
    return list(dict.fromkeys(values))


def _select(name: str, label: str, values: list[str], every: str, first: bool = False) -> Markup:
    options = [element("option", every, value="")]
    options += [
        element(
            "option",
            v.replace("_", " ") if name == "verdict" else v,
            value=v,
            selected=first and i == 0,
        )
        for i, v in enumerate(values)
    ]
    return element("label", label, element("select", *options, name=name))


def _problem(entry: Entry, last: int) -> Markup:
    where = (
        f"right answer {entry['g']} · {entry['f']} · {entry['u']} · {entry['d']} · {entry['id']}"
    )
    tiles = [_tile(t) for t in entry["rows"] if t[1] in (0, last)]
    return element(
        "article",
        element("h3", entry["q"]),
        element("p", where, class_="where"),
        element("div", *tiles, class_="tiles"),
        class_="problem",
    )


def _tile(tile: list[Any]) -> Markup:
    arm, step, text, strict, lenient, answer, code = tile
    words, kind = VERDICTS.get(strict, (strict, "even"))
    foot = [
        "code" if code else "words",
        "no answer found" if answer is None else f"answer {answer}",
    ]
    if lenient != strict:
        foot.append(f"lenient: {lenient.replace('_', ' ')}")
    if step:
        foot.append(f"step {step}")
    return element(
        "article",
        element("div", element("b", "before training" if step == 0 else arm), element("span", words, class_=kind), class_="who"),
        element("p", escaped(text, TEXT_LIMIT + 100), class_="text"),
        element("p", " · ".join(foot), class_="foot"),
        class_="tile",
    )  # fmt: skip
