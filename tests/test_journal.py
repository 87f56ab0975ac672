"""The record of a run: one JSON object a line, cut back to its mark, damage before the mark found."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm.files import DamagedFileError, intact
from controlarm.journal import Journal, Mark, line

VALUES = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.none(), st.integers(), st.text(max_size=8), st.floats()),
    max_size=4,
)


@given(VALUES)
def test_a_line_is_json_that_any_reader_takes_and_holds_no_number_that_is_none(values):
    text = line(values)
    assert text.endswith(b"\n") and text.count(b"\n") == 1
    assert intact(text[:-1])

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    read = json.loads(text, parse_constant=refuse)
    for name, value in values.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        assert read[name] == (value if finite else None)


def test_lines_can_be_read_while_the_journal_is_open(tmp_path):
    journal = Journal(tmp_path / "a" / "steps.jsonl")
    journal.append({"step": 1})
    assert (tmp_path / "a" / "steps.jsonl").read_bytes() == line({"step": 1})
    journal.close()


@given(st.lists(VALUES, max_size=6), st.lists(VALUES, max_size=6), st.binary(max_size=30))
def test_going_on_from_a_mark_gives_the_bytes_of_never_having_stopped(
    tmp_path_factory, before, after, torn
):
    folder = tmp_path_factory.mktemp("journal")
    whole = Journal(folder / "whole")
    for values in [*before, *after]:
        whole.append(values)
    expected = whole.mark()
    whole.close()
    stopped = Journal(folder / "stopped")
    for values in before:
        stopped.append(values)
    mark = stopped.mark()
    stopped.close()
    with (folder / "stopped").open("ab") as file:
        file.write(torn)  # what came after the last commit, torn anywhere
    again = Journal(folder / "stopped", Mark(*mark))
    for values in after:
        again.append(values)
    assert again.mark() == expected
    again.close()
    assert (folder / "stopped").read_bytes() == (folder / "whole").read_bytes()


@pytest.mark.parametrize("place", [0, 9, 20])
def test_a_changed_byte_before_the_mark_is_found_and_the_file_named(tmp_path, place):
    path = tmp_path / "steps.jsonl"
    journal = Journal(path)
    journal.append({"step": 1})
    journal.append({"step": 2})
    mark = journal.mark()
    journal.close()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"steps\.jsonl.*restore"):
        Journal(path, mark)
    assert path.read_bytes() == content, "a damaged file is left as it was found"


def test_a_journal_shorter_than_its_mark_is_found(tmp_path):
    path = tmp_path / "steps.jsonl"
    journal = Journal(path)
    journal.append({"step": 1})
    mark = journal.mark()
    journal.close()
    path.write_bytes(b'{"st')
    with pytest.raises(DamagedFileError, match="4 found"):
        Journal(path, mark)


def test_a_lost_journal_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DamagedFileError, match=r"steps\.jsonl"):
        Journal(tmp_path / "steps.jsonl", Mark(12, "ab"))


def test_without_a_mark_a_journal_starts_afresh(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"what a killed command left")
    Journal(path).close()
    assert path.read_bytes() == b""
