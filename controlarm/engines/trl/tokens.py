"""A model's tokenizer: how a problem is asked in it, and what ends a completion."""

import contextlib
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from controlarm import prompts
from controlarm.backends import words

LOOKED_AT = 256
"""Problems of each split whose tokens are compared before a run."""


def encode(
    tokenizer: PreTrainedTokenizerBase, template: prompts.Template, problem_text: str
) -> list[int]:
    """A problem's prompt in tokens; a chat template brings its own special tokens."""
    asked = prompts.prompt(template, problem_text, words.chat_of(tokenizer))
    found: Any = tokenizer(asked.text, add_special_tokens=not asked.has_special)["input_ids"]
    return list(found)


def ends(model: str, revision: str | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the tokenizer's, and all that the model itself declares."""
    declared: Any = None
    with contextlib.suppress(OSError):
        declared = GenerationConfig.from_pretrained(model, revision=revision or "main").eos_token_id
    found = [tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))
