"""What a person sees while a trial runs: a live table on a terminal, plain lines in a log."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controlarm.analysis.scores import score
from controlarm.benchmark import Advance
from controlarm.markup import visible
from controlarm.protocol import Protocol, RunSpec

LINES_PER_SHARD = 10
"""Training steps told in a log, about."""
SHOWN = ("reward", "accuracy", "code_share")

Report = Mapping[str, Any]
"""As engines send them: stage, shard, step, seconds, and the runs' newest numbers by path."""


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42.4), duration(307), duration(7500)
    ('42 s', '5 min 07 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(kw_only=True)
class Progress:
    """How far the unfinished shards are, and what the arms last did."""

    protocol: Protocol
    specs: Sequence[RunSpec]
    shards: Sequence[Sequence[int]]
    waiting: Sequence[int]
    """Shards to be trained now."""
    workers: int
    began: float = field(default_factory=time.monotonic)
    steps: dict[int, int] = field(default_factory=dict)
    """Shard → step reached."""
    trained: set[int] = field(default_factory=set)
    """Shards that have made a step since this command began."""
    finished: set[int] = field(default_factory=set)
    newest: dict[str, Mapping[str, float | None]] = field(default_factory=dict)
    """Run's path → its numbers at its last step; all None once it has failed."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Stage → how long it took, each time."""
    lost: int = 0
    """Attempts of a fleet that did not get to their end."""

    def hear(self, report: Report) -> None:
        """Take in one report."""
        shard, stage = report["shard"], report["stage"]
        if stage == "lost":
            self.lost += 1
            return
        self.steps[shard] = max(self.steps.get(shard, 0), report.get("step", 0))
        if stage == "finished":
            self.finished.add(shard)
            self.steps[shard] = self.protocol.design.num_steps
            return
        self.newest.update(report.get("runs", {}))
        kind = "started" if stage == "evaluated" and report["step"] == 0 else stage
        if kind != "trained" or shard in self.trained:
            self.seconds.setdefault(kind, []).append(report["seconds"])
        if kind == "trained":
            self.trained.add(shard)

    def remaining(self) -> float | None:
        """Seconds to go, about; None before there is a step to judge by.

        The first time is the slowest, since functions compile then: a shard's first step does not count, of rarer things the least does.
        """
        if not self.seconds.get("trained"):
            return None
        a_step = statistics.median(self.seconds["trained"])
        a_start = min(self.seconds.get("started", [0.0]))
        a_probe = min(self.seconds.get("probed", [0.0]))
        an_evaluation = min(self.seconds.get("evaluated", [0.0]))
        # As the workers will take them: the shards at work first, each next one by whoever is free first.
        busy = [0.0] * self.workers
        to_do = [s for s in self.waiting if s not in self.finished]
        for shard in sorted(to_do, key=lambda s: s not in self.steps):
            step = self.steps.get(shard, 0)
            left = (self.protocol.design.num_steps - step) * a_step
            left += sum(s > max(step, 0) for s in self.protocol.evaluation.steps) * an_evaluation
            left += a_probe
            left += 0.0 if shard in self.steps else a_start
            busy[busy.index(min(busy))] += left
        return max(busy)

    def shard_name(self, shard: int) -> str:
        """Example: ``coder-p1-s1``, with the recipe where there are several, up to the last unit where there are."""
        specs = [self.specs[i] for i in self.shards[shard]]
        recipe = f"-{specs[0].recipe}" if len(self.protocol.recipes) > 1 else ""
        first, last = (f"p{s.pretraining_seed}-s{s.seed}" for s in (specs[0], specs[-1]))
        return f"{specs[0].family}{recipe}-{first}" + (f" to {last}" if last != first else "")

    def line(self, report: Report) -> str | None:
        """A report as a line of a log; None for most steps."""
        stage, shard, step = report["stage"], report["shard"], report.get("step", 0)
        last = self.protocol.design.num_steps
        every = max(1, last // LINES_PER_SHARD)
        head = f"shard {shard + 1} of {len(self.shards)}, {self.shard_name(shard)}"
        if stage == "finished":
            return f"{head}: finished in {duration(report['seconds'])}"
        if stage == "lost":
            then = f"goes on from step {step}" if report["again"] else "is given up"
            return f"{head}: lost on {report['node']}: {report['reason']}; it {then}"
        if stage == "labelled":
            return f"{head}: labelled by the base model in {duration(report['seconds'])}"
        if stage in ("evaluated", "probed"):
            return f"{head}: {stage} at step {step}"
        if step % every and step not in (1, last):
            return None
        left = self.remaining()
        eta = f"; about {duration(left)} left in all" if left is not None else ""
        return f"{head}: step {step} of {last}, {report['seconds']:.2f} s; {self._in_question(report)}{eta}"

    def _in_question(self, report: Report) -> str:
        """Training accuracy of the placebo and the arms compared with it."""
        end, told = self.protocol.endpoint, []
        compared = [c.arm for c in end.primary]
        for path, values in report.get("runs", {}).items():
            arm = path.split("/")[1]
            if arm in (*compared, end.placebo):
                told.append(f"{arm} {_number(values.get('accuracy'), _failed(values))}")
        return f"accuracy {', '.join(told)}" if told else "no accuracy"

    def table(self, height: int) -> Group:
        """Every arm of every family, means over units of their newest step; only families in training where lines are short."""
        families = self.protocol.design.families
        several = len(self.protocol.recipes) > 1
        if len(families) * len(self.protocol.recipes) * len(self.protocol.arms) > height - 6:
            busy = {self.specs[self.shards[s][0]].family for s in self.steps.keys() - self.finished}
            families = [f for f in families if f in busy] or families[-1:]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("family", *(["recipe"] if several else []), "arm"):
            table.add_column(name)
        for name in ("step", "reward", "accuracy", "code share"):
            table.add_column(name, justify="right")
        for family in families:
            for recipe in self.protocol.recipes:
                for arm in self.protocol.arms:
                    head = (family, recipe, arm) if several else (family, arm)
                    cells = (*head, *self._row(family, recipe, arm))
                    table.add_row(*map(Text, cells))
        return Group(table, Text(self._summary(), style="dim"))

    def _row(self, family: str, recipe: str, arm: str) -> list[str]:
        members = {
            s.path: i for i, s in enumerate(self.specs) if s[:1] + s[2:4] == (family, recipe, arm)
        }
        steps = [self.steps[n] for n, runs in enumerate(self.shards)
                 if n in self.steps and members.keys() & {self.specs[i].path for i in runs}]  # fmt: skip
        heard = [self.newest[path] for path in members if path in self.newest]
        alive = [values for values in heard if not _failed(values)]
        cells = []
        for name in SHOWN:
            known = [v for values in alive if (v := values.get(name)) is not None]
            cells.append(
                _number(statistics.fmean(known) if known else None, bool(heard) and not alive)
            )
        span = sorted({min(steps), max(steps)}) if steps else []
        return ["–".join(map(str, span)) or "·", *cells]

    def _summary(self) -> str:
        left = self.remaining()
        parts = [
            f"{len(self.shards) - len(self.waiting) + len(self.finished)} of {len(self.shards)} shards finished",
            f"{duration(time.monotonic() - self.began)} so far",
            f"about {duration(left)} left"
            if left is not None
            else "starting (the first step compiles)",
            *([f"{self.lost} attempts lost"] if self.lost else []),
        ]
        return " · ".join(parts)


def _failed(values: Mapping[str, float | None]) -> bool:
    return all(value is None for value in values.values())


def _number(value: float | None, failed: bool = False) -> str:
    return "failed" if failed else "·" if value is None else f"{value:.2f}"


@contextmanager
def watching(progress: Progress, console: Console) -> Iterator[Callable[[Report], None]]:
    """Show reports as they come: give what this yields to ``trial.run``."""
    if not console.is_terminal:

        def tell(report: Report) -> None:
            progress.hear(report)
            line = progress.line(report)
            if line is not None:
                console.print(Text(visible(line)), soft_wrap=True)

        yield tell
        return
    with Live(progress.table(console.height), console=console, refresh_per_second=4) as live:

        def update(report: Report) -> None:
            progress.hear(report)
            live.update(progress.table(console.height))

        yield update


@dataclass(kw_only=True)
class Filling:
    """How far a condition of a store is, and how the model does on it so far."""

    began: float = field(default_factory=time.monotonic)
    newest: Advance | None = None
    told: int = 0
    """Tenths of the way that a log has been told of."""

    def hear(self, advance: Advance) -> None:
        self.newest = advance

    def remaining(self) -> float | None:
        """Seconds to go, by what this command has made so far; None before it has made anything."""
        now = self.newest
        if now is None or not now.made:
            return None
        return (now.planned - now.done) * (time.monotonic() - self.began) / now.made

    def line(self) -> str:
        """Example: ``math500, chat, sampled: 1,024 of 8,000 samples; strict 0.52 (0.47 to 0.57) on 64 problems; about 12 min 10 s left``."""
        now = self.newest
        if now is None:
            return "starting"
        condition = now.condition
        decoding = "greedy" if condition.greedy else "sampled"
        parts = [
            f"{condition.problems}, {condition.prompt}, {decoding}: {now.done:,} of {now.planned:,} samples"
        ]
        rates = [right / known for right, known in now.right.values() if known]
        if rates:
            so_far = score(np.array(rates))
            parts.append(
                f"strict {so_far.value:.2f} ({so_far.low:.2f} to {so_far.high:.2f}) on {len(rates)} problems"
            )
        left = self.remaining()
        if left is not None and now.done < now.planned:
            parts.append(f"about {duration(left)} left")
        return "; ".join(parts)

    def due(self) -> bool:
        """Whether a log should be told: first, at each tenth of the way, last."""
        now = self.newest
        assert now is not None
        tenth = 10 * now.done // max(1, now.planned)
        due = now.made == 0 or tenth > self.told
        self.told = tenth
        return due


@contextmanager
def filling(console: Console) -> Iterator[Callable[[Advance], None]]:
    """Show how a condition is filled: a live line on a terminal, a line each tenth in a log."""
    seen = Filling()
    if not console.is_terminal:

        def tell(advance: Advance) -> None:
            seen.hear(advance)
            if seen.due():
                console.print(Text(visible(seen.line())), soft_wrap=True)

        yield tell
        return
    with Live(Text(seen.line()), console=console, refresh_per_second=4) as live:

        def update(advance: Advance) -> None:
            seen.hear(advance)
            live.update(Text(visible(seen.line())))

        yield update
