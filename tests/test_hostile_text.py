"""Text from a model means harm: no text raises, hangs, runs, hides in a file or reaches a terminal as a command."""

import gc
import io
import json
import math
import os
import pty
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from controlarm import (
    arms,
    detectors,
    evaluation,
    files,
    grading,
    journal,
    labels,
    report,
    rollouts,
    show,
)
from controlarm import protocol as protocols
from controlarm.analysis.summary import summarise
from controlarm.arms import ARMS, GroupView
from controlarm.cli import app
from controlarm.evaluation import Sampled
from controlarm.markup import escaped
from controlarm.progress import Progress, watching
from controlarm.protocol import ArmTable, RunSpec
from controlarm.records import Problem
from controlarm.sampling import Completions
from tests.fabricate import fabricate
from tests.hostile import MARKUP, NASTY, harm, held, long_texts, protocol_of

TEXTS = st.text() | st.lists(st.sampled_from([*NASTY.values(), "\\boxed{", "}", "```python\n", "\n```", "7"])).map("".join)  # fmt: skip


STORY = "Ann has 347 pens, gets 28 more and then loses 9. How many pens now?"


def judge(text: str) -> None:
    """All that looks at a completion."""
    grading.grade(text, "7")
    grading.grade("\\boxed{7}", text)
    detectors.has_python(text)
    detectors.code_parses(text)
    detectors.claims_hold(text)
    detectors.derivation_holds(text, STORY)
    detectors.derivation_holds("7", text)


# Grading and detectors.


@given(TEXTS)
def test_any_text_is_graded_and_its_parts_are_of_the_text(text):
    found = grading.grade(text, "7")
    assert {found.strict, found.lenient} <= {"right", "wrong", "no_answer"}
    assert found.boxed is None or found.boxed in text
    # Neighbouring boxes are one answer of several parts.
    assert (
        found.answer is None
        or found.answer in text
        or all(part in text for part in found.answer.split(", "))
    )
    # Whatever stands before, a box at the end is what is read.
    assert grading.grade(f"{text}\\\\}}\\boxed{{7}}", "7").strict == "right"
    assert grading.same(text, text) is bool(grading.normalise(text))
    assert detectors.has_python(text) is ("python" in text.lower())
    assert detectors.code_parses(text) in (True, False)
    assert detectors.claims_hold(text) in (True, False, None)
    assert detectors.derivation_holds(text, STORY) in (False, None)


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_text_does_not_change_the_verdict_on_what_follows(name):
    text = NASTY[name]
    judge(text)
    assert grading.grade(f"{text}\n\\boxed{{7}}", "7").strict == "right"
    assert grading.grade(f"{text}\nThe answer is 8.", "7").lenient == "wrong" or "\\boxed" in text
    assert detectors.claims_hold(f"{text}\n```\n```python\nx = 3 + 4 # 8\n```") is False


LOOKS: dict[str, Callable[[str], object]] = {
    "grade and detectors": judge,
    "repetition": arms.no_repetition,
    "label": lambda text: labels.label("p", [text, text], "7"),
    "terminal": show.visible,
    "page": lambda text: escaped(text, len(text)),
}


def seconds(look: Callable[[str], object], text: str) -> float:
    """Without the garbage collector, whose full passes walk all that this process ever imported."""
    gc.disable()
    started = time.process_time()
    look(text)
    found = time.process_time() - started
    gc.enable()
    return found


def grows_at_most_threefold(look: Callable[[str], object], tenth: str, whole: str) -> bool:
    """Per character; quadratic time would grow tenfold. Less than five milliseconds are too short to tell, and a machine may stumble."""
    bound = 30 * max(0.005, seconds(look, tenth))
    return any(seconds(look, whole) < bound for _ in range(3))


@pytest.mark.parametrize("look", LOOKS)
def test_ten_times_the_text_takes_less_than_thirty_times_as_long(look):
    length = 100_000 if LOOKS[look] is judge else 40_000
    tenth = dict(long_texts(length // 10))
    slow = [
        name
        for name, text in long_texts(length)
        if not grows_at_most_threefold(LOOKS[look], tenth[name], text)
    ]
    assert slow == []


MEGABYTE = frozenset({
    *(f"{piece!a} over and over" for piece in ("\\boxed{", "answer is $", "1,234", "```python\n")),
    "a boxed nest of {", "one block, a nest of '('", "blocks with a nest of '-'", "one endless number in code",
})  # fmt: skip


def test_a_megabyte_takes_less_than_thirty_times_as_long_as_a_tenth_of_it():
    tenth = dict(long_texts(100_000))
    assert tenth.keys() >= MEGABYTE
    slow = [
        name
        for name, text in long_texts(1_000_000)
        if name in MEGABYTE and not grows_at_most_threefold(judge, tenth[name], text)
    ]
    assert slow == []


ALONE = """
import json, sys
from controlarm import detectors, grading
from tests.hostile import NASTY, long_texts
events = set()
sys.addaudithook(lambda event, arguments: events.add(f"open {arguments[0]}" if event == "open" else event))
texts = [*NASTY.values(), *(text for _, text in long_texts(30_000))]
for depth in (90, 99, 199, 200, 1_000, 3_000, 9_900):
    for left, right in (
        ("(", ")"), ("[", "]"), ("{", "}"), ("f(", ")"), ("a[", "]"), ("-", ""), ("not ", ""), ("lambda: ", ""), ("1+", ""),
        ("x=", ""), ("a.", ""), ("1 if 1 else ", ""), ("2**", ""), ("1<", ""), ("await ", ""), ("*", ""), ("f'{", "}'"), ("@a\\n", ""),
    ):
        for closed in (0, depth):
            nest = (left * depth)[: 9_900 - len(right) * closed] + "1" + right * closed
            texts += [f"```python\\n{nest}\\n```", f"```python\\nx = {nest} # 1\\n```"]
    texts.append("```python\\n" + "".join(" " * i + "if 1:\\n" for i in range(min(depth, 120))) + "\\n```")
for text in texts:
    grading.grade(text, text)
    detectors.code_parses(text)
    detectors.claims_hold(text)
    detectors.derivation_holds(text, "Ann has 347 pens, gets 28 more and then loses 9. How many pens now?")
print(json.dumps([len(texts), *events]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[Any]:
    """What is said by a process that judges every text with a megabyte of stack and one gigabyte of memory."""
    folder = tmp_path_factory.mktemp("alone")
    limited = f'ulimit -s 1024; ulimit -v 1000000; exec {sys.executable} -X utf8 -c "$ALONE"'
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        ["bash", "-c", limited], env={**os.environ, "ALONE": ALONE, "PYTHONPATH": root},
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert not list(folder.iterdir())
    return json.loads(done.stdout)


def test_no_nest_overflows_a_small_stack_nor_a_small_memory(alone):
    assert alone[0] > 500


def test_nothing_of_a_text_is_executed_opened_or_imported(alone):
    """CPython's own audit: parsing is told as compiling; what runs, opens or imports would be told, too.

    For the message of a syntax error, which is dropped, CPython looks for a file of the name that it gives to text without one.
    """
    assert "compile" in alone and set(alone[1:]) <= {"compile", "open <unknown>"}


# Labels and payments.


def test_labels_of_nasty_texts_are_written_and_read_back(tmp_path):
    texts = [*NASTY.values(), *(f"\\boxed{{{text}}}" for text in NASTY.values())]
    rows = [labels.label(f"{i} {held(text)}", texts[i:] + texts[:3], text) for i, text in enumerate(texts)]  # fmt: skip
    labels.write(tmp_path / "labels.parquet", rows)
    assert labels.read(tmp_path / "labels.parquet") == rows
    assert any(row.majority is not None and "\x1b" in row.majority for row in rows)


def test_an_answer_that_utf8_cannot_hold_is_no_label():
    found = labels.label("p", ["\\boxed{\ud800}"] * 3 + ["\\boxed{8}"], "7")
    assert (found.majority, found.incorrect) == ("8", "8")


@given(st.lists(TEXTS, min_size=1, max_size=6), TEXTS)
def test_a_label_is_an_answer_that_some_sample_gave_in_whatever_order(texts, gold):
    found = labels.label("p", texts, gold)
    assert found == labels.label("p", texts[::-1], gold)
    if found.majority is not None:
        assert found.majority in map(grading.normalise, filter(None, map(grading.last_box, texts)))
    assert found.incorrect != grading.normalise(gold)


def quoting(text: str) -> float:
    raise ValueError(text)


def returning(text: str) -> Any:
    return text


def counting(text: str) -> int:
    return 10 ** len(text)


def built(name: str) -> arms.Arm:
    of = ["ground_truth", "no_repetition", "random"] if name == "all_of" else None
    p = 0.3 if "p" in ARMS[name].required else None
    return arms.build(name, ArmTable(of=of, p=p), {})


@pytest.mark.parametrize("name", sorted(set(ARMS) - {"custom"}))
def test_every_arm_pays_nothing_or_one_whatever_is_said(name):
    texts = list(NASTY.values())
    group = GroupView(problem_id=NASTY["lone surrogates"], texts=texts, answer=NASTY["beyond int"], majority=NASTY["controls"],
                      incorrect=NASTY["nul"], seed=1, step=1, samples=range(len(texts)))  # fmt: skip
    paid = built(name).payment(group)
    assert paid.failures == [] and set(paid.rewards) <= {0.0, 1.0}
    assert paid == built(name).payment(group)


@pytest.mark.parametrize("function", [quoting, returning, counting])
def test_a_reward_that_fails_on_a_text_fails_in_one_short_line(function):
    arm = arms.Arm(name="own", reward="custom", reads=frozenset({"text"}), function=function)
    texts = [*NASTY.values(), "x" * 1_000_000, "\n" * 1_000_000, "9" * 5_000]
    group = GroupView(problem_id="p", texts=texts, answer="", majority=None, incorrect=None, seed=1, step=1,
                      samples=range(len(texts)))  # fmt: skip
    paid = arm.payment(group)
    failed = [math.isnan(reward) for reward in paid.rewards]
    assert sum(failed) == len(paid.failures) >= 4
    assert all(len(message) < 300 and "\n" not in message for message in paid.failures)


# Files.


@pytest.mark.parametrize("name", NASTY)
def test_a_journal_line_with_a_nasty_text_is_one_line_and_reads_back(name, tmp_path):
    text = NASTY[name]
    values = {"step": 1, text: text, "reason": f"{text} {text}"}
    path = tmp_path / "steps.jsonl"
    kept = journal.Journal(path)
    kept.append(values)
    kept.append({"step": 2})
    kept.close()
    first, second, rest = path.read_bytes().split(b"\n")
    assert rest == b"" and first.isascii() and b"\r" not in first
    assert files.intact(first) and files.intact(second)
    assert {k: v for k, v in json.loads(first).items() if k != "seal"} == values
    files.write_json(tmp_path / "failed.json", {"step": 1, "reason": text})
    assert files.read_json(tmp_path / "failed.json")["reason"] == text


def sampled(texts: list[str], long: str) -> list[Sampled]:
    return [
        Sampled(Problem(id=f"{i} {text}", text=text, answer=text), 0, text + long, 1, False, -0.5, 0.5)
        for i, text in enumerate(texts)
    ]  # fmt: skip


def rollout_table(made: list[Sampled]) -> pa.Table:
    shape = (1, 1, len(made), 1)
    completions = Completions(
        torch.ones(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(shape)
    )
    return rollouts.table(made, completions, 0, np.zeros(len(made)), np.zeros(len(made)))


@pytest.mark.parametrize("table", [rollout_table, evaluation.table])
@pytest.mark.parametrize(
    "long", ["", "x" * 1_000_000, "\\boxed{\x1b]0;\x07}"], ids=["short", "long", "boxed"]
)
def test_texts_are_read_back_from_parquet_as_they_were_written(table, long, tmp_path):
    texts = [held(text) for text in NASTY.values()]
    made = sampled(texts if len(long) < 100 else texts[:3], long)
    path = tmp_path / "table.parquet"
    files.write_table(path, table(made))
    rows = files.read_table(path, ["problem_id", "text", "strict", "boxed", "answer"]).to_pylist()
    assert [(row["problem_id"], row["text"]) for row in rows] == [
        (s.problem.id, s.text) for s in made
    ]
    for row, one in zip(rows, made, strict=True):
        grade = grading.grade(one.text, one.problem.answer)
        assert (row["strict"], row["boxed"], row["answer"]) == (
            grade.strict,
            grade.boxed,
            grade.answer,
        )


def test_a_rollout_that_utf8_cannot_hold_is_kept_all_the_same(tmp_path):
    made = sampled(["a\ud800b \\boxed{\udfff}"], "")
    files.write_table(tmp_path / "table.parquet", rollout_table(made))
    [row] = files.read_table(tmp_path / "table.parquet", ["text", "boxed"]).to_pylist()
    assert row == {"text": "a?b \\boxed{?}", "boxed": "?"}


# A whole run folder, on a terminal.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A trial whose every text means harm."""
    made = tmp_path_factory.mktemp("runs") / "hostile"
    fabricate(made, protocol_of("Is it so?"))
    harm(made, list(NASTY.values()), "".join(MARKUP.values()))
    return made


def obeyed(output: str) -> set[str]:
    """What a terminal would obey in an output, beyond line ends and the bold, dim and reset that are ours."""
    for own in ("\x1b[1m", "\x1b[2m", "\x1b[0m", "\r\n", "\n"):
        output = output.replace(own, "")
    return {c for c in output if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"}


def on_a_terminal(*arguments: object) -> str:
    """What a command writes to a terminal, byte for byte."""
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLUMNS": "100",
        "PYTHONIOENCODING": "utf-8",
    }
    command = [sys.executable, "-m", "controlarm", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    read = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        read += part
    os.close(ours)
    assert process.wait() == 0, read.decode()[-2000:]
    return read.decode()


def test_show_on_a_terminal_writes_nothing_that_a_terminal_obeys(folder):
    output = on_a_terminal("show", folder, "--limit", 4, "--samples", 3)
    assert "\x1b[1m" in output  # it is styled, so it took this for a terminal
    assert "␛" in output and "\\u202e" in output and "\\x9b" in output
    assert obeyed(output) == set()


def test_report_on_a_terminal_writes_nothing_that_a_terminal_obeys(folder):
    output = on_a_terminal("report", folder)
    assert "failed: " in output and "owned" in output
    assert obeyed(output) == set()


@pytest.mark.parametrize("options", [["--training", "--samples", "8"], ["--limit", "9"], ["--problem", "\x1b[31m"], ["--arm", "\x1b]0;owned\x07"]])  # fmt: skip
def test_show_in_a_pipe_writes_no_control_character_at_all(folder, options):
    result = CliRunner().invoke(app, ["show", str(folder), *options])
    assert result.exit_code in (0, 2) and "Traceback" not in result.output
    assert len(result.output) > 100 or result.exit_code == 2 or "nothing fits" in result.output
    assert obeyed(result.output) == set() and "\x1b" not in result.output


def test_the_numbers_of_a_hostile_trial_are_json_and_say_what_was_said(folder):
    found = summarise(folder)
    assert json.loads(report.as_json(found)) == found
    texts = [row["text"] for row in found["rollouts"]]
    assert any("\x1b" in text for text in texts) and any("\u202e" in text for text in texts)


def spoiled(folder: Path, copy: Path, column: str, value: Any) -> Path:
    """A copy of the folder in which one evaluation has another value in a column, sealed as if it had been written so."""
    copy.mkdir()
    subprocess.run(["cp", "-r", *folder.iterdir(), copy], check=True)
    path = sorted(copy.glob("coder/random/*/evaluations/*-000002.parquet"))[0]
    table = pq.read_table(path)
    files.write_table(path, table.set_column(table.column_names.index(column), column, pa.array([value] * len(table)).view("string")))  # fmt: skip
    return copy


def test_bytes_that_are_no_text_are_damage_that_is_named(folder, tmp_path):
    answers = spoiled(folder, tmp_path / "answers", "answer", b"\xff\xed\xa0\x80")
    [damage] = summarise(answers)["flow"]["damaged"]
    assert damage["file"].endswith("step-000002.parquet") and "UTF8" in damage["what"]
    texts = spoiled(folder, tmp_path / "texts", "text", b"\xff\xed\xa0\x80")
    for command in ("show", "report"):
        result = CliRunner().invoke(app, [command, str(texts)])
        assert (
            result.exit_code == 2
            and result.stderr.startswith("error: ")
            and "UTF8" in result.stderr
        )


def test_damage_that_quotes_a_text_quotes_little_of_it(folder, tmp_path):
    copy = spoiled(folder, tmp_path / "verdicts", "strict", b"\x1b]0;owned\x07" * 100_000)
    [damage] = summarise(copy)["flow"]["damaged"]
    assert "verdict" in damage["what"] and len(damage["what"]) < 500


def test_a_protocol_that_quotes_hostile_text_is_refused_in_plain_text(tmp_path):
    for i, text in enumerate(NASTY.values()):
        path = tmp_path / f"{i}.toml"
        for toml in (f"[arms.{json.dumps(text)}]\nreward = {json.dumps(text)}\n", text):
            path.write_text(toml, encoding="utf-8", errors="surrogatepass")
            result = CliRunner().invoke(app, ["check", str(path)])
            assert result.exit_code == 2 and result.stderr.startswith("error: "), result.output
            assert obeyed(result.stderr) == set()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_names_and_obeys_none(terminal):
    nasty = "".join(NASTY.values())
    plan = protocols.parse(protocol_of("Is it so?"))
    progress = Progress(protocol=plan, specs=[RunSpec(nasty, 1, nasty, "random", 1)], shards=[[0]], waiting=[0], workers=1)  # fmt: skip
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100, height=50, color_system="standard")  # fmt: skip
    with watching(progress, console) as show_report:
        values = {"accuracy": 0.5, "reward": 1e300, "code_share": None}
        for stage, step in (("labelled", 0), ("trained", 1), ("evaluated", 2), ("finished", 2)):
            show_report({"stage": stage, "shard": 0, "step": step, "seconds": 1.0, "runs": {f"{nasty}/random/x": values}})  # fmt: skip
    output = shown.getvalue()
    assert len(output) > 100
    if not terminal:
        assert obeyed(output) == set() and "owned" in output
    else:
        assert "owned" not in output
