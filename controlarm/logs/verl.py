r"""What verl's ``trainer.rollout_data_dir`` and ``validation_data_dir`` hold: ``<step>.jsonl``, one completion a line.

Example: ``{"input": "user\n1 + 1?\nassistant\n", "output": "\\boxed{2}", "gts": "2", "score": 1.0, "step": 5, "acc": true}``. ``input`` is the
decoded prompt with its template; what the reward function returned beside its score follows in fields of its own.
"""

from collections.abc import Sequence
from pathlib import Path

from controlarm.logs import jsonl
from controlarm.logs.rows import Fields

OWN = frozenset({"input", "output", "score", "step", "gts", "uid"})


def recognises(names: set[str]) -> bool:
    """Whether the fields are those that verl writes of every rollout."""
    return names >= {"input", "output", "score"}


def fields(names: set[str], records: Sequence[object]) -> Fields:
    """verl's fields; older versions write no ``gts`` or ``step``."""
    found = jsonl.fields(names - OWN, records)
    scores = jsonl.numeric_fields(names - OWN - {found.id, found.num_tokens}, records)
    return Fields(
        completion="output", prompt="input", gold="gts" if "gts" in names else found.gold,
        step="step" if "step" in names else None, id=found.id, answer=found.answer,
        truncated=found.truncated, num_tokens=found.num_tokens,
        scores=("score", *(s for s in scores if s != found.answer)),
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    """The dumps of a folder in order of their steps."""
    found = [p for p in folder.glob("*.jsonl") if p.stem.isdigit()]
    return sorted(found, key=lambda p: int(p.stem))
