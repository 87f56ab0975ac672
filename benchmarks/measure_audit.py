"""One audit in this process: `python -m benchmarks.measure_audit RESULT.json LOG…`. Peak memory is this process's and, added, its largest child's."""

import json
import resource
import sys
import time
from pathlib import Path

KIB = 1024


def main() -> None:
    """Audit the logs, write the page, and say what that took."""
    result, *logs = sys.argv[1:]
    started = time.perf_counter()
    from controlarm import audit as auditing
    from controlarm.report import audit as page

    found = auditing.audit(auditing.named(logs))
    page.write(Path(result).with_suffix("") / "audit", found)
    wall = time.perf_counter() - started
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
    made = {
        "wall": wall,
        "processor": sum(u.ru_utime + u.ru_stime for u in (own, children)),
        "peak_bytes": KIB * (own.ru_maxrss + children.ru_maxrss),
        "pairs": found["audit"]["num_pairs"],
        "unknown": sum(side["unknown"] for side in found["sides"]),
    }
    Path(result).write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
