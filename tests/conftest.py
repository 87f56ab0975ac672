"""One thread a process and patient property tests: the suite runs on shared cores, several processes at a time."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("shared-cores", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("shared-cores")
