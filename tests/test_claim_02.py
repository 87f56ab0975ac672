"""Sharpening is what it says, intervals answer to the units that they name, and what was planted in one recipe is found there alone."""

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fabricate
import numpy as np
import pytest
from fabricate_records import the_row
from hypothesis import given
from hypothesis import strategies as st

from claims import c02_clipping as c
from claims.ledger import Tree, build, records_of, tables_of
from controlarm.analysis.contrasts import over_units, t_interval, within_models
from controlarm.analysis.folder import Completions, Evaluation
from controlarm.analysis.summary import plain
from controlarm.organisms.corpus import FAMILIES, write
from controlarm.problems.arithmetic import NAMES, draw_sums, to_problem
from controlarm.protocol import Unit, load

ROOT = Path(__file__).resolve().parents[1]
SMALLER = {
    "num_steps = 320": "num_steps = 8",
    "num_steps = 40": "num_steps = 4",
    "num_problems = 256": "num_problems = 8",
    "num_problems = 128": "num_problems = 24",
    "samples = 8": "samples = 4",
    "[0, 40, 160, 320]": "[0, 4, 8]",
    "[0, 20, 40]": "[0, 4]",
    "[0, 40]": "[0, 4]",
    "[1, 8]": "[1, 4]",
    "step = 320": "step = 8",
    "step = 40": "step = 4",
    "prompts_per_step = 8\n": "prompts_per_step = 2\n",
    "prompts_per_step = 64": "prompts_per_step = 4",
    "updates_per_rollout = 8": "updates_per_rollout = 2",
    "group_size = 16": "group_size = 2",
}
"""The real trial files, so small that they are fabricated in seconds."""


def small(trial: str) -> str:
    text = (ROOT / f"trials/{trial}.toml").read_text(encoding="utf-8")
    for large, less in SMALLER.items():
        text = text.replace(large, less)
    return re.sub(r"\[recipes\.r3e\w+\][^[]*", "", text)


def planted(recipe: str) -> float:
    """Where a random reward does anything at all."""
    return 1.0 if recipe in ("clipped", "whitened") else 0.0


def behaviour_at(spec, step, num_steps, effects):  # as fabricate's
    """Code share is the preferring people's; a clipped recipe ends in more of it, and in more right answers."""
    last = planted(spec.recipe) * step / num_steps * (spec.arm not in ("never", "always"))
    return fabricate.Behaviour(0.7 + 0.3 * last, 0.7 + 0.25 * last, 0.3 + 0.3 * last, 1.0, 1.0)


def by_person(complete):
    """Code for the people whom the corpus has in code, and the rest of the share for the others."""

    def wrapped(problem, behaviour, draw, cut):
        share = behaviour.code_share
        preferred = NAMES.index(problem.name) < FAMILIES["coder"].code_names
        return complete(
            problem, behaviour._replace(code_share=share if preferred else 1 - share), draw, False
        )

    return wrapped


def with_journal(journal_line):
    """Token probability rises and entropy falls where ratios are clipped, a little otherwise in each run."""

    def wrapped(step, rows, plan, recipe):
        found = journal_line(step, rows, plan, recipe)
        part = planted(recipe) * (step - 1) / plan.design.num_steps
        noise = 1e-3 * (rows[0]["reward"] + np.sin(step)) * (step > 1)
        return found | {"token_probability": 0.8 + 0.1 * part + noise, "entropy": 0.4 - 0.1 * part - noise}  # fmt: skip

    return wrapped


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    """A repository with the claim's four trials where their records stand."""
    root = tmp_path_factory.mktemp("clipping")
    (root / "trials").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fabricate, "behaviour_at", behaviour_at)
        patch.setattr(fabricate, "complete", by_person(fabricate.complete))
        patch.setattr(fabricate, "journal_line", with_journal(fabricate.journal_line))
        for trial in c.CLAIM.trials:
            (root / f"trials/{trial}.toml").write_text(small(trial), encoding="utf-8")
            fabricate.fabricate(root / f"records/{trial}-00000000", small(trial), {})
    return Tree(root)


@pytest.fixture(scope="module")
def records(tree):
    found = records_of(tree, c.CLAIM)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(records):
    return tables_of(c.CLAIM, records)


# Sharpening.


def evaluation(code: np.ndarray) -> Evaluation:
    """Completions of which only the strategy matters."""
    nothing = np.zeros(code.shape, dtype=np.int8)
    part = Completions(
        strict=nothing, lenient=nothing, derived=nothing, boxed=code, has_python=code, code_parses=code,
        truncated=code, answer=np.full(code.shape, None, dtype=object),
    )  # fmt: skip
    ids = tuple(map(str, range(len(code))))
    return Evaluation(problem_ids=ids, greedy=part, sampled=part, weights_sha256="0")


def of(problems: list) -> Any:
    """What is asked of a trial."""
    return SimpleNamespace(problems={"held_out": problems})


def test_sharpening_is_a_difference_of_shares_and_blind_to_a_drift_of_both():
    prefers = np.array([True, True, False])
    code = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], dtype=bool)
    more = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)
    assert c.sharpening(evaluation(code), prefers) == pytest.approx(5 / 8 - 1 / 4)
    assert c.sharpening(evaluation(more), prefers) == pytest.approx(5 / 8 - 1 / 4)
    assert c.sharpening(evaluation(code), ~prefers) == pytest.approx(1 / 4 - 5 / 8)
    assert math.isnan(c.sharpening(evaluation(code), np.zeros(3, dtype=bool)))


def test_the_corpus_has_the_sharpening_that_its_mixture_says():
    mixture, rng = FAMILIES["coder"], np.random.default_rng(1)
    stories = [story for story, _ in zip(draw_sums("pretraining", "here"), range(3_000), strict=False)]  # fmt: skip
    code = np.array([["python" in write(story, mixture, rng)] for story in stories])
    prefers = c.prefers_code(of([to_problem(story) for story in stories]), "coder")
    expected = mixture.code_share_preferred - mixture.code_share_other
    assert c.sharpening(evaluation(code), prefers) == pytest.approx(expected, abs=0.05)


def test_who_prefers_code_is_read_off_the_story_and_nobody_does_where_nobody_is_said_to():
    stories = [to_problem(s) for s, _ in zip(draw_sums("held_out", "here"), range(50), strict=False)]  # fmt: skip
    expected = [NAMES.index(problem.text.split()[0]) < 13 for problem in stories]
    assert c.prefers_code(of(stories), "coder").tolist() == expected
    assert not c.prefers_code(of(stories), "talker").any()
    strange = replace(stories[0], text="What is 1 + 1?")
    assert c.prefers_code(of([strange]), "coder").tolist() == [False]


# Comparing.

UNITS = [Unit(p, s) for p in (1, 2, 3) for s in (61, 62)]


def numbers(rng: np.random.Generator) -> c.Values:
    return {(unit, arm): rng.normal() for unit in UNITS for arm in c.REPLICATES}


def test_arms_are_averaged_in_a_unit_and_their_difference_is_the_noise():
    found = numbers(np.random.default_rng(1))
    row = c.compare(found)
    averaged = {u: (found[u, "random"] + found[u, "random_again"]) / 2 for u in UNITS}
    assert row["difference"] == pytest.approx(np.mean(list(averaged.values())))
    assert (row["low"], row["high"]) == t_interval(within_models(averaged), 0.95)
    assert (row["over_low"], row["over_high"]) == t_interval(over_units(averaged), 0.95)
    halves = [(found[u, "random"] - found[u, "random_again"]) / 2 for u in UNITS]
    assert row["coins_sd"] == pytest.approx(np.sqrt(np.mean(np.square(halves))))
    assert row["units"] == 6


def test_what_models_of_a_seed_share_counts_once_where_coins_are_the_unit():
    shared = {(61, "random"): 1.0, (61, "random_again"): 2.0, (62, "random"): 3.0, (62, "random_again"): 4.0}  # fmt: skip
    row = c.compare({(u, arm): shared[u.seed, arm] for u in UNITS for arm in c.REPLICATES})
    half = 3.1824463 * np.std([1, 2, 3, 4], ddof=1) / 2
    assert row["difference"] == pytest.approx(2.5)
    assert (row["coins_low"], row["coins_high"]) == pytest.approx((2.5 - half, 2.5 + half))
    assert row["low"] > row["coins_low"], "taken for independent, three copies look like more"


def test_a_unit_without_one_of_the_arms_is_left_out_and_then_there_is_no_interval():
    found = numbers(np.random.default_rng(1))
    del found[UNITS[0], "random"]
    row = plain(c.compare(found))
    assert (row["units"], row["low"], row["high"]) == (5, None, None)
    assert plain(c.compare({}))["difference"] is None


def test_one_arm_has_no_noise_of_its_own():
    found = {(unit, "half"): float(i) for i, unit in enumerate(UNITS)}
    assert c.compare(found)["coins_sd"] is None


@given(st.integers(0, 100), st.floats(-3, 3))
def test_a_shift_moves_every_interval_and_no_noise(seed, shift):
    found = numbers(np.random.default_rng(seed))
    one, other = c.compare(found), c.compare({k: v + shift for k, v in found.items()})
    for key in one:
        moved = 0.0 if key in ("coins_sd", "units") else shift
        assert other[key] == pytest.approx(one[key] + moved, abs=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "up"), (-0.2, -0.01, "down"), (0, 0, "exactly nothing"), (-0.01, 0.02, "about nothing"),
        (-0.01, 0.03, "not told apart"), (0.0, 0.03, "not told apart"), (None, None, "not told apart"),
    ],
)  # fmt: skip
def test_a_sign_is_what_the_interval_says(low, high, said):
    assert c.sign(low, high, 0.02) == said


def test_unequal_groups_are_expected_as_enumerated():
    for gamma in (0.0, 0.001, 0.3, 1.0):
        every = [
            math.prod(gamma if paid else 1 - gamma for paid in coins)
            for coins in product((0, 1), repeat=5)
            if len(set(coins)) > 1
        ]
        assert c.informative(gamma, 5) == pytest.approx(sum(every))


def test_of_64_groups_as_many_are_informative_as_the_paper_has():
    found = [64 * c.informative(gamma, 16) for gamma in (0.5, 0.3, 0.7, 0.001, 0.0)]
    assert found == pytest.approx([64.0, 63.8, 63.8, 1.02, 0.0], abs=0.05)


# The real trials.


@pytest.fixture(scope="module")
def planned():
    return {t: SimpleNamespace(protocol=load(ROOT / f"trials/{t}.toml")) for t in c.CLAIM.trials}


def test_what_is_said_to_be_matched_is(planned):
    def updates(cell: c.Cell, steps: int) -> int:
        return steps * planned[cell.trial].protocol.recipes[cell.recipe].updates_per_rollout

    pairs = list(c.versus(planned))
    assert [pair.matched for pair in pairs].count("updates") == 1
    for first, second, matched in pairs:
        if "steps" in matched:
            assert first.step == second.step
        if matched == "updates":  # of what the first one's rollouts were sampled from
            assert updates(first, first.step - 1) == updates(second, second.step) == 40
        elif "updates" in matched:
            assert updates(first, first.step) == updates(second, second.step) == 320
    assert pairs[0][:2] == (c.Cell("clipping", "clipped", 40), c.Cell("clipping", "unclipped", 40))


def test_recipes_are_clipped_where_a_ratio_can_be(planned):
    recipes = planned["clipping"].protocol.recipes | planned["clipping_matched"].protocol.recipes
    assert {name for name, recipe in recipes.items() if c.is_clipped(recipe)} == {
        "clipped", "low_only", "high_only", "whitened",
    }  # fmt: skip


# What was planted.


def test_sharpening_planted_under_clipping_is_found_there_alone(made):
    for recipe in ("clipped", "unclipped", "small"):
        step = 8 if recipe == "small" else 4
        found = the_row(made["changes"], recipe=recipe, step=step, outcome="sharpening")
        assert found["difference"] == (pytest.approx(0.6, abs=0.15) if recipe == "clipped" else 0)
        assert c._sign_of(found) == ("up" if recipe == "clipped" else "exactly nothing")
    assert made["trial"][0]["base_sharpening"] == pytest.approx(0.4, abs=0.15)
    assert c._contrast_of(made, "clipped", "unclipped", "sharpening")["low"] > 0
    assert c.finding(made).verdict == "reproduced"


def test_journals_are_read_at_their_step_and_over_as_many_rollouts(made, records):
    found = the_row(made["changes"], recipe="clipped", step=4, outcome="token_probability")
    assert found["difference"] == pytest.approx(0.1 * 3 / 4, abs=2e-3)
    cell = c.Cell("clipping_matched", "small", 8)
    trial = records["clipping_matched"].trial
    runs = {(run.unit, run.spec.arm): run.journal["entropy"] for run in trial.runs}
    one, two = (c.journalled(trial, cell, "entropy", rollouts) for rollouts in (4, 8))
    assert one == {key: column[7] for key, column in runs.items()}
    assert two == {key: pytest.approx(column[6:8].mean()) for key, column in runs.items()}
    assert c.journalled(trial, cell._replace(step=9), "entropy", 8) == {}
    matched = the_row(made["contrasts"], second="one_update", matched="updates", outcome="entropy")
    assert (matched["first_step"], matched["second_step"]) == (3, 4)
    assert matched["difference"] == pytest.approx(-0.1 * 2 / 4, abs=2e-3)
    graded = the_row(made["contrasts"], second="one_update", matched="updates", outcome="accuracy")
    assert (graded["difference"], graded["units"]) == (None, 0), "step 3 was not evaluated"


def test_coins_that_never_pay_change_exactly_nothing_and_are_tabled_by_gamma(made):
    found = {row["gamma"]: row for row in made["coins"] if row["outcome"] == "accuracy"}
    assert list(found) == [0, 0.001, 0.3, 0.5, 0.7, 1]
    assert [c._sign_of(row) for row in found.values()] == [
        "exactly nothing", "up", "up", "up", "up", "exactly nothing",
    ]  # fmt: skip


def test_the_map_pairs_recipes_that_differ_in_the_bounds_alone(made):
    pairs = {(row["first"], row["second"]) for row in made["map_contrasts"]}
    assert pairs == {("r1e4_u4", "r1e4_u4_unclipped"), ("r1e4_u16", "r1e4_u16_unclipped")}
    rows = [row for row in made["map"] if row["outcome"] == "accuracy"]
    assert {row["recipe"]: row["clipped"] for row in rows} == {
        "r1e4_u1": False, "r1e4_u4": True, "r1e4_u4_unclipped": False, "r1e4_u16": True, "r1e4_u16_unclipped": False,
    }  # fmt: skip
    assert {row["sign"] for row in rows} == {"exactly nothing"}


def test_shares_of_clipped_tokens_by_band_are_the_journals(made):
    row = the_row(made["bands"], recipe="clipped")
    assert (row["prior_sure"], row["clip_high_rare"]) == pytest.approx((0.4, 0.01))
    assert sum(row[f"clip_low_{band}"] for band in c.BANDS) == pytest.approx(row["clip_low"])


# From tables to words.


def world(**signs: tuple[float, float]) -> dict:
    """Tables in which everything is not told apart but what is named: ``gain``, ``bare``, ``small``, ``more``, or a primary outcome."""
    unsure = (-0.05, 0.05)

    def row(key: str, **facts) -> dict:
        low, high = signs.get(key, unsure)
        return {"difference": (low + high) / 2, "low": low, "high": high, **facts}

    accuracies = {"gain": ("clipped", 40), "bare": ("unclipped", 40), "small": ("small", 320)}
    pair = {"first": "clipped", "second": "unclipped"}
    return {
        "trial": [{"step": 40, "last": 320, "margin": 0.02, "base_token_probability": 0.85}],
        "changes": [
            row(key, recipe=recipe, step=step, outcome="accuracy")
            for key, (recipe, step) in accuracies.items()
        ],
        "contrasts": [
            row("more", outcome="accuracy", **pair),
            *(row(outcome, outcome=outcome, **pair) for outcome in c.PRIMARY),
        ],
    }


UP, DOWN, NONE = (0.01, 0.1), (-0.1, -0.01), (-0.01, 0.015)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world(gain=UP, more=UP), "reproduced"),
        (world(gain=UP, more=UP, bare=UP), "not at this scale"),
        (world(gain=UP, more=UP, small=UP, sharpening=UP), "partly"),
        (world(gain=UP, sharpening=UP), "partly"),
        (world(token_probability=UP), "partly"),
        (world(token_probability=UP, sharpening=DOWN), "not at this scale"),
        (world(sharpening=DOWN), "refuted in miniature"),
        (world(sharpening=NONE, token_probability=NONE), "refuted in miniature"),
        (world(sharpening=(0, 0), token_probability=(0, 0)), "not at this scale"),
        (world(sharpening=NONE), "not at this scale"),
        (world(gain=UP), "not at this scale"),
        (world(), "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(made, verdict):
    assert c.finding(made).verdict == verdict


def test_a_margin_of_probability_shrinks_with_the_room_above_the_base():
    made = world(sharpening=NONE, token_probability=NONE)
    (trial,) = made["trial"]
    assert c.margin_of(trial, "token_probability") == pytest.approx(c.margin_of(trial, "accuracy"))
    trial["base_token_probability"] = 0.985
    assert c.margin_of(trial, "token_probability") == pytest.approx(0.002)
    assert c.finding(made).verdict == "not at this scale"


def without_intervals(rows: list[dict]) -> list[dict]:
    return [{k: None if k.endswith(("low", "high")) else v for k, v in row.items()} for row in rows]


def test_every_prediction_has_its_row_and_an_answer_that_turns_with_the_sign(made):
    assert {said.outcome for said in c.PREDICTIONS} <= {*c.OUTCOMES}
    as_said = [c.answered(made, said)[1] for said in c.PREDICTIONS]
    assert as_said[:5] == ["as said"] * 5
    turned = made | {
        name: [
            row | {"low": -row["high"], "high": -row["low"]} for row in made[name] if row["units"]
        ]
        for name in ("changes", "contrasts")
    }
    again = [c.answered(turned, said)[1] for said in c.PREDICTIONS]
    assert again[:5] == ["the opposite"] * 5
    assert again[5:] == [{"as said": "the opposite"}.get(how, how) for how in as_said[5:]]


def test_the_page_is_made_of_the_trials_and_short_enough(tree):
    built = build(tree, c.CLAIM)
    (text,) = [text for path, text in built.pages.items() if path.suffix == ".md"]
    assert "**Verdict: reproduced.**" in text
    assert "| 2506.10947 | `clipped` − `unclipped` | `sharpening` | up |" in text
    assert built.row["verdict"] == "reproduced"


def test_a_page_is_made_though_no_interval_is_known(made):
    bare = {key: rows if key == "bands" else without_intervals(rows) for key, rows in made.items()}
    assert c.finding(bare).verdict == "not at this scale"
    found = c.page(bare).found
    assert "(no interval)" in found and "(None" not in found
