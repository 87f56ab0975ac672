"""The audit of somebody else's logs: what a gain was made of, as far as completions alone can tell, and what is missing to tell more.

Two logs of the same problems, base first, are compared; one log with steps is compared with itself, its first tenth with its last. The
result is what `report.audit` shows and ``audit.json`` holds: numbers, with null for what is undefined.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from controlarm import detectors, grading
from controlarm.analysis.folder import VERDICTS
from controlarm.audit import gain, hints, scores, texts, unrun, verdicts
from controlarm.audit.gain import Side
from controlarm.audit.samples import Samples, gather, window
from controlarm.audit.wording import sentences
from controlarm.logs import Damage, Fields, open_log
from controlarm.records import Problem

ENOUGH = 20
"""Problems that both ends of a log must share for a paired comparison; else each end has its own."""
HEAD = 24
"""Characters that a problem is looked for by."""
PLACEBO = "random"
"""A log of this name is the placebo: the others' gain over it is told, too."""


class Named(NamedTuple):
    """A log and what the reader calls it: the name of an arm says that this control was run."""

    name: str
    path: Path


def named(given: Sequence[str]) -> list[Named]:
    """Logs with their names: ``NAME=PATH``, or a path, whose name it then is.

    Raises:
        ValueError: two have one name.
    """
    found = []
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists() or "/" in name:
            name, path = Path(text).name or text, text
        found.append(Named(name[:80], Path(path)))
    several = [log.name for log in found if sum(o.name == log.name for o in found) > 1]
    if several:
        raise ValueError(
            f"two logs are called {several[0]!r}: name them, as in before={found[0].path} after={found[-1].path}"
        )
    return found


def audit(
    logs: Sequence[Named], fields: Fields | None = None, problems: Sequence[Problem] = (),
    form: grading.Form = "box", cache: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Read, judge and compare.

    Args:
        logs: the base first; one alone is compared with itself over its steps, if it has any.
        fields: which fields hold what, where names do not tell.
        problems: golds for logs that hold none, found by the problem's text within the prompt.
        form: where the prompts want the answer, which is where the strict verdict looks.
        cache: file in which the referee keeps its verdicts; None: memory only.

    Raises:
        ValueError: a log is none, or two logs have no problem in common.
    """
    gathered = [gather(open_log(log.path, fields), form) for log in logs]
    for samples in gathered:
        if not len(samples):
            raise ValueError(_nothing_usable(samples))
        if problems:
            _lend_golds(samples, problems)
    judged = verdicts.judge(gathered, cache)
    sides = [
        Side(s, v, np.ones(len(s), dtype=bool))
        for s, v in zip(gathered, judged.verdicts, strict=True)
    ]
    found: dict[str, Any] = {
        "audit": {
            "kind": "comparison" if len(logs) > 1 else "log", "names": [log.name for log in logs],
            "form": form, "grader": verdicts.VERSION, "num_pairs": judged.num_pairs,
            "second_opinion": {"num_drawn": judged.opinion.num_drawn, "num_judged": judged.opinion.num_judged, "num_different": len(judged.opinion.differ)},
             "detectors": detectors.VERSION,
        },
        "logs": [_read(log.name, samples) for log, samples in zip(logs, gathered, strict=True)],
        "damaged": [d for log, s in zip(logs, gathered, strict=True) for d in _damage(log.name, s)],
        "sides": [{"name": log.name, **texts.describe(side)} for log, side in zip(logs, sides, strict=True)],
        "curves": [c | {"name": log.name} for log, side in zip(logs, sides, strict=True) if (c := texts.curves(side))],
        "history": [{"name": log.name, **e} for log, s in zip(logs, gathered, strict=True) for e in s.log.history],
        "scores": [e | {"name": log.name} for log, side in zip(logs, sides, strict=True) for e in scores.against(side)],
        "hints": [e | {"name": log.name} for log, side in zip(logs, sides, strict=True) for e in hints.hints(side)],
        "comparisons": _comparisons(logs, sides),
        "controls": unrun.unrun(sides[-1], {log.name for log in logs}, bool((gathered[-1].step >= 0).any())),
        "completions": [e for log, side in zip(logs, sides, strict=True) for e in _completions(log.name, side)],
    }  # fmt: skip
    found["sentences"] = sentences(found)
    return finite(found)


def _comparisons(logs: Sequence[Named], sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Base against each other log, the placebo against each treatment; of a single log its first steps against its last."""
    if len(sides) == 1:
        first, last = window(sides[0].samples)
        if not (first != last).any():
            return []
        pair = sides[0]._replace(chosen=first), sides[0]._replace(chosen=last)
        before, after = (_steps(side) for side in pair)
        names = {"before_name": before, "after_name": after, "within": True}
        common = gain.matched(*pair)[-1]
        return [names | (gain.compare(*pair) if common >= ENOUGH else gain.unpaired(*pair))]
    ends = [_end(log.name, side) if i else (log.name, side) for i, (log, side) in enumerate(zip(logs, sides, strict=True))]  # fmt: skip
    pairs = [(0, i) for i in range(1, len(logs))]
    placebo = next((i for i, log in enumerate(logs) if i and log.name == PLACEBO), None)
    if placebo is not None:
        pairs += [(placebo, i) for i in range(1, len(logs)) if i != placebo]
    return [
        {"before_name": ends[a][0], "after_name": ends[b][0], "within": False}
        | gain.compare(ends[a][1], ends[b][1])
        for a, b in pairs
    ]


def _end(name: str, side: Side) -> tuple[str, Side]:
    """A trained policy is where its log ends: of a log over steps its last tenth, and its name says so."""
    first, last = window(side.samples)
    if not (first != last).any():
        return name, side
    ended = side._replace(chosen=last)
    return f"{name}, {_steps(ended)}", ended


def _steps(side: Side) -> str:
    """The steps of the chosen rows, in words."""
    steps = np.unique(side.samples.step[side.chosen])
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"


def _read(name: str, samples: Samples) -> dict[str, Any]:
    log = samples.log
    steps = samples.step[samples.step >= 0]
    return {
        "name": name, "path": log.path.name, "format": log.format, "sentence": log.sentence, "num_files": len(log.files),
        "num_rows": len(samples), "num_damaged": samples.num_damaged, "num_rewritten": samples.num_rewritten, "num_distinct": len(samples.looks),
        "num_problems": len(samples.problems), "without_prompt": int((samples.problem == _nameless(samples)).sum()),
        "first_step": int(steps.min()) if len(steps) else None, "last_step": int(steps.max()) if len(steps) else None,
        "history_damage": log.history_damage, "several_golds": _several_golds(samples),
    }  # fmt: skip


def _nameless(samples: Samples) -> int:
    return samples.problems.index("") if "" in samples.problems else -2


def _several_golds(samples: Samples) -> int:
    """Problems whose rows name more than one right answer."""
    known = samples.gold >= 0
    pairs = np.unique(np.stack([samples.problem[known], samples.gold[known]]), axis=1)
    return int((np.bincount(pairs[0], minlength=1) > 1).sum())


def _damage(name: str, samples: Samples) -> list[dict[str, Any]]:
    return [{"name": name, "place": _place(samples, d), "what": d.what} for d in samples.damage]


def _place(samples: Samples, damage: Damage) -> str:
    """File and line of a damage, as one says it."""
    file = samples.log.files[damage.file].name
    return f"{file}, line {damage.line}" if damage.line else file


def _completions(name: str, side: Side) -> list[dict[str, Any]]:
    samples = side.samples
    found = []
    for row, text in samples.shown.items():
        look = samples.looks[samples.text[row]]
        verdict = int(side.verdicts.strict[row])
        problem = samples.problems[samples.problem[row]]
        found.append({
            "name": name, "problem": (samples.prompts[samples.problem[row]] or problem)[-800:], "text": text, "characters": int(samples.length[row]),
            "gold": samples.golds[samples.gold[row]][:200] if samples.gold[row] >= 0 else None,
            "verdict": VERDICTS[verdict] if verdict >= 0 else None, "code": look.has_python,
            "answer": samples.answers[look.answer][:200] if look.answer >= 0 else None,
            "step": int(samples.step[row]) if samples.step[row] >= 0 else None,
            "scores": {n: float(v[row]) for n, v in samples.scores.items()},
        })  # fmt: skip
    return sorted(found, key=lambda e: (e["problem"], e["text"]))


def _lend_golds(samples: Samples, problems: Sequence[Problem]) -> None:
    """Give rows without a gold answer that of the problem whose text is their prompt, or stands in it."""
    exact = {p.text.strip(): p.answer for p in problems}
    heads: dict[str, list[str]] = {}
    for text in filter(None, exact):
        heads.setdefault(text[:HEAD], []).append(text)
    short = [text for text in exact if 0 < len(text) < HEAD]
    golds = {gold: i for i, gold in enumerate(samples.golds)}
    lent = np.full(len(samples.problems), -1)
    for number, prompt in enumerate(samples.prompts):
        if prompt is None:
            continue
        answer = exact.get(prompt.strip())
        if answer is None:
            starts = range(len(prompt) - HEAD + 1)
            held = [t for i in starts for t in heads.get(prompt[i : i + HEAD], ()) if prompt.startswith(t, i)]  # fmt: skip
            held += [text for text in short if text in prompt]
            # Of several the longest: a short problem may be the beginning of a longer one.
            answer = exact[max(held, key=len)] if held else None
        if answer is not None:
            lent[number] = golds.setdefault(answer, len(golds))
    samples.golds = list(golds)
    samples.gold = np.where(samples.gold < 0, lent[samples.problem], samples.gold)


def _nothing_usable(samples: Samples) -> str:
    where = [f"{_place(samples, d)} {d.what}" for d in samples.damage[:3]]
    return f"{samples.log.path}: none of {samples.num_damaged} rows can be used: {'; '.join(where)}; name the fields with options such as --completion"


def finite(value: Any) -> Any:  # noqa: ANN401  JSON
    """The same with null for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
