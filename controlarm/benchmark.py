"""A model on a problem set: what the store lacks is generated, what the graders have not seen is graded, nothing is done twice.

Problems are taken in an order keyed by their ids, not the set's own, so that the running score of a command that is not
finished is that of a random part of the set.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from controlarm import detectors, grading, prompts, seeds, store
from controlarm import referee as referees
from controlarm.backends import Backend, Completion, Request, Sampling
from controlarm.prompts import Template
from controlarm.records import Grade, Problem
from controlarm.referee import Referee
from controlarm.store import Condition


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one condition is to hold."""

    name: str
    """Of the problem set."""
    problems: Sequence[Problem]
    prompt: str
    """A template's name."""
    template: Template
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    num_samples: int

    def greedy(self) -> "Plan":
        """The same, one completion a problem without draws."""
        return replace(self, temperature=0.0, top_p=1.0, seed=0, num_samples=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """How far a condition is; sent after each part."""

    condition: Condition
    done: int
    """Samples in the store, of those planned."""
    planned: int
    made: int
    """By this command."""
    right: dict[str, tuple[int, int]]
    """Problem → samples with the strict verdict right, samples with a verdict."""


def condition_of(plan: Plan, backend: Backend) -> Condition:
    """The store's key of a plan's samples."""
    return Condition(
        model=backend.model, revision=backend.revision, problems=plan.name, prompt=plan.prompt,
        template=store.template_facts(plan.template), backend=backend.name, temperature=plan.temperature,
        top_p=plan.top_p, max_tokens=plan.max_tokens, seed=plan.seed,
    )  # fmt: skip


def fill(
    plan: Plan,
    backend: Backend,
    folder: Path,
    batch: int,
    referee: Referee,
    tell: Callable[[Advance], None] = lambda _: None,
) -> Path:
    """Bring a condition to ``plan.num_samples`` of every problem, graded; returns its folder. The caller holds the store's lock.

    Raises:
        ValueError: the store holds another model, or asked one of the problems another way; or as the backend does.
        DamagedFileError: a part is not what was written.
    """
    condition = condition_of(plan, backend)
    asked = {p.id: prompts.prompt(plan.template, p.text, backend.chat) for p in plan.problems}
    by_id = {p.id: p for p in plan.problems}
    if len(by_id) < len(plan.problems):
        raise ValueError(f"{plan.name}: two problems share an id; ids must be unique in a set")
    place = store.begin(folder, condition)
    held = _held(place, plan, {name: one.text for name, one in asked.items()})
    order = sorted(by_id, key=lambda name: seeds.key("benchmark-order", name))
    missing = [
        Request(name, sample, asked[name])
        for name in order
        for sample in range(plan.num_samples)
        if (name, sample) not in held
    ]
    planned = len(order) * plan.num_samples
    wanted = store.Asked(num_problems=len(order), num_samples=plan.num_samples)
    begun = bool(store.parts(place))
    if begun:
        store.write_asked(place, wanted)
    tally = _Tally(condition, planned, planned - len(missing))
    met = wrong_classes(place)
    for path in store.ungraded(place, version()):
        grade(path, condition, referee, met)
    for path in store.parts(place):
        tally.add(path, set(by_id), plan.num_samples)
    tell(tally.advance())
    sampling = Sampling(
        plan.temperature, plan.top_p, plan.max_tokens, plan.seed, plan.template.stop
    )
    finished: list[dict[str, Any]] = []

    def keep() -> None:
        if not begun and not tally.made:  # what is refused before its first sample leaves no folder
            store.write_asked(place, wanted)
        path = store.append(place, condition, finished)
        grade(path, condition, referee, met)
        tally.done, tally.made = tally.done + len(finished), tally.made + len(finished)
        tally.add(path, set(by_id), plan.num_samples)
        finished.clear()
        tell(tally.advance())

    for request, completion in backend.complete(missing, sampling, batch) if missing else ():
        finished.append(_row(by_id[request.problem_id], request, completion, backend))
        if len(finished) >= batch:
            keep()
    if finished:
        keep()
    return place


def _row(
    problem: Problem, request: Request, completion: Completion, backend: Backend
) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "sample": request.sample,
        "prompt_sha256": sha256(request.prompt.text),
        "problem": problem.text,
        "gold": problem.answer,
        "prompt": request.prompt.text,
        "text": request.prompt.opening + completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "num_tokens": completion.num_tokens,
        "truncated": completion.truncated,
        "logprob": completion.logprob,
        "environment": backend.environment,
    }


def sha256(text: str) -> str:
    """Of a text as UTF-8 can hold it."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _held(place: Path, plan: Plan, asked: dict[str, str]) -> set[tuple[str, int]]:
    """Keys of the samples that are there.

    Raises:
        ValueError: one of them was asked another way, or with another gold answer.
    """
    golds = {p.id: p.answer for p in plan.problems}
    hashes = {name: sha256(text) for name, text in asked.items()}
    found = store.samples(place, ["problem_id", "sample", "prompt_sha256", "gold"])
    for row in found.to_pylist():
        name = row["problem_id"]
        if name in golds and row["prompt_sha256"] != hashes[name]:
            raise ValueError(
                f"{place}: problem {name} was asked in other words than now; choose another --out"
            )
        if name in golds and row["gold"] != golds[name]:
            raise ValueError(
                f"{place}: problem {name} had the gold answer {row['gold']!r} and now has {golds[name]!r}; choose another --out"
            )
    columns = zip(found["problem_id"].to_pylist(), found["sample"].to_pylist(), strict=True)
    return set(columns)


class _Tally:
    """Running counts of a condition."""

    def __init__(self, condition: Condition, planned: int, done: int) -> None:
        self.condition, self.planned, self.done, self.made = condition, planned, done, 0
        self.right: dict[str, tuple[int, int]] = {}

    def add(self, part: Path, names: set[str], num_samples: int) -> None:
        """Count a part's verdicts."""
        for row in store.read_grades(part, version()).to_pylist():
            if row["problem_id"] in names and row["sample"] < num_samples:
                right, known = self.right.get(row["problem_id"], (0, 0))
                verdict = row["strict"]
                self.right[row["problem_id"]] = (
                    right + (verdict == "right"),
                    known + (verdict != "unknown"),
                )

    def advance(self) -> Advance:
        return Advance(
            condition=self.condition,
            done=self.done,
            planned=self.planned,
            made=self.made,
            right=dict(self.right),
        )


# Grading.


def version() -> str:
    """Of all that says something of a completion: grades of another version are not mixed with these."""
    return f"{referees.VERSION}_{detectors.VERSION}"


Classes = dict[str, list[str]]
"""Problem → names of the classes of wrong answers that were met so far, in order."""


def grade(part: Path, condition: Condition, referee: Referee, met: Classes) -> None:
    """Grade one part of samples and keep it; ``met`` is of the condition's other parts, and grows."""
    rows = store.read_part(part, ["problem_id", "sample", "gold", "text"]).to_pylist()
    form: grading.Form = condition.template["form"]
    grades = referee.grade([(row["text"], row["gold"]) for row in rows], form)
    classes = _classes(rows, grades, met, referee)
    graded = [
        {
            "problem_id": row["problem_id"],
            "sample": row["sample"],
            "strict": said.strict,
            "lenient": said.lenient,
            "boxed": said.boxed,
            "answer": said.answer,
            "how": said.how,
            "answer_class": answer_class,
            "has_python": detectors.has_python(row["text"]),
            "code_parses": detectors.code_parses(row["text"]),
        }
        for row, said, answer_class in zip(rows, grades, classes, strict=True)
    ]
    store.write_grades(part, version(), graded)


def wrong_classes(place: Path) -> Classes:
    """Those of all parts of a condition that this version has graded."""
    met: Classes = {}
    for path in store.parts(place):
        if store.grade_path(path, version()).exists():
            for row in store.read_grades(path, version()).to_pylist():
                names = met.setdefault(row["problem_id"], [])
                if row["strict"] == "wrong" and row["answer_class"] not in names:
                    names.append(row["answer_class"])
    return met


def _classes(
    rows: Sequence[Mapping[str, Any]],
    grades: Sequence[Grade],
    met: Classes,
    referee: Referee,
) -> list[str | None]:
    """Each strict answer's equivalence class: the gold answer's where it is right, else that of the first wrong answer it equals.

    A name once given stays, so that classes agree over all parts of a condition. An answer of unknown verdict is a class of its own.
    """
    wrong: dict[str, list[str]] = {}
    for row, said in zip(rows, grades, strict=True):
        if said.strict == "wrong" and said.boxed is not None:
            wrong.setdefault(row["problem_id"], []).append(said.boxed)
    # All at once, so that the referee's workers share them.
    forms = {p: sorted({*met.get(p, ()), *new}, key=lambda a: (len(a), a)) for p, new in wrong.items()}  # fmt: skip
    referee.decide((a, b) for each in forms.values() for i, b in enumerate(each) for a in each[:i])
    names: dict[tuple[str, str], str] = {}
    for problem, new in wrong.items():
        members = [*met.get(problem, ()), *new]
        named: dict[str, str] = {}
        for answer, its_class in zip(members, referee.classes(members), strict=True):
            names[problem, answer] = named.setdefault(its_class, answer)
        met[problem] = list(dict.fromkeys([*met.get(problem, ()), *named.values()]))
    found: list[str | None] = []
    for row, said in zip(rows, grades, strict=True):
        match said.strict:
            case "right":
                found.append(row["gold"])
            case "wrong" if said.boxed is not None:
                found.append(names[row["problem_id"], said.boxed])
            case _:
                found.append(said.boxed)
    return found


def regrade(
    folder: Path, referee: Referee, tell: Callable[[int, int], None] = lambda *_: None
) -> int:
    """Grade what the present version has not graded, in every condition; the number of completions. Nothing is generated.

    The caller holds the store's lock.
    """
    todo = {
        place: (condition, store.ungraded(place, version()))
        for place, condition in store.conditions(folder).items()
    }
    planned = sum(len(paths) for _, paths in todo.values())
    count = done = 0
    for place, (condition, paths) in todo.items():
        met = wrong_classes(place)
        for path in paths:
            grade(path, condition, referee, met)
            count += store.read_part(path, ["sample"]).num_rows
            done += 1
            tell(done, planned)
    return count
