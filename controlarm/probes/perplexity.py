r"""How surprising texts are to the policy and to its base: what the policy writes, right solutions, and the problems themselves.

What training brings out of the base is likely under the base: PPL_base(Y_policy) lies at the low end of PPL_base(Y_base)
(arXiv:2504.13837). The base's own table has the latter. A shortcut shows as answers that become likelier while problems
become less so (arXiv:2601.11061); hence the perplexity of the answer's tokens apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controlarm import evaluation, prompts
from controlarm.evaluation import judge
from controlarm.organisms import tokenizer
from controlarm.probes.references import STRATEGIES, reference
from controlarm.probes.subject import Subject, logprobs
from controlarm.records import Problem

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("source", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("strict", pa.string()),
        ("lenient", pa.string()),
        ("has_python", pa.bool_()),
        ("num_tokens", pa.int32()),
        ("num_answer_tokens", pa.int32()),
        ("ppl_policy", pa.float64()),
        ("ppl_base", pa.float64()),
        ("answer_ppl_policy", pa.float64()),
        ("answer_ppl_base", pa.float64()),
    ]
)

BOX, BRACE = tokenizer.encode("\\boxed{")[0], tokenizer.encode("}")[0]


class Text(NamedTuple):
    """A text to be scored."""

    problem: Problem
    source: str
    sample: int | None
    text: str
    asked: list[int]
    """Tokens that it is conditioned on."""
    tokens: list[int]


def answer_places(tokens: Sequence[int]) -> list[int]:
    r"""Where the tokens within the last closed ``\boxed{}`` stand that is not empty."""
    for begins in reversed([place for place, token in enumerate(tokens) if token == BOX]):
        rest = tokens[begins + 1 :]
        if BRACE in rest and rest.index(BRACE):
            return list(range(begins + 1, begins + 1 + rest.index(BRACE)))
    return []


def perplexity(
    logprobs: Float[np.ndarray, "text token"], counted: Bool[np.ndarray, "text token"]
) -> Float[np.ndarray, " text"]:
    """exp(-mean log p) over the counted tokens; NaN without any."""
    number = counted.sum(-1)
    total = np.where(counted, logprobs.astype(np.float64), 0.0).sum(-1)
    return np.exp(-np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0))


def probe(subject: Subject) -> pa.Table:
    """One row a text: each sample of the policy, each right solution (``code``, ``words``), each problem (``prompt``).

    A problem's first token has nothing before it, and is not counted; every completion's end token is. An answer is what
    stands in the last box, to the digit; its perplexity is null without one.
    """
    texts = [*_samples(subject), *_references(subject)]
    asked = torch.tensor(
        tokenizer.left_pad([t.asked for t in texts], max(len(t.asked) for t in texts))
    )
    tokens = torch.tensor(tokenizer.right_pad([t.tokens for t in texts]))
    answers = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, text in enumerate(texts):
        answers[i, answer_places(text.tokens)] = True
    found = _columns(subject, asked, tokens, answers)
    rows = []
    for i, text in enumerate(texts):
        said = None if text.source == "prompt" else judge(text.text, text.problem)
        row: dict[str, object] = {
            "problem_id": text.problem.id,
            "source": text.source,
            "sample": text.sample,
            "text": text.text,
            "strict": said and said.grade.strict,
            "lenient": said and said.grade.lenient,
            "has_python": said and said.has_python,
            "num_tokens": len(text.tokens),
            "num_answer_tokens": int(answers[i].sum()),
        }
        row |= {
            name: None if np.isnan(values[i]) else float(values[i])
            for name, values in found.items()
        }
        rows.append(evaluation.writable(row))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _samples(subject: Subject) -> list[Text]:
    texts = []
    for problem, made, tokens in zip(
        subject.problems, subject.own.samples, subject.own.tokens.tolist(), strict=True
    ):
        asked = tokenizer.encode(prompts.render(problem.text))
        texts += [
            Text(problem, "sampled", one.sample, one.text, asked, ids[: one.num_tokens])
            for one, ids in zip(made, tokens, strict=True)
        ]
    return texts


def _references(subject: Subject) -> list[Text]:
    texts = []
    for problem in subject.problems:
        plain = prompts.render(problem.text)
        asked = tokenizer.encode(plain)
        for strategy in STRATEGIES:
            text = reference(problem, strategy)
            tokens = [*tokenizer.encode(text), tokenizer.END]
            texts.append(Text(problem, strategy, None, text, asked, tokens))
        texts.append(Text(problem, "prompt", None, plain, asked[:1], asked[1:]))
    return texts


def _columns(
    subject: Subject,
    asked: Int[Tensor, "rollout place"],
    tokens: Int[Tensor, "rollout token"],
    answers: Bool[Tensor, "rollout token"],
) -> dict[str, Float[np.ndarray, " rollout"]]:
    real = (tokens != tokenizer.PAD).numpy()
    found = {}
    for name, weights in (("policy", subject.policy), ("base", subject.base)):
        if name == "base" and subject.base is subject.policy:
            told = found["ppl_policy"], found["answer_ppl_policy"]
        else:
            scored = logprobs(weights, asked, tokens, subject.shape)[0].numpy()
            told = perplexity(scored, real), perplexity(scored, answers.numpy())
        found[f"ppl_{name}"], found[f"answer_ppl_{name}"] = told
    return found
