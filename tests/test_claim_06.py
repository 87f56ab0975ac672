"""The catalyst map gives back what was planted in it, a point costs what the planted slopes say, and the law is held against shifts it did not see."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import fabricate as fabricated
import numpy as np
import pyarrow as pa
import pytest
from fabricate import Behaviour
from fabricate_records import record_in, the_row
from hostile import NASTY
from test_claims import kinds, renamed

from claims import c06_pretraining_decides as c06
from claims.ledger import HOME, Record, Tree, build, tables_of
from controlarm import files, protocol, seeds
from controlarm.analysis import catalyst
from controlarm.analysis.decomposition import Strategies
from controlarm.analysis.summary import plain
from controlarm.organisms.corpus import FAMILIES, rung
from controlarm.probes import forced
from controlarm.protocol import Unit

nan = float("nan")
UNITS = [Unit(model, 110 + model) for model in (1, 2, 3)]
LADDER = ["talker", "ladder001", "ladder010", "ladder100", "ladder300", "coder"]
NUMBERS = (1, 4, 16, 128)
NOTHING = "not told apart from the base"


def test_the_trials_are_as_the_claim_reads_them():
    for trial, number in zip(c06.TRIALS, NUMBERS, strict=True):
        plan = protocol.load(HOME / "trials" / f"{trial}.toml")
        assert plan.design.num_problems == number
        assert sorted(plan.design.families, key=c06._share_of) == LADDER
        assert set(plan.arms) == {*c06.FLIPS, *c06.BESIDE}
        flips = {arm: of.p for arm, of in plan.arms.items() if of.reward == "flipped"}
        assert flips == {arm: p for arm, p in c06.FLIPS.items() if arm != c06.TRUTH}


def test_a_familys_code_share_is_the_one_that_its_rung_was_made_with():
    shares = [c06._share_of(family) for family in LADDER]
    assert shares == [0.0, 0.001, 0.01, 0.1, 0.3, 0.6375]
    for family, share in zip(LADDER, shares, strict=True):
        made, stated = rung(share), FAMILIES[family]
        for field in ("code_share_preferred", "code_share_other"):
            assert getattr(made, field) == pytest.approx(getattr(stated, field))


def test_quality_is_one_when_nothing_is_flipped_and_nothing_when_half_is():
    assert [c06.quality(p) for p in c06.FLIPS.values()] == pytest.approx([1, 0.8, 0.4, 0])


# The map.


def planted(code: float, quality: float, problems: float, noise: float = 0.0) -> c06.Gains:
    """Gains that rise by these slopes: per code share, per J, per doubling of the number of problems."""
    rng = seeds.generator("catalyst")
    return {
        (family, arm, n): {
            unit: code * c06._share_of(family) + quality * c06.quality(flip) + problems * math.log2(n)
            + noise * rng.normal() + 0.05 * unit.pretraining_seed
            for unit in UNITS
        }
        for family in LADDER for arm, flip in c06.FLIPS.items() for n in NUMBERS
    }  # fmt: skip


def test_factors_have_the_planted_ranges_and_no_interaction():
    whole = catalyst.catalyst_map(c06._cells(planted(0.4, 0.1, 0.01, 1e-6), LADDER))
    found = {factor: c06._factor(whole, factor) for factor in c06.FACTORS}
    ranges = [0.4 * 0.6375, 0.1, 0.07]
    assert [row["honest"]["mean"] for row in found.values()] == pytest.approx(ranges, abs=1e-5)
    assert {row["honest"]["sign"] for row in found.values()} == {"gains"}
    assert (found[c06.CODE]["best"], found[c06.CODE]["worst"]) == (0.6375, 0.0)
    for pair in ((c06.CODE, c06.QUALITY), (c06.CODE, c06.PROBLEMS), (c06.QUALITY, c06.PROBLEMS)):
        assert c06._interaction(whole, *pair)["difference"]["mean"] == pytest.approx(0, abs=1e-4)


def test_a_point_costs_its_share_of_the_slope_on_every_route():
    whole = catalyst.catalyst_map(c06._cells(planted(0.4, 0.1, 0.01, 1e-9), LADDER))
    prices = {row["factor"]: row for row in c06._prices(whole, "ladder100")}
    costs = [prices[factor]["cost"]["change"] for factor in c06.FACTORS]
    assert costs == pytest.approx([0.025, 0.1, 1.0], rel=1e-4)
    shown = [str(c06._priced(prices[factor])) for factor in c06.FACTORS]
    assert shown == ["+2.5 (+2.5 to +2.5)", "−5.0 (−5.0 to −5.0)", "×2.0 (×2.0 to ×2.0)"]


def test_a_point_that_the_levels_do_not_hold_is_beyond_and_not_unknown():
    whole = catalyst.catalyst_map(c06._cells(planted(0.0, 0.001, 0.01, 1e-9), LADDER))
    prices = {row["factor"]: plain(row) for row in c06._prices(whole, "coder")}
    assert prices[c06.QUALITY]["cost"] == {"change": None, "within": False}
    assert str(c06._priced(prices[c06.QUALITY])) == "beyond (beyond to beyond)"
    assert str(c06._price(c06.CODE, c06._change(nan))) == "–"


# The law.


def pairs(slope: float, unknown: int = 0) -> list[dict]:
    rng = seeds.generator("law")
    found = []
    for family in LADDER:
        for unit in UNITS:
            for arm in c06.PREDICTED:
                for n in NUMBERS:
                    x = 0.2 * rng.normal()
                    found.append({
                        "family": family, "arm": arm, "problems": n, "pretraining_seed": unit.pretraining_seed, "seed": unit.seed,
                        "chosen": x, "observed": slope * x + 0.001 * rng.normal(),
                    })  # fmt: skip
    for pair in found[:unknown]:
        pair["chosen"] = nan
    return found


@pytest.mark.parametrize(("slope", "holds"), [(1.0, True), (0.5, False), (0.0, False), (-1, False)])
def test_the_law_holds_where_gains_are_as_predicted_and_not_where_they_are_half(slope, holds):
    rows = {row["arm"]: row for row in c06._predictions(pairs(slope))}
    assert set(rows) == {None, *c06.PREDICTED}
    assert {row["slope"]["units"] for row in rows.values()} == {3, 18}
    for row in rows.values():
        assert row["slope"]["mean"] == pytest.approx(slope, abs=0.02)
    assert c06._predicts(plain(rows[None])) == holds


def test_a_prediction_without_an_accuracy_is_counted_and_left_out():
    rows = {row["arm"]: row for row in c06._predictions(pairs(1.0, unknown=14))}
    assert (rows[None]["points"], rows[None]["unknown"]) == (216 - 14, 14)
    assert sum(rows[arm]["unknown"] for arm in c06.PREDICTED) == 14
    assert c06._predict(0.0, nan) == 0
    assert math.isnan(c06._predict(0.1, nan))


@pytest.mark.parametrize(("code", "known"), [(19, False), (20, True), (1004, True), (1005, False)])
def test_an_accuracy_of_few_completions_predicts_nothing(code, known):
    base = c06.Base(Strategies(code / 1024, 0.75, 0.25), nan, code, 1024)
    assert base.chosen_gap == pytest.approx(0.5 if known else nan, nan_ok=True)


def test_nothing_known_makes_no_line_and_no_warning():
    rows = list(c06._predictions(pairs(1.0, unknown=216)))
    assert {row["points"] for row in rows} == {0}
    assert not any(c06._predicts(plain(row)) for row in rows)


# Two trials of the four, fabricated.

TEXT = """
[trial]
name = "{name}"
question = "Is it found?"
[design]
families = ["coder", "talker"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2, 3]
pairing = "paired"
num_steps = 1
num_problems = {problems}
max_tokens = 32
[recipes.grpo]
prompts_per_step = 2
group_size = 2
updates_per_rollout = 2
learning_rate = 1e-3
[arms]
ground_truth = {{}}
flipped_10 = {{ reward = "flipped", p = 0.1 }}
flipped_30 = {{ reward = "flipped", p = 0.3 }}
flipped_50 = {{ reward = "flipped", p = 0.5 }}
python = {{}}
random = {{ gamma = 0.5 }}
[evaluation]
num_problems = 16
samples = 4
steps = [0, 1]
pass_at_k = [1]
[endpoint]
metric = "accuracy"
step = 1
placebo = "random"
margin = 0.05
planning_sd = 0.03
primary = [{{ family = "coder", arm = "ground_truth" }}]
"""
CODER = Behaviour(0.5, 0.9, 0.2, 1, 1)
QUIET = Behaviour(0.0, 0.9, 0.2, 1, 1)
SHARES = {
    "ground_truth": 1.0,
    "flipped_10": 1.0,
    "flipped_30": 0.9,
    "flipped_50": 0.8,
    "python": 1.0,
}
PLANTED = {("coder", arm): CODER._replace(code_share=share) for arm, share in SHARES.items()}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Record]:
    root = tmp_path_factory.mktemp("claim-06")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for family, base in (("coder", CODER), ("talker", QUIET)):
            patch.setitem(fabricated.BASES, family, base)
        for problems in (4, 128):
            trial = f"catalyst_{problems}"
            text = TEXT.format(name=trial, problems=problems)
            found[trial] = record_in(root, trial, text, PLANTED)
    return found


@pytest.fixture(scope="module")
def made(records) -> dict:
    return tables_of(c06.CLAIM, records)


def test_gains_are_the_reports_at_every_level(made, records):
    assert len(made["gains"]) == 2 * 6 * 2
    for record in records.values():
        for row in record.report["contrasts"]:
            if (row["metric"], row["versus"]) == ("accuracy", "base"):
                own = the_row(made["gains"], family=row["family"], arm=row["arm"], problems=record.protocol.design.num_problems)  # fmt: skip
                assert own["mean"] == pytest.approx(row["estimate"])
                assert [own["low"], own["high"]] == pytest.approx(row["ci95"] or [None, None])


def test_margins_are_means_of_the_gains(made):
    row = the_row(made["margins"], by="family", level="coder", arm="python")
    own = [r["mean"] for r in made["gains"] if (r["family"], r["arm"]) == ("coder", "python")]
    assert row["mean"] == pytest.approx(np.mean(own))
    own = [r["mean"] for r in made["gains"] if (r["problems"], r["arm"]) == (4, "random")]
    assert the_row(made["margins"], by="problems", level=4, arm="random")["mean"] == pytest.approx(np.mean(own))  # fmt: skip


def test_planted_gains_are_of_code_share_and_the_law_tells_them(made):
    assert c06._leader(made) == c06.CODE
    assert the_row(made["factors"], factor=c06.CODE)["worst"] == 0
    assert the_row(made["margins"], by="family", level="talker", arm="python")["sign"] == "gains exactly nothing"  # fmt: skip
    law = the_row(made["predictions"], arm=None, reading="chosen")
    assert law["unknown"] == 0
    assert law["slope"]["mean"] == pytest.approx(1, abs=0.25)
    rung_of = the_row(made["rungs"], family="coder", arm="python")
    assert rung_of["after"]["mean"] == pytest.approx(1, abs=0.02)
    assert the_row(made["rungs"], family="talker", arm="python")["over_quiet"] is None


def test_without_forced_strategies_the_page_says_so_and_with_them_both_readings_stand(records, made, tmp_path):  # fmt: skip
    assert {row["reading"] for row in made["predictions"]} == {"chosen"}
    assert "No strategy was forced" in c06.page(made).caution
    folder = tmp_path / "catalyst_4"
    shutil.copytree(records["catalyst_4"].path, folder)
    zeros = {field.name: False if pa.types.is_boolean(field.type) else 0 for field in forced.SCHEMA}
    row = zeros | {"samples": 4}
    for family, right in (("coder", 3), ("talker", 2)):
        rows = [row | {"problem_id": "a", "strategy": s, "right": r} for s, r in (("code", right), ("words", 1))]  # fmt: skip
        for seed in (1, 2, 3):
            path = folder / "bases" / f"{family}-p{seed}" / "probes" / "forced.parquet"
            files.write_table(path, pa.Table.from_pylist(rows, schema=forced.SCHEMA))
    found = tables_of(c06.CLAIM, {"catalyst_4": Record(folder)})
    assert {row["reading"] for row in found["predictions"]} == {"chosen", "forced"}
    gaps = {row["family"]: row["forced_gap"] for row in found["bases"]}
    assert gaps == {"talker": 0.25, "coder": 0.5}
    pair = next(p for p in found["pairs"] if p["family"] == "coder" and p["shift"])
    assert pair["forced"] == pytest.approx(0.5 * pair["shift"])
    assert "No strategy was forced" not in c06.page(found).caution


def test_it_fits_on_a_page(made, records):
    tree = Tree(records["catalyst_4"].path.parents[1], {one.path: one for one in records.values()})
    built = build(tree, replace(c06.CLAIM, trials=tuple(records)))
    assert {path.name for path in built.pages} == {"CLAIM-06.md", "CLAIM-06.json"}
    assert built.finding.verdict in ("reproduced", "partly")


def test_it_is_not_yet_run_until_the_last_trial_is(tmp_path):
    assert build(Tree(tmp_path), c06.CLAIM).finding.verdict == "not yet run"


@pytest.mark.parametrize("text", [NASTY[k] for k in ("markdown", "rich", "line ends", "signs")])
def test_hostile_names_change_nothing_that_a_reader_of_markdown_does(made, text):
    names = {"talker": text, "random": text + "x", "accuracy": text + "y"}
    calm = c06.page(made)
    for one, other in zip(c06.page(renamed(made, names)), calm, strict=True):
        assert kinds(one) == kinds(other)


# The rule.


def world(
    code: str = "gains", shares: tuple[float | None, ...] = (0.6, 0.2, 0.1), slope: tuple[float, float] = (0.8, 1.2),
    rungs: dict[str, str] | None = None, truth: str = "gains", others: str = "gains",
) -> dict:  # fmt: skip
    number = {"mean": 0.1, "low": 0.05, "high": 0.15}
    told = {"ladder001": NOTHING, "ladder010": "gains", "coder": "gains"} | (rungs or {})
    return {
        "trials": [{"trained_on": 4}, {"trained_on": 128}],
        "gains": [{"arm": "ground_truth", "problems": 128, "sign": truth}, {"arm": "ground_truth", "problems": 4, "sign": "gains"}],
        "factors": [{"factor": f, "honest": {**number, "sign": code if f == c06.CODE else others}} for f in c06.FACTORS],
        "variance": [{"factors": [f], "preset_share": s} for f, s in zip(c06.FACTORS, shares, strict=True)]
        + [{"factors": [c06.CODE, c06.QUALITY], "preset_share": 0.9}],
        "predictions": [{"reading": "chosen", "arm": None, "slope": {"mean": 1.0, "low": slope[0], "high": slope[1]}}],
        "rungs": [
            {"arm": "ground_truth", "code_share": c06._share_of(family), "over_quiet": {"sign": sign}} for family, sign in told.items()
        ] + [{"arm": "ground_truth", "code_share": 0.0, "over_quiet": None}],
    }  # fmt: skip


NONE_HOLDS = {"slope": (-0.2, 0.9), "rungs": {"coder": NOTHING}}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (world(), "reproduced"),
        (world(code=NOTHING), "partly"),
        (world(shares=(0.3, 0.6, 0.1)), "partly"),
        (world(slope=(-0.1, 2.0)), "partly"),
        (world(slope=(0.2, 0.9)), "partly"),
        (world(rungs={"ladder001": "gains"}), "partly"),
        (world(rungs={"ladder010": NOTHING}), "partly"),
        (world(**NONE_HOLDS), "partly"),
        (world(shares=(0.3, 0.6, 0.1), **NONE_HOLDS), "refuted in miniature"),
        (world(shares=(0.3, 0.6, 0.1), others=NOTHING, **NONE_HOLDS), "not at this scale"),
        (world(shares=(None, None, None), **NONE_HOLDS), "not at this scale"),
        (world(code=NOTHING, **NONE_HOLDS), "not at this scale"),
        (world(truth=NOTHING), "not at this scale"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_rule(found, verdict):
    assert c06.finding(found).verdict == verdict


def test_the_module_stands_beside_its_trials():
    home = Path(c06.__file__).parents[1]
    assert all((home / "trials" / f"{trial}.toml").exists() for trial in c06.CLAIM.trials)
