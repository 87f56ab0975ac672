"""The grader: cases as data, gold answers, and properties of extraction and equality."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controlarm.grading import final_answer, grade, last_box, normalise, same

HERE = Path(__file__).parent
CASES = [json.loads(line) for line in (HERE / "grading_cases.jsonl").read_text().splitlines()]
DATA = Path(os.environ.get("CONTROLARM_DATA", HERE.parent.parent / "shared" / "data"))

HOSTILE = st.text() | st.text(alphabet="\\boxed{} $.,+-/0123\n٣\x00\ud800aswri", max_size=80)
PIECES = st.lists(
    st.sampled_from(["\\boxed{", "{", "}", "\\{", "\\}", "\\\\", "7", " ", "$", "x", "answer is ", ".", "\n"])
).map("".join)  # fmt: skip
NUMBERS = st.integers(-(10**12), 10**12)


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c['why']}" for i, c in enumerate(CASES, 1)])
def test_each_case_gets_its_verdicts(case):
    found = grade(case["text"], case["gold"])
    assert (found.strict, found.lenient) == (case["strict"], case["lenient"]), found


def golds(name: str) -> list[str]:
    path = DATA / "problems" / name
    if not path.exists():
        pytest.skip(
            f"{path} is absent; set CONTROLARM_DATA to the folder of collected problem sets"
        )
    text = path.read_text(encoding="utf-8")
    if name.startswith("gsm8k"):
        return [json.loads(line)["answer"].rpartition("####")[2] for line in text.splitlines()]
    return [str(row["answer"]) for row in json.loads(text)]


@pytest.mark.parametrize(
    ("name", "count", "empty"),
    [
        ("gsm8k_test.jsonl", 1319, 0),
        ("aime24.json", 30, 0),
        ("amc83.json", 83, 0),
        ("math500.json", 500, 0),
        ("minerva.json", 272, 0),
        ("math_train.json", 7474, 2),
    ],
)
def test_every_gold_answer_grades_right_when_boxed(name, count, empty):
    answers = golds(name)
    assert len(answers) == count
    wrong = [a for a in answers if grade(f"So it is \\boxed{{{a}}}.", a).strict != "right"]
    assert wrong == [""] * empty  # nothing is right where the set has no answer


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "aime24.json", "amc83.json"])
def test_every_numeric_gold_answer_is_found_without_a_box(name):
    for a in golds(name):
        for text in (
            f"The answer is {a.strip()}.",
            f"With 3 and 4 we get {a.strip()}",
            f"#### {a}",
        ):
            found = grade(text, a)
            assert (found.strict, found.lenient, found.boxed) == ("no_answer", "right", None), text


@given(HOSTILE | PIECES, HOSTILE)
@example("\\boxed{" + "1" * 5000 + "}", "1" * 5000)  # longer than int() accepts
def test_no_text_raises_and_the_parts_of_a_grade_agree(text, gold):
    found = grade(text, gold)
    assert (found.boxed is None) == (found.strict == "no_answer")
    assert (found.answer is None) == (found.lenient == "no_answer")
    if found.boxed is not None:
        assert found.answer == found.boxed and found.strict == found.lenient
        assert found.boxed == found.boxed.strip() != ""
        assert found.boxed in text
    if found.answer is not None:
        assert normalise(found.answer) != ""


@given(HOSTILE)
def test_normalising_twice_is_normalising_once(answer):
    assert normalise(normalise(answer)) == normalise(answer)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_sameness_is_an_equivalence_on_answers_and_empty_equals_nothing(a, b, c):
    assert same(a, a) is (normalise(a) != "")
    assert same(a, b) is same(b, a)
    if same(a, b) and same(b, c):
        assert same(a, c)
    assert not same("", a) and not same(None, a) and not same(a, None) and not same(None, None)


@given(
    NUMBERS,
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["", "$", " ", " $ ", "\\$"]),
)
def test_every_way_to_write_an_integer_is_that_integer(n, zeros, decimals, commas, around):
    digits = f"{abs(n):,}" if commas else "0" * zeros + str(abs(n))
    sign = "-" if n < 0 else ["", "+"][zeros % 2]
    written = sign + digits + ("." + "0" * decimals if decimals else "")
    assert grade(f"\\boxed{{{around}{written}{around}}}", str(n)).strict == "right"


@given(NUMBERS, NUMBERS, st.integers(0, 6), st.integers(0, 6))
def test_decimals_are_equal_exactly_when_their_values_are(a, b, i, j):
    x, y = f"{a}.{abs(b) % 10**i:0{i}d}", f"{a}.{abs(b) % 10**j:0{j}d}"
    # Same whole part and sign: equal exactly when the fractions are, each over its own power of ten.
    equal = (abs(b) % 10**i) * 10**j == (abs(b) % 10**j) * 10**i
    assert same(x, y) is equal


@given(NUMBERS, NUMBERS)
def test_different_integers_differ(a, b):
    assert same(str(a), f"{b:,}") is (a == b)


def boxes_by_hand(text: str) -> str | None:
    """Oracle, quadratic: from each box from the last to the first, walk to the brace that balances it."""
    starts = [i + len("\\boxed{") for i in range(len(text)) if text.startswith("\\boxed{", i)]
    for start in reversed(starts):
        depth, i = 1, start
        while i < len(text) and depth:
            escaped = text[i : i + 2] in ("\\{", "\\}")
            line_break = text.startswith("\\\\", i) and not text.startswith("\\\\boxed", i)
            if escaped or line_break:
                i += 1
            else:
                depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        content = text[start : i - 1]
        if depth == 0 and "\\boxed{" not in content and normalise(content):
            return content.strip()
    return None


@given(PIECES)
@example("\\boxed{{7}")
@example("\\\\{\\boxed{7}\\\\}")
def test_the_last_box_is_the_one_found_by_walking(text):
    assert last_box(text) == boxes_by_hand(text)


@given(st.text(alphabet="\\{}boxed7 ", max_size=30), st.text(alphabet="\\{}7 ", max_size=30))
def test_a_balanced_box_at_the_end_always_wins(before, after):
    assert last_box(f"{before} \\boxed{{42}}{after}") == "42"


@given(st.text(alphabet="abc ,.", max_size=20), NUMBERS, st.text(alphabet="abc ,", max_size=20))
def test_the_last_number_of_prose_is_found(before, n, after):
    assert same(final_answer(f"{before} {n} {after}")[0], str(n))


MEGABYTE = 10**6


@pytest.mark.parametrize(
    "unit",
    [
        "\\boxed{", "{", "}", "\\boxed{}", "\\boxed{1}", "\\boxed", "\\boxed ", "\\", "\\{", "$", "\\$", " ",
        "1", "1,", "1,234", ",234", "1.", "1/", "-", "+1", "answer is ", "answer is x", "answer is.", "answer ",
        "answer is $", "answer is \\boxed{}", "answer is \\boxed{}. ", "\n", "٣", "\ud800", "\x00",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "frame", ["{}", "\\boxed{{{}}}", "answer is {}"], ids=["bare", "boxed", "phrase"]
)
def test_time_is_linear_in_the_length_of_hostile_text(unit, frame):
    # A quadratic grader would need minutes for this; a linear one takes a tenth of a second.
    text = frame.format(unit * (MEGABYTE // 4 // len(unit)))
    started = time.process_time()
    grade(text, "1")
    assert time.process_time() - started < 2


def test_a_balanced_nest_of_a_megabyte_is_graded():
    depth = MEGABYTE // 8
    started = time.process_time()
    assert grade("\\boxed{" * depth + "7" + "}" * depth, "7").strict == "right"
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text",
    ["The answer is \u22125.", "Hence it equals \u22125", "The answer is \u221a5.", "The answer is negative 5.", "The answer is 5 pi.", "The answer is 5 million.", "The total is 10^5 apples"],
)  # fmt: skip
def test_a_number_that_a_sign_or_a_word_changes_is_not_that_number(text):
    assert grade(text, "5").lenient != "right"


def test_a_minus_sign_is_a_minus():
    assert grade("The answer is \u22125.", "-5").lenient == "right"
