"""A model's tokenizer: how a problem is asked in it, what ends a completion, and whether it is the one that the model came with.

transformers chooses a tokenizer's class by the model's type, and rebuilds it from the vocabulary alone: a folder of type qwen2 whose
``tokenizer.json`` cuts text at other places is read as Qwen's, without a word, and "Ann has 3 pens" becomes "3".
"""

import contextlib
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from controlarm import prompts

LOOKED_AT = 256
"""Problems of each split whose tokens are compared before a run."""

SAMPLES = (
    "Solve $3x - 5 = 16$; what is $\\frac{1}{2}+\\sqrt{2}$? \\boxed{7}",
    "```python\ndef f(x):\n    return x**2  # 1,024.5\n```",
    "It's 12345 km²  to Köln;\n\n\tn’est-ce pas?",
)
"""What is compared before a trial has problems at hand; a model need not have tokens for all of it."""


def encode(
    tokenizer: PreTrainedTokenizerBase, template: prompts.Template, problem_text: str
) -> list[int]:
    """A problem's prompt in tokens; a chat template brings its own special tokens."""

    def chat(said: str) -> str:
        turn = [{"role": "user", "content": said}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    asked = prompts.prompt(template, problem_text, chat if tokenizer.chat_template else None)
    found: Any = tokenizer(asked.text, add_special_tokens=not asked.has_special)["input_ids"]
    return list(found)


def ends(model: str, revision: str | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the tokenizer's, and all that the model itself declares."""
    declared: Any = None
    with contextlib.suppress(OSError):
        declared = GenerationConfig.from_pretrained(model, revision=revision or "main").eos_token_id
    found = [tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))


def misread(
    model: str, revision: str | None, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> str | None:
    """The first text that ``tokenizer`` reads otherwise than the model's own ``tokenizer.json``, or loses part of, in words; else None.

    Args:
        model: a folder, or a name on the hub.
        revision: of a name on the hub.
        tokenizer: as transformers loaded it.
        texts: to be read; white space and letters' composition may change on the way.
    """
    path = cached_file(
        model, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    own = Tokenizer.from_file(path) if path else None
    if own is not None:
        own.no_truncation()
        own.no_padding()
    for text in texts:
        read = _ids(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], text)
        if own is not None and read != (
            said := _ids(lambda text: own.encode(text, add_special_tokens=False).ids, text)
        ):
            return (
                f"transformers reads its tokenizer as {type(tokenizer).__name__}, which makes {_few(read)} of {text[:60]!r}, where its "
                f"tokenizer.json says {_few(said)}; give the model a model_type whose tokenizer this is"
            )
        must = own is None or text not in SAMPLES
        if must and _bare(back := str(tokenizer.decode(read or []))) != _bare(text):
            return f"its tokenizer reads {text[:60]!r} as {back[:60]!r}; take a model whose tokenizer has tokens for the problems"
    return None


def _ids(reads: Callable[[str], Any], text: str) -> list[int] | None:
    try:
        return list(reads(text))
    except Exception:  # tokenizers raises Exception itself, where it has no token
        return None


def _few(tokens: list[int] | None) -> str:
    if tokens is None:
        return "nothing"
    return f"{tokens[:6]}" if len(tokens) <= 6 else f"{tokens[:6]}… ({len(tokens)})"


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
