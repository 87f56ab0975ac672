"""What the engine's tests run on: two released organisms, and the smallest trial that still has every stage."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from controlarm import evaluation, trial
from controlarm.engines import lockstep
from controlarm.organisms import released
from controlarm.organisms.pretrain import Organism, initial_weights
from controlarm.organisms.transformer import Shape, Weights
from controlarm.problems import arithmetic
from controlarm.protocol import Protocol, runs

SHAPE = Shape()

RECIPE = """
prompts_per_step = 4
group_size = 4
updates_per_rollout = 2
learning_rate = 1e-3
"""


@lru_cache(maxsize=1)
def organisms() -> Weights:
    """Two pretraining seeds of one family, float32, stacked along the run axis."""
    one, two = (released.load("coder", seed)[0] for seed in (1, 2))
    return {name: torch.cat((one[name], two[name])) for name in one}


def wild_weights(runs: int, spread: float = 4.0) -> Weights:
    """Untrained weights, large enough that the distributions are far from uniform; runs differ."""
    made = initial_weights([Organism("coder", run) for run in range(runs)], SHAPE)
    return {n: w * (1 if "norm" in n else spread) for n, w in made.items()}


def encoded_prompts(runs: int, num_prompts: int) -> Tensor:
    """[run, prompt, place]: every run its own problems, left-padded."""
    problems = arithmetic.problems("held_out", runs * num_prompts, "tests")
    rows = evaluation.rows_of(problems, [0], 1)
    return evaluation.encode_prompts(rows, trial.PROMPT_LENGTH).view(runs, num_prompts, -1)


def protocol_text(arms: str, *, recipe: str = RECIPE, design: str = "", more: str = "") -> str:
    """A trial file of one family; ``arms`` holds the arms' tables, the placebo is called placebo."""
    return f"""
[trial]
name = "small"
question = "Does it run?"
[design]
families = ["coder"]
pretraining_seeds = [1]
seeds = [1]
num_steps = 3
num_problems = 8
max_tokens = 32
{design}
[recipes.grpo]
{recipe}
[labels]
samples = 4
[evaluation]
num_problems = 4
samples = 3
steps = [0, 2, 3]
pass_at_k = [1, 2]
[endpoint]
metric = "accuracy"
step = 3
placebo = "placebo"
margin = 0.02
planning_sd = 0.1
primary = [{{family = "coder", arm = "ground_truth"}}]
{more}
[arms.ground_truth]
[arms.placebo]
reward = "random"
{arms}
"""


class Small(NamedTuple):
    """A trial in this process."""

    folder: Path
    protocol: Protocol
    plan: lockstep.Plan

    def run(self, arm: str, pretraining_seed: int = 1) -> Path:
        """Folder of an arm's first run."""
        found = (
            r for r in runs(self.protocol) if (r.arm, r.pretraining_seed) == (arm, pretraining_seed)
        )
        return self.folder / next(found).path

    def train(self) -> "Small":
        """Every shard to its end, one after the other."""
        for number in range(len(self.plan.shards)):
            lockstep.run_shard(self.plan, number, lambda report: None)
        return self


def prepare(folder: Path, text: str) -> Small:
    """Make a trial's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.toml").write_text(text)
    prepared = trial.prepare(folder / "trial.toml", folder / "runs", "cpu")
    assert not prepared.plan["compiled"], "small enough that compiling would not pay"
    return Small(prepared.folder, prepared.protocol, trial.engine_plan(prepared))


def fails(text: str) -> float:
    """A user's reward that never works."""
    raise RuntimeError("no network")


def counts(text: str) -> float:
    """A user's reward that works."""
    return float(text.count("4"))


def own(weights: Weights, run: int) -> Weights:
    """One run's weights, the run axis kept."""
    return {name: w[run : run + 1].clone() for name, w in weights.items()}


def plain_logits(weights: Weights, run: int, tokens: list[int]) -> Tensor:
    """Next-token scores after each token of one sequence."""
    return plain_hidden(weights, run, tokens) @ weights["embed"][run].double().T


def plain_hidden(weights: Weights, run: int, tokens: list[int]) -> Tensor:
    """Final hidden states of one sequence: the architecture once more, with no batch, padding or cache."""
    w = {name: value[run].double() for name, value in weights.items()}

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale

    length, width = len(tokens), SHAPE.head
    angle = torch.arange(length).double()[:, None] * 10_000.0 ** (
        -torch.arange(0, width, 2).double() / width
    )

    def turn(x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)

    x = w["embed"][tokens]
    for i in range(SHAPE.layers):
        h = norm(x, w[f"{i}.norm1"])
        mixed = []
        for head in range(SHAPE.heads):
            columns = slice(head * width, (head + 1) * width)
            q, k, v = (h @ w[f"{i}.{name}"][:, columns] for name in "qkv")
            scores = turn(q) @ turn(k).T / width**0.5
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
            mixed.append(torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ v)
        x = x + torch.cat(mixed, -1) @ w[f"{i}.o"]
        h = norm(x, w[f"{i}.norm2"])
        gate = h @ w[f"{i}.gate"]
        x = x + (gate * torch.sigmoid(gate) * (h @ w[f"{i}.up"])) @ w[f"{i}.down"]
    return norm(x, w["norm"])
