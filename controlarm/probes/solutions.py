"""How likely right solutions are, before training and after: whether the likely gain and the unlikely lose.

Winner takes all (arXiv:2510.02230): training lifts the problems whose right solutions the base already found likely, and
presses the rest down. The solutions that this is measured on matter. What the policy itself says right has become likelier
by being chosen; what the base says right was not, nor were reference solutions, which also exist where nobody is right.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from controlarm import prompts
from controlarm.evaluation import judge
from controlarm.organisms import tokenizer
from controlarm.organisms.corpus import Strategy
from controlarm.organisms.transformer import Weights
from controlarm.probes.references import STRATEGIES, reference
from controlarm.probes.subject import Said, Subject, logprobs
from controlarm.records import Problem

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("source", pa.string()),
        ("solutions", pa.int32()),
        ("logp_base", pa.float64()),
        ("logp_policy", pa.float64()),
        ("samples", pa.int32()),
        ("right", pa.int32()),
        ("base_right", pa.int32()),
        ("solvable", pa.bool_()),
    ]
)


class Solutions(NamedTuple):
    """Right solutions of one problem, each text once."""

    problem: Problem
    texts: list[tuple[int, ...]]
    """Token ids, end token included."""
    weights: list[float]
    """Share of each; they sum to 1, or there are none."""
    times: int
    """How often they were said in all."""


def written(problem: Problem, strategy: Strategy) -> Solutions:
    """The reference solution.

    Raises:
        ValueError: the problem is not of the arithmetic set.
    """
    tokens = (*tokenizer.encode(reference(problem, strategy)), tokenizer.END)
    return Solutions(problem, [tokens], [1.0], 1)


def said_right(subject: Subject, said: Said) -> list[Solutions]:
    """Each problem's samples that are strictly right, a text as often as it was said."""
    found = []
    for problem, made, tokens in zip(
        subject.problems, said.samples, said.tokens.tolist(), strict=True
    ):
        times: dict[tuple[int, ...], int] = {}
        for one, ids in zip(made, tokens, strict=True):
            if judge(one.text, problem).grade.strict == "right":
                text = tuple(ids[: one.num_tokens])
                times[text] = times.get(text, 0) + 1
        total = sum(times.values())
        shares = [count / total for count in times.values()]
        found.append(Solutions(problem, list(times), shares, total))
    return found


def mean_logprobs(
    weights: Weights, solutions: Sequence[Solutions], subject: Subject
) -> Float[np.ndarray, "run problem"]:
    """Mean over each problem's solutions of Σ_t log p, nats; NaN without any. One row of ``solutions`` a problem.

    Args:
        weights: of any number of runs, in the precision to score in.
        solutions: what to score.
        subject: lengths and shape.
    """
    texts = [text for each in solutions for text in each.texts]
    runs = len(weights["embed"])
    if not texts:
        return np.full((runs, len(solutions)), np.nan)
    asked = [
        tokenizer.encode(prompts.render(each.problem.text))
        for each in solutions
        for _ in each.texts
    ]
    scored = logprobs(
        weights,
        torch.tensor(tokenizer.left_pad(asked, subject.prompt_length)),
        torch.tensor(tokenizer.right_pad(texts)),
        subject.shape,
    )
    totals = scored.double().sum(-1).numpy()
    ends = list(itertools.accumulate(len(each.texts) for each in solutions))
    found = np.full((runs, len(solutions)), np.nan)
    for i, (each, end) in enumerate(zip(solutions, ends, strict=True)):
        if each.texts:
            found[:, i] = totals[:, end - len(each.texts) : end] @ np.array(each.weights)
    return found


def probe(subject: Subject) -> pa.Table:
    """One row a problem and source of solutions: right samples of the ``policy``, of the ``base``, or a reference in ``code`` or ``words``.

    Log-probabilities are those of float32 masters. ``solvable``: a sample of the policy is right.
    """
    right = {
        "policy": said_right(subject, subject.own),
        "base": said_right(subject, subject.of_base),
    }
    sources: dict[str, list[Solutions]] = right | {
        strategy: [written(problem, strategy) for problem in subject.problems]
        for strategy in STRATEGIES
    }
    everything = [each for source in sources.values() for each in source]
    base = mean_logprobs(subject.base_master, everything, subject)[0]
    policy = base
    if subject.policy is not subject.base:
        policy = mean_logprobs(subject.policy_master, everything, subject)[0]
    rows = []
    for place, (source, i) in enumerate(itertools.product(sources, range(len(subject.problems)))):
        own = sources[source][i]
        rows.append(
            {
                "problem_id": own.problem.id,
                "source": source,
                "solutions": len(own.texts),
                "logp_base": base[place] if own.texts else None,
                "logp_policy": policy[place] if own.texts else None,
                "samples": subject.samples,
                "right": right["policy"][i].times,
                "base_right": right["base"][i].times,
                "solvable": right["policy"][i].times > 0,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)
