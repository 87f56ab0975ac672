"""Tensors on disk: what is read is what was written, or an error that names the file."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlarm import checkpoints, files
from controlarm.files import DamagedFileError

TENSORS = {
    "weights.0.q": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([0.1, -0.0, float("inf")], dtype=torch.bfloat16),
    "active": torch.tensor([True, False]),
    "optimizer.step.0.q": torch.tensor(7.0),
    "empty": torch.zeros(0, 4),
}
FACTS = {"step": 3, "journals": [[120, "ab"]], "failures": {"1": "step 2: “why”"}}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and torch.equal(one[n], other[n])
        for n in one
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "000.safetensors"
    checkpoints.write(path, TENSORS, FACTS)
    return path


def test_tensors_and_facts_come_back_as_they_were_and_nothing_is_left_beside_them(tmp_path):
    path = tmp_path / "deep" / "er" / "000.safetensors"
    checkpoints.write(path, TENSORS, FACTS)
    tensors, facts = checkpoints.read(path)
    assert same(tensors, TENSORS)
    assert facts == FACTS
    assert list(path.parent.iterdir()) == [path]


def test_the_same_content_is_the_same_bytes(written, tmp_path):
    backwards = {name: TENSORS[name].clone() for name in reversed(TENSORS)}
    for _ in range(8):
        checkpoints.write(tmp_path / "again", backwards, dict(reversed(FACTS.items())))
        assert (tmp_path / "again").read_bytes() == written.read_bytes()


@given(st.data())
def test_no_changed_byte_goes_unnoticed(written, data):
    content = bytearray(written.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    damaged = written.with_name("damaged.safetensors")
    damaged.write_bytes(bytes(content))
    try:
        tensors, facts = checkpoints.read(damaged)
    except DamagedFileError as error:
        assert "damaged.safetensors" in str(error)
    else:  # blank space of the header, changed to other blank space
        assert same(tensors, TENSORS) and facts == FACTS


@given(st.integers(0, 10_000))
def test_a_truncated_file_is_named(written, length):
    content = written.read_bytes()
    cut = written.with_name("cut.safetensors")
    cut.write_bytes(content[: min(length, len(content) - 1)])
    with pytest.raises(DamagedFileError, match=r"cut\.safetensors"):
        checkpoints.read(cut)


def test_a_missing_or_strange_file_is_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(DamagedFileError, match="nowhere"):
        checkpoints.read(tmp_path / "nowhere")
    save_file({"x": torch.zeros(2)}, tmp_path / "strange")
    with pytest.raises(DamagedFileError, match="strange"):
        checkpoints.read(tmp_path / "strange")


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.tensor([1.0, 2.0])},
        {"y": torch.tensor([1.0, 3.0])},
        {"x": torch.tensor([[1.0, 3.0]])},
        {"x": torch.tensor([1.0, 3.0]).view(torch.int32)},
        {"x": torch.tensor([1.0, 3.0]), "y": torch.tensor(0.0)},
    ],
)
def test_the_hash_sees_names_types_shapes_and_values(other):
    assert checkpoints.tensors_sha256(other) != checkpoints.tensors_sha256(
        {"x": torch.tensor([1.0, 3.0])}
    )


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "state"
    files.write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_a_reader_never_sees_a_half_written_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    files.write_atomic(path, b"old")
    seen = []
    plain_replace = Path.replace
    monkeypatch.setattr(
        Path, "replace",
        lambda self, target: (seen.append((path.read_bytes(), self.read_bytes())), plain_replace(self, target)),
    )  # fmt: skip
    files.write_atomic(path, b"new")
    assert seen == [(b"old", b"new")], "complete beside the old one before it takes its name"
    assert path.read_bytes() == b"new"
