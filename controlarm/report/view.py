"""What every section needs to know of a summary: the order of families and arms, their marks, the endpoint."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from controlarm.figures import arm_mark
from controlarm.markup import Markup, element, join, percent

Entry = dict[str, Any]
"""One entry of a list in report.json."""

METRICS = {
    "accuracy": ("Accuracy", "share of completions at temperature 1 whose boxed answer is right"),
    "lenient_accuracy": ("Lenient accuracy", "as accuracy, but any final answer counts, boxed or not"),
    "greedy_accuracy": ("Greedy accuracy", "share of problems whose greedy completion has the right boxed answer"),
    "greedy_lenient_accuracy": ("Greedy lenient accuracy", "as greedy accuracy, but any final answer counts"),
    "code_share": ("Code share", "share of completions that contain the word “python”"),
    "boxed_share": ("Boxed share", "share of completions with a non-empty \\boxed{…}"),
    "reward": ("Reward", "mean of what the arm paid for the training rollouts of a step"),
    "entropy": ("Entropy", "mean uncertainty of the next token while sampling, in nats; lower is more certain"),
    "answer_entropy": ("Answer entropy", "mean uncertainty of the final answer within a group of siblings, in nats; 0 where all say the same"),
    "token_probability": ("Token probability", "mean probability of the sampled token, while sampling"),
    "train_accuracy": ("Training accuracy", "share of training rollouts that are right, whatever the arm paid"),
    "train_code_share": ("Code share in training", "share of training rollouts that contain the word “python”"),
    "clip_low": ("Clipped below", "share of tokens whose probability ratio fell under the lower clip bound"),
    "clip_high": ("Clipped above", "share of tokens whose probability ratio rose over the upper clip bound"),
    "grad_norm": ("Gradient norm", "before clipping, mean over the updates of a step"),
    "equal_groups": ("Equal groups", "share of groups whose rewards are all equal, which teach exactly nothing"),
    "num_tokens": ("Completion length", "mean number of tokens of a training rollout"),
    "sampler_gap_max": ("Sampler gap", "largest difference between sampler and trainer log-probability of a token"),
    "value_loss": ("Value loss", "mean squared error of the value head"),
}  # fmt: skip
"""Name and meaning of each metric; ``docs/metrics.md`` has the formulas."""

RATES = frozenset({
    "accuracy", "lenient_accuracy", "greedy_accuracy", "greedy_lenient_accuracy", "code_share", "boxed_share",
    "train_accuracy", "train_code_share", "clip_low", "clip_high", "equal_groups",
})  # fmt: skip
"""Metrics shown in per cent."""


class View(NamedTuple):
    """A summary with what follows from it."""

    summary: Entry
    groups: list[tuple[str, str]]
    """(family, recipe), in the order of the protocol."""
    arms: list[str]
    marks: dict[str, str]
    """Class of each arm's mark in the figures; also of ``base``."""
    placebo: str
    metric: str
    step: int | None
    margin: float

    def rows(self, name: str, **wanted: object) -> list[Entry]:
        """Entries of one list of the summary with these values; an empty list when it is missing."""
        found = self.summary.get(name) or []
        return [r for r in found if all(r.get(key) == value for key, value in wanted.items())]

    def by_arm(self, rows: Iterable[Entry]) -> list[Entry]:
        """The rows in the order of the arms, base first."""
        order = {arm: i for i, arm in enumerate(["base", *self.arms])}
        return sorted(rows, key=lambda row: order.get(row.get("arm", "base"), len(order)))

    def group_name(self, family: str, recipe: str) -> str:
        """What a panel is called: the recipe is named where there are several."""
        several = len({r for _, r in self.groups}) > 1
        return f"{family} · {recipe}" if several else family

    def mark(self, arm: str) -> str:
        """The arm's class in figures."""
        return self.marks.get(arm, "base")

    def endpoint_rows(self, family: str, recipe: str, versus: str) -> list[Entry]:
        """The contrasts of the endpoint in one group, in the order of the arms."""
        return self.by_arm(
            self.rows("contrasts", family=family, recipe=recipe, versus=versus, metric=self.metric, step=self.step)
        )  # fmt: skip


def view(summary: Entry) -> View:
    """Read the orders off the summary's lists; a dict's order does not survive sorted JSON, a list's does."""
    rows = [
        row
        for name in ("contrasts", "curves", "rewards", "strategies", "rollouts", "pass_at_k")
        for row in summary.get(name) or []
    ]
    protocol = _table(_table(summary, "trial"), "protocol")
    endpoint = _table(protocol, "endpoint")
    first = next((r for r in summary.get("contrasts") or [] if r.get("primary")), {})
    placebo = str(endpoint.get("placebo", ""))
    groups = [(str(r["family"]), str(r["recipe"])) for r in rows if "family" in r and "recipe" in r]
    arms = _once(str(r["arm"]) for r in rows if r.get("arm") not in (None, "base"))
    if placebo in arms:  # contrasts have no row of the placebo with itself, so it would come late
        arms = [*(a for a in arms if a != placebo), placebo]
    treated = [a for a in arms if a != placebo]
    marks = {arm: arm_mark(i) for i, arm in enumerate(treated)}
    return View(
        summary=summary,
        groups=_once(groups),
        arms=arms,
        marks=marks | {placebo: "placebo", "base": "base"},
        placebo=placebo,
        metric=str(endpoint.get("metric") or first.get("metric") or "accuracy"),
        step=endpoint.get("step", first.get("step")),
        margin=float(endpoint.get("margin") or 0.0),
    )


def _once(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _table(parent: Entry, key: str) -> Entry:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def percent_tick(value: float) -> str:
    """A rate at an axis, in per cent: a decimal only where there is one.

    >>> percent_tick(0.2), percent_tick(0.125)
    ('20', '12.5')
    """
    return percent(value, 0 if abs(100 * value - round(100 * value)) < 1e-9 else 1)


def section(ident: str, heading: str, *children: object) -> Markup:
    """A numbered part of the page that the contents can point to."""
    return element(
        "section",
        element("h2", heading, id=f"{ident}-h"),
        *children,
        id=ident,
        aria_labelledby=f"{ident}-h",
    )


def missing(what: str, why: str) -> Markup:
    """The line that stands where something would have stood."""
    return element("p", f"{what}: {why}", class_="missing")


def figure(panels: Sequence[Markup], caption: object, class_: str | None = None) -> Markup:
    """Panels side by side, as many as the screen is wide, and what to read off them."""
    return element(
        "figure",
        element("div", *panels, class_="panels"),
        element("figcaption", caption),
        class_=class_,
    )


class Column(NamedTuple):
    """One column of a table: its head, what the head means, and how to write a row's cell."""

    head: str
    cell: Callable[[Entry], object]
    title: str | None = None
    numeric: bool = True


def table(
    caption: str, columns: Sequence[Column], rows: Sequence[Entry], class_: str | None = None
) -> Markup:
    """A table that scrolls sideways on its own when the screen is narrow; the first column heads the rows."""
    head = [
        element(
            "th",
            element("abbr", c.head, title=c.title) if c.title else c.head,
            scope="col",
            class_="n" if c.numeric else None,
        )
        for c in columns
    ]
    body = [
        element(
            "tr",
            *(
                element("th", c.cell(row), scope="row")
                if i == 0
                else element(
                    "td", c.cell(row), class_="n" if c.numeric else None, data_label=c.head
                )
                for i, c in enumerate(columns)
            ),
        )
        for row in rows
    ]
    whole = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *body),
        class_=class_,
        aria_label=caption,
    )
    # The caption stands outside what scrolls, so that it can be read whole on a narrow screen.
    return join([
        element("p", caption, class_="caption"),
        element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption),
    ])  # fmt: skip


def legend(names: Sequence[tuple[str, Markup]]) -> Markup:
    """Marks and what they stand for."""
    items = [
        element("li", element("svg", shape, viewBox="0 0 18 14", aria_hidden="true"), name)
        for name, shape in names
    ]
    return element("ul", *items, class_="legend")


def folded(summary: str, *children: object) -> Markup:
    """Numbers behind a line that opens them."""
    return element("details", element("summary", summary), *children)


def case_columns(view: View) -> list[Column]:
    """Whose row it is."""
    return [
        Column("Arm", lambda r: r.get("arm"), numeric=False),
        Column("Family", lambda r: view.group_name(str(r.get("family")), str(r.get("recipe"))), numeric=False),
    ]  # fmt: skip


def ordered(view: View, rows: Iterable[Entry]) -> list[Entry]:
    """Rows by group in the protocol's order, then by arm."""
    place = {group: i for i, group in enumerate(view.groups)}
    return sorted(
        view.by_arm(rows),
        key=lambda r: place.get((str(r.get("family")), str(r.get("recipe"))), len(place)),
    )


def listing(items: Sequence[object], limit: int = 200) -> Markup:
    """A list, cut with a line that says how much is not shown."""
    shown = [element("li", item) for item in items[:limit]]
    if len(items) > limit:
        shown.append(element("li", f"… and {len(items) - limit:,} more, all in report.json"))
    return element("ul", join(shown), class_="plain")
