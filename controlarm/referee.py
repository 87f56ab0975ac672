r"""Whether two answers of mathematics are equal, asked of math-verify where it cannot hurt: the judge of people's problems.

Most pairs never reach it: what `grading` calls the same, what is set in type differently, and what `closed_form` can put
a number to is decided here at once. The rest goes to worker processes (`math_worker`), each of which is killed when a pair
takes longer than the deadline; that pair's verdict is *unknown*, as is that of an answer which only harm would write. What was
decided is remembered, on disk if a file is named.

Nothing here uses signals or alarms, so a referee may be asked from any thread and beside somebody else's alarm.
"""

import contextlib
import json
import os
import re
import selectors
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from controlarm import closed_form, grading, seeds
from controlarm.records import Grade

Pair = tuple[str, str]
"""Gold answer, answer."""

VERSION = f"referee-1+{grading.VERSION}+math-verify-{version('math-verify')}"
"""Changes whenever a verdict could; names the cached verdicts and every grade that is stored."""

MAX_LENGTH = 2000
"""Longest answer (characters) that is asked about."""
MAX_DIGITS = 256
"""Longest run of digits."""
PAIRS_A_WORKER = 2000
"""Pairs after which a worker is replaced, since sympy's memory only grows."""
START = 120.0
"""Seconds within which a worker must stand."""

_WORKER = Path(__file__).with_name("math_worker.py")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_CODE = re.compile(
    r"__|(?<![\\\w])(?:import|eval|exec|lambda|compile|getattr|globals|system|open)\s*\("
)
_FACTORIAL = re.compile(r"!\s*[)}\]]*\s*!|[0-9]{4}[)}\]\s]*!|\^[^,=+]*[)}\]]!")
_MANY = re.compile(
    r"\\[dt]?binom\s*\{[^{}]*(?:[0-9]\s*\^|[0-9]{5})|\\(?:sum|prod)(?![a-zA-Z])[^=]*=[^^]*\^[\s{]*[0-9]{5}"
)
_POWER = re.compile(r"\^\s*\{?\s*\(?\s*-?[0-9]{6}")
_TOWER = re.compile(r"\^[\s{(]*[0-9.]+[\s})]*\^")
_POINT = re.compile(r"[+-]?[0-9]+\.[0-9]+")
_COMMA = re.compile("[+-]?(?:0,[0-9]+|[0-9]+,[0-9]{2})")  # the decimal comma of half the world
_BASE = re.compile(r"([0-9A-Fa-f]+)_\{?([0-9]+)\}?")
_QUALIFIED = re.compile(
    r"^[\s$]*(?:[<>\u2264\u2265\u2260]|\\(?:leq?|geq?|neq?|lt|gt)(?![a-zA-Z]))"
    r"|\b(?:hundred|thousand|million|billion|trillion|dozen|or more|or less|at least|at most)\b"
)
_BRACES = re.compile(r"\\\\|\\[{}]|[{}]")


class Tally(NamedTuple):
    """What a referee did so far: how often each way decided a pair that was new to it."""

    fast: int
    cached: int
    asked: int
    refused: int
    """Answers that only harm would write; unknown."""
    late: int
    """Pairs that ran into the deadline or ended their worker; unknown."""


class Referee:
    r"""Judges pairs of gold answer and answer.

    >>> with Referee() as referee:
    ...     referee.equal("(x+1)^2", "x^2+2x+1"), referee.equal("\\frac{1}{2}", "0.5"), referee.equal("3", "9^{9^{9^9}}")
    (True, True, None)
    """

    def __init__(
        self, cache: Path | None = None, workers: int | None = None, deadline: float = 5.0
    ) -> None:
        """Workers start when the first pair needs one.

        Args:
            cache: file that keeps verdicts between processes; None: memory only. One that is damaged is begun anew.
            workers: number of processes; None: one for each processor that this process may use, at most 8.
            deadline: seconds that one pair may take.
        """
        if deadline <= 0:
            raise ValueError(f"deadline: {deadline} seconds; a pair needs more than none")
        self._num_workers = workers or min(8, _num_processors())
        self._deadline = deadline
        self._known: dict[Pair, bool | None] = {}
        self._counts = dict.fromkeys(Tally._fields, 0)
        self._path = cache
        self._here()

    def _here(self) -> None:
        """What belongs to this process; a fork shares neither workers nor the cache's connection."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._cache = None if self._path is None else _open_cache(self._path)

    def __enter__(self) -> "Referee":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and close the cache."""
        for worker in self._workers:
            worker.kill()
        self._workers = []
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    @property
    def tally(self) -> Tally:
        """Counts so far."""
        return Tally(**self._counts)

    @property
    def processes(self) -> list[int]:
        """Ids of the workers that stand."""
        return [worker.process for worker in self._workers]

    def equal(self, gold: str, answer: str) -> bool | None:
        """Whether the answer equals the gold answer; None: unknown. A `grading.Equal`."""
        pair = gold, answer
        return self._known[pair] if pair in self._known else self.decide([pair])[pair]

    def decide(self, pairs: Iterable[Pair]) -> dict[Pair, bool | None]:
        """Verdicts of many pairs; each is asked once however often it comes."""
        wanted = dict.fromkeys(pairs)
        new = [pair for pair in wanted if pair not in self._known]
        if new:
            if os.getpid() != self._process:
                self._here()
            with self._lock:
                self._learn([pair for pair in new if pair not in self._known])
        return {pair: self._known[pair] for pair in wanted}

    def grade(self, samples: Sequence[Pair], form: grading.Form = "box") -> list[Grade]:
        """Grades of completions.

        Args:
            samples: text and gold answer of each.
            form: where the prompts want the answer.
        """
        found = [grading.extract(text, form) for text, _ in samples]
        verdicts = self.decide(
            (gold, answer)
            for (_, gold), (boxed, said, _) in zip(samples, found, strict=True)
            for answer in (boxed, said)
            if answer is not None
        )
        equal = _lookup(verdicts)
        return [
            grading.judge(extraction, gold, equal)
            for extraction, (_, gold) in zip(found, samples, strict=True)
        ]

    def classes(self, answers: Sequence[str]) -> list[str]:
        r"""Name of each answer's equivalence class, the shortest answer that is in it, in their order.

        An answer joins the first class, shortest names first, whose name it equals; unknown is not equal. So the classes
        depend on which answers there are and not on their order.

        >>> with Referee(workers=1) as referee:
        ...     referee.classes(["0.5", "\\frac12", "7", "1/2", "7.0"])
        ['0.5', '0.5', '7', '0.5', '7']
        """
        forms = sorted(set(answers), key=lambda answer: (len(answer), answer))
        verdicts = self.decide((a, b) for i, b in enumerate(forms) for a in forms[:i])
        names: list[str] = []
        name_of: dict[str, str] = {}
        for form in forms:
            name_of[form] = next((name for name in names if verdicts[name, form]), form)
            if name_of[form] == form:
                names.append(form)
        return [name_of[answer] for answer in answers]

    def _learn(self, pairs: Sequence[Pair]) -> None:
        """Decide pairs that are not known yet; the lock is held."""
        rest: list[Pair] = []
        for pair in pairs:
            said = _at_once(*pair)
            if said is None:
                rest.append(pair)
            else:
                self._known[pair] = said
                self._counts["fast"] += 1
        cached = {} if self._cache is None else _look_up(self._cache, rest)
        self._known.update(cached)
        self._counts["cached"] += len(cached)
        asked: list[Pair] = []
        for pair in rest:
            if pair in cached:
                continue
            if any(map(harmful, pair)):
                self._known[pair] = None
                self._counts["refused"] += 1
            else:
                asked.append(pair)
        for pair, said, late in self._ask(asked):
            self._known[pair] = said
            self._counts["late" if late else "asked"] += 1
            # A deadline is the machine's verdict, not the answer's: it is not kept for another day.
            if self._cache is not None and not late:
                _keep(self._cache, pair, said)

    def _ask(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, bool | None, bool]]:
        """Verdict of each pair as it comes, and whether it cost a worker."""
        waiting = deque(pairs)
        again: set[Pair] = (
            set()
        )  # a worker may end for a reason of its own; a pair that ends two is at fault
        finished = False
        try:
            while waiting or any(worker.pair for worker in self._workers):
                while len(self._workers) < self._num_workers and len(self._workers) < len(
                    waiting
                ) + sum(worker.pair is not None for worker in self._workers):
                    self._workers.append(_Worker(self._deadline))
                for worker in self._workers:
                    if waiting and worker.ready and worker.pair is None:
                        worker.ask(waiting.popleft())
                for pair, said, ended in self._hear():
                    if ended == "ended" and pair not in again:
                        again.add(pair)
                        waiting.append(pair)
                    else:
                        yield pair, said, bool(ended)
            finished = True
        finally:
            if not finished:  # somebody's alarm, or Ctrl-C: an answer on its way would be taken for the next one's
                for worker in self._workers:
                    worker.kill()
                self._workers = []

    def _hear(self) -> Iterator[tuple[Pair, bool | None, Literal["", "late", "ended"]]]:
        """Wait for the first word of any worker, or the first deadline; late workers are killed."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            soonest = min(worker.until for worker in self._workers)
            heard = [key.data for key, _ in selector.select(max(0.0, soonest - time.monotonic()))]
        for worker in list(self._workers):
            late = worker.until <= time.monotonic()
            pair = worker.pair
            said = worker.listen() if worker in heard else None
            if said is None and (late or worker.ended):
                if not worker.ready:
                    raise RuntimeError(
                        f"the process that runs math-verify did not start within {START:.0f} s or ended; "
                        f"`{' '.join(worker.command)}` shows why"
                    )
                worker.kill()
                self._workers.remove(worker)
                if pair is not None:
                    yield pair, None, "late" if late else "ended"
            elif said is not None and pair is not None:
                yield pair, {"1": True, "0": False}.get(said), ""
                if worker.num_asked >= PAIRS_A_WORKER:
                    worker.kill()
                    self._workers.remove(worker)


def harmful(answer: str) -> bool:
    r"""Whether nobody would write this for an answer: too long, control characters, code, or a number too large to have.

    >>> [harmful(a) for a in ("9^{9^{9^9}}", "10000000!", "\\binom{10^8}{5}", "2^{2005}", "e^{x^2}", "\\binom{10}{3}")]
    [True, True, True, False, False, False]
    """
    if len(answer) > MAX_LENGTH or _CONTROL.search(answer) or _DIGITS.search(answer):
        return True
    if _CODE.search(answer) or _FACTORIAL.search(answer) or _POWER.search(answer):
        return True
    if _TOWER.search(answer) or _MANY.search(answer):
        return True
    depth = 0
    for match in _BRACES.finditer(answer):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth < 0 or depth > closed_form.MAX_DEPTH:
            return True
    return depth != 0


def _at_once(gold: str, answer: str) -> bool | None:
    """The verdict that needs no algebra; None: somebody must be asked."""
    if not answer.strip() or not gold.strip():
        return False
    if grading.same(gold, answer):
        return True
    if len(answer) > MAX_LENGTH or len(gold) > MAX_LENGTH:
        return None
    if closed_form.plain(gold) == closed_form.plain(answer):
        return True
    with_comma, with_point = (gold, answer) if "," in gold else (answer, gold)
    if _COMMA.fullmatch(with_comma.strip("$ ")) and _POINT.fullmatch(with_point.strip("$ ")):
        return grading.same(with_comma.replace(",", "."), with_point)
    if bases := _BASE.fullmatch(answer.strip("$ ")):
        gold_bases = _BASE.fullmatch(gold.strip("$ "))
        return gold_bases is not None and bases.groups() == gold_bases.groups()
    if _QUALIFIED.search(answer) and not _QUALIFIED.search(gold):
        return False
    if "=" in answer and "=" not in gold and "\\$" not in answer and _contradicts(answer):
        return False
    return closed_form.decided(gold, answer)


def _contradicts(chain: str) -> bool:
    """Whether an equation says of two numbers far apart that they are equal."""
    sides = [closed_form.number(side) for side in chain.split("=")]
    known = [side for side in sides if side is not None]
    return len(known) == len(sides) and any(
        abs(side - known[-1]) > closed_form.APART * max(abs(side), abs(known[-1])) for side in known
    )


def second_opinion(verdicts: dict[Pair, bool | None], sample: int = 1000) -> "Opinion":
    """How often the two judges differ, on a keyed sample of pairs that both can judge.

    `closed_form` and math-verify share no line. The sample depends on the pairs alone, not on their order.
    """
    drawn = sorted(verdicts, key=lambda pair: seeds.key("second-opinion", *pair))[:sample]
    both = {pair: closed_form.equal(*pair) for pair in drawn if verdicts[pair] is not None}
    judged = [pair for pair, said in both.items() if said is not None]
    return Opinion(
        len(drawn), len(judged), [pair for pair in judged if both[pair] != verdicts[pair]]
    )


class Opinion(NamedTuple):
    """What the second judge said."""

    num_drawn: int
    num_judged: int
    """Pairs that he could read."""
    differ: list[Pair]


def default_cache() -> Path:
    """Where verdicts are kept between processes: ``$XDG_CACHE_HOME/controlarm``, else ``~/.cache/controlarm``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "controlarm" / "verdicts.sqlite"


def _num_processors() -> int:
    """Those that this process may use, where the system says."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _lookup(verdicts: dict[Pair, bool | None]) -> Callable[[str, str], bool | None]:
    return lambda gold, answer: verdicts[gold, answer]


class _Worker:
    """One process of math-verify."""

    def __init__(self, deadline: float) -> None:
        self.command = [sys.executable, "-P", "-B", str(_WORKER), str(deadline)]
        self._deadline = deadline
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # Ctrl-C at a terminal is the parent's to handle
            env=os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )
        self.process = self._process.pid
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout
        self.ready = self.ended = False
        self.pair: Pair | None = None
        self.until = time.monotonic() + START
        self.num_asked = 0
        self._heard = b""

    def ask(self, pair: Pair) -> None:
        """Hand over a pair; `listen` has the verdict."""
        self.pair = pair
        self.until = time.monotonic() + self._deadline
        self.num_asked += 1
        with contextlib.suppress(BrokenPipeError):  # `listen` finds it ended
            asked = [closed_form.scientific(said, "\\times ") for said in pair]
            self._input.write(json.dumps(asked).encode() + b"\n")

    def listen(self) -> str | None:
        """The verdict if it is there; None: not yet, or never."""
        got = os.read(self.output.fileno(), 1 << 12)
        self.ended = not got
        self._heard += got
        if not self._heard.endswith(b"\n"):
            return None
        said, self._heard = self._heard.decode().strip(), b""
        self.until = float("inf")
        if not self.ready:
            self.ready = said == "ready"
            return None
        self.pair = None
        return said

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._input.close()
        self.output.close()


_TABLE = """CREATE TABLE IF NOT EXISTS verdicts (
    version TEXT, gold TEXT, answer TEXT, equal INTEGER, PRIMARY KEY (version, gold, answer)
) WITHOUT ROWID"""


def _open_cache(path: Path) -> sqlite3.Connection:
    """The cache; a file that is none is removed, since it holds nothing that cannot be asked again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in ("as it is", "anew"):
        # Each verdict is committed as it comes: nobody waits for a batch of somebody else's.
        cache = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
        try:
            cache.execute("PRAGMA synchronous = OFF")
            cache.execute(_TABLE)
            cache.execute("SELECT equal FROM verdicts LIMIT 1").fetchall()
            return cache
        except sqlite3.OperationalError:  # locked, read-only, no such folder: the user's to mend
            cache.close()
            raise
        except sqlite3.DatabaseError:
            cache.close()
            if attempt == "anew":
                raise
            path.unlink()
    raise AssertionError


def _look_up(cache: sqlite3.Connection, pairs: Sequence[Pair]) -> dict[Pair, bool | None]:
    found: dict[Pair, bool | None] = {}
    ask = "SELECT equal FROM verdicts WHERE version = ? AND gold = ? AND answer = ?"
    for pair in pairs:
        if any(map(_CONTROL.search, pair)):
            continue
        if row := cache.execute(ask, (VERSION, *pair)).fetchone():
            found[pair] = None if row[0] is None else bool(row[0])
    return found


def _keep(cache: sqlite3.Connection, pair: Pair, said: bool | None) -> None:
    equal = None if said is None else int(said)
    # Locked, or no room: it is asked again some day.
    with contextlib.suppress(sqlite3.OperationalError):
        cache.execute(
            "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", (VERSION, *pair, equal)
        )
