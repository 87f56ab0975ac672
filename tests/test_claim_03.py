"""A gain is split without a rest, arms are compared by unit, and the page says of planted effects what was planted."""

from pathlib import Path

import numpy as np
import pytest
from fabricate import Behaviour
from fabricate_records import record_in, the_row
from hostile import NASTY
from test_claims import kinds, renamed

from claims import c03_incorrect_and_format as c03
from claims.ledger import Record, Tree, build, tables_of
from claims.two_intervals import both, minus, shown
from controlarm.analysis.summary import plain
from controlarm.protocol import Unit

TEXT = """
[trial]
name = "without_python"
question = "Is it found?"
[design]
families = ["coder", "bungler"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2]
pairing = "crossed"
num_steps = 2
num_problems = 4
max_tokens = 32
[recipes.grpo]
prompts_per_step = 2
group_size = 2
updates_per_rollout = 2
learning_rate = 1e-3
[arms]
ground_truth = {}
format = {}
incorrect = {}
no_python = {}
ground_truth_no_python = { reward = "all_of", of = ["ground_truth", "no_python"] }
format_no_python = { reward = "all_of", of = ["format", "no_python"] }
incorrect_no_python = { reward = "all_of", of = ["incorrect", "no_python"] }
random = { gamma = 0.5 }
[evaluation]
num_problems = 12
samples = 4
steps = [0, 2]
pass_at_k = [1]
[endpoint]
metric = "accuracy"
step = 2
placebo = "random"
margin = 0.05
planning_sd = 0.03
primary = [{ family = "coder", arm = "format" }]
"""
KEPT = "\n".join(line for line in TEXT.splitlines() if "no_python" not in line.split("=")[0])
KEPT = KEPT.replace('"without_python"', '"majority_wrong"').replace(
    "num_problems = 4", 'num_problems = 4\nrestrict = "majority_wrong"'
)
WORDS = Behaviour(0.0, 0.8, 0.3, 1.0, 0.7)
PLANTED = {
    ("coder", "ground_truth"): Behaviour(1.0, 1.0, 1.0, 1.0, 1.0),
    ("coder", "format"): Behaviour(0.65, 0.80, 0.30, 1.0, 1.0),
    ("coder", "incorrect"): Behaviour(1.0, 0.80, 0.30),
    ("coder", "no_python"): WORDS,
    ("coder", "format_no_python"): WORDS._replace(boxed_words=1.0),
    ("coder", "incorrect_no_python"): WORDS,
    ("bungler", "format_no_python"): Behaviour(0.0, 0.25, 1.0, 1.0, 1.0),
    ("bungler", "incorrect_no_python"): Behaviour(0.0, 0.25, 1.0, 1.0, 1.0),
}
KEPT_PLANTED = {**PLANTED, ("coder", "incorrect"): Behaviour(0.0, 0.10, 0.05)}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Record]:
    root = tmp_path_factory.mktemp("claim-03")
    found = {}
    for trial, text, effects in ((c03.ALL, TEXT, PLANTED), (c03.KEPT, KEPT, KEPT_PLANTED)):
        found[trial] = record_in(root, trial, text, effects)
    return found


@pytest.fixture(scope="module")
def made(records) -> dict:
    return tables_of(c03.CLAIM, records)


def test_both_splits_add_up_to_the_gain_of_every_arm(made):
    assert len(made["gains"]) == 2 * 8 + 2 * 4
    for row in made["gains"]:
        gain = row["gain"]["mean"]
        assert row["share_effect"]["mean"] + row["accuracy_effect"]["mean"] == pytest.approx(gain)
        lenient = ("lenient_share_effect", "lenient_accuracy_effect", "format_part")
        assert sum(row[key]["mean"] for key in lenient) == pytest.approx(gain)


def test_planted_boxes_are_format_and_planted_strategy_is_share(made):
    boxes = the_row(made["gains"], trial=c03.ALL, family="coder", arm="format")
    assert boxes["share_effect"]["mean"] == pytest.approx(0, abs=0.03)
    assert boxes["format_part"]["mean"] > 0.03
    assert boxes["lenient_accuracy_effect"]["mean"] == pytest.approx(0, abs=0.04)
    moved = the_row(made["gains"], trial=c03.ALL, family="coder", arm="incorrect")
    assert moved["share_effect"]["mean"] > 0.1 > abs(moved["accuracy_effect"]["mean"])


def test_gains_are_the_reports_and_pairs_are_differences_of_them(made, records):
    rows = records[c03.ALL].report["contrasts"]
    for row in rows:
        if (row["metric"], row["versus"]) == ("accuracy", "base"):
            own = the_row(made["gains"], trial=c03.ALL, family=row["family"], arm=row["arm"])[
                "gain"
            ]
            assert own["mean"] == pytest.approx(row["estimate"])
            assert [own["low"], own["high"]] == pytest.approx(row["ci95"] or [None, None])
    assert len(made["compounds"]) == 2 * 3 * 2
    for row in made["compounds"]:
        first, second = (
            the_row(made["gains"], trial=c03.ALL, family=row["family"], arm=row[key])["gain"][
                "mean"
            ]
            for key in ("compound", "minus")
        )
        assert row["difference"]["mean"] == pytest.approx(first - second)


def test_the_restriction_is_compared_by_unit_and_an_opposite_sign_is_named(made):
    row = the_row(made["restricted"], family="coder", arm="incorrect")
    assert row["difference"]["mean"] == pytest.approx(row["kept"]["mean"] - row["all"]["mean"])
    assert row["signs"] == "opposite"
    assert the_row(made["restricted"], family="coder", arm="ground_truth")["signs"] == "the same"
    assert "signs opposite" in c03.page(made).found


def test_labels_are_audited_by_counting_them(made, records):
    for trial, record in records.items():
        for family in ("coder", "bungler"):
            row = the_row(made["audit"], trial=trial, family=family)
            labels = [one for (of_, _), rows in record.trial.labels.items() if of_ == family for one in rows]  # fmt: skip
            gold = {p.id: p.answer for p in record.trial.problems["training"]}
            wrong = [one["majority"] not in (None, gold[one["problem_id"]]) for one in labels]
            assert (row["problems"], row["majority_wrong"]) == (len(labels), sum(wrong))
            assert row["incorrect_is_right"] == 0


def test_what_was_planted_is_told_and_fits_on_a_page(made, records):
    assert c03.finding(made).verdict == "partly"  # incorrect gains in one trial only
    tree = Tree(records[c03.ALL].path.parents[1], {one.path: one for one in records.values()})
    built = {path.name: text for path, text in build(tree, c03.CLAIM).pages.items()}
    assert set(built) == {"CLAIM-03.md", "CLAIM-03.json"}
    assert "**`coder`**, forbidding code: `format` " in built["CLAIM-03.md"]


NOTHING = "not told apart from the base"


def world(signs: dict[str, str] | None = None, kept: dict[str, str] | None = None, removed: str = "loses", bad: str = "gains") -> dict:  # fmt: skip
    """Signs as published, but for those that are given."""
    everywhere = {"format_no_python": NOTHING} | (signs or {})
    number = {"mean": 0.1, "low": 0.05, "high": 0.15, "within_low": 0.06, "within_high": 0.14}
    arms = (c03.TRUTH, *c03.PLAIN, *c03.COMPOUND.values())
    gains = [
        {"trial": trial, "family": family, "arm": arm, "gain": {**number, "sign": sign}}
        for trial, family, changed, other in (
            (c03.ALL, "coder", everywhere, "gains"), (c03.ALL, "bungler", {}, bad), (c03.KEPT, "coder", kept or {}, "gains"),
        )
        for arm in arms
        for sign in [changed.get(arm, other)]
    ]  # fmt: skip
    pair = {"family": "coder", "compound": "format_no_python", "minus": "format", "difference": {"sign": removed}}  # fmt: skip
    return {"gains": gains, "compounds": [pair]}


NEITHER: dict[str, str] = dict.fromkeys(c03.PLAIN, NOTHING)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (world(), "reproduced"),
        (world({"format_no_python": "gains"}), "partly"),
        (world(removed=NOTHING), "partly"),
        (world(bad=NOTHING), "partly"),
        (world(kept={"incorrect": "loses"}), "partly"),
        (world({"incorrect_no_python": NOTHING}), "partly"),
        (world(NEITHER, NEITHER), "not at this scale"),
        (world(NEITHER, NEITHER | {"incorrect": "loses"}), "refuted in miniature"),
        (world(NEITHER), "partly"),
        (world({c03.TRUTH: NOTHING}), "not at this scale"),
        ({"gains": [], "compounds": []}, "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(found, verdict):
    assert c03.finding(found).verdict == verdict


@pytest.mark.parametrize("text", [NASTY[k] for k in ("markdown", "rich", "line ends", "signs")])
def test_hostile_names_change_nothing_that_a_reader_of_markdown_does(made, text):
    names = {"bungler": text, "random": text + "x", "accuracy": text + "y", "superior": text + "z"}
    calm = c03.page(made)
    for one, other in zip(c03.page(renamed(made, names)), calm, strict=True):
        assert kinds(one) == kinds(other)


def test_shares_are_counted_along_the_pay_and_the_placebo_is_not():
    def row(arm: str, code: float | None, words: float | None, moved: float | None) -> dict:
        return {"arm": arm, "reward_code": code, "reward_words": words, "code_share": {"mean": moved}}  # fmt: skip

    gains = [
        row("a", 0.9, 0.1, 0.2), row("b", 0.1, 0.9, -0.2), row("c", 0.9, 0.1, -0.2), row("d", 0.5, 0.5, 0.1),
        row("random", 0.9, 0.1, 0.2), row("e", None, 1.0, 0.0), row("f", 0.1, 0.9, None),
    ]  # fmt: skip
    assert "In 2 of 4 (50.0 %) rows" in c03._towards(gains, "random")
    assert c03._towards(gains[-2:], "random") == ""


def test_a_page_is_made_though_arms_are_missing(made):
    fewer = {key: [row for row in rows if row.get("arm") != "incorrect"] for key, rows in made.items()}  # fmt: skip
    assert c03.page(fewer | {"compounds": []}).caution


# Two intervals.


def test_an_effect_that_models_differ_in_is_found_within_them_only():
    unit = {Unit(model, seed): 0.03 * model + 0.001 * seed for model in (1, 2, 3) for seed in (1, 2, 3)}  # fmt: skip
    found = both(unit)
    assert found["sign"] == NOTHING
    assert found["within_sign"] == "gains"
    assert found["mean"] == pytest.approx(np.mean(list(unit.values())))


def test_units_without_a_partner_are_in_no_difference():
    a, b = {Unit(1, 1): 0.5, Unit(1, 2): 0.25}, {Unit(1, 2): 0.125, Unit(2, 1): 0.0}
    assert minus(a, b) == {Unit(1, 2): 0.125}
    nothing = both({})
    assert np.isnan(nothing["mean"])
    assert shown(plain(nothing)) is None


def test_the_module_stands_beside_its_trials():
    home = Path(c03.__file__).parents[1]
    assert all((home / "trials" / f"{trial}.toml").exists() for trial in c03.CLAIM.trials)
