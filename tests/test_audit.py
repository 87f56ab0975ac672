"""The audit of logs: that its numbers are right where the truth is known, and that nothing about a log's form moves them."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from controlarm.analysis.strategies import four_way
from controlarm.audit import Named, audit, gain, named, samples, verdicts
from controlarm.cli import app
from controlarm.referee import Referee
from controlarm.report import audit as page

DATA = Path(os.environ.get("CONTROLARM_DATA", Path(__file__).parents[2] / "shared" / "data"))
SCRIPT = "<script>alert(1)</script>\u202e\x1b[31m</style>"


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    """What the command keeps between processes lies with the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def right(gold: str, code: bool = False) -> str:
    return f"{'```python' if code else 'So'} it is \\boxed{{{gold}}}."


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def record(problem: int, text: str, **more: object) -> dict:
    return {
        "question": f"What is {problem} + 0?",
        "answer": str(problem),
        "completion": text,
        **more,
    }


def before_and_after(
    folder: Path, seed: int = 1, num: int = 40, each: int = 4
) -> tuple[Path, Path]:
    """Two policies on the same problems; the second boxes more, writes more code and is right more often."""
    rng = np.random.default_rng(seed)
    logs = []
    for name, code, hit, box in (("before", 0.3, 0.4, 0.6), ("after", 0.7, 0.6, 0.9)):
        rows = []
        for problem in range(num):
            for _ in range(each):
                said = problem if rng.random() < hit else problem + 1
                told = f"\\boxed{{{said}}}" if rng.random() < box else f"The answer is {said}."
                words = "```python\nx = 1\n```" if rng.random() < code else "In words."
                rows.append(record(problem, f"{words} {told}", reward=float(said == problem)))
        logs.append(write(folder / f"{name}.jsonl", rows))
    return logs[0], logs[1]


def audited(*paths: Path) -> dict:
    return audit([Named(p.stem, p) for p in paths])


def without_places(found: dict) -> str:
    """Everything but where rows stand, which a permutation must move."""
    text = json.dumps(found, sort_keys=True)
    return re.sub(r'"(line|place)": [^,}]+', "", text)


def test_the_parts_add_up_to_the_gain_and_so_do_the_cells(tmp_path):
    c = audited(*before_and_after(tmp_path))["comparisons"][0]
    parts = {name: part["estimate"] for name, part in c["split"].items()}
    assert parts["gain"] == pytest.approx(parts["format"] + parts["share"] + parts["within"])
    assert parts["gain_lenient"] == pytest.approx(parts["share"] + parts["within"])
    assert parts["gain"] == pytest.approx(c["after"]["accuracy"] - c["before"]["accuracy"])
    changes = sum(cell["change"] for cell in c["partition"].values())
    assert changes / c["num_compared"] == pytest.approx(parts["gain"])
    assert all(part["low"] <= part["estimate"] <= part["high"] for part in c["split"].values())
    assert c["pass_at_k"]["ks"] == [1, 2, 4]
    assert c["pass_at_k"]["difference"]["estimate"][0] == pytest.approx(parts["gain"])


def test_a_log_against_itself_has_no_gain_at_all(tmp_path):
    path, _ = before_and_after(tmp_path)
    again = tmp_path / "again.jsonl"
    again.write_bytes(path.read_bytes())
    c = audited(path, again)["comparisons"][0]
    assert {part["estimate"] for part in c["split"].values()} == {0.0}
    assert set(c["pass_at_k"]["difference"]["estimate"]) == {0.0}
    cells = c["solvable"]["cells"]
    assert cells["base_only"]["count"] == cells["trained_only"]["count"] == 0


def test_swapping_the_logs_turns_the_sign_of_every_part(tmp_path):
    path, other = before_and_after(tmp_path)
    there, back = (audited(*pair)["comparisons"][0]["split"] for pair in ((path, other), (other, path)))  # fmt: skip
    for name, part in there.items():
        assert part["estimate"] == pytest.approx(-back[name]["estimate"])
        assert part["low"] == pytest.approx(-back[name]["high"])


def test_the_order_of_rows_changes_nothing(tmp_path):
    path, other = before_and_after(tmp_path)
    found = audited(path, other)
    for log in (path, other):
        lines = log.read_text().splitlines()
        order = np.random.default_rng(5).permutation(len(lines))
        log.write_text("".join(lines[i] + "\n" for i in order))
    assert without_places(audited(path, other)) == without_places(found)


def test_a_gain_that_is_all_format_is_called_so(tmp_path):
    before = write(tmp_path / "b.jsonl", [record(i, f"The answer is {i}.") for i in range(20)])
    after = write(tmp_path / "a.jsonl", [record(i, right(str(i))) for i in range(20)])
    split = audited(before, after)["comparisons"][0]["split"]
    assert (split["gain"]["estimate"], split["format"]["estimate"]) == (1.0, 1.0)
    assert split["share"]["estimate"] == split["within"]["estimate"] == 0.0


def test_a_gain_that_is_all_shift_is_called_so(tmp_path):
    """Code is always right and words never; after training all is code."""
    before = write(tmp_path / "b.jsonl", [record(i, right(str(i), code=True) if i % 2 else right("no")) for i in range(20)])  # fmt: skip
    after = write(tmp_path / "a.jsonl", [record(i, right(str(i), code=True)) for i in range(20)])
    c = audited(before, after)["comparisons"][0]
    assert c["split"]["share"]["estimate"] == pytest.approx(0.5)
    assert c["split"]["within"]["estimate"] == pytest.approx(0.0)
    assert c["partition"]["words_code"] == {
        "num_problems": 10, "right_before": 0, "right_after": 10, "change": 10, "share_of_gain": 1.0,
    }  # fmt: skip
    assert "no completion of a is in words, so the split lends it" in page.render(
        audited(before, after)
    )
    assert "so the split lends it" not in page.render(audited(before, before))


def test_with_one_sample_the_partition_is_the_papers(tmp_path):
    path, other = before_and_after(tmp_path, each=1)
    both = [samples.gather(samples_log) for samples_log in map(open_named, (path, other))]
    judged = verdicts.judge(both).verdicts
    c = audited(path, other)["comparisons"][0]
    order = [np.argsort([int(s.prompts[p].split()[2]) for p in s.problem]) for s in both]
    sides = [
        (s.look("has_python").astype(bool)[o], (v.strict == 0)[o])
        for s, v, o in zip(both, judged, order, strict=True)
    ]
    cells = four_way(*sides[0], *sides[1])
    assert {k: tuple(cell[n] for n in ("num_problems", "right_before", "right_after")) for k, cell in c["partition"].items()} == {
        k: tuple(cell) for k, cell in cells.items()
    }  # fmt: skip


def open_named(path: Path):
    from controlarm.logs import open_log

    return open_log(path)


def test_the_jackknife_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(2).normal(size=30)
    left_out = (values.sum() - values) / 29
    part = gain.jackknife(np.array([values.mean()]), [left_out[:, None]])[0]
    se = values.std(ddof=1) / np.sqrt(30)
    assert (part.high - part.low) / 2 == pytest.approx(2.0452296 * se, rel=1e-6)


def test_a_training_log_is_compared_with_itself_over_its_steps(tmp_path):
    rows = [
        record(problem, right(str(problem + (step < 10))), step=step, reward=float(step >= 10))
        for step in range(1, 21)
        for problem in range(20)
        for _ in range(2)
    ]
    found = audited(write(tmp_path / "run.jsonl", rows))
    c = found["comparisons"][0]
    assert (c["before_name"], c["after_name"], c["within"]) == ("steps 1 to 2", "steps 19 to 20", True)  # fmt: skip
    assert c["split"]["gain"]["estimate"] == 1.0
    curve = found["curves"][0]
    assert curve["steps"] == list(range(1, 21))
    assert curve["accuracy"] == [0.0] * 9 + [1.0] * 11
    assert curve["scores"]["reward"]["equal_groups"] == [1.0] * 20
    assert curve["scores"]["reward"]["tpr"][-1] == 1.0
    assert found["controls"][0]["rollouts"] == len(rows)


def test_problems_that_never_return_give_a_change_with_a_warning(tmp_path):
    rows = [record(i, right(str(i + (i < 50))), step=i // 5) for i in range(100)]
    found = audited(write(tmp_path / "run.jsonl", rows))
    c = found["comparisons"][0]
    assert c["split"]["gain"]["estimate"] == 1.0 and c["num_common"] == 0
    assert "may be one of their difficulty" in found["sentences"][0]
    assert page.render(found)


def test_beside_a_base_a_training_log_counts_where_it_ends(tmp_path):
    base = write(tmp_path / "base.jsonl", [record(p, right("no")) for p in range(5)])
    rows = [record(p, right(str(p + (s < 3))), step=s) for s in range(4) for p in range(5)]
    c = audited(base, write(tmp_path / "run.jsonl", rows))["comparisons"][0]
    assert (c["before_name"], c["after_name"]) == ("base", "run, step 3")
    assert c["split"]["gain"]["estimate"] == 1.0


def test_an_unpaired_interval_is_welchs_but_for_its_degrees_of_freedom():
    rng = np.random.default_rng(3)
    sides = [rng.random(n) for n in (12, 30)]
    tables = [gain.Means(np.ones(len(v), int), v, v, v * 0, v * 0, v * 0) for v in sides]
    part = gain.split(*tables, paired=False)["gain"]
    se = np.sqrt(sum(v.var(ddof=1) / len(v) for v in sides))
    assert part.estimate == pytest.approx(sides[1].mean() - sides[0].mean())
    assert (part.high - part.low) / 2 == pytest.approx(2.2009852 * se, rel=1e-6)


def test_a_log_called_random_is_the_placebo_that_the_others_are_held_against(tmp_path):
    path, other = before_and_after(tmp_path, num=6)
    found = audit([Named("base", path), Named("random", path), Named("trained", other)])
    pairs = [(c["before_name"], c["after_name"]) for c in found["comparisons"]]
    assert pairs == [("base", "random"), ("base", "trained"), ("random", "trained")]
    base, placebo = (found["comparisons"][i]["split"]["gain"]["estimate"] for i in (1, 2))
    assert base == placebo, "this placebo is the base"


def test_a_score_is_measured_against_our_verdict(tmp_path):
    rows = [record(i, right(str(i))) | {"reward": 1.0 if i < 6 else 0.0} for i in range(8)]
    rows += [record(i, right("no")) | {"reward": 1.0 if i < 1 else 0.0} for i in range(4)]
    score = audited(write(tmp_path / "a.jsonl", rows))["scores"][0]
    assert score["strict"] == {"tpr": 0.75, "fpr": 0.25, "youden": 0.5}
    assert score["num_different"] == 3
    assert score["table"]["high"] == {"right": 6, "wrong": 1, "no_answer": 0, "unknown": 0}
    assert score["reasons"] == {"not logged": 3}


def test_a_difference_is_laid_to_extraction_or_to_equality(tmp_path):
    rows = [
        record(7, right("7"), pred="7 pens", is_correct=False),
        record(8, right("8"), pred="8", is_correct=False),
        *(record(i, right(str(i)), pred=str(i), is_correct=True) for i in range(3)),
    ]
    score = audited(write(tmp_path / "a.jsonl", rows))["scores"][0]
    assert score["reasons"] == {"extraction": 1, "equality": 1}
    assert score["accuracy"]["their_answers"] == 0.8


def test_rows_that_trl_writes_again_are_read_once(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for step, texts in ((1, ["2", "3"]), (2, ["2", "3"]), (3, ["4", "3"])):
        rows = pa.table({
            "step": [step] * 2, "prompt": ["p"] * 2, "completion": texts, "paid": [1.0, 0.0], "advantage": [1.0, -1.0],
        })  # fmt: skip
        pq.write_table(rows, tmp_path / f"completions_{step:05d}.parquet")
    log = audited(tmp_path)["logs"][0]
    assert (log["num_rows"], log["num_rewritten"]) == (4, 2)


def test_damage_is_counted_and_placed(tmp_path):
    path = write(tmp_path / "a.jsonl", [record(1, right("1")), {"question": "?"}])
    with path.open("a") as file:
        file.write('{"question": "cut')
    found = audited(path)
    assert found["logs"][0]["num_damaged"] == 2
    assert found["damaged"] == [
        {"name": "a", "place": "a.jsonl, line 2", "what": "has no completion in 'completion'"},
        {"name": "a", "place": "a.jsonl, line 3", "what": "is cut off: the last line has no end"},
    ]
    assert "a.jsonl, line 3: is cut off" in page.render(found)


def test_logs_without_a_common_problem_are_refused_in_words(tmp_path):
    before = write(tmp_path / "b.jsonl", [record(1, "x")])
    after = write(tmp_path / "a.jsonl", [record(2, "x")])
    with pytest.raises(ValueError, match="have no problem in common, by prompt or by id"):
        audited(before, after)


def test_problems_are_matched_by_id_where_prompts_differ(tmp_path):
    before = write(tmp_path / "b.jsonl", [record(i, right(str(i)), idx=i) for i in range(4)])
    rows = [record(i, right(str(i)), idx=i) for i in range(4)]
    after = write(tmp_path / "a.jsonl", [r | {"question": f"user\n{r['question']}"} for r in rows])
    c = audited(before, after)["comparisons"][0]
    assert (c["matched_by"], c["num_compared"]) == ("id", 4)


def test_without_gold_answers_everything_else_is_still_told(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"input": "p", "output": f"text {i}", "reward": i % 2} for i in range(6)])  # fmt: skip
    found = audited(path)
    side = found["sides"][0]
    assert (side["num_graded"], side["without_gold"], side["accuracy"]) == (0, 6, None)
    assert side["distinct_share"] == 1.0
    assert found["scores"][0]["note"] == "the log has no gold answers"
    assert page.render(found)


def test_a_named_control_counts_as_given(tmp_path):
    path, other = before_and_after(tmp_path, num=6)
    found = audit([Named("base", path), Named("trained", other), Named("random", other)])
    assert [c["control"] for c in found["controls"] if c["run"]] == ["random"]


@pytest.mark.parametrize("more", ["", " Say it in words, and say why it is so."])
def test_a_log_without_answers_borrows_them_from_a_problem_set(tmp_path, more):
    rows = [{"input": f"user\nWhat is {i} + 0?{more}\nassistant\n", "output": right(str(i)), "reward": 1.0} for i in range(4)]  # fmt: skip
    log = write(tmp_path / "run.jsonl", rows)
    asked = write(tmp_path / "asked.jsonl", [{"problem": f"What is {i} + 0?{more}", "answer": str(i)} for i in range(3)])  # fmt: skip
    ran = CliRunner().invoke(app, ["audit", str(log), "--problems", str(asked), "--to", str(tmp_path / "out")])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    side = json.loads((tmp_path / "out" / "audit.json").read_text())["sides"][0]
    assert (side["num_graded"], side["without_gold"], side["accuracy"]) == (3, 1, 1.0)


def test_names_of_logs():
    assert named(["base=a/b.jsonl", "c/d"]) == [Named("base", Path("a/b.jsonl")), Named("d", Path("c/d"))]  # fmt: skip
    with pytest.raises(ValueError, match="two logs are called 'x'"):
        named(["a/x", "b/x"])


def test_hints_count_what_they_say(tmp_path):
    question = "A farmer named Ada walks seventeen miles every morning before selling her goats"
    rows = [record(i, right(str(i))) for i in range(3)]
    rows += [{"question": question, "answer": "17", "completion": right("17")}]
    rows += [record(0, f"{question}. \\boxed{{0}}"), record(1, f"\\boxed{{1}} {'because ' * 60}")]
    rows += [record(2, right("2"))] * 3
    hints = {h["hint"]: (h["count"], h["out_of"]) for h in audited(write(tmp_path / "a.jsonl", rows))["hints"]}  # fmt: skip
    assert hints["other_problems"][0] == 1
    assert hints["answer_first"] == (1, 1)
    assert hints["one_text"] == (1, 1)
    assert hints["bare_right"][0] == 7


def test_hostile_text_is_shown_and_obeyed_nowhere(tmp_path):
    rows = [
        {"question": f"{SCRIPT}{i}", "answer": SCRIPT, "completion": f"{SCRIPT} \\boxed{{{SCRIPT}}}", "pred": SCRIPT, "score": i % 2, "step": i % 3, SCRIPT: 1}
        for i in range(12)
    ]  # fmt: skip
    path = write(tmp_path / "a.jsonl", rows)
    found = audit([Named(SCRIPT, path)])
    html = page.render(found)
    assert html.count("<script") == html.count("</script>") == 1
    assert html.count("</style>") == 1
    assert "\u202e" not in html and "\x1b" not in html
    ran = CliRunner().invoke(app, ["audit", f"{SCRIPT.replace('/', '')}={path}", "--to", str(tmp_path / "out")])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert "\x1b" not in ran.output and "\u202e" not in ran.output


def test_megabytes_in_one_answer_cost_no_hang(tmp_path):
    rows = [record(1, "\\boxed{" + "9" * 2_000_000 + "}"), record(2, "{" * 500_000), record(3, "word " * 400_000)]  # fmt: skip
    found = audited(write(tmp_path / "a.jsonl", rows))
    assert found["sides"][0]["unknown"] == 1
    assert len(page.render(found)) < 200_000


def test_the_command_writes_page_and_numbers_and_refuses_in_one_paragraph(tmp_path):
    path, other = before_and_after(tmp_path, num=6)
    ran = CliRunner().invoke(app, ["audit", str(path), str(other), "--to", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert "after.jsonl against before.jsonl: accuracy" in ran.output
    made = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert made["comparisons"][0]["num_compared"] == 6
    assert "damaged" not in ran.output
    with path.open("a") as file:
        file.write("\0\n" * 7)
    ran = CliRunner().invoke(app, ["audit", str(path), str(other), "--to", str(tmp_path / "out")])
    assert ran.output.count("holds NUL bytes, as a file does that was being written") == 3
    assert "damaged: before.jsonl: 4 more, on the page and in audit.json" in ran.output
    refused = CliRunner().invoke(app, ["audit", str(tmp_path / "absent")])
    assert refused.exit_code == 2
    assert "there is no such file or folder" in refused.output and "Traceback" not in refused.output


def test_the_audit_never_loads_torch(tmp_path):
    path, other = before_and_after(tmp_path, num=4)
    code = f"import sys; from controlarm.cli import app; app(['audit', {str(path)!r}, {str(other)!r}, '--to', {str(tmp_path / 'o')!r}], standalone_mode=False); sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RHO = [
    DATA / "rho1" / f"rho-math-1b{kind}__minerva_math__test_{how}_-1_seed0_t0.0_s0_e-1.jsonl"
    for kind, how in (("-v0.1", "cot"), ("-interpreter-v0.1", "tora"))
]


@pytest.mark.skipif(not RHO[0].exists(), reason="CONTROLARM_DATA holds no outputs of rho-math")
def test_published_accuracies_are_reproduced_and_every_difference_has_a_reason(monkeypatch):
    # On a machine that is busy with something else a pair may need more than a quiet one's five seconds.
    monkeypatch.setattr(verdicts, "Referee", partial(Referee, deadline=60.0))
    found = audit([Named("cot", RHO[0]), Named("interpreter", RHO[1])])
    for score, path, how in zip(found["scores"], RHO, ("cot", "tora"), strict=True):
        published = json.loads(path.with_name(f"{path.stem}_{how}_metrics.json").read_text())["acc"]  # fmt: skip
        assert 100 * score["share_high"] == pytest.approx(published)
        assert 100 * score["accuracy"]["their_answers"] == pytest.approx(published, abs=1)
        assert sum(score["reasons"].values()) == score["num_different"] == len(score["differences"])
        assert set(score["reasons"]) <= {"extraction", "equality", "unknown"}
    told = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert all(sentence in told for sentence in found["sentences"][:3])
    assert f"{round(500 * found['sides'][1]['boxed_share'])} of the 500 completions" in told
    for name, score in zip(("cot", "interpreter"), found["scores"], strict=True):
        rows = re.findall(rf"^\| {name} \| (\d+) \| (\w+)", told, re.MULTILINE)
        for reason, count in score["reasons"].items():
            assert sum(int(n) for n, why in rows if why == reason) == count, (name, reason)


def test_every_number_is_documented(tmp_path):
    rows = [record(p, right(str(p)), step=s, reward=p % 2, pred="1", truncated=False, num_tokens=9) for s in range(4) for p in range(25)]  # fmt: skip
    path = write(tmp_path / "a.jsonl", rows)
    found = audit([Named("base", path), Named("random", path)])
    pages = [Path(__file__).parents[1] / "docs" / name for name in ("audit.md", "metrics.md")]
    told = set(re.findall(r"`(\w+)`", "".join(p.read_text(encoding="utf-8") for p in pages)))
    verdicts_and_places = {
        "right", "wrong", "no_answer", "box", "answer_tag", "phrase", "formula", "number", "line", "strict", "lenient", "reward", "k", "equality", "extraction",
    }  # fmt: skip
    assert set(numbers(found)) - told - verdicts_and_places == set()


def numbers(part: object, key: str = ""):
    """Keys that hold a number or a list of numbers."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from numbers(value, name)
    elif isinstance(part, list):
        for value in part:
            yield from numbers(value, key)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield key
