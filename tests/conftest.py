"""One thread a process, patient property tests, and shapes checked at every call.

The checks that the jaxtyping hook adds cannot be compiled, so compiled functions run eagerly in the test process. What must be
shown of compiled code is shown in a process of its own, where there is no hook.
"""

import os

import torch
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
torch.compiler.set_stance("force_eager")

settings.register_profile("shared-cores", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("shared-cores")


def pytest_sessionstart() -> None:
    """A pass of few rows: an eager one costs what its rows cost, and trials here are small. Imported late, behind the hook."""
    from controlarm import sampling

    sampling.TILE = 16
