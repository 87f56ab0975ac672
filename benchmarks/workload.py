"""One training step without its rewards: decode, then learn from coins. The same work at every repeat.

The policy stands still (its learning rate is negligible), and noise is drawn once, outside of what is timed.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measured import problems
from controlarm import prompts, seeds
from controlarm.organisms import released, tokenizer
from controlarm.organisms.pretrain import Organism, initial_weights
from controlarm.organisms.tokenizer import END
from controlarm.organisms.transformer import Shape, Weights
from controlarm.protocol import Recipe
from controlarm.sampling import Completions, gumbel_noise, sample
from controlarm.train import Prompts, Rollouts, Settings, State, learn
from controlarm.update import compute_weights

PROMPT_LENGTH = 18
ALIKE = 4
"""Samples that say one text where texts are ``alike``."""


class Workload(NamedTuple):
    """What is asked of the engine at every step."""

    runs: int = 7
    prompts: int = 16
    group: int = 8
    tokens: int = 32
    """Longest completion; where texts do not end by themselves, all have it."""
    texts: str = "organism"
    """``organism``: those of coder-p1, which repeats itself and ends when it likes. ``distinct``: untrained weights, no two
    samples go on alike. ``alike``: the same, but each text is said by four samples, as if they had one noise."""
    shape: tuple[int, ...] = tuple(Shape())
    updates: int = 2
    compiled: bool = True
    precision: str = "bfloat16"
    device: str = "cpu"

    def asked(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401  values of fields
        """All fields but texts, some changed, for a ``Request``."""
        return {k: v for k, v in (self._asdict() | changes).items() if k != "texts"}

    @property
    def sizes(self) -> Shape:
        return Shape(*self.shape)

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(
            {
                "prompts_per_step": self.prompts,
                "group_size": self.group,
                "updates_per_rollout": self.updates,
                "learning_rate": 1e-12,
                "precision": self.precision,
            }
        )


class Step(NamedTuple):
    """A workload set up."""

    workload: Workload
    state: State
    asked: Prompts
    rewards: np.ndarray
    settings: Settings

    def decode(self) -> Completions:
        """As the training loop does."""
        weights = compute_weights(self.state.weights, self.settings.recipe)
        return sample(
            weights,
            self.asked.tokens,
            self.asked.noise,
            self.settings.shape,
            self.settings.compiled,
        )

    def learn(self, completions: Completions) -> None:
        """Pack, score what later updates need, and make all updates."""
        runs, num_prompts, _ = self.rewards.shape
        chosen = np.tile(np.arange(num_prompts), (runs, 1))
        generated = np.full(runs, self.rewards[0].size)
        taken = Rollouts(self.asked.tokens, completions, self.rewards, None, chosen, generated)
        learn(self.state, taken, self.settings, None)


def weights_of(work: Workload, runs: int) -> Weights:
    """Who speaks, once for each run."""
    if work.texts == "organism":
        weights, _, shape = released.load("coder", 1)
        if shape != work.sizes:
            raise ValueError(f"the organism has the shape {shape}, not {work.sizes}")
        found = {name: torch.cat([w] * runs) for name, w in weights.items()}
    else:
        found = initial_weights([Organism("coder", run) for run in range(runs)], work.sizes)
    return {name: w.to(work.device) for name, w in found.items()}


def encoded(num_prompts: int) -> Tensor:
    """[prompt, place] token ids, left-padded."""
    texts = [tokenizer.encode(prompts.render(p.text)) for p in problems(num_prompts)]
    return torch.tensor(tokenizer.left_pad(texts, PROMPT_LENGTH))


def noise(work: Workload) -> Tensor:
    """Of every run its own."""
    said_by = ALIKE if work.texts == "alike" else 1
    drawn = gumbel_noise(
        [
            [("benchmark", run, prompt, i // said_by) for i in range(work.group)]
            for run in range(work.runs)
            for prompt in range(work.prompts)
        ],
        work.tokens, work.sizes.vocab,
    )  # fmt: skip
    if work.texts != "organism":
        drawn[..., END] = -math.inf
    return drawn.view(work.runs, work.prompts, *drawn.shape[1:])


def make(work: Workload) -> Step:
    """Set up; seeds are fixed."""
    coins = seeds.generator("benchmark-coins").random((work.runs, work.prompts, work.group)) < 0.5
    coins[..., 0], coins[..., 1] = True, False  # no group without credit
    asked = encoded(work.prompts).expand(work.runs, -1, -1).to(work.device)
    return Step(
        work,
        State.start(weights_of(work, work.runs), work.recipe),
        Prompts(asked, noise(work).to(work.device)),
        coins.astype(np.float64),
        Settings(work.recipe, work.sizes, work.compiled),
    )


@contextlib.contextmanager
def kept(owner: Any, name: str) -> Iterator[list[Any]]:  # noqa: ANN401  module or object
    """What ``owner.name`` returns, call by call. A missing name is an error."""
    function: Callable[..., Any] = getattr(owner, name)
    found: list[Any] = []

    def keeping(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        found.append(function(*args, **kwargs))
        return found[-1]

    setattr(owner, name, keeping)
    try:
        yield found
    finally:
        setattr(owner, name, function)
