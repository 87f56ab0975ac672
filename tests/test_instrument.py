"""Verdicts, intervals and detectable effects against evaluations whose truth is planted; see benchmarks/instrument.py."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks import planted
from benchmarks.instrument import RESULTS, ROOT, designs, judge, keep, pairs, rates, read_kept
from benchmarks.planted import Noise
from controlarm import protocol, seeds
from controlarm.analysis import contrasts, tables
from controlarm.analysis.folder import BASE, RIGHT, UNKNOWN, read_trial
from controlarm.analysis.metrics import METRICS
from controlarm.protocol import Unit
from tests.fabricate import fabricate

ALPHA, MARGIN = 0.025, 0.05

NOISE = Noise(
    share=seeds.generator("test-instrument").beta(0.8, 0.8, (3, 128)).clip(0.002, 0.998),
    num_samples=7, sd=0.010, problem_se=0.0085, sampling_se=0.0075,
)  # fmt: skip
"""About what the quick record has on coder."""


def trials(world, effect, num_units, count):
    """Comparisons as the study judges them."""
    logit = planted.planted(world, effect)
    rng = seeds.generator("test-instrument", num_units, str(effect))
    made = planted.simulate(world, logit, num_units, count, rng)
    return [judge(p, b, ALPHA, MARGIN) for p, b in zip(*made, strict=True)]


def slack(share, count):
    """Three and a half standard errors: one such test in four thousand fails by chance."""
    return 3.5 * np.sqrt(share * (1 - share) / count)


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instrument")
    fabricate(folder)
    return folder


@pytest.fixture(scope="module")
def measured():
    """Rates by units and effect, runs scattering as measured."""
    count, world = 700, planted.as_measured(NOISE)
    null = trials(world, 0.0, 3, count)
    sd = float(np.sqrt(np.mean([j.placebo.sd**2 for j in null])))
    detectable = contrasts.mde(sd, 8, ALPHA)
    return {
        "none": rates(null, 0.0, ALPHA, MARGIN),
        "margin": rates(trials(world, MARGIN, 5, count), MARGIN, ALPHA, MARGIN),
        "detectable": rates(trials(world, detectable, 8, count), detectable, ALPHA, MARGIN),
    }


@pytest.mark.parametrize("effect", ["none", "margin", "detectable"])
def test_three_five_and_eight_units_cover_a_planted_effect_as_often_as_they_say(measured, effect):
    covered = measured[effect]["covered"]
    assert covered["rate"] == pytest.approx(0.95, abs=slack(0.95, covered["of"]))


@pytest.mark.parametrize("wrong", ["above_placebo", "inferior"])
def test_without_an_effect_a_difference_is_found_no_more_often_than_alpha(measured, wrong):
    found = measured["none"][wrong]
    assert found["rate"] == pytest.approx(ALPHA, abs=slack(ALPHA, found["of"]))
    assert measured["none"]["superior"]["count"] <= measured["none"]["above_placebo"]["count"]


def test_with_the_truth_at_the_margin_equivalence_is_found_once_in_twenty(measured):
    found = measured["margin"]["within_margin"]
    assert found["rate"] == pytest.approx(0.05, abs=slack(0.05, found["of"]))
    assert measured["margin"]["equivalent"]["rate"] <= 0.05 + slack(0.05, found["of"])


def test_the_detectable_effect_is_found_four_times_in_five(measured):
    found = measured["detectable"]["above_placebo"]
    # An effect changes the samples' noise a little, hence a little more room.
    assert found["rate"] == pytest.approx(0.8, abs=slack(0.8, found["of"]) + 0.03)


def test_rates_can_be_written_as_json(measured):
    assert json.loads(json.dumps(measured)) == measured


def test_where_one_seed_in_four_collapses_three_seeds_do_not_cover():
    judged = trials(planted.collapsing(NOISE, 0.2), 0.0, 3, 500)
    found = rates(judged, 0.0, ALPHA, MARGIN)
    missed = 0.75**3  # trials in which none of the three collapsed
    assert found["covered"]["rate"] < 1 - missed + 0.1
    assert found["superior"]["rate"] > missed - 0.1


@pytest.mark.parametrize(
    "world",
    [
        planted.as_measured(NOISE),
        planted.wide(NOISE, 0.03, "skewed"),
        planted.wide(NOISE, 0.03, "heavy"),
        planted.collapsing(NOISE, 0.2),
        planted.varying(NOISE, 0.12),
    ],
    ids=["measured", "skewed", "heavy", "collapsing", "varying"],
)
def test_the_mean_of_simulated_differences_is_the_planted_effect(world):
    effect = 0.06
    rng = seeds.generator("test-planted")
    made = planted.simulate(world, planted.planted(world, effect), 3, 200, rng)
    means = [np.mean([d.difference for d in group]) for group in made.placebo]
    error = np.std(means, ddof=1) / np.sqrt(len(means))
    assert np.mean(means) == pytest.approx(effect, abs=4 * error)


def test_simulated_evaluations_are_as_noisy_as_those_that_they_imitate():
    rng = seeds.generator("test-noise")
    units = [Unit(model, seed) for seed in range(150) for model in range(3)]
    world = planted.as_measured(NOISE)
    arms = [{}, {}, {}]
    for i in range(0, len(units), 3):
        for into, grids in zip(arms, planted.evaluations(world, 0.0, 3, rng), strict=True):
            into |= dict(zip(units[i : i + 3], grids, strict=True))
    found = planted.noise(contrasts.unit_differences(arms[0], arms[1]), arms[2])
    assert found.sampling_se == pytest.approx(NOISE.sampling_se, rel=0.05)
    assert found.problem_se == pytest.approx(NOISE.problem_se, rel=0.05)
    assert found.sd == pytest.approx(NOISE.sd, rel=0.1)
    assert np.abs(found.share - NOISE.share).mean() < 0.02


def test_a_comparison_is_judged_as_the_report_judges_it(fabricated):
    trial = read_trial(fabricated)
    end = trial.protocol.endpoint
    compared = 0
    for case, reported in tables.endpoints(trial).items():
        if reported.adjusted is None:
            found = judge(
                reported.placebo.differences, reported.base.differences, end.alpha, end.margin
            )
            assert found.placebo == reported.placebo.estimate, case
            assert found.outcome == reported.verdict.outcome
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize(("ratio", "lucky"), [(0.2, True), (0.25, False)])
def test_the_report_marks_units_that_agree_more_than_samples_let_them(fabricated, ratio, lucky):
    trial = read_trial(fabricated)
    ends = tables.endpoints(trial)
    case = ("coder", "grpo", "python")
    end = ends[case]
    sampling = np.sqrt(np.mean([d.sampling_se**2 for d in end.placebo.differences]))
    near = end.placebo.estimate._replace(sd=ratio * sampling)
    ends[case] = end._replace(placebo=end.placebo._replace(estimate=near))
    first = {(r["family"], r["arm"], r["versus"], r["metric"]): r for r in tables.contrast_rows(trial, ends)}  # fmt: skip
    row = first["coder", "python", "placebo", "accuracy"]
    assert row["sampling_se"] == pytest.approx(sampling)
    assert row["by_luck"] is lucky
    assert (stats.chi2.cdf(2 * ratio**2, 2) < 0.05) == lucky
    assert first["talker", "python", "base", "accuracy"]["by_luck"] is False, "equal, not lucky"


def test_what_is_kept_of_a_run_folder_gives_the_same_differences(fabricated, tmp_path):
    trial = read_trial(fabricated)
    end = trial.protocol.endpoint
    kept = read_kept(keep(fabricated, tmp_path))
    for family in trial.protocol.design.families:
        found = pairs(kept[family], "python", end.placebo)
        for other, differences in ((end.placebo, found.placebo), (BASE, found.base)):
            expected = tables.contrast_of(trial, (family, "grpo", "python"), other, "accuracy")
            assert list(differences.values()) == expected.differences


def test_an_unknown_verdict_is_kept_as_unknown(fabricated, tmp_path, monkeypatch):
    trial = read_trial(fabricated)
    run = next(r for r in trial.runs if r.spec.arm == "python")
    step = trial.protocol.endpoint.step
    strict = run.evaluations[step].sampled.strict.copy()
    strict[0, :2] = UNKNOWN, RIGHT
    changed = replace(run.evaluations[step].sampled, strict=strict)
    run.evaluations[step] = replace(run.evaluations[step], sampled=changed)
    monkeypatch.setattr("benchmarks.instrument.read_trial", lambda folder: trial)
    kept = read_kept(keep(fabricated, tmp_path))[run.spec.family]["python"][run.unit]
    np.testing.assert_array_equal(kept, METRICS["accuracy"](run.evaluations[step]))
    assert np.isnan(kept[0, 0])
    assert kept[0, 1] == 1


def test_comparisons_share_no_pair_and_no_training_seed_between_models():
    units = [Unit(model, seed) for model in (1, 2, 3) for seed in range(101, 168)]
    for kind, groups in designs(units).items():
        flat = [unit for group in groups for unit in group]
        assert len(set(flat)) == len(flat), kind
        for group in groups:
            assert len({unit.seed for unit in group}) == len(group), kind
    sizes = {kind: len(groups) for kind, groups in designs(units).items()}
    assert list(sizes.values()) == [67, 39, 24, 22]


def test_a_spread_is_called_luck_once_in_twenty_where_samples_are_all_the_noise():
    draws = seeds.generator("by-luck").normal(0, 0.01, (4000, 3))
    lucky = contrasts.by_luck(draws.std(axis=1, ddof=1), np.full(4000, 0.01), 3)
    assert lucky.mean() == pytest.approx(0.05, abs=slack(0.05, 4000))
    # And there the interval is far too short.
    half = contrasts.t_interval(contrasts.Estimate(0, 1, 3), 0.95)[1] * draws.std(axis=1, ddof=1)
    assert (np.abs(draws.mean(axis=1)) <= half)[lucky].mean() < 0.6


RECORD = next((ROOT / "records").glob("*/verdicts.parquet")).parent
FOUND = json.loads(RESULTS.read_text(encoding="utf-8"))


def percent(share):
    return f"{100 * share:.1f}"


def quoted():
    """What the docs say of the results, by name."""
    real = {row["design"].replace("one unit of each of 3", "3 units of 3"): row for row in FOUND["replicates"]}  # fmt: skip
    made = {(row["world"], row["units"], row["effect"]): row for row in FOUND["planted"]}
    noise, said = FOUND["noise"]["families"], {}
    for size, kind in ((3, "3 units of 3 models"), (5, "5 units of one model"), (8, "8 units of one model")):  # fmt: skip
        for name in ("above_placebo", "superior", "inferior", "covered", "equivalent"):
            got = real[kind]["null"][name]
            low, high = map(percent, got["ci95"])
            said[f"{name}{size}"] = f"{got['count']} of {got['of']} ({low} to {high} %)"
        got = real[kind]["power_at_mde"]
        said[f"power{size}"] = f"{got['count']} of {got['of']}"
    for family, row in noise.items():
        said[f"sd_{family}"] = f"{100 * row['sd']:.2f} on {family}"
        said[f"samples_{family}"] = f"{100 * row['sampling_se']:.2f}"

    def each(world, effect, name, rule=None):
        rows = [made[world, size, effect] for size in (3, 5, 8)]
        rates = [(row["rules"][rule] if rule else row)[name]["rate"] for row in rows]
        return "{}, {} and {} %".format(*map(percent, rates))

    for short, world in (
        ("measured", "as measured"), ("skewed", "seeds scatter, skewed"),
        ("collapse", "one seed in four collapses"), ("varying", "other problems each time"),
    ):  # fmt: skip
        said[f"{short}_covered"] = each(world, "none", "covered")
        said[f"{short}_above"] = each(world, "none", "above_placebo")
        said[f"{short}_floor"] = each(world, "none", "covered", "floor: samples")
        said[f"{short}_problems"] = each(world, "none", "covered", "floor: problems")
    said["margin_within"] = each("as measured", "margin", "within_margin")
    said["power"] = each("as measured", "detectable", "above_placebo")
    said["joint"] = each("as measured", "detectable", "superior")
    lucky = [row["rules"]["t, where the spread is small by luck"] for row in FOUND["planted"] if row["world"] == "as measured" and row["units"] == 3]  # fmt: skip
    said["lucky_share"] = f"{percent(sum(r['share']['count'] for r in lucky) / sum(r['share']['of'] for r in lucky))} %"  # fmt: skip
    said["lucky"] = "{} of {}".format(*(sum(r["covered"][key] for r in lucky) for key in ("count", "of")))  # fmt: skip
    return said


QUOTES = {
    "method.md": (
        "above_placebo3 superior3 covered3 power3 above_placebo5 superior5 covered5 power5 "
        "above_placebo8 superior8 covered8 power8 sd_coder sd_talker sd_bungler samples_coder "
        "samples_talker samples_bungler measured_covered margin_within power joint "
        "collapse_covered collapse_above skewed_covered lucky varying_covered"
    ),
    "0009-t-as-it-is.md": (
        "measured_covered measured_above above_placebo3 measured_floor lucky lucky_share "
        "collapse_covered collapse_above collapse_floor skewed_covered skewed_above "
        "varying_covered varying_problems"
    ),
    "RECORD.md": (
        "above_placebo3 superior3 inferior3 equivalent3 covered3 above_placebo5 superior5 "
        "covered5 above_placebo8 superior8 covered8 sd_coder sd_talker sd_bungler"
    ),
}
"""What each page says of the study: keys of ``quoted``."""


@pytest.mark.parametrize(
    "page", ["docs/method.md", "docs/decisions/0009-t-as-it-is.md", f"records/{RECORD.name}/RECORD.md"]
)  # fmt: skip
def test_the_docs_quote_the_study(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    said = quoted()
    for name in QUOTES[page.rpartition("/")[2]].split():
        assert said[name] in text, name


def test_the_study_is_of_the_record_and_the_quick_trial_plans_with_its_spread():
    assert FOUND["source"] == RECORD.name
    spread = {}
    for family, arms in read_kept(RECORD).items():
        differences = pairs(arms, "random_again", "random").placebo.values()
        spread[family] = float(np.std([d.difference for d in differences], ddof=1))
        assert spread[family] == pytest.approx(FOUND["noise"]["families"][family]["sd"], rel=1e-9)
    planned = protocol.load(ROOT / "trials" / "quick.toml").endpoint.planning_sd
    assert max(spread.values()) <= planned <= 1.5 * max(spread.values())
