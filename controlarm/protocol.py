"""The trial file: what will be compared, fixed before the data. Strict; a typo is an error with its path and the remedy.

Arms carry no recipe and no problems: nothing but the reward can differ between the arms of a trial.
"""

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
NumProblems = Annotated[int, Field(ge=1, le=100_000)]
"""The generated set has about 220,000 sums in each of these splits."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]

Metric = Literal[
    "accuracy", "lenient_accuracy", "greedy_accuracy", "greedy_lenient_accuracy", "code_share"
]
"""Metrics that an endpoint may name; ``docs/metrics.md`` defines each."""

Outcome = Literal["superior", "inferior", "equivalent", "unchanged"]
"""What a preregistered control expects; ``unchanged`` means weights bit-identical to base."""


class ProtocolError(ValueError):
    """The trial file says something that cannot be run; the message names the key and the remedy."""


class Part(BaseModel):
    """A table of the trial file: no unknown keys, no coercion, frozen."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, ser_json_inf_nan="constants"
    )


class TrialTable(Part):
    """``[trial]``: what the trial is called and asks."""

    name: Name
    question: str
    engine: Literal["lockstep", "trl"] = "lockstep"
    """``trl``: any Hugging Face causal language model, by TRL's GRPOTrainer."""


class Unit(NamedTuple):
    """The top unit of every contrast: one pretrained model trained under one training seed."""

    pretraining_seed: int
    seed: int


class DesignTable(Part):
    """``[design]``: which runs there are."""

    families: list[Name] = Field(min_length=1)
    pretraining_seeds: list[Seed] = Field(min_length=1)
    """Which pretrained models of each family; a claim about a family needs three."""
    seeds: list[Seed] = Field(min_length=1)
    """Training seeds: the problems' order, the sampling noise and the arms' coins."""
    pairing: Literal["paired", "crossed"] = "paired"
    """``paired``: the i-th training seed trains the i-th pretrained model; ``crossed``: every seed trains every model."""
    num_steps: Count
    num_problems: NumProblems
    """Training problems."""
    restrict: Literal["all", "majority_wrong"] = "all"
    """``majority_wrong`` keeps, for all arms alike, the problems whose majority label is wrong."""
    max_tokens: Count = 36
    """Longest completion, in training and evaluation."""
    problems: str | None = None
    """Which problems to train on, as ``problems.sets`` names them; by default the organisms' arithmetic. Needs the engine trl."""
    template: str = "line"
    """How a problem becomes a prompt, as ``prompts.TEMPLATES`` names it; organisms know no other. Needs the engine trl."""

    def units(self) -> list[Unit]:
        """The units in order."""
        if self.pairing == "paired":
            return [Unit(*u) for u in zip(self.pretraining_seeds, self.seeds, strict=True)]
        return [Unit(p, s) for p in self.pretraining_seeds for s in self.seeds]


PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr_grpo": {"credit": "group_mean", "aggregation": "constant_length"},
    "dapo": {"epsilon_high": 0.28, "dynamic_sampling": 10, "overlong_buffer": 4},
    "rloo": {"credit": "leave_one_out"},
    "reinforce_pp": {"credit": "reward", "whiten": True},
    "reinforce_pp_baseline": {"credit": "group_mean", "whiten": True},
    "remax": {"credit": "greedy"},
    "ppo": {"credit": "gae", "whiten": True},
    "gspo": {"ratio": "sequence", "aggregation": "sequence_mean", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
}  # fmt: skip
"""Algorithm → the settings that make it, where they are not `Recipe`'s own; ``docs/algorithms.md`` has formulas and papers.

A recipe may overrule any of them: the preset says where it starts."""

Algorithm = Literal[
    "grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "remax", "ppo", "gspo",
]  # fmt: skip


class Recipe(Part):
    """``[recipes.NAME]``: one way to train; every number that acts is here and in the journal."""

    algorithm: Algorithm = "grpo"
    """A preset: it fills in what the recipe does not say."""
    prompts_per_step: Count
    group_size: Annotated[int, Field(ge=2)]
    updates_per_rollout: Count
    """Optimiser steps on one rollout batch, each on its own equal part of the groups."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Constant, no warm-up."""
    credit: Literal["group_relative", "group_mean", "leave_one_out", "reward", "greedy", "gae"] = (
        "group_relative"
    )
    """What a reward is compared with (``advantages``); ``gae`` learns a value head."""
    whiten: bool = False
    """Advantages of a rollout batch once more minus their mean over tokens, over their deviation."""
    ratio: Literal["token", "sequence"] = "token"
    """What is clipped: each token's probability ratio, or the completion's geometric mean of them."""
    epsilon_low: Positive = 0.2
    epsilon_high: Positive = 0.2
    """Clip bounds of the probability ratio: [1 - low, 1 + high]; ``inf`` switches a side off."""
    aggregation: Literal["token_mean", "sequence_mean", "constant_length"] = "token_mean"
    dynamic_sampling: Annotated[int, Field(ge=0, le=100)] = 0
    """Batches of prompts asked at most in a step until enough groups have unequal rewards; 0: one batch, whatever it gives."""
    overlong_buffer: Annotated[int, Field(ge=0)] = 0
    """Last tokens before ``max_tokens`` over which a penalty grows to 1; 0: none."""
    select: Literal["all", "greedy_wrong"] = "all"
    """``greedy_wrong``: a group counts where the policy's greedy completion is not paid in full."""
    policy_coef: Weight = 1.0
    """Weight of the surrogate; 0 leaves the other terms alone."""
    kl_coef: Weight = 0.0
    """Weight of the k3 estimate of KL(policy || base) in the loss."""
    entropy_coef: Weight = 0.0
    """Weight of the mean token entropy, added to what is maximised."""
    value_coef: Weight = 0.5
    """gae: weight of the value head's squared error."""
    gae_lambda: Share = 1.0
    """gae: 1 compares the final reward with the value, smaller values trust the value head's differences."""
    weight_decay: Weight = 0.0
    max_grad_norm: Positive = 1.0
    adam_beta1: Decay = 0.9
    adam_beta2: Decay = 0.95
    old_logprobs: Literal["recomputed", "sampled"] = "recomputed"
    """Denominator of the ratio: a second pass of the trainer before the first update, or what the sampler recorded."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the change that is trained beside each target (LoRA, arXiv:2106.09685); 0: all weights are trained. Needs the engine trl."""
    lora_alpha: Positive = 32.0
    """The change is lora_alpha / lora_rank · B·A."""
    lora_targets: list[str] = Field(default=["all-linear"], min_length=1)
    """Linear layers by the end of their names; ``all-linear``: each but the output's."""

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, given: Any) -> Any:  # noqa: ANN401  as TOML has it
        if not isinstance(given, dict):
            return given
        preset = PRESETS.get(str(given.get("algorithm", "grpo")), {})
        return preset | given

    @model_validator(mode="after")
    def _settings_fit(self) -> "Recipe":
        if self.prompts_per_step % self.updates_per_rollout:
            raise ValueError(
                f"updates_per_rollout = {self.updates_per_rollout} does not divide prompts_per_step = "
                f"{self.prompts_per_step}; each update trains on the same number of whole groups"
            )
        fields = type(self).model_fields
        idle = [n for n in ("value_coef", "gae_lambda") if getattr(self, n) != fields[n].default]
        if idle and not self.learns_values:
            raise ValueError(
                f'{", ".join(idle)}: does nothing with credit = {self.credit!r}; remove it, or say credit = "gae"'
            )
        idle = [n for n in ("lora_alpha", "lora_targets") if getattr(self, n) != fields[n].default]
        if idle and not self.lora_rank:
            raise ValueError(
                f"{', '.join(idle)}: does nothing with lora_rank = 0; remove it, or say lora_rank"
            )
        if len(self.lora_targets) > 1 and "all-linear" in self.lora_targets:
            raise ValueError('lora_targets: "all-linear" stands alone; name it, or layers')
        if self.ratio == "sequence" and self.learns_values:
            raise ValueError(
                'ratio: "sequence" has one advantage a completion; credit = "gae" has one a token'
            )
        if self.select != "all" and self.dynamic_sampling:
            raise ValueError("select, dynamic_sampling: both choose groups; use one of them")
        return self

    @property
    def learns_values(self) -> bool:
        """True when a value head is trained beside the policy."""
        return self.credit == "gae"

    @property
    def asks_greedy(self) -> bool:
        """True when each prompt needs a greedy completion beside its group."""
        return self.credit == "greedy" or self.select == "greedy_wrong"

    @property
    def only_reward_acts(self) -> bool:
        """True when equal rewards must leave the weights bit-identical: no term but the reward's credit."""
        others = self.kl_coef, self.entropy_coef, self.weight_decay, self.overlong_buffer
        compared = self.whiten or self.credit != "reward"
        return compared and not any(others) and not self.learns_values


class ArmTable(Part):
    """``[arms.NAME]``: which reward an arm pays, with its settings. The reward defaults to the arm's own name."""

    reward: Name | None = None
    replicate: Annotated[int, Field(ge=0)] = 0
    """Two replicates of a random arm draw different coins."""
    gamma: Share | None = None
    """random: probability of a reward."""
    p: Share | None = None
    """flipped, noisy: probability of the fault."""
    of: list[Name] | None = None
    """all_of: the rewards that must all pay."""
    problem: str | None = None
    """one_shot: id of the problem; by default the one whose base samples vary most."""
    label: str | None = None
    """one_shot: what is paid instead of the problem's right answer."""
    function: str | None = None
    """custom: ``module:function``."""
    reads: list[Literal["text", "answer"]] | None = None
    """custom: what the function may see."""


class LabelsTable(Part):
    """``[labels]``: pseudo-labels made once from the base model."""

    samples: Count = 64


class EvaluationTable(Part):
    """``[evaluation]``: what is measured on held-out problems, and when."""

    num_problems: NumProblems
    problems: str | None = None
    """Which problems, as ``design.problems``; by default the organisms' held-out arithmetic."""
    samples: Count
    """Completions per problem at temperature 1, beside one greedy."""
    steps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Training steps after which to evaluate; 0 (the base) and the last are needed."""
    pass_at_k: list[Count] = Field(min_length=1)


Kind = Literal[
    "forced", "prompts", "perplexity", "temperature", "interference", "solutions", "sparsity"
]
"""What a probe looks at (``probes``); ``docs/metrics.md`` defines the numbers."""


class ProbesTable(Part):
    """``[probes]``: what is measured once of each base and each finished run, beside the evaluation."""

    kinds: list[Kind] = []
    base: list[Kind] = []
    """Kinds that are measured of each base; ``kinds`` are measured of each run after its last step."""
    num_problems: NumProblems = 128
    """The first so many held-out problems."""
    samples: Count = 8


class Comparison(Part):
    """One contrast: an arm against the placebo, in one family."""

    family: Name
    arm: Name


class EndpointTable(Part):
    """``[endpoint]``: the question put to the data, fixed beforehand."""

    metric: Metric
    step: Count
    placebo: Name
    margin: Annotated[float, Field(gt=0, lt=1)]
    """Equivalence: the 90 % interval of arm - placebo lies within ± margin."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.025
    """One-sided level of the primary family, after Holm."""
    planning_sd: Annotated[float, Field(gt=0, lt=1)]
    """Expected standard deviation of a seed-level difference, for the minimum detectable effect before the run."""
    primary: list[Comparison] = Field(min_length=1)
    """The comparisons that Holm adjusts together; everything else is exploratory."""


class Control(Part):
    """``[[controls]]``: what must come out if trial and organisms work; reported as found."""

    family: Name
    arm: Name
    expect: Outcome
    why: str


class ModelTable(Part):
    """``[models.FAMILY]``: a Hugging Face model that is trained as a family of its own."""

    path: str
    """A folder, or a name on the hub."""
    revision: str | None = None
    """Branch, tag or commit of a name on the hub."""
    num_parameters: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """For the cost estimate of ``controlarm check``; nothing else reads it."""


class TrlTable(Part):
    """``[trl]``: what the engine trl may do otherwise without another recipe: numbers change by rounding, or, by vLLM, as other draws do."""

    pass_rollouts: Annotated[int, Field(ge=0)] = 0
    """Rollouts that a process trains on at once; 0: an update's all. The rest of an update is accumulated."""
    gradient_checkpointing: bool = False
    """Activations are computed again on the way back, so that they need not be kept: less memory, a third more time."""
    sample_rows: Count = 256
    """Completions that a process samples at once."""
    commit_every: Count = 10
    """Steps between the states from which a stopped run goes on."""
    vllm: Literal["colocate", "server"] | None = None
    """Who samples: vLLM beside the training in each process, or a vLLM server; by default transformers."""
    vllm_url: str | None = None
    """server: where it is."""
    vllm_memory: Annotated[float, Field(gt=0, le=1)] = 0.3
    """colocate: share of a GPU's memory that vLLM takes."""

    @model_validator(mode="after")
    def _vllm_is_whole(self) -> "TrlTable":
        if (self.vllm == "server") != (self.vllm_url is not None):
            raise ValueError(
                'vllm, vllm_url: a server has an address, and nothing else has; say vllm = "server" and vllm_url = "http://…:8000", or neither'
            )
        if self.vllm != "colocate" and self.vllm_memory != 0.3:
            raise ValueError('vllm_memory: does nothing without vllm = "colocate"; remove it')
        return self


class LoggingTable(Part):
    """``[logging]``: which training rollouts are kept."""

    rollouts_every: Count = 10
    """Keep the rollouts of steps 1, n, 2n, … and of the last step."""


class Protocol(Part):
    """A whole trial file."""

    trial: TrialTable
    design: DesignTable
    recipes: dict[Name, Recipe] = Field(min_length=1)
    arms: dict[Name, ArmTable] = Field(min_length=1)
    labels: LabelsTable = LabelsTable()
    evaluation: EvaluationTable
    endpoint: EndpointTable
    controls: list[Control] = []
    logging: LoggingTable = LoggingTable()
    probes: ProbesTable = ProbesTable()
    models: dict[Name, ModelTable] = {}
    """Families that are no organisms; the engine trl trains them."""
    trl: TrlTable = TrlTable()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Protocol":
        problems = list(_misfits(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


class RunSpec(NamedTuple):
    """One run: everything that distinguishes it from its neighbours."""

    family: str
    pretraining_seed: int
    recipe: str
    arm: str
    seed: int

    @property
    def path(self) -> str:
        """Folder within the trial's folder: ``family/arm/recipe-pP-sS``."""
        return f"{self.family}/{self.arm}/{self.recipe}-p{self.pretraining_seed}-s{self.seed}"


def runs(protocol: Protocol) -> list[RunSpec]:
    """All runs in canonical order; the arms of one (family, recipe, unit) are adjacent."""
    return [
        RunSpec(family, unit.pretraining_seed, recipe, arm, unit.seed)
        for family in protocol.design.families
        for recipe in protocol.recipes
        for unit in protocol.design.units()
        for arm in protocol.arms
    ]


LORA = {"lora_rank", "lora_alpha", "lora_targets"}

ONLY_TRL: dict[str, Any] = {
    "models": True, "trl": True, "design": {"problems", "template"}, "evaluation": {"problems"}, "recipes": {"__all__": LORA},
}  # fmt: skip
"""Keys that the engine trl alone reads."""


def told(protocol: Protocol) -> str:
    """The protocol as JSON, every default stated, without what its engine does not read."""
    unread = ONLY_TRL if protocol.trial.engine == "lockstep" else None
    return protocol.model_dump_json(exclude=unread)


def by_organism(protocol: Protocol) -> list[str]:
    """Families that are organisms, in order."""
    return [family for family in protocol.design.families if family not in protocol.models]


SHARD_RUNS = 8
"""Runs that train together where the trial is large: enough for a core, whose cache they must share."""

SHARDS = 16
"""A trial that has fewer shards than this keeps them apart, so that several cores find work."""


def shards(protocol: Protocol) -> list[list[int]]:
    """Which runs train together, as indices into ``runs``.

    All arms of one (family, recipe, unit), so that contrasts stay within a program; in a large trial several units of
    a family and recipe. The engine trl trains one run at a time.
    """
    if protocol.trial.engine == "trl":
        return [[i] for i in range(len(runs(protocol)))]
    units: dict[tuple[str, str], dict[tuple[int, int], list[int]]] = {}
    for i, run in enumerate(runs(protocol)):
        of_recipe = units.setdefault((run.family, run.recipe), {})
        of_recipe.setdefault((run.pretraining_seed, run.seed), []).append(i)
    num_units = sum(map(len, units.values()))
    together = max(1, min(SHARD_RUNS // len(protocol.arms), num_units // SHARDS))
    found = []
    for of_recipe in units.values():
        members = list(of_recipe.values())
        for start in range(0, len(members), together):
            found.append([i for unit in members[start : start + together] for i in unit])
    return found


def _misfits(p: Protocol) -> list[str]:
    """Contradictions between tables, each naming its key and the remedy."""
    found: list[str] = []
    design, evaluation, endpoint = p.design, p.evaluation, p.endpoint
    for key, values in (
        ("design.families", design.families),
        ("design.seeds", design.seeds),
        ("design.pretraining_seeds", design.pretraining_seeds),
        ("evaluation.steps", evaluation.steps),
        ("evaluation.pass_at_k", evaluation.pass_at_k),
        ("endpoint.primary", [(c.family, c.arm) for c in endpoint.primary]),
        ("probes.kinds", p.probes.kinds),
        ("probes.base", p.probes.base),
    ):
        if len(set(values)) != len(values):
            found.append(f"{key}: repeats a value; list each once")
    if design.pairing == "paired" and len(design.seeds) != len(design.pretraining_seeds):
        found.append(
            f"design.pairing: 'paired' needs as many seeds ({len(design.seeds)}) as pretraining_seeds "
            f'({len(design.pretraining_seeds)}); make them equal or say pairing = "crossed"'
        )
    for needed, name in ((0, "the base"), (design.num_steps, "the last step")):
        if needed not in evaluation.steps:
            found.append(f"evaluation.steps: {needed} ({name}) is missing; add it")
    if max(evaluation.steps) > design.num_steps:
        found.append(
            f"evaluation.steps: {max(evaluation.steps)} is after the last step, {design.num_steps}"
        )
    if max(evaluation.pass_at_k) > evaluation.samples:
        k = max(evaluation.pass_at_k)
        found.append(
            f"evaluation.pass_at_k: pass@{k} needs at least {k} samples per problem; there are "
            f"{evaluation.samples}; raise evaluation.samples or drop {k}"
        )
    if (p.probes.kinds or p.probes.base) and p.probes.num_problems > evaluation.num_problems:
        found.append(
            f"probes.num_problems: {p.probes.num_problems}, but evaluation.num_problems is "
            f"{evaluation.num_problems}; probes look at the first of those"
        )
    if endpoint.step not in evaluation.steps:
        found.append(
            f"endpoint.step: {endpoint.step} is not among evaluation.steps {evaluation.steps}"
        )
    if "base" in p.arms:
        found.append(
            "arms.base: the report calls the untrained model so; give the arm another name"
        )
    if endpoint.placebo not in p.arms:
        found.append(_unknown("endpoint.placebo", endpoint.placebo, p.arms))
    named = [(f"endpoint.primary.{i}", c) for i, c in enumerate(endpoint.primary)]
    named += [(f"controls.{i}", c) for i, c in enumerate(p.controls)]
    for key, comparison in named:
        if comparison.family not in design.families:
            found.append(_unknown(f"{key}.family", comparison.family, design.families))
        if comparison.arm not in p.arms:
            found.append(_unknown(f"{key}.arm", comparison.arm, p.arms))
    for key, comparison in named[: len(endpoint.primary)]:
        if comparison.arm == endpoint.placebo:
            found.append(f"{key}.arm: is the placebo itself; name another arm")
    found += _lockstep_misfits(p) if p.trial.engine == "lockstep" else _trl_misfits(p)
    for name, recipe in p.recipes.items():
        if (
            recipe.prompts_per_step > design.num_problems
            and recipe.prompts_per_step % design.num_problems
        ):
            found.append(
                f"recipes.{name}.prompts_per_step: {recipe.prompts_per_step} prompts a step of design.num_problems = "
                f"{design.num_problems} problems; raise that, or let it divide the prompts, so that each fills an equal share"
            )
    return found


def _lockstep_misfits(p: Protocol) -> list[str]:
    """Keys that only the engine trl reads."""
    given = {
        "models": bool(p.models),
        "trl": p.trl != TrlTable(),
        "design.problems": p.design.problems is not None,
        "design.template": p.design.template != "line",
        "evaluation.problems": p.evaluation.problems is not None,
    }
    return [
        f'{key}: does nothing for the engine lockstep, which trains organisms on their arithmetic; say trial.engine = "trl", or remove it'
        for key, there in given.items()
        if there
    ] + [
        f'recipes.{name}.lora_rank: the engine lockstep trains all weights; say trial.engine = "trl", or remove it'
        for name, recipe in p.recipes.items()
        if recipe.lora_rank
    ]


def _trl_misfits(p: Protocol) -> list[str]:
    """What the engine trl cannot do, and tables that contradict each other under it; recipes are checked by the engine."""
    found = [
        f"models.{name}: is not among design.families; add it there, or remove it"
        for name in p.models
        if name not in p.design.families
    ]
    if p.probes.kinds or p.probes.base:
        found.append(
            'probes: the engine trl measures none; remove the table, or train organisms with trial.engine = "lockstep"'
        )
    if p.models and len(p.design.pretraining_seeds) > 1:
        found.append(
            f"design.pretraining_seeds: a model by path is one pretrained model; name one seed, not {len(p.design.pretraining_seeds)}, "
            'and say pairing = "crossed" for several training seeds'
        )
    if (p.design.problems is None) != (p.evaluation.problems is None):
        found.append(
            "design.problems, evaluation.problems: name both, or neither: the organisms' arithmetic shares no prompt with a real set"
        )
    other = p.design.problems is not None or p.design.template != "line"
    if other and (organisms := by_organism(p)):
        found.append(
            f"design.problems, design.template: organisms ({', '.join(organisms)}) read only their arithmetic, each problem with a line end; leave both out, or name models only"
        )
    return found


def _unknown(key: str, value: str, known: Any) -> str:  # noqa: ANN401  any collection of names
    near = difflib.get_close_matches(value, list(known), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{key}: unknown {value!r}; {hint}known: {', '.join(known)}"


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """Keys allowed in the table that the path's last part was found in."""
    model: Any = Protocol
    for part in path[:-1]:
        if isinstance(model, dict):
            model = model["*"]
        elif isinstance(part, int):
            continue
        else:
            table = {
                "trial": TrialTable, "design": DesignTable, "recipes": {"*": Recipe},
                "arms": {"*": ArmTable}, "labels": LabelsTable, "evaluation": EvaluationTable,
                "endpoint": EndpointTable, "primary": Comparison, "controls": Control,
                "logging": LoggingTable, "probes": ProbesTable,
                "models": {"*": ModelTable}, "trl": TrlTable,
            }  # fmt: skip
            model = table[part]
    return list(model.model_fields)


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            text = f"unknown key; {f'did you mean {near[0]}? ' if near else ''}known here: {', '.join(known)}"
            if item["loc"][0] == "arms" and item["loc"][-1] in ("recipe", *Recipe.model_fields):
                text = "an arm carries no recipe: arms differ only in what they pay; put it under [recipes]"
        elif item["type"] == "missing":
            text = "is missing; add it"
        elif item["type"] == "value_error":
            text = str(item.get("ctx", {})["error"])
        else:
            text = f"{item['msg'][0].lower()}{item['msg'][1:]}; it is {item['input']!r}"
        lines += [f"{path}: {line}" if path else line for line in text.splitlines()]
    return f"{source}:\n" + "\n".join(f"  {line}" for line in lines)


def parse(text: str, source: str = "protocol") -> Protocol:
    """Read a trial file's text.

    Raises:
        ProtocolError: with one line per problem: the key's path, what is wrong, the remedy.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{source}: not valid TOML: {error}") from None
    try:
        return Protocol.model_validate(table)
    except ValidationError as error:
        raise ProtocolError(_explain(error, source)) from None


def load(path: Path) -> Protocol:
    """Read a trial file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def digest(protocol: Protocol, materials: dict[str, str]) -> str:
    """SHA-256 (hex) of the design and of all that can change a result: ``materials`` maps names to versions or hashes.

    The order of families, recipes and arms counts: it is the order of the runs within a shard. A setting at its default is left out,
    so that to say it changes nothing and a new setting renames no old trial; a server's address is none of the trial's.
    """
    design = protocol.model_dump(mode="json", exclude_defaults=True, exclude={"trl": {"vllm_url"}})
    content = [design, sorted(materials.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
