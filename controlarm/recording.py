"""A run folder becomes a record: an archive with its report, held to rebuild the folder's own report byte for byte."""

import os
import shutil
from pathlib import Path

from controlarm import archive, files, report
from controlarm.analysis import tables
from controlarm.analysis.folder import SHOWN, FolderError, Trial, read_texts, read_trial
from controlarm.analysis.summary import summarise


def record(folder: Path, root: Path) -> Path:
    """Archive a finished trial with its report under ``root``; a record of the same trial is replaced, its pages stay.

    Returns:
        The record's folder.

    Raises:
        FolderError: the trial is not whole, or something else stands in the record's place.
        OSError: a file cannot be read or written; what was there before stays.
    """
    found, trial = summarise(folder), read_trial(folder)
    _check(folder, trial)
    target = root / f"{trial.protocol.trial.name}-{trial.plan['digest'][:8]}"
    if target.exists() and not archive.is_archive(target):
        raise FolderError(
            f"{target}: stands there and is no record of this kind; delete it, or name another place with --to"
        )
    draft = root / f".record.{os.getpid()}.partial" / target.name
    try:
        _write(folder, trial, draft, found["trial"]["siblings"])
        again = summarise(draft)
        # A record's folder has the name that the run folder was given; a copy of that may have another.
        mine = found | {"trial": found["trial"] | {"folder": target.name}}
        assert report.as_json(again) == report.as_json(mine), "the archive lost something"
        report.write(draft, again)
        _replace(draft, target)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    return target


def _check(folder: Path, trial: Trial) -> None:
    if archive.is_archive(folder):
        raise FolderError(f"{folder}: is a record already; name a run folder")
    if trial.damaged:
        first = trial.damaged[0]
        raise FolderError(
            f"{folder / first.file}: {first.what}; a record is made of a trial without damage: {files.REMEDY}"
        )
    waiting = sum(run.state == "unfinished" for run in trial.runs)
    if waiting:
        raise FolderError(
            f"{folder}: {waiting} of {len(trial.runs)} runs are not finished; a record is made of a whole trial: "
            "continue it with controlarm run"
        )


def _write(folder: Path, trial: Trial, draft: Path, siblings: list[dict[str, str]]) -> None:
    problems, evaluated = tables.shown(trial)
    ids = [problem.id for problem in problems]
    texts = [
        {"run": run, "step": step, **{name: text[name] for name in SHOWN}}
        for run, step, _ in evaluated
        for text in read_texts(trial, run, step, ids)
    ]
    archive.write(folder, draft, texts, siblings, trial.protocol.evaluation.steps)


def _replace(draft: Path, target: Path) -> None:
    """Put the files of a draft in place; the mark goes first and comes last, so that half a record is none."""
    files.make_folder(target)
    (target / archive.MARK).unlink(missing_ok=True)
    shutil.rmtree(target / "probes", ignore_errors=True)
    made = sorted(path.relative_to(draft) for path in draft.rglob("*") if path.is_file())
    for path in sorted(made, key=lambda path: path.name == archive.MARK):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (draft / path).replace(target / path)
    files.sync_folder(target)
