"""Detectors of code reasoning: what each counts, and that no text can hurt them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import seeds
from controlarm.detectors import MAX_BLOCK, claims_hold, code_parses, has_python
from controlarm.organisms import corpus
from controlarm.problems.arithmetic import draw_sums


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
    ],
    ids=range(12),
)
def test_hostile_text_costs_no_time(text):
    started = time.process_time()
    code_parses(text)
    claims_hold(text)
    assert time.process_time() - started < 5
