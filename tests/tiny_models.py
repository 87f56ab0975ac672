"""Tiny models of real architectures with a real byte-level tokenizer, built on the spot: random weights, nothing downloaded."""

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from controlarm import seeds
from controlarm.organisms import released
from controlarm.organisms.export import export
from controlarm.problems import arithmetic

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}
"""The last looks back 16 tokens only, so its cache is of another kind."""

TEXTS = [
    "What is $\\frac{1}{2}+1$? The answer is \\boxed{3}.",
    "Solve $3x - 5 = 16$. <answer> 7 </answer>",
    "First there are 375 pens, then 366. ```python\nx = 347 + 28\n```",
]


def tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's special tokens."""
    words = Tokenizer(models.BPE())
    # Qwen's own way to cut text: transformers puts it into every tokenizer of a qwen2 model.
    words.normalizer = normalizers.NFC()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(TEXTS, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special[1:],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    if chat:
        made.chat_template = CHAT
    return made


def tiny(name: str, folder: Path, chat: bool = True, hidden_size: int = 32) -> Path:
    """A random model of one architecture with its tokenizer, saved."""
    words = tokenizer(chat)
    config_class, model_class = ARCHITECTURES[name]
    config = config_class(
        vocab_size=len(words),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        **({"sliding_window": 16} if name == "mistral" else {}),
    )
    model = model_class(config)
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if weight.ndim > 1:
                values = seeds.generator("tiny", name, part).standard_normal(
                    weight.shape, dtype="float32"
                )
                weight.copy_(torch.from_numpy(values) * weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def organism(family: str, folder: Path) -> Path:
    """A released organism, exported."""
    weights, _, shape = released.load(family, 1)
    export(weights, shape, folder)
    return folder


def held_out(path: Path, number: int) -> Path:
    """Problems that the organisms are evaluated on, as JSONL."""
    rows = arithmetic.problems("held_out", number, "trial")
    path.write_text(
        "".join(
            json.dumps({"id": p.id, "problem": p.text, "answer": p.answer}) + "\n" for p in rows
        )
    )
    return path
