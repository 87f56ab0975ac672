"""Claim 7 on a fabricated trial: the planted collapse, leash and late fall are found, and the verdict follows its rule."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fabricate import Behaviour, fabricate

from claims import c07_echo_chamber as echo
from claims.ledger import HOME, Built, Tree, build
from controlarm import files
from controlarm.analysis.boundary import mean_pass_at_k
from controlarm.analysis.decomposition import Strategies
from controlarm.analysis.folder import BASE, read_trial
from controlarm.protocol import load

RECIPE = """
[recipes.{name}]
prompts_per_step = 2
group_size = 4
updates_per_rollout = 2
learning_rate = 1e-3
kl_coef = {kl}
"""

TEXT = (
    """
[trial]
name = "echo"
question = "?"
[design]
families = ["coder", "bungler"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2]
pairing = "crossed"
num_steps = 14
num_problems = 6
"""
    + RECIPE.format(name="free", kl=0.0)
    + RECIPE.format(name="kl_large", kl=0.1)
    + """
[arms.ground_truth]
[arms.random]
[evaluation]
num_problems = 10
samples = 8
steps = [0, 4, 14]
pass_at_k = [1, 8]
[endpoint]
metric = "accuracy"
step = 14
placebo = "random"
margin = 0.03
planning_sd = 0.03
primary = [{family = "coder", arm = "ground_truth"}]
[logging]
rollouts_every = 14
"""
)

EFFECTS = {
    ("coder", "ground_truth"): Behaviour(1.0, 0.9, 0.3, 1.0, 1.0),
    ("bungler", "ground_truth"): Behaviour(0.0, 0.2, 0.9, 1.0, 1.0),
}
"""Each family goes to its more accurate strategy, which on bungler is not the commonest; random stays as the base."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("claim07")
    (root / "trials").mkdir()
    (root / "trials/echo.toml").write_text(TEXT, encoding="utf-8")
    draft = root / "records/echo"
    fabricate(draft, TEXT, EFFECTS)
    draft.rename(draft.with_name(f"echo-{files.read_json(draft / 'plan.json')['digest'][:8]}"))
    return root


@pytest.fixture(scope="module")
def built(root) -> Built:
    return build(Tree(root), echo.CLAIM)


@pytest.fixture(scope="module")
def made(built) -> dict:
    """The tables as their file gives them back."""
    (text,) = [text for path, text in built.pages.items() if path.suffix == ".json"]
    return json.loads(text)


def row(made: dict, key: str, **where: object) -> dict:
    (found,) = [row for row in made[key] if all(row[k] == v for k, v in where.items())]
    return found


CASE = {"recipe": "free", "arm": "ground_truth"}


def test_the_page_fits_its_length_and_says_nothing_undefined(built):
    (text,) = [text for path, text in built.pages.items() if path.suffix == ".md"]
    assert not re.search(r"\b(nan|None)\b", text)
    assert built.finding.verdict == "partly"  # both recipes were planted alike: no leash


def test_every_run_collapses_to_the_planted_strategy_which_is_the_more_accurate_one(made):
    for family, code in (("coder", 6), ("bungler", 0)):
        won = row(made, "winners", family=family, **CASE)
        assert (won["units"], won["collapsed"], won["code"]) == (6, 6, code)
        assert won["as_most_accurate"] == 6
        assert won["sign"] == "gains"
    assert row(made, "winners", family="bungler", **CASE)["as_commonest"] < 6


def test_the_placebo_neither_collapses_nor_moves(made):
    won = row(made, "winners", family="coder", recipe="free", arm="random")
    assert (won["collapsed"], won["gain"], won["dominance"]) == (0, 0, 0)
    assert made["false"][0]["curves"] == 12


def test_both_parts_of_the_gain_add_up_to_it(made):
    for won in made["winners"]:
        assert won["share_effect"] + won["accuracy_effect"] == pytest.approx(won["gain"], abs=1e-12)


def test_many_tries_are_the_reports_own_paired_by_unit(root, made):
    (path,) = (root / "records").iterdir()
    trial = read_trial(path)
    cells = [
        trial.cell("coder", "free", arm, step) for arm, step in ((BASE, 0), ("ground_truth", 14))
    ]
    values = [np.mean([mean_pass_at_k(e.sampled, 8) for e in cell.values()]) for cell in cells]
    found = row(made, "tries", family="coder", k=8, when="step 14", **CASE)
    assert found["mean"] == pytest.approx(values[1] - values[0])
    assert found["base"] == pytest.approx(values[0])
    early = row(made, "tries", family="coder", k=8, when="step 4", **CASE)
    late = row(made, "tries", family="coder", k=8, when="late minus early", **CASE)
    assert late["mean"] == pytest.approx(found["mean"] - early["mean"])


def test_the_rarer_strategy_is_each_bases_own(made):
    for family in ("coder", "bungler"):
        kept = row(made, "leash", family=family, recipe="kl_large", arm="ground_truth")
        assert 0 < kept["base"] <= 0.5
        assert "kept" in kept and "kept" not in row(made, "leash", family=family, **CASE)
    still = row(made, "leash", family="coder", recipe="kl_large", arm="random")
    assert still["base"] == pytest.approx(still["minority"])


@pytest.mark.parametrize(
    ("base", "commonest", "best"),
    [
        (Strategies(0.6, 0.9, 0.3), "code", "code"),
        (Strategies(0.6, 0.3, 0.9), "code", "words"),
        (Strategies(0.4, 0.9, 0.3), "words", "code"),
        (Strategies(0.0, float("nan"), 0.3), "words", "words"),
        (Strategies(1.0, 0.3, float("nan")), "code", "code"),
    ],
)
def test_commonest_and_most_accurate_are_told_apart(base, commonest, best):
    assert (echo.commonest(base), echo.most_accurate(base)) == (commonest, best)


def world(**readings: tuple[str, str, str, str]) -> dict:
    won = {"recipe": "free", "arm": "ground_truth", "dominance": 0.3, "dominance_low": 0.2, "dominance_high": 0.4, "collapsed": 6, "units": 6}  # fmt: skip
    return {
        "readings": [
            {"family": family, **dict(zip(("truth", "collapse", "leash", "late"), said, strict=True))}
            for family, said in readings.items()
        ],
        "winners": [{"family": family, **won} for family in readings],
    }  # fmt: skip


YES, NO, DARK = "as published", "reversed", "not told apart"
ALL = ("gains", YES, YES, YES)
STILL = "not told apart from the base"


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world(coder=ALL, bungler=ALL), "reproduced"),
        (world(coder=ALL, bungler=("gains", YES, YES, DARK)), "partly"),
        (world(coder=ALL, bungler=(STILL, DARK, DARK, DARK)), "partly"),
        (world(coder=("gains", DARK, DARK, YES), bungler=(STILL, NO, NO, NO)), "partly"),
        (world(coder=(STILL, YES, YES, YES), bungler=(STILL, YES, YES, YES)), "not at this scale"),
        (world(coder=("gains", DARK, NO, DARK), bungler=(STILL, DARK, DARK, DARK)), "refuted in miniature"),
        (world(coder=("gains", DARK, DARK, DARK), bungler=("loses", NO, NO, NO)), "not at this scale"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_rule(made, verdict):
    assert echo.finding(made).verdict == verdict


def test_a_page_is_made_where_no_interval_exists(made):
    def blank(value: object, key: str) -> object:
        return None if key.endswith(("low", "high")) else value

    kept = {key: [{k: blank(v, k) for k, v in r.items()} for r in rows] for key, rows in made.items() if key != "claim"}  # fmt: skip
    page = echo.page(kept)
    assert "(no interval)" in page.found and "None" not in page.found


def test_the_committed_trial_has_the_recipes_and_arms_that_are_read():
    trial = load(HOME / "trials/echo.toml")
    assert trial.recipes[echo.FREE].kl_coef == 0
    assert trial.recipes[echo.TIGHT].kl_coef == max(r.kl_coef for r in trial.recipes.values())
    assert echo.TRUTH in trial.arms and max(trial.evaluation.pass_at_k) == 64
