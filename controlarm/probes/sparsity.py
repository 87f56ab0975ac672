"""How many weights training left alone, and how many directions it moved the rest in.

"RL updates a small subnetwork" (arXiv:2505.11711: 68 to 96 % of weights unchanged) was measured on bfloat16 weights, which
an update below half their spacing cannot move; in float32 nearly all move (arXiv:2509.04259). So both are shown, over
tolerances.
"""

import math

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from controlarm.probes.subject import Subject

TOLERANCES = (0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""A weight is unchanged when it moved by no more than this; 1e-5 is arXiv:2505.11711's."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

SCHEMA = pa.schema(
    [
        ("matrix", pa.string()),
        ("precision", pa.string()),
        ("tolerance", pa.float64()),
        ("size", pa.int64()),
        ("unchanged", pa.int64()),
        ("update_norm", pa.float64()),
        ("norm", pa.float64()),
        ("effective_rank", pa.float64()),
        ("full_rank", pa.int32()),
    ]
)


def effective_rank(matrix: Float[Tensor, "row column"]) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007): 1 for an outer product, n for n equal ones.

    NaN for a matrix of zeros.
    """
    values = torch.linalg.svdvals(matrix)
    shares = values[values > 0] / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else float("nan")


def probe(subject: Subject) -> pa.Table:
    """One row a matrix, precision and tolerance: ``unchanged`` of its ``size`` weights moved by no more than the tolerance.

    Sparsity is Σ unchanged / Σ size: 1 - ||θ - θ0||_0/n at tolerance 0. ``precision`` bfloat16: both masters are rounded
    first, then compared. ``update_norm`` and ``norm`` are Euclidean, of θ - θ0 and θ0; the effective rank is that of θ - θ0,
    null for a vector or where nothing moved. Weights that the base does not have, as a value head, do not count.
    """
    rows = []
    for name, base in subject.base_master.items():
        for precision, dtype in PRECISIONS.items():
            before, after = (
                w[0].detach().to(dtype).double() for w in (base, subject.policy_master[name])
            )
            change = after - before
            rank = effective_rank(change) if change.ndim == 2 else float("nan")
            facts = {
                "matrix": name,
                "precision": precision,
                "size": change.numel(),
                "update_norm": float(change.norm()),
                "norm": float(before.norm()),
                "effective_rank": None if math.isnan(rank) else rank,
                "full_rank": min(change.shape) if change.ndim == 2 else None,
            }
            rows += [
                facts | {"tolerance": t, "unchanged": int((change.abs() <= t).sum())}
                for t in TOLERANCES
            ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
