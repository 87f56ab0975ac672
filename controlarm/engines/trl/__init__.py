"""The engine for any Hugging Face causal language model: each run through TRL's ``GRPOTrainer``, into the run folders of a trial.

Here is what stands before a run: what the engine refuses, and what a trial of it is made of.
"""

import hashlib
import os
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from controlarm import prompts, referee
from controlarm.engines import lockstep
from controlarm.engines.trl.launch import Launch
from controlarm.protocol import Protocol

VERSION = "trl-1"
"""Moves when anything from labels to evaluation would give other numbers; part of every digest of a trial of this engine."""

OLDEST, BEFORE = (1, 16), (1, 17)
"""TRL versions that this is written for: its trainer's inner methods are not promised to stay."""


def misfits() -> list[str]:
    """Why TRL cannot be used here: not installed, or another version than this is written for."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        return ["trial.engine: trl is not installed; pip install 'controlarm[trl]'"]
    if find_spec("peft") is None:
        return ["trial.engine: peft is not installed; pip install 'controlarm[trl]'"]
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not OLDEST <= numbers < BEFORE:
        wanted = f">={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, BEFORE))}"
        return [
            f"trial.engine: trl {found} is installed, and the engine is written for trl{wanted}; pip install 'trl{wanted}'"
        ]
    return []


def check(protocol: Protocol) -> list[str]:
    """Every problem that can be found before a run: TRL itself, recipes that it cannot run, models that are not there."""
    if found := misfits():
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlarm.engines.trl import vllm
        from controlarm.engines.trl.recipe import refusals
    found += vllm.misfits(protocol.trl)
    for name, recipe in protocol.recipes.items():
        processes = Launch.of(os.environ).processes
        for refusal in refusals(recipe, processes, protocol.trl.pass_rollouts):
            where = "" if refusal.startswith("trl.") else f"recipes.{name}."
            found.append(f"{where}{refusal}")
    if protocol.design.template not in prompts.TEMPLATES:
        found.append(
            f"design.template: unknown {protocol.design.template!r}; known: {', '.join(prompts.TEMPLATES)}"
        )
    for family, model in protocol.models.items():
        if Path(model.path).is_dir():
            if not (Path(model.path) / "config.json").is_file():
                found.append(
                    f"models.{family}.path: {model.path} has no config.json; name a folder that save_pretrained wrote"
                )
            elif misread := _misread(model.path):
                found.append(f"models.{family}.path: {misread}")
            if model.revision is not None:
                found.append(f"models.{family}.revision: does nothing for a folder; remove it")
        elif model.revision is None:
            found.append(
                f"models.{family}.path: {model.path!r} is no folder here; if it is a name on the hub, say which revision (a commit), "
                "so that the trial is of one model"
            )
    return found


def _misread(folder: str) -> str | None:
    """What is wrong with a folder's tokenizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        from controlarm.backends import words

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            return (
                f"no tokenizer can be loaded from {folder} ({said}); save it there with the model"
            )
        return words.misread(folder, None, tokenizer, words.SAMPLES)


def materials(protocol: Protocol) -> dict[str, str]:
    """What models are made of, a folder's content or a name with its revision; and who judges real problems."""
    found = {"referee": referee.VERSION} if protocol.design.problems else {}
    for family, model in protocol.models.items():
        folder = Path(model.path)
        if folder.is_dir():
            whole = hashlib.sha256()
            for path in sorted(p for p in folder.iterdir() if p.is_file()):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                whole.update(f"{path.name}|{content}|".encode())
            found[f"model {family}"] = whole.hexdigest()
        else:
            found[f"model {family}"] = f"{model.path}@{model.revision}"
    return found


def run_shard(plan: lockstep.Plan, number: int, report: lockstep.Report) -> None:
    """Bring one run from wherever it stands to its end; with several processes, each of them calls it.

    Raises:
        DamagedFileError: when a file that it needs does not hold what was written to it.
        OSError: when a file cannot be written; what was committed stays.
    """
    torch.set_num_threads(1)
    # A folder of its own for each process: an exported organism is needed only while the run lasts.
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # TRL's and its libraries' own
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers.utils import logging

        from controlarm.engines.trl.recorder import Recorder
        from controlarm.engines.trl.run import open_run

        logging.disable_progress_bar()
        run = open_run(plan, number, Path(scratch))
        try:
            Recorder(run, report).train()
        finally:
            if run.referee:
                run.referee.close()
