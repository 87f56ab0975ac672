"""What both sides of a comparison share: the sizes, the clock, the form of a result."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from controlarm.problems import arithmetic
from controlarm.records import Problem

PHASES = ("generation", "logprobs", "update")
"""What is timed apart; the remainder of a step is ``rest``: rewards, journal, data."""


class Size(NamedTuple):
    """One workload."""

    runs: int
    """Runs that train together in lockstep; the other side trains them one by one."""
    prompts: int
    group: int
    updates: int
    max_tokens: int

    @property
    def rollouts(self) -> int:
        """Completions of one run in one step."""
        return self.prompts * self.group


SIZES = {
    "quick trial": Size(7, 16, 8, 2, 32),
    "single run": Size(1, 64, 16, 2, 32),
    "smoke": Size(2, 2, 4, 2, 16),
}
"""``quick trial`` has the recipe of ``trials/quick.toml``; ``smoke`` shows only that everything works."""

LEARNING_RATE = 3e-4


def num_problems(size: Size) -> int:
    """Training problems: two steps' worth, then they come again."""
    return 2 * size.prompts


def problems(num_problems: int) -> list[Problem]:
    """What both sides train on."""
    return arithmetic.problems("training", num_problems, "benchmark")


class Mark(NamedTuple):
    """The clocks at the end of a step, in seconds."""

    processor: float
    wall: float
    phases: dict[str, float]
    """Processor time spent in each phase so far."""


class Clock:
    """Processor time of this process, by phase, step by step."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.marks: list[Mark] = []
        self.start()

    def timed(
        self,
        owner: Any,  # noqa: ANN401  module or object
        name: str,
        phase: str,
        only: Callable[[], bool] | None = None,
    ) -> None:
        """Put ``owner.name`` on the clock; ``only`` says which calls count. A missing name is an error."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def clocked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            counts = only is None or only()
            started = time.process_time()
            found = function(*args, **kwargs)
            if counts:
                self.spent[phase] += time.process_time() - started
            return found

        setattr(owner, name, clocked)

    def start(self) -> None:
        """Forget what was; the first step begins now."""
        self.spent.clear()
        self.marks.clear()
        self.mark()

    def mark(self) -> None:
        """End of a step."""
        self.marks.append(Mark(time.process_time(), time.perf_counter(), dict(self.spent)))

    def result(self, warmup: int, runs: int, tokens: list[float]) -> dict[str, Any]:
        """Seconds per run and step, over the steps after the warm-up.

        Args:
            warmup: steps that are not counted; the first of them compiles.
            runs: trained together.
            tokens: mean completion tokens of a rollout at each step.
        """
        steps = list(zip(self.marks, self.marks[1:], strict=False))
        counted = steps[warmup:]
        each = [(b.processor - a.processor) / runs for a, b in counted]
        walls = [(b.wall - a.wall) / runs for a, b in counted]
        first, last = counted[0][0], counted[-1][1]
        split = {
            phase: (last.phases.get(phase, 0.0) - first.phases.get(phase, 0.0))
            / runs
            / len(counted)
            for phase in PHASES
        }
        mean = sum(each) / len(each)
        return {
            "cpu_seconds": mean,
            "cpu_seconds_each": each,
            "wall_seconds": sum(walls) / len(walls),
            "phases": split | {"rest": mean - sum(split.values())},
            "tokens_per_rollout": sum(tokens[warmup:]) / len(tokens[warmup:]),
            "warm_up_seconds": counted[0][0].wall - self.marks[0].wall,
        }


def compile_seconds() -> float:
    """Wall time that torch.compile took in this process, all graphs, forward and backward."""
    spent = torch._dynamo.utils.cumulative_time_spent_ns
    return sum(spent[name] for name in ("entire_frame_compile", "entire_backward_compile")) / 1e9
