"""How a model's text becomes tokens and back: its tokenizer, its chat template, what ends a completion, and which version of the model it is."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from controlarm.backends import Request
from controlarm.prompts import TemplateError

CHUNK = 1 << 20
"""Bytes of a file that are hashed at once."""

IDENTITY = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model's folder that can change what it says: weights, configuration, tokenizer, chat template."""


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
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
            whole.update(f"{path.name} {digest.hexdigest()}\n".encode())
        return f"sha256-{whole.hexdigest()}"
    if commit is None:
        raise ValueError(f"{model}: the hub gave no commit for it; download it and give the folder")
    return commit


class UnreadableTextError(ValueError):
    """A text with something in it that the tokenizer has no token for."""


class Words:
    """A model's tokenizer and what its configuration says of prompts and ends."""

    def __init__(self, model: str) -> None:
        """Read both; code that a model brings is never run.

        Raises:
            ValueError: there is no such model, or none that generates text.
        """
        try:
            self.config: Any = transformers.AutoConfig.from_pretrained(model)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(unloadable(model, error)) from error
        try:
            generation: Any = transformers.GenerationConfig.from_pretrained(model)
        except OSError:  # a model need not have one
            generation = self.config
        self.revision = revision_of(model, getattr(self.config, "_commit_hash", None))
        self.chat = self._chat if self.tokenizer.chat_template else None
        self.context: int | None = getattr(self.config, "max_position_embeddings", None)
        """Most tokens of prompt and completion; None: unlimited."""
        self.end_ids = self._end_ids(getattr(generation, "eos_token_id", None))
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else min(self.end_ids, default=0)

    def _chat(self, text: str) -> str:
        """The prompt for one user's message."""
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )

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
