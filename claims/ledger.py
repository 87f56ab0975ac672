"""The machinery of claims: records become tables, tables become a page and a row of ``docs/claims.md``, and all of it can be checked.

A claim is four pure functions: records to tables, and tables to a finding and to prose. Nothing else goes into a page, so
a digit that was typed or has aged is a difference that `differences` finds.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from claims.markdown import Markdown, count, counted, name, table
from claims.published import Source
from controlarm import archive, files, protocol, report
from controlarm.analysis.folder import FolderError, Trial, read_plan, read_trial
from controlarm.analysis.summary import plain, summarise
from controlarm.protocol import Protocol, ProtocolError

HOME = Path(__file__).resolve().parents[1]

Verdict = Literal[
    "reproduced", "partly", "not at this scale", "refuted in miniature", "not yet run"
]

Row = dict[str, Any]
Tables = dict[str, list[Row]]
"""Name → rows, as JSON gives them back."""

MOST_WORDS = 800
"""Of a page, its tables apart."""


class Finding(NamedTuple):
    """What came out."""

    verdict: Verdict
    effect: Markdown
    """With its interval."""


class Page(NamedTuple):
    """Prose, in markdown; every figure in it is made of the tables."""

    asked: str
    found: str
    differs: str
    """How our trial differs from the paper's."""
    caution: str
    """What is not to be read into it."""


@dataclass(frozen=True)
class Record:
    """A published trial, read when it is asked for."""

    path: Path

    @cached_property
    def plan(self) -> Row:
        """``plan.json``."""
        return read_plan(self.path)

    @cached_property
    def protocol(self) -> Protocol:
        """The trial file."""
        return protocol.load(self.path / "protocol.toml")

    @cached_property
    def trial(self) -> Trial:
        """Everything but texts and probes."""
        return read_trial(self.path)

    @cached_property
    def report(self) -> Row:
        """``report.json`` made again from the record's data."""
        return json.loads(report.as_json(summarise(self.path)))

    def probes(self, kind: str) -> pa.Table:
        """The probes of one kind, of all runs and bases."""
        return archive.probes(self.path, kind)

    @cached_property
    def commit(self) -> str | None:
        """Of the code that made it."""
        said = files.read_json(self.path / "environment.json").get("commit")
        if said is None and archive.is_archive(self.path):
            return archive.facts(self.path).commit
        return said


@dataclass(frozen=True)
class Tree:
    """The repository's files; each record is read once, however many claims rest on it."""

    root: Path
    read: dict[Path, Record] = field(default_factory=dict)

    def record(self, path: Path) -> Record:
        return self.read.setdefault(path, Record(path))


Records = Mapping[str, Record]
"""A trial's name → its record."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the literature and how our trials are read on it."""

    number: int
    title: str
    source: Source
    published: str
    """The paper's number, in words."""
    trials: tuple[str, ...]
    """Names of the trial files in ``trials/``; the first one's record holds the page."""
    rule: str
    """How the verdict follows, fixed before the data."""
    tables: Callable[[Records], Mapping[str, Sequence[Mapping[str, Any]]]]
    finding: Callable[[Tables], Finding]
    page: Callable[[Tables], Page]


def claims() -> list[Claim]:
    """Every claim of this package: ``CLAIM`` of the modules ``cNN_….py``, by number."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("c[0-9][0-9]_*.py"))
    found = [importlib.import_module(f"claims.{module}").CLAIM for module in modules]
    for module, claim in zip(modules, found, strict=True):
        assert module.startswith(f"c{claim.number:02d}_"), f"{module} holds claim {claim.number}"
    return found


# Records.


class LedgerError(ValueError):
    """A record cannot be told or read; the message names it and the remedy."""


def record_of(tree: Tree, trial: str) -> Record | None:
    """The record of a trial file; None where it was not run yet.

    Raises:
        LedgerError: there are several, or none is of the protocol that stands in ``trials/``.
    """
    found = [
        path.parent
        for path in sorted((tree.root / "records").glob(f"{trial}-*/plan.json"))
        if path.parent.name.rpartition("-")[0] == trial
    ]
    if not found:
        return None
    wanted = tree.root / "trials" / f"{trial}.toml"
    own = [path for path in found if (path / "protocol.toml").read_bytes() == wanted.read_bytes()]
    if len(own) != 1:
        names = ", ".join(f"records/{path.name}" for path in found)
        raise LedgerError(
            f"trials/{trial}.toml: {len(own) or 'none'} of {names} has this protocol; keep one record of it, made with "
            f"the trial file as it stands"
        )
    return tree.record(own[0])


def records_of(tree: Tree, claim: Claim) -> Records | None:
    """The records of all of a claim's trials; None while one is missing."""
    found = {trial: record_of(tree, trial) for trial in claim.trials}
    whole = {trial: record for trial, record in found.items() if record is not None}
    return whole if len(whole) == len(found) else None


# From records to pages.


class Built(NamedTuple):
    """What a claim comes to."""

    finding: Finding
    row: Row
    """Of ``docs/claims.md``."""
    pages: dict[Path, str]
    """Path below the root → content; none before the claim is run."""


PAGE = "CLAIM-{:02d}.md"
TABLES = "CLAIM-{:02d}.json"
LEDGER = Path("docs/claims.md")


def tables_of(claim: Claim, records: Records) -> Tables:
    """What a claim's records come to, as JSON gives it back."""
    return json.loads(json.dumps(plain(claim.tables(records)), allow_nan=False))


def build(tree: Tree, claim: Claim) -> Built:
    """Everything of one claim, in memory.

    Raises:
        LedgerError: from `record_of`.
        ValueError: a record cannot be read.
    """
    records = records_of(tree, claim)
    if records is None:
        finding, pages = Finding("not yet run", Markdown("–")), {}
        return Built(finding, _row(claim, finding, {}, {}), pages)
    made = tables_of(claim, records)
    finding, page = claim.finding(made), claim.page(made)
    home = Path("records") / records[claim.trials[0]].path.name
    facts = {
        "number": claim.number,
        "verdict": finding.verdict,
        "effect": str(finding.effect),
        "records": {trial: record.plan["digest"] for trial, record in records.items()},
    }
    assert "claim" not in made
    pages = {
        home / PAGE.format(claim.number): _page(claim, records, finding, page),
        home / TABLES.format(claim.number): report.as_json({"claim": facts, **made}),
    }
    return Built(finding, _row(claim, finding, records, pages), pages)


def _link(source: Source) -> str:
    return f"[arXiv:{source.arxiv}](https://arxiv.org/abs/{source.arxiv})"


def _units(records: Records) -> str:
    """Units a family, of each trial where they differ."""
    texts = []
    for record in records.values():
        units = record.protocol.design.units()
        models = len({unit.pretraining_seed for unit in units})
        texts.append(f"{count(len(units))} on {counted(models, 'model')}")
    return ", ".join(dict.fromkeys(texts))


def _commits(records: Records) -> str:
    """The commits, as short as a reader can look them up."""
    found = []
    for record in records.values():
        commit, dirty, _ = (record.commit or "").partition("-dirty")
        found.append(f"{name(commit[:12])}{' with changes' if dirty else ''}" if commit else "–")
    return ", ".join(dict.fromkeys(found))


def _page(claim: Claim, records: Records, finding: Finding, page: Page) -> str:
    """The page of one claim."""
    first = records[claim.trials[0]].path.name
    trials = ", ".join(
        f"[{name(record.path.name)}]({'.' if record.path.name == first else f'../{record.path.name}'}) "
        f"({counted(len(record.plan['runs']), 'run')}; `controlarm run trials/{trial}.toml`)"
        for trial, record in records.items()
    )
    parts = [
        f"# Claim {claim.number}. {claim.title}",
        f"**Published.** {claim.published} ({claim.source.paper}, {_link(claim.source)}, {claim.source.place}).",
        f"**Our trial.** {trials}; seeds a family: {_units(records)}; commit {_commits(records)}.",
        f"**Verdict: {finding.verdict}.** {finding.effect}. {claim.rule}",
        f"**Asked.** {page.asked}",
        f"**Found.** {page.found}",
        f"**How it differs from the paper.** {page.differs}",
        f"**Not to be overread.** {page.caution}",
        f"Made by `python -m claims` from the record; the tables behind it are in [{TABLES.format(claim.number)}]"
        f"({TABLES.format(claim.number)}).",
    ]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    words = sum(len(line.split()) for line in text.splitlines() if not line.startswith("|"))
    assert words <= MOST_WORDS, f"claim {claim.number}: {words} words are more than a page"
    return text


def _row(claim: Claim, finding: Finding, records: Records, pages: Mapping[Path, str]) -> Row:
    page = next((path for path in pages if path.suffix == ".md"), None)
    title = f"[{claim.title}](../{page.as_posix()})" if page else claim.title
    trials = (
        f"[`{trial}`](../records/{record.path.name}/report.html)"
        for trial, record in records.items()
    )
    return {
        "claim": Markdown(f"{claim.number}. {title}"),
        "source": Markdown(f"{_link(claim.source)}: {claim.published}"),
        "trial": Markdown(", ".join(trials) or ", ".join(f"`{trial}`" for trial in claim.trials)),
        "verdict": finding.verdict,
        "effect": finding.effect,
        "seeds": Markdown(_units(records) or "–"),
        "commit": Markdown(_commits(records) or "–"),
    }  # fmt: skip


COLUMNS = {
    "claim": "Claim", "source": "Source and number", "trial": "Our trial", "verdict": "Verdict",
    "effect": "Effect, points (95 % interval)", "seeds": "Seeds a family", "commit": "Commit",
}  # fmt: skip

HEAD = """# Claims

Claims of the literature, each put to trials on models whose pretraining is known. A verdict follows from the tables by a rule that stands in
the claim's file, beside its prose, and on its page; *in miniature* and *at this scale* are meant: these are small models of a small world.
Everything here is made by `python -m claims` from the [records](../records/README.md), and `make records` fails where it would come out
otherwise.
"""


def ledger(built: Sequence[Built]) -> str:
    """``docs/claims.md``."""
    return f"{HEAD}\n{table([each.row for each in built], COLUMNS)}\n"


def write(root: Path, all_claims: Sequence[Claim]) -> list[Path]:
    """Write every page, its tables and the ledger; what has no claim any more goes.

    Returns:
        What changed.

    Raises:
        LedgerError: from `record_of`.
        ValueError: a record cannot be read.
    """
    tree = Tree(root)
    built = [build(tree, claim) for claim in all_claims]
    wanted = _contents(built)
    changed = []
    for path, text in wanted.items():
        if not (root / path).exists() or _read(root / path) != text:
            files.write_atomic(root / path, text.encode())
            changed.append(path)
    for path in _leftovers(root, wanted):
        (root / path).unlink()
        changed.append(path)
    return changed


def _contents(built: Sequence[Built]) -> dict[Path, str]:
    pages = {path: text for each in built for path, text in each.pages.items()}
    return {**pages, LEDGER: ledger(built)}


def _leftovers(root: Path, wanted: Mapping[Path, str]) -> list[Path]:
    pages = sorted((root / "records").glob("*/CLAIM-*"))
    return [path.relative_to(root) for path in pages if path.relative_to(root) not in wanted]


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


# Checking.


def differences(root: Path, all_claims: Sequence[Claim]) -> Iterator[str]:
    """What the committed files say otherwise than the committed data, a line each, named."""
    tree, summaries = Tree(root), dict[str, Row]()
    for plan in sorted((root / "records").glob("*/plan.json")):
        record = tree.record(plan.parent)
        try:
            yield from _of_record(record)
            if (plan.parent / "report.json").exists():
                summaries[plan.parent.name] = record.report
                path = plan.parent / "report.json"
                yield from _of_file(root, path, report.as_json(record.report))
        except (ValueError, OSError) as error:
            yield _line(f"records/{plan.parent.name}: cannot be read: {error}")
    built = []
    for claim in all_claims:
        try:
            built.append(build(tree, claim))
        except (LedgerError, FolderError, ProtocolError, OSError) as error:
            yield _line(f"claim {claim.number}: {error}")
    wanted = _contents(built)
    if len(built) < len(all_claims):  # the table of all of them cannot be made
        del wanted[LEDGER]
    for path, text in wanted.items():
        yield from _of_file(root, root / path, text)
    for path in _leftovers(root, wanted):
        if len(built) == len(all_claims):
            yield f"{path.as_posix()}: is of no claim; python -m claims removes it"
    yield from _of_readme(root, summaries)


def _line(text: str) -> str:
    return " ".join(text.split())


def _of_record(record: Record) -> Iterator[str]:
    """Is it of the protocol that it names, and under the name that follows."""
    plan = record.plan
    where = f"records/{record.path.name}"
    digest = protocol.digest(record.protocol, plan["materials"])
    if digest != plan["digest"]:
        yield (
            f"{where}/protocol.toml: has digest {digest[:8]} with the materials of plan.json, which says "
            f"{plan['digest'][:8]}"
        )
    named = f"{record.protocol.trial.name}-{plan['digest'][:8]}"
    if record.path.name != named:
        yield f"{where}: should be called {named}"


def _of_file(root: Path, path: Path, wanted: str) -> Iterator[str]:
    """The first line that differs."""
    shown = path.relative_to(root).as_posix()
    if not path.exists():
        yield f"{shown}: is missing; python -m claims writes it"
        return
    found = _read(path)
    if found == wanted:
        return
    there, made = found.splitlines(), wanted.splitlines()
    at = next(
        (i for i, (a, b) in enumerate(zip(there, made, strict=False)) if a != b),
        min(len(there), len(made)),
    )
    a, b = (lines[at] if at < len(lines) else "" for lines in (there, made))
    has, says = _around(a, b)
    yield f"{shown}: line {at + 1}: has {has!r} where the data say {says!r}"


def _around(found: str, wanted: str) -> tuple[str, str]:
    """The first place where two lines differ, with a little around it."""
    pairs = enumerate(zip(found, wanted, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    return found[max(0, at - 30) : at + 50], wanted[max(0, at - 30) : at + 50]


FIGURE = re.compile(r"!\[[^\]]*\]\(records/([^/)]+)/endpoint\.svg\)")


def _of_readme(root: Path, summaries: Mapping[str, Row]) -> Iterator[str]:
    """The README's first figure is its record's."""
    path = root / "README.md"
    if not path.exists():
        yield "README.md: is missing"
        return
    found = FIGURE.search(_read(path))
    if not found:
        yield "README.md: has no figure of a record: ![…](records/…/endpoint.svg)"
        return
    if found[1] not in summaries:
        yield f"README.md: its figure is of records/{found[1]}, which has no report that can be made again"
        return
    figure = report.endpoint(summaries[found[1]])
    if figure:
        yield from _of_file(root, root / "records" / found[1] / "endpoint.svg", figure)
