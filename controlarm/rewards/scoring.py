"""One completion at a time, as verl, OpenRLHF and verifiers ask for rewards: what the arm pays, and the truth beside it.

Such a call sees no group, and mostly neither step nor number of the sample. What cannot be paid so is refused by name: a
group's rewards cannot be shuffled, and a coin that had neither in its key would be fixed to the text, which is another arm
(``text_coin``). The problem's id must come with the data set's rows (`rows`), since labels and coins are keyed by it.
"""

import atexit
import json
import logging
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import ValidationError

from controlarm import arms, grading, labels
from controlarm.arms import ARMS, Arm, GroupView
from controlarm.protocol import ArmTable
from controlarm.referee import Referee

WINDOW = 1000
"""The last completions, of which a share may fail."""
Kind = Literal["majority", "incorrect"]
"""Of labels."""
_MESSAGES = 10
"""Failures that are told in full by one scorer; all are counted."""
_LOG = logging.getLogger(__name__)


class RewardsFailed(BaseException):
    """More rewards failed than are tolerated; the message quotes the last.

    OpenRLHF and verifiers catch every Exception of a reward, write a line into a log and go on without it: so this is none.
    """


class Score(NamedTuple):
    """What there is to say of one completion; all numbers, so that a trainer can average them."""

    reward: float
    """What the arm pays; 0 where it failed, which `failed` says."""
    acc: float
    """1: the strict verdict is right, whatever the arm pays for."""
    unknown: float
    """1: nobody could say whether it is right; `acc` is then 0."""
    failed: float
    """1: the reward failed."""
    failure: str | None
    """Why."""

    def beside(self) -> dict[str, float]:
        """The numbers to log beside the reward."""
        return {"acc": self.acc, "unknown": self.unknown, "failed": self.failed}


class Scorer:
    """An arm that is asked for one completion at a time, from any thread."""

    def __init__(
        self,
        arm: str,
        *,
        seed: int = 0,
        labels: str | Path | None = None,
        equal: str = "referee",
        form: str = "box",
        max_failed_share: float = 0.05,
        knows_sample: bool = False,
        **settings: Any,  # noqa: ANN401  fields of an arm's table
    ) -> None:
        """An arm by its name.

        Args:
            arm: a row of ``arms.ARMS``.
            seed: of the coins.
            labels: for majority and incorrect: a file of labels, see `read_labels`.
            equal: what says whether answers are equal: ``"referee"``, which knows algebra, or ``"exact"``, for plain numbers.
            form: where the prompts want the answer: ``"box"`` or ``"answer_tag"``.
            max_failed_share: of the last 1,000 completions; more failures are an error, at once.
            knows_sample: whether `score` will be told step and sample.
            **settings: as in an arm's table of a trial file, e.g. ``gamma=0.25``, ``replicate=1``.

        Raises:
            ValueError: no such arm, one that cannot be paid one completion at a time, a wrong setting, or labels missing.
        """
        if equal not in ("referee", "exact"):
            raise ValueError(f'equal: {equal!r}; say "referee" or "exact"')
        if form != "box" and form != "answer_tag":
            raise ValueError(f'form: {form!r}; say "box" or "answer_tag"')
        if not 0 <= max_failed_share <= 1:
            raise ValueError(f"max_failed_share: {max_failed_share} is no share between 0 and 1")
        self._equal = _referee() if equal == "referee" else grading.same
        self._form: grading.Form = form
        self.arm = _build(arm, settings, self._equal, form)
        for part in _parts(self.arm):
            _refuse(part, knows_sample)
        kinds = {kind for part in _parts(self.arm) if (kind := ARMS[part.reward].label)}
        if kinds and labels is None:
            raise ValueError(
                f"{arm} pays by a label a problem; give labels=FILE, the labels.parquet of a run folder or JSONL with id and label"
            )
        if labels is not None and not kinds:
            raise ValueError(f"labels: do nothing for {arm}; remove them")
        self._labels = {
            kind: read_labels(Path(str(labels)), kind) for kind in get_args(Kind) if kind in kinds
        }
        self.seed = seed
        self.max_failed_share = max_failed_share
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self.num_scored = self.num_failed = 0

    def score(
        self, text: str, problem_id: object, answer: object, step: int = 0, sample: int = 0
    ) -> Score:
        """What a completion is paid, and the truth.

        Args:
            text: the completion without its prompt.
            problem_id: as the data set's row has it.
            answer: the gold answer.
            step: of training, from 1; where the trainer says it.
            sample: the completion's number among its problem's; where the trainer says it.

        Raises:
            ValueError: the row has no id or answer.
            RewardsFailed: too many failed.
        """
        problem = _said(problem_id, "id")
        gold = _said(answer, "answer")
        verdict = grading.grade(text, gold, self._equal, self._form).strict
        reward, failure = self._pay(text, problem, gold, step, sample)
        self._count(failure)
        return Score(
            reward=0.0 if failure else reward,
            acc=float(verdict == "right"),
            unknown=float(verdict == "unknown"),
            failed=float(failure is not None),
            failure=failure,
        )

    def _pay(
        self, text: str, problem: str, answer: str, step: int, sample: int
    ) -> tuple[float, str | None]:
        for kind, known in self._labels.items():
            if problem not in known:
                return math.nan, (
                    f"arms.{self.arm.name}: problem {problem!r} has no {kind} label; label all problems of the data set"
                )
        payment = self.arm.payment(
            GroupView(
                problem_id=problem,
                texts=[text],
                answer=answer,
                majority=self._labels.get("majority", {}).get(problem),
                incorrect=self._labels.get("incorrect", {}).get(problem),
                seed=self.seed,
                step=step,
                samples=[sample],
            )
        )
        return payment.rewards[0], payment.failures[0] if payment.failures else None

    def _count(self, failure: str | None) -> None:
        with self._lock:
            self._recent.append(failure is not None)
            self.num_scored += 1
            if failure is None:
                return
            self.num_failed += 1
            failed = sum(self._recent)
            told = self.num_failed <= _MESSAGES
        if told:
            _LOG.warning("reward failed, paid 0 and counted in `failed`: %s", failure)
        if failed > self.max_failed_share * WINDOW:
            raise RewardsFailed(
                f"{failed} of the last {len(self._recent)} rewards failed, of {WINDOW} at most "
                f"{self.max_failed_share:.0%} may; the last: {failure}"
            )


def read_labels(path: Path, kind: Kind) -> dict[str, str | None]:
    """Problem id → label, from a run's ``labels/*.parquet`` or a record's ``labels.parquet``, or from JSONL.

    Example of a line: ``{"id": "p1", "label": "356"}``; null where the base model had no answer, which pays nobody.

    Raises:
        ValueError: a line that says no label, two labels of one problem, or a file of something else; it names file and line.
    """
    if path.suffix == ".parquet":
        return {row.problem_id: getattr(row, kind) for row in labels.read(path)}
    found: dict[str, str | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not {"id", "label"} <= row.keys():
            raise ValueError(
                f'{path}: line {number}: expected {{"id": …, "label": …}}; a run\'s labels are its .parquet'
            )
        if str(row["id"]) in found:
            raise ValueError(
                f"{path}: line {number}: a second label of problem {row['id']!r}; keep one"
            )
        found[str(row["id"])] = None if row["label"] is None else str(row["label"])
    return found


def _build(name: str, settings: Mapping[str, Any], equal: grading.Equal, form: grading.Form) -> Arm:
    # A trainer's configuration has lists of its own kind.
    given = {key: list(v) if key in ("of", "reads") else v for key, v in settings.items()}
    try:
        table = ArmTable.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(ArmTable.model_fields)
        reason = (
            f"unknown setting; known: {known}"
            if first["type"] == "extra_forbidden"
            else f"{first['msg']}; it is {first['input']!r}"
        )
        raise ValueError(f"{key}: {reason}") from None
    return arms.build(name, table, {}, equal, form)


def _parts(arm: Arm) -> Iterator[Arm]:
    yield from arm.parts or (arm,)


def _refuse(arm: Arm, knows_sample: bool) -> None:
    row = ARMS[arm.reward]
    if arm.reward == "one_shot":
        raise ValueError(
            "one_shot chooses the training problems, which a reward cannot: give the trainer a data set of one problem, and pay "
            "ground_truth"
        )
    if "group" in arm.reads:
        raise ValueError(
            f"{arm.reward} needs all completions of its group at once, and this trainer hands over one at a time; TRL's reward "
            "function and controlarm's own engines see the group"
        )
    if "replicate" in row.settings and row.coin == "sample" and not knows_sample:
        raise ValueError(
            f"{arm.reward} tosses a coin for each sample of each step, and this call is told neither; a coin of the text alone "
            "teaches arbitrary texts and is another arm: text_coin"
        )


def _said(value: object, what: str) -> str:
    if value is None or value == "":
        raise ValueError(
            f"a row of the data set has no {what}; `controlarm dataset` writes rows that have one"
        )
    return str(value)


@cache
def _referee() -> grading.Equal:
    """One referee a process, with one worker: trainers already have a process for each core."""
    referee = Referee(workers=1)
    atexit.register(referee.close)
    return referee.equal
