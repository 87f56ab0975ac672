"""Tensors on disk: safetensors only, written whole or not at all, and checked against their own hash when read."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


class DamagedFileError(ValueError):
    """A file of the run folder does not hold what was written to it; the message names it and the remedy."""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes, in order of name."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        found.update(tensor.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a neighbour, flush to disk, then rename: a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Save tensors with facts (JSON) about them; the hash of the tensors and of the facts goes along."""
    whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(dict(facts), sort_keys=True)
    metadata = {
        "facts": text,
        "facts_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sha256": tensors_sha256(whole),
    }
    write_atomic(path, save(whole, metadata))


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
        raise DamagedFileError(f"{path}: cannot be read as safetensors ({error})") from None
    facts = metadata.get("facts", "")
    expected = (metadata.get("sha256"), metadata.get("facts_sha256"))
    if expected != (tensors_sha256(tensors), hashlib.sha256(facts.encode()).hexdigest()):
        raise DamagedFileError(
            f"{path}: its content does not match its own SHA-256; a byte was changed after it was written. "
            "Restore the file from a copy, or delete the folder it stands in to make it again"
        )
    return tensors, json.loads(facts)
