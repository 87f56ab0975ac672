"""Problem sets: every gold grades right, a copy is known by its checksum, and a row that is no problem is named."""

import json
import os
import socket
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from controlarm import closed_form
from controlarm.cli import app
from controlarm.problems import random_calculation, sets
from controlarm.problems.random_calculation import graded_reward
from controlarm.referee import Referee

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CONTROLARM_DATA", HERE.parent.parent / "shared" / "data"))
FILES = {
    "math500": "math500.json", "amc83": "amc83.json", "aime24": "aime24.json", "minerva": "minerva.json", "gsm8k": "gsm8k_test.jsonl",
}  # fmt: skip


@pytest.fixture(scope="module")
def judge():
    with Referee(workers=1) as found:
        yield found


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_gold_answer_of_a_set_grades_right_and_the_copy_is_the_cards(name, judge):
    path = DATA / "problems" / FILES[name]
    if not path.exists():
        pytest.skip(f"{path} is absent; set CONTROLARM_DATA to the folder of collected sets")
    found = sets.read(f"{name}={path}")
    assert len(found.problems) == sets.CARDS[name].num_problems
    assert sets.CARDS[name].sha256 in (found.checksum, None)
    texts = [(f"Hence \\boxed{{{p.answer}}}.", p.answer) for p in found.problems]
    grades = judge.grade(texts)
    assert [
        p.answer for p, g in zip(found.problems, grades, strict=True) if g.strict != "right"
    ] == []


@pytest.mark.parametrize("num_operations", [1, 2, 5, 20])
def test_a_random_calculation_is_worth_its_gold(num_operations: int, judge: Referee):
    found = sets.load(f"random_calculation:{num_operations}")
    assert len({p.text for p in found}) == random_calculation.SUBSET_SIZE
    for problem in found[:200]:
        latex = problem.text.removeprefix(random_calculation.PREFIX)
        assert latex.count("(") == num_operations
        value = float(Fraction(problem.answer))
        # An evaluation that shares nothing with the generator's own arithmetic.
        told = eval(python_of(latex))
        assert told == pytest.approx(
            value, rel=1e-6, abs=1e-3 * max(1.0, abs(told)) if num_operations > 5 else 1e-9
        )
    grades = judge.grade([(f"\\boxed{{{p.answer}}}", p.answer) for p in found])
    assert {grade.strict for grade in grades} == {"right"}


def python_of(latex: str) -> str:
    """Our own generator's LaTeX as Python, for an oracle."""
    assert set(latex) <= set("0123456789()+-^{}\\ fractimesdv")
    text = latex.replace("\\times", "*").replace("\\div", "/").replace("^", "**")
    return text.replace("\\frac{", "(").replace("}{", "/").replace("}", ")")


def test_a_seed_is_a_twin_and_the_same_seed_the_same_problems():
    first, again = random_calculation.problems(3), random_calculation.problems(3)
    other = random_calculation.problems(3, 1)
    assert first == again
    assert not {p.text for p in first} & {p.text for p in other}


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_graded_reward_is_one_at_the_answer_and_falls_with_the_distance(gold, value):
    assert graded_reward(gold, gold) == 1.0
    near, far = graded_reward((gold + value) / 2, gold), graded_reward(value, gold)
    assert 0.0 <= far <= near + 1e-9 <= 1.0 + 1e-9
    assert graded_reward(float("nan"), gold) == graded_reward(float("inf"), gold) == 0.0


def test_the_graded_reward_is_the_papers_formula():
    a, b = 2.25, 2.0
    assert graded_reward(a, b) == pytest.approx(1 - 0.5 * 0.25 - 0.5 * 0.25 / 2.000001)


def test_one_set_in_three_formats_is_the_same_set(tmp_path: Path):
    rows = [{"problem": f"What is {i}+{i}?", "answer": f"{2 * i}.0"} for i in range(20)]
    write(tmp_path / "set.jsonl", *rows)
    (tmp_path / "set.json").write_text(json.dumps(rows[::-1]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    found = [sets.read(str(tmp_path / f"set.{kind}")) for kind in ("jsonl", "json", "parquet")]
    assert len({each.checksum for each in found}) == 1
    assert {p.id for p in found[0].problems} == {p.id for p in found[1].problems}
    assert found[0].problems[3].answer == "6"


def test_what_is_exported_is_read_again(tmp_path: Path):
    problems = sets.load("random_calculation:5", limit=30)
    sets.export(problems, tmp_path / "a.jsonl")
    assert sets.load(str(tmp_path / "a.jsonl")) == problems


def test_a_smaller_limit_is_part_of_a_larger_one():
    small, large = (sets.load("random_calculation:4", limit=n) for n in (10, 40))
    assert len(small) == 10
    assert set(small) < set(large)


def test_copies_of_a_text_are_numbered_and_ids_must_differ(tmp_path: Path):
    row = {"problem": "1+1?", "answer": "2"}
    first, second = sets.load(str(write(tmp_path / "a.jsonl", row, row)))
    assert second.id == f"{first.id}-2"
    with pytest.raises(ValueError, match=r"b\.jsonl, line 2: id 'x' is that of .*line 1"):
        sets.load(str(write(tmp_path / "b.jsonl", {**row, "id": "x"}, {**row, "id": "x"})))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"problem": "1+1?"}'], "line 1: no answer"),
        (['{"problem": "1+1?", "answer": ""}'], "line 1: no answer"),
        (['{"answer": "2"}'], "line 1: no text under problem, question, prompt"),
        (['{"problem": "1+1?", "answer": "2"}', "", "nonsense"], "line 3 is no JSON"),
        (["[1]"], "line 1: is a list, not an object"),
        ([""], "holds no problem"),
        (["[" * 100_000], "line 1 is no JSON"),
    ],
)
def test_a_row_that_is_no_problem_is_named(tmp_path: Path, lines, said):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=said):
        sets.load(str(path))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("math50", "did you mean 'math500'"),
        ("nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("math500=nowhere.json", "there is no file nowhere.json"),
        ("random_calculation", "names no subset"),
        ("random_calculation:21", "there are 1 to 20"),
        ("random_calculation:x", "names no subset"),
    ],
)
def test_a_set_that_is_not_there_is_named_with_what_is(spec, said):
    with pytest.raises(ValueError, match=said):
        sets.load(spec)


def test_a_set_comes_through_the_datasets_library(tmp_path: Path, monkeypatch):
    """The hub's way of loading, from a folder in the hub's layout."""
    folder = tmp_path / "someone-gsm"
    folder.mkdir()
    write(
        folder / "test.jsonl",
        *({"question": f"{i}+1?", "answer": f"so\n#### {1000 + i:,}"} for i in range(5)),
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    from dataclasses import replace

    card = replace(sets.CARDS["gsm8k"], origin=str(folder), config=None, num_problems=5)
    monkeypatch.setitem(sets.CARDS, "gsm8k", card)
    found = sets.read("gsm8k")
    assert [p.answer for p in found.problems] == ["1000", "1001", "1002", "1003", "1004"]


def test_without_a_network_the_way_out_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(ValueError, match=r"aime25 could not be fetched.*give aime25=FILE"):
        from dataclasses import replace

        monkeypatch.setitem(sets.CARDS, "aime25", replace(sets.CARDS["aime25"], origin="no-such/dataset-anywhere"))  # fmt: skip
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        sets.load("aime25")


def test_the_commands_list_check_and_export(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = CliRunner().invoke
    listed = run(app, ["problems", "list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in sets.CARDS)
    out = tmp_path / "clean.jsonl"
    exported = run(app, ["problems", "export", "random_calculation:3", str(out), "--limit", "20"])
    assert (exported.exit_code, len(out.read_text().splitlines())) == (0, 20)
    assert run(app, ["problems", "export", "random_calculation:3", str(out)]).exit_code == 2
    checked = run(app, ["problems", "check", str(out)])
    assert checked.exit_code == 0
    assert "20 of 20 gold answers grade right" in checked.output
    damaged = write(tmp_path / "bad.jsonl", {"problem": "?", "answer": "1}{"})
    assert run(app, ["problems", "check", str(damaged)]).exit_code == 1
    assert run(app, ["problems", "check", "math50"]).exit_code == 2


def test_the_reader_of_closed_forms_reads_the_calculations():
    for problem in random_calculation.problems(2)[:100]:
        latex = problem.text.removeprefix(random_calculation.PREFIX)
        value = closed_form.read(latex)
        if value is not None:
            assert value.parts[0][0].real == pytest.approx(float(Fraction(problem.answer)))
