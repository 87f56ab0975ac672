"""Detectors of code reasoning: what each counts, and that no text can hurt them."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import grading, seeds
from controlarm.detectors import MAX_BLOCK, claims_hold, code_parses, derivation_holds, has_python
from controlarm.organisms import corpus
from controlarm.problems.arithmetic import (
    GAIN_VERBS,
    LOSS_VERBS,
    NAMES,
    NOUNS,
    Sum,
    draw_sums,
    read_story,
    tell,
)


def fenced(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def test_the_substring_detector_is_the_papers_with_its_false_positives():
    assert has_python("```PYTHON\nx = 1\n```")
    assert has_python("We do not need Python here.")
    assert not has_python("```\nx = 1\n```")


@pytest.mark.parametrize(
    ("text", "parses"),
    [
        (fenced("x = 347 + 28 # 375"), True),
        (fenced("x = = 1"), False),
        (fenced("x = = 1") + "\n" + fenced("x = 1"), True),
        ("```Python  \nx = 1\n```", True),
        ("```python\nx = 1\n", False),  # never closed
        ("```\nx = 1\n```", False),
        ("```python3\nx = 1\n```", False),
        ("python: x = 1", False),
        (fenced(""), False),
        (fenced("# only a comment"), False),
        (fenced("x = '\\d'"), True),  # a warning in Python, not an error
        (fenced("x = 1\x00"), False),
        (fenced("x = '\ud800'"), False),
        (fenced("x = " + "1" * 5000), False),  # Python's own limit on literals
        (fenced("#" * (MAX_BLOCK - 6), "x = 1"), False),  # too long to look at
    ],
)
def test_code_is_a_closed_python_fence_that_parses(text, parses):
    assert code_parses(text) is parses


@pytest.mark.parametrize(
    ("lines", "hold"),
    [
        (["x = 347 + 28 # 375", "y = x - 9 # 366"], True),
        (["x = 347 + 28 # 365", "y = x - 9 # 356"], False),
        (["x = 347 + 28 # 365", "y = x - 9 # 366"], False),
        (["x = 347 + 28", "y = x - 9 # 366"], True),
        (["x = 347 + 28"], None),
        (["x = 5 # five apples", "y = 'a' # 3"], None),
        (["x = (1 + 2) * 3 # 9", "y = -x // 2 # -5", "z = x % 4 # +1", "w = 2 ** 10 # 1024"], True),
        (["x = 6 / 2 # 3"], True),
        (["x = 7 / 2 # 3"], None),  # no integer: not ours to judge
        (["x = 1; y = x + 5 # 6"], True),
        (["x = y + 1 # 3"], False),  # NameError
        (["import math", "x = math.pi # 3", "z = x + 1 # 4"], None),
        (["from math import pi", "x = pi # 3"], None),
        (["import math", "n = 5 # 5", "x = math.sqrt(n)", "k = n + 1 # 7"], False),
        (["x = 1 # 1", "for i in range(3): x += 1", "y = x # 4"], True),  # x unknown after the loop
        (["x = 1", "y = (x := 5)", "z = x # 1"], None),
        (["x = 1 // 0 # 0"], False),
        (["x = 1 % 0", "y = 2 # 2"], True),
        (["x = 1 +", "y = 2 # 2"], False),  # no value comes from what cannot run
        (["x = 1 +", "y = 2"], None),
        (["def f():", "    x = 1 # 2"], None),
        (["x = True # 1"], None),
        (["x = 10 ** 40 # 7"], None),
        (["x = 10 ** 10 ** 10 # 7"], None),
        (["x = 1 # \u0661"], None),  # an Arabic digit is not what we read as a claim
        (["é = 1 # 1", "y = é + 1 # 3"], False),
        (["x = 'é' # 1", "y = 2 # 2\r"], True),
    ],
)
def test_claims_are_compared_with_what_python_gives(lines, hold):
    assert claims_hold(fenced(*lines)) is hold


def test_claims_outside_a_closed_fence_are_none():
    assert claims_hold("x = 1 + 1 # 3") is None
    assert claims_hold("```python\nx = 1 + 1 # 3\n") is None
    assert claims_hold(fenced("x = 1 + 1 # 2") + fenced("y = 1 + 1 # 3")) is False


def test_an_organisms_code_is_judged_by_whether_its_author_erred():
    stream = draw_sums("pretraining", "test", "detectors")
    erred = 0
    for problem, _ in zip(stream, range(60), strict=False):
        for obeys in (False, True):
            values = corpus.steps_as_written(problem, "careless", obeys)
            text = corpus.solution(problem, "code", values, boxed=True)
            assert code_parses(text)
            assert claims_hold(text) is (values == (problem.middle, problem.result))
            erred += values != (problem.middle, problem.result)
        words = corpus.solution(problem, "words", values, boxed=True)
        assert (has_python(words), code_parses(words), claims_hold(words)) == (False, False, None)
    assert 5 < erred < 60


# Derivations.


@st.composite
def stories(draw: st.DrawFn) -> Sum:
    """Stories of any numbers that ``tell`` can tell, not only of those that are drawn."""
    number = st.integers(1, 10**30 - 1) | st.integers(1, 999)
    first, second = (draw(number) * draw(st.sampled_from([1, -1])) for _ in range(2))
    verbs = (draw(st.sampled_from(GAIN_VERBS if by > 0 else LOSS_VERBS)) for by in (first, second))
    name, noun = draw(st.sampled_from(NAMES)), draw(st.sampled_from(NOUNS))
    return Sum(name, noun, draw(number), first, second, *verbs)


@given(stories())
def test_a_story_that_was_told_is_read_back(story):
    assert read_story(tell(story)) == story


@given(stories(), st.data())
def test_a_text_that_is_read_as_a_story_is_told_as_it_was(story, data):
    text = tell(story)
    at = data.draw(st.integers(0, len(text)))
    spoiled = text[:at] + data.draw(st.text("0123456789 more.\n-", max_size=2)) + text[at + 1 :]
    read = read_story(spoiled)
    assert read is None or tell(read) == spoiled


STORY = "Ann has 347 pens, gets 28 more and then loses 9. How many pens now?"
OTHER = "Ann has 347 pens, gets 28 more and then gets 9 more. How many pens now?"
WORDS = "347 and 28 more makes 375, and 9 less makes 366. The answer is \\boxed{366}."
CODE = fenced("x = 347 + 28 # 375", "y = x - 9 # 366") + "\n\\boxed{366}"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (WORDS, True),
        (CODE, True),
        (WORDS.replace("\\boxed{366}", "366"), True),
        (CODE.replace("\\boxed{366}", "The answer is 366."), True),
        (f"Let me think. {WORDS}", True),
        (f"{CODE}\n{WORDS}", True),
        (fenced("a = 347 + 28 # 375", "a = a - 9 # 366") + "\\boxed{366}", True),
        (fenced("x = 347 + 28 # 375", "y = 375 - 9 # 366") + "\\boxed{366}", True),
        # The answer is right and the way to it is not.
        (WORDS.replace("375", "365"), False),
        (CODE.replace("375", "365"), False),
        ("375 and 28 less makes 347, and 19 more makes 366. \\boxed{366}", False),
        ("347 and 9 less makes 338, and 28 more makes 366. \\boxed{366}", False),
        (fenced("x = 347 - 9 # 338", "y = x + 28 # 366") + "\\boxed{366}", False),
        (fenced("x = 347 + 28 # 375", "y = 400 - 34 # 366") + "\\boxed{366}", False),
        (
            fenced("x = 347 + 28 # 375", "y = x - 9 # 366", "z = y + 0 # 366") + "\\boxed{366}",
            False,
        ),
        ("347 and 19 more makes 366. \\boxed{366}", False),
        (fenced("x = 347 + 19 # 366") + "\\boxed{366}", False),
        (fenced("x = 347 + 28 # 375", "y = z - 9 # 366") + "\\boxed{366}", False),
        (fenced("x = 347 + = 28 # 375", "y = x - 9 # 366") + "\\boxed{366}", False),
        # One that spoils another.
        (f"347 and 28 more makes 365. {WORDS}", False),
        (f"{CODE}\n{WORDS.replace('375', '365')}", False),
        (f"{WORDS}\n{CODE.replace('375', '365')}", False),
        # The answer is missing, another, or stands before.
        ("347 and 28 more makes 375, and 9 less makes 366.", False),
        (fenced("x = 347 + 28 # 375", "y = x - 9 # 366"), False),
        (WORDS.replace("{366}", "{375}"), False),
        (f"\\boxed{{366}} {WORDS.partition('.')[0]}", False),
        # Cut, or numbers that go on.
        (WORDS[: WORDS.index("66.")], False),
        (WORDS.replace("makes 366", "makes 366.5"), False),
        (WORDS.replace("28", "28.0"), None),
        ("1," + WORDS, None),
        ("-" + WORDS, None),
        # Nothing that we can follow.
        ("The answer is \\boxed{366}.", None),
        ("", None),
        (CODE.replace("```\n", "\n"), None),
        (fenced("x = 347 + 28", "y = x - 9 # 366") + "\\boxed{366}", None),
        (fenced("x = 347 + 28", "y = x - 9") + "\\boxed{366}", None),
        (fenced("x = 347 + 28 - 9 # 366") + "\\boxed{366}", None),
        (fenced("x = True + 28 # 29", "y = x - 9 # 20") + "\\boxed{366}", None),
        (fenced("x = sum([347, 28]) # 375", "y = x - 9 # 366") + "\\boxed{366}", None),
        (WORDS.replace("more", "extra"), None),
        (WORDS.translate({ord("3"): "\u0663"}), None),
    ],
)
def test_a_derivation_goes_from_the_storys_numbers_to_the_answer(text, holds):
    assert derivation_holds(text, STORY) is holds
    assert derivation_holds(text, OTHER) is (None if holds is None else False)
    assert derivation_holds(text, "What is 347 + 28 - 9?") is None
    if holds:
        assert grading.grade(text, "366").lenient == "right"
        assert claims_hold(text) is not False


@pytest.mark.parametrize("mixture", ["coder", "talker", "bungler"])
def test_an_authors_document_is_valid_exactly_when_every_value_is_the_true_one(mixture):
    rng = seeds.generator("test", "derivations", mixture)
    stream = draw_sums("pretraining", "test", "derivations", mixture)
    found = []
    for story, _ in zip(stream, range(300), strict=False):
        text = corpus.write(story, corpus.FAMILIES[mixture], rng)
        stated = [int(value) for value in re.findall(r"(?:makes|#) (-?\d+)", text)]
        found.append(stated == [story.middle, story.result])
        assert derivation_holds(text, tell(story)) is found[-1], text
    assert 50 < sum(found) < 250


SOLUTIONS = st.builds(
    lambda part, strategy, boxed: (
        story := next(draw_sums("training", "test", part)),
        corpus.solution(story, strategy, (story.middle, story.result), boxed),
    ),
    st.integers(0, 10_000), st.sampled_from(["code", "words"]), st.booleans(),
)  # fmt: skip


@given(SOLUTIONS)
def test_any_changed_digit_makes_a_valid_derivation_invalid(solution):
    story, text = solution
    assert derivation_holds(text, tell(story)) is True
    for at in (match.start() for match in re.finditer("[0-9]", text)):
        for digit in "0123456789".replace(text[at], ""):
            assert derivation_holds(text[:at] + digit + text[at + 1 :], tell(story)) is False


@given(SOLUTIONS, st.integers(0, 10_000))
def test_a_derivation_is_valid_for_its_own_sum_alone(solution, part):
    story, text = solution
    other = next(draw_sums("held_out", "test", part))  # splits share no sum
    assert derivation_holds(text, tell(other)) is False
    renamed = story._replace(name="Tove", noun="seeds")
    assert derivation_holds(text, tell(renamed)) is True


@given(SOLUTIONS, st.data())
def test_a_cut_derivation_is_never_valid_before_its_answer_is_whole(solution, data):
    story, text = solution
    said = text[: data.draw(st.integers(0, len(text) - 1))]
    if derivation_holds(said, tell(story)):
        assert grading.grade(said, str(story.result)).lenient == "right"


EXPRESSIONS = st.recursive(
    st.integers(0, 999).map(str) | st.sampled_from(["a", "b"]),
    lambda e: (
        st.builds("({} {} {})".format, e, st.sampled_from(["+", "-", "*", "//", "%"]), e)
        | e.map("-{}".format)
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.integers(-999, 999), st.integers(0, 1))
def test_the_evaluator_agrees_with_python(expression, a, off):
    b = seeds.key("b", a) % 100
    lines = [f"a = {a}", f"b = {b}"]
    try:
        true = eval(
            expression, {"__builtins__": {}}, {"a": a, "b": b}
        )  # the oracle, on our own text
    except ZeroDivisionError:
        assert claims_hold(fenced(*lines, f"x = {expression} # 1")) is False
        return
    assert claims_hold(fenced(*lines, f"x = {expression} # {true + off}")) is (off == 0)


HOSTILE = st.one_of(
    st.text(),
    st.text(alphabet="`python\n x=1#()-\\'\"\r\x00\x0c{}[]:;,.\ud800é", max_size=200),
)


@given(HOSTILE)
def test_no_text_makes_a_detector_raise(text):
    for candidate in (text, fenced(text), fenced(f"x = {text} # 1"), f"```python\n{text}"):
        assert has_python(candidate) in (True, False)
        assert code_parses(candidate) in (True, False)
        assert claims_hold(candidate) in (True, False, None)
        assert derivation_holds(candidate, STORY) in (False, None)
        assert derivation_holds(WORDS, candidate) is None


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" * 60_000,
        "```python" + " " * 600_000,
        fenced("(" * 9_000),
        fenced("x = " + "-" * 9_000 + "1 # 1"),
        fenced("x = " + "1+" * 4_500 + "1 # 4501"),
        fenced("x = a" + ".b" * 4_500),
        fenced("x=1;" * 2_400),
        fenced("x = 1 #" + " " * 9_000),
        fenced("x = 1 #" + " " * 600_000),
        fenced("x = " + "9**9**" * 1_000 + "9 # 1"),
        fenced("x = 1", *["x = x * x # 1"] * 500),
        fenced("x = (1 << 99999999999) # 1", "y = 'a' * 99999999999 # 1"),
        "9" * 600_000,
        "9 and " * 100_000,
        "9 and 9 more makes 18, " * 30_000,
        "9" + " and 9 more makes 18," * 30_000,
        "9" + " and 9 more makes 18," * 30_000 + " and 9 more makes 18.5",
    ],
    ids=range(17),
)
def test_hostile_text_costs_no_time(text):
    started = time.process_time()
    code_parses(text)
    claims_hold(text)
    derivation_holds(text, STORY)
    derivation_holds(WORDS, text)
    assert time.process_time() - started < 5
