"""Every algorithm on a real organism: they differ, they resume, and each keeps its own promise about which rollouts teach."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from small_trial import organisms, own, prepare, protocol_text

from controlarm import checkpoints, protocol
from controlarm.engines import lockstep
from controlarm.protocol import PRESETS, Recipe

SIZES = """
prompts_per_step = 4
group_size = 4
updates_per_rollout = 2
learning_rate = 1e-3
"""
RECIPES = {name: f'algorithm = "{name}"' for name in PRESETS} | {
    "dapo": 'algorithm = "dapo"\ndynamic_sampling = 4',
    "whitened_again": "whiten = true",
    "selective": 'select = "greedy_wrong"',
    "plain": 'credit = "reward"',
}


def recipes(names):
    first, *others = names
    tables = "".join(f"\n[recipes.{name}]\n{SIZES}{RECIPES[name]}\n" for name in others)
    return f"{SIZES}{RECIPES[first]}\n", tables


def trial_of(folder, names, arms="[arms.constant]\n[arms.python]"):
    first, others = recipes(names)
    text = protocol_text(arms, recipe=first, more=f"{others}\n[logging]\nrollouts_every = 1")
    for three, two in (("num_steps = 3", "num_steps = 2"), ("steps = [0, 2, 3]", "steps = [0, 2]"), ("\nstep = 3", "\nstep = 2")):  # fmt: skip
        assert three in text
        text = text.replace(three, two)
    return prepare(folder, text.replace("[recipes.grpo]", f"[recipes.{names[0]}]"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trial_of(tmp_path_factory.mktemp("algorithms") / "all", list(RECIPES)).train()


def folder(small, recipe, arm):
    return small.folder / "coder" / arm / f"{recipe}-p1-s1"


def journal(small, recipe, arm):
    text = (folder(small, recipe, arm) / "steps.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def rollouts(small, recipe, arm, step):
    path = folder(small, recipe, arm) / "rollouts" / f"step-{step:06d}.parquet"
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 16
    return rows


def groups(small, recipe, arm, step, column):
    return np.array([row[column] for row in rollouts(small, recipe, arm, step)]).reshape(4, 4)


def last_weights(small, recipe, arm):
    path = folder(small, recipe, arm) / "checkpoints" / "step-000002.safetensors"
    return checkpoints.read(path)[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_no_two_algorithms_end_at_the_same_weights(finished):
    ends = [last_weights(finished, recipe, "placebo") for recipe in RECIPES]
    for i, one in enumerate(ends):
        assert not any(same(one, other) for other in ends[i + 1 :])


def test_the_value_head_stays_out_of_what_is_kept_and_evaluated(finished):
    assert last_weights(finished, "ppo", "python").keys() == organisms().keys()
    losses = [line["value_loss"] for line in journal(finished, "ppo", "python")]
    assert all(loss > 0 for loss in losses)
    assert all(line["value_loss"] is None for line in journal(finished, "grpo", "python"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_rewards_teach_nothing_exactly_where_the_recipe_says_so(finished, recipe):
    unmoved = same(last_weights(finished, recipe, "constant"), own(organisms(), 0))
    assert unmoved or not finished.protocol.recipes[recipe].only_reward_acts
    assert unmoved != (recipe in ("ppo", "plain")), (
        "dapo's penalty finds nothing that is too long here"
    )


@pytest.mark.slow
def test_a_value_head_learns_what_a_constant_reward_is(tmp_path):
    text = (
        protocol_text(
            "[arms.constant]", recipe=SIZES + 'algorithm = "ppo"\nvalue_coef = 5.0', design=""
        )
        .replace("num_steps = 3", "num_steps = 12")
        .replace("steps = [0, 2, 3]", "steps = [0, 12]")
    )
    text = text.replace("step = 3", "step = 12")
    small = prepare(tmp_path / "ppo", text).train()
    losses = [line["value_loss"] for line in journal(small, "grpo", "constant")]
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_dynamic_sampling_trains_on_groups_of_unequal_rewards_and_counts_what_it_cost(finished):
    for arm in ("ground_truth", "python"):
        for step, line in enumerate(journal(finished, "dapo", arm), start=1):
            rewards = groups(finished, "dapo", arm, step, "reward")
            assert line["equal_groups"] == 0
            assert (rewards.min(1) < rewards.max(1)).all()
            assert line["generated"] % 16 == 0 and 16 <= line["generated"] <= 64
    costs = [line["generated"] for line in journal(finished, "dapo", "ground_truth")]
    assert max(costs) > 16, "had every group been good at once, this would show nothing"
    assert {line["generated"] for line in journal(finished, "grpo", "ground_truth")} == {16}


def test_where_no_group_is_good_dynamic_sampling_gives_up_and_fills_with_what_it_has(finished):
    for step, line in enumerate(journal(finished, "dapo", "constant"), start=1):
        assert line["generated"] == 64 and line["equal_groups"] == 1
        assert len(rollouts(finished, "dapo", "constant", step)) == 16


def test_a_runs_groups_do_not_depend_on_how_many_batches_its_neighbours_need(finished, tmp_path):
    alone = trial_of(tmp_path / "alone", ["dapo"], arms="").train()
    columns = ("problem_id", "sample", "tokens", "reward")
    one, other = (rollouts(small, "dapo", "ground_truth", 1) for small in (finished, alone))
    assert [[row[c] for c in columns] for row in one] == [
        [row[c] for c in columns] for row in other
    ]


def test_greedy_credit_compares_a_whole_group_with_one_reward(finished):
    rewards = groups(finished, "remax", "ground_truth", 1, "reward")
    baseline = rewards - groups(finished, "remax", "ground_truth", 1, "advantage")
    assert (baseline == baseline[:, :1]).all()
    assert set(baseline.ravel()) <= {0.0, 1.0}
    assert {line["generated"] for line in journal(finished, "remax", "ground_truth")} == {20}


def test_selection_counts_the_groups_whose_greedy_completion_was_not_paid(finished):
    baseline = groups(finished, "remax", "ground_truth", 1, "reward") - groups(
        finished, "remax", "ground_truth", 1, "advantage"
    )
    wrong = baseline[:, 0] == 0
    assert 0 < wrong.sum() < 4, "some groups must count and some not"
    line = journal(finished, "selective", "ground_truth")[0]
    assert line["counted_groups"] == wrong.mean()
    advantages = groups(finished, "selective", "ground_truth", 1, "advantage")
    assert not advantages[~wrong].any()
    plain = groups(finished, "grpo", "ground_truth", 1, "advantage")
    assert (advantages[wrong] == plain[wrong]).all()


def test_the_first_rollouts_are_the_same_under_all_algorithms_that_do_not_choose_them(finished):
    first = [row["tokens"] for row in rollouts(finished, "grpo", "python", 1)]
    for recipe in RECIPES.keys() - {"dapo"}:
        assert [row["tokens"] for row in rollouts(finished, recipe, "python", 1)] == first, recipe


class _StopError(Exception):
    pass


@pytest.mark.parametrize(
    "recipe", ["ppo", *(pytest.param(one, marks=pytest.mark.slow) for one in ("dapo", "remax"))]
)
def test_a_stopped_run_goes_on_to_the_same_bytes(finished, tmp_path, recipe):
    small = trial_of(tmp_path / recipe, [recipe])

    def stop(report):
        if report["stage"] == "trained" and report["step"] == 2:
            raise _StopError

    with pytest.raises(_StopError):
        lockstep.run_shard(small.plan, 0, stop)
    small.train()
    for arm in ("ground_truth", "constant"):
        assert same(last_weights(small, recipe, arm), last_weights(finished, recipe, arm))
        steps = (folder(each, recipe, arm) / "steps.jsonl" for each in (small, finished))
        one, other = (path.read_bytes() for path in steps)
        assert one == other


def recipe_of(**settings):
    sizes = {
        "prompts_per_step": 4,
        "group_size": 4,
        "updates_per_rollout": 2,
        "learning_rate": 1e-3,
    }
    return Recipe.model_validate(sizes | settings)


def test_a_preset_fills_in_and_a_recipe_overrules():
    assert recipe_of(algorithm="dapo").epsilon_high == 0.28
    assert recipe_of(algorithm="dapo", epsilon_high=0.2).epsilon_high == 0.2
    assert recipe_of(algorithm="gspo").aggregation == "sequence_mean"


@pytest.mark.parametrize(
    "settings",
    [{"gae_lambda": 0.9}, {"value_coef": 0.1}, {"algorithm": "ppo", "ratio": "sequence"},
     {"algorithm": "dapo", "select": "greedy_wrong"}, {"algorithm": "trpo"}],
)  # fmt: skip
def test_settings_that_would_do_nothing_or_contradict_are_refused(settings):
    with pytest.raises(ValidationError):
        recipe_of(**settings)


def test_saying_a_default_changes_no_digest_and_saying_anything_else_does():
    text = protocol_text("")
    spoken = protocol_text("", recipe=SIZES + 'credit = "group_relative"\nwhiten = false')
    other = protocol_text("", recipe=SIZES + "whiten = true")
    one, two, three = (protocol.digest(protocol.parse(t), {}) for t in (text, spoken, other))
    assert one == two != three
