"""Every number of a model on a benchmark, from the samples in its store. No model and no torch: a store is read anywhere.

The unit is the problem: intervals are about other problems of this kind, for this one model. Samples that were asked for and are missing (a command was
stopped) are no samples, and ``complete`` says so; verdicts that are unknown are left out and counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy import stats

from controlarm import store
from controlarm.analysis import boundary, coverage
from controlarm.analysis.contrasts import Estimate, estimate, t_interval
from controlarm.analysis.metrics import mean, per_problem
from controlarm.analysis.strategies import DETECTORS, Detector
from controlarm.analysis.wording import points
from controlarm.store import Condition

LEVEL = 0.95

Flags = Bool[np.ndarray, "problem sample"]
Verdict = ("right", "wrong", "no_answer", "unknown")


class ScoreError(ValueError):
    """What was asked of a store that it does not hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """One condition's samples with the grades of one version. What is not there is ``present`` False, and no flag is set."""

    condition: Condition
    asked: store.Asked
    version: str
    problem_ids: tuple[str, ...]
    """Sorted."""
    texts: tuple[str, ...]
    """The problems, in that order."""
    golds: tuple[str, ...]
    present: Flags
    strict: dict[str, Flags]
    """By verdict."""
    lenient: dict[str, Flags]
    has_python: Flags
    code_parses: Flags
    boxed: Flags
    truncated: Flags
    answer_class: np.ndarray
    """[problem, sample] of str or None."""
    num_tokens: Float[np.ndarray, "problem sample"]
    """NaN where there is none; so below."""
    logprob: Float[np.ndarray, "problem sample"]

    def success(self, verdicts: Mapping[str, Flags]) -> Float[np.ndarray, "problem sample"]:
        """1 where right, 0 where wrong or without answer, NaN where unknown or missing."""
        known = self.present & ~verdicts["unknown"]
        return np.where(known, verdicts["right"].astype(float), np.nan)


def read(place: Path, condition: Condition, version: str) -> Graded:
    """A condition's samples and their grades by ``version``.

    Raises:
        ScoreError: there are no samples, or some have no grades by this version.
        DamagedFileError: a part is not what was written.
    """
    found = store.parts(place)
    if not found:
        raise ScoreError(f"{place}: holds no samples yet; run controlarm evaluate again")
    if store.ungraded(place, version):
        others = ", ".join(store.graded_versions(place)) or "nobody"
        raise ScoreError(
            f"{place}: is graded by {others}, and not in full by {version}; run controlarm regrade"
        )
    names = ["problem_id", "sample", "problem", "gold", "num_tokens", "truncated", "logprob"]
    made = pa.concat_tables(store.read_part(path, names) for path in found).to_pylist()
    said = pa.concat_tables(store.read_grades(path, version) for path in found).to_pylist()
    facts = {row["problem_id"]: (row["problem"], row["gold"]) for row in made}
    ids = tuple(sorted(facts))
    index = {name: i for i, name in enumerate(ids)}
    shape = (len(ids), 1 + max(row["sample"] for row in made))

    def flags() -> Flags:
        return np.zeros(shape, bool)

    present, has_python, code_parses, boxed, truncated = (flags() for _ in range(5))
    strict, lenient = ({v: flags() for v in Verdict} for _ in range(2))
    classes = np.full(shape, None, object)
    num_tokens, logprob = np.full(shape, np.nan), np.full(shape, np.nan)
    for sample, grade in zip(made, said, strict=True):
        at = index[sample["problem_id"]], sample["sample"]
        if (grade["problem_id"], grade["sample"]) != (sample["problem_id"], sample["sample"]):
            raise ScoreError(f"{place}: grades of another sample than the one at their place")
        present[at] = True
        strict[grade["strict"]][at] = lenient[grade["lenient"]][at] = True
        has_python[at], code_parses[at] = grade["has_python"], grade["code_parses"]
        boxed[at], truncated[at] = grade["boxed"] is not None, sample["truncated"]
        classes[at] = grade["answer_class"]
        num_tokens[at] = sample["num_tokens"]
        logprob[at] = np.nan if sample["logprob"] is None else sample["logprob"]
    # Without its file a condition was to hold what it has of its fullest problem.
    asked = store.asked(place) or store.Asked(num_problems=shape[0], num_samples=shape[1])
    return Graded(
        condition=condition, asked=asked, version=version, problem_ids=ids,
        texts=tuple(facts[i][0] for i in ids), golds=tuple(facts[i][1] for i in ids),
        present=present, strict=strict, lenient=lenient, has_python=has_python, code_parses=code_parses,
        boxed=boxed, truncated=truncated, answer_class=classes, num_tokens=num_tokens, logprob=logprob,
    )  # fmt: skip


class Score(NamedTuple):
    """A mean over problems with its interval. NaN of nothing."""

    value: float
    low: float
    high: float
    num_problems: int


FEW = 300
"""Problems below which a mean's interval is not taken from the normal distribution (arXiv:2503.01747)."""


def score(values: Float[np.ndarray, " problem"], level: float = LEVEL) -> Score:
    """Mean of problems' rates in [0, 1].

    With at least ``FEW`` problems mean ± z·s/√n. With fewer, Clopper and Pearson's interval of the same rate in an effective number of trials,
    value(1 - value)/se² · (z/t(n - 1))² (Korn & Graubard 1998), at least n: with one sample a problem that is n, and the interval is exact.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if not n:
        return Score(float("nan"), float("nan"), float("nan"), 0)
    value = float(values.mean())
    se = float(values.std() / np.sqrt(n))
    z = float(stats.norm.ppf(0.5 + level / 2))
    if n >= FEW and se:
        return Score(value, max(0.0, value - z * se), min(1.0, value + z * se), n)
    trials = float(n)
    if se and n > 1:
        widened = (z / float(stats.t.ppf(0.5 + level / 2, n - 1))) ** 2
        trials = max(trials, value * (1 - value) / se**2 * widened)
    return Score(value, *coverage.clopper_pearson(value * trials, trials, level), n)


def powers(largest: int) -> list[int]:
    """1, 2, 4 … up to ``largest``, which is the last.

    >>> powers(12)
    [1, 2, 4, 8, 12]
    """
    found = [1 << i for i in range(largest.bit_length()) if 1 << i <= largest]
    return found if not found or found[-1] == largest else [*found, largest]


def majority(graded: Graded, k: int) -> Float[np.ndarray, " problem"]:
    """maj@k of each problem, strict, by equivalence classes; NaN where fewer than k samples have a known verdict."""
    found = []
    known = graded.present & ~graded.strict["unknown"]
    for i in range(len(graded.problem_ids)):
        if known[i].sum() < k:
            found.append(np.nan)
            continue
        votes = graded.answer_class[i, known[i]].tolist()
        found.append(
            boundary.majority_right(votes, graded.strict["right"][i, known[i]].tolist(), k)
        )
    return np.array(found)


class Use(NamedTuple):
    """Code or words, by one detector."""

    share: Score
    """Of the samples, those with code."""
    accuracy_code: float
    """Strict, over samples with code, pooled."""
    accuracy_words: float
    lenient_code: float
    lenient_words: float


def use(graded: Graded, detector: Detector) -> Use:
    """How often a detector finds code, and how well each strategy does."""
    code = graded.has_python if detector == "substring" else graded.code_parses

    def accuracy(verdicts: Mapping[str, Flags], chosen: Flags) -> float:
        known = chosen & graded.present & ~verdicts["unknown"]
        return mean(graded.success(verdicts)[known])

    return Use(
        score(per_problem(_where(code, graded.present))),
        accuracy(graded.strict, code), accuracy(graded.strict, ~code),
        accuracy(graded.lenient, code), accuracy(graded.lenient, ~code),
    )  # fmt: skip


def _where(flags: Flags, present: Flags) -> Float[np.ndarray, "problem sample"]:
    return np.where(present, flags.astype(float), np.nan)


class Holdings(NamedTuple):
    """How much of what the last evaluation asked for is there."""

    problems_asked: int
    samples_asked: int
    """Problems × samples of each."""
    num_missing: int
    """Of these samples."""
    num_begun: int
    """Problems with a sample, of those that were asked."""
    num_whole: int
    """Problems with all samples. pass@k and maj@k are theirs at every k; of all problems where there is none."""

    @property
    def words(self) -> str:
        have = self.samples_asked - self.num_missing
        return f"{have:,} of {self.samples_asked:,} samples, {self.num_begun:,} of {self.problems_asked:,} problems"


def lacking(graded: Graded) -> Int[np.ndarray, " problem"]:
    """Samples that were asked for and are not there, of each problem that has one."""
    return np.maximum(0, graded.asked.num_samples - graded.present.sum(axis=1))


def holdings(graded: Graded) -> Holdings:
    """What is there and what is not."""
    asked, lack = graded.asked, np.sort(lacking(graded))
    absent = max(0, asked.num_problems - len(lack)) * asked.num_samples
    return Holdings(
        asked.num_problems, asked.num_problems * asked.num_samples, absent + int(lack[: asked.num_problems].sum()),
        min(len(lack), asked.num_problems), int((lack == 0).sum()),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one condition says of a model. Rates are means over problems of their means over samples."""

    num_problems: int
    num_samples: int
    """Most that a problem has."""
    held: Holdings
    accuracy: Score
    """Strict: pass@1, avg@num_samples; greedy accuracy where the condition is greedy."""
    lenient: Score
    pass_at: dict[int, float]
    """k → unbiased pass@k, strict."""
    lenient_pass_at: dict[int, float]
    maj_at: dict[int, float]
    """k → maj@k, strict."""
    parsable: Score
    """An answer stands where the prompt asked for it."""
    truncated: Score
    no_answer: float
    """Share of samples without any final answer (lenient)."""
    unknown: float
    """Share of samples that the grader gave up on, strict."""
    strategies: dict[str, Use]
    mean_tokens: float
    mean_logprob: float
    """Of a generated token, natural: sum over all tokens of all samples / their number."""
    perplexity: coverage.Spread
    """Of completions under the model itself, exp(-mean log-probability of their tokens)."""

    @property
    def complete(self) -> bool:
        return self.held.num_missing == 0


def scores(graded: Graded) -> Scores:
    """All of them, from one condition."""
    present = graded.present
    chosen = lacking(graded) == 0
    if not chosen.any():
        chosen = np.ones_like(chosen)
    # One set of problems at every k: a curve whose problems change with k can fall, and compares nothing.
    largest = int(present[chosen].sum(axis=1).min())
    known = (present & ~graded.strict["unknown"])[chosen]
    curves = {}
    for name, verdicts in (("strict", graded.strict), ("lenient", graded.lenient)):
        counts = boundary.tries(verdicts["right"][chosen], (present & ~verdicts["unknown"])[chosen])
        ks = [k for k in powers(largest) if (counts.num_samples >= k).any()]
        curve = boundary.mean_curve(boundary.pass_curves(counts, ks)).tolist() if ks else []
        curves[name] = dict(zip(ks, curve, strict=True))
    ks = [k for k in powers(largest) if (known.sum(axis=1) >= k).any()]
    told = present & ~np.isnan(graded.logprob)
    tokens = graded.num_tokens[told]
    return Scores(
        num_problems=len(graded.problem_ids),
        num_samples=present.shape[1],
        held=holdings(graded),
        accuracy=score(per_problem(graded.success(graded.strict))),
        lenient=score(per_problem(graded.success(graded.lenient))),
        pass_at=curves["strict"],
        lenient_pass_at=curves["lenient"],
        maj_at={k: mean(majority(graded, k)[chosen]) for k in ks},
        parsable=score(per_problem(_where(graded.boxed, present))),
        truncated=score(per_problem(_where(graded.truncated, present))),
        no_answer=mean(_where(graded.lenient["no_answer"], present).ravel()),
        unknown=mean(_where(graded.strict["unknown"], present).ravel()),
        strategies={detector: use(graded, detector) for detector in DETECTORS},
        mean_tokens=mean(graded.num_tokens.ravel()),
        mean_logprob=float(graded.logprob[told].sum() / tokens.sum()) if told.any() else np.nan,
        perplexity=coverage.spread(
            coverage.perplexity(graded.logprob[told], tokens.astype(int))
            if told.any()
            else np.array([])
        ),
    )


# Two models.


class Flip(NamedTuple):
    """A problem whose outcome differs."""

    problem_id: str
    text: str
    before: float
    """Share of its samples that are right."""
    after: float


class Difference(NamedTuple):
    """After - before, on the same problems."""

    before: Score
    after: Score
    difference: Estimate
    """Over problems; ``sd`` is that of a problem's difference."""
    gained: list[Flip]
    """Right in more than half of the samples only after."""
    lost: list[Flip]
    """Only before."""
    p: float
    """Exact McNemar, two-sided: of gained and lost, were both as likely; 1 without a flip."""
    num_unknown: int
    """Problems left out because a side has no known verdict."""


def difference(before: Graded, after: Graded) -> Difference:
    """Compare two conditions problem by problem, strict.

    Raises:
        ScoreError: the problems, golds, graders or kinds of decoding differ.
    """
    _comparable(before, after)
    rates = [per_problem(side.success(side.strict)) for side in (before, after)]
    both = ~(np.isnan(rates[0]) | np.isnan(rates[1]))
    first, second = rates[0][both], rates[1][both]
    names = np.array([before.problem_ids, before.texts], dtype=object)[:, both]
    solved = first > 0.5, second > 0.5
    gained, lost = ~solved[0] & solved[1], solved[0] & ~solved[1]
    flips = int(gained.sum() + lost.sum())
    p = stats.binomtest(int(gained.sum()), flips).pvalue if flips else 1.0

    def flipped(which: Bool[np.ndarray, " problem"]) -> list[Flip]:
        return [
            Flip(str(i), str(text), float(a), float(b))
            for i, text, a, b in zip(*names[:, which], first[which], second[which], strict=True)
        ]

    return Difference(
        score(first), score(second), estimate((second - first).tolist()),
        flipped(gained), flipped(lost), float(p), int((~both).sum()),
    )  # fmt: skip


def uneven(before: Graded, after: Graded) -> list[str]:
    """What a reader of a difference must know: which side is incomplete, and whether one has more samples a problem."""
    sides = holdings(before), holdings(after)
    said = [
        f"{name} is incomplete: {side.words}"
        for name, side in zip(("the first", "the second"), sides, strict=True)
        if side.num_missing
    ]
    sizes = before.present.shape[1], after.present.shape[1]
    if sizes[0] != sizes[1]:
        said.append(
            f"samples of a problem differ: {sizes[0]} in the first, {sizes[1]} in the second; "
            "with fewer a problem's share of right samples is less certain, and more problems flip by chance"
        )
    return said


def _comparable(before: Graded, after: Graded) -> None:
    if before.version != after.version:
        raise ScoreError(
            f"graded by {before.version} and by {after.version}; run controlarm regrade on both, so that one version judges"
        )
    if before.condition.greedy != after.condition.greedy:
        raise ScoreError("one is greedy and the other sampled; compare like with like")
    sides = [set(zip(g.problem_ids, g.texts, g.golds, strict=True)) for g in (before, after)]
    if sides[0] != sides[1]:
        only = [sorted(i for i, *_ in a - b)[:3] for a, b in (sides, sides[::-1])]
        raise ScoreError(
            f"the problems differ: {len(sides[0] - sides[1])} stand only in the first ({', '.join(only[0])} …) and "
            f"{len(sides[1] - sides[0])} only in the second ({', '.join(only[1])} …), by id, text or gold answer; "
            + "; ".join(
                [*uneven(before, after), "evaluate both on the same set with the same --limit"]
            )
        )


def pairs(
    first: Mapping[Path, Condition], second: Mapping[Path, Condition]
) -> list[tuple[Path, Path]]:
    """Conditions of two stores that differ in model and seed only.

    Two single conditions are a pair whatever differs: then that is what is asked.

    Raises:
        ScoreError: there is none.
    """
    if len(first) == len(second) == 1:
        return [(next(iter(first)), next(iter(second)))]

    def kind(c: Condition) -> tuple[object, ...]:
        return c.problems, c.prompt, c.temperature, c.top_p, c.max_tokens

    found = [(a, b) for a, of_a in first.items() for b, of_b in second.items() if kind(of_a) == kind(of_b)]  # fmt: skip
    if not found:
        raise ScoreError(
            "no condition of one store has its like in the other; the first holds "
            f"{_names(first.values())}, the second {_names(second.values())}"
        )
    return found


def _names(conditions: Iterable[Condition]) -> str:
    return "; ".join(
        f"{c.problems} {c.prompt} at temperature {c.temperature:g}, top-p {c.top_p:g}, {c.max_tokens} tokens"
        for c in conditions
    )


# In words.


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _with_interval(one: Score) -> str:
    if np.isnan(one.value):
        return "–"
    return f"{_percent(one.value)} ({_percent(one.low)} to {_percent(one.high)})"


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def tables(found: Sequence[tuple[Condition, Scores]]) -> list[Table]:
    """What is printed of one problem set: header and rows of each table. Rates are percentages, with 95 % intervals."""
    accuracy, form, reach, strategies, tokens, likely = [], [], [], [], [], []
    for condition, one in found:
        head = (condition.prompt, _decoding(condition))
        size = f"{one.num_problems} × {one.num_samples}"
        accuracy.append((*head, size, _with_interval(one.accuracy), _with_interval(one.lenient)))
        form.append((*head, _with_interval(one.parsable), _with_interval(one.truncated)))
        silent = _percent(one.no_answer), _percent(one.unknown)
        tokens.append((*head, *silent, f"{one.mean_tokens:.1f}", f"{one.mean_logprob:.4f}"))
        quantiles = one.perplexity.q05, one.perplexity.median, one.perplexity.q95
        likely.append((*head, *(f"{x:.4f}" for x in quantiles)))
        for k in one.pass_at if one.num_samples > 1 else ():
            lenient = one.lenient_pass_at.get(k, float("nan"))
            maj = one.maj_at.get(k, float("nan"))
            reach.append(
                (*head, str(k), _percent(one.pass_at[k]), _percent(lenient), _percent(maj))
            )
        for detector, used in one.strategies.items():
            right = _percent(used.accuracy_code), _percent(used.accuracy_words)
            strategies.append((*head, detector, _with_interval(used.share), *right))
    head = ("prompt", "decoding")
    return [
        ((*head, "size", "strict", "lenient"), accuracy),
        ((*head, "parsable", "truncated"), form),
        *([((*head, "k", "pass@k", "lenient pass@k", "maj@k"), reach)] if reach else []),
        ((*head, "code by", "share of code", "in code", "in words"), strategies),
        ((*head, "no answer", "unknown", "tokens", "log p a token"), tokens),
        ((*head, "perplexity 5 %", "median", "95 %"), likely),
    ]


def warnings(found: Sequence[tuple[Condition, Scores]]) -> list[str]:
    """What a reader must know before the tables: which conditions are not whole."""
    said = []
    for condition, one in found:
        which = f"({condition.prompt}, {_decoding(condition)})"
        if not one.complete:
            said.append(
                f"incomplete: {one.held.words} {which}; run the same evaluation again for the rest"
            )
        if 0 < one.held.num_whole < one.num_problems:
            said.append(
                f"pass@k and maj@k are of the {one.held.num_whole:,} problems with all samples {which}"
            )
    return said


def _decoding(condition: Condition) -> str:
    return "greedy" if condition.greedy else f"T {condition.temperature:g}"


def notes(found: Sequence[tuple[Condition, Scores]]) -> list[str]:
    """What a reader of the tables must know: which prompt is the best."""
    said = []
    groups: dict[tuple[str, bool], list[tuple[Condition, Scores]]] = {}
    for condition, one in found:
        groups.setdefault((condition.problems, condition.greedy), []).append((condition, one))
    for (problems, greedy), members in groups.items():
        if len({condition.prompt for condition, _ in members}) > 1:
            condition, best = max(members, key=lambda m: m[1].accuracy.value)
            said.append(
                f"{problems}, {'greedy' if greedy else 'sampled'}: the best prompt is {condition.prompt}, strict "
                f"{_with_interval(best.accuracy)}, the highest of {len(members)}, so a little too high: a gain from training must beat it"
            )
    return said


def told(found: Difference, flips: int) -> list[str]:
    """A difference in lines."""
    e = found.difference
    low, high = t_interval(e, LEVEL)
    spread = "no interval" if e.note else f"{points(low)} to {points(high)}"
    said = [
        f"strict {_with_interval(found.before)} → {_with_interval(found.after)} on {found.before.num_problems} problems",
        f"difference {points(e.mean)} points ({spread}), paired by problem",
        f"{len(found.gained)} problems gained, {len(found.lost)} lost (right in more than half of the samples); exact McNemar p = {found.p:.2g}",
    ]
    if found.num_unknown:
        said.append(f"{found.num_unknown} problems left out: no verdict on one side")
    for name, rows in (("gained", found.gained), ("lost", found.lost)):
        if rows and flips:
            said += [
                f"{name}: {f.problem_id} {f.before:.2f} → {f.after:.2f}: {' '.join(f.text.split())[:50]}"
                for f in rows[:flips]
            ]
            if len(rows) > flips:
                said.append(f"{name}: {len(rows) - flips} more")
    return said


def plain(condition: Condition, found: Scores) -> dict[str, Any]:
    """As JSON: what cannot be computed is null."""
    rows = {each.name: _plain(getattr(found, each.name)) for each in fields(found)}
    return {"condition": asdict(condition), "complete": found.complete, **rows}


def _plain(value: Any) -> Any:  # noqa: ANN401  any value of a score
    match value:
        case Score() | Use() | Holdings() | coverage.Spread():
            return _plain(value._asdict())
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case float():
            return None if np.isnan(value) else float(value)
        case _:
            return value
