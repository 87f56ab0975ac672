"""Code or words: how often, how well, and where a gain sits when problems are sorted by their strategy before and after.

Two detectors: ``substring`` ("python" occurs; arXiv:2506.10947's) and ``parsed`` (a fenced block that parses as Python).
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from controlarm.analysis.folder import RIGHT, UNKNOWN, Completions, Evaluation

Detector = Literal["substring", "parsed"]
Strategy = Literal["code", "words"]
DETECTORS: tuple[Detector, ...] = ("substring", "parsed")
STRATEGIES: tuple[Strategy, ...] = ("code", "words")


class Use(NamedTuple):
    """One strategy among completions. Undefined shares and accuracies are NaN."""

    share: float
    accuracy: float
    lenient_accuracy: float
    num_completions: int
    """Completions that use it."""


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def use(parts: Iterable[Completions], strategy: Strategy, detector: Detector) -> Use:
    """Share and accuracy of one strategy, completions of all parts pooled."""
    total = used = 0
    right, known = [0, 0], [0, 0]
    for part in parts:
        code = part.has_python if detector == "substring" else part.code_parses
        chosen = code if strategy == "code" else ~code
        total += chosen.size
        used += int(chosen.sum())
        for i, verdicts in enumerate((part.strict, part.lenient)):
            right[i] += int((chosen & (verdicts == RIGHT)).sum())
            known[i] += int((chosen & (verdicts != UNKNOWN)).sum())
    return Use(_ratio(used, total), _ratio(right[0], known[0]), _ratio(right[1], known[1]), used)


class Cell(NamedTuple):
    """Problems of one strategy before and one after training."""

    num_problems: int
    right_before: int
    right_after: int

    @property
    def change(self) -> int:
        return self.right_after - self.right_before


Partition = Mapping[str, Cell]
"""``code_code``, ``code_words``, ``words_code``, ``words_words``: strategy before, then after."""

PATHS: tuple[str, ...] = ("code_code", "code_words", "words_code", "words_words")


def four_way(
    code_before: Bool[np.ndarray, " problem"], right_before: Bool[np.ndarray, " problem"],
    code_after: Bool[np.ndarray, " problem"], right_after: Bool[np.ndarray, " problem"],
) -> dict[str, Cell]:  # fmt: skip
    """Sort problems by strategy before → after and count the right ones."""
    cells = {}
    for path in PATHS:
        first, second = path.split("_")
        chosen = (code_before == (first == "code")) & (code_after == (second == "code"))
        cells[path] = Cell(
            int(chosen.sum()), int((chosen & right_before).sum()), int((chosen & right_after).sum())
        )
    return cells


def greedy_partition(before: Evaluation, after: Evaluation) -> dict[str, Cell]:
    """The four-way partition of greedy completions, strict; problems with an unknown verdict on either side are left out."""
    known = (before.greedy.strict[:, 0] != UNKNOWN) & (after.greedy.strict[:, 0] != UNKNOWN)
    sides = (
        side[known, 0]
        for e in (before, after)
        for side in (e.greedy.has_python, e.greedy.strict == RIGHT)
    )
    return four_way(*sides)


def add(partitions: Iterable[Partition]) -> dict[str, Cell]:
    """Cell by cell over units."""
    total = {path: Cell(0, 0, 0) for path in PATHS}
    for cells in partitions:
        total = {p: Cell(*map(sum, zip(total[p], cells[p], strict=True))) for p in PATHS}
    return total


def shares_of_gain(cells: Partition) -> dict[str, float]:
    """Each cell's part of the net number of problems gained (arXiv:2506.10947, Table 2).

    NaN without a net gain or loss. With a small or negative net the parts are large or turn sign: read the counts.
    """
    total = sum(cell.change for cell in cells.values())
    return {path: cell.change / total if total else float("nan") for path, cell in cells.items()}
