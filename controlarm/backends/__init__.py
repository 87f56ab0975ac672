"""Who generates: each backend answers the same requests, and where it can with the same draws.

Sample s of problem p is drawn with uniform numbers keyed by (seed, p, s), one a token, so what is asked beside it, in which order,
and whether the command was stopped in between does not enter.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from controlarm import seeds
from controlarm.prompts import Chat, Prompt


class Sampling(NamedTuple):
    """How tokens are drawn."""

    temperature: float
    """0: greedy."""
    top_p: float
    """Only the fewest tokens that hold this much probability are drawn from; 1: all."""
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()
    """A completion ends behind the first of these."""


class Request(NamedTuple):
    """One completion that is wanted."""

    problem_id: str
    sample: int
    prompt: Prompt


class Completion(NamedTuple):
    """What was generated."""

    text: str
    """Without the opening; a stop string is kept, an end token is not."""
    prompt_tokens: int
    num_tokens: int
    """The end token included."""
    truncated: bool
    """It met the limit of tokens."""
    logprob: float | None
    """Natural, of the generated tokens under the model at temperature 1, summed; None: the backend does not tell."""


@runtime_checkable
class Backend(Protocol):
    """A model that can be asked."""

    model: str
    """Path or name as it was given."""
    revision: str
    name: str
    """Which backend at which precision: part of a sample's key."""
    environment: str
    """Versions and device, for the record only."""
    chat: Chat | None
    """The model's own chat template."""

    def complete(
        self, requests: Sequence[Request], sampling: Sampling, batch: int
    ) -> Iterator[tuple[Request, Completion]]:
        """Every request's completion, as they are finished.

        Args:
            requests: those with the same prompt side by side, so that it is read once.
            sampling: of all of them.
            batch: completions in flight at once, at most.

        Raises:
            ValueError: a prompt and its completion are longer than the model's context, or the tokenizer cannot read it.
        """
        ...


def uniforms(
    seed: int, problem_id: str, sample: int, num_tokens: int
) -> Float[np.ndarray, " token"]:
    """The draws of one sample, in [0, 1); a longer list begins with the shorter."""
    return seeds.generator("benchmark", seed, problem_id, sample).random(num_tokens)
