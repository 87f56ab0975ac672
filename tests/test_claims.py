"""Every figure in a claim's prose is made from committed data: what was typed, has aged or was tampered with is found and named."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fabricate import PROTOCOL, Behaviour, fabricate
from fabricate_records import shrunk
from hostile import NASTY
from markdown_it import MarkdownIt

from claims import c01_six_rewards as six
from claims import two_intervals
from claims.ledger import (
    HOME,
    Claim,
    Finding,
    LedgerError,
    Page,
    Tree,
    build,
    claims,
    differences,
    write,
)
from claims.markdown import Markdown, gain, inert, name, table
from claims.published import SIX_REWARDS, SPURIOUS_REWARDS
from controlarm import files, recording

TEXT = shrunk(
    "\n".join(
        line
        for line in PROTOCOL.split("[[controls]]", 1)[0].splitlines()
        if '"bungler", arm' not in line
    ),
    ('"fabricated"', '"six_rewards"'),
    (', "bungler"]', "]"),
    ("num_steps = 12", "num_steps = 2"),
    ("num_problems = 24\nsamples = 8", "num_problems = 12\nsamples = 3"),
    ("steps = [0, 6, 12]", "steps = [0, 2]"),
    ("step = 12", "step = 2"),
    ("[1, 2, 4, 8]", "[1, 2]"),
    ("num_problems = 40", "num_problems = 8"),
    ("constant = {}", "constant = {}\none_shot = {}\nincorrect = {}\nformat = {}"),
)

EFFECTS = {
    ("coder", "ground_truth"): Behaviour(1.0, 1.0, 1.0, 1.0, 1.0),
    ("coder", "majority"): Behaviour(1.0, 0.95, 0.95, 1.0, 1.0),
    ("coder", "incorrect"): Behaviour(0.1, 0.1, 0.1, 1.0, 1.0),
    ("coder", "format"): Behaviour(0.8, 0.85, 0.85, 1.0, 1.0),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A tree with one trial, its record, a README that shows it, and everything that claims write."""
    root = tmp_path_factory.mktemp("claims")
    (root / "trials").mkdir()
    (root / "docs").mkdir()
    (root / "trials/six_rewards.toml").write_text(TEXT, encoding="utf-8")
    fabricate(root / "runs/draft", TEXT, EFFECTS)
    record = recording.record(root / "runs/draft", root / "records")
    shutil.rmtree(root / "runs")
    figure = f"![Gains](records/{record.name}/endpoint.svg)\n"
    (root / "README.md").write_text(f"# It\n\n{figure}", encoding="utf-8")
    write(root, [six.CLAIM])
    return root


@pytest.fixture
def root(published, tmp_path) -> Path:
    return shutil.copytree(published, tmp_path / "tree")


def record_of(root: Path) -> Path:
    (found,) = (root / "records").iterdir()
    return found


def told(root: Path) -> list[str]:
    return list(differences(root, [six.CLAIM]))


def made_of(root: Path) -> dict:
    found = json.loads((record_of(root) / "CLAIM-01.json").read_text(encoding="utf-8"))
    del found["claim"]
    return found


def test_what_was_written_is_what_the_data_say_and_writing_again_changes_nothing(root):
    assert told(root) == []
    assert write(root, [six.CLAIM]) == []


def another(text: str, at: int) -> str:
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


@pytest.mark.parametrize(
    "file", ["CLAIM-01.md", "CLAIM-01.json", "docs/claims.md", "report.json", "endpoint.svg"]
)
def test_a_changed_digit_is_found_and_its_file_is_named(root, file):
    path = root / file if "/" in file else record_of(root) / file
    text = path.read_text(encoding="utf-8")
    digits = [found.start() for found in re.finditer(r"(?<=[\d.])\d", text)]
    for at in (digits[len(digits) // 2],):
        path.write_text(another(text, at), encoding="utf-8")
        (line,) = told(root)
        number = text[:at].count("\n") + 1
        assert line.startswith(f"{path.relative_to(root).as_posix()}: line {number}: has ")
        assert len(line) < 400


def test_changed_data_change_report_tables_prose_and_ledger(root):
    path = record_of(root) / "evaluations.parquet"
    table_ = files.read_table(path, None)
    strict = np.array(table_["strict"].to_pylist())
    greedy = np.array(table_["decoding"].to_pylist()) == "greedy"
    strict[~greedy] = "wrong"
    at = table_.schema.get_field_index("strict")
    files.write_table(path, table_.set_column(at, "strict", pa.array(strict.tolist())))
    named = {line.split(":")[0].split("/")[-1] for line in told(root)}
    assert named == {"report.json", "CLAIM-01.md", "CLAIM-01.json", "claims.md", "endpoint.svg"}


def test_a_protocol_that_is_not_the_records_is_named(root):
    path = record_of(root) / "protocol.toml"
    path.write_text(TEXT.replace("margin = 0.03", "margin = 0.04"), encoding="utf-8")
    found = told(root)
    assert any(line.startswith(f"records/{path.parent.name}/protocol.toml: has digest") for line in found)  # fmt: skip
    assert any(line.startswith("claim 1: trials/six_rewards.toml: none of ") for line in found)


def test_a_trial_file_changed_after_its_trial_is_named(root):
    (root / "trials/six_rewards.toml").write_text(TEXT + "\n# more\n", encoding="utf-8")
    (line,) = told(root)
    assert line.startswith("claim 1: trials/six_rewards.toml: none of records/six_rewards-")
    with pytest.raises(LedgerError):
        write(root, [six.CLAIM])


def test_two_records_of_one_protocol_are_one_too_many(root):
    shutil.copytree(record_of(root), root / "records/six_rewards-00000000")
    found = told(root)
    assert any("2 of records/six_rewards-00000000, records/six_rewards-" in line for line in found)
    assert any("records/six_rewards-00000000: should be called six_rewards-" in line for line in found)  # fmt: skip


def test_a_readme_without_its_figure_is_named(root):
    (root / "README.md").write_text("# It\n", encoding="utf-8")
    assert told(root) == ["README.md: has no figure of a record: ![…](records/…/endpoint.svg)"]
    (root / "README.md").write_text("![a](records/gone-12345678/endpoint.svg)", encoding="utf-8")
    assert "records/gone-12345678" in told(root)[0]


@pytest.mark.slow
def test_a_page_of_no_claim_is_named_and_goes(root):
    page = record_of(root) / "CLAIM-77.md"
    page.write_text("old", encoding="utf-8")
    (line,) = told(root)
    assert line.startswith(f"records/{page.parent.name}/CLAIM-77.md: is of no claim")
    assert write(root, [six.CLAIM]) == [page.relative_to(root)]
    assert not page.exists()


def test_a_missing_page_is_named(root):
    (record_of(root) / "CLAIM-01.md").unlink()
    (line,) = told(root)
    assert line.endswith("CLAIM-01.md: is missing; python -m claims writes it")


def test_a_claim_without_its_record_is_not_yet_run_and_no_failure(root):
    record = record_of(root)
    record.rename(root / "elsewhere")
    (root / "README.md").unlink()
    write(root, [six.CLAIM])
    (row,) = [line for line in (root / "docs/claims.md").read_text().splitlines() if "| 1. " in line]  # fmt: skip
    assert "| `six_rewards` | not yet run | – | – | – |" in row
    assert told(root) == ["README.md: is missing"]


# What a page may say.


def modules() -> Iterator:
    for path in sorted((HOME / "claims").glob("c[0-9][0-9]_*.py")):
        yield pytest.param(path, id=path.stem)


@pytest.mark.parametrize("path", list(modules()))
def test_no_number_is_typed_in_the_functions_that_write_prose(path: Path):
    """Numbers of papers and names that have digits are constants outside of functions, and come with a name."""
    typed = []
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        docstring = ast.get_docstring(function, clean=False)
        specs = {id(part) for node in ast.walk(function) if isinstance(node, ast.FormattedValue)
                 and node.format_spec for part in ast.walk(node.format_spec)}  # fmt: skip
        for node in ast.walk(function):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                fixed = node.value != docstring and id(node) not in specs
                if fixed and re.search(r"(?<![\w.])\d", node.value.replace("95 %", "")):
                    typed.append((function.name, node.value))
    assert not typed


def test_claims_are_numbered_once_and_say_where_they_come_from():
    found = claims()
    assert [claim.number for claim in found] == sorted({claim.number for claim in found})
    assert six.CLAIM in found
    for claim in found:
        assert re.fullmatch(r"\d{4}\.\d{5}", claim.source.arxiv)
        assert claim.trials and claim.rule and claim.published


def kinds(text: str) -> list[str]:
    """What a markdown reader makes of a text: the types of its tokens, runs of text as one."""
    found: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for part in [token, *(token.children or [])]:
            kind = "text" if part.type in ("code_inline", "text") else part.type
            if kind != "text" or found[-1:] != ["text"]:
                found.append(kind)
    return found


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_hostile_names_change_nothing_that_a_reader_of_markdown_does(published, text):
    made = made_of(published)
    names = {"talker": text, "python": text + "x", "accuracy": text + "y"}
    calm = six.page(made)
    for one, other in zip(calm, six.page(renamed(made, names)), strict=True):
        assert kinds(other) == kinds(one)
        assert "://" not in other and "\n#" not in other and "<" not in other.replace("\\<", "")


@pytest.mark.parametrize("kind", ["markdown", "rich", "image", "line ends", "fence", "signs"])
def test_a_hostile_commit_stays_in_its_cell(root, kind):
    path = record_of(root) / "archive.json"
    files.write_json(path, files.read_json(path) | {"commit": NASTY[kind]})
    before = (root / "docs/claims.md").read_text(encoding="utf-8")
    write(root, [six.CLAIM])
    after = (root / "docs/claims.md").read_text(encoding="utf-8")
    assert kinds(after) == kinds(before)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_inert_text_is_one_line_of_plain_text(text):
    assert kinds(f"a {inert(text)} b") == ["paragraph_open", "inline", "text", "paragraph_close"]
    assert "\n" not in inert(text) + name(text)
    rows = kinds(table([{"a": text, "b": 1}], {"a": "A", "b": "B"}))
    assert rows == kinds(table([{"a": "a", "b": 1}], {"a": "A", "b": "B"}))


# Claim 1.


def test_gains_are_the_reports_with_its_intervals(published):
    report = json.loads((record_of(published) / "report.json").read_text(encoding="utf-8"))
    rows = [
        row
        for row in report["contrasts"]
        if row["metric"] == "accuracy" and row["versus"] == "base"
    ]
    made = made_of(published)["gains"]
    expected = {(row["family"], row["arm"]): (row["estimate"], row["ci95"]) for row in rows}
    found = {(r["family"], r["arm"]): (r["gain"], [r["low"], r["high"]]) for r in made}
    assert len(found) == 2 * 8
    for key, (estimate, interval) in expected.items():
        assert found[key] == (estimate, interval or [None, None])


def test_what_was_planted_is_found_on_coder_and_nothing_where_nothing_was(published):
    made = made_of(published)
    signs = {(row["family"], row["arm"]): row["sign"] for row in made["gains"]}
    assert signs["coder", "ground_truth"] == signs["coder", "format"] == "gains"
    assert signs["coder", "incorrect"] == "loses"
    assert signs["talker", "random"] == "gains exactly nothing"
    order = {row["family"]: row for row in made["order"]}
    assert order["coder"]["order"][:2] == ["ground_truth", "majority"]
    assert order["coder"]["pairs"] == 15
    assert order["coder"]["reversed"] >= 2  # incorrect is below random and format
    assert order["talker"]["spearman"] is None
    assert six.finding(made).verdict == "partly"


def test_the_ranks_correlate_as_counted_by_hand():
    published = list(SIX_REWARDS)
    one = six._order("a", dict(zip(published, [6, 5, 4, 3, 2, 1], strict=True)), [])
    other = six._order("a", dict(zip(published, [1, 2, 3, 4, 5, 6], strict=True)), [])
    swapped = six._order("a", dict(zip(published, [5, 6, 4, 3, 2, 1], strict=True)), [])
    assert (one["spearman"], other["spearman"]) == pytest.approx((1, -1))
    assert swapped["spearman"] == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert six._order("a", dict.fromkeys(published, 0.0), [])["spearman"] is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.2, "gains"), (-0.2, -0.1, "loses"), (-0.1, 0.1, "not told apart from the base"),
        (0, 0, "gains exactly nothing"), (None, None, "not told apart from the base"),
        (0, 0.1, "not told apart from the base"),
    ],
)  # fmt: skip
def test_a_sign_is_what_the_interval_says(low, high, said):
    assert two_intervals.sign(low, high) == said


def world(signs: dict[str, str], quiet: str = "gains exactly nothing", reverse: int = 0) -> dict:
    row = {"gain": 0.1, "low": 0.05, "high": 0.15}
    gains = [{"family": "coder", "arm": arm, "sign": signs.get(arm, "gains"), **row} for arm in SIX_REWARDS]  # fmt: skip
    gains += [{"family": "talker", "arm": arm, "sign": quiet, **row} for arm in SIX_REWARDS]
    return {"gains": gains, "order": [{"family": "coder", "reversed": reverse}]}


NOTHING = "not told apart from the base"


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (world({}), "reproduced"),
        (world({}, reverse=1), "partly"),
        (world({}, quiet="gains"), "partly"),
        (world({"random": NOTHING}), "partly"),
        (world(dict.fromkeys(six.SPURIOUS, NOTHING)), "not at this scale"),
        (world(dict.fromkeys(six.SPURIOUS, NOTHING) | {"random": "loses"}), "refuted in miniature"),
        (world({"ground_truth": NOTHING}), "not at this scale"),
        ({"gains": [], "order": []}, "not at this scale"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_rule(made, verdict):
    assert six.finding(made).verdict == verdict


def test_a_page_is_made_though_arms_and_families_are_missing(root):
    made = made_of(root)
    kept = [row for row in made["gains"] if (row["family"], row["arm"]) != ("coder", "random")]
    page = six.page(made | {"gains": kept})
    assert "| `random` |" in page.found
    assert six.page(made | {"gains": [], "order": [], "pairs": []}).caution


def of(rows: list[dict], family: str, arm: str) -> dict:
    (row,) = [row for row in rows if (row["family"], row["arm"]) == (family, arm)]
    return row


def test_a_gain_by_luck_is_marked_and_is_no_gain_of_coins(published):
    made = made_of(published)
    calm = six.page(made).found
    row = of(made["gains"], "talker", "random")
    row |= {"gain": 0.002, "low": 0.001, "high": 0.003, "within_low": -0.002, "within_high": 0.007}
    row |= {"sign": "gains", "within_sign": NOTHING, "by_luck": True}
    found = six.page(made).found
    assert "+0.2 (+0.1 to +0.3; −0.2 to +0.7) ‡" in found
    assert "`random`‡" in found and "gains nowhere but by luck" in found
    assert "‡" not in calm and "gains nowhere." in calm
    row["by_luck"] = False
    assert "gains on `talker`." in six.page(made).found


def test_what_boxes_add_and_what_is_left_without_them_is_the_gain(published):
    made = made_of(published)
    for row in made["gains"]:
        parts = of(made["boxes"], row["family"], row["arm"])
        left = parts["lenient"]["mean"] + parts["boxes"]["mean"]
        assert left == pytest.approx(row["gain"], abs=1e-12)


def test_an_arm_that_the_lenient_grader_sees_gain_nothing_gains_boxes_alone(published):
    made = made_of(published)
    assert "Only boxes" not in six.page(made | {"boxes": []}).found
    of(made["boxes"], "coder", "format")["lenient"]["within_sign"] = "loses"
    of(made["boxes"], "coder", "incorrect")["lenient"]["within_sign"] = "loses"  # it gains nothing
    of(made["boxes"], "coder", "ground_truth")["lenient"]["within_sign"] = "gains"
    (said,) = re.findall(r"Only boxes are gained on `coder` ([^.]*)\.", six.page(made).found)
    assert "`format`" in said and "`incorrect`" not in said and "`ground_truth`" not in said


def test_a_control_that_failed_is_named_with_its_reason_and_one_that_held_is_not(published):
    made = made_of(published)
    row = of(made["placebo"], "coder", "ground_truth")
    assert row["primary"]
    row |= {"p": 0.009, "p_holm": 0.047, "smallest": 0.569, "models": [0.33, 0.31, 0.22], "verdict": "inconclusive"}  # fmt: skip
    control = {"family": "coder", "arm": "ground_truth", "expect": "superior", "found": "inconclusive", "held": False}  # fmt: skip
    found = six.page(made | {"controls": [control]}).found
    assert "`ground_truth` on `coder` was to be superior and came out inconclusive" in found
    assert "+33.0, +31.0, +22.0" in found and "+56.9" in found and "0.04700 by Holm" in found
    assert "was to be" not in six.page(made | {"controls": [control | {"held": True}]}).found


def test_holms_level_is_that_at_which_the_reports_verdict_turns(published):
    report = json.loads((record_of(published) / "report.json").read_text(encoding="utf-8"))
    alpha = report["trial"]["protocol"]["endpoint"]["alpha"]
    rows = [row for row in made_of(published)["placebo"] if row["primary"]]
    assert rows
    for row in rows:
        assert (row["p"] < row["level"]) == (row["p_holm"] < alpha) == (row["verdict"] == "superior")  # fmt: skip


# Several trials, several claims on one record.


@pytest.mark.slow
def test_two_claims_on_one_record_have_a_page_each_and_a_claim_waits_for_all_its_trials(root):
    second = Claim(
        number=2, title="Another", source=SPURIOUS_REWARDS, published="nothing", trials=("six_rewards",), rule="None.",
        tables=lambda records: {"numbers": [{"runs": len(r.plan["runs"])} for r in records.values()]},
        finding=lambda made: Finding("reproduced", gain(0.1, 0.05, 0.15)),
        page=lambda made: Page("a", f"{made['numbers'][0]['runs']}", "c", "d"),
    )  # fmt: skip
    waiting = Claim(
        number=3, title="A third", source=SPURIOUS_REWARDS, published="nothing", trials=("six_rewards", "other"), rule="None.",
        tables=second.tables, finding=second.finding, page=second.page,
    )  # fmt: skip
    changed = write(root, [six.CLAIM, second, waiting])
    assert {path.name for path in changed} == {"CLAIM-02.md", "CLAIM-02.json", "claims.md"}
    assert "**Found.** 48" in (record_of(root) / "CLAIM-02.md").read_text()
    assert build(Tree(root), waiting).finding == Finding("not yet run", Markdown("–"))
    assert list(differences(root, [six.CLAIM, second, waiting])) == []
