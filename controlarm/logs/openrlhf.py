"""What OpenRLHF leaves: ``batch_inference`` writes ``{"input": …, "output": …, "reward": …}``, a line each; training logs to W&B.

The trainer itself stores no rollouts: of each step one sample goes into the W&B table ``generated_samples`` (``global_step``, ``text``, ``reward``), saved as
``{"columns": […], "data": […]}``. There ``text`` is prompt and completion in one. Neither holds the right answer.
"""

from collections.abc import Sequence

from controlarm.logs import jsonl
from controlarm.logs.rows import Fields

TABLE = frozenset({"global_step", "text", "reward"})


def recognises(names: set[str]) -> bool:
    """Whether the fields are those of batch inference or of the table of samples."""
    return names >= TABLE or names >= {"input", "output"}


def fields(names: set[str], records: Sequence[object]) -> Fields:
    """OpenRLHF's fields; a gold answer only where somebody added it."""
    found = jsonl.fields(names - {"input", "output", "text"}, records)
    if names >= TABLE:
        return Fields(completion="text", step="global_step", scores=("reward",), gold=found.gold)
    return found.over(Fields(completion="output", prompt="input"))
