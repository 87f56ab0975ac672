"""What learning one problem does to the others: whether their right solutions become less likely.

Negative interference (arXiv:2510.02230): an update on problem i lowers the probability of right solutions of problem j.
Here it is measured as defined. The policy's own group on i is rewarded by the truth, and the weights take one step of
fixed length along the gradient of GRPO's surrogate, on-policy and in float32, from the same checkpoint for every i. A
length, not a learning rate, so that problems are compared by where they push, not by how hard.
"""

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from controlarm import prompts
from controlarm.advantages import group_relative
from controlarm.evaluation import judge
from controlarm.organisms import tokenizer
from controlarm.organisms.transformer import Weights
from controlarm.probes.references import STRATEGIES
from controlarm.probes.solutions import Solutions, mean_logprobs, said_right, written
from controlarm.probes.subject import PLAIN, Subject
from controlarm.update import Batch, backward, trees_of, with_credit

TEACHERS = 16
"""Problems that are learnt from, at most: the first whose groups are mixed. Other groups teach nothing."""

LEARNERS = 32
"""Problems whose solutions are looked at: the teachers, and the first of the others."""

STEP_LENGTH = 1e-2
"""Euclidean length of the step, over all weights: small enough for first order, large enough for float32."""

SCHEMA = pa.schema(
    [
        ("teacher", pa.string()),
        ("learner", pa.string()),
        ("delta", pa.float64()),
        ("logp", pa.float64()),
        ("solvable", pa.bool_()),
        ("source", pa.string()),
        ("grad_norm", pa.float64()),
        ("step_length", pa.float64()),
    ]
)


def rewards(subject: Subject) -> Float[np.ndarray, "problem sample"]:
    """1 where the policy's sample is strictly right, 0 where it is not, NaN where the grader gave up."""
    verdicts = [
        [judge(one.text, one.problem).grade.strict for one in made] for made in subject.own.samples
    ]
    return np.array(
        [[np.nan if v == "unknown" else float(v == "right") for v in row] for row in verdicts]
    )


def choose(mixed: Bool[np.ndarray, " problem"]) -> tuple[list[int], list[int]]:
    """Teachers and learners, in the problems' order."""
    teachers = np.flatnonzero(mixed)[:TEACHERS].tolist()
    others = [i for i in range(len(mixed)) if i not in teachers]
    return teachers, sorted([*teachers, *others[: LEARNERS - len(teachers)]])


def gradients(
    subject: Subject, teachers: list[int], advantages: Float[np.ndarray, "problem sample"]
) -> Weights:
    """Gradient of each teacher's loss at the policy, run by run."""
    weights = {
        name: subject.policy_master[name].detach().repeat(len(teachers), *[1] * (w.ndim - 1))
        for name, w in subject.base_master.items()
    }
    for weight in weights.values():
        weight.requires_grad_()
    device = weights["embed"].device
    asked = tokenizer.left_pad(
        [tokenizer.encode(prompts.render(subject.problems[i].text)) for i in teachers],
        subject.prompt_length,
    )
    tokens = subject.own.tokens[teachers].to(device)
    asked = torch.tensor(asked, device=device)[:, None].expand(-1, subject.samples, -1)
    credit = advantages[teachers][..., None]
    active = torch.ones(len(teachers), dtype=torch.bool, device=device)
    trees = trees_of(asked, tokens, with_credit(credit, active, PLAIN), subject.shape)
    on_policy = torch.tensor(True, device=device)
    batch = Batch(trees, tokens, on_policy, torch.zeros(tokens.shape, device=device), credit)
    backward(weights, batch, active, PLAIN, subject.shape, compiled=False)
    return {name: _gradient(weight) for name, weight in weights.items()}


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def norms(gradients: Weights) -> Float[Tensor, " run"]:
    """Euclidean norm over all weights, run by run."""
    parts = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
    return torch.stack(parts).norm(dim=0)


def looked_at(subject: Subject, learners: list[int]) -> list[tuple[str, Solutions]]:
    """Each learner's right solutions and their source: what the policy said right, else the reference that the base finds likelier."""
    own = said_right(subject, subject.own)
    missing = [i for i in learners if not own[i].texts]
    written_by = {s: [written(subject.problems[i], s) for i in missing] for s in STRATEGIES}
    scored = {
        s: mean_logprobs(subject.base_master, found, subject)[0] for s, found in written_by.items()
    }
    found: dict[int, tuple[str, Solutions]] = {i: ("policy", own[i]) for i in learners}
    for place, i in enumerate(missing):
        likelier = max(STRATEGIES, key=lambda s: scored[s][place])
        found[i] = likelier, written_by[likelier][place]
    return [found[i] for i in learners]


def probe(subject: Subject) -> pa.Table:
    """One row a teacher and learner: ``delta`` is the change of the mean log-probability of the learner's right solutions.

    ``logp`` is that mean before, ``solvable`` whether a sample of the policy was right, ``source`` whose the solutions are
    (``policy``, or the ``code`` or ``words`` reference), ``grad_norm`` the length of the gradient that was brought to
    ``step_length``. No rows where no group is mixed. The metadata ``mixed`` and ``problems`` count groups.
    """
    advantages = group_relative(rewards(subject))
    mixed = (advantages != 0).any(1)
    teachers, learners = choose(mixed)
    rows = []
    if teachers:
        gradient = gradients(subject, teachers, advantages)
        lengths = norms(gradient)
        found = looked_at(subject, learners)
        moved = {
            name: torch.cat((subject.policy_master[name], _step(subject, name, g, lengths)))
            for name, g in gradient.items()
        }
        before, *after = mean_logprobs(moved, [each for _, each in found], subject)
        rows = [
            {
                "teacher": subject.problems[teacher].id,
                "learner": subject.problems[learner].id,
                "delta": moved_to[place] - before[place],
                "logp": before[place],
                "solvable": found[place][0] == "policy",
                "source": found[place][0],
                "grad_norm": float(length),
                "step_length": STEP_LENGTH,
            }
            for teacher, length, moved_to in zip(teachers, lengths, after, strict=True)
            for place, learner in enumerate(learners)
        ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return table.replace_schema_metadata({"mixed": str(mixed.sum()), "problems": str(len(mixed))})


def _step(subject: Subject, name: str, gradient: Tensor, lengths: Tensor) -> Tensor:
    factors = (STEP_LENGTH / lengths).view(-1, *[1] * (gradient.ndim - 1))
    return subject.policy_master[name] - factors * gradient
