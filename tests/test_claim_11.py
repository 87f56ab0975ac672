"""A verdict is counted as changed only where it changes, at each rate as a trial of its own, and slopes are a line's slope."""

import math

import pytest
from fabricate import Behaviour
from fabricate_records import record_in, the_row
from hostile import NASTY
from test_claims import kinds, renamed

from claims import c11_learning_rate as c11
from claims.ledger import Record, Tree, build, tables_of
from controlarm.analysis import contrasts
from controlarm.protocol import Unit

RECIPE = """
[recipes.{}]
prompts_per_step = 2
group_size = 2
updates_per_rollout = 2
learning_rate = {}
"""
TEXT = f"""
[trial]
name = "rates"
question = "Is it found?"
[design]
families = ["coder"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2]
pairing = "crossed"
num_steps = 2
num_problems = 4
max_tokens = 32
{RECIPE.format("double", 8e-5)}
{RECIPE.format("half", 2e-5)}
{RECIPE.format("once", 4e-5)}
[arms]
ground_truth = {{}}
python = {{}}
incorrect = {{}}
constant = {{}}
random = {{ gamma = 0.5 }}
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
primary = [{{ family = "coder", arm = "ground_truth" }}, {{ family = "coder", arm = "python" }}]
"""
PLANTED = {
    ("coder", "ground_truth"): Behaviour(1.0, 1.0, 1.0, 1.0, 1.0),
    ("coder", "python"): Behaviour(1.0, 0.8, 0.3),
    ("coder", "incorrect"): Behaviour(0.0, 0.1, 0.05),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Record]:
    root = tmp_path_factory.mktemp("claim-11")
    return {c11.TRIAL: record_in(root, c11.TRIAL, TEXT, PLANTED)}


@pytest.fixture(scope="module")
def made(records) -> dict:
    return tables_of(c11.CLAIM, records)


def test_rates_stand_from_low_to_high_and_every_arm_is_told_at_each(made):
    assert [row["recipe"] for row in made["rates"]] == ["half", "once", "double"]
    assert len(made["arms"]) == 5 * 3
    assert all(row["over_placebo"] is None for row in made["arms"] if row["arm"] == "random")


def test_contrasts_and_the_verdicts_together_are_the_reports(made, records):
    for row in records[c11.TRIAL].report["contrasts"]:
        if row["metric"] == "accuracy":
            own = the_row(made["arms"], recipe=row["recipe"], arm=row["arm"])
            key = "over_placebo" if row["versus"] == "placebo" else "gain"
            assert own[key]["mean"] == pytest.approx(row["estimate"])
            if row["versus"] == "placebo":
                assert own["together"] == row["verdict"]


def test_a_rate_alone_is_adjusted_over_its_own_comparisons():
    units = [Unit(model, 1) for model in (1, 2, 3)]
    end = {"primary": [{"family": "f", "arm": arm} for arm in "ab"], "alpha": 0.025, "margin": 0.05}
    values = {"a": [0.3, 0.31, 0.32], "b": [0.1, 0.14, 0.18], "c": [0.1, 0.14, 0.18]}
    over = {
        ("f", recipe, arm): dict(zip(units, found, strict=True))
        for recipe in ("one", "other")
        for arm, found in values.items()
    }
    found = c11._verdicts(over, over, end, contrasts.over_units)
    p = contrasts.p_superior(contrasts.estimate(values["b"]))
    assert p < 0.025
    assert found == dict.fromkeys(over, "superior")
    assert 4 * p > 0.025  # what the other rate's comparisons would have cost it
    many = {**end, "primary": [{"family": "f", "arm": arm} for arm in ("b", "c")]}
    strict = c11._verdicts(over, over, many, contrasts.over_units)
    assert (strict["f", "one", "b"] == "superior") == (2 * p < 0.025)


def test_planted_verdicts_do_not_change_with_a_rate_that_does_nothing(made):
    for arm, verdict in (("ground_truth", "superior"), ("incorrect", "inferior")):
        row = the_row(made["verdicts"], reading="within", arm=arm)
        assert row["verdicts"] == [verdict] * 3
        assert not row["changed"]
        assert not row["reversed"]
    assert the_row(made["arms"], arm="random", recipe="half")["gain"]["mean"] == 0


def test_a_slope_is_points_a_doubling():
    rates = [2e-5, 4e-5, 8e-5]
    line = [{Unit(1, 1): 0.03 * math.log2(rate / 4e-5) + 0.2, Unit(1, 2): 0.1} for rate in rates]
    found = c11._slope(line, rates)
    assert found == pytest.approx({Unit(1, 1): 0.03, Unit(1, 2): 0.0}, abs=1e-12)
    line[0].pop(Unit(1, 2))
    assert set(c11._slope(line, rates)) == {Unit(1, 1)}
    assert c11._slope(line[:1], rates[:1]) == {}


@pytest.mark.parametrize(
    ("at", "changed", "reversed_"),
    [
        (["superior", "superior", "superior"], False, False),
        (["inconclusive", "superior", "superior"], True, False),
        (["inferior", "inconclusive", "superior"], True, True),
        (["superior", None, "inferior"], False, True),
    ],
)
def test_a_verdict_changes_where_rates_disagree(at, changed, reversed_):
    found = {("f", recipe, "a"): verdict for recipe, verdict in zip("hod", at, strict=True) if verdict}  # fmt: skip
    (row,) = c11._changes({"alone": found}, "hod")
    assert (row["changed"], row["reversed"]) == (changed, reversed_)


def world(truth: list[str | None], compared: int = 10, changed: int = 0, turned: int = 0) -> dict:
    row = {
        "reading": "alone",
        "family": "coder",
        "arm": "ground_truth",
        "verdicts": truth,
        "complete": None not in truth,
    }
    counts = {"reading": "alone", "compared": compared, "changed": changed, "reversed": turned}
    return {"verdicts": [row], "readings": [counts], "slopes": []}


SUPERIOR: list[str | None] = ["superior"] * 3


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (world(SUPERIOR), "reproduced"),
        (world(SUPERIOR, changed=1), "partly"),
        (world(SUPERIOR, changed=5), "partly"),
        (world(SUPERIOR, changed=6), "refuted in miniature"),
        (world(SUPERIOR, changed=1, turned=1), "refuted in miniature"),
        (world(["inconclusive"] * 3), "not at this scale"),
        (world(["inconclusive", "superior", "superior"], changed=1), "partly"),
        (world(["superior", "superior", None]), "partly"),
        (world(SUPERIOR, compared=0), "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(found, verdict):
    assert c11.finding(found).verdict == verdict


def test_it_fits_on_a_page_that_says_that_steps_are_fixed(made, records):
    tree = Tree(records[c11.TRIAL].path.parents[1], {one.path: one for one in records.values()})
    page = build(tree, c11.CLAIM).pages
    (text,) = (text for path, text in page.items() if path.name == "CLAIM-11.md")
    assert "half the rate is also half the training" in text
    assert "| `half` (2.0e−5) |" in text


@pytest.mark.parametrize("text", [NASTY[k] for k in ("markdown", "rich", "line ends", "signs")])
def test_hostile_names_change_nothing_that_a_reader_of_markdown_does(made, text):
    names = {"python": text, "random": text + "x", "accuracy": text + "y", "superior": text + "z"}
    for one, other in zip(c11.page(renamed(made, names)), c11.page(made), strict=True):
        assert kinds(one) == kinds(other)
