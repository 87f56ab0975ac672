import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import BASES, EFFECTS, PROTOCOL, TRUNCATED, fabricate

from controlarm import files, journal, protocol
from controlarm.analysis import coverage, reach
from controlarm.analysis.boundary import pass_at_k
from controlarm.analysis.folder import BASE, RIGHT, UNKNOWN, read_trial
from controlarm.analysis.summary import summarise

KEYS = [
    "version", "trial", "headline", "flow", "contrasts", "controls", "curves", "strategies", "partition", "kitagawa",
    "format_split", "decomposition", "pass_at_k", "guess", "maj_at_k", "boundary", "transitions", "entropy_law", "saturation",
    "clipping", "sampling_cost", "rewards", "labels", "rollouts", "notes",
]  # fmt: skip

START, CONTROLS = PROTOCOL.split("[[controls]]", 1)
CODER = "\n".join(
    line
    for line in START.replace('["coder", "talker", "bungler"]', '["coder"]').splitlines()
    if "talker" not in line and "bungler" not in line
)
UNCHANGED = """
[[controls]]
family = "coder"
arm = "{arm}"
expect = "unchanged"
why = "a test"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "fabricated-0"
    fabricate(path)
    return path


@pytest.fixture(scope="module")
def report(folder):
    return summarise(folder)


@pytest.fixture
def small(folder, tmp_path):
    """A folder of another protocol, its runs copied from the fabricated ones of the same pretraining seed."""

    def make(text=CODER, name="fabricated-0"):
        path, plan = tmp_path / name, files.read_json(folder / "plan.json")
        shutil.copytree(folder / "labels", path / "labels")
        for file in ("environment.json", "problems.parquet"):
            shutil.copy(folder / file, path)
        (path / "protocol.toml").write_text(text)
        trial = protocol.parse(text)
        for spec in protocol.runs(trial):
            seed = spec.pretraining_seed
            shutil.copytree(folder / spec._replace(recipe="grpo", seed=seed).path, path / spec.path)
        plan["digest"] = protocol.digest(trial, plan["materials"])
        plan["runs"] = [spec._asdict() for spec in protocol.runs(trial)]
        plan["protocol_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        files.write_json(path / "plan.json", plan)
        return path

    return make


def rows(report, table, **wanted):
    return [r for r in report[table] if all(r[key] == value for key, value in wanted.items())]


def expected(family, arm):
    behaviour = BASES[family] if arm == "base" else EFFECTS.get((family, arm), BASES[family])
    return behaviour.strict * (1 - TRUNCATED)


def test_the_report_has_every_table_and_is_plain_json(report):
    assert list(report) == KEYS
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["trial"]["complete"]
    assert report["flow"]["runs_finished"] == report["flow"]["runs_planned"] == 45
    assert report["flow"]["completions_evaluated"] == 45 * 3 * 24 * 9
    assert report["flow"]["rollouts_trained"] == 45 * 12 * 32
    assert report["flow"]["damaged"] == []


def test_the_same_folder_gives_the_same_report(folder, report):
    assert json.dumps(summarise(folder)) == json.dumps(report)


@pytest.mark.parametrize("versus", ["placebo", "base"])
def test_planted_effects_are_found_within_their_measurement_error(report, versus):
    found = rows(report, "contrasts", metric="accuracy", versus=versus)
    assert len(found) == (12 if versus == "placebo" else 15)
    for row in found:
        other = "random" if versus == "placebo" else "base"
        planted = expected(row["family"], row["arm"]) - expected(row["family"], other)
        assert row["num_units"] == 3
        assert row["family_claim"]
        assert row["estimate"] == pytest.approx(
            planted, abs=4 * row["problem_se"] / np.sqrt(3) + 0.02
        )
        assert row["estimate"] == pytest.approx(np.mean([u["difference"] for u in row["units"]]))


def test_preregistered_controls_are_found_as_planted(report):
    assert [row["found"] for row in report["controls"]] == [
        "superior", "superior", "inferior", "unchanged", "unchanged",
    ]  # fmt: skip
    assert all(row["held"] for row in report["controls"])


def test_only_primary_comparisons_are_adjusted_and_others_are_exploratory(report):
    for row in rows(report, "contrasts", metric="accuracy", versus="placebo"):
        primary = row["arm"] == "ground_truth" or (row["family"], row["arm"]) == ("coder", "python")
        assert row["primary"] == primary == (not row["exploratory"])
        assert (row["p_holm"] is not None) == (row["holm_lower"] is not None) == primary
        assert row["verdict"] in ("superior", "inferior", "equivalent", "inconclusive")
        if primary:
            base = rows(report, "contrasts", metric="accuracy", versus="base", family=row["family"], arm=row["arm"])  # fmt: skip
            both = row["holm_lower"] > 0 and base[0]["holm_lower"] > 0
            assert (row["verdict"] == "superior") == both == (row["p_holm"] < 0.025)
    assert {row["verdict"] for row in rows(report, "contrasts", versus="base")} == {None}
    assert {row["verdict"] for row in rows(report, "contrasts", metric="code_share")} == {None}


def test_an_arm_that_is_its_base_differs_by_exactly_nothing(report):
    for row in rows(report, "contrasts", arm="constant", versus="base"):
        assert (row["estimate"], row["sd"], row["ci95"]) == (0, 0, [0, 0])
        assert row["mde"] is None


def test_the_decomposition_adds_up_in_every_unit(report):
    for family in BASES:
        parts = {row["part"]: row for row in rows(report, "decomposition", family=family)}
        assert list(parts) == ["null", "elicitation", "reward_design", "total"]
        for i in range(3):
            null, elicitation, design, total = (p["units"][i]["value"] for p in parts.values())
            assert null + elicitation + design == pytest.approx(total, abs=1e-12)
        raw = rows(
            report, "contrasts", family=family, arm="ground_truth", versus="base", metric="accuracy"
        )
        assert parts["total"]["estimate"] == pytest.approx(raw[0]["estimate"])


def test_the_kitagawa_split_finds_what_was_planted_and_adds_up(report):
    for row in report["kitagawa"]:
        assert row["share_effect"] + row["accuracy_effect"] == pytest.approx(row["gain"], abs=1e-12)
    (python,) = rows(report, "kitagawa", family="coder", arm="python")
    assert python["share_effect"] > 3 * abs(python["accuracy_effect"])
    (talker,) = rows(report, "kitagawa", family="talker", arm="ground_truth")
    assert talker["share_effect"] == 0
    assert talker["accuracy_effect"] > 0.2


def test_the_format_part_is_strict_minus_lenient(report):
    for row in report["format_split"]:
        assert row["format_part"] == pytest.approx(row["gain_strict"] - row["gain_lenient"])


def test_strategies_cover_all_completions(report):
    for code in rows(report, "strategies", strategy="code"):
        same = {k: code[k] for k in ("family", "recipe", "arm", "step", "decoding", "detector")}
        (words,) = rows(report, "strategies", strategy="words", **same)
        assert code["share"] + words["share"] == pytest.approx(1)
        assert code["num_completions"] + words["num_completions"] == 3 * 24 * (
            8 if code["decoding"] == "sampled" else 1
        )
        if code["family"] == "talker":
            assert (code["num_completions"], code["accuracy"]) == (0, None)


def test_the_partition_counts_every_greedy_problem_and_sums_to_the_greedy_gain(report):
    for row in rows(report, "partition", step=12):
        assert sum(cell["num_problems"] for cell in row["cells"].values()) == 3 * 24
        greedy = rows(report, "contrasts", family=row["family"], arm=row["arm"], versus="base", metric="greedy_accuracy")  # fmt: skip
        assert row["change_total"] / (3 * 24) == pytest.approx(greedy[0]["estimate"])


def test_pass_and_majority_at_1_agree_with_accuracy(report):
    for row in report["pass_at_k"]:
        curve = row["values"]
        assert curve == sorted(curve)
        assert np.mean([unit[0] for unit in row["units"]]) == pytest.approx(curve[0])
        (first,) = rows(report, "maj_at_k", family=row["family"], arm=row["arm"], k=1)
        assert first["value"] == pytest.approx(curve[0])
        if row["arm"] not in ("base", "random"):
            versus = rows(report, "contrasts", family=row["family"], arm=row["arm"], versus="placebo", metric="accuracy")  # fmt: skip
            assert curve[0] == pytest.approx(np.mean([u["arm_value"] for u in versus[0]["units"]]))


def test_pass_at_k_comes_from_the_rows(folder, report):
    table = pq.read_table(
        folder / "coder/majority/grpo-p2-s2/evaluations/step-000012.parquet"
    ).to_pylist()
    right = np.array([r["strict"] == "right" for r in table if r["decoding"] == "sampled"]).reshape(
        24, 8
    )
    (row,) = rows(report, "pass_at_k", family="coder", arm="majority")
    assert row["units"][1][2] == pytest.approx(
        pass_at_k(np.full(24, 8), right.sum(axis=1), 4).mean()
    )


@pytest.fixture(scope="module")
def sampled(folder):
    trial = read_trial(folder)

    def of(arm):
        cell = trial.cell("coder", "grpo", arm, 0 if arm == BASE else 12)
        return {unit: e.sampled for unit, e in cell.items()}

    return of


def test_exchanging_arm_and_base_exchanges_what_each_alone_solves(sampled):
    base, arm = sampled(BASE), sampled("ground_truth")
    there, back = reach.compare(base, arm, [1, 2, 8]), reach.compare(arm, base, [1, 2, 8])
    assert there and back
    np.testing.assert_allclose(there.band.estimate, -back.band.estimate, atol=1e-12)
    np.testing.assert_allclose(there.band.low, -back.band.high, atol=1e-12)
    kept, lost, new, never = there.solvable
    assert new != lost
    assert back.solvable == (kept, new, lost, never)
    assert there.support.nscr == -back.support.nscr
    assert there.gap.value != back.gap.value


def test_who_solves_what_counts_every_problem_in_every_unit_once(report):
    assert len(report["boundary"]) == 15
    at_k = {(r["family"], r["arm"]): r["values"] for r in report["pass_at_k"]}
    for row in report["boundary"]:
        cells = row["solvable"]
        assert sum(cells.values()) == 24 * 3
        assert row["without_all_samples"] == 0
        for name, (low, high) in row["solvable_ci95"].items():
            assert low <= cells[name] / 72 <= high
        base, arm = at_k[row["family"], "base"], at_k[row["family"], row["arm"]]
        # With as many tries as samples, pass@k is the share of the problems that are solved.
        assert (cells["both"] + cells["trained_only"]) / 72 == pytest.approx(arm[-1])
        assert (cells["both"] + cells["base_only"]) / 72 == pytest.approx(base[-1])
        np.testing.assert_allclose(row["difference"], np.subtract(arm, base), atol=1e-6)
        assert row["sampling_gap"] == pytest.approx(base[-1] - arm[0])
        assert f"= {100 * row['sampling_gap']:+.1f} points" in row["gap_sentence"]


def test_an_arm_that_is_its_base_is_never_overtaken_and_gains_only_what_noise_gains(report):
    for row in rows(report, "boundary", arm="constant"):
        assert row["same"]
        assert set(row["difference"]) == {0}
        assert row["new_to_trained"] == row["new_to_base"] > 0
        assert (
            row["sentence"]
            == f"{row['family']}: constant solves every problem exactly as often as its base."
        )
    (truth,) = rows(report, "boundary", family="talker", arm="ground_truth")
    assert truth["new_to_trained"] > truth["new_to_base"]


def test_a_problem_is_evidence_once_however_many_units_share_it():
    single = coverage.share(3, 24)
    for units in (1, 2, 5):
        found = reach.share_interval(3 * units, 24 * units, units)
        np.testing.assert_allclose(found, (single.low, single.high))


def test_a_verdict_that_is_unknown_takes_its_problem_out_of_who_solves_what(sampled):
    base, arm = sampled(BASE), sampled("majority")
    whole = reach.compare(base, arm, [1, 8])
    unit = next(iter(arm))
    strict = arm[unit].strict.copy()
    strict[0, 0] = UNKNOWN
    part = reach.compare(base, arm | {unit: replace(arm[unit], strict=strict)}, [1, 8])
    assert whole and part
    assert part.without_all_samples == 1
    assert part.solvable.num_problems == whole.solvable.num_problems - 1


def test_a_list_of_k_in_any_order_gives_the_same_numbers(small, report):
    text = CODER.replace("pass_at_k = [1, 2, 4, 8]", "pass_at_k = [8, 2, 4]")
    other = summarise(small(text))
    for row in other["pass_at_k"]:
        (same,) = rows(report, "pass_at_k", family="coder", arm=row["arm"])
        for key in ("values", "pass_by_derivation", "pass_beyond_guessing"):
            found = dict(zip(row["k"], row[key], strict=True))
            wanted = dict(zip(same["k"], same[key], strict=True))
            assert found == pytest.approx({k: wanted[k] for k in found})
    for row in other["boundary"]:
        (same,) = rows(report, "boundary", family="coder", arm=row["arm"])
        assert row["k"] == [2, 4, 8]
        assert row["difference"] == same["difference"][1:]
        assert row["sampling_gap"] == pytest.approx(same["sampling_gap"])


def test_guessing_taken_out_leaves_less_and_derivations_are_counted_apart(sampled, report):
    for row in report["pass_at_k"]:
        pairs = zip(row["pass_beyond_guessing"], row["values"], strict=True)
        assert all(beyond <= plain + 1e-12 for beyond, plain in pairs)
    base = sampled(BASE)
    valid = [(part.derived == 1).mean() for part in base.values()]
    strict = [(part.strict == RIGHT).mean() for part in base.values()]
    (row,) = rows(report, "pass_at_k", family="coder", arm="base")
    assert row["pass_by_derivation"][0] == pytest.approx(np.mean(valid))
    assert row["values"][0] == pytest.approx(np.mean(strict))


def test_every_run_with_a_journal_has_one_verdict_on_its_shape(report):
    assert len(report["transitions"]) == 2 * 15
    for row in report["transitions"]:
        assert sum(row["verdicts"].values()) == row["num_runs"] == 3
        changed = row["verdicts"]["step"] + row["verdicts"]["logistic"]
        assert (row["change_point"] is not None) == (changed > 0)
        if row["arm"] == "random":
            assert row["false_detections"] == pytest.approx(changed / row["num_placebo"])


def journalled(path, change):
    """Write every line of the coder's journals of an arm anew."""
    for file in path.glob("coder/ground_truth/*/steps.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line.pop("sha256", None)
            line.update(change(line["step"]))
        file.write_bytes(b"".join(journal.line(line) for line in lines))


def test_planted_dynamics_are_found(small):
    path = small()
    journalled(
        path,
        lambda step: {
            "code_share": 0.2 if step <= 6 else 0.9, "accuracy": 0.97, "generated": 3 * 32,
            "entropy": 0.5 - 0.03 * step, "reward": float(2 - np.exp(0.5 - 0.03 * step)),
        },
    )  # fmt: skip
    report = summarise(path)
    assert report["flow"]["damaged"] == []
    (share,) = rows(report, "transitions", arm="ground_truth", metric="train_code_share")
    assert share["verdicts"]["step"] == 3
    assert share["change_point"] == pytest.approx(6.5)
    (law,) = rows(report, "entropy_law", arm="ground_truth")
    assert (law["a"], law["b"], law["ceiling"], law["skill"]) == pytest.approx((1, 2, 1, 1))
    (constant,) = rows(report, "entropy_law", arm="constant")
    assert (constant["num_fitted"], constant["a"]) == (0, None)
    (after,) = report["saturation"]
    assert (after["arm"], after["num_saturated"], after["saturation_step"]) == ("ground_truth", 3, 1)  # fmt: skip
    (cost,) = report["sampling_cost"]
    assert (cost["arm"], cost["trained"], cost["cost"]) == ("ground_truth", 3 * 12 * 32, 3)


def test_clipping_by_prior_is_split_without_rest(report):
    for row in report["clipping"]:
        for part, whole in (("prior", 1), ("clip_low", 0.01), ("clip_high", 0.02)):
            split = [row[f"{part}_{band}"] for band in ("rare", "open", "likely", "sure")]
            assert sum(split) == pytest.approx(whole)


def test_rewards_tell_the_truth_from_a_coin(report):
    for row in report["rewards"]:
        assert row["youden"] == pytest.approx(row["tpr"] - row["fpr"])
        if row["arm"] == "ground_truth":
            assert (row["tpr"], row["fpr"]) == (1, 0)
        if row["arm"] == "constant":
            assert (row["youden"], row["equal_groups"]) == (0, 1)
        if row["arm"] == "random":
            assert abs(row["youden"]) < 0.15


def test_labels_are_audited_against_the_gold_answers(folder, report):
    gold = {r["id"]: r["answer"] for r in pq.read_table(folder / "problems.parquet").to_pylist()}
    for row in report["labels"]:
        labels = pq.read_table(
            folder / f"labels/{row['family']}-p{row['pretraining_seed']}.parquet"
        ).to_pylist()
        assert row["problems"] == 40
        assert row["majority_right"] == sum(r["majority"] == gold[r["problem_id"]] for r in labels)


def test_the_same_problems_stand_side_by_side(report):
    by_arm = {}
    for row in rows(report, "rollouts", family="coder", decoding="greedy"):
        by_arm.setdefault(row["arm"], []).append(row["problem_id"])
    assert set(by_arm) == {"base", "ground_truth", "majority", "python", "random", "constant"}
    assert len({tuple(ids) for ids in by_arm.values()}) == 1
    assert len(json.dumps(report)) < 2_000_000


def test_sentences_say_gain_over_placebo_and_never_learning(report):
    text = " ".join(report["headline"])
    assert "coder: ground_truth gains" in text
    assert "points over random (95 % interval" in text
    assert "3 seeds): superior." in text
    assert "coder: over the base, ground_truth gains" in text
    assert "learn" not in text


def test_equal_rewards_are_refused_the_claim_where_another_term_acts(small):
    text = CODER.replace("learning_rate = 1e-3", "learning_rate = 1e-3\nkl_coef = 0.01")
    report = summarise(small(text + UNCHANGED.format(arm="constant")))
    (control,) = report["controls"]
    assert control["held"] is None
    assert "kl_coef" in control["detail"]


def test_python_is_not_applicable_where_rollouts_hold_code_and_says_how_many(small):
    path = small(CODER + UNCHANGED.format(arm="python"))
    (control,) = summarise(path)["controls"]
    held = 0
    for seed in (1, 2, 3):
        lines = (path / f"coder/python/grpo-p{seed}-s{seed}/steps.jsonl").read_text().splitlines()
        held += sum(round(json.loads(line)["code_share"] * 32) for line in lines)
    assert (control["held"], control["found"]) == (None, "not applicable")
    assert f"{held} rollouts held code" in control["detail"]


def test_an_arm_whose_weights_moved_is_not_unchanged(small):
    (control,) = summarise(small(CODER + UNCHANGED.format(arm="random")))["controls"]
    assert (control["found"], control["held"]) == ("changed", False)


def test_missing_runs_leave_the_contrast_and_are_listed(small):
    path = small(CODER + UNCHANGED.format(arm="constant"))
    shutil.rmtree(path / "coder/ground_truth/grpo-p1-s1")
    shutil.rmtree(path / "coder/constant/grpo-p1-s1")
    report = summarise(path)
    assert not report["trial"]["complete"]
    assert report["headline"][0].startswith("The trial is not complete: 2 of 15 runs")
    assert len(report["flow"]["runs_unfinished"]) == 2
    (row,) = rows(report, "contrasts", arm="ground_truth", versus="placebo", metric="accuracy")
    assert row["num_units"] == 2
    assert not row["family_claim"]
    (control,) = report["controls"]
    assert (control["found"], control["held"]) == ("unknown", None)


def test_a_folder_with_nothing_but_a_plan_still_gives_a_report(small):
    path = small()
    for run in path.glob("coder/*/*"):
        shutil.rmtree(run)
    report = summarise(path)
    json.dumps(report, allow_nan=False)
    assert report["flow"]["runs_finished"] == 0
    assert {row["verdict"] for row in rows(report, "contrasts", versus="placebo", metric="accuracy")} == {"inconclusive"}  # fmt: skip
    assert any(
        "nothing is said of: coder ground_truth, coder python" in line
        for line in report["headline"]
    )


def test_one_seed_gives_numbers_without_intervals(small):
    report = summarise(small(CODER.replace("[1, 2, 3]", "[1]")))
    (row,) = rows(report, "contrasts", arm="ground_truth", versus="placebo", metric="accuracy")
    assert row["estimate"] > 0.1
    assert (row["ci95"], row["sd"], row["p_superior"], row["mde"]) == (None, None, None, None)
    assert row["verdict"] == "inconclusive"
    assert "one unit: no interval" in report["headline"][0]


def test_crossed_seeds_count_pretrained_models(small):
    text = CODER.replace("num_steps", 'pairing = "crossed"\nnum_steps').replace("\nseeds = [1, 2, 3]", "\nseeds = [1, 2]")  # fmt: skip
    (row,) = rows(
        summarise(small(text)), "contrasts", arm="majority", versus="placebo", metric="accuracy"
    )
    assert len(row["units"]) == 6
    assert row["num_units"] == 3


def test_every_recipe_has_its_own_contrasts_and_counts_among_the_comparisons(small):
    at = CODER.index("[recipes.grpo]")
    end = CODER.index("[arms]")
    twice = CODER[:end] + CODER[at:end].replace("recipes.grpo", "recipes.slow") + CODER[end:]
    report = summarise(small(twice))
    found = rows(report, "contrasts", arm="ground_truth", versus="placebo", metric="accuracy")
    assert [row["recipe"] for row in found] == ["grpo", "slow"]
    best = min(rows(report, "contrasts", primary=True), key=lambda r: r["p_holm"])
    p = max(r["p_superior"] for r in rows(report, "contrasts", metric="accuracy", recipe=best["recipe"], arm=best["arm"]))  # fmt: skip
    assert best["p_holm"] == pytest.approx(4 * p)  # two comparisons × two recipes
    assert report["headline"][0].startswith("coder (grpo): ")


def test_unknown_verdicts_are_counted(small):
    path = small()
    file = path / "coder/random/grpo-p1-s1/evaluations/step-000012.parquet"
    table = pq.read_table(file)
    strict = ["unknown"] * 5 + table["strict"].to_pylist()[5:]
    changed = table.set_column(table.schema.get_field_index("strict"), "strict", pa.array(strict))
    files.write_table(file, changed)
    report = summarise(path)
    assert report["flow"]["unscored"] == 5
    assert any("gave up on 5 held-out completions" in note for note in report["notes"])


def test_sibling_trials_of_the_same_name_are_listed(small, tmp_path):
    path = small()
    small(CODER.replace("margin = 0.03", "margin = 0.10"), "fabricated-1")
    shutil.copytree(path, tmp_path / "copy")
    (tmp_path / "not-a-trial").mkdir()
    report = summarise(path)
    assert [s["folder"] for s in report["trial"]["siblings"]] == ["fabricated-1"]
    assert any("fabricated-1" in note for note in report["notes"])


def test_an_infinite_clip_bound_stays_readable(small):
    text = CODER.replace("learning_rate = 1e-3", "learning_rate = 1e-3\nepsilon_high = inf")
    report = summarise(small(text))
    assert report["trial"]["protocol"]["recipes"]["grpo"]["epsilon_high"] == "Infinity"


def test_analysis_imports_no_torch():
    code = "import sys, controlarm.analysis.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trial_that_another_machine_continued_says_so(small):
    path = small()
    file = path / "environment.json"
    began = files.read_json(file)
    assert not any(
        "another" in note or "other environment" in note for note in summarise(path)["notes"]
    )
    files.write_json(file, began | {"continued": [began | {"processor": "another"}]})
    assert any("other environment continued" in note for note in summarise(path)["notes"])
