"""Two one-sided tests: against hand-made intervals, and the engines' cross-check against its own record."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from controlarm import protocol, seeds
from controlarm.analysis.equivalence import equivalence

ROOT = Path(__file__).parent.parent


def test_a_known_interval():
    """n = 4, mean 0.5, sd 1, t(0.95; 3) = 2.35336: 0.5 ± 1.17668."""
    differences = [0.5 + d for d in (-1.0, 1.0, -math.sqrt(0.5), math.sqrt(0.5))]
    found = equivalence(differences, margin=1.7)
    assert np.std(differences, ddof=1) == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((0.5 - 1.17668, 0.5 + 1.17668), abs=1e-5)
    assert found.equivalent and found.num_units == 4
    assert not equivalence(differences, margin=1.6).equivalent


@pytest.mark.parametrize("shift", [-0.03, 0.0, 0.02])
def test_the_p_value_is_the_larger_of_two_t_tests(shift):
    rng = seeds.generator("test-equivalence", int(1000 * shift))
    x = shift + 0.03 * rng.standard_normal(6)
    found = equivalence(list(x), margin=0.04)
    above: Any = stats.ttest_1samp(x, -0.04, alternative="greater")
    below: Any = stats.ttest_1samp(x, 0.04, alternative="less")
    assert found.p == pytest.approx(max(above.pvalue, below.pvalue))
    assert found.equivalent == (found.p < 0.05)


def test_a_difference_at_the_margin_is_called_equivalent_as_often_as_alpha():
    rng = seeds.generator("test-equivalence", "size")
    called = [
        equivalence(list(0.04 + 0.02 * rng.standard_normal(6)), 0.04).equivalent
        for _ in range(2000)
    ]
    assert 0.035 < np.mean(called) < 0.065


def test_nothing_and_too_little():
    assert equivalence([0.0, 0.0, 0.0], 0.04).equivalent, "the same outcome in every unit"
    for few in ([], [0.0], [0.01, 0.01]):
        assert not equivalence(few, 0.04).equivalent


def test_a_wide_interval_that_overlaps_zero_is_not_equivalence():
    assert not equivalence([-0.2, 0.2, 0.1, -0.1], 0.04).equivalent


def test_the_twins_differ_in_engine_alone():
    one, other = (
        protocol.load(ROOT / "trials" / f"crosscheck_{e}.toml") for e in ("lockstep", "trl")
    )
    assert (one.trial.engine, other.trial.engine) == ("lockstep", "trl")
    designs = [p.model_dump(exclude={"trial"}) for p in (one, other)]
    assert designs[0] == designs[1]


RESULT = ROOT / "benchmarks" / "results" / "crosscheck_trl.json"


@pytest.mark.skipif(not RESULT.exists(), reason="the cross-check has not been run")
def test_the_result_of_the_cross_check_is_what_its_records_say():
    from benchmarks.crosscheck_trl import found

    kept = json.loads(RESULT.read_text(encoding="utf-8"))
    again = found(*(ROOT / "records" / kept[engine] for engine in ("lockstep", "trl")))
    assert json.loads(json.dumps(again)) == kept
