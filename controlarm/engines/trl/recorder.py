"""A run from its last commit to its end: what is asked of the trainer, and what is kept of what comes.

A run's state is committed in two moves: TRL's checkpoint, then one sealed file that names it and says how far the journal was.
Killed at any instant, a run goes on from the last of those files to the same bytes.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from controlarm import arms, checkpoints, evaluation, files, labels, rollouts, seeds
from controlarm.engines import lockstep
from controlarm.engines.trl.decoding import Decoded
from controlarm.engines.trl.recipe import configure
from controlarm.engines.trl.run import Run
from controlarm.engines.trl.trainer import Committing, NotFiniteError, Question, Step, TrialTrainer
from controlarm.evaluation import GREEDY, Sampled
from controlarm.journal import Journal, Mark
from controlarm.labels import Label
from controlarm.records import Problem
from controlarm.rewards.trl import ArmReward, RewardsFailed


class _Committed(NamedTuple):
    """Where a run stands."""

    step: int
    finished: bool
    checkpoint: str | None
    """Folder of TRL's state."""
    journal: Mark | None


def _committed(run: Run) -> _Committed:
    if not run.state_path.exists():
        return _Committed(0, False, None, None)
    _, facts = checkpoints.read(run.state_path)
    folder = facts["checkpoint"] and str(run.resume_folder / facts["checkpoint"])
    return _Committed(facts["step"], facts["finished"], folder, Mark(*facts["journals"][0]))


def _drop_after(run: Run, committed: _Committed) -> None:
    """Remove what was written after the last commit: it will be made again, the same."""
    lockstep.drop_after(run.folder, committed.step if committed.journal else -1)
    for path in run.resume_folder.glob("checkpoint-*"):
        if str(path) != committed.checkpoint:
            shutil.rmtree(path)


def _known_base(run: Run, sha256: str) -> Any:  # noqa: ANN401  a table or nothing
    """The base's evaluation, where another arm of the same unit has made it already: the same model and noise."""
    for arm in run.plan.protocol.arms:
        path = (
            run.plan.folder
            / run.spec._replace(arm=arm).path
            / "evaluations"
            / "step-000000.parquet"
        )
        if arm != run.spec.arm and path.exists():
            table = files.read_table(path, None)
            if (table.schema.metadata or {}).get(b"weights_sha256") == sha256.encode():
                return table
    return None


class Recorder:
    """A run as it goes: it asks, and keeps what comes. All processes go through it together; the first writes."""

    def __init__(self, run: Run, report: lockstep.Report) -> None:
        self.run, self.report = run, report
        self.writes = run.launch.rank == 0
        self.journal: Journal | None = None
        self.trainer: TrialTrainer | None = None
        self.clock = time.perf_counter()

    def train(self) -> None:
        """From the last commit to the end."""
        run = self.run
        committed = _committed(run)
        if committed.finished:
            return
        if self.writes:
            _drop_after(run, committed)
            self.journal = Journal(run.folder / "steps.jsonl", committed.journal)
        try:
            self._train(committed)
        finally:
            if self.journal:
                self.journal.close()

    def _train(self, committed: _Committed) -> None:
        run, protocol = self.run, self.run.plan.protocol
        args = configure(
            run.recipe, protocol.trl, protocol.design.max_tokens, run.longest, protocol.design.num_steps,
            run.launch.processes, run.plan.device, run.resume_folder,
        )  # fmt: skip
        if run.revision:
            args.model_init_kwargs = {"dtype": "float32", "revision": run.revision}
        made: dict[str, Label] = {}
        self.pool: list[Problem] = []
        arm = arms.build(run.spec.arm, protocol.arms[run.spec.arm], protocol.arms, *run.grader)
        reward = ArmReward(
            arm, args, seed=run.spec.seed, labels_of=made, equal=run.grader.equal, form=run.grader.form,
            max_failed_share=lockstep.FAILED_SHARE,
        )  # fmt: skip
        self.trainer = trainer = TrialTrainer(
            run.model, self._questions, reward, run.recipe, args, run.tokenizer, run.speaker,
            protocol.trl.sample_rows, (run.spec.pretraining_seed, run.spec.seed), self._recorded,
        )  # fmt: skip
        made |= self._labels()  # by the trainer's model, before it has moved
        self.pool = lockstep.pool(protocol, run.spec, run.training, made)
        every, last = protocol.trl.commit_every, protocol.design.num_steps
        trainer.add_callback(
            Committing(
                lambda step: step % every == 0 and step < last, lambda: self._began(committed),
                self._saved, run.recipe.updates_per_rollout,
            )
        )  # fmt: skip
        failure = None
        try:
            trainer.train(resume_from_checkpoint=committed.checkpoint)
        except (RewardsFailed, NotFiniteError) as error:
            failure = str(error)
        self._finish(failure)

    # What is asked.

    def _questions(self, step: int) -> list[Any]:
        run, spec = self.run, self.run.spec
        wanted, size = run.recipe.prompts_per_step, run.recipe.group_size
        seen: Counter[str] = Counter()
        found = []
        for problem in lockstep.asked_problems(spec, self.pool, wanted, step):
            path = ("training", spec.pretraining_seed, spec.seed, step, problem.id)
            found.append(
                Question(
                    run.encode(problem), problem.id, problem.answer, seen[problem.id] * size, path
                )
            )
            seen[problem.id] += 1
        return found

    def _complete(
        self, problems: Sequence[Problem], samples: Sequence[int], path: tuple[seeds.Part, ...]
    ) -> list[Sampled]:
        """Each problem's samples by the policy as it is; the first process has them, the work is shared by all."""
        assert self.trainer is not None
        rows = [(problem, sample) for problem in problems for sample in samples]
        share = -(-len(rows) // self.run.launch.processes)
        own = rows[self.run.launch.rank * share :][:share]
        own += rows[-1:] * (share - len(own))  # nobody stands idle beside a collective
        encoded = {problem.id: self.run.encode(problem) for problem, _ in own}
        made = self.trainer.decode(
            [encoded[problem.id] for problem, _ in own],
            [None if sample == GREEDY else (*path, problem.id, sample) for problem, sample in own],
        )
        told = [
            self._sampled(problem, sample, one)
            for (problem, sample), one in zip(own, made, strict=True)
        ]
        everyone = gather_object(told)
        found = {(one.problem.id, one.sample): one for one in everyone}
        return [found[problem.id, sample] for problem, sample in rows]

    def _sampled(self, problem: Problem, sample: int, one: Decoded) -> Sampled:
        said = self.run.tokenizer.decode(one.tokens, skip_special_tokens=True)
        assert isinstance(said, str)
        text = self.run.template.opening + said
        return Sampled(
            problem, sample, text, len(one.tokens), one.truncated, sum(one.logprobs),
            sum(one.entropy) / max(1, len(one.tokens)),
        )  # fmt: skip

    # What is kept.

    def _labels(self) -> dict[str, Label]:
        """The base model's labels, made once where an arm or the choice of problems needs them."""
        run, protocol = self.run, self.run.plan.protocol
        if not arms.needs_labels(protocol):
            return {}
        path = run.labels_path
        if not path.exists():
            started = time.perf_counter()
            samples = range(protocol.labels.samples)
            made = self._complete(run.training, samples, ("labels", run.spec.pretraining_seed))
            texts: dict[str, list[str]] = {problem.id: [] for problem in run.training}
            for one in made:
                texts[one.problem.id].append(one.text)
            if self.writes:
                classes = run.referee.classes if run.referee else None
                labels.write(
                    path,
                    [
                        labels.label(
                            p.id, texts[p.id], p.answer, run.grader.equal, classes, run.grader.form
                        )
                        for p in run.training
                    ],
                )
            self._tell("labelled", 0, started)
        self._together()
        return {row.problem_id: row for row in labels.read(path)}

    def _began(self, committed: _Committed) -> None:
        if committed.step == 0:
            self._evaluate(0)
        self.clock = time.perf_counter()

    def _evaluate(self, step: int) -> None:
        run, protocol = self.run, self.run.plan.protocol
        started = time.perf_counter()
        table, sha256 = None, self._weights_sha256()
        name = f"step-{step:06d}.parquet"
        if step == 0 and (known := _known_base(run, sha256)):
            table = known
        if table is None:
            # The noise of evaluation does not depend on the step, so a checkpoint is compared with its base draw by draw.
            path = ("evaluation", run.spec.pretraining_seed, run.spec.seed)
            samples = [GREEDY, *range(protocol.evaluation.samples)]
            made = self._complete(run.held_out, samples, path)
            run.judged(made)
            table = evaluation.table(made, run.grader)
        if self.writes:
            table = table.replace_schema_metadata({"weights_sha256": sha256})
            files.write_table(run.folder / "evaluations" / name, table)
        self._together()
        self._tell("evaluated", step, started)

    def _weights_sha256(self) -> str:
        assert self.trainer is not None
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return checkpoints.tensors_sha256(dict(model.named_parameters()))

    def _recorded(self, step: int, happened: Step | None) -> None:
        protocol = self.run.plan.protocol
        line: dict[str, Any] = {}
        if happened is not None:
            line = self._record(happened)
        self._tell("trained", step, self.clock, line)
        if step in protocol.evaluation.steps:
            self._evaluate(step)
        self.clock = time.perf_counter()

    def _record(self, happened: Step) -> dict[str, Any]:
        """The journal's line of a step, and its rollouts where the protocol says so."""
        run, protocol, recipe = self.run, self.run.plan.protocol, self.run.recipe
        step, size = happened.step, recipe.group_size
        problems = {problem.id: problem for problem in self.pool}
        questions = self._questions(step)
        made = [
            self._sampled(
                problems[questions[i // size].problem_id],
                questions[i // size].first_sample + i % size,
                one,
            )
            for i, one in enumerate(happened.made)
        ]
        run.judged(made)
        line = (
            {"step": step}
            | rollouts.facts(made, happened.rewards, run.grader)
            | happened.metrics
            | lockstep.coefficients(recipe)
        )
        every, last = protocol.logging.rollouts_every, protocol.design.num_steps
        if step % every == 0 or step in (1, last):
            files.write_table(
                run.folder / "rollouts" / f"step-{step:06d}.parquet",
                rollouts.table(
                    made,
                    happened.padded(),
                    0,
                    happened.rewards.ravel(),
                    happened.mean_advantages(),
                    run.grader,
                ),
            )
        assert self.journal is not None
        self.journal.append(line)
        return line

    def _saved(self, step: int, checkpoint: str) -> None:
        """TRL's state is on disk: from now on a stopped run goes on from here."""
        if self.writes:
            self._commit(
                {"step": step, "finished": False, "checkpoint": checkpoint, "failures": {}}
            )
        self._together()

    def _finish(self, failure: str | None) -> None:
        """The weights are kept in Hugging Face's form, unless the run failed; nothing remains to resume from."""
        run = self.run
        step = run.plan.protocol.design.num_steps
        if failure is None:
            assert self.trainer is not None
            self.trainer.save(run.folder / "model")
        if self.writes:
            failures = {}
            if failure is not None:
                assert self.trainer is not None
                step = self.trainer.step - 1
                failures = {"0": failure}
                files.write_json(run.folder / "failed.json", {"step": step, "reason": failure})
            self._commit({"step": step, "finished": True, "checkpoint": None, "failures": failures})
            shutil.rmtree(run.resume_folder, ignore_errors=True)
        self._together()

    def _commit(self, facts: dict[str, Any]) -> None:
        assert self.journal is not None
        facts["journals"] = [self.journal.mark()]
        checkpoints.write(
            self.run.state_path, {"active": torch.tensor([not facts["failures"]])}, facts
        )

    def _together(self) -> None:
        """No process goes on before the first has written."""
        assert self.trainer is not None
        self.trainer.accelerator.wait_for_everyone()

    def _tell(
        self, stage: str, step: int, since: float, line: dict[str, Any] | None = None
    ) -> None:
        if not self.writes:
            return
        shown = ("reward", "accuracy", "code_share", "entropy")
        told = {self.run.spec.path: {name: line.get(name) for name in shown}} if line else {}
        self.report(
            {
                "shard": self.run.number,
                "stage": stage,
                "step": step,
                "seconds": time.perf_counter() - since,
                "runs": told,
            }
        )
