"""Kill -9 at seeded instants over whole trials, each resumed, each in the end compared with an undisturbed one.

A third of the instants are random moments, struck from outside; a third are moments at which a process was seen in a
random stage; a third are writes, renames and flushes of a random kind of file, which no clock would hit.
"""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

from controlarm import seeds
from tests.faults import command
from tests.faults.command import Fault

STAGES = {
    "preparation": 3, "import": 300, "labels": 40, "sampling": 80, "update": 80, "evaluation": 40, "checkpoint write": 5,
    "analysis": 40, "report": 4,
}  # fmt: skip
"""And for how many sights of it, two milliseconds apart, it surely lasts; in the order in which a trial comes to them."""
FILES = {
    "write:problems.parquet": 1, "rename:plan.json": 1, "rename:labels": 1, "write:evaluations": 2, "sync:steps.jsonl": 2,
    "tear:steps.jsonl": 4, "rename:rollouts": 4, "rename:evaluations": 3, "write:shards": 1, "rename:shards": 2,
    "write:checkpoints": 1, "rename:checkpoints": 2, "rename:report.json": 1, "write:report.html": 1,
    "rename:endpoint.svg": 1,
}  # fmt: skip
"""And how often it happens in every trial, at least."""
ORDER = [*[*STAGES][:-2], *FILES, *[*STAGES][-2:]]
WHOM = ["group", "parent", "group", "worker"]

STAGE_OF_FILE = {
    "steps.jsonl": "journal write", "shards": "checkpoint write", "checkpoints": "checkpoint write",
    "evaluations": "evaluation write", "rollouts": "rollouts write", "labels": "labels write",
    "report.json": "report write", "report.html": "report write", "endpoint.svg": "report write",
    "plan.json": "preparation", "problems.parquet": "preparation",
}  # fmt: skip

MOST_KILLS = 5
"""Of one trial, before it may end."""


def instants(seed: int, seconds: float, a_trial: int) -> Iterator[Fault]:
    """Endless; ``seconds`` is what an undisturbed trial takes. Those of one trial are in the order in which it comes to them."""
    rng = seeds.generator("tests", "kill", seed)
    drawn: dict[int, list[str]] = {1: [], 2: []}

    def fault(number: int) -> Fault:
        third = number % 3
        if third == 0:
            return Fault(f"after:{rng.uniform(0.05, 0.5) * seconds:.2f}", 1, SIGKILL, "group")
        kinds = STAGES if third == 1 else FILES
        if not drawn[third]:  # each once, in random order, before any comes again
            drawn[third] = rng.permutation(list(kinds)).tolist()
        kind = drawn[third].pop()
        nth = int(rng.integers(1, kinds[kind] + 1))
        return Fault(f"stage:{kind}" if third == 1 else kind, nth, SIGKILL, "group")

    def place(fault: Fault) -> int:
        name = fault.event.removeprefix("stage:")
        return ORDER.index(name) if name in ORDER else -1

    for first in itertools.count(step=a_trial):
        for number, one in enumerate(
            sorted(map(fault, range(first, first + a_trial)), key=place), first
        ):
            whom = WHOM[number % len(WHOM)]
            yield one if whom == "worker" and place(one) < 0 else one._replace(whom=whom)


def stage_of(told: str) -> str:
    kind, _, name = told.partition(":")
    return name if kind == "stage" else STAGE_OF_FILE.get(name, told)


def run(
    place: Path,
    undisturbed: Path,
    seconds: float,
    num_kills: int,
    seed: int,
    say: Callable[[str], None],
) -> set[str]:
    """Kill, resume and compare; says one line a kill and returns the stages in which they landed.

    Raises:
        AssertionError: something was lost, half-written or different.
    """
    a_trial = min(MOST_KILLS, num_kills)
    faults, landed, kills, trials = instants(seed, seconds, a_trial), set(), 0, 0
    again: Fault | None = None
    while kills < num_kills:
        trials += 1
        runs, sessions = Path(f"killed-{trials}"), []
        while kills < num_kills and len(sessions) < a_trial:
            fault, again = again or next(faults), None
            struck = command.strike(place, runs, fault, place / f"log-{trials}-{len(sessions)}")
            what = f"{fault.event}, number {fault.nth}, {fault.whom}"
            if struck is None:
                say(f"trial {trials}: ended before {what}")
                again = (
                    fault if sessions else None
                )  # a trial that was not killed yet has more to come
                break
            kills += 1
            stages = {stage_of(told) for told in struck.stages}
            landed |= stages
            say(
                f"trial {trials}, kill {kills}: {what}: in {' and '.join(sorted(stages))}; exit code {struck.code}"
            )
            assert struck.code in ((-9,) if fault.whom != "worker" else (-9, 2)), struck.output
            sessions.append(struck.session)
            if fault.whom == "group":
                command.assert_nothing_is_half_written(place / runs)
        folder = command.whole(place, runs)
        different = command.differences(folder, undisturbed)
        assert not different, f"trial {trials} differs from an undisturbed one in {different}"
        num_files = len(command.contents(folder))
        say(
            f"trial {trials}: after {len(sessions)} kills the same {num_files} files, byte for byte"
        )
        for session in sessions:
            command.gone(session, time.time())
        shutil.rmtree(place / runs)
    return landed
