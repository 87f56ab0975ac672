import pytest

from controlarm.analysis.contrasts import Estimate, estimate
from controlarm.analysis.wording import contrast, placebo_part


def test_a_superior_arm_gains_over_placebo():
    e = estimate([0.20, 0.21, 0.22])
    assert contrast("coder", "ground_truth", "random", e, "superior") == (
        "coder: ground_truth gains 21.0 points over random (95 % interval 18.5 to 23.5, 3 seeds): superior."
    )


def test_an_inferior_arm_loses_against_it():
    text = contrast("bungler", "python", "random", estimate([-0.1, -0.11, -0.12]), "inferior")
    assert text.startswith("bungler: python loses 11.0 points against random")


@pytest.mark.parametrize(
    ("raw", "null", "expected"),
    [
        (0.30, 0.06, "20 % of the raw gain came with the placebo"),
        (0.30, -0.06, "none of the raw gain came with the placebo"),
        (0.30, 0.02, "since random's own gain is not told apart from 0"),
        (0.30, -0.02, "since random's own gain is not told apart from 0"),
        (0.001, 0.06, "since the raw gain is not clearly above 0"),
        (-0.30, 0.06, "since the raw gain is not clearly above 0"),
    ],
)
def test_the_placebos_share_is_given_only_where_both_gain_clearly(raw, null, expected):
    text = placebo_part(
        "coder", "majority", "random", Estimate(raw, 0.01, 3), Estimate(null, 0.01, 3), False
    )
    assert expected in text
    assert "learn" not in text


def test_seeds_that_agree_by_luck_give_the_placebo_no_share():
    text = placebo_part(
        "talker", "majority", "random", Estimate(0.30, 0.01, 3), Estimate(0.06, 0.0001, 3), True
    )
    assert "no share is given, since seeds that agree by luck" in text
    assert "%" not in text.rpartition(";")[2]
