r"""The process in which math-verify runs: it reads pairs, answers, and can be killed at any time without harm.

It is started by its path and imports nothing of ours, so that a worker stands a second after it was wanted. It holds no
secret and no way to write: files of no length, bounded memory and processor time, no input but pairs, no output but verdicts.
"""

import json
import os
import resource
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

MEMORY = 2 << 30
"""Bytes of address space; an answer that needs more does not get it."""


def main() -> None:
    """Lines of JSON in, ``[gold, answer]``; a line out for each: 1 equal, 0 not, ? unknown. The first line out says ready.

    The one argument is the deadline in seconds: who takes more of the processor than twice that for one pair is ended by
    the kernel, even if nobody is left to kill him.
    """
    deadline = float(sys.argv[1])
    said = os.fdopen(os.dup(1), "w")  # so that nothing that a library prints is taken for a verdict
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # macOS has no bound on addresses
            resource.setrlimit(limit, (value, value))
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    @lru_cache(maxsize=1 << 12)
    def parsed(answer: str) -> list[Any]:
        # In a box, so that the whole of it is read and none of it is searched; no timeout of its own, which is an alarm.
        return parse(f"\\boxed{{{answer}}}", parsing_timeout=None)  # pyright: ignore[reportArgumentType]

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    print("ready", file=said, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = int(used.ru_utime + used.ru_stime + 2 * deadline) + 1
        if hard != resource.RLIM_INFINITY:
            until = min(until, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
        try:
            equal = verify(parsed(gold), parsed(answer), timeout_seconds=None)  # pyright: ignore[reportArgumentType]
            verdict = "1" if equal else "0"
        except (Exception, RecursionError, MemoryError):  # whatever an answer makes a library do
            verdict = "?"
        print(verdict, file=said, flush=True)


if __name__ == "__main__":
    main()
