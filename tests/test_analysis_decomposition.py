import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm.analysis.decomposition import Strategies, kitagawa, three_parts

share = st.floats(0, 1)
nan = float("nan")


@st.composite
def policies(draw):
    code_share = draw(st.one_of(st.just(0.0), st.just(1.0), share))
    return Strategies(
        code_share,
        draw(share) if code_share > 0 else nan,
        draw(share) if code_share < 1 else nan,
    )


@given(share, share, share, share)
def test_the_three_parts_add_up_to_the_gain(base, placebo, majority, truth):
    assert three_parts(base, placebo, majority, truth).total == pytest.approx(
        truth - base, abs=1e-12
    )


@given(policies(), policies())
def test_the_kitagawa_split_adds_up_to_the_gain(before, after):
    effects = kitagawa(before, after)
    assert sum(effects) == pytest.approx(after.accuracy - before.accuracy, abs=1e-12)


def test_a_pure_change_of_strategy_is_all_share_effect():
    # Qwen2.5-Math-7B's base (arXiv:2506.10947, Table 1 and Figure 7): code 65 % at .609, words .280.
    before, after = Strategies(0.65, 0.609, 0.28), Strategies(0.95, 0.609, 0.28)
    assert kitagawa(before, after) == pytest.approx((0.30 * (0.609 - 0.28), 0.0))


def test_a_pure_change_within_strategies_is_all_accuracy_effect():
    before, after = Strategies(0.65, 0.6, 0.3), Strategies(0.65, 0.8, 0.3)
    assert kitagawa(before, after) == pytest.approx((0.0, 0.65 * 0.2))


def test_a_strategy_that_appears_is_a_shift_of_share():
    before, after = Strategies(0.0, nan, 0.3), Strategies(1.0, 0.8, nan)
    assert kitagawa(before, after) == pytest.approx((0.5, 0.0))


@given(policies(), policies())
def test_the_split_does_not_depend_on_which_strategy_comes_first(before, after):
    swapped = (
        Strategies(1 - s.code_share, s.words_accuracy, s.code_accuracy) for s in (before, after)
    )
    assert kitagawa(*swapped) == pytest.approx(kitagawa(before, after), abs=1e-12)
