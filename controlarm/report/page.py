"""The page around the sections: one file, no network, and a policy under which only our own script can run."""

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources

from controlarm.markup import Markup, element, escaped, join
from controlarm.report import boundary, conduct, dynamics, effects, explanations, rollouts, training
from controlarm.report.view import Entry, View, view

SECTIONS = (
    ("verdict", "Verdict", effects.verdict),
    ("controls", "Controls", effects.controls),
    ("effects", "Gain over placebo", effects.effects),
    ("curves", "Curves", training.curves),
    ("dynamics", "Dynamics", dynamics.dynamics),
    ("strategies", "Strategies", training.strategies),
    ("decomposition", "Decomposition", explanations.decomposition),
    ("passk", "pass@k", boundary.boundary),
    ("rewards", "Rewards", training.rewards),
    ("flow", "Flow", conduct.conduct),
    ("rollouts", "Completions", rollouts.browser),
    ("protocol", "Protocol", conduct.protocol),
    ("notes", "Notes", conduct.notes),
)
"""In the order of the page: the answer first, how it was got last."""


def render(summary: Entry) -> str:
    """The whole page, a pure function of the summary: equal summaries give equal bytes."""
    seen = view(summary)
    trial = summary.get("trial") or {}
    return document(
        f"{trial.get('name') or 'trial'}: report of a placebo-controlled trial",
        _header(seen, trial),
        [build(seen) for _, _, build in SECTIONS],
        "Every number on this page is in report.json beside it. Made by controlarm from the files of the run folder alone.",
    )


def document(title: str, header: Markup, sections: Iterable[Markup], foot: str) -> str:
    """A page of its own: one file, its style and its one script within, and a policy that allows nothing else."""
    style = resources.files("controlarm.report").joinpath("page.css").read_text(encoding="utf-8")
    script = resources.files("controlarm.report").joinpath("page.js").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"  # fmt: skip
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content="controlarm"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        header,
        element("main", *sections),
        element("footer", element("p", foot)),
        element("script", Markup(script)),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(seen: View, trial: Entry) -> Markup:
    flow = seen.summary.get("flow") or {}
    families = list(dict.fromkeys(family for family, _ in seen.groups))
    facts = [
        f"{flow.get('runs_finished', '–')} of {flow.get('runs_planned', '–')} runs finished",
        _several(len(families), "family", "families") if families else None,
        _several(len(seen.arms), "arm", "arms") if seen.arms else None,
        join(["digest ", element("code", str(trial.get("digest") or "–")[:8])]),
        None if trial.get("complete") else element("span", "incomplete", class_="badge bad"),
    ]
    contents = [element("li", element("a", name, href=f"#{ident}")) for ident, name, _ in SECTIONS]
    return element(
        "header",
        element("p", "Report of a placebo-controlled trial", class_="over"),
        element("h1", trial.get("name") or "Unnamed trial"),
        element("p", escaped(trial.get("question") or "The protocol asks no question.", 2000), class_="question"),
        element("ul", *(element("li", fact) for fact in facts if fact is not None), class_="meta"),
        element("button", "Dark page", id="theme", type="button", hidden=True),
        element("nav", element("ul", *contents, class_="contents"), aria_label="Contents"),
    )  # fmt: skip


def _several(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
