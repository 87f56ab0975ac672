"""Hints of contamination that texts alone can give: never proof, and their absence is none either.

What a proof takes, completions of cut prompts and probabilities against clean twins, needs the model: `controlarm contamination`.
"""

import re
from typing import Any

import numpy as np

from controlarm.analysis.coverage import share
from controlarm.analysis.folder import RIGHT
from controlarm.audit.gain import Side
from controlarm.audit.samples import TEXT_LOOKED_AT

GRAM = 10
"""Words in a row that are no coincidence."""
PLAIN = 6
"""Of these, so many are words of letters, two or more."""
MOST_PROBLEMS = 3_000
"""Problems whose statements are searched for."""
EARLY = 0.1
"""A right answer that is first stated within so much of the text came before its reasoning."""
LONG = 200
"""Characters below which a text has no early and late."""
BARE = 80
"""Characters that leave no room for a derivation."""
SIBLINGS = 4
"""Samples of a problem from which on it is worth saying that all are one text."""

MEANING = {
    "other_problems": f"completions that hold {GRAM} words in a row of another problem's statement, and not of their own",
    "answer_first": f"right completions of at least {LONG} characters that state an answer within their first tenth: the reasoning came after it",
    "bare_right": f"right completions of fewer than {BARE} characters: nothing was derived in them",
    "one_text": f"problems of at least {SIBLINGS} samples that are all the same text, to the letter: recited, collapsed, or decoded greedily",
}  # fmt: skip

_WORD = re.compile(r"\w+")


def _grams(text: str) -> set[str]:
    """Words in a row; runs that are mostly numbers and symbols are left out, since counting is no recital."""
    words = _WORD.findall(text.lower())
    plain = np.cumsum([0, *(len(w) > 1 and w.isalpha() for w in words)])
    starts = range(len(words) - GRAM + 1)
    return {" ".join(words[i : i + GRAM]) for i in starts if plain[i + GRAM] - plain[i] >= PLAIN}


def hints(side: Side) -> list[dict[str, Any]]:
    """Each hint's count, with the number that it is out of and its Clopper–Pearson interval."""
    samples, chosen = side.samples, side.chosen
    right = chosen & (side.verdicts.lenient == RIGHT)
    length, stated = samples.length, samples.look("stated_at")
    long_right = right & (length >= LONG)
    reciting, read = _other_problems(side)
    one_text, repeated = _one_text(side)
    counts = {
        "other_problems": (len(reciting), read),
        "answer_first": (int((long_right & (stated < EARLY)).sum()), int(long_right.sum())),
        "bare_right": (int((right & (length < BARE)).sum()), int(right.sum())),
        "one_text": (one_text, repeated),
    }
    return [
        {"hint": name, "count": part, "out_of": whole, "share": (s := share(part, whole)).value, "low": s.low, "high": s.high,
         "examples": [_place(side, row) for row in reciting[:5]] if name == "other_problems" else []}
        for name, (part, whole) in counts.items()
    ]  # fmt: skip


def _place(side: Side, row: int) -> dict[str, Any]:
    samples = side.samples
    return {
        "file": samples.log.files[samples.files[row]].name,
        "line": int(samples.lines[row]),
        "end": samples.tails[samples.text[row]],
    }


def _other_problems(side: Side) -> tuple[list[int], int]:
    """Rows among those read closely that hold another problem's words, and how many were read."""
    samples = side.samples
    owner: dict[str, int] = {}
    named = sorted((p, n) for n, p in enumerate(samples.prompts) if p)[:MOST_PROBLEMS]
    for prompt, number in named:
        for gram in _grams(prompt[:TEXT_LOOKED_AT]):
            # Words that several problems share are a template's, or a family's.
            owner[gram] = -1 if gram in owner else number
    rows = [(row, text) for row, text in samples.read_closely if side.chosen[row]]
    found = []
    for row, text in rows:
        owners = {owner.get(gram, -1) for gram in _grams(text)} - {-1, int(samples.problem[row])}
        if owners:
            found.append(row)
    return found, len(rows) if len(named) > 1 else 0


def _one_text(side: Side) -> tuple[int, int]:
    rows = np.flatnonzero(side.chosen)
    pairs = np.unique(np.stack([side.samples.problem[rows], side.samples.text[rows]]), axis=1)
    texts = np.bincount(pairs[0], minlength=1)
    count = np.bincount(side.samples.problem[rows], minlength=1)
    several = count >= SIBLINGS
    return int((several & (texts == 1)).sum()), int(several.sum())
