"""Weights of an organism that was pretrained before."""

from torch import Tensor

from controlarm import checkpoints
from controlarm.organisms.catalogue import path_of
from controlarm.organisms.transformer import Shape, parameter_shapes


def load(family: str, pretraining_seed: int) -> tuple[dict[str, Tensor], dict[str, object], Shape]:
    """Weights (float32, run axis of 1), facts and shape of one organism.

    Raises:
        ValueError: no such organism, a damaged file, or a file of another architecture.
    """
    path = path_of(family, pretraining_seed)
    weights, facts = checkpoints.read(path)
    shape = Shape()
    expected = {name: (1, *size) for name, size in parameter_shapes(shape).items()}
    if {name: tuple(w.shape) for name, w in weights.items()} != expected:
        raise ValueError(
            f"{path}: not an organism of this version's architecture; pretrain it anew"
        )
    return weights, facts, shape
