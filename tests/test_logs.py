"""Readers of other people's logs: what they recognise, what they make of damage, and that nothing is dropped silently."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlarm.logs import Damage, Fields, Row, open_log, records


def write_lines(path: Path, *lines: object) -> Path:
    made = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(made) + b"\n")
    return path


def read(path: Path, fields: Fields | None = None) -> tuple[list[Row], list[Damage]]:
    found = list(open_log(path, fields).read())
    return [r for r in found if isinstance(r, Row)], [d for d in found if isinstance(d, Damage)]


VERL = {"input": "user\n1 + 1?", "output": "\\boxed{2}", "gts": "2", "score": 1.0, "step": 5, "uid": "u1", "acc": True, "pred": "2"}  # fmt: skip
"""As ``_dump_generations`` of verl's trainer writes a rollout, with what a reward function returned beside its score."""


def test_verl_rollouts_of_a_folder_come_in_the_order_of_their_steps(tmp_path):
    for step in (10, 9):
        write_lines(tmp_path / f"{step}.jsonl", VERL | {"step": step})
    log = open_log(tmp_path)
    assert log.format == "verl"
    rows, damage = read(tmp_path)
    assert [r.step for r in rows] == [9, 10]
    assert not damage
    assert rows[0].scores == {"score": 1.0, "acc": 1.0}
    assert (rows[0].prompt, rows[0].text, rows[0].gold, rows[0].answer) == ("user\n1 + 1?", "\\boxed{2}", "2", "2")  # fmt: skip


def test_verl_validation_of_versions_without_gold_and_step(tmp_path):
    rows, _ = read(write_lines(tmp_path / "0.jsonl", {"input": "a", "output": "b", "score": 0.0}))
    assert rows[0].gold is None and rows[0].step is None


def test_openrlhf_batch_inference_has_no_gold(tmp_path):
    path = write_lines(tmp_path / "out.jsonl", {"input": "1 + 1?", "output": "2", "reward": 0.25})
    log = open_log(path)
    assert log.format == "openrlhf"
    rows, _ = read(path)
    assert rows[0].scores == {"reward": 0.25} and rows[0].gold is None


def test_openrlhf_samples_in_a_table_of_w_and_b(tmp_path):
    path = tmp_path / "generated_samples.table.json"
    path.write_text(json.dumps({"columns": ["global_step", "text", "reward"], "data": [[3, "1 + 1? 2", 1.0], [4, "x"]]}))  # fmt: skip
    assert open_log(path).format == "openrlhf"
    rows, damage = read(path)
    assert [(r.step, r.text) for r in rows] == [(3, "1 + 1? 2")]
    assert damage == [Damage(0, 2, "is no object but a list")]


def test_several_completions_of_a_record_are_rows_of_their_own(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl",
        {"idx": 7, "question": "1 + 1?", "gt": "2", "code": ["\\boxed{2}", "3"], "pred": ["2", "3"], "score": [True, False]},
        {"idx": 8, "question": "1 + 2?", "gt": "3", "code": ["3", "3"], "pred": ["3"], "score": [True, True]},
    )  # fmt: skip
    rows, damage = read(path)
    assert [(r.line, r.text, r.answer, r.scores["score"], r.problem_id) for r in rows] == [
        (1, "\\boxed{2}", "2", 1.0, "7"), (1, "3", "3", 0.0, "7"),
    ]  # fmt: skip
    assert damage == [Damage(0, 2, "'pred' has 1 values for 2 completions")]


def test_chat_messages_give_the_last_question_and_all_of_the_answer(tmp_path):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "1 + 1?"}]
    said = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows, _ = read(write_lines(tmp_path / "a.jsonl", {"prompt": chat, "completion": said}))
    assert (rows[0].prompt, rows[0].text) == ("1 + 1?", "a\nb")


def test_own_names_go_before_what_is_found_and_a_wrong_one_is_refused(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl", {"output": "no", "said": "yes", "extra_info": {"gold": "1"}}
    )
    rows, _ = read(path, Fields(completion="said", gold="extra_info.gold"))
    assert (rows[0].text, rows[0].gold) == ("yes", "1")
    with pytest.raises(ValueError, match=r"has no field 'nay' for completion; its fields are .*output"):  # fmt: skip
        open_log(path, Fields(completion="nay"))


def test_damage_is_named_by_its_line_and_reading_goes_on(tmp_path):
    good = {"prompt": "p", "completion": "c", "answer": "1", "step": 1}
    path = write_lines(
        tmp_path / "a.jsonl", good, b"{broken", b"\xff\xfe{}", b"\0\0\0\0", [1], {"prompt": "p"},
        good | {"completion": 5}, good | {"step": 1.5}, good | {"answer": {"x": 1}}, b"", b"[" * 100_000,
        good | {"completion": [{"role": "assistant"}]}, good | {"completion": None},
    )  # fmt: skip
    with path.open("ab") as file:
        file.write(json.dumps(good).encode()[:-9])
    rows, damage = read(path)
    assert len(rows) == 1
    assert {d.line: d.what for d in damage} == {
        2: "is no JSON", 3: "is no UTF-8 (byte 1 of the line)", 4: "holds NUL bytes, as a file does that was being written when a machine stopped",
        5: "is no object but a list", 6: "has no completion in 'completion'", 7: "'completion' is a number, not text",
        8: "'step' is a number, not a whole number", 9: "'answer' is an object, not text", 11: "is nested too deeply",
        12: "'completion' is an object, not text", 13: "has no completion in 'completion'", 14: "is cut off: the last line has no end",
    }  # fmt: skip


def test_a_line_too_long_is_passed_over_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE", 1000)
    good = {"prompt": "p", "completion": "c"}
    path = write_lines(tmp_path / "a.jsonl", good, {"completion": "x" * 5_000_000}, good)
    rows, damage = read(path)
    assert [r.line for r in rows] == [1, 3]
    assert damage[0].line == 2 and "5,0" in damage[0].what


def test_numbers_that_are_none_are_missing_and_no_damage(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"completion": "c", "reward": NaN}\n{"completion": "c", "reward": Infinity}\n{"completion": "c", "reward": null}\n{"completion": "c", "reward": 1}\n'
    )
    rows, damage = read(path)
    assert [r.scores for r in rows] == [{}, {}, {}, {"reward": 1.0}] and not damage


def test_halves_of_a_character_do_not_reach_anybody(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"completion": "a\\ud800b \\u0000 \\ud83d\\ude00"}\n')
    rows, _ = read(path)
    assert rows[0].text == "a�b \0 😀"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b\x08\x00rest", "compressed with gzip"),
        (b"\x80\x04\x95pickle", "serialised Python objects, which are never opened"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b"step,reward\n1,2\n", "begins with 'step,reward"),
        (b'{"a": 1}\n', "no field may be a completion (fields: a)"),
        (b"PAR1 and no more", "cannot be read as parquet"),
    ],
)
def test_what_is_no_log_is_refused_in_words(tmp_path, content, said):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        open_log(path)
    assert said in str(refused.value) and "known are TRL completions" in str(refused.value)


def test_a_folder_without_logs_and_a_path_without_anything_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.jsonl, \.parquet or \.json file"):
        open_log(tmp_path)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        open_log(tmp_path / "absent")


def completions(step: int, texts: list[str], **columns: list) -> pa.Table:
    """The columns of ``GRPOTrainer.log``."""
    rows = len(texts)
    return pa.table({
        "step": [step] * rows, "prompt": ["1 + 1?"] * rows, "completion": texts, **columns, "advantage": [0.5] * rows,
    })  # fmt: skip


def test_trl_rewards_are_its_further_columns(tmp_path):
    folder = tmp_path / "completions"
    folder.mkdir()
    pq.write_table(completions(1, ["2", "3"], paid=[1.0, None], answer=["2", "2"]), folder / "completions_00001.parquet")  # fmt: skip
    (tmp_path / "trainer_state.json").write_text(
        json.dumps({"log_history": [{"step": 1, "reward": 0.5, "entropy": 0.25}, {"no": "step"}]})
    )
    log = open_log(tmp_path)
    assert (log.format, log.history) == ("trl", [{"step": 1, "reward": 0.5, "entropy": 0.25}])
    rows, _ = read(tmp_path)
    assert [(r.scores, r.gold, r.step) for r in rows] == [({"paid": 1.0}, "2", 1), ({}, "2", 1)]


def test_a_parquet_file_that_was_cut_is_damage_among_others(tmp_path):
    pq.write_table(completions(1, ["2"]), tmp_path / "completions_00001.parquet")
    whole = (tmp_path / "completions_00001.parquet").read_bytes()
    (tmp_path / "completions_00002.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "completions_00003.parquet").write_bytes(b"")
    rows, damage = read(tmp_path)
    assert len(rows) == 1
    assert sorted((d.file, d.line) for d in damage) == [(1, 0), (2, 0)]
    assert "cannot be read as parquet" in next(d.what for d in damage if d.file == 1)


def test_parquet_text_that_is_no_utf8_is_damage_of_its_row(tmp_path):
    raw = pa.array([b"good", b"b\xffd", b"good"], pa.binary())
    column = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"completion": column}), tmp_path / "a.parquet")
    rows, damage = read(tmp_path / "a.parquet")
    assert [r.line for r in rows] == [1, 3]
    assert damage == [Damage(0, 2, "holds text that is no UTF-8")]


def test_a_store_of_ours_is_read_and_a_changed_byte_found(tmp_path):
    from controlarm import files, store

    row = dict.fromkeys(store.SAMPLES.names) | {"problem_id": "7", "sample": 0, "prompt_sha256": "", "problem": "1 + 1?", "gold": "2", "text": "\\boxed{2}", "truncated": True}  # fmt: skip
    condition = tmp_path / "set-none-0123"
    for number in (0, 1):
        files.write_table(condition / "samples" / f"{number:06d}.parquet", pa.Table.from_pylist([row], store.SAMPLES))  # fmt: skip
    (condition / "condition.json").write_text("{}")
    second = condition / "samples" / "000001.parquet"
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    assert open_log(tmp_path).format == "store"
    rows, damage = read(tmp_path)
    assert [(r.text, r.gold, r.truncated, r.prompt) for r in rows] == [("\\boxed{2}", "2", True, "1 + 1?")]  # fmt: skip
    assert [(d.file, d.line) for d in damage] == [(1, 0)]


def test_of_a_store_with_greedy_and_sampled_completions_the_sampled_are_read(tmp_path):
    from controlarm import files, store

    row = dict.fromkeys(store.SAMPLES.names) | {"problem_id": "7", "sample": 0, "prompt_sha256": "", "problem": "1 + 1?", "gold": "2", "truncated": False}  # fmt: skip

    def condition(name: str, temperature: float, prompt: str = "line") -> None:
        store.write_asked(tmp_path / name, store.Asked(num_problems=1, num_samples=60))
        files.write_json(tmp_path / name / "condition.json", {"problems": "set", "prompt": prompt, "temperature": temperature})  # fmt: skip
        files.write_table(tmp_path / name / "samples" / "000000.parquet", pa.Table.from_pylist([row | {"text": name}], store.SAMPLES))  # fmt: skip

    condition("a-greedy", 0.0)
    condition("b-sampled", 0.6)
    rows, _ = read(tmp_path)
    assert [r.text for r in rows] == ["b-sampled"]
    assert "read are its sampled completions, not the greedy ones (b-sampled)" in open_log(tmp_path).sentence  # fmt: skip
    assert "greedy" not in open_log(tmp_path / "b-sampled").sentence
    condition("c-other", 1.0, "none")
    with pytest.raises(ValueError) as refused:
        open_log(tmp_path)
    assert "a-greedy (line, greedy); b-sampled (line, T 0.6, 60 samples); c-other (none, T 1, 60 samples)" in str(refused.value)  # fmt: skip
