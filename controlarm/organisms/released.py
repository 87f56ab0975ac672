"""Where organisms are found: those that ship with the package, and a user's own beside the trial."""

from pathlib import Path

from torch import Tensor

from controlarm import checkpoints
from controlarm.organisms.transformer import Shape, parameter_shapes

SHIPPED = Path(__file__).parent / "weights"
OWN = Path("organisms")
"""A user's own organisms, relative to where the command runs; looked at first."""


def known() -> dict[str, list[int]]:
    """Family → pretraining seeds, of every organism found."""
    found: dict[str, list[int]] = {}
    for folder in (OWN, SHIPPED):
        for path in sorted(folder.glob("*-p*.safetensors")):
            family, _, seed = path.stem.rpartition("-p")
            if seed.isdigit() and int(seed) not in found.setdefault(family, []):
                found[family].append(int(seed))
    return {family: sorted(seeds) for family, seeds in sorted(found.items())}


def path_of(family: str, pretraining_seed: int) -> Path:
    """File of one organism.

    Raises:
        ValueError: when there is none; names what there is.
    """
    for folder in (OWN, SHIPPED):
        path = folder / f"{family}-p{pretraining_seed}.safetensors"
        if path.is_file():
            return path
    have = "; ".join(f"{name}: {', '.join(map(str, seeds))}" for name, seeds in known().items())
    raise ValueError(
        f"there is no organism {family!r} with pretraining seed {pretraining_seed}; known families and their "
        f"pretraining seeds: {have or 'none'}; `controlarm pretrain` makes more"
    )


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
