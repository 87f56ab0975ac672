"""When and how: a shift of shares is none of skill, skill is none of shares, and both add up to what forced accuracies say."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fabricate import PROTOCOL, Behaviour, fabricate
from fabricate_records import shrunk
from hypothesis import given, settings
from hypothesis import strategies as st

from claims import c10_when_not_how as claim
from claims.ledger import Record, tables_of
from controlarm import files, protocol, seeds
from controlarm.analysis import probes
from controlarm.analysis.folder import RIGHT, UNKNOWN, WRONG, Completions, Evaluation

IDS = tuple("abcdef")


def evaluation(right: np.ndarray, code: np.ndarray) -> Evaluation:
    """Graded samples; everything but verdicts and strategies is beside the point."""
    strict, no = np.where(right, RIGHT, WRONG).astype(np.int8), np.zeros(right.shape, bool)
    graded = Completions(
        strict=strict, lenient=strict, boxed=no, has_python=code, code_parses=no,
        derived=strict, truncated=no, answer=np.full(right.shape, None, object),
    )  # fmt: skip
    return Evaluation(problem_ids=IDS, greedy=graded, sampled=graded, weights_sha256="0")


def counted(ids: tuple[str, ...], right: dict[str, np.ndarray], samples: int = 8) -> list[dict]:
    """Rows of a table of forced strategies; a count below 0: all its verdicts are unknown."""
    return [
        {"problem_id": problem, "strategy": strategy, "samples": samples, "right": max(0, int(right[strategy][i])),
         "lenient_right": max(0, int(right[strategy][i])), "unknown": samples * int(right[strategy][i] < 0),
         "lenient_unknown": 0, "derived": 0, "boxed": samples, "code": samples * (strategy == "code"), "truncated": 0,
         "greedy_right": True, "greedy_lenient_right": True, "greedy_boxed": True, "greedy_code": strategy == "code"}
        for i, problem in enumerate(ids) for strategy in ("code", "words")
    ]  # fmt: skip


def forced(code: np.ndarray, words: np.ndarray) -> claim.Forced:
    return probes.forced(pa.Table.from_pylist(counted(IDS, {"code": code, "words": words})))


class World:
    """Random shares, verdicts and counts on six problems."""

    def __init__(self, seed: int):
        rng = seeds.generator("when and how", seed)
        self.evaluations = [evaluation(rng.random((6, 8)) < 0.5, rng.random((6, 8)) < rng.random()) for _ in range(2)]  # fmt: skip
        self.counts = [[rng.integers(0, 9, 6) for _ in range(2)] for _ in range(2)]
        self.shares = [claim.code_shares(e, IDS) for e in self.evaluations]

    def told(self, at: int) -> np.ndarray:
        """Accuracy of each problem from shares and forced accuracies."""
        code, words = self.counts[at]
        return (self.shares[at] * code + (1 - self.shares[at]) * words) / 8


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_when_and_how_add_up_to_what_shares_and_forced_accuracies_say(seed):
    world = World(seed)
    before, after = world.evaluations
    one, other = (forced(*counts) for counts in world.counts)
    made = claim.made_of(before, after, one, other)
    assert made.when + made.how == pytest.approx((world.told(1) - world.told(0)).mean())
    assert made.gain == pytest.approx(made.when + made.how + made.rest)
    assert made.code == pytest.approx((world.counts[1][0] - world.counts[0][0]).mean() / 8)
    assert made.words == pytest.approx((world.counts[1][1] - world.counts[0][1]).mean() / 8)
    assert made.how_lenient == pytest.approx(made.how)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_without_new_skill_there_is_no_how_and_without_new_shares_no_when(seed):
    world = World(seed)
    before, after = world.evaluations
    one, other = (forced(*counts) for counts in world.counts)
    assert claim.made_of(before, after, one, one).how == 0
    assert claim.made_of(before, before, one, other).when == 0
    back = claim.made_of(after, before, other, one)
    there = claim.made_of(before, after, one, other)
    assert (back.when, back.how) == pytest.approx((-there.when, -there.how))


def test_a_problem_of_unknown_verdicts_is_left_out_of_all_parts():
    world = World(1)
    (code, words), second = world.counts
    hidden = np.where(np.arange(6) == 2, -1, code)
    before, after = world.evaluations
    made = claim.made_of(before, after, forced(hidden, words), forced(*second))
    kept = np.arange(6) != 2
    assert made.when + made.how == pytest.approx((world.told(1) - world.told(0))[kept].mean())


def test_shares_are_found_by_problem_and_not_by_place():
    code = np.arange(6)[:, None] > np.arange(8)[None]
    one = evaluation(code, code)
    assert claim.code_shares(one, ("f", "a", "z")) == pytest.approx([5 / 8, 0, np.nan], nan_ok=True)
    assert UNKNOWN not in one.sampled.strict


# A whole trial.

TEXT = shrunk(
    PROTOCOL.split("[[controls]]", 1)[0],
    ('"fabricated"', '"six_rewards"'),
    ('"coder", "talker", "bungler"', '"coder", "bungler"'),
    ('  {family = "talker", arm = "ground_truth"},\n', ""),
    ("num_steps = 12", "num_steps = 2"),
    ("num_problems = 24", "num_problems = 16"),
    ("steps = [0, 6, 12]", "steps = [0, 2]"),
    ("step = 12", "step = 2"),
    ("num_problems = 40", "num_problems = 8"),
    ("constant = {}\n", ""),
)

EFFECTS = {
    ("coder", "ground_truth"): Behaviour(1.0, 0.80, 0.30),
    ("bungler", "ground_truth"): Behaviour(0.65, 0.9, 0.9, 1.0, 1.0),
}
"""On coder the truth shifts shares alone; on bungler skill alone."""


def probed(folder: Path, plan: protocol.Protocol) -> None:
    """Tables of forced strategies: code right on six of eight samples on coder and on one of eight on bungler, words the reverse; after the truth on bungler, both on seven."""
    ids = tuple(Record(folder).trial.runs[0].evaluations[0].problem_ids)

    def write(path: Path, code: int, words: int) -> None:
        right = {"code": np.full(len(ids), code), "words": np.full(len(ids), words)}
        files.write_table(path, pa.Table.from_pylist(counted(ids, right)))

    base = {"coder": (6, 1), "bungler": (1, 6)}
    for family, counts in base.items():
        for seed in plan.design.pretraining_seeds:
            write(folder / f"bases/{family}-p{seed}/probes/forced.parquet", *counts)
    for spec in protocol.runs(plan):
        taught = (spec.family, spec.arm) == ("bungler", "ground_truth")
        write(folder / spec.path / "probes/forced.parquet", *((7, 7) if taught else base[spec.family]))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("claim 10") / "run"
    probed(made, fabricate(made, TEXT, EFFECTS))
    return made


@pytest.fixture(scope="module")
def made(folder) -> dict:
    return tables_of(claim.CLAIM, {"six_rewards": Record(folder)})


def test_shares_that_were_planted_are_when_and_skill_is_how(made):
    arms = {(row["family"], row["arm"]): row for row in made["arms"]}
    coder, bungler = (arms[family, "ground_truth"] for family in ("coder", "bungler"))
    assert coder["when"]["sign"] == "gains" and coder["how"]["mean"] == pytest.approx(0)
    assert bungler["how"]["sign"] == "gains" and bungler["when"]["mean"] == pytest.approx(0, abs=1e-9)  # fmt: skip
    assert bungler["code"]["mean"] == pytest.approx(6 / 8)
    assert bungler["words"]["mean"] == pytest.approx(1 / 8)
    assert coder["when_minus_how"]["sign"] == "gains"
    assert claim.finding(made).verdict == "partly"


def test_a_base_chooses_as_its_counts_say(made):
    for row in made["bases"]:
        share = row["code_share"] if row["family"] == "coder" else 1 - row["code_share"]
        assert row["oracle"]["mean"] == pytest.approx(6 / 8)
        assert row["naive_oracle"]["mean"] == pytest.approx(6 / 8)
        assert row["own"]["mean"] == pytest.approx(share * 6 / 8 + (1 - share) * 1 / 8)
        assert row["bound"]["mean"] == pytest.approx(6 / 8 - row["own"]["mean"])
        assert row["unknown"] == 0


def test_a_gain_beyond_the_bound_is_beyond_by_their_difference(made):
    bases = {row["family"]: row for row in made["bases"]}
    for row in made["arms"]:
        over = row["gain"]["mean"] - bases[row["family"]]["bound"]["mean"]
        assert row["beyond_bound"]["mean"] == pytest.approx(over)
        assert row["under_bound"] is None or 0 <= row["under_bound"] <= 1


def test_models_average_to_their_family(made):
    for family in ("coder", "bungler"):
        own = [row for row in made["models"] if row["family"] == family]
        (arm,) = (r for r in made["arms"] if (r["family"], r["arm"]) == (family, "ground_truth"))
        assert [row["model"] for row in own] == [1, 2, 3]
        for key in ("gain", "when", "how"):
            assert np.mean([row[key] for row in own]) == pytest.approx(arm[key]["mean"])
    assert own[0]["share_before"] == pytest.approx(
        own[0]["share_after"]
    )  # bungler's was planted so


def test_a_page_says_it_in_words(made):
    page = claim.page(made)
    assert "**`coder`**" in page.found and "| `bungler` | `ground_truth` |" in page.found
    assert sum(len(line.split()) for part in page for line in part.splitlines() if line[:1] != "|") < 600  # fmt: skip
    assert claim.page({**made, "arms": [], "bases": [], "models": []}).caution


def test_a_run_that_was_not_probed_has_no_part_in_any_number(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    runs = protocol.runs(Record(copy).protocol)
    gone = next(s for s in runs if (s.family, s.arm) == ("coder", "ground_truth"))
    (copy / gone.path / "probes/forced.parquet").unlink()
    found = claim.tables({"six_rewards": Record(copy)})
    units = {(row["family"], row["arm"]): row["gain"]["units"] for row in found["arms"]}
    assert units.pop(("coder", "ground_truth")) == 2 and set(units.values()) == {3}


def part(sign: str) -> dict:
    return {"mean": 0.1, "low": 0.05, "high": 0.15, "sign": sign, "within_low": 0.05, "within_high": 0.15}  # fmt: skip


NOT = "not told apart from the base"


@pytest.mark.parametrize(
    ("coder", "bungler", "verdict"),
    [
        (("gains", "gains"), ("gains", "gains"), "reproduced"),
        (("gains", "gains"), ("gains", "loses"), "partly"),
        (("gains", NOT), ("gains", "gains"), "partly"),
        (("gains", "loses"), ("gains", NOT), "refuted in miniature"),
        (("gains", NOT), ("gains", NOT), "not at this scale"),
        ((NOT, "gains"), (NOT, "loses"), "not at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(coder, bungler, verdict):
    arms = [
        {"family": family, "arm": "ground_truth", "gain": part(gain), "when_minus_how": part(difference), "when": part(NOT), "how": part(NOT)}
        for family, (gain, difference) in (("coder", coder), ("bungler", bungler))
    ]  # fmt: skip
    assert claim.finding({"arms": arms}).verdict == verdict
    assert claim.finding({"arms": []}).verdict == "not at this scale"


def test_base_and_run_of_other_problems_are_refused():
    world = World(2)
    before, after = world.evaluations
    rows = counted(IDS[::-1], {"code": np.ones(6), "words": np.ones(6)})
    other = probes.forced(pa.Table.from_pylist(rows))
    with pytest.raises(ValueError, match="not forced on the same problems"):
        claim.made_of(before, after, forced(*world.counts[0]), other)
