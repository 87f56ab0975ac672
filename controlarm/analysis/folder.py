"""Read a run folder, or the archive of one (docs/formats.md), strictly: what cannot be read is named and left out, never guessed.

Only ``protocol.toml`` and ``plan.json`` are indispensable; any other damage is an entry of ``Trial.damaged``, and the
numbers that would have come from there are missing from the report, not zero.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int8

from controlarm import archive, files
from controlarm import protocol as protocols
from controlarm.files import DamagedFileError
from controlarm.protocol import Protocol, RunSpec, Unit
from controlarm.records import Problem, Verdict

VERDICTS: tuple[str, ...] = get_args(Verdict)
"""A verdict is stored as its index here."""
RIGHT, WRONG, NO_ANSWER, UNKNOWN = range(4)
VALID, INVALID, NO_DERIVATION = 1, 0, -1
"""What ``Completions.derived`` holds."""

JOURNAL = (
    "step", "reward", "reward_sd", "reward_code", "reward_words", "reward_failures", "accuracy", "lenient_accuracy",
    "tpr", "fpr", "code_share", "parsed_code_share", "boxed_share", "truncated_share", "unknown_share", "num_tokens",
    "entropy", "equal_groups", "loss", "grad_norm", "clip_low", "clip_high", "clip_first", "ratio_max", "approx_kl",
    "kl_base", "sampler_gap_mean", "sampler_gap_max", "learning_rate", "epsilon_low", "epsilon_high", "kl_coef",
    "entropy_coef", "weight_decay", "max_grad_norm", "updates", "policy_coef", "generated", "counted_groups",
    "token_probability", "answer_entropy", "value_loss", "prior_rare", "prior_open", "prior_likely", "prior_sure",
    "clip_low_rare", "clip_low_open", "clip_low_likely", "clip_low_sure", "clip_high_rare", "clip_high_open",
    "clip_high_likely", "clip_high_sure",
)  # fmt: skip
"""Columns of ``steps.jsonl``; each is a number or null."""

BASE = "base"
"""Name of the untrained model in the report, beside the arms' names."""


class FolderError(ValueError):
    """The folder is not a trial's, or its protocol or plan cannot be read."""


class Damage(NamedTuple):
    """A file, or lines of one, that could not be used."""

    file: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Completions:
    """Graded completions, one row a problem and one column a sample (greedy has one)."""

    strict: Int8[np.ndarray, "problem sample"]
    lenient: Int8[np.ndarray, "problem sample"]
    boxed: Bool[np.ndarray, "problem sample"]
    has_python: Bool[np.ndarray, "problem sample"]
    code_parses: Bool[np.ndarray, "problem sample"]
    derived: Int8[np.ndarray, "problem sample"]
    truncated: Bool[np.ndarray, "problem sample"]
    answer: np.ndarray
    """[problem, sample] of str or None: what equivalence of answers goes by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One checkpoint on the held-out problems."""

    problem_ids: tuple[str, ...]
    greedy: Completions
    sampled: Completions
    weights_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What could be read of one run."""

    spec: RunSpec
    state: Literal["finished", "failed", "unfinished"]
    failure: dict[str, Any] | None = None
    """``step`` and ``reason`` of a failed run."""
    journal: dict[str, Float[np.ndarray, " step"]]
    """One array a column of ``JOURNAL``; null is NaN."""
    evaluations: dict[int, Evaluation]
    """By training step."""

    @property
    def unit(self) -> Unit:
        return Unit(self.spec.pretraining_seed, self.spec.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A whole run folder in memory, texts excepted."""

    path: Path
    protocol: Protocol
    protocol_toml: str
    plan: dict[str, Any]
    environment: dict[str, Any]
    problems: dict[str, list[Problem]]
    """By split: ``training``, ``held_out``."""
    labels: dict[tuple[str, int], list[dict[str, Any]]]
    """By family and pretraining seed."""
    runs: list[Run]
    damaged: list[Damage] = field(default_factory=list)
    siblings: list[dict[str, Any]] | None = None
    """Other trials of this name when it was archived; None: not archived, so they are looked for."""

    def cell(self, family: str, recipe: str, arm: str, step: int) -> dict[Unit, Evaluation]:
        """The evaluations of one arm after ``step`` steps by unit; arm ``base`` is step 0 of whichever arm has it."""
        found: dict[Unit, Evaluation] = {}
        for run in self.runs:
            if (run.spec.family, run.spec.recipe) != (family, recipe):
                continue
            if arm == BASE and 0 in run.evaluations:
                found.setdefault(run.unit, run.evaluations[0])
            elif run.spec.arm == arm and step in run.evaluations:
                found[run.unit] = run.evaluations[step]
        return found

    def of_arm(self, family: str, recipe: str, arm: str) -> list[Run]:
        """The runs of one arm."""
        wanted = (family, recipe, arm)
        return [r for r in self.runs if (r.spec.family, r.spec.recipe, r.spec.arm) == wanted]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Columns of a parquet file.

    Raises:
        ValueError: with one line saying what is wrong, whatever is.
    """
    try:
        return files.read_table(path, names)
    except DamagedFileError as error:
        raise ValueError(_first_line(ValueError(error.what))) from None
    except OSError as error:
        raise ValueError(_first_line(error)) from None


def _verdicts(column: pa.ChunkedArray) -> np.ndarray:
    codes = {name: code for code, name in enumerate(VERDICTS)}
    try:
        return np.array([codes[name] for name in column.to_pylist()], dtype=np.int8)
    except KeyError as error:
        raise ValueError(f"verdict {error} is not one of {', '.join(VERDICTS)}") from None


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    if column.null_count:
        raise ValueError("a flag is null")
    return column.to_numpy().astype(bool)


def _derivations(column: pa.ChunkedArray) -> np.ndarray:
    column = column.cast(pa.bool_()).cast(pa.int8())  # VALID and INVALID
    return column.fill_null(NO_DERIVATION).to_numpy()


GRADES = (
    "strict",
    "lenient",
    "boxed",
    "has_python",
    "code_parses",
    "derived",
    "truncated",
    "answer",
)


def read_evaluation(
    path: Path, num_problems: int, num_samples: int, held_out: Sequence[str] | None
) -> Evaluation:
    """One evaluation file.

    Raises:
        ValueError: when it is not whole: unreadable, rows missing or out of order, other problems than ``held_out``.
    """
    table = archive.as_kept(_columns(path, EVALUATED))
    return evaluation_of(table, num_problems, num_samples, held_out)


EVALUATED = ("problem_id", "decoding", "sample", *GRADES)


def evaluation_of(
    table: pa.Table, num_problems: int, num_samples: int, held_out: Sequence[str] | None
) -> Evaluation:
    """The table of an evaluation file as arrays.

    Raises:
        ValueError: when it is not whole: rows missing or out of order, other problems than ``held_out``.
    """
    width = 1 + num_samples
    if table.num_rows != num_problems * width:
        raise ValueError(
            f"has {table.num_rows} rows; {num_problems} problems × (1 greedy + {num_samples} samples) "
            f"are {num_problems * width}"
        )
    ids = np.asarray(table["problem_id"].to_numpy()).reshape(num_problems, width)
    decoding = np.asarray(table["decoding"].to_numpy()).reshape(num_problems, width)
    sample = np.asarray(table["sample"].to_numpy()).reshape(num_problems, width)
    in_order = (
        bool((ids == ids[:, :1]).all())
        and bool((decoding[:, 0] == "greedy").all() and (decoding[:, 1:] == "sampled").all())
        and bool((sample == [0, *range(num_samples)]).all())
    )
    if not in_order:
        raise ValueError("rows are not in problem order with greedy first")
    problem_ids = tuple(map(str, ids[:, 0]))
    if held_out is not None and list(problem_ids) != list(held_out):
        raise ValueError("its problems are not the held-out problems of problems.parquet")
    sha = (table.schema.metadata or {}).get(b"weights_sha256", b"").decode()
    if not sha:
        raise ValueError("its metadata have no weights_sha256")
    grids = {
        "strict": _verdicts(table["strict"]),
        "lenient": _verdicts(table["lenient"]),
        "boxed": table["boxed"].is_valid().to_numpy(),
        "has_python": _flags(table["has_python"]),
        "code_parses": _flags(table["code_parses"]),
        "derived": _derivations(table["derived"]),
        "truncated": _flags(table["truncated"]),
        "answer": np.asarray(table["answer"].to_numpy(), dtype=object),
    }
    grids = {name: values.reshape(num_problems, width) for name, values in grids.items()}
    return Evaluation(
        problem_ids=problem_ids,
        greedy=Completions(**{name: grid[:, :1] for name, grid in grids.items()}),
        sampled=Completions(**{name: grid[:, 1:] for name, grid in grids.items()}),
        weights_sha256=sha,
    )


SHOWN = ("problem_id", "decoding", "sample", "text", "strict", "lenient", "answer", "has_python")
"""What is shown of a completion."""


def read_texts(
    trial: Trial, run: int, step: int, problem_ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The greedy completion and the first sample of some problems, for showing side by side.

    Args:
        trial: whose run it is.
        run: its place in ``trial.runs``.
        step: of the evaluation.
        problem_ids: which problems.

    Raises:
        FolderError: when the file's texts cannot be read, which its grades could.
    """
    archived, spec = archive.is_archive(trial.path), trial.runs[run].spec
    file = "texts.parquet" if archived else f"{spec.path}/evaluations/step-{step:06d}.parquet"
    path = trial.path / file
    try:
        if archived:
            rows = archive.texts(trial.path, run, step, SHOWN)
        else:
            rows = files.read_table(path, SHOWN).to_pylist()
    except DamagedFileError as error:
        what = _first_line(ValueError(error.what))
        raise FolderError(f"{path}: {what}; {files.REMEDY}") from None
    except OSError as error:
        raise FolderError(f"{path}: {_first_line(error)}; {files.REMEDY}") from None
    wanted = set(problem_ids)
    yield from (row for row in rows if row["sample"] == 0 and row["problem_id"] in wanted)


class JournalLines:
    """The good lines of a ``steps.jsonl``, fed one after the other, and what is wrong with the others."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.num_lines = 0
        """Good and bad ones."""
        self._table = np.empty((len(JOURNAL), 64))
        self._good = 0
        self._wrong: dict[str, list[int]] = {}

    def feed(self, raw: bytes) -> None:
        """One more line, without its end."""
        self.num_lines += 1
        try:
            values = self._values(raw)
        except (ValueError, OverflowError, RecursionError) as error:
            self._wrong.setdefault(_first_line(error), []).append(self.num_lines)
            return
        if self._good == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.empty_like(self._table)], axis=1)
        self._table[:, self._good] = values
        self._good += 1
        if values[0] > self.num_lines:
            self._wrong.setdefault("lines before it are missing", [self.num_lines])

    def _values(self, raw: bytes) -> list[float]:
        """One line; null becomes NaN."""
        if not files.intact(raw):
            raise ValueError("is not what was written")
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise ValueError("is no object")
        values = []
        for name in JOURNAL:
            if name not in content:
                raise ValueError(f"has no {name!r}")
            value = content[name]
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ValueError(f"{name!r} is not a number")
            values.append(float("nan") if value is None else float(value))
        step, after = values[0], self._table[0, self._good - 1] if self._good else 0
        if not (step > after and step <= self.num_steps and step == int(step)):
            raise ValueError("its step is repeated, out of order or not in the plan")
        return values

    @property
    def columns(self) -> dict[str, Float[np.ndarray, " step"]]:
        """One array a column of ``JOURNAL``; they do not change when more lines come."""
        return {name: self._table[i, : self._good] for i, name in enumerate(JOURNAL)}

    def complaints(self, cut: bool = False) -> list[str]:
        """What is wrong, a line each; ``cut``: the next line has no end."""
        wrong = self._wrong | ({"is cut": [self.num_lines + 1]} if cut else {})
        return [
            f"line {lines[0]}{f' and {len(lines) - 1} more' if len(lines) > 1 else ''}: {what}"
            for what, lines in wrong.items()
        ]


def read_journal(path: Path, num_steps: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """All good lines of a ``steps.jsonl`` as columns, and what is wrong with the others."""
    lines = JournalLines(num_steps)
    *whole, rest = path.read_bytes().split(b"\n")
    for raw in whole:
        lines.feed(raw)
    return lines.columns, lines.complaints(cut=bool(rest))


def _read_run(
    folder: Path, spec: RunSpec, protocol: Protocol, held_out: Sequence[str] | None
) -> tuple[Run, list[Damage]]:
    home, damaged, complaints = folder / spec.path, [], []
    journal = {name: np.array([], dtype=float) for name in JOURNAL}
    steps = home / "steps.jsonl"
    if steps.exists():
        try:
            journal, complaints = read_journal(steps, protocol.design.num_steps)
        except OSError as error:
            complaints = [_first_line(error)]
        damaged += [Damage(f"{spec.path}/steps.jsonl", what) for what in complaints]
    evaluations = {}
    for step in sorted(protocol.evaluation.steps):
        file = home / "evaluations" / f"step-{step:06d}.parquet"
        if not file.exists():
            continue
        try:
            evaluations[step] = read_evaluation(
                file, protocol.evaluation.num_problems, protocol.evaluation.samples, held_out
            )
        except ValueError as error:
            damaged.append(Damage(f"{spec.path}/evaluations/{file.name}", _first_line(error)))
    lines = journal["step"]
    if evaluations and not complaints and max(evaluations) > (lines[-1] if len(lines) else 0):
        what = f"has no line of step {max(evaluations)}, of which there is an evaluation"
        damaged.append(Damage(f"{spec.path}/steps.jsonl", what))
    failure = None
    if (home / "failed.json").exists():
        try:
            failure = files.read_json(home / "failed.json")
        except (OSError, DamagedFileError):
            failure = {"step": None, "reason": "unknown: failed.json is not what was written"}
            damaged.append(Damage(f"{spec.path}/failed.json", files.CHANGED))
    return _run(spec, protocol, journal, evaluations, failure), damaged


def _run(
    spec: RunSpec, protocol: Protocol, journal: dict[str, np.ndarray],
    evaluations: dict[int, Evaluation], failure: dict[str, Any] | None,
) -> Run:  # fmt: skip
    last = protocol.design.num_steps
    done = bool(np.any(journal["step"] == last)) and last in evaluations
    state = "failed" if failure else "finished" if done else "unfinished"
    return Run(spec=spec, state=state, failure=failure, journal=journal, evaluations=evaluations)


def read_plan(folder: Path) -> dict[str, Any]:
    """``plan.json``.

    Raises:
        FolderError: when it is missing or is not a plan.
    """
    path = folder / "plan.json"
    try:
        plan = files.read_json(path)
        plan["runs"] = [RunSpec(**run)._asdict() for run in plan["runs"]]
        if not all(isinstance(plan[key], str) for key in ("digest", "trial")):
            raise ValueError("digest and trial must be strings")
        dict(plan["materials"])
    except FileNotFoundError:
        raise FolderError(
            f"{path}: there is no such file; name a run folder (runs/<trial>-<digest>)"
        ) from None
    except DamagedFileError as error:
        raise FolderError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(
            f"{path}: cannot be read as a plan ({_first_line(error)}); {files.REMEDY}"
        ) from None
    return plan


def read_protocol(folder: Path, plan: Mapping[str, Any]) -> tuple[Protocol, str, Damage | None]:
    """``protocol.toml``, its text, and what tells that it is not the plan's.

    Raises:
        ProtocolError: when it is unreadable.
    """
    path = folder / "protocol.toml"
    protocol = protocols.load(path)
    text = path.read_bytes()
    same = hashlib.sha256(text).hexdigest() == plan.get("protocol_sha256")
    if same and protocols.digest(protocol, plan["materials"]) == plan["digest"]:
        return protocol, text.decode(), None
    what = "is not the plan's: it was changed after the trial started, or another version wrote it"
    return protocol, text.decode(), Damage(path.name, what)


def _read_problems(folder: Path) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {"training": [], "held_out": []}
    rows = _columns(folder / "problems.parquet", ("split", "id", "text", "answer")).to_pylist()
    for row in rows:
        if row["split"] not in found:
            raise ValueError(f"has a split {row['split']!r}; known: training, held_out")
        found[row["split"]].append(Problem(id=row["id"], text=row["text"], answer=row["answer"]))
    return found


LABELS = ("problem_id", "majority", "majority_share", "incorrect", "incorrect_share", "near_miss",
          "samples", "right", "incorrect_is_right")  # fmt: skip


def read_trial(folder: Path) -> Trial:
    """A whole run folder.

    Raises:
        FolderError: when ``plan.json`` is unreadable.
        ProtocolError: when ``protocol.toml`` is unreadable.
    """
    plan = read_plan(folder)
    protocol, protocol_toml, changed = read_protocol(folder, plan)
    damaged = [changed] if changed else []
    environment: dict[str, Any] = {}
    try:
        environment = files.read_json(folder / "environment.json")
    except OSError as error:
        damaged.append(Damage("environment.json", _first_line(error)))
    except DamagedFileError as error:
        damaged.append(Damage("environment.json", error.what))
    problems: dict[str, list[Problem]] = {"training": [], "held_out": []}
    held_out = None
    try:
        problems = _read_problems(folder)
        held_out = [problem.id for problem in problems["held_out"]]
    except ValueError as error:
        damaged.append(Damage("problems.parquet", _first_line(error)))
    found = _read_archive if archive.is_archive(folder) else _read_folder
    whole = found(folder, plan, protocol, held_out)
    return Trial(
        path=folder, protocol=protocol, protocol_toml=protocol_toml, plan=plan, environment=environment,
        problems=problems, labels=whole.labels, runs=whole.runs, damaged=damaged + whole.damaged, siblings=whole.siblings,
    )  # fmt: skip


class _Whole(NamedTuple):
    """What run folders and archives keep each in their own way."""

    labels: dict[tuple[str, int], list[dict[str, Any]]]
    runs: list[Run]
    damaged: list[Damage]
    siblings: list[dict[str, Any]] | None


def _read_folder(
    folder: Path, plan: Mapping[str, Any], protocol: Protocol, held_out: Sequence[str] | None
) -> _Whole:
    labels, damaged = {}, []
    for file in sorted((folder / "labels").glob("*-p*.parquet")):
        family, _, seed = file.stem.rpartition("-p")
        try:
            labels[family, int(seed)] = _columns(file, LABELS).to_pylist()
        except ValueError as error:
            damaged.append(Damage(f"labels/{file.name}", _first_line(error)))
    runs = []
    for spec in plan["runs"]:
        run, wrong = _read_run(folder, RunSpec(**spec), protocol, held_out)
        runs.append(run)
        damaged += wrong
    return _Whole(labels, runs, damaged, None)


T = TypeVar("T")


def _read_archive(
    folder: Path, plan: Mapping[str, Any], protocol: Protocol, held_out: Sequence[str] | None
) -> _Whole:
    damaged: list[Damage] = []

    def read(file: str, found: Callable[[], T], otherwise: T) -> T:
        try:
            return found()
        except DamagedFileError as error:
            damaged.append(Damage(error.path.name, _first_line(ValueError(error.what))))
        except OSError as error:
            name = Path(error.filename).name if error.filename else file
            damaged.append(Damage(name, _first_line(error)))
        except ValueError as error:
            damaged.append(Damage(file, _first_line(error)))
        return otherwise

    nothing = archive.Facts(commit=None, failed={}, siblings=[], times={})
    facts = read(archive.MARK, lambda: archive.facts(folder), nothing)
    labels = read("labels.parquet", lambda: archive.labels(folder, LABELS), {})
    journals = read("journals.parquet", lambda: archive.journals(folder, JOURNAL), {})
    tables = read(
        "evaluations.parquet",
        lambda: archive.evaluations(folder, EVALUATED),
        archive.Evaluations(tables={}, numbers={}),
    )
    sizes = (protocol.evaluation.num_problems, protocol.evaluation.samples)
    evaluations = {}
    for number, table in tables.tables.items():
        check = partial(evaluation_of, table, *sizes, held_out)
        evaluations[number] = read("evaluations.parquet", check, None)
    runs = []
    for i, spec in enumerate(plan["runs"]):
        mine = {
            step: evaluation
            for step in sorted(protocol.evaluation.steps)
            if (number := tables.numbers.get((i, step))) is not None
            and (evaluation := evaluations[number]) is not None
        }
        journal = journals.get(i) or {name: np.array([], dtype=float) for name in JOURNAL}
        runs.append(_run(RunSpec(**spec), protocol, journal, mine, facts.failed.get(i)))
    return _Whole(labels, runs, list(dict.fromkeys(damaged)), facts.siblings)
