"""What a watcher sees, in parts that change by themselves: a live page replaces a part, an export holds them all.

Every part is markup of `controlarm.markup`, where nothing of a folder can become an element. Charts are the report's own.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from controlarm import files
from controlarm.analysis import dynamics, tables
from controlarm.figures import arm_mark
from controlarm.files import DamagedFileError
from controlarm.markup import MISSING, Markup, element, escaped, join, number, percent, significant
from controlarm.progress import duration
from controlarm.protocol import Protocol
from controlarm.report.page import document
from controlarm.report.rollouts import TEXT_LIMIT, VERDICTS
from controlarm.report.training import metric_figure
from controlarm.report.view import Column, Entry, View, listing, missing, section, table
from controlarm.watch.alarms import ALARMS, WINDOW, Alarm, alarms
from controlarm.watch.reader import Stamp, Watched, Watcher, file_of, stamp

HELD_OUT = tables.EVALUATION_CURVES
FIRST = (
    "accuracy",
    "reward",
    "train_accuracy",
    "train_code_share",
    "entropy",
    "clip_low",
    "clip_high",
)
"""Curves that are drawn with every seed."""
FURTHER = (
    "lenient_accuracy", "greedy_accuracy", "code_share", "boxed_share", "equal_groups", "answer_entropy", "num_tokens",
    "grad_norm", "token_probability", "sampler_gap_max", "value_loss",
)  # fmt: skip
"""Folded, means alone."""
SHOWN_PROBLEMS = 2
"""Problems of a family whose rollouts are shown."""
ROLLOUT_COLUMNS = ("problem_id", "sample", "text", "strict", "answer", "has_python", "truncated", "reward", "advantage")  # fmt: skip


class Part(NamedTuple):
    """A piece of the page."""

    ident: str
    of: tuple[str, ...]
    """Which counters of the watcher it depends on; ``now``: on the time, too."""
    build: Callable[["Sight"], Markup]


class Sight:
    """A watcher with what its parts need in common, made once a look."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.now = 0.0
        self._rows: dict[tuple[int, str], tuple[int, list[Entry]]] = {}
        self._texts: dict[Path, tuple[Stamp | None, list[Entry] | str]] = {}

    def look(self, now: float) -> bool:
        """Look at the folder; whether anything is new."""
        self.now = now
        return self.watcher.look(now)

    @property
    def protocol(self) -> Protocol:
        """Of a folder that has its plan."""
        assert self.watcher.protocol is not None
        return self.watcher.protocol

    @property
    def title(self) -> str:
        """Of the page."""
        return self.protocol.trial.name if self.watcher.protocol else "a trial that has not begun"

    def curves(self, metric: str) -> list[Entry]:
        """Rows of one metric, as in ``report.json``."""
        rows, held_out = [], metric in HELD_OUT
        most = dynamics.points_for(len(self.watcher.runs))
        for i, run in enumerate(self.watcher.runs):
            count = len(run.evaluated) if held_out else len(run.journal.get("step", ()))
            # A journal that was cut back and grew again says the same again, so its length tells whether it changed.
            known = self._rows.get((i, metric))
            if known is None or known[0] != count:
                if held_out:
                    made = [
                        r
                        for r in tables.evaluation_rows(run.spec, run.evaluated)
                        if r["metric"] == metric
                    ]
                else:
                    made = tables.training_rows(run.as_run(), most, [metric]) if count else []
                for row in made:
                    row["values"] = [v if math.isfinite(v) else None for v in row["values"]]
                known = self._rows[i, metric] = (count, made)
            rows += known[1]
        return rows

    def view(self, metric: str) -> View:
        """What the report's charts ask for; arms keep their marks whichever of them has begun."""
        p, end = self.protocol, self.protocol.endpoint
        treated = [arm for arm in p.arms if arm != end.placebo]
        marks = {arm: arm_mark(i) for i, arm in enumerate(treated)}
        return View(
            summary={"curves": self.curves(metric)}, groups=[(f, r) for f in p.design.families for r in p.recipes],
            arms=[*treated, end.placebo], marks=marks | {end.placebo: "placebo", "base": "base"},
            placebo=end.placebo, metric=end.metric, step=end.step, margin=end.margin,
        )  # fmt: skip

    def case(self, family: str, recipe: str, arm: str) -> list[Watched]:
        """The runs of an arm."""
        wanted = (family, recipe, arm)
        return [
            r for r in self.watcher.runs if (r.spec.family, r.spec.recipe, r.spec.arm) == wanted
        ]

    def rollouts(self, path: Path) -> list[Entry] | str:
        """Rows of a file of rollouts, or what is wrong with it; read once."""
        now, known = stamp(path), self._texts.get(path)
        if known is None or known[0] != now:
            if len(self._texts) > 1000:
                self._texts.clear()
            known = self._texts[path] = (now, _rows(path))
        return known[1]


def _rows(path: Path) -> list[Entry] | str:
    try:
        whole = files.read_table(path, ROLLOUT_COLUMNS)
    except DamagedFileError as error:
        return error.what
    except OSError as error:
        return error.strerror or str(error)
    firsts = list(dict.fromkeys(whole["problem_id"].to_pylist()))[:SHOWN_PROBLEMS]
    return [r for r in whole.to_pylist() if r["problem_id"] in firsts and r["sample"] == 0]


# Parts.


def facts(sight: Sight) -> Markup:
    """What trial it is and how far."""
    watcher = sight.watcher
    if watcher.protocol is None:
        return join([
            element("h1", "Not begun"),
            element("p", "The folder has no plan.json yet; the page goes on by itself when it has.", class_="question"),
        ])  # fmt: skip
    states = [run.state(watcher.protocol) for run in watcher.runs]
    count = states.count
    items: list[object] = [
        f"{count('finished')} of {len(states)} runs finished",
        f"{count('training')} in training" if count("training") else None,
        f"{count('waiting')} waiting" if count("waiting") else None,
        element("span", f"{count('failed')} failed", class_="badge bad") if count("failed") else None,
        join(["digest ", element("code", str(watcher.plan["digest"])[:8])]),
        *_pace(sight, done=not count("training") and not count("waiting")),
    ]  # fmt: skip
    return join([
        element("h1", watcher.protocol.trial.name),
        element("p", escaped(watcher.protocol.trial.question, 2000), class_="question"),
        element("ul", *(element("li", item) for item in items if item is not None), class_="meta"),
    ])  # fmt: skip


def _pace(sight: Sight, done: bool) -> list[object]:
    """Whether somebody works on it, and for how long still."""
    watcher = sight.watcher
    if watcher.archived:
        return ["a record, as it was kept"]
    if done or watcher.progress is None or not watcher.heard:
        return []
    silent = sight.now - watcher.heard
    if silent > watcher.idle_after():
        return [element("span", f"quiet for {_roughly(silent)}: stopped, or a copy", class_="badge even")]  # fmt: skip
    left = watcher.progress.remaining()
    workers = watcher.progress.workers
    return [
        f"about {duration(left)} left with {workers} worker{'s' if workers > 1 else ''}"
        if left is not None
        else "the first step is not done"
    ]


def _roughly(seconds: float) -> str:
    """A silence, so that its words do not change each second.

    >>> _roughly(100), _roughly(7300), _roughly(200_000)
    ('1 min', '2 h', '2 days')
    """
    for size, unit in ((86_400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
    return f"{int(seconds)} s"


def warnings(sight: Sight) -> Markup:
    """Alarms, failed runs, damaged files."""
    watcher = sight.watcher
    if watcher.protocol is None:
        return missing("No alarm", "no run has journalled a step yet.")
    items: list[object] = [_alarm(alarm, sight) for alarm in alarms(watcher.protocol, watcher.runs)]
    items += [
        join([element("b", "failed run"), f": {r.spec.path} at step {r.failure.get('step')}: {r.failure.get('reason')}"])
        for r in watcher.runs if r.failure
    ]  # fmt: skip
    items += [join([element("b", "damaged file"), f": {d.file}: {d.what}; left out"]) for d in watcher.damaged]  # fmt: skip
    if not items:
        looked = ", ".join(words for _, words, _ in ALARMS.values())
        return element("p", f"No alarm. Looked for: {looked}, failed runs, damaged files.", class_="note")  # fmt: skip
    return element("div", listing(items), class_="warning")


def _alarm(alarm: Alarm, sight: Sight) -> Markup:
    _, words, meaning = ALARMS[alarm.name]
    several = len(sight.protocol.recipes) > 1
    where = " · ".join([alarm.family, *([alarm.recipe] if several else []), alarm.arm])
    runs = f"{alarm.num_runs} of {alarm.of} run{'s' if alarm.of > 1 else ''}"
    when = f"since step {alarm.first}" if alarm.num_on else f"steps {alarm.first} to {alarm.last}, over now"  # fmt: skip
    return join([element("b", words), f": {where}, {runs}, {when}: {meaning}"])


def arms(sight: Sight) -> Markup:
    """Every arm's newest numbers."""
    if sight.watcher.protocol is None:
        return missing("No arms", "there is no protocol yet.")
    p = sight.protocol
    several = len(p.recipes) > 1
    rows = [
        {"family": f, "recipe": r, "arm": a, "runs": sight.case(f, r, a)}
        for f in p.design.families for r in p.recipes for a in p.arms
    ]  # fmt: skip
    columns = [
        Column("Arm", lambda r: r["arm"], numeric=False),
        Column("Family", lambda r: f"{r['family']} · {r['recipe']}" if several else r["family"], numeric=False),
        Column("Runs", lambda r: _states(r["runs"], p), "one a seed", numeric=False),
        Column("Step", lambda r: _span([run.step for run in r["runs"] if run.step])),
        Column("Reward", lambda r: significant(_newest(r["runs"], "reward"), 3), "mean of what the arm paid"),
        Column("Right, %", lambda r: percent(_newest(r["runs"], "accuracy")), "training rollouts whose boxed answer is right, whatever the arm pays"),
        Column("Held out, %", lambda r: _held_out(r["runs"], p), f"{p.endpoint.metric} on held-out problems, after so many steps: the newest that all these runs have"),
        Column("Code, %", lambda r: percent(_newest(r["runs"], "code_share")), "training rollouts with the word “python”"),
        Column("Entropy", lambda r: significant(_newest(r["runs"], "entropy"), 2), "nats a token"),
        Column("Clip low, %", lambda r: percent(_newest(r["runs"], "clip_low"), 2), "share of tokens under the lower clip bound"),
        Column("Clip high, %", lambda r: percent(_newest(r["runs"], "clip_high"), 2), "share of tokens over the upper clip bound"),
    ]  # fmt: skip
    caption = f"Means over the runs of an arm, each at its newest step of {p.design.num_steps}; failed runs left out."
    return table(caption, columns, rows)


def _states(runs: Sequence[Watched], protocol: Protocol) -> str:
    states = [str(run.state(protocol)) for run in runs]
    order = ("finished", "training", "failed", "waiting")
    return ", ".join(f"{states.count(s)} {s}" for s in order if s in states)


def _span(steps: Sequence[int]) -> str:
    """Lowest and highest."""
    return "–".join(map(str, sorted({min(steps), max(steps)}))) if steps else MISSING


def _newest(runs: Sequence[Watched], name: str) -> float | None:
    """Mean over the runs that have begun and not failed; None over nothing."""
    values = [run.newest(name) for run in runs if not run.failure]
    known = [v for v in values if math.isfinite(v)]
    return statistics.fmean(known) if known else None


def _held_out(runs: Sequence[Watched], protocol: Protocol) -> str:
    begun = [run for run in runs if run.evaluated and not run.failure]
    common = set.intersection(*(set(run.evaluated) for run in begun)) if begun else set()
    if not common:
        return MISSING
    step = max(common)
    values = [run.evaluated[step].get(protocol.endpoint.metric, float("nan")) for run in begun]
    return (
        f"{percent(statistics.fmean(values))} after {step}"
        if all(map(math.isfinite, values))
        else MISSING
    )


def curve(metric: str, members: bool) -> Callable[[Sight], Markup]:
    """The builder of one metric's charts; empty where nothing was measured."""

    def build(sight: Sight) -> Markup:
        if sight.watcher.protocol is None:
            return Markup("")
        return metric_figure(sight.view(metric), metric, members) or Markup("")

    return build


def completions(sight: Sight) -> Markup:
    """The newest training rollouts of each family, the arms side by side."""
    watcher = sight.watcher
    if watcher.archived:
        return missing("No rollouts", "a record keeps none of training; its report shows held-out completions.")  # fmt: skip
    if watcher.protocol is None or not any(run.rollouts for run in watcher.runs):
        return missing("No rollouts", "no step that the protocol logs is done yet ([logging] rollouts_every).")  # fmt: skip
    parts = []
    for family in sight.protocol.design.families:
        for recipe in sight.protocol.recipes:
            parts += _group(sight, family, recipe)
    return element("div", *parts)


def _group(sight: Sight, family: str, recipe: str) -> list[Markup]:
    """Problems of one family, of the unit whose files are newest: at the last step that all of its arms have, or else that any has."""
    units: dict[tuple[int, int], list[Watched]] = {}
    for run in sight.watcher.runs:
        if (run.spec.family, run.spec.recipe) == (family, recipe) and run.rollouts:
            units.setdefault((run.spec.pretraining_seed, run.spec.seed), []).append(run)
    if not units:
        return []

    def common(runs: Sequence[Watched]) -> int:
        shared = frozenset.intersection(*(run.rollouts for run in runs))
        return max(shared or {step for run in runs for step in run.rollouts})

    # The unit in training shows; of several the one that is least far, since it has just begun.
    last = sight.protocol.design.num_steps
    unit = min(units, key=lambda u: (common(units[u]) == last, -common(units[u])))
    step = common(units[unit])
    by_problem: dict[str, list[Markup]] = {}
    broken = []
    for run in units[unit]:
        if step not in run.rollouts:
            continue
        name = f"{run.spec.path}/rollouts/{file_of(step)}"
        rows = sight.rollouts(sight.watcher.folder / name)
        if isinstance(rows, str):
            broken.append(missing(name, rows))
            continue
        for row in rows:
            by_problem.setdefault(row["problem_id"], []).append(_tile(run.spec.arm, row))
    several = len(sight.protocol.recipes) > 1
    name = f"{family} · {recipe}" if several else family
    where = f"{name} · p{unit[0]} · s{unit[1]} · step {step}"
    return [_problem(sight, ident, where, tiles) for ident, tiles in by_problem.items()] + broken


def _problem(sight: Sight, ident: str, where: str, tiles: Sequence[Markup]) -> Markup:
    text, answer = sight.watcher.problems.get(ident, (ident, "unknown"))
    return element(
        "article",
        element("h3", escaped(text, 1000)),
        element("p", f"right answer {answer} · {where}", class_="where"),
        element("div", *tiles, class_="tiles"),
        class_="problem",
    )


def _tile(arm: str, row: Entry) -> Markup:
    words, kind = VERDICTS.get(row["strict"], (row["strict"], "even"))
    reward, advantage = row["reward"], row["advantage"]
    paid = f"reward {significant(reward)}" if reward is not None and math.isfinite(reward) else "the reward failed"  # fmt: skip
    foot = [
        paid,
        f"advantage {number(advantage, 2)}",
        "code" if row["has_python"] else "words",
        "no answer found" if row["answer"] is None else f"answer {row['answer']}",
        *(["truncated"] if row["truncated"] else []),
    ]
    return element(
        "article",
        element("div", element("b", arm), element("span", words, class_=kind), class_="who"),
        element("p", escaped(row["text"], TEXT_LIMIT), class_="text"),
        element("p", " · ".join(foot), class_="foot"),
        class_="tile",
    )


ALL = ("trained", "measured", "told")
PARTS = (
    Part("facts", (*ALL, "now"), facts),
    Part("alarms", ("trained", "told"), warnings),
    Part("arms", ALL, arms),
    *(
        Part(f"curve-{metric}", ("measured" if metric in HELD_OUT else "trained",), curve(metric, metric in FIRST))
        for metric in (*FIRST, *FURTHER)
    ),
    Part("rollouts", ("told",), completions),
)  # fmt: skip
"""In the order of the page."""


def frame(parts: dict[str, Markup], status: Markup | None = None) -> tuple[Markup, list[Markup]]:
    """Header and sections around the parts: nothing in them is of the folder. The status says whether the page is live."""

    def place(ident: str, tag: str = "div") -> Markup:
        return element(tag, parts.get(ident, Markup("")), id=ident)

    contents = [
        ("alarms", "Alarms"),
        ("arms", "Arms"),
        ("curves", "Curves"),
        ("rollouts", "Rollouts"),
    ]
    header = element(
        "header",
        element("p", "Watching a placebo-controlled trial", class_="over"),
        place("facts"),
        status,
        element("button", "Dark page", id="theme", type="button", hidden=True),
        element("nav", element("ul", *(element("li", element("a", name, href=f"#s-{ident}")) for ident, name in contents), class_="contents"), aria_label="Contents"),
    )  # fmt: skip
    further = element("details", element("summary", "Further curves and diagnostics"), *(place(f"curve-{m}") for m in FURTHER))  # fmt: skip
    note = f"Numbers as they come, of steps and seeds at hand. What the rewards taught is not told while a trial runs: looking until it looks right is how a placebo wins. The report has contrasts and verdicts. An alarm is a condition on {WINDOW} steps in succession."
    sections = [
        section("s-alarms", "Alarms", element("div", parts.get("alarms", Markup("")), id="alarms", role="status")),
        section("s-arms", "Arms", place("arms"), element("p", note, class_="note")),
        section("s-curves", "Curves", *(place(f"curve-{m}") for m in FIRST), further),
        section("s-rollouts", "Newest training rollouts", element("p", "The first sample of the same problems under each arm of one unit.", class_="note"), place("rollouts")),
    ]  # fmt: skip
    return header, sections


FOOT = "Made by controlarm from the files of the run folder alone; it writes nothing there."


def export(folder: Path, now: float) -> str:
    """The page of a folder as it stands: one file that needs nothing but a browser.

    Args:
        folder: a run folder, a copy of one, or a record.
        now: seconds since the epoch.

    Raises:
        FolderError: the folder is none of a trial's, or its plan cannot be read.
        ProtocolError: its protocol cannot be read.
        OSError: it cannot be read at all.
    """
    sight = Sight(Watcher(folder))
    sight.look(now)
    header, sections = frame({part.ident: part.build(sight) for part in PARTS})
    return document(f"{sight.title}: a trial as it stood", header, sections, FOOT)


def values(sight: Sight, part: Part) -> tuple[Any, ...]:
    """What a part depends on: where this is the same, so is the part."""
    counters = (getattr(sight.watcher, name) for name in part.of if name != "now")
    return (sight.watcher.protocol is not None, *counters)
