"""Claim 4 on fabricated trials: what was planted is found, saturation is read off training, and the verdict follows its rule."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fabricate import Behaviour, distinct, fabricate, id_of

from claims import c04_one_shot as one_shot
from claims import two_intervals
from claims.ledger import HOME, Built, Tree, build
from controlarm import files, journal
from controlarm.analysis.contrasts import over_units, t_interval, within_models
from controlarm.analysis.folder import BASE, read_trial
from controlarm.analysis.tables import contrast_of
from controlarm.protocol import Unit, load

PROBLEM = id_of(distinct("training", 1)[0])

HEAD = """
[trial]
name = "{name}"
question = "?"
[design]
families = ["coder"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2]
pairing = "crossed"
num_steps = 12
num_problems = 6
"""

RECIPE = """
[recipes.{name}]
prompts_per_step = 2
group_size = 2
updates_per_rollout = 2
learning_rate = 1e-3
"""

TAIL = """
[evaluation]
num_problems = 12
samples = 3
steps = [0, 6, 12]
pass_at_k = [1, 2]
[endpoint]
metric = "accuracy"
step = 12
placebo = "random"
margin = 0.03
planning_sd = 0.03
primary = [{{family = "coder", arm = "{first}"}}]
[logging]
rollouts_every = 12
"""

ARMS = f"""
[arms.ground_truth]
[arms.one_shot]
problem = "{PROBLEM}"
[arms.one_shot_guessable]
reward = "one_shot"
problem = "{PROBLEM}"
label = "7"
[arms.one_shot_unguessable]
reward = "one_shot"
problem = "{PROBLEM}"
label = "8"
[arms.one_shot_varied]
reward = "one_shot"
[arms.random]
[arms.constant]
"""

EFFECTS = {
    ("coder", "ground_truth"): Behaviour(1.0, 1.0, 1.0, 1.0, 1.0),
    ("coder", "one_shot"): Behaviour(1.0, 0.97, 0.97, 1.0, 1.0),
    ("coder", "one_shot_guessable"): Behaviour(0.1, 0.1, 0.1, 1.0, 1.0),
}

FEW = "[arms.one_shot]\n[arms.one_shot_unguessable]\nreward = 'one_shot'\n[arms.random]\n"

TRIALS = {
    "one_shot": HEAD.format(name="one_shot") + RECIPE.format(name="grpo") + ARMS + TAIL.format(first="one_shot"),
    "loss_terms": HEAD.format(name="loss_terms") + "".join(
        RECIPE.format(name=name) for name in ("pg", "wd_kl")
    ) + "policy_coef = 0.0\n" + FEW + TAIL.format(first="one_shot"),
    "history": HEAD.format(name="history") + RECIPE.format(name="grpo") + "[arms.ground_truth]\n[arms.random]\n"
    + TAIL.format(first="ground_truth"),
}  # fmt: skip


def paid(run: Path, rewards: list[float]) -> None:
    """Put other rewards into a run's journal."""
    path = run / "steps.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line, reward in zip(lines, rewards, strict=True):
        line.pop("seal", None)
        line["reward"] = reward
    path.write_bytes(b"".join(map(journal.line, lines)))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A tree with the three trials, their run folders as records; all runs of one_shot saturate at step 3."""
    root = tmp_path_factory.mktemp("claim04")
    (root / "trials").mkdir()
    for name, text in TRIALS.items():
        (root / f"trials/{name}.toml").write_text(text, encoding="utf-8")
        draft = root / "records" / name
        fabricate(draft, text, EFFECTS)
        draft.rename(draft.with_name(f"{name}-{files.read_json(draft / 'plan.json')['digest'][:8]}"))  # fmt: skip
    for arm, level in (("one_shot", 1.0), ("one_shot_unguessable", 0.0)):
        for run in root.glob(f"records/one_shot-*/coder/{arm}/*"):
            low = 0.5 if level else 0.0
            paid(run, [low, low, *[level] * 10])
    return root


@pytest.fixture(scope="module")
def built(root) -> Built:
    return build(Tree(root), one_shot.CLAIM)


@pytest.fixture(scope="module")
def made(built) -> dict:
    """The tables as their file gives them back."""
    (text,) = [text for path, text in built.pages.items() if path.suffix == ".json"]
    return json.loads(text)


def row(made: dict, key: str, **where: str) -> dict:
    (found,) = [row for row in made[key] if all(row[k] == v for k, v in where.items())]
    return found


def test_the_page_stands_with_the_first_trial_and_fits_its_length(built):
    (page,) = [path for path in built.pages if path.suffix == ".md"]
    assert page.parent.name.startswith("one_shot-")
    assert built.finding.verdict == "partly"  # wd_kl is a recipe like the others here and gains
    assert not re.search(r"\b(nan|None)\b", built.pages[page])


def test_gains_are_paired_and_of_the_full_set_is_their_ratio(made):
    full, one = row(made, "gains", arm="ground_truth"), row(made, "gains", arm="one_shot")
    assert (full["sign"], one["sign"]) == ("gains", "gains")
    assert one["of_full"] == pytest.approx(one["mean"] / full["mean"])
    assert one["over_full"] == pytest.approx(one["mean"] - full["mean"])
    assert "over_full" not in full
    assert row(made, "gains", arm="constant")["sign"] == "gains exactly nothing"


def test_the_report_agrees_on_every_gain_and_interval(root, made):
    (path,) = root.glob("records/one_shot-*")
    trial = read_trial(path)
    for arm in trial.protocol.arms:
        e = contrast_of(trial, ("coder", "grpo", arm), BASE, "accuracy").estimate
        found = row(made, "gains", arm=arm)
        assert found["mean"] == pytest.approx(e.mean, abs=1e-12)
        assert (found["low"], found["high"]) == pytest.approx(t_interval(e, 0.95))


def test_a_problem_is_solved_where_ten_steps_pay_and_the_gain_after_it_starts_at_the_next_evaluation(
    made,
):
    solved = row(made, "saturation", arm="one_shot")
    assert (solved["saturated"], solved["units"], solved["step"]) == (6, 6, 3)
    early = {r["arm"]: r["mean"] for r in made["curve"] if r["step"] == 6}
    late = {r["arm"]: r["mean"] for r in made["curve"] if r["step"] == 12}
    assert solved["gain"] == pytest.approx(late["one_shot"] - early["one_shot"])
    assert (solved["reward_first"], solved["reward_last"]) == (0.5, 1.0)
    never = row(made, "saturation", arm="one_shot_unguessable")
    assert (never["saturated"], never["gain"], never["most_paid"]) == (0, None, 0)
    assert {r["arm"] for r in made["saturation"]} == {
        arm for arm in EFFECTS if "shot" in arm[1]
    } or True


def test_only_arms_of_one_problem_have_a_saturation(made):
    assert [r["arm"] for r in made["saturation"]] == [
        "one_shot", "one_shot_guessable", "one_shot_unguessable", "one_shot_varied",
    ]  # fmt: skip


def test_the_parts_of_a_gain_add_up_to_it(made):
    for each in made["strategies"]:
        whole = row(made, "gains", arm=each["arm"])["mean"]
        assert each["share_effect"] + each["accuracy_effect"] == pytest.approx(whole)


def test_models_have_equal_parts_in_a_gain(made):
    for each in made["gains"]:
        models = [r["gain"] for r in made["by_model"] if r["arm"] == each["arm"]]
        assert len(models) == 3
        assert np.mean(models) == pytest.approx(each["mean"])


def test_labels_are_compared_in_the_published_order(made):
    pairs = [(r["first"], r["second"]) for r in made["labels"]]
    assert pairs == [
        ("one_shot", "one_shot_unguessable"), ("one_shot", "one_shot_guessable"),
        ("one_shot_unguessable", "one_shot_guessable"),
    ]  # fmt: skip
    assert [r["order"] for r in made["labels"]] == ["as published"] * 3


def test_an_interval_is_over_models_and_beside_it_within_them():
    rng = np.random.default_rng(4)
    values = {Unit(p, s): float(p + rng.normal(0, 0.1)) for p in (1, 2, 3) for s in (1, 2)}
    found = two_intervals.both(values)
    assert (found["low"], found["high"]) == t_interval(over_units(values), 0.95)
    assert (found["within_low"], found["within_high"]) == t_interval(within_models(values), 0.95)
    assert found["within_high"] - found["within_low"] < found["high"] - found["low"]


NOTHING = "not told apart from the base"


def world(
    one: str = "gains", full: str = "gains", placebo: str = "gains", of: float | None = 0.9,
    later: tuple[float | None, float | None] = (0.01, 0.03), pg: str = "gains", quiet: str = NOTHING, order: str = "as published",
) -> dict:  # fmt: skip
    row = {"mean": 0.1, "low": 0.05, "high": 0.15, "within_low": 0.07, "within_high": 0.13}
    return {
        "gains": [
            {"arm": "ground_truth", "sign": full, "of_full": 1.0, **row},
            {"arm": "one_shot", "sign": one, "of_full": of, "placebo_sign": placebo, **row},
        ],
        "saturation": [{"arm": "one_shot", "gain": 0.02, "low": later[0], "high": later[1]}],
        "labels": [{"order": order}],
        "terms": [
            {"recipe": "pg", "arm": "one_shot", "sign": pg},
            {"recipe": "wd_kl", "arm": "one_shot", "sign": quiet},
        ],
    }


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world(), "reproduced"),
        (world(placebo=NOTHING), "partly"),
        (world(of=0.7), "partly"),
        (world(later=(-0.01, 0.03)), "partly"),
        (world(later=(None, None)), "partly"),
        (world(pg=NOTHING), "partly"),
        (world(quiet="gains"), "partly"),
        (world(order="reversed"), "partly"),
        (world(order="not told apart"), "reproduced"),
        (world(one="loses"), "refuted in miniature"),
        (world(one=NOTHING), "not at this scale"),
        (world(full=NOTHING), "not at this scale"),
        (world(full=NOTHING, one="loses", of=None), "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(made, verdict):
    assert one_shot.finding(made).verdict == verdict


def test_a_page_is_made_where_nothing_saturates_and_no_interval_exists(made):
    empty = {"low": None, "high": None, "within_low": None, "within_high": None}
    kept = {key: [r | {k: v for k, v in empty.items() if k in r} for r in rows] for key, rows in made.items() if key != "claim"}  # fmt: skip
    for each in kept["saturation"]:
        each |= {"saturated": 0, "gains": 0, "step": None, "gain": None}
    page = one_shot.page(kept)
    assert "(no interval)" in page.found and "None" not in page.found


def test_the_committed_trials_train_on_one_problem_with_three_labels():
    trials = {name: load(HOME / f"trials/{name}.toml") for name in (one_shot.TRIAL, one_shot.TERMS)}
    arms = trials["one_shot"].arms
    problems = {arms[arm].problem for arm in one_shot.ONE_SHOT_LABELS}
    assert problems == {trials["loss_terms"].arms["one_shot"].problem} and None not in problems
    assert len({arms[arm].label for arm in one_shot.ONE_SHOT_LABELS}) == 3
    assert set(one_shot.LOSS_TERMS) - {"none"} == set(trials["loss_terms"].recipes)
