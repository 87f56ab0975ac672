"""Tensors on disk: safetensors only, written whole or not at all, and checked against their own hash when read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from controlarm import files
from controlarm.files import DamagedFileError

ENTRY = "controlarm"
"""The one metadata entry: SHA-256 of what follows it, then JSON of the facts and of the tensors' SHA-256."""


REMEDY = "restore the file from a copy, or delete it and run the command that made it again"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes, in order of name."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Save tensors with facts (JSON) about them; the hash of the tensors and of the facts goes along.

    Equal content makes equal bytes: safetensors writes several entries of metadata in random order, so there is one.
    """
    whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps({"facts": dict(facts), "sha256": tensors_sha256(whole)}, sort_keys=True)
    files.write_atomic(path, save(whole, {ENTRY: f"{_text_sha256(text)} {text}"}))


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file.

    Raises:
        DamagedFileError: when the file is truncated, not safetensors, or its content does not match its hash.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(path, f"cannot be read as safetensors ({error})", REMEDY) from None
    sha256, _, text = metadata.get(ENTRY, "").partition(" ")
    said = json.loads(text) if sha256 == _text_sha256(text) else {}
    if said.get("sha256") != tensors_sha256(tensors):
        raise DamagedFileError(path, files.CHANGED, REMEDY)
    return tensors, said["facts"]
