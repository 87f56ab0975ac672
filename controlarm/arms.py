"""Every arm side by side: what a run may be paid for.

A reward is a pure function of what its row declares that it reads, and is called with nothing else; so a placebo cannot
see the text, and nothing but ground truth's kin can see the answer. Coins are keyed by (training seed, reward,
replicate, problem, step, sample): they depend on neither the order of the arms nor their names, and two replicates
differ. Arms of the same reward and replicate toss the same coins. text_coin has the text in the key instead of step and
sample, for trainers that say neither: another arm, and no placebo.

Answers are compared by a `Judge`: exactly, as the organisms' arithmetic wants it, or by whatever equality the trial or
the trainer hands over. Where that cannot say, the sample failed; it is never paid a silent 0.

Labels (majority, incorrect) and the choice of problems (one_shot) are data made before training; see `labels`.
To add an arm: a function here, a row at the foot, a row in the tests; a reward of your own needs none of these
(`docs/add-an-arm.md`).
"""

import difflib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from controlarm import closed_form, detectors, grading, seeds
from controlarm.problems import random_calculation
from controlarm.protocol import ArmTable, Protocol

Read = Literal["text", "answer", "label", "group"]
"""`label`: the one pseudo-label that the arm is about. `group`: the texts of all siblings at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupView:
    """All that an engine hands over of one group; each reward is shown only what its row declares."""

    problem_id: str
    """Example: ``"Ann|pens|347+28-9|gets|loses"``."""
    texts: Sequence[str]
    """The completions, one per sample."""
    answer: str
    """The gold answer."""
    majority: str | None
    """The base model's majority label; None when no sample had an answer."""
    incorrect: str | None
    """A label known to be wrong."""
    seed: int
    """The training seed."""
    step: int
    samples: Sequence[int]
    """Index of each text's sample within the group."""


class Payment(NamedTuple):
    """What an arm pays to one group."""

    rewards: list[float]
    """One per text; NaN where the reward failed."""
    failures: list[str]
    """One message per failed sample."""


class RewardError(Exception):
    """A reward gave no number for a sample; the sample counts as failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """How an arm compares answers: what the grader of the same trial is given, so that ground truth is its strict verdict."""

    equal: grading.Equal = grading.same
    """Example: the `equal` of a referee, which knows algebra; by default the exact equality."""
    form: grading.Form = "box"
    """Where the prompt wants the answer; an answer elsewhere is none."""

    def asked(self, text: str) -> str | None:
        """The answer in its place; None when it is not there."""
        return grading.last_box(text) if self.form == "box" else grading.last_tag(text)

    def agrees(self, text: str, wanted: str | None) -> bool:
        """Whether the answer in its place equals the wanted one. A missing or empty one equals nothing.

        Raises:
            RewardError: when the equality cannot say.
        """
        answer = self.asked(text)
        if answer is None or wanted is None or not grading.normalise(wanted):
            return False
        equal = self.equal(wanted, answer)
        if equal is None:
            raise RewardError(
                f"cannot say whether the answer {_short(answer)} equals {_short(wanted)}"
            )
        return equal


EXACT = Judge()


# The rewards. Arguments named text, answer, label, texts are what a row reads; `coin` is uniform in [0, 1).


def ground_truth(text: str, answer: str, judge: Judge = EXACT) -> float:
    """1 when the strict verdict is right."""
    return float(judge.agrees(text, answer))


def one_shot(text: str, answer: str, label: str | None = None, judge: Judge = EXACT) -> float:
    """1 when the strict verdict is right, or, given a label, when the boxed answer equals that: a right one or a wrong one (arXiv:2504.20571, Table 5)."""
    return ground_truth(text, answer if label is None else label, judge)


def agrees(text: str, label: str | None, judge: Judge = EXACT) -> float:
    """1 when the boxed answer equals the label; a missing label pays nobody, and no box never equals it."""
    return float(judge.agrees(text, label))


def graded(text: str, answer: str, judge: Judge = EXACT) -> float:
    """How near the boxed number is to the gold one, 1 at it (arXiv:2507.10532); 0 when either is no number."""
    if judge.agrees(text, answer):
        return 1.0
    boxed = judge.asked(text)
    value, gold = (None if a is None else closed_form.number(a) for a in (boxed, answer))
    return 0.0 if value is None or gold is None else random_calculation.graded_reward(value, gold)


def format(text: str, judge: Judge = EXACT) -> float:  # the arm's name
    """1 when there is a balanced box with something in it, or whatever form the prompt asks for."""
    return float(judge.asked(text) is not None)


def random(coin: float, gamma: float = 0.5) -> float:
    """1 with probability gamma."""
    return float(coin < gamma)


def text_coin(text: str, coin: float, gamma: float = 0.5) -> float:
    """1 with probability gamma by a coin that is the text's own: the same completion of a problem is always paid alike.

    So it teaches arbitrary texts, and no more the less a model repeats itself.
    """
    return float(coin < gamma)


def shuffled(truths: Sequence[float], coins: Sequence[float]) -> list[float]:
    """The group's ground-truth rewards in a uniformly random order, fixed points allowed.

    A derangement would not do: it would correlate with the truth by -1/(n-1), an anti-treatment. A failed sample (NaN)
    is moved like any other reward, so that the group is paid exactly what ground truth would pay it.
    """
    return [truths[i] for i in permutation(coins)]


def permutation(coins: Sequence[float]) -> list[int]:
    """The order that sorts the coins; of independent coins, every permutation with the same probability."""
    return sorted(range(len(coins)), key=coins.__getitem__)


def python(text: str) -> float:
    """1 when "python" occurs in any case."""
    return float(detectors.has_python(text))


def no_python(text: str) -> float:
    """1 when it does not."""
    return float(not detectors.has_python(text))


def no_repetition(text: str) -> float:
    """0 when some substring of 10 to 256 characters stands at least ten times in a row, else 1 (arXiv:2506.10947)."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for length in range(10, min(256, len(characters) // 10) + 1):
        # Ten copies of a substring of this length are nine lengths of characters that equal the one a length later.
        differs = np.flatnonzero(characters[length:] != characters[:-length])
        edges = np.concatenate(([-1], differs, [len(characters) - length]))
        if np.diff(edges).max() - 1 >= 9 * length:
            return 0.0
    return 1.0


def flipped(text: str, answer: str, coin: float, p: float, judge: Judge = EXACT) -> float:
    """Ground truth, inverted with probability p."""
    truth = ground_truth(text, answer, judge)
    return 1.0 - truth if coin < p else truth


def noisy(text: str, answer: str, coin: float, p: float, judge: Judge = EXACT) -> float:
    """Ground truth, replaced by a fair coin with probability p."""
    return float(coin < p / 2) if coin < p else ground_truth(text, answer, judge)


def constant() -> float:
    """Always 1."""
    return 1.0


def all_of(paid: Sequence[float]) -> float:
    """1 when every part pays 1; a part that failed makes the sample failed."""
    return math.nan if any(map(math.isnan, paid)) else float(all(part == 1 for part in paid))


def custom(paid: object) -> float:
    """What the user's function returned, if it is a finite number.

    Raises:
        RewardError: when it is something else.
    """
    if isinstance(paid, np.generic):
        paid = paid.item()
    if not isinstance(paid, int | float):
        raise RewardError(f"returned a {type(paid).__name__}, not a number")
    try:
        number = float(paid)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(f"returned {number}, not a finite number")
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table of arms."""

    function: Callable[..., Any]
    pays: str
    """One line: pays 1 when …"""
    reads: frozenset[Read] = frozenset()
    """What the reward may see. all_of and custom: what their parts and their table say."""
    content_free: bool = False
    """The reward is independent of what is right (shuffled: within its group), by design."""
    settings: frozenset[str] = frozenset()
    """Fields of the arm's table that do something here; `replicate` exactly where coins are tossed."""
    required: frozenset[str] = frozenset()
    label: Literal["majority", "incorrect"] | None = None
    """Which pseudo-label is handed over."""
    coin: Literal["sample", "text"] = "sample"
    """What a coin belongs to: a sample of a step, or a text of a problem."""
    judged: bool = False
    """The reward looks for the answer in its place, so it is given the judge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """An arm ready to pay; made by `build`."""

    name: str
    reward: str
    """Name of the row in `ARMS`; the coins' stream."""
    reads: frozenset[Read]
    """What it is shown; for all_of the union over its parts."""
    replicate: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What is passed to the row's function beside what it reads."""
    parts: tuple["Arm", ...] = ()
    function: Callable[..., Any] | None = None
    """custom: the imported function."""
    judge: Judge = EXACT

    def pay(self, group: GroupView) -> list[float]:
        """One reward per text; NaN where the reward failed."""
        return self.payment(group).rewards

    def payment(self, group: GroupView) -> Payment:
        """Rewards, and why samples failed if any did."""
        assert len(group.texts) == len(group.samples)
        row = ARMS[self.reward]
        if self.parts:
            paid = [part.payment(group) for part in self.parts]
            rewards = [row.function(each) for each in zip(*(p.rewards for p in paid), strict=True)]
            return Payment(rewards, [message for p in paid for message in p.failures])
        if "group" in self.reads:
            truths, failures = self._each(
                group, lambda text, _: ground_truth(text, group.answer, self.judge), RewardError
            )
            return Payment(row.function(truths, self._coins(group)), failures)
        shown: dict[str, Any] = dict(self.settings)
        if "answer" in self.reads:
            shown["answer"] = group.answer
        if row.label is not None:
            shown["label"] = getattr(group, row.label)
        if row.judged:
            shown["judge"] = self.judge

        def pay(text: str, coin: float | None) -> float:
            if "text" in self.reads:
                shown["text"] = text
            if coin is not None:
                shown["coin"] = coin
            if self.function is None:
                return row.function(**shown)
            return row.function(self.function(**shown))

        # The user's code may raise anything; the sample counts as failed. Ours raises only what it means to.
        return self._each(group, pay, RewardError if self.function is None else Exception)

    def _each(
        self,
        group: GroupView,
        pay: Callable[[str, float | None], float],
        expected: type[Exception],
    ) -> Payment:
        """What each text with its coin is paid; where an expected error is raised, a failure."""
        tosses = "replicate" in ARMS[self.reward].settings and "group" not in self.reads
        coins = self._coins(group) if tosses else [None] * len(group.texts)
        rewards, failures = [], []
        for text, sample, coin in zip(group.texts, group.samples, coins, strict=True):
            try:
                rewards.append(pay(text, coin))
            except expected as error:
                rewards.append(math.nan)
                reason = str(error) if isinstance(error, RewardError) else f"raised {_said(error)}"
                failures.append(
                    f"arms.{self.name}: problem {group.problem_id}, sample {sample}: {reason}"
                )
        return Payment(rewards, failures)

    def _coins(self, group: GroupView) -> list[float]:
        path = group.seed, self.reward, self.replicate, group.problem_id
        if ARMS[self.reward].coin == "text":
            return [seeds.uniform(*path, text) for text in group.texts]
        return [seeds.uniform(*path, group.step, sample) for sample in group.samples]


def build(
    name: str,
    arm: ArmTable,
    arms_of_trial: Mapping[str, ArmTable],
    equal: grading.Equal | None = None,
    form: grading.Form = "box",
) -> Arm:
    """The arm that a table describes.

    Args:
        name: The table's name, which is also the reward unless the table says otherwise.
        arm: The table.
        arms_of_trial: All tables of the trial; `of` names arms here, or else rewards with their default settings.
        equal: What every reward asks that compares answers; None: exact equality. Where it says None, the sample failed.
        form: Where the prompt wants the answer.

    Raises:
        ValueError: One line per problem: the key's path, what is wrong, the remedy.
    """
    problems = check_arm(name, arm, arms_of_trial)
    if problems:
        raise ValueError("\n".join(problems))
    judge = (
        EXACT if equal is None and form == "box" else Judge(equal=equal or grading.same, form=form)
    )
    return _build(name, arm, arms_of_trial, judge)


def needs_labels(protocol: Protocol) -> bool:
    """Whether anything of a trial reads the base model's labels: they cost a base's samples of every training problem."""
    chosen = any(
        (arm.reward or name) == "one_shot" and arm.problem is None
        for name, arm in protocol.arms.items()
    )
    rewards = [arm.reward or name for name, arm in protocol.arms.items()]
    parts = [part for arm in protocol.arms.values() for part in arm.of or ()]
    rewards += [(protocol.arms[p].reward or p) if p in protocol.arms else p for p in parts]
    paid = any(ARMS[reward].label for reward in rewards if reward in ARMS)
    return paid or chosen or protocol.design.restrict != "all"


def check_arms(protocol: Protocol) -> list[str]:
    """Every problem with the arms of a trial; custom functions are imported."""
    return [
        problem
        for name, arm in protocol.arms.items()
        for problem in check_arm(name, arm, protocol.arms)
    ]


def check_arm(name: str, arm: ArmTable, arms_of_trial: Mapping[str, ArmTable]) -> list[str]:
    """Every problem with one arm's table, each with its key's path and the remedy."""
    reward = arm.reward or name
    if reward not in ARMS:
        origin = "" if arm.reward else " (an arm's reward defaults to its own name)"
        return [f"arms.{name}.reward: unknown reward {reward!r}{origin}; {_hint(reward, ARMS)}"]
    row = ARMS[reward]
    given = {key for key in arm.model_fields_set - {"reward"} if getattr(arm, key) is not None}
    takes = f"it takes {', '.join(sorted(row.settings))}" if row.settings else "it takes none"
    found = [
        f"arms.{name}.{key}: does nothing for the reward {reward}; remove it ({takes})"
        for key in sorted(given - row.settings)
    ]
    found += [
        f"arms.{name}.{key}: is missing; {reward} needs it ({SETTINGS[key]})"
        for key in sorted(row.required - given)
    ]
    if reward == "all_of" and arm.of is not None:
        found += _misfit_parts(name, arm.of, arms_of_trial)
    if reward == "custom" and arm.function is not None:
        try:
            _import(name, arm.function, _declared(arm))
        except ValueError as error:
            found.append(str(error))
    return found


def _misfit_parts(
    name: str, of: Sequence[str], arms_of_trial: Mapping[str, ArmTable]
) -> Iterator[str]:
    """What is wrong with the parts of an all_of."""
    key = f"arms.{name}.of"
    if len(of) < 2:
        yield f"{key}: names {len(of)} of the at least two rewards that it needs"
    for part in sorted({part for part in of if of.count(part) > 1}):
        yield f"{key}: repeats {part!r}; list it once"
    tossed: dict[tuple[str, int], str] = {}
    for part in dict.fromkeys(of):
        table = arms_of_trial.get(part, ArmTable())
        reward = table.reward or part
        if reward not in ARMS:
            yield f"{key}: unknown {part!r}; {_hint(part, [*ARMS, *arms_of_trial])}"
            continue
        row = ARMS[reward]
        if reward == "all_of":
            yield f"{key}: {part!r} is itself an all_of; list its parts here instead"
        elif reward == "one_shot":
            yield f"{key}: {part!r} chooses the training problems, which a part cannot; use ground_truth"
        elif part in arms_of_trial:
            yield from check_arm(part, table, arms_of_trial)
        elif row.required:
            yield (
                f"{key}: {part!r} needs {', '.join(sorted(row.required))}; make it an arm of the trial with its "
                "settings and name that arm here"
            )
        if "replicate" in row.settings:
            other = tossed.setdefault((reward, table.replicate), part)
            if other != part:
                yield f"{key}: {other!r} and {part!r} toss the same coins; give one another replicate"


def _build(name: str, arm: ArmTable, arms_of_trial: Mapping[str, ArmTable], judge: Judge) -> Arm:
    """The arm of a table without problems."""
    reward = arm.reward or name
    parts = tuple(
        _build(part, arms_of_trial.get(part, ArmTable()), arms_of_trial, judge)
        for part in arm.of or ()
    )
    reads = ARMS[reward].reads.union(*(part.reads for part in parts))
    function = None
    if arm.function is not None:
        reads = _declared(arm)
        function = _import(name, arm.function, reads)
    given = {"gamma": arm.gamma, "p": arm.p, "label": arm.label}
    return Arm(
        name=name,
        reward=reward,
        reads=reads,
        replicate=arm.replicate,
        settings={key: value for key, value in given.items() if value is not None},
        parts=parts,
        function=function,
        judge=judge,
    )


def _declared(arm: ArmTable) -> frozenset[Read]:
    """What a custom reward reads; its text unless it says otherwise."""
    return frozenset(["text"] if arm.reads is None else arm.reads)


def _import(name: str, path: str, reads: frozenset[Read]) -> Callable[..., Any]:
    """The user's function, checked to accept what it will be called with.

    Raises:
        ValueError: when there is no such function or it cannot be called so.
    """
    key = f"arms.{name}.function"
    module_name, _, function_name = path.partition(":")
    if (
        not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module_name)
        or not function_name.isidentifier()
    ):
        raise ValueError(f'{key}: {path!r} is not of the form "module:function"')
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file of the user's never hides a library
    try:
        module = importlib.import_module(module_name)
    except (
        Exception,
        SystemExit,
    ) as error:  # importing runs the user's code, which may raise anything
        raise ValueError(
            f"{key}: importing {module_name!r} from {here} failed with {_said(error)}"
        ) from None
    if not getattr(module, "__file__", None):
        raise ValueError(
            f"{key}: {module_name} has no source file, whose hash the trial's digest needs; put the function into a file"
        )
    function = getattr(module, function_name, None)
    if not callable(function):
        defined = [known for known, value in vars(module).items() if inspect.isroutine(value)]
        raise ValueError(
            f"{key}: no function {function_name!r} in {module_name}; {_hint(function_name, defined)}"
        )
    arguments = sorted(reads)
    try:
        inspect.signature(function).bind(**dict.fromkeys(arguments, ""))
    except (TypeError, ValueError) as error:
        call = f"{function_name}({', '.join(f'{argument}=…' for argument in arguments)})"
        raise ValueError(
            f"{key}: cannot be called as {call}: {error}; arms.{name}.reads says what it is given"
        ) from None
    return function


def _hint(value: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(value, names, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(names) or 'none'}"


def _short(answer: str) -> str:
    """An answer of a model or a set as it may be printed: escaped, and no longer than a line."""
    return ascii(answer if len(answer) <= 80 else f"{answer[:79]}…")


def _said(error: BaseException) -> str:
    """An exception in one short line, even if it cannot be printed."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # a user's exception class may fail at this, too
        said = ""
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


# What the settings are for, in the words of an error about a missing one.
SETTINGS = {
    "p": "the probability of the fault",
    "of": "the rewards that must all pay",
    "function": '"module:function"',
}

TEXT: frozenset[Read] = frozenset({"text"})
TRUTH: frozenset[Read] = frozenset({"text", "answer"})
LABELLED: frozenset[Read] = frozenset({"text", "label"})
SIBLINGS: frozenset[Read] = frozenset({"text", "answer", "group"})

ARMS: dict[str, Row] = {
    "ground_truth": Row(
        function=ground_truth, judged=True, pays="the strict verdict is right", reads=TRUTH,
    ),
    "majority": Row(
        function=agrees, judged=True, pays="the boxed answer is the base model's most frequent one",
        reads=LABELLED, label="majority",
    ),
    "incorrect": Row(
        function=agrees, judged=True, pays="the boxed answer is the base model's most frequent wrong one",
        reads=LABELLED, label="incorrect",
    ),
    "format": Row(
        function=format, judged=True, pays="a non-empty \\boxed{} is present", reads=TEXT,
    ),
    "random": Row(
        function=random, pays="a keyed coin says so, with probability gamma (0.5)",
        content_free=True, settings=frozenset({"replicate", "gamma"}),
    ),
    "text_coin": Row(
        function=text_coin, pays="a coin fixed to the text says so, with probability gamma (0.5)", reads=TEXT,
        settings=frozenset({"replicate", "gamma"}), coin="text",
    ),
    "shuffled": Row(
        function=shuffled, pays="its place in a random order of the group's ground-truth rewards does",
        reads=SIBLINGS, content_free=True, settings=frozenset({"replicate"}),
    ),
    "graded": Row(
        function=graded, judged=True, pays="the boxed number is the gold one; less, the farther it is from it", reads=TRUTH,
    ),
    "one_shot": Row(
        function=one_shot, judged=True, pays="the strict verdict is right (or the boxed answer is `label`), on one training problem only",
        reads=TRUTH, settings=frozenset({"problem", "label"}),
    ),
    "python": Row(
        function=python, pays='the text says "python", in any case', reads=TEXT,
    ),
    "no_python": Row(
        function=no_python, pays='the text does not say "python"', reads=TEXT,
    ),
    "no_repetition": Row(
        function=no_repetition, pays="no substring of 10 to 256 characters stands ten times in a row", reads=TEXT,
    ),
    "flipped": Row(
        function=flipped, judged=True, pays="ground truth does, inverted with probability p", reads=TRUTH,
        settings=frozenset({"replicate", "p"}), required=frozenset({"p"}),
    ),
    "noisy": Row(
        function=noisy, judged=True, pays="ground truth does, replaced by a fair coin with probability p", reads=TRUTH,
        settings=frozenset({"replicate", "p"}), required=frozenset({"p"}),
    ),
    "constant": Row(
        function=constant, pays="always", content_free=True,
    ),
    "all_of": Row(
        function=all_of, pays="every reward listed in `of` pays 1",
        settings=frozenset({"of"}), required=frozenset({"of"}),
    ),
    "custom": Row(
        function=custom, pays="what your own function returns",
        settings=frozenset({"function", "reads"}), required=frozenset({"function"}),
    ),
}  # fmt: skip
"""Name of the reward → what it pays, what it sees, what it takes."""
