"""How a model's text becomes tokens and back: its tokenizer, its chat template, what ends a completion, and which version of the model it is.

transformers chooses a tokenizer's class by the model's type, and rebuilds it from the vocabulary alone: a folder of type qwen2 whose
``tokenizer.json`` cuts text at other places is read as Qwen's, without a word, and "Ann has 3 pens" becomes "3". ``misread`` finds it.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers.utils.hub import cached_file

from controlarm.backends import Request
from controlarm.prompts import TemplateError

IDENTITY = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model's folder that can change what it says: weights, configuration, tokenizer, chat template."""

SAMPLES = (
    "Solve $3x - 5 = 16$; what is $\\frac{1}{2}+\\sqrt{2}$? \\boxed{7}",
    "```python\ndef f(x):\n    return x**2  # 1,024.5\n```",
    "It's 12345 km²  to Köln;\n\n\tn’est-ce pas?",
)
"""What is compared before a trial has problems at hand; a model need not have tokens for all of it."""


def revision_of(model: str, commit: str | None) -> str:
    """``sha256-…`` over names and contents of a local folder's files, or the commit that the hub gave.

    Raises:
        ValueError: neither is there.
    """
    folder = Path(model)
    if folder.is_dir():
        whole = hashlib.sha256()
        paths = sorted({path for pattern in IDENTITY for path in folder.glob(pattern)})
        for path in paths:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{path.name} {digest}\n".encode())
        return f"sha256-{whole.hexdigest()}"
    if commit is None:
        raise ValueError(f"{model}: the hub gave no commit for it; download it and give the folder")
    return commit


def chat_of(tokenizer: Any) -> Callable[[str], str] | None:  # noqa: ANN401  as transformers makes them
    """A user's message → the prompt for it; None where the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        return None
    return lambda text: tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )


class UnreadableTextError(ValueError):
    """A text with something in it that the tokenizer has no token for."""


class Words:
    """A model's tokenizer and what its configuration says of prompts and ends."""

    def __init__(self, model: str) -> None:
        """Read both; code that a model brings is never run.

        Raises:
            ValueError: there is no such model, none that generates text, or its tokenizer is not the one that it came with.
        """
        try:
            self.config: Any = transformers.AutoConfig.from_pretrained(model)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(unloadable(model, error)) from error
        if told := misread(model, None, self.tokenizer, SAMPLES):
            raise ValueError(f"{model}: {told}")
        try:
            generation: Any = transformers.GenerationConfig.from_pretrained(model)
        except OSError:  # a model need not have one
            generation = self.config
        self.revision = revision_of(model, getattr(self.config, "_commit_hash", None))
        self.chat = chat_of(self.tokenizer)
        self.context: int | None = getattr(self.config, "max_position_embeddings", None)
        """Most tokens of prompt and completion; None: unlimited."""
        self.end_ids = self._end_ids(getattr(generation, "eos_token_id", None))
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else min(self.end_ids, default=0)

    def _end_ids(self, configured: int | list[int] | None) -> set[int]:
        """Tokens that end a completion: the generation config's, the tokenizer's, and what the chat template puts behind an answer.

        The last is often another than the first two in base models whose template is that of the chat model: they would run on.
        """
        found = {self.tokenizer.eos_token_id}
        found |= set(configured) if isinstance(configured, list) else {configured}
        if self.chat is not None:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "ANSWER"}]
            whole = self.tokenizer.apply_chat_template(turns, tokenize=False)
            behind = self.tokens(whole.rpartition("ANSWER")[2], special=False)
            found |= set(behind[:1]) & set(self.tokenizer.all_special_ids)
        return {int(token) for token in found if token is not None}

    def tokens(self, text: str, special: bool) -> list[int]:
        """Of a text, with the tokenizer's own special tokens around it or without.

        Raises:
            UnreadableTextError: it has no tokens for it, as one of whole words without an unknown one.
        """
        try:
            return self.tokenizer(text, add_special_tokens=special)["input_ids"]
        except Exception as error:  # tokenizers raises Exception itself
            raise UnreadableTextError(str(error)) from error

    def text(self, tokens: Sequence[int]) -> str:
        """Of tokens, special ones left out."""
        return self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def special(self, text: str) -> int | None:
        """The token that a text is, if it is one that was added to the vocabulary and that decoding may leave out."""
        return self.tokenizer.get_added_vocab().get(text)

    def encode(self, requests: Sequence[Request], max_tokens: int) -> list[list[int]]:
        """Tokens of each prompt.

        Raises:
            TemplateError: the tokenizer cannot read a prompt.
            ValueError: a prompt and its completion are longer than the model's context.
        """
        found = [self._encode(request) for request in requests]
        if self.context is not None and found:
            longest = max(range(len(found)), key=lambda i: len(found[i]))
            length = len(found[longest])
            if length + max_tokens > self.context:
                raise ValueError(
                    f"problem {requests[longest].problem_id}: its prompt has {length} tokens and the model's context {self.context}; "
                    f"give --max-tokens {self.context - length} at most, or a shorter --prompts"
                )
        return found

    def _encode(self, request: Request) -> list[int]:
        try:
            found = self.tokens(request.prompt.text, special=not request.prompt.has_special)
        except UnreadableTextError as error:
            raise TemplateError(
                f"problem {request.problem_id}: the tokenizer cannot read the prompt ({error}); ask with another --prompts"
            ) from error
        if not found:
            raise ValueError(f"problem {request.problem_id}: the prompt has no tokens")
        return found


def unloadable(model: str, error: Exception) -> str:
    """What to tell a user whose model cannot be loaded."""
    said = str(error).strip().splitlines()
    return f"{model}: cannot be loaded as a causal LM ({said[0] if said else type(error).__name__}); give a folder or a name on the hub"


def misread(
    model: str,
    revision: str | None,
    tokenizer: transformers.PreTrainedTokenizerBase,
    texts: Iterable[str],
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
