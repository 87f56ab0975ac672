"""LoRA (arXiv:2106.09685) by a trial's rules: a start that is a function of seeds, and the merged weights for whoever reads them.

peft draws A from torch's global stream and merges in place, where taking the change out again leaves rounding in the base. Here A is
drawn by a path of names, so that all arms of a unit start alike and a resumed run where it would have; merging makes new tensors.
"""

from collections.abc import Iterator, Mapping

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor

from controlarm import seeds
from controlarm.protocol import Recipe


def config(recipe: Recipe) -> LoraConfig:
    """A recipe with a rank in peft's words."""
    targets = recipe.lora_targets
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,  # type: ignore[arg-type]  # it divides by the rank
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )


def start(model: PeftModel, path: tuple[seeds.Part, ...]) -> None:
    """A is uniform within ±1/√in, as peft's, by the noise of ``path`` and the layer's name; B is 0, so the model is its base.

    Raises:
        ValueError: a target is no linear layer.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, layer in layers.items():
        base = layer.get_base_layer()
        if not isinstance(layer, Linear) or not isinstance(base, torch.nn.Linear):
            raise ValueError(
                f"lora_targets: {name} is a {type(base).__name__}; name linear layers, or all-linear"
            )
    for name, weight in model.named_parameters():
        if ".lora_A." in name:
            drawn = seeds.generator("lora", *path, name).random(weight.shape, dtype="float32")
            bound = weight.shape[1] ** -0.5
            with torch.no_grad():
                weight.copy_(torch.from_numpy((2 * drawn - 1) * bound))
        elif ".lora_B." in name:
            torch.nn.init.zeros_(weight)


def merged(state: Mapping[str, Tensor], recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """The base's tensors under their own names, one after the other, each target with its change added: W + alpha/rank · B·A.

    Args:
        state: of a model that peft has wrapped; it is left as it is.
        recipe: that it was trained by.
    """
    scale = recipe.lora_alpha / recipe.lora_rank
    for name, weight in state.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer = name.removesuffix("base_layer.weight")
        if layer != name:
            a, b = (state[f"{layer}lora_{part}.default.weight"] for part in "AB")
            weight = weight + (b @ a * scale).to(weight.dtype)
        yield name.removeprefix("base_model.model.").replace(".base_layer.", "."), weight
