"""One run opened: its model and tokenizer, how it is asked and sampled, its problems, and where its files are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from controlarm import prompts
from controlarm.backends import words
from controlarm.engines import lockstep
from controlarm.engines.trl import tokens
from controlarm.engines.trl.decoding import Speaker
from controlarm.engines.trl.launch import Launch
from controlarm.evaluation import Grader, Sampled
from controlarm.organisms import released
from controlarm.organisms.export import export
from controlarm.protocol import Recipe, RunSpec
from controlarm.records import Problem
from controlarm.referee import Referee


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run and what it trains on."""

    plan: lockstep.Plan
    number: int
    spec: RunSpec
    launch: Launch
    model: str
    """A folder, or a name on the hub."""
    revision: str | None
    tokenizer: PreTrainedTokenizerBase
    speaker: Speaker
    template: prompts.Template
    referee: Referee | None
    """Judges the answers of real problem sets; the organisms' arithmetic needs none."""
    training: list[Problem]
    held_out: list[Problem]

    @property
    def recipe(self) -> Recipe:
        return self.plan.protocol.recipes[self.spec.recipe]

    @property
    def folder(self) -> Path:
        return self.plan.folder / self.spec.path

    @property
    def state_path(self) -> Path:
        return self.plan.folder / "shards" / f"{self.number:03d}.safetensors"

    @property
    def labels_path(self) -> Path:
        return (
            self.plan.folder
            / "labels"
            / f"{self.spec.family}-p{self.spec.pretraining_seed}.parquet"
        )

    @property
    def resume_folder(self) -> Path:
        """TRL's checkpoints, while the run is not finished."""
        return self.folder / "resume"

    @property
    def grader(self) -> Grader:
        return Grader(self.referee.equal if self.referee else None, self.template.form)

    def encode(self, problem: Problem) -> list[int]:
        """The prompt in tokens."""
        return tokens.encode(self.tokenizer, self.template, problem.text)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest prompt with a completion, for vLLM; None: nobody asks."""
        protocol = self.plan.protocol
        if protocol.trl.vllm is None:
            return None
        prompts = (len(self.encode(problem)) for problem in (*self.training, *self.held_out))
        return max(prompts) + protocol.design.max_tokens

    def judged(self, made: Sequence[Sampled]) -> None:
        """All answers at once to the referee, which is faster than one by one; from then on it knows them."""
        if self.referee:
            self.referee.grade([(one.text, one.problem.answer) for one in made], self.template.form)


def open_run(plan: lockstep.Plan, number: int, scratch: Path) -> Run:
    """A run of a plan, its model an exported organism or what the protocol names.

    Args:
        plan: what is fixed for all runs.
        number: of the run.
        scratch: an empty folder that lasts as long as the run; an organism is exported into it.

    Raises:
        ValueError: nothing says which token ends a text, or the tokenizer misreads the problems.
    """
    (index,) = plan.shards[number]
    spec = plan.runs[index]
    named = plan.protocol.models.get(spec.family)
    if named is None:
        weights, _, shape = released.load(spec.family, spec.pretraining_seed)
        export(weights, shape, scratch)
        model, revision = str(scratch), None
    else:
        model, revision = named.path, named.revision
        if plan.protocol.trl.vllm is not None and revision is not None:
            # TRL tells vLLM a name and no revision.
            model, revision = snapshot_download(model, revision=revision), None
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="left")
    ends = tokens.ends(model, revision, tokenizer)
    if not ends:
        raise ValueError(
            f"models.{spec.family}: neither the tokenizer nor the model says which token ends a text; give the tokenizer an eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    pad = tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token))
    assert isinstance(pad, int)
    template = prompts.TEMPLATES[plan.protocol.design.template]
    stops = []
    for stop in template.stop:  # one that is a token of its own needs no look at the text
        ids = tokenizer.encode(stop, add_special_tokens=False)
        if len(ids) == 1 and tokenizer.decode(ids) == stop:
            ends = list(dict.fromkeys([*ends, ids[0]]))
        else:
            stops.append(stop)
    problems = lockstep.read_problems(plan.folder, plan.problems_sha256)
    if named is not None:
        texts = [p.text for split in problems.values() for p in split[: tokens.LOOKED_AT]]
        if misread := words.misread(model, revision, tokenizer, texts):
            raise ValueError(f"models.{spec.family}.path: {misread}")
    return Run(
        plan=plan, number=number, spec=spec, launch=Launch.of(os.environ), model=model, revision=revision,
        tokenizer=tokenizer, speaker=Speaker(pad, ends, named is None, tokenizer, tuple(stops)),
        template=template,
        referee=Referee(workers=1) if plan.protocol.design.problems else None,
        training=problems["training"], held_out=problems["held_out"],
    )  # fmt: skip
