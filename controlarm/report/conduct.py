"""How the trial was run: what was planned, what finished, what got lost; protocol, environment, notes."""

from controlarm.figures import Stage, flow
from controlarm.markup import Markup, element, escaped, number, percent
from controlarm.report.view import Entry, View, figure, listing, missing, section


def conduct(view: View) -> Markup:
    """The flow of runs and completions, after CONSORT."""
    found = view.summary.get("flow") or {}
    if not found:
        return section("flow", "Flow of the trial", missing("No flow", "the run folder's plan could not be counted."))  # fmt: skip
    failed, unfinished = found.get("runs_failed") or [], found.get("runs_unfinished") or []
    damaged = found.get("damaged") or []
    stages = [
        Stage("runs planned", _count(found.get("runs_planned")),
              (("failed", _count(len(failed))), ("unfinished", _count(len(unfinished))))),
        Stage("runs finished", _count(found.get("runs_finished"))),
        Stage("rollouts trained on", _count(found.get("rollouts_trained")),
              (("truncated", _share(found.get("truncated_trained_share"))),
               ("unscored", _count(found.get("unscored_trained"))),
               ("rewards failed", _count(found.get("reward_failures"))))),
        Stage("completions evaluated", _count(found.get("completions_evaluated")),
              (("unscored", _count(found.get("unscored"))),
               ("truncated", _share(found.get("truncated_evaluated_share"))))),
    ]  # fmt: skip
    words = "; ".join(
        f"{s.total} {s.label}" + "".join(f", {count} {label}" for label, count in s.lost)
        for s in stages
    )
    caption = (
        f"{_count(found.get('problems_training'))} training problems, {_count(found.get('problems_held_out'))} held-out problems. "
        "Unscored: the grader gave up, which is not the same as wrong. Truncated: cut at the longest allowed completion. "
        "Finished runs are analysed; a failed run stops where it failed and is never replaced."
    )
    panel = flow("flow-0", "Flow of runs and completions", words, stages)
    parts: list[object] = [figure([panel], caption, "flow")]
    if failed:
        parts += [element("h3", "Failed runs"), listing([
            f"{f.get('path')} at step {f.get('step')}: {f.get('reason')}" for f in failed])]  # fmt: skip
    if unfinished:
        parts += [element("h3", "Unfinished runs"), listing(unfinished)]
    if damaged:
        parts += [element("h3", "Damaged files"), listing([
            f"{d.get('file')}: {d.get('what')}" for d in damaged])]  # fmt: skip
    return section("flow", "Flow of the trial", *parts)


def _count(value: float | None) -> str:
    return number(value, 0)


def _share(value: float | None) -> str:
    return f"{percent(value)} %" if value is not None else number(None)


def protocol(view: View) -> Markup:
    """The trial file as it was, and what it ran on."""
    trial = view.summary.get("trial") or {}
    toml = trial.get("protocol_toml")
    return section(
        "protocol",
        "Protocol and environment",
        _pairs({"digest": trial.get("digest"), "folder": trial.get("folder")}),
        element("p", "The digest covers everything in the design that can change a result; two reports with the same digest answer the same question the same way.", class_="note"),
        element("h3", "Protocol, word for word"),
        element("pre", element("code", escaped(toml, 100_000)), tabindex="0") if toml else missing("No protocol", "protocol.toml was not readable."),
        element("h3", "Materials"),
        _pairs(trial.get("materials")) or missing("No materials", "plan.json does not list any."),
        element("h3", "Environment"),
        _pairs(trial.get("environment")) or missing("No environment", "environment.json is missing."),
    )  # fmt: skip


def flattened(table: Entry, prefix: str = "") -> list[tuple[str, object]]:
    """A nested table as (dotted path, value) in sorted order.

    >>> flattened({"b": {"c": 1}, "a": [1, 2]})
    [('a', '1, 2'), ('b.c', 1)]
    """
    found: list[tuple[str, object]] = []
    for key in sorted(table):
        value = table[key]
        if isinstance(value, dict):
            found += flattened(value, f"{prefix}{key}.")
        else:
            words = ", ".join(map(str, value)) if isinstance(value, list) else value
            found.append((f"{prefix}{key}", words))
    return found


def _pairs(table: object) -> Markup | None:
    if not isinstance(table, dict) or not table:
        return None
    cells: list[Markup] = []
    for key, value in flattened(table)[:200]:
        cells += [
            element("dt", key),
            element("dd", element("code", "–" if value is None else value)),
        ]
    return element("dl", *cells)


def notes(view: View) -> Markup:
    """What is missing, truncated, unknown or skipped."""
    found = view.summary.get("notes") or []
    body = (
        listing(found)
        if found
        else element("p", "Nothing is missing, truncated, unknown or skipped.")
    )
    return section("notes", "Notes", body)
