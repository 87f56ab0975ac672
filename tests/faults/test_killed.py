"""Stopped anywhere is never stopped: real processes, killed, end with the bytes of a trial that nobody disturbed."""

import contextlib

import pytest

from controlarm.engines import lockstep
from tests.faults import kills
from tests.faults.command import differences
from tests.small_trial import Small, prepare, protocol_text

ONE_SHARD = protocol_text("")


@pytest.mark.slow
def test_killed_at_seeded_instants_the_same_command_ends_with_the_same_bytes(place, undisturbed):
    """Three of the instants of `make soak`; and it is one worker's bytes that two workers repeat."""
    said: list[str] = []
    landed = kills.run(place, *undisturbed, num_kills=3, seed=9, say=said.append)
    assert len(landed) >= 3, said
    assert {"group", "parent"} <= set(" ".join(said).replace(":", "").split()), said


class StopError(Exception):
    """Stands for a crash at a report."""


@pytest.fixture(scope="module")
def whole(at_module) -> Small:
    """One shard, undisturbed, in this process."""
    return prepare(at_module / "whole", ONE_SHARD).train()


@pytest.fixture(scope="module")
def at_module(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def test_stopping_at_every_report_in_turn_changes_no_byte(at_module, whole):
    stopped = prepare(at_module / "stopped", ONE_SHARD)
    seen = set()

    def stop_once(report):
        where = report["stage"], report["step"]
        if where not in seen:
            seen.add(where)
            raise StopError

    while True:
        with contextlib.suppress(StopError):
            lockstep.run_shard(stopped.plan, 0, stop_once)
            break
    assert len(seen) == 7, "labels, base, three steps, two evaluations"
    assert differences(stopped.folder, whole.folder) == []
    lockstep.run_shard(stopped.plan, 0, stop_once)
    assert differences(stopped.folder, whole.folder) == []
