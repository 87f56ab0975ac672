"""The engine on whole small trials: what arms share, what they cannot, and who a failure touches."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_trial import Small, organisms, own, prepare, protocol_text

from controlarm import checkpoints, files, labels, protocol, trial
from controlarm.labels import Label
from controlarm.update import PRIORS

ARMS = """
[arms.other]
reward = "random"
replicate = 1
[arms.constant]
[arms.format]
[arms.python]
[arms.one_shot]
"""
FREE = ["ground_truth", "placebo", "other", "constant", "format", "python"]
"""The arms that train on all problems."""

FROM_REWARDS = {
    "reward", "reward_sd", "reward_code", "reward_words", "tpr", "fpr", "equal_groups",
    "loss", "grad_norm", "clip_low", "clip_high", "ratio_max", "approx_kl",
    *(f"{number}_{band}" for number in ("clip_low", "clip_high") for band in PRIORS),
}  # fmt: skip
"""What the first line of a journal may owe to its arm. With two updates a rollout, what is said of the second depends on the first."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("lockstep")


@pytest.fixture(scope="module")
def finished(place) -> Small:
    return prepare(place / "all", protocol_text(ARMS, more="[logging]\nrollouts_every = 1")).train()


def journal(folder):
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seal"} for line in lines]


def rollouts(folder, step):
    return pq.read_table(folder / "rollouts" / f"step-{step:06d}.parquet")


def evaluation(folder, step):
    return pq.read_table(folder / "evaluations" / f"step-{step:06d}.parquet")


def final_weights(folder):
    return checkpoints.read(folder / "checkpoints" / "step-000003.safetensors")[0]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def weights_sha256(folder, step):
    return evaluation(folder, step).schema.metadata[b"weights_sha256"].decode()


def test_equal_rewards_teach_exactly_nothing(finished):
    base = own(organisms(), 0)
    folder = finished.run("constant")
    assert same(final_weights(folder), base)
    for step in (0, 2, 3):
        assert weights_sha256(folder, step) == checkpoints.tensors_sha256(base)
    assert all(line["grad_norm"] == 0 and line["reward"] == 1 for line in journal(folder))


@pytest.mark.parametrize("arm", ["placebo", "format", "python"])
def test_rewards_that_differ_within_a_group_do_move_the_weights(finished, arm):
    assert not same(final_weights(finished.run(arm)), own(organisms(), 0))


def test_the_recorded_hash_is_that_of_the_kept_weights(finished):
    folder = finished.run("format")
    assert weights_sha256(folder, 3) == checkpoints.tensors_sha256(final_weights(folder))


def test_the_first_rollouts_of_all_arms_with_the_same_problems_are_identical(finished):
    first = rollouts(finished.run("ground_truth"), 1)
    assert len(first) == 16 and len(set(first["text"].to_pylist())) > 4
    for arm in FREE[1:]:
        other = rollouts(finished.run(arm), 1)
        for column in set(first.column_names) - {"reward", "advantage"}:
            assert other[column].equals(first[column]), (arm, column)


def test_the_first_lines_of_all_journals_differ_only_in_rewards_and_what_follows_from_them(
    finished,
):
    first = journal(finished.run("ground_truth"))[0]
    for arm in FREE[1:]:
        line = journal(finished.run(arm))[0]
        assert line.keys() == first.keys()
        assert {key for key in line if line[key] != first[key]} <= FROM_REWARDS, arm


def test_later_rollouts_do_differ_between_arms(finished):
    assert not rollouts(finished.run("format"), 3)["tokens"].equals(
        rollouts(finished.run("placebo"), 3)["tokens"]
    )


def test_two_replicates_of_a_random_arm_differ_in_rewards_and_not_in_first_texts(finished):
    one, other = (rollouts(finished.run(arm), 1) for arm in ("placebo", "other"))
    assert one["text"].equals(other["text"])
    assert not one["reward"].equals(other["reward"])


def test_nothing_is_clipped_at_the_first_update_of_any_step_of_any_run(finished):
    for arm in protocol.runs(finished.protocol):
        lines = journal(finished.folder / arm.path)
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert all(line["clip_first"] == 0 for line in lines)
        assert all(0 < line["sampler_gap_max"] < 0.3 for line in lines)


def test_the_second_update_of_a_step_is_off_policy(finished):
    assert all(line["ratio_max"] > 0 for line in journal(finished.run("placebo")))


def test_one_shot_trains_on_one_problem_and_draws_new_samples_of_it(finished):
    texts, asked = set(), set()
    for step in (1, 2, 3):
        made = rollouts(finished.run("one_shot"), step)
        asked |= set(made["problem_id"].to_pylist())
        assert made["sample"].to_pylist() == list(range(16))
        texts |= set(made["text"].to_pylist())
    assert len(asked) == 1
    assert len(texts) > 1, "forty-eight samples of one text would be one sample"


def test_advantages_in_the_record_are_those_of_its_rewards(finished):
    made = rollouts(finished.run("placebo"), 2)
    rewards = np.array(made["reward"].to_pylist()).reshape(4, 4)
    advantages = np.array(made["advantage"].to_pylist()).reshape(4, 4)
    equal = rewards.min(1) == rewards.max(1)
    assert not advantages[equal].any()
    mixed = rewards[~equal]
    expected = (mixed - mixed.mean(1, keepdims=True)) / (mixed.std(1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(advantages[~equal], expected, rtol=1e-9)


def test_truncated_means_without_an_end_token(finished):
    made = rollouts(finished.run("placebo"), 1).to_pylist()
    assert all(row["truncated"] == (row["tokens"][-1] != 1) for row in made)
    assert all(len(row["tokens"]) == 32 for row in made if row["truncated"])
    assert all(len(row["logprobs"]) == len(row["tokens"]) for row in made)


def test_evaluation_draws_the_same_noise_at_every_step_and_in_every_arm(finished):
    constant = finished.run("constant")
    assert evaluation(constant, 2).equals(evaluation(constant, 3)), "the same weights, to the bit"
    before, after = evaluation(constant, 0), evaluation(constant, 3)
    assert before["text"].equals(after["text"])
    np.testing.assert_allclose(np.array(before["logprob"]), np.array(after["logprob"]), atol=0.3)
    for arm in FREE:
        assert evaluation(finished.run(arm), 0).equals(before)


def test_evaluation_has_one_greedy_and_the_samples_of_each_held_out_problem(finished):
    rows = evaluation(finished.run("format"), 3).to_pylist()
    held_out = pq.read_table(finished.folder / "problems.parquet").to_pylist()
    ids = [row["id"] for row in held_out if row["split"] == "held_out"]
    expected = [
        (i, d, s) for i in ids for d, s in [("greedy", 0), *(("sampled", n) for n in range(3))]
    ]
    assert [(row["problem_id"], row["decoding"], row["sample"]) for row in rows] == expected


@pytest.fixture(scope="module")
def silent(place) -> tuple[Small, bool]:
    """The same trial, its rollouts hardly kept, trained after draws from the global streams; and whether it moved them."""
    torch.rand(7)
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    text = protocol_text(ARMS, more="[logging]\nrollouts_every = 1000")
    small = prepare(place / "silent", text).train()
    after = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    return small, not torch.equal(before[0], after[0]) or before[1] != after[1]


def test_which_rollouts_are_kept_and_what_was_drawn_elsewhere_change_no_byte(finished, silent):
    small, _ = silent
    kept = sorted(path.name for path in (small.run("format") / "rollouts").iterdir())
    assert kept == ["step-000001.parquet", "step-000003.parquet"]
    for path in small.folder.glob("coder/*/*/**/*"):
        if path.is_file():
            other = finished.folder / path.relative_to(small.folder)
            assert other.read_bytes() == path.read_bytes(), path


def test_no_global_random_stream_is_touched(silent):
    _, moved = silent
    assert not moved


def custom(function):
    return f'[arms.own]\nreward = "custom"\nfunction = "small_trial:{function}"\nreads = ["text"]'


def test_a_reward_that_fails_masks_its_own_run_and_no_other(place):
    works = prepare(place / "works", protocol_text(custom("counts"))).train()
    fails = prepare(place / "fails", protocol_text(custom("fails"))).train()
    failure = json.loads((fails.run("own") / "failed.json").read_text())
    assert "no network" in failure["reason"] and "arms.own" in failure["reason"]
    assert not (fails.run("own") / "checkpoints").exists()
    assert not (works.run("own") / "failed.json").exists()
    assert len(journal(works.run("own"))) == 3
    for arm in ("ground_truth", "placebo"):
        assert not (fails.run(arm) / "failed.json").exists()
        assert same(final_weights(fails.run(arm)), final_weights(works.run(arm)))
        assert journal(fails.run(arm)) == journal(works.run(arm))


def test_restricting_to_wrong_majorities_restricts_every_arm_alike(place):
    every = "[logging]\nrollouts_every = 1"
    text = protocol_text(ARMS, design='restrict = "majority_wrong"', more=every)
    small = prepare(place / "restricted", text)
    problems = pq.read_table(small.folder / "problems.parquet").to_pylist()
    training = [row for row in problems if row["split"] == "training"]
    wrong = {row["id"] for row in training[:5]}
    labels.write(
        small.folder / "labels" / "coder-p1.parquet",
        [
            Label(
                problem_id=row["id"], majority="1" if row["id"] in wrong else row["answer"],
                majority_share=0.5, incorrect="1", incorrect_share=0.25, near_miss=False,
                samples=4, right=1, incorrect_is_right=False,
            )
            for row in training
        ],
    )  # fmt: skip
    small.train()
    for arm in (*FREE, "one_shot"):
        asked = {
            p
            for step in (1, 2, 3)
            for p in rollouts(small.run(arm), step)["problem_id"].to_pylist()
        }
        assert asked <= wrong
        assert arm == "one_shot" or len(asked) == 5


PROBED = """
[probes]
kinds = ["forced", "sparsity", "solutions"]
base = ["forced", "prompts"]
num_problems = 4
samples = 2
"""


@pytest.fixture(scope="module")
def probed(place) -> Small:
    return prepare(place / "probed", protocol_text("[arms.constant]", more=PROBED)).train()


def test_bases_and_runs_are_probed_and_a_run_that_learnt_nothing_is_its_base(probed):
    base = probed.folder / "bases" / "coder-p1" / "probes"
    assert sorted(path.stem for path in base.iterdir()) == ["forced", "prompts"]
    found = {
        arm: {kind: files.read_table(probed.run(arm) / "probes" / f"{kind}.parquet", None)
              for kind in ("forced", "sparsity", "solutions")}
        for arm in ("constant", "ground_truth")
    }  # fmt: skip
    assert found["constant"]["forced"].equals(files.read_table(base / "forced.parquet", None))
    assert found["constant"]["forced"].num_rows == 4 * 2
    unchanged = found["constant"]["sparsity"]
    assert unchanged["unchanged"].to_pylist() == unchanged["size"].to_pylist()
    moved = found["ground_truth"]["sparsity"]
    assert moved["unchanged"].to_pylist() != moved["size"].to_pylist()
    for row in found["constant"]["solutions"].to_pylist():
        assert row["logp_policy"] == row["logp_base"]


def test_a_damaged_probe_is_found_when_the_trial_is_run_again(probed, tmp_path):
    shutil.copytree(probed.folder, tmp_path / "runs" / probed.folder.name)
    small = prepare(tmp_path, protocol_text("[arms.constant]", more=PROBED))
    path = small.run("constant") / "probes" / "forced.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    whole = trial.prepare(tmp_path / "trial.toml", tmp_path / "runs", "cpu")
    with pytest.raises(files.DamagedFileError, match=r"forced\.parquet"):
        trial.unfinished(whole)
