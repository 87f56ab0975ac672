"""A fixed vocabulary of about a hundred words, digits and pieces of code; greedy longest match.

Every token carries its own spaces, so decoding is concatenation. Numbers are single digits, most significant first.
"""

import re
from collections.abc import Iterable, Sequence

from controlarm.problems.arithmetic import GAIN_VERBS, LOSS_VERBS, NAMES, NOUNS

PAD, END = 0, 1
SPECIAL = ("<pad>", "<end>")
PIECES = (
    *SPECIAL,
    *"0123456789",
    *NAMES,
    " has ", *(f" {noun}" for noun in NOUNS), ", ",
    *(f"{verb} " for verb in (*GAIN_VERBS, *LOSS_VERBS)),
    " more", " and then ", ". How many", " now?\n",
    "```python\n", "x = ", "y = x", " + ", " - ", " # ", "\n", "```\n",
    " and ", " more makes ", " less makes ", ", and ", ". The answer is ", "The answer is ", "\\boxed{", "}", ".",
)  # fmt: skip
"""The vocabulary in id order; each piece is one token."""

VOCAB_SIZE = 96
"""Rows of the embedding; the ids from ``len(PIECES)`` on are unused."""

_TEXTS = ("", "", *PIECES[2:], *[""] * (VOCAB_SIZE - len(PIECES)))
_IDS = {piece: i for i, piece in enumerate(PIECES)}
_SPLIT = re.compile("|".join(re.escape(p) for p in sorted(PIECES[2:], key=len, reverse=True)))


def encode(text: str) -> list[int]:
    """Tokens of a text.

    Raises:
        ValueError: when some part of the text is not in the vocabulary.
    """
    tokens, end = [], 0
    for match in _SPLIT.finditer(text):
        if match.start() != end:
            break
        tokens.append(_IDS[match.group()])
        end = match.end()
    if end != len(text):
        raise ValueError(
            f"the organisms' vocabulary has no token for {text[end : end + 20]!r} in {text!r}; "
            "they read only the arithmetic problem set"
        )
    return tokens


def decode(tokens: Iterable[int]) -> str:
    """Text of the tokens up to the first end token; padding and unused ids give nothing."""
    ids = list(tokens)
    if END in ids:
        del ids[ids.index(END) :]
    return "".join(map(_TEXTS.__getitem__, ids))


def left_pad(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Prompts brought to one length, padding first, so that all completions start at one position."""
    if max(map(len, prompts)) > length:
        raise ValueError(f"a prompt has {max(map(len, prompts))} tokens; the limit is {length}")
    return [[PAD] * (length - len(p)) + list(p) for p in prompts]


def right_pad(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts brought to the longest one's length, padding behind."""
    length = max(map(len, texts))
    return [[*text, *[PAD] * (length - len(text))] for text in texts]
