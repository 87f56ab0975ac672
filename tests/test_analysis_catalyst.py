"""The catalyst map against statsmodels and against tables made to order."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from controlarm import seeds
from controlarm.analysis.catalyst import (
    FACTORS,
    CatalystMap,
    catalyst_map,
    factor_range,
    interaction,
    routes,
    variance,
)
from controlarm.protocol import Unit

nan, inf = float("nan"), float("inf")

LEVELS = ((0.0, 0.1, 0.3), (0.0, 1.0), (1.0, 16.0, 256.0))


def table(mean, sd=0.0, num_units=4, name="table", levels=LEVELS):
    """A map whose true gain is ``mean(a, b, c)``, with noise of its own in each unit and cell."""
    rng = seeds.generator("pretraining", name, num_units)
    cells = {
        cell: {
            Unit(seed, 1): float(mean(*cell)) + sd * rng.normal()
            for seed in range(1, num_units + 1)
        }
        for cell in product(*levels)
    }
    return catalyst_map(cells)


def bumpy(a, b, c):
    return 0.4 * a * b + 0.03 * b + 0.02 * np.log2(c) / 8


def rows(found: CatalystMap):
    return pd.DataFrame(
        [
            {"a": a, "b": b, "c": c, "unit": u, "gain": found.gains[i, j, k, u]}
            for (i, a), (j, b), (k, c) in product(*map(enumerate, found.levels))
            for u in range(found.gains.shape[3])
        ]
    )


def names(effect):
    return ":".join("abc"[FACTORS.index(factor)] for factor in effect.factors)


def test_every_effects_f_and_p_are_those_of_a_repeated_measures_analysis():
    found = table(bumpy, sd=0.02)
    expected = AnovaRM(rows(found), "gain", "unit", within=["a", "b", "c"]).fit().anova_table
    effects = variance(found).effects
    assert {names(e) for e in effects} == set(expected.index)
    for e in effects:
        row = expected.loc[names(e)]
        assert e.f == pytest.approx(row["F Value"])
        assert e.p == pytest.approx(row["Pr > F"])
        assert (e.df, e.error_df) == (row["Num DF"], row["Den DF"])


def test_every_sum_of_squares_is_that_of_ordinary_least_squares():
    found = table(bumpy, sd=0.02)
    fit = smf.ols("gain ~ C(a) * C(b) * C(c) + C(unit)", rows(found)).fit()
    expected = sm.stats.anova_lm(fit, typ=2)
    split = variance(found)
    for e in split.effects:
        term = ":".join(f"C({letter})" for letter in names(e).split(":"))
        assert e.ss == pytest.approx(expected.loc[term, "sum_sq"])
    assert split.unit_ss == pytest.approx(expected.loc["C(unit)", "sum_sq"])
    assert sum(e.error_ss for e in split.effects) == pytest.approx(expected.loc["Residual", "sum_sq"])  # fmt: skip


TABLES = arrays.arrays(float, (3, 2, 2, 3), elements=st.floats(-1, 1))


def as_map(gains):
    levels = tuple(tuple(float(i) for i in range(n)) for n in gains.shape[:3])
    units = tuple(Unit(seed + 1, 1) for seed in range(gains.shape[3]))
    return CatalystMap((levels[0], levels[1], levels[2]), gains, units, ())


@given(TABLES)
def test_the_sums_are_exact_and_no_table_raises_or_warns(gains):
    found = variance(as_map(gains))
    parts = sum(e.ss + e.error_ss for e in found.effects) + found.unit_ss
    assert parts == pytest.approx(found.total_ss, rel=1e-9)
    assert found.total_ss == pytest.approx(np.sum((gains - gains.mean()) ** 2), rel=1e-9)
    assert all(e.ss >= 0 and e.error_ss >= 0 for e in found.effects)
    if found.total_ss > 0:
        assert sum(e.share for e in found.effects) + found.noise_share == pytest.approx(1)
    known = [e.preset_share for e in found.effects if not np.isnan(e.preset_share)]
    assert not known or sum(known) == pytest.approx(1, rel=1e-6)
    for factor in FACTORS:
        factor_range(as_map(gains), factor)
    routes(as_map(gains), (0.0, 0.0, 0.0))


@given(TABLES, st.floats(-2, 2), st.sampled_from([0.5, 2.0, -4.0]))
def test_a_common_shift_changes_nothing_and_a_scale_no_share(gains, shift, scale):
    one, other = variance(as_map(gains)), variance(as_map(scale * gains + shift))
    for e, f in zip(one.effects, other.effects, strict=True):
        assert f.ss == pytest.approx(scale**2 * e.ss, abs=1e-9)
    assert other.unit_ss == pytest.approx(scale**2 * one.unit_ss, abs=1e-9)


@given(TABLES, st.permutations([0, 1, 2]))
def test_what_levels_are_called_does_not_matter_to_the_split(gains, order):
    one, other = variance(as_map(gains)), variance(as_map(gains[order]))
    assert [e.ss for e in other.effects] == pytest.approx([e.ss for e in one.effects], abs=1e-9)


def test_without_noise_each_factor_has_the_share_that_it_was_given():
    # Effects of one factor each: variances over the preset levels 1, 4 and 0, in any unit.
    found = table(lambda a, b, c: 1.0 * (a > 0) - 1.0 * (a > 0.1) + (b - 0.5) * 4, sd=1e-6)
    by_name = {names(e): e for e in variance(found).effects}
    a, b = np.var([0, 1, 0]), np.var([-2, 2])
    assert by_name["a"].preset_share == pytest.approx(a / (a + b), abs=1e-4)
    assert by_name["b"].preset_share == pytest.approx(b / (a + b), abs=1e-4)
    assert by_name["c"].preset_share == pytest.approx(0, abs=1e-4)
    assert by_name["a:b"].preset_share == pytest.approx(0, abs=1e-4)


def test_a_common_model_of_a_pretraining_share_does_not_make_its_luck_significant():
    # All cells of one share and unit have one model's luck; an error pooled over cells would call this an effect of share in most maps.
    own = pooled = 0
    for trial in range(200):
        rng = seeds.generator("luck", trial)
        luck = rng.normal(0, 1, (3, 1, 1, 4))
        gains = luck + rng.normal(0, 0.1, (3, 2, 2, 4))
        effects = variance(as_map(gains)).effects
        e = next(e for e in effects if e.factors == ("code_share",))
        own += e.p < 0.05
        error = sum(f.error_ss for f in effects) / sum(f.error_df for f in effects)
        pooled += stats.f.sf(e.ss / e.df / error, e.df, sum(f.error_df for f in effects)) < 0.05
    assert own <= 20  # 10 expected, standard deviation 3.1
    assert pooled >= 80


def test_preset_shares_are_unbiased_where_raw_shares_take_noise_for_effect():
    preset, raw = [], []
    for trial in range(200):
        rng = seeds.generator("unbiased", trial)
        gains = rng.normal(0, 1, (3, 2, 2, 4)) + 2 * np.arange(2)[None, :, None, None]
        e = {names(e): e for e in variance(as_map(gains)).effects}
        preset.append(e["a"].preset_share)
        raw.append(e["a"].ss / sum(f.ss for f in e.values()))
    assert abs(np.mean(preset)) < 0.01
    assert np.mean(raw) > 0.02


def test_the_jackknife_interval_of_a_preset_share_covers_it():
    covered = 0
    truth = np.var([0, 1]) / (np.var([0, 1]) + np.var([0, 0.5, 1]))
    for trial in range(150):
        rng = seeds.generator("jackknife", trial)
        gains = np.arange(2)[None, :, None, None] + np.array([0, 0.5, 1])[:, None, None, None]
        noise = rng.normal(0, 0.3, (3, 1, 1, 5)) + rng.normal(0, 0.3, (3, 2, 2, 5))
        e = next(
            e for e in variance(as_map(gains + noise)).effects if e.factors == ("reward_quality",)
        )
        covered += e.preset_interval[0] <= truth <= e.preset_interval[1]
    assert covered >= 132  # of 150: it is rough


def test_one_unit_has_sums_but_no_noise_and_two_have_no_jackknife():
    one = variance(table(bumpy, num_units=1))
    assert np.isnan([[e.f, e.p, e.preset_share, *e.preset_interval] for e in one.effects]).all()
    assert one.unit_ss == pytest.approx(0)
    two = variance(table(bumpy, sd=0.01, num_units=2))
    assert not np.isnan([e.preset_share for e in two.effects]).any()
    assert np.isnan([e.preset_interval for e in two.effects]).all()


def test_a_range_is_the_span_of_the_marginal_means_with_an_interval_over_units():
    found = factor_range(table(bumpy, sd=0.001), "code_share")
    assert found.range == pytest.approx(0.4 * 0.3 * 0.5, abs=0.003)
    assert found.means == pytest.approx((bumpy_mean(0.0), bumpy_mean(0.1), bumpy_mean(0.3)), abs=0.003)  # fmt: skip
    assert found.honest.mean == pytest.approx(
        found.range
    )  # all units agree on the best and worst level
    assert found.honest_interval[0] < 0.06 < found.honest_interval[1]


def bumpy_mean(a):
    return float(np.mean([bumpy(a, b, c) for b in LEVELS[1] for c in LEVELS[2]]))


def test_a_factor_that_does_nothing_has_a_range_by_noise_and_an_honest_one_of_nothing():
    plain, honest, above = [], [], 0
    for trial in range(300):
        gains = seeds.generator("null range", trial).normal(0, 1, (3, 2, 2, 4))
        found = factor_range(as_map(gains), "code_share")
        plain.append(found.range)
        honest.append(found.honest.mean)
        above += found.honest_interval[0] > 0
    assert np.mean(plain) > 0.3
    assert abs(np.mean(honest)) < 4 * np.std(honest) / np.sqrt(300)
    assert above <= 18  # 7.5 promised, standard deviation 2.7


def test_an_interaction_is_the_difference_of_differences():
    found = interaction(table(bumpy, sd=0.001), "code_share", "reward_quality")
    assert found.difference.mean == pytest.approx(0.4 * 0.3, abs=0.003)
    assert found.interval[0] <= 0.12 <= found.interval[1]
    swapped = interaction(table(bumpy, sd=0.001), "reward_quality", "code_share")
    assert swapped.difference.mean == pytest.approx(found.difference.mean)
    additive = interaction(table(bumpy, sd=0.001), "code_share", "num_problems")
    assert additive.difference.mean == pytest.approx(0, abs=0.003)


def test_factors_that_are_not_there_are_refused_by_name():
    found = table(bumpy)
    with pytest.raises(ValueError, match="no factor colour"):
        factor_range(found, "colour")
    with pytest.raises(ValueError, match="itself"):
        interaction(found, "code_share", "code_share")


def test_the_order_of_cells_and_units_does_not_matter_and_the_levels_rise():
    cells = {cell: {Unit(1, 1): bumpy(*cell), Unit(2, 1): 0.0} for cell in product(*LEVELS)}
    backwards = {c: dict(reversed(g.items())) for c, g in reversed(cells.items())}
    one, other = catalyst_map(cells), catalyst_map(backwards)
    assert one.levels == other.levels == LEVELS
    assert (one.gains == other.gains).all()
    assert one.gains[2, 1, 0, 0] == bumpy(0.3, 1.0, 1.0)


def test_training_seeds_of_one_pretrained_model_are_one_unit():
    cells = {cell: {Unit(1, 1): 0.1, Unit(1, 2): 0.3, Unit(2, 1): 0.5} for cell in product(*LEVELS)}
    found = catalyst_map(cells)
    assert found.gains.shape == (3, 2, 3, 2)
    assert found.gains[0, 0, 0] == pytest.approx([0.2, 0.5])


def test_a_unit_without_a_cell_is_left_out_by_name_and_a_missing_cell_refused():
    cells = {cell: {Unit(1, 1): 0.1, Unit(2, 1): 0.2} for cell in product(*LEVELS)}
    cells[0.1, 1.0, 16.0] = {Unit(1, 1): 0.1, Unit(2, 1): nan}
    found = catalyst_map(cells)
    assert (found.units, found.incomplete) == ((Unit(1, 1),), (Unit(2, 1),))
    del cells[0.1, 1.0, 16.0]
    with pytest.raises(ValueError, match=r"17 cells, and \(0.1, 1.0, 16.0\) is missing"):
        catalyst_map(cells)
    with pytest.raises(ValueError, match="no unit"):
        catalyst_map({(0.0, 0.0, 1.0): {Unit(1, 1): nan}})
    with pytest.raises(ValueError, match="every combination"):
        catalyst_map({})


def test_a_straight_route_costs_the_inverse_of_its_slope():
    found = table(lambda a, b, c: 0.5 * a + 0.1 * b - 0.001 * c, sd=1e-5)
    a, b, c = routes(found, (0.0, 0.0, 256.0))
    assert a.cost == pytest.approx(0.01 / 0.5, rel=1e-2)
    assert b.cost == pytest.approx(0.01 / 0.1, rel=1e-2)
    assert c.cost == pytest.approx(-0.01 / 0.001, rel=1e-2)  # fewer problems: a change downwards
    for route in (a, b, c):
        assert abs(route.least) <= abs(route.cost) <= abs(route.most)
    assert [s.slope.mean for s in a.segments] == pytest.approx([0.5, 0.5], rel=1e-2)


def test_a_route_turns_at_the_preset_levels():
    found = table(lambda a, b, c: 0.0 if a < 0.2 else 0.1, sd=1e-6)
    a, b, c = routes(found, (0.0, 1.0, 16.0), points=0.05)
    assert a.cost == pytest.approx(0.2, abs=1e-4)  # half-way from .1 to .3
    assert (b.cost, c.cost) == (inf, inf)
    assert [len(r.segments) for r in (a, b, c)] == [2, 1, 2]


def test_no_route_reaches_more_than_the_map_holds_and_a_single_level_is_no_route():
    levels = ((0.0, 0.3), (1.0,), (1.0, 16.0))
    found = table(lambda a, b, c: a, sd=1e-4, levels=levels)
    a, b, _ = routes(found, (0.0, 1.0, 1.0), points=0.4)
    assert (a.cost, a.most) == (inf, inf)
    assert np.isnan([b.cost, b.least, b.most]).all()
    assert variance(found).effects[1].df == 0


def test_noise_makes_a_route_uncertain_and_never_its_confident_cost_smaller():
    for trial in range(50):
        found = table(lambda a, b, c: 0.5 * a, sd=0.03, name=f"noisy {trial}")
        for route in routes(found, (0.1, 0.0, 16.0), points=0.02):
            assert abs(route.least) <= abs(route.cost) <= abs(route.most)


def test_twice_the_gain_on_a_line_costs_twice_the_change():
    found = table(lambda a, b, c: 0.5 * a, levels=((0.0, 1.0), (0.0, 1.0), (1.0, 2.0)))
    one, two = (routes(found, (0.0, 0.0, 1.0), points)[0].cost for points in (0.05, 0.1))
    assert (one, two) == pytest.approx((0.1, 0.2))


def test_a_start_off_the_map_and_a_gain_of_nothing_are_refused():
    found = table(bumpy)
    with pytest.raises(ValueError, match=r"0\.2 is no level of code_share"):
        routes(found, (0.2, 0.0, 1.0))
    with pytest.raises(ValueError, match="above 0"):
        routes(found, (0.0, 0.0, 1.0), points=0.0)
