"""An organism as a Hugging Face folder: ``LlamaForCausalLM`` and its tokenizer, for other trainers and tools.

The architecture is Llama's already, so this is a renaming; only the matrices turn, ``[in, out]`` here, ``[out, in]`` there.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor

from controlarm.files import write_atomic
from controlarm.organisms.tokenizer import END, PAD, PIECES, SPECIAL
from controlarm.organisms.transformer import NORM_EPS, ROPE_THETA, Shape, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_POSITIONS = 128
"""Longest sequence that the exported configuration promises; the organisms saw 48 tokens."""

LAYER_NAMES = {
    "norm1": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""Our name within a layer → Hugging Face's."""


def to_llama(weights: Weights) -> dict[str, Tensor]:
    """Tensors of one run under Hugging Face's names and shapes; gradients of the weights translate alike.

    Raises:
        ValueError: when the run axis is not 1.
    """
    runs = weights["embed"].shape[0]
    if runs != 1:
        raise ValueError(
            f"export takes the weights of one run; these hold {runs}: select w[r : r + 1] of each tensor"
        )
    found = {}
    for name, tensor in weights.items():
        layer, _, part = name.rpartition(".")
        whole = {"embed": "model.embed_tokens", "norm": "model.norm"}
        theirs = f"model.layers.{layer}.{LAYER_NAMES[part]}" if layer else whole[name]
        turns = tensor.ndim == 3 and name != "embed"
        found[f"{theirs}.weight"] = (tensor[0].T if turns else tensor[0]).detach().contiguous()
    return found


def export(weights: Weights, shape: Shape, folder: Path) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.

    Args:
        weights: of one run; saved in float32.
        shape: sizes of the model.
        folder: made if absent; files of an earlier export are replaced.

    Raises:
        ValueError: more than one run, or a vocabulary smaller than the tokenizer's.
        ImportError: the extra ``controlarm[trl]`` is not installed.
    """
    try:
        from transformers import LlamaConfig
    except ImportError as error:
        raise _not_installed(error) from error
    if shape.vocab < len(PIECES):
        raise ValueError(f"the tokenizer has {len(PIECES)} tokens, the model only {shape.vocab}")
    tensors = {name: tensor.to(torch.float32) for name, tensor in to_llama(weights).items()}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
        dtype="float32",
    )
    tokenizer = make_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "model.safetensors", save(tensors, {"format": "pt"}))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """Our vocabulary for Hugging Face: text is cut at the longest matching pieces, each piece is a word.

    As ours, it refuses text outside the vocabulary; prompts are padded on the left.

    Raises:
        ImportError: the extra ``controlarm[trl]`` is not installed.
    """
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise _not_installed(error) from error
    words = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}))
    longest_first = sorted(PIECES[len(SPECIAL) :], key=len, reverse=True)
    pattern = Regex("|".join(re.escape(piece) for piece in longest_first))
    words.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=SPECIAL[PAD],
        eos_token=SPECIAL[END],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _not_installed(error: ImportError) -> ImportError:
    return ImportError(
        f"{error.name} is not installed, and an export needs it: pip install 'controlarm[trl]'",
        name=error.name,
    )
