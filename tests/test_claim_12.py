"""A prompt's gain is on the same problems as the plain prompt's, and training is held against what the best one gave its own base."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fabricate import PROTOCOL, Behaviour, fabricate
from fabricate_records import shrunk

from claims import c12_best_prompt as claim
from claims.ledger import Record, tables_of
from controlarm import files, protocol
from controlarm.probes.prompting import PROMPTS

TEXT = shrunk(
    PROTOCOL.split("[[controls]]", 1)[0],
    ('"fabricated"', '"six_rewards"'),
    ('"coder", "talker", "bungler"', '"coder", "bungler"'),
    ('  {family = "talker", arm = "ground_truth"},\n', ""),
    ("num_steps = 12", "num_steps = 2"),
    ("num_problems = 24", "num_problems = 12"),
    ("steps = [0, 6, 12]", "steps = [0, 2]"),
    ("step = 12", "step = 2"),
    ("num_problems = 40", "num_problems = 8"),
    ("constant = {}\n", ""),
)

EFFECTS = {("coder", "ground_truth"): Behaviour(1.0, 1.0, 1.0, 1.0, 1.0)}

RIGHT = {
    "coder": {"plain": 3, "nonsense": 2, "long_nonsense": 1, "code_opening": 5, "words_opening": 1},
    "bungler": {
        "plain": 3,
        "nonsense": 3,
        "long_nonsense": 3,
        "code_opening": 1,
        "words_opening": 3,
    },
}
"""Right samples of eight, on every problem; on coder one more on as many of the first problems as the model's number."""


def prompts_of(family: str, seed: int, num_problems: int = 12) -> pa.Table:
    rows = []
    for prompt in PROMPTS:
        for i in range(num_problems):
            code = prompt == "code_opening"
            more = int(prompt != "plain" and i < seed)
            right = RIGHT[family][prompt] + (more if family == "coder" else 0)
            rows.append(
                {"problem_id": f"p{i}", "prompt": prompt, "prompt_text": prompt, "samples": 8, "right": right, "lenient_right": 4,
                 "unknown": 0, "lenient_unknown": 0, "derived": 0, "boxed": 8, "code": 8 * code, "truncated": 0, "greedy_right": True,
                 "greedy_lenient_right": True, "greedy_boxed": True, "greedy_code": code}
            )  # fmt: skip
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("claim 12") / "run"
    plan: protocol.Protocol = fabricate(made, TEXT, EFFECTS)
    for family in plan.design.families:
        for seed in plan.design.pretraining_seeds:
            path = made / f"bases/{family}-p{seed}/probes/prompts.parquet"
            files.write_table(path, prompts_of(family, seed))
    return made


@pytest.fixture(scope="module")
def made(folder) -> dict:
    return tables_of(claim.CLAIM, {"six_rewards": Record(folder)})


def of(rows: list[dict], family: str, key: str) -> dict[str, dict]:
    return {row[key]: row for row in rows if row["family"] == family}


def test_gains_are_over_the_plain_prompt_and_over_models(made):
    coder = of(made["prompts"], "coder", "prompt")
    more = np.mean([seed / 12 / 8 for seed in (1, 2, 3)])
    assert coder["code_opening"]["gain"]["mean"] == pytest.approx(2 / 8 + more)
    assert coder["nonsense"]["gain"]["mean"] == pytest.approx(-1 / 8 + more)
    assert coder["code_opening"]["gain"]["sign"] == "gains"
    assert coder["plain"]["gain"]["sign"] == "gains exactly nothing"
    assert coder["code_opening"]["code_share"]["mean"] == 1
    assert set(of(made["prompts"], "bungler", "prompt")) == set(PROMPTS)


def test_the_best_prompt_is_the_one_that_was_planted_and_the_plain_one_where_none_is_better(made):
    best = {row["family"]: row for row in made["best"]}
    assert best["coder"]["chosen"] == {"code_opening": 3}
    assert best["coder"]["fair_gain"]["mean"] == pytest.approx(best["coder"]["gain"]["mean"])
    assert best["bungler"]["chosen"] == {"plain": 3}
    assert best["bungler"]["fair_gain"]["mean"] == 0


def test_training_is_held_against_the_best_prompt_of_its_own_base(made, folder):
    best = {row["family"]: row for row in made["best"]}
    for row in made["arms"]:
        over = row["gain"]["mean"] - best[row["family"]]["fair_gain"]["mean"]
        assert row["over_best"]["mean"] == pytest.approx(over)
    report = Record(folder).report["contrasts"]
    (truth,) = (
        row for row in report if (row["family"], row["arm"], row["versus"], row["metric"]) == ("coder", "ground_truth", "base", "accuracy")
    )  # fmt: skip
    found = of(made["arms"], "coder", "arm")["ground_truth"]
    assert found["gain"]["mean"] == pytest.approx(truth["estimate"])
    per_model = {unit["pretraining_seed"]: unit["difference"] for unit in truth["units"]}
    fair = {seed: (2 + seed / 12) / 8 for seed in per_model}
    expected = np.mean([per_model[seed] - fair[seed] for seed in per_model])
    assert found["over_best"]["mean"] == pytest.approx(expected)


def test_a_page_says_it_in_words(made):
    assert claim.finding(made).verdict == "partly"
    page = claim.page(made)
    assert "**`coder`**" in page.found and "`code_opening` (3)" in page.found
    assert sum(len(line.split()) for part in page for line in part.splitlines() if line[:1] != "|") < 600  # fmt: skip
    assert claim.page({**made, "arms": [], "prompts": [], "best": [], "models": []}).caution


def test_what_nonsense_brings_is_told_from_boxes_by_the_lenient_grader(made):
    assert len(made["models"]) == 6
    assert all(row["lenient_gain"] == 0 for row in made["models"])
    raised = [row for row in made["models"] if row["gain"] > 0]
    assert not raised and "raises none of 6 models" in claim._raised(made["models"])
    one = {**made["models"][0], "gain": 0.1, "lenient_gain": -0.1}
    assert "raises 1 of 1 model" in claim._raised([one]) and "all that it brings is boxes" in claim._raised([one])  # fmt: skip
    assert "lenient grader 1 of these" in claim._raised([{**one, "lenient_gain": 0.1}])


NOT = "not told apart from the base"


def world(nonsense: str, long: str, code: str, bungler: str, talker: str) -> dict:
    signs = [("coder", "nonsense", nonsense), ("coder", "long_nonsense", long), ("coder", "code_opening", code),
             ("bungler", "code_opening", bungler), ("talker", "code_opening", talker)]  # fmt: skip
    gain = {"mean": 0.1, "low": 0.0, "high": 0.2}
    rows = [{"family": f, "prompt": p, "gain": {**gain, "sign": sign}} for f, p, sign in signs]
    return {"prompts": rows, "arms": []}


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world("gains", NOT, "gains", "loses", "loses"), "reproduced"),
        (world(NOT, "gains", "gains", "loses", "loses"), "reproduced"),
        (world("loses", "loses", "gains", "loses", "loses"), "partly"),
        (world("gains", NOT, "gains", NOT, "loses"), "partly"),
        (world("gains", NOT, "loses", "loses", "loses"), "partly"),
        (world(NOT, NOT, "loses", "loses", "loses"), "refuted in miniature"),
        (world("loses", "loses", NOT, "loses", "loses"), "refuted in miniature"),
        (world("loses", NOT, NOT, "loses", "loses"), "not at this scale"),
        ({"prompts": [], "arms": []}, "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(made, verdict):
    assert claim.finding(made).verdict == verdict
