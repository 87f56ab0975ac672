"""Processes that train one run together, as torchrun or accelerate started them."""

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """How many processes train together, and which this is: as torchrun says."""

    processes: int
    rank: int

    @classmethod
    def of(cls, environment: "os._Environ[str] | dict[str, str]") -> "Launch":
        """What a launcher put into the environment.

        Raises:
            ValueError: accelerate was asked for several processes and started one.
        """
        if "WORLD_SIZE" not in environment:
            # ``accelerate launch --cpu --num_processes 2`` prepares for two and starts one, without a word.
            if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
                raise ValueError(
                    "accelerate launch was asked for several processes and started this one alone, as it does with --cpu; start them "
                    "with ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node N -m controlarm run …"
                )
            return cls(1, 0)
        return cls(int(environment["WORLD_SIZE"]), int(environment["RANK"]))
