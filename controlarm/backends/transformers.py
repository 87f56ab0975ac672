"""Any causal LM that transformers loads, decoded in batches whose finished rows make room for the next requests.

The loop is our own, and not ``generate``: its draws are keyed by problem and sample. One uniform number u a token picks the token where the
cumulative probability, in the order of the vocabulary, first passes u. Batch size, order and resuming therefore enter only by the float noise
of the logits, which changes a token where u (or, greedy, the two best logits) lies within that noise: about one in a million tokens in
float32; in bfloat16 a percent or so, after which the sample is another one with the same distribution.

Prompts are padded on the left and read once however many samples they have. Rows that end leave the batch, and when half of it is
free the next requests join, their keys and values padded to the others' length; what all rows have only as padding is cut off.

Keys and values stand in room that grows by a quarter, since transformers' own cache copies all of them for every token. Its static cache has a fixed
shape, which rows could not join, and its continuous batching draws by a global stream.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from controlarm.backends import Completion, Request, Sampling, uniforms
from controlarm.backends.words import Words, unloadable

SPARE = 1 / 8
"""Share of the rows that may have ended before the batch is packed again: packing copies all keys and values."""


@dataclass(kw_only=True, slots=True)
class _Row:
    """A completion in flight."""

    request: Request
    prompt_tokens: int
    draws: Float[Tensor, " token"]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    ended: bool = False
    text: str | None = None
    """Once a stop string has come."""
    gone: bool = False
    """Its completion was handed out; it waits to be packed away."""


class RoomyLayer(DynamicLayer):
    """Keys and values with room behind them, so that most tokens are written in place."""

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor]
    """What ``keys`` and ``values`` are the beginnings of."""

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> "RoomyLayer":
        """A layer that holds these; the first update makes room."""
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = layer.room = keys, values
        return layer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any  # noqa: ANN401  as theirs
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Append; what was there stays where it is if there is room."""
        held = self.keys.shape[-2]
        length = held + key_states.shape[-2]
        if length > self.room[0].shape[-2]:
            places = length + max(16, length // 4)
            self.room = _with_room(self.keys, places), _with_room(self.values, places)
        self.room[0][:, :, held:length] = key_states
        self.room[1][:, :, held:length] = value_states
        self.keys, self.values = (room[:, :, :length] for room in self.room)
        return self.keys, self.values


def _with_room(tensor: Tensor, places: int) -> Tensor:
    rows, heads, held, width = tensor.shape
    room = tensor.new_empty(rows, heads, places, width)
    room[:, :, :held] = tensor
    return room


class TransformersBackend:
    """A model and its tokenizer, loaded."""

    def __init__(self, model: str, device: str | None = None) -> None:
        """Load a model: float32 on a CPU, as its checkpoint says elsewhere. Code that a model brings is never run.

        Raises:
            ValueError: it cannot be loaded, or is not a causal LM that takes positions.
        """
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if self.device == "cpu" else "auto"
        self.words = Words(model)
        transformers.utils.logging.disable_progress_bar()  # of weights, a line for each model
        try:
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                model, dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(unloadable(model, error)) from error
        self.network: Any = loaded[0]
        # transformers fills what a checkpoint lacks with random numbers.
        if lacking := sorted(loaded[1]["missing_keys"]):
            raise ValueError(
                f"{model}: its files lack {len(lacking)} of the model's tensors, {lacking[0]} among them; "
                "save the whole model, or download it again"
            )
        self.network = self.network.to(self.device).eval()
        accepted = inspect.signature(self.network.forward).parameters
        missing = {"position_ids", "past_key_values", "logits_to_keep"} - set(accepted)
        if missing:
            raise ValueError(
                f"{model}: {type(self.network).__name__} does not take {', '.join(sorted(missing))}, "
                "which batched decoding needs"
            )
        self.model = model
        self.revision = self.words.revision
        self.name = f"transformers {str(self.network.dtype).removeprefix('torch.')}"
        device_name = torch.cuda.get_device_name() if self.device != "cpu" else self.device
        self.environment = (
            f"transformers {transformers.__version__}, torch {torch.__version__}, {device_name}"
        )
        self.chat = self.words.chat

    @torch.inference_mode()
    def complete(
        self, requests: Sequence[Request], sampling: Sampling, batch: int
    ) -> Iterator[tuple[Request, Completion]]:
        """As ``Backend.complete`` says."""
        encoded = self.words.encode(requests, sampling.max_tokens)
        singles = {stop: self.words.special(stop) for stop in sampling.stop}
        ends = self.words.end_ids | {token for token in singles.values() if token is not None}
        stops = tuple(stop for stop, token in singles.items() if token is None)
        waiting = list(zip(requests, encoded, strict=True))[::-1]
        flight = _Flight(self, sampling, ends, stops)
        while waiting or flight.num_live:
            try:
                if waiting and flight.num_live <= batch // 2 and flight.can_join:
                    room = min(batch - flight.num_live, len(waiting))
                    flight.join([waiting.pop() for _ in range(room)])
                else:
                    flight.step()
            except torch.OutOfMemoryError as error:
                raise ValueError(
                    f"the device's memory is too small for {batch} completions at once; give a smaller --batch "
                    "(what is in the store is kept)"
                ) from error
            yield from flight.leave()


class _Flight:
    """The batch: rows, their cache, and what the model said last of each."""

    def __init__(
        self, backend: TransformersBackend, sampling: Sampling, ends: set[int], stops: tuple[str, ...]
    ) -> None:  # fmt: skip
        self.backend, self.sampling, self.ends, self.stops = backend, sampling, ends, stops
        self.rows: list[_Row] = []
        self.cache: Any = None
        self.mask: Int[Tensor, "row place"]
        self.logits: Float[Tensor, "row vocab"]
        self.plain = True
        """All layers keep plain keys and values, so that caches can be joined and cut."""

    @property
    def num_live(self) -> int:
        return sum(not row.gone for row in self.rows)

    @property
    def can_join(self) -> bool:
        return self.plain or not self.num_live

    def join(self, wanted: Sequence[tuple[Request, list[int]]]) -> None:
        """Read the prompts of new rows, and set them beside the others."""
        device = self.backend.device
        distinct: dict[tuple[int, ...], int] = {}
        index = [distinct.setdefault(tuple(tokens), len(distinct)) for _, tokens in wanted]
        length = max(map(len, distinct))
        pad = self.backend.words.pad_id
        tokens = torch.tensor(
            [[pad] * (length - len(p)) + list(p) for p in distinct], device=device
        )
        mask = torch.tensor(
            [[0] * (length - len(p)) + [1] * len(p) for p in distinct], device=device
        )
        cache: Any = DynamicCache(config=self.backend.network.config)
        logits = self._forward(tokens, mask, cache)
        select = torch.tensor(index, device=device)
        cache.batch_select_indices(select)
        mask, logits = mask[select], logits[select]
        rows = [
            _Row(
                request=request,
                prompt_tokens=len(tokens),
                draws=torch.from_numpy(
                    uniforms(
                        self.sampling.seed,
                        request.problem_id,
                        request.sample,
                        self.sampling.max_tokens,
                    )
                ),
            )
            for request, tokens in wanted
        ]
        self.pack()
        self.plain = all(type(layer) is DynamicLayer for layer in cache.layers)
        if self.plain:
            cache.layers = [RoomyLayer.of(layer.keys, layer.values) for layer in cache.layers]
        if not self.rows:
            self.rows, self.cache, self.mask, self.logits = rows, cache, mask, logits
        else:
            self._beside(rows, cache, mask, logits)
        self._draw(range(len(self.rows) - len(rows), len(self.rows)))

    def _beside(self, rows: list[_Row], cache: Any, mask: Tensor, logits: Tensor) -> None:  # noqa: ANN401
        length = max(self.mask.shape[1], mask.shape[1])
        self.cache.layers = [
            RoomyLayer.of(
                torch.cat([_lengthened(ours.keys, length), _lengthened(theirs.keys, length)]),
                torch.cat([_lengthened(ours.values, length), _lengthened(theirs.values, length)]),
            )
            for ours, theirs in zip(self.cache.layers, cache.layers, strict=True)
        ]
        both = [torch.nn.functional.pad(m, (length - m.shape[1], 0)) for m in (self.mask, mask)]
        self.mask = torch.cat(both)
        self.logits = torch.cat([self.logits, logits])
        self.rows += rows

    def _forward(self, tokens: Tensor, mask: Tensor, cache: Any) -> Float[Tensor, "row vocab"]:  # noqa: ANN401
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        made = self.backend.network(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return made.logits[:, -1].float()

    def step(self) -> None:
        """One more token of every row."""
        newest = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.backend.device)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.logits = self._forward(newest, self.mask, self.cache)
        self._draw(range(len(self.rows)))

    def _draw(self, which: range) -> None:
        """Draw the next token of some rows, from the logits that are there."""
        logits = self.logits[which.start : which.stop]
        # A row that is gone draws its last number again, and nobody looks.
        last = self.sampling.max_tokens - 1
        draws = torch.stack(
            [self.rows[i].draws[min(len(self.rows[i].tokens), last)] for i in which]
        )
        tokens = draw(logits, draws.to(logits.device), self.sampling)
        logprobs = torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]
        for i, token, logprob in zip(which, tokens.tolist(), logprobs.tolist(), strict=True):
            row = self.rows[i]
            if row.gone:
                continue
            if logprob != logprob:
                raise ValueError(
                    f"problem {row.request.problem_id}: the model's logits are not numbers after {len(row.tokens)} tokens; "
                    "its weights are damaged, or overflow at this precision"
                )
            row.tokens.append(token)
            row.logprob += logprob
            row.ended = token in self.ends
            if not row.ended and self.stops:
                self._look_for_stop(row)

    def _look_for_stop(self, row: _Row) -> None:
        # A token of a stop string has one of its characters at least.
        tail = self.backend.words.text(row.tokens[-max(map(len, self.stops)) - 1 :])
        if any(stop in tail for stop in self.stops):
            whole = self.backend.words.text(row.tokens)
            places = [whole.find(stop) + len(stop) for stop in self.stops if stop in whole]
            if places:
                row.text, row.ended = whole[: min(places)], True

    def leave(self) -> Iterator[tuple[Request, Completion]]:
        """Hand out the completions of rows that have ended; pack the batch when many have."""
        limit = self.sampling.max_tokens
        for row in self.rows:
            if not row.gone and (row.ended or len(row.tokens) == limit):
                row.gone = True
                yield row.request, self._completion(row)
        if len(self.rows) - self.num_live > SPARE * len(self.rows):
            self.pack()

    def pack(self) -> None:
        """Keep the rows in flight only, and of these no place that is padding in all."""
        kept = [i for i, row in enumerate(self.rows) if not row.gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if not kept:
            self.cache = None
            return
        select = torch.tensor(kept, device=self.backend.device)
        self.mask, self.logits = self.mask[select], self.logits[select]
        if not self.plain:
            self.cache.batch_select_indices(select)
            return
        unused = int(self.mask.any(0).int().argmax())
        self.mask = self.mask[:, unused:]
        self.cache.layers = [
            RoomyLayer.of(layer.keys[select, :, unused:], layer.values[select, :, unused:])
            for layer in self.cache.layers
        ]

    def _completion(self, row: _Row) -> Completion:
        ended_by_token = row.ended and row.text is None
        tokens = row.tokens[:-1] if ended_by_token else row.tokens
        return Completion(
            text=self.backend.words.text(tokens) if row.text is None else row.text,
            prompt_tokens=row.prompt_tokens,
            num_tokens=len(row.tokens),
            truncated=not row.ended,
            logprob=row.logprob,
        )


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    """Keys or values with empty places before them."""
    return torch.nn.functional.pad(tensor, (0, 0, length - tensor.shape[-2], 0))


def draw(
    logits: Float[Tensor, "row vocab"], draws: Float[Tensor, " row"], sampling: Sampling
) -> Int[Tensor, " row"]:
    """Each row's token: the most probable where the temperature is 0, else by its uniform number.

    The nucleus of ``top_p`` is the fewest most probable tokens that hold at least so much (arXiv:1904.09751); ties stay in
    the order of the vocabulary.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    p = torch.softmax(logits.double() / sampling.temperature, -1)
    if sampling.top_p < 1:
        ranked, order = p.sort(dim=-1, descending=True, stable=True)
        before = ranked.cumsum(-1) - ranked
        p = p * torch.empty_like(p, dtype=torch.bool).scatter_(-1, order, before < sampling.top_p)
    total = p.cumsum(-1)
    # A product can round up to the sum itself, which no token passes.
    last = torch.nextafter(total[:, -1:], torch.zeros_like(total[:, -1:]))
    wanted = torch.minimum(draws[:, None] * total[:, -1:], last)
    return torch.searchsorted(total, wanted, right=True)[:, 0].clamp(max=p.shape[-1] - 1)
