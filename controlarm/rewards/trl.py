"""Any arm as a reward function of TRL's ``GRPOTrainer``, with the coins of a trial under data parallelism and resume.

    args = GRPOConfig(num_generations=8, …)
    GRPOTrainer(model, reward_funcs=ArmReward("random", args), args=args, train_dataset=dataset)

The data set has a column with the problems' ids and one with their answers; TRL hands both over with every completion. The
engine ``trl`` pays its arms by the same object.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist

from controlarm import arms, grading, labels
from controlarm.labels import Label
from controlarm.protocol import ArmTable

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig


class RewardsFailed(RuntimeError):
    """More of a step's rewards failed than are tolerated; the message quotes the first."""


class _Asked(NamedTuple):
    """One completion as its group knows it."""

    problem: str
    sample: int
    """Among all completions of the problem in this generation batch."""
    answer: str
    text: str


class ArmReward:
    """What TRL calls: ``reward(prompts=…, completions=…, trainer_state=…, problem_id=[…], answer=[…])`` → one reward a completion.

    A reward depends on the arm, the seed, the step (of generations, from 1), the problem and the completion's number among its
    problem's completions in the batch: not on how many processes there are, nor on where the run was resumed. Evaluation between
    steps asks for coins too, and moves no other coin. A failed reward is None, which TRL leaves out of its group's mean.

    With ``log_metric`` (TRL hands it over) the true accuracy is logged beside the reward in every arm, as ``accuracy``.
    """

    def __init__(
        self,
        arm: str | arms.Arm,
        args: "GRPOConfig",
        *,
        seed: int | None = None,
        labels_of: Mapping[str, Label] | Path | None = None,
        equal: grading.Equal | None = None,
        form: grading.Form = "box",
        max_failed_share: float = 0.05,
        id_column: str = "problem_id",
        answer_column: str = "answer",
        **settings: Any,  # noqa: ANN401  fields of an arm's table
    ) -> None:
        """An arm by its name, or one made by ``arms.build``.

        Args:
            arm: e.g. ``"random"``; any row of ``arms.ARMS`` but one_shot, which is ground_truth on a data set of one problem.
            args: of the trainer: it says how many completions make a group, and how many optimiser steps a generation.
            seed: of the coins; None: ``args.seed``.
            labels_of: for majority and incorrect: problem id → label, or a file that ``labels.write`` wrote.
            equal: whether an answer is right, for the accuracy; None: the exact grader. An arm that is made here pays by it, too.
            form: where the prompt wants the answer, likewise.
            max_failed_share: of a step's rewards; the run stops above it.
            id_column: of the data set. Ids are unique and stable.
            answer_column: of the data set: the gold answers.
            **settings: as in an arm's table of a trial file, e.g. ``gamma=0.25``, ``replicate=1``.

        Raises:
            ValueError: no such arm, a setting that it does not take, labels missing, or a generation shorter than an optimiser step.
        """
        made = arm
        if isinstance(made, str):
            name = made
            if (settings.get("reward") or name) == "one_shot":
                raise ValueError(
                    "one_shot chooses the training problems, which a reward cannot: give the trainer a data set of one problem, and "
                    "pay ground_truth"
                )
            made = arms.build(name, ArmTable(**settings), {}, equal, form)
        elif settings:
            raise ValueError(
                f"{', '.join(sorted(settings))}: the arm is made already; name it instead, or build it with these settings"
            )
        self.arm, self.equal = made, equal
        self.form: grading.Form = form
        self.seed = int(args.seed if seed is None else seed)
        self.group_size = int(args.num_generations or 0)
        passes = int(args.steps_per_generation or 1) * args.num_iterations
        self.updates, left = divmod(passes, args.gradient_accumulation_steps)
        if left or not self.updates:
            raise ValueError(
                f"steps_per_generation × num_iterations = {passes} passes a generation, but gradient_accumulation_steps = "
                f"{args.gradient_accumulation_steps} make one optimiser step; a generation must last a whole number of "
                "optimiser steps, or the step does not tell which generation it is"
            )
        if isinstance(labels_of, Path):
            labels_of = {row.problem_id: row for row in labels.read(labels_of)}
        if arms.ARMS[made.reward].label and labels_of is None:
            raise ValueError(f"{made.reward} pays by a label a problem; give labels_of")
        self.labels = {} if labels_of is None else labels_of
        self.max_failed_share = max_failed_share
        self.id_column, self.answer_column = id_column, answer_column
        self.num_failed = 0
        """Rewards that failed so far, in all processes."""
        self.__name__ = made.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        trainer_state: Any,  # noqa: ANN401  transformers' TrainerState
        **columns: Any,  # noqa: ANN401  the data set's, and TRL's own
    ) -> list[float | None]:
        """One reward a completion, None where it failed.

        Raises:
            ValueError: a column or a label is missing, or a group is not whole.
            RewardsFailed: too many failed, in all processes together.
        """
        step = trainer_state.global_step // self.updates + 1
        texts = [text_of(completion) for completion in completions]
        ids = [str(each) for each in self._column(self.id_column, columns)]
        answers = [str(each) for each in self._column(self.answer_column, columns)]
        samples = self._samples(ids, columns.get("first_sample"))
        own = [_Asked(*row) for row in zip(ids, samples, answers, texts, strict=True)]
        rewards, failures = self._pay(own, step)
        self._count(rewards, failures, step)
        if log := columns.get("log_metric"):
            grades = [grading.grade(o.text, o.answer, self.equal, self.form) for o in own]
            known = [g.strict == "right" for g in grades if g.strict != "unknown"]
            if known:
                log("accuracy", sum(known) / len(known))
        return [None if math.isnan(reward) else reward for reward in rewards]

    def _column(self, name: str, columns: Mapping[str, Any]) -> list[Any]:
        if name not in columns:
            raise ValueError(
                f"the data set has no column {name!r}, by which {self.arm.name} pays; add it, or say "
                f"{'id_column' if name == self.id_column else 'answer_column'}=…"
            )
        return columns[name]

    def _samples(self, ids: Sequence[str], first: Sequence[int] | None) -> list[int]:
        """Each completion's number among its problem's. The trial's engine says it (``first_sample``); otherwise they are counted."""
        if first is not None:
            return [int(number) + at % self.group_size for at, number in enumerate(first)]
        before: dict[str, int] = {}
        everyone = _everyone(list(ids))
        for rank in range(_rank()):
            for problem in everyone[rank]:
                before[problem] = before.get(problem, 0) + 1
        found = []
        for problem in ids:
            found.append(before.get(problem, 0))
            before[problem] = found[-1] + 1
        return found

    def _pay(self, own: Sequence[_Asked], step: int) -> tuple[list[float], list[str]]:
        whole = "group" in self.arm.reads
        known = [one for part in _everyone(list(own)) for one in part] if whole else own
        groups: dict[tuple[str, int], dict[int, _Asked]] = {}
        for one in known:
            groups.setdefault((one.problem, one.sample // self.group_size), {})[one.sample] = one
        wanted = {(one.problem, one.sample // self.group_size) for one in own}
        paid: dict[tuple[str, int], float] = {}
        failures: list[str] = []
        for key in wanted:
            members = [groups[key][sample] for sample in sorted(groups[key])]
            payment = self.arm.payment(self._view(members, step))
            failures += payment.failures
            for member, reward in zip(members, payment.rewards, strict=True):
                paid[member.problem, member.sample] = reward
        return [paid[one.problem, one.sample] for one in own], sorted(failures)

    def _view(self, members: Sequence[_Asked], step: int) -> arms.GroupView:
        problem = members[0].problem
        label = self.labels.get(problem)
        if label is None and arms.ARMS[self.arm.reward].label:
            raise ValueError(
                f"problem {problem!r} has no label; label all problems of the data set"
            )
        return arms.GroupView(
            problem_id=problem,
            texts=[member.text for member in members],
            answer=members[0].answer,
            majority=label.majority if label else None,
            incorrect=label.incorrect if label else None,
            seed=self.seed,
            step=step,
            samples=[member.sample for member in members],
        )

    def _count(self, rewards: Sequence[float], failures: Sequence[str], step: int) -> None:
        failed = sum(map(math.isnan, rewards))
        everyone = _everyone((failed, len(rewards), failures[:1]))
        failed, total = (sum(part[i] for part in everyone) for i in (0, 1))
        self.num_failed += failed
        if failed > self.max_failed_share * total:
            first = next((part[2][0] for part in everyone if part[2]), "no reason is known")
            raise RewardsFailed(
                f"step {step}: {failed / total:.0%} of the step's rewards failed; the first: {first}"
            )


def text_of(completion: Any) -> str:  # noqa: ANN401  as TRL has it
    """A completion's text: TRL hands over a string, or messages where the prompt is a conversation."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content") or "") for message in completion)


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _everyone(value: Any) -> list[Any]:  # noqa: ANN401  anything that pickles
    """The value of every process, in order of rank; TRL's batch is their parts in that order."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
