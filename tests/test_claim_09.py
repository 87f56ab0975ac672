"""Truth minus random by stratum: what sorts problems never measures them, and the share has the interval that Fieller gives it."""

import numpy as np
import pytest
from fabricate import PROTOCOL, Behaviour, fabricate
from fabricate_records import shrunk
from hypothesis import given, settings
from hypothesis import strategies as st

from claims import c09_true_minus_random as claim
from claims.ledger import Record, tables_of
from controlarm import seeds
from controlarm.analysis.contrasts import over_units, t_interval, within_models
from controlarm.analysis.decomposition import Parts
from controlarm.protocol import Unit

nan = float("nan")


def samples(name: str, p: np.ndarray, count: int = 8) -> np.ndarray:
    return (seeds.generator(name).random((len(p), count)) < p[:, None]).astype(float)


@pytest.mark.parametrize(("accuracy", "expected"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.25, 1), (0.5, 2), (0.75, 3), (0.8, 4), (1.0, 4), (nan, nan)])  # fmt: skip
def test_a_stratum_has_its_lower_edge_and_the_last_one_both(accuracy, expected):
    assert claim.stratum(np.array([accuracy])) == pytest.approx(expected, nan_ok=True)


def test_arms_that_do_as_the_base_gain_nothing_in_any_stratum_where_sorting_by_what_is_measured_would_show_gains():
    p = seeds.generator("difficulty").uniform(size=4000)
    base, arm = samples("base", p), samples("arm", p)
    for num, values in claim.stratified([base, arm]).values():
        assert num > 500
        assert abs(values[1] - values[0]) < 0.025
    unlucky = claim.stratum(base[:, 0::2].mean(axis=1)) == 0
    assert arm[unlucky].mean() - base[unlucky][:, 0::2].mean() > 0.1


@given(st.integers(1, 30), st.integers(0, 10**6))
def test_every_problem_is_in_the_strata_once_and_their_mean_is_the_whole(count, seed):
    rng = seeds.generator("strata", seed)
    arms = [(rng.random((count, 8)) < 0.5).astype(float) for _ in range(3)]
    found = claim.stratified(arms)
    nums = np.array([num for num, _ in found.values()])
    assert nums.sum() == count
    whole = nums @ np.array([values for _, values in found.values()]) / count
    assert whole == pytest.approx([arm.mean() for arm in arms])


def test_a_problem_without_a_verdict_in_any_arm_is_in_no_stratum():
    base, arm = np.ones((3, 4)), np.ones((3, 4))
    arm[0] = nan
    base[1, 0::2] = nan  # can sort by the odd samples alone, and then not be measured
    ((index, (num, values)),) = claim.stratified([base, arm]).items()
    assert (index, num, list(values)) == (4, 1.0, [1.0, 1.0])


def units(values: np.ndarray) -> dict[Unit, float]:
    return {Unit(i // 3 + 1, i % 3): float(value) for i, value in enumerate(values)}


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([over_units, within_models]))
def test_at_both_ends_of_the_ratios_interval_the_difference_is_just_told_apart(seed, estimated):
    rng = seeds.generator("ratio", seed)
    part, whole = units(0.05 + 0.02 * rng.normal(size=9)), units(0.1 + 0.02 * rng.normal(size=9))
    ends = claim.ratio_interval(part, whole, estimated)
    told = t_interval(estimated(whole), 0.95)[0] > 0 or t_interval(estimated(whole), 0.95)[1] < 0
    assert told == (not np.isnan(ends).any())
    for end in ends if told else ():
        left = estimated({unit: part[unit] - end * whole[unit] for unit in part})
        assert min(map(abs, t_interval(left, 0.95))) < 1e-9
    if told:
        assert ends[0] <= estimated(part).mean / estimated(whole).mean <= ends[1]


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(-0.5, 1.5))
def test_the_interval_holds_a_ratio_exactly_where_t_does_not_tell_it_apart(seed, ratio):
    rng = seeds.generator("coverage", seed)
    whole = units(0.2 + 0.03 * rng.normal(size=9))
    part = {unit: 0.7 * value + 0.02 * rng.normal() for unit, value in whole.items()}
    low, high = claim.ratio_interval(part, whole, over_units)
    left = t_interval(over_units({unit: part[unit] - ratio * whole[unit] for unit in part}), 0.95)
    if not np.isnan(low):
        assert (low <= ratio <= high) == (left[0] <= 0 <= left[1])


def test_no_share_is_said_where_true_minus_random_does_not_gain():
    rng = seeds.generator("no share")
    parts = {Unit(i // 3, i % 3): Parts(0.0, *(0.02 * rng.normal(size=2))) for i in range(9)}
    assert set(claim.share_of_design(parts).values()) == {None}


# A whole trial.

TEXT = shrunk(
    PROTOCOL.split("[[controls]]", 1)[0],
    ('"fabricated"', '"six_rewards"'),
    ("num_steps = 12", "num_steps = 2"),
    ("num_problems = 24", "num_problems = 36"),
    ('"coder", "talker", "bungler"', '"coder", "bungler"'),
    ('  {family = "talker", arm = "ground_truth"},\n', ""),
    ("steps = [0, 6, 12]", "steps = [0, 2]"),
    ("step = 12", "step = 2"),
    ("num_problems = 40", "num_problems = 8"),
    ("python = {}\n", ""),
    ("constant = {}\n", ""),
    ('  {family = "coder", arm = "python"},\n', ""),
)

EFFECTS = {
    ("coder", "ground_truth"): Behaviour(0.65, 1.0, 1.0, 1.0, 1.0),
    ("coder", "majority"): Behaviour(0.65, 0.9, 0.6, 1.0, 0.9),
    ("bungler", "ground_truth"): Behaviour(0.1, 0.9, 0.9, 1.0, 1.0),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("claim 9") / "run"
    fabricate(folder, TEXT, EFFECTS)
    return tables_of(claim.CLAIM, {"six_rewards": Record(folder)})


def test_families_are_the_reports_decomposition_and_strata_add_up_to_them(made):
    by_family = {row["family"]: row for row in made["families"]}
    for family, whole in by_family.items():
        strata = [row for row in made["strata"] if row["family"] == family and row["units"] == 3]
        assert len(strata) == 5
        assert sum(row["problems"] for row in strata) == pytest.approx(36)
        assert whole["naive"]["mean"] == pytest.approx(whole["elicitation"]["mean"] + whole["reward_design"]["mean"])  # fmt: skip
    assert by_family["coder"]["elicitation"]["sign"] == "gains"
    assert 0.2 < by_family["coder"]["share"]["mean"] < 1
    assert by_family["bungler"]["elicitation"]["sign"] == "gains exactly nothing"
    assert by_family["bungler"]["share"]["mean"] == pytest.approx(1)


def test_labels_of_the_strata_are_the_reports_labels(made):
    for whole in made["families"]:
        own = [row for row in made["strata"] if row["family"] == whole["family"]]
        assert sum(row["labels"] for row in own) == whole["problems"] == 3 * 8
        assert sum(row["labels_right"] for row in own) == whole["majority_right"]


def test_a_page_says_it_in_words_even_where_a_family_is_missing(made):
    assert claim.finding(made).verdict in ("reproduced", "partly")
    page = claim.page(made)
    assert "**`coder`**" in page.found
    assert sum(len(line.split()) for part in page for line in part.splitlines() if line[:1] != "|") < 550  # fmt: skip
    none = {**made, "families": [], "strata": [], "trends": []}
    assert claim.finding(none).verdict == "not at this scale"
    assert claim.page(none).caution


def part(low, high, sign):
    return {"mean": (low + high) / 2, "low": low, "high": high, "sign": sign, "within_low": low, "within_high": high}  # fmt: skip


APART, NOT = part(0.01, 0.03, "gains"), part(-0.01, 0.03, "not told apart from the base")
WIDE = part(-0.1, 0.12, "not told apart from the base")


@pytest.mark.parametrize(
    ("elicitation", "falls", "naive", "verdict"),
    [
        (APART, True, APART, "reproduced"),
        (part(-0.03, -0.01, "loses"), True, APART, "reproduced"),
        (APART, False, APART, "partly"),
        (NOT, True, APART, "partly"),
        (NOT, False, APART, "refuted in miniature"),
        (NOT, False, NOT, "not at this scale"),
        (WIDE, False, APART, "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(elicitation, falls, naive, verdict):
    share = dict.fromkeys(("mean", "low", "high", "within_low", "within_high"))
    whole = {"family": "coder", "elicitation": elicitation, "naive": naive, "reward_design": APART, "share": share}  # fmt: skip
    world = {"trial": [{"margin": 0.05}], "families": [whole], "trends": [{"family": "coder", "falls": falls}]}  # fmt: skip
    assert claim.finding(world).verdict == verdict


def test_a_trend_is_read_from_the_ends_and_a_flip_from_loss_to_gain_upwards():
    def row(stratum, low, high, sign):
        return {"stratum": stratum, "share": {"mean": (low + high) / 2, "low": low, "high": high}, "elicitation": {"sign": sign}}  # fmt: skip

    falling = [row(0, 1.1, 1.5, "loses"), row(1, 0.6, 1.2, "gains"), row(2, 0.1, 0.5, "gains")]
    trend = claim._trend("coder", falling)
    assert trend["falls"] and not trend["rises"] and trend["flips"]
    assert trend["spearman"] == pytest.approx(-1)
    back = claim._trend("coder", falling[::-1])
    assert back["rises"] and not back["falls"] and not back["flips"]
    one = claim._trend("coder", falling[:1])
    assert (one["falls"], one["rises"], one["spearman"]) == (False, False, None)
