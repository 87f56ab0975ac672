r"""What a Hugging Face model knows of texts that it did not write: how it completes problems that are cut off, and how little they surprise it.

After Wu et al. (arXiv:2507.10532): the first 80, 60 or 40 % of a problem, no template, greedy. What the paper leaves open is settled here: a problem is cut
between tokens; the continuation is cut to as many characters as are missing; both are compared with runs of white space as one space. The
answer counts wherever it stands in the continuation, so accidents do too: a small number is easily hit. A model that was never
told the rest of a problem and says its answer has met it before, or one like it; a clean set beside the benchmark says how often that happens anyway.

`contamination` asks the same of organisms, whose corpus is known and whose problems have twins.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from controlarm import grading
from controlarm.backends import Request, Sampling
from controlarm.backends.transformers import TransformersBackend
from controlarm.backends.words import UnreadableTextError
from controlarm.contamination import PERCENTS, TokenScores, kept, rouge_l, standardised
from controlarm.prompts import Prompt
from controlarm.records import Problem

LOGITS = 1 << 28
"""Numbers of one pass's logits, at most, unless one text alone has more."""

SCORED = 256
"""Tokens of a text whose vocabulary is looked at once, in float64."""

_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")


# Completing.


class Cut(NamedTuple):
    """A problem's beginning, and what is missing."""

    beginning: str
    rest: str


def cut(backend: TransformersBackend, text: str, percent: int) -> Cut:
    """The first so many percent of a text's tokens, rounded down; one token at least."""
    tokens = backend.words.tokens(text, special=False)
    for count in range(max(1, kept(tokens, percent)), 0, -1):
        beginning = backend.words.text(tokens[:count])
        # Part of a character's bytes is no text yet, and decodes to something else.
        if text.startswith(beginning):
            return Cut(beginning, text[len(beginning) :])
    return Cut(text[:1], text[1:])


def answered(continuation: str, gold: str) -> bool:
    r"""Whether the gold answer stands anywhere: as a number of its own, or letter for letter if it is no number.

    >>> answered("so 1,204.0 pens", "1204"), answered("so 12041", "1204"), answered(r"is $\frac{1}{2}$", r"\frac{1}{2}")
    (True, False, True)
    """
    wanted = grading.normalise(gold)
    if _NUMBER.fullmatch(wanted):
        return any(grading.normalise(n[0]) == wanted for n in _NUMBER.finditer(continuation))
    return wanted != "" and wanted in " ".join(continuation.split())


def recall(
    backend: TransformersBackend, problems: Sequence[Problem], max_tokens: int, batch: int
) -> list[dict[str, object]]:
    """How a model completes each problem, and whether the answer follows; columns of ``SCHEMA``.

    Raises:
        ValueError: a problem and its continuation are longer than the model's context.
    """
    rows: list[dict[str, object]] = [{} for _ in problems]
    places = {problem.id: i for i, problem in enumerate(problems)}
    for percent in (100, *PERCENTS):
        cuts = [
            Cut(p.text, "") if percent == 100 else cut(backend, p.text, percent) for p in problems
        ]
        requests = [
            Request(p.id, 0, Prompt(text=c.beginning, opening="", has_special=False))
            for p, c in zip(problems, cuts, strict=True)
        ]
        greedy = Sampling(0.0, 1.0, max_tokens, 0)
        for request, completion in backend.complete(requests, greedy, batch):
            i = places[request.problem_id]
            said, rest = completion.text, cuts[i].rest
            row = rows[i]
            row[f"continuation_{percent}"] = said
            row[f"answered_{percent}"] = answered(said, problems[i].answer)
            if rest:
                head = said[: len(rest)]
                row[f"exact_{percent}"] = head.split() == rest.split()
                row[f"rouge_l_{percent}"] = rouge_l(head, rest)
    return rows


# Surprise.


class Text(NamedTuple):
    """Something to score."""

    prompt: str
    """What stands before it, which is read and not scored; may be empty."""
    text: str
    line: int = 0
    """In its file, from 1; 0: it is from none."""


def read_texts(path: Path) -> list[Text]:
    """Texts of a JSONL file: ``text``, and ``prompt`` where there is one.

    Raises:
        ValueError: a line is not such an object.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from None
        prompt = row.get("prompt", "") if isinstance(row, dict) else None
        if not isinstance(prompt, str) or not isinstance(row.get("text"), str):
            raise ValueError(
                f'{path}, line {number}: give an object with "text", and "prompt" if something stands before it, both strings'
            )
        found.append(Text(prompt, row["text"], number))
    if not found:
        raise ValueError(f"{path}: holds no text; give one object a line")
    return found


@torch.inference_mode()
def token_scores(backend: TransformersBackend, texts: Sequence[Text]) -> list[TokenScores | None]:
    """How the model takes each token of the texts, summed up in float64; None: too long for it, unreadable, or no token to score.

    Unreadable is what its tokenizer has no token for. The first token of all has nothing before it, unless the tokenizer begins texts with a token of its own.
    """
    encoded = []
    for one in texts:
        try:
            first = backend.words.tokens(one.prompt, special=True) if one.prompt else []
            rest = backend.words.tokens(one.text, special=not one.prompt)
        except UnreadableTextError:
            first, rest = [], []
        begun = len(first) or _own_tokens(backend, rest) or 1
        encoded.append((first + rest, begun))
    limit = backend.words.context or 1 << 62
    found: list[TokenScores | None] = [None] * len(texts)
    fits = [i for i, (ids, begun) in enumerate(encoded) if begun < len(ids) <= limit]
    vocab = backend.network.config.vocab_size
    waiting = sorted(fits, key=lambda i: len(encoded[i][0]))
    while waiting:
        longest = 0
        group: list[int] = []
        while waiting:
            length = len(encoded[waiting[-1]][0])
            if group and max(longest, length) * (len(group) + 1) * vocab > LOGITS:
                break
            longest = max(longest, length)
            group.append(waiting.pop())
        ids = [encoded[i][0] for i in group]
        tokens = torch.tensor([[*t, *[backend.words.pad_id] * (longest - len(t))] for t in ids])
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in ids])
        logits = backend.network(
            input_ids=tokens.to(backend.device), attention_mask=mask.to(backend.device)
        ).logits
        for row, i in enumerate(group):
            text, begun = encoded[i]
            found[i] = _scores(logits[row], torch.tensor(text, device=logits.device), begun)
    return found


def _own_tokens(backend: TransformersBackend, ids: Sequence[int]) -> int:
    """How many tokens the tokenizer put before a text."""
    special = set(backend.words.tokenizer.all_special_ids)
    return int(bool(ids) and ids[0] in special and ids[0] == backend.words.tokenizer.bos_token_id)


def _scores(logits: torch.Tensor, tokens: torch.Tensor, begun: int) -> TokenScores:
    logprobs, z = [], []
    for start in range(begun, len(tokens), SCORED):
        wanted = tokens[start : start + SCORED]
        logp = torch.log_softmax(logits[start - 1 : start - 1 + len(wanted)].double(), dim=-1)
        chosen = logp.gather(-1, wanted[:, None])[:, 0]
        logprobs.append(chosen.cpu())
        z.append(standardised(logp, chosen).cpu())
    return TokenScores(torch.cat(logprobs), torch.cat(z))


# Tables.


def audit(
    backend: TransformersBackend,
    problems: Sequence[Problem],
    clean: Sequence[Problem],
    max_tokens: int,
    batch: int,
) -> pa.Table:
    """One row a problem of the benchmark and of a set that the model cannot have read; ``SCHEMA``.

    Raises:
        ValueError: the tokenizer cannot read a problem; or as `recall`.
    """
    for p in (*problems, *clean):
        try:
            backend.words.tokens(p.text, special=True)
        except UnreadableTextError as error:
            raise ValueError(
                f"problem {p.id}: the tokenizer cannot read it ({error}); ask about problems in words that it knows"
            ) from error
    rows = []
    for part, members in (("benchmark", problems), ("clean", clean)):
        if not members:
            continue
        taken = token_scores(backend, [Text("", p.text) for p in members])
        recalled = recall(backend, members, max_tokens, batch)
        for p, row, scores in zip(members, recalled, taken, strict=True):
            rows.append(
                {
                    "part": part, "problem_id": p.id, "text": p.text, "answer": p.answer,
                    **(scores.summary() if scores else {}), **row,
                }
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA)


SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("problem_id", pa.string()),
        ("text", pa.string()),
        ("answer", pa.string()),
        *((name, pa.float64()) for name in ("logprob", "min_k", "min_k_plus")),
        *((f"continuation_{percent}", pa.string()) for percent in (100, *PERCENTS)),
        *((f"answered_{percent}", pa.bool_()) for percent in (100, *PERCENTS)),
        *((f"exact_{percent}", pa.bool_()) for percent in PERCENTS),
        *((f"rouge_l_{percent}", pa.float64()) for percent in PERCENTS),
    ]
)
"""``part``: ``benchmark`` or ``clean``. Scores are means over the problem's tokens, null where it has one token or too many."""


def surprise(backend: TransformersBackend, texts: Sequence[Text]) -> pa.Table:
    """One row a text: ``SURPRISE``."""
    rows = [
        {"text": i, "num_tokens": None, "logprob": None}
        if scores is None
        else {
            "text": i,
            "num_tokens": len(scores.logprobs),
            "logprob": float(scores.logprobs.sum()),
        }
        for i, scores in enumerate(token_scores(backend, texts))
    ]
    return pa.Table.from_pylist(rows, schema=SURPRISE)


SURPRISE = pa.schema([("text", pa.int64()), ("num_tokens", pa.int64()), ("logprob", pa.float64())])
"""``text``: its place in the file, from 0. ``num_tokens``: scored. ``logprob``: natural, summed. Null: too long, nothing to score, or unreadable."""
