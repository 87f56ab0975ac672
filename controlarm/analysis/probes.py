"""From the tables of probes to arrays and numbers; each docstring says what the number's sign means.

Tables come as ``pa.Table``, one of one checkpoint. What several units or a placebo make of the numbers is for ``contrasts``.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from controlarm.analysis.contrasts import Estimate, over_units
from controlarm.analysis.metrics import PerProblem, mean
from controlarm.analysis.strategies import STRATEGIES, Strategy
from controlarm.protocol import Unit

PLAIN = "plain"
"""Name of the prompt that trials use."""

TOLERANCE = 0.01
"""Entropies within this share of the base's have been matched."""


def column(table: pa.Table, name: str) -> Float[np.ndarray, " row"]:
    """Numbers or flags of a column; null is NaN."""
    return table[name].cast(pa.float64()).to_numpy()


def rows(table: pa.Table, name: str, value: str) -> pa.Table:
    """The rows that have a value in a column."""
    return table.filter(pc.field(name) == value)


class Answers(NamedTuple):
    """What came of each problem's completions. Samples of unknown verdict are out of accuracy, NaN where none is left."""

    problem_ids: tuple[str, ...]
    num_samples: Int[np.ndarray, " problem"]
    """With a strict verdict."""
    num_right: Int[np.ndarray, " problem"]
    accuracy: PerProblem
    lenient_accuracy: PerProblem
    greedy_accuracy: PerProblem
    greedy_lenient_accuracy: PerProblem
    boxed_share: PerProblem
    code_share: PerProblem
    derived_share: PerProblem
    """Share that derives the right answer step by step."""


def answers(table: pa.Table) -> Answers:
    """One row a problem, as ``forced``, ``prompts`` and ``temperature`` tables have for each of their conditions."""
    samples = column(table, "samples")

    def share(part: str, unknown: str | None = None) -> PerProblem:
        whole = samples - column(table, unknown) if unknown else samples
        nothing = np.full(len(whole), np.nan)
        return np.divide(column(table, part), whole, out=nothing, where=whole > 0)

    return Answers(
        tuple(table["problem_id"].to_pylist()),
        (samples - column(table, "unknown")).astype(int),
        column(table, "right").astype(int),
        share("right", "unknown"),
        share("lenient_right", "lenient_unknown"),
        column(table, "greedy_right"),
        column(table, "greedy_lenient_right"),
        share("boxed"),
        share("code"),
        share("derived"),
    )


def forced(table: pa.Table) -> dict[Strategy, Answers]:
    """Strategy → answers with it forced, of the same problems in the same order.

    Raises:
        ValueError: the strategies were not forced on the same problems.
    """
    found: dict[Strategy, Answers] = {
        name: answers(rows(table, "strategy", name)) for name in STRATEGIES
    }
    if len({each.problem_ids for each in found.values()}) != 1:
        raise ValueError(
            "the table of forced strategies does not have both for every problem; make it anew"
        )
    return found


class BestPrompt(NamedTuple):
    """The best that a prompt alone does, strict accuracy of samples. NaN where nothing is known."""

    name: str
    accuracy: float
    plain: float
    fair_gain: float
    """Gain over the plain prompt where the best was chosen on one half of the problems and measured on the other, mean over
    both ways."""

    @property
    def gain(self) -> float:
        """Accuracy of the best minus that of the plain prompt.

        Never negative, since the plain prompt is a candidate, and too high, since the best is chosen on what it is measured on.
        """
        return self.accuracy - self.plain


def prompts(table: pa.Table) -> dict[str, Answers]:
    """Prompt → answers."""
    return {
        name: answers(rows(table, "prompt", name)) for name in table["prompt"].unique().to_pylist()
    }


def best_prompt(table: pa.Table) -> BestPrompt:
    """The prompt of the highest accuracy; of equal ones the plain, then the first."""
    values = {name: each.accuracy for name, each in prompts(table).items()}
    order = sorted(values, key=lambda name: name != PLAIN)

    def best(part: slice) -> str:
        means = {name: mean(values[name][part]) for name in order}
        return max(order, key=lambda name: -np.inf if np.isnan(means[name]) else means[name])

    halves = slice(0, None, 2), slice(1, None, 2)
    gains = [
        mean(values[best(chosen)][measured]) - mean(values[PLAIN][measured])
        for chosen, measured in (halves, halves[::-1])
    ]
    name = best(slice(None))
    return BestPrompt(name, mean(values[name]), mean(values[PLAIN]), float(np.mean(gains)))


class Matched(NamedTuple):
    """The policy at the temperature where its entropy is the base's."""

    temperature: float
    """Above 1: training had lowered entropy."""
    entropy: float
    policy_entropy: float
    base_entropy: float
    answers: Answers
    """At that temperature; ``boundary.pass_at_k`` takes its counts."""

    @property
    def is_matched(self) -> bool:
        """False where no temperature was found: the answers are then those of the nearest."""
        return abs(self.entropy - self.base_entropy) <= TOLERANCE * self.base_entropy


def matched(table: pa.Table) -> Matched:
    """A ``temperature`` table in numbers; it has at least one problem."""
    temperature, entropy, policy_entropy, base_entropy = (
        float(column(table, name)[0])
        for name in ("temperature", "entropy", "policy_entropy", "base_entropy")
    )
    return Matched(temperature, entropy, policy_entropy, base_entropy, answers(table))


Source = Literal["policy", "base", "code", "words", "reference"]
"""Whose right solutions; ``reference``: of the two references the one that the base finds likelier."""


class Winners(NamedTuple):
    """Log-probabilities of right solutions before training, and what training added. Problems without solutions are left out."""

    problem_ids: tuple[str, ...]
    logp_base: PerProblem
    change: PerProblem
    """log π - log π_base, nats a solution."""

    @property
    def slope(self) -> float:
        """Least squares of ``change`` on ``logp_base``.

        Above 0: the likely gained more, winners take all. Below 0: the unlikely caught up, which have more room. NaN with fewer
        than three problems, or where the base finds all alike.
        """
        if len(self.change) < 3 or np.ptp(self.logp_base) == 0:
            return float("nan")
        centred = self.logp_base - self.logp_base.mean()
        return float(centred @ self.change / (centred @ centred))


def winners(table: pa.Table, source: Source = "reference") -> Winners:
    """A ``solutions`` table by source.

    Solutions that the policy chose rise by being chosen, so a slope over ``policy`` says less than one over the others.
    """
    if source == "reference":
        code, words = rows(table, "source", "code"), rows(table, "source", "words")
        likelier = column(code, "logp_base") >= column(words, "logp_base")
        ids = code["problem_id"].to_pylist()
        base, policy = (
            np.where(likelier, column(code, name), column(words, name))
            for name in ("logp_base", "logp_policy")
        )
    else:
        own = rows(table, "source", source)
        ids = own["problem_id"].to_pylist()
        base, policy = column(own, "logp_base"), column(own, "logp_policy")
    known = ~np.isnan(base) & ~np.isnan(policy)
    kept = tuple(i for i, there in zip(ids, known, strict=True) if there)
    return Winners(kept, base[known], (policy - base)[known])


def winner_take_all(tables: Mapping[Unit, pa.Table], source: Source = "reference") -> Estimate:
    """The slope over units; ``contrasts.t_interval`` gives its interval. Units without a slope are left out."""
    slopes = {unit: winners(table, source).slope for unit, table in tables.items()}
    return over_units({unit: slope for unit, slope in slopes.items() if not np.isnan(slope)})


class Interference(NamedTuple):
    """What learning each teacher did to each learner's right solutions, nats for a step of fixed length."""

    teachers: tuple[str, ...]
    learners: tuple[str, ...]
    delta: Float[np.ndarray, "teacher learner"]

    @property
    def own(self) -> float:
        """Mean over teachers of what they did to themselves."""
        return mean(self.delta[self._is_self])

    @property
    def others(self) -> float:
        """Mean over pairs of different problems: above 0, learning one problem helps another."""
        return mean(self.delta[~self._is_self])

    @property
    def share_negative(self) -> float:
        """Share of pairs of different problems where learning one made the other's solutions less likely."""
        return mean((self.delta[~self._is_self] < 0).astype(float))

    @property
    def _is_self(self) -> np.ndarray:
        return np.array(self.teachers)[:, None] == np.array(self.learners)[None]


def interference(table: pa.Table) -> Interference:
    """An ``interference`` table as a matrix. Without a teacher it has no rows, and its numbers are NaN."""
    teachers = table["teacher"].unique().to_pylist()
    learners = table["learner"].unique().to_pylist()
    delta = column(table, "delta").reshape(len(teachers), len(learners))
    return Interference(tuple(teachers), tuple(learners), delta)


class Perplexities(NamedTuple):
    """Of each text, under the policy and under the base."""

    problem_ids: tuple[str, ...]
    policy: Float[np.ndarray, " text"]
    base: Float[np.ndarray, " text"]
    answer_policy: Float[np.ndarray, " text"]
    """Over the tokens in the last box alone; NaN without one."""
    answer_base: Float[np.ndarray, " text"]
    right: Float[np.ndarray, " text"]
    """1 where strictly right, 0 where not; NaN for an unknown verdict and for prompts."""
    code: Float[np.ndarray, " text"]
    """1 where written in code; NaN for prompts."""


def perplexities(
    table: pa.Table, source: Literal["sampled", "code", "words", "prompt"]
) -> Perplexities:
    """A ``perplexity`` table by source of the texts."""
    own = rows(table, "source", source)
    verdicts = own["strict"].to_pylist()
    return Perplexities(
        problem_ids=tuple(own["problem_id"].to_pylist()),
        policy=column(own, "ppl_policy"),
        base=column(own, "ppl_base"),
        answer_policy=column(own, "answer_ppl_policy"),
        answer_base=column(own, "answer_ppl_base"),
        right=np.array(
            [np.nan if v in (None, "unknown") else v == "right" for v in verdicts], float
        ),
        code=column(own, "has_python"),
    )


def update_sparsity(
    table: pa.Table, precision: Literal["float32", "bfloat16"], tolerance: float
) -> float:
    """Share of all weights that moved by no more than the tolerance: 1 - ||θ - θ0||_0/n at 0 (arXiv:2505.11711).

    Raises:
        ValueError: there is no such tolerance in the table.
    """
    own = rows(table, "precision", precision)
    chosen = own.filter(pc.field("tolerance") == tolerance)
    if not chosen.num_rows:
        known = ", ".join(f"{t:g}" for t in own["tolerance"].unique().to_pylist())
        raise ValueError(f"sparsity was not measured at tolerance {tolerance:g}; measured: {known}")
    return float(column(chosen, "unchanged").sum() / column(chosen, "size").sum())


def rank_shares(table: pa.Table, precision: Literal["float32", "bfloat16"]) -> dict[str, float]:
    """Matrix → effective rank of its update over the most that it could have; NaN where nothing moved. Vectors have none."""
    own = rows(table, "precision", precision)
    return {
        name: float(rank / full)
        for name, rank, full in zip(
            own["matrix"].to_pylist(),
            column(own, "effective_rank"),
            column(own, "full_rank"),
            strict=True,
        )
        if not np.isnan(full)
    }
