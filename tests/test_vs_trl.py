"""One step of training under TRL's own loss and under ours: the same gradient. Needs the extra ``trl``."""

import warnings

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("datasets")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from benchmarks.agreement import gradient_gap, rollout_batch

from controlarm import seeds
from controlarm.organisms import tokenizer
from controlarm.organisms.transformer import Shape, parameter_shapes
from controlarm.update import trees_of

SHAPE = Shape(hidden=48, layers=2, heads=3, inner=96)


def weights():
    """Random, and large enough that attention and distributions are far from uniform."""
    found = {}
    for name, size in parameter_shapes(SHAPE).items():
        rng = seeds.generator("test-vs-trl", name)
        draw = torch.from_numpy(rng.standard_normal((1, *size), dtype="float32"))
        found[name] = (
            1 + 0.1 * draw if "norm" in name else draw * (0.3 if name == "embed" else 0.12)
        )
    return found


def cut(prompts, batch):
    """Rollouts of every length: a random model hardly ever ends by itself."""
    lengths = 1 + 5 * torch.arange(batch.completions.shape[1]) % batch.completions.shape[2]
    beyond = torch.arange(batch.completions.shape[2]) >= lengths[:, None]
    completions = batch.completions.masked_fill(beyond, tokenizer.PAD)
    trees = trees_of(prompts, completions, batch.advantages[..., 0] != 0, SHAPE)
    return batch._replace(completions=completions, trees=trees)


@pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_trl_and_we_have_the_same_gradient(tmp_path, aggregation, moved):
    prompts, batch = rollout_batch(weights(), SHAPE, 4, 4, moved)
    batch = cut(prompts, batch)
    assert batch.advantages.any()
    gap = gradient_gap(weights(), SHAPE, prompts, batch, aggregation, tmp_path)
    assert gap.largest < 1e-4
    assert gap.tensors < 1e-4
    assert (gap.clipped_share > 0.05) == (moved > 0), "the bounds act off policy, and only there"
