"""What kind of reasoning a completion shows, and whether it is valid: a right answer alone tells neither.

`has_python` is the original paper's detector, kept so that shares can be compared; it also fires on "we need no Python".
`code_parses` wants a block that Python would accept. `claims_hold` checks the values that a model writes behind its
lines, as if it had run them. `derivation_holds` follows either strategy of the organisms from the story's numbers to
the answer. Nothing here runs model text: expressions are read by an integer evaluator of our own.
"""

import ast
import re
import warnings
from collections.abc import Iterator

from controlarm import grading
from controlarm.problems.arithmetic import Sum, read_story

VERSION = "detectors-2"
"""Moves when a text would be judged otherwise; part of every digest, since the python arm pays by it."""

MAX_BLOCK = 10_000
"""Longest block (characters) that is parsed; a longer one does not count as code."""
MAX_VALUE = 10**30
"""Larger numbers are beyond what the evaluator says anything about."""
MAX_DEPTH = 100
"""Deepest nesting of an expression that the evaluator follows."""

_FENCE = re.compile(r"```python[^\S\n]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")  # Python's, and no other
_INTEGER = re.compile(rb"[+-]?[0-9]{1,40}")
_STEP = "and [0-9]{1,30} (?:more|less) makes -?[0-9]{1,30}"
_TOLD = re.compile(rf"(?<![\w.,+-])[0-9]{{1,30}} {_STEP}(?:, {_STEP})*(?!\w|[.,][0-9])")


class _BeyondUsError(Exception):
    """The evaluator does not know what Python would give."""


class _FailsError(Exception):
    """Python itself would raise here: an unknown name, a division by zero."""


def has_python(text: str) -> bool:
    """Whether "python" occurs, in any case: the code-reasoning detector of arXiv:2506.10947."""
    return "python" in text.lower()


def code_parses(text: str) -> bool:
    r"""Whether a closed python fence holds at least one statement and parses.

    >>> code_parses("```python\nx = 347 + 28 # 375\n```\n\\boxed{375}"), code_parses("```python\nx = = 1\n```")
    (True, False)
    """
    return any(_parse(fence[1]) for fence in _fences(text))


def claims_hold(text: str) -> bool | None:
    r"""Whether every claimed value is what its line gives; None when nothing is claimed that we can check.

    A claim is an integer comment behind a top-level assignment in a closed python fence. Names stand for their true
    values, so one wrong value does not excuse the next. A line that Python could not run claims falsely; a line that we
    cannot follow (a call, a loop) claims nothing, and names count as unknown after it, since it may rebind them.

    >>> claims_hold("```python\nx = 347 + 28 # 375\ny = x - 9 # 366\n```")
    True
    >>> claims_hold("```python\nx = 347 + 28 # 365\ny = x - 9 # 356\n```")
    False
    >>> claims_hold("First there are 375.") is None
    True
    """
    held = [holds for fence in _fences(text) for holds in _claims(fence[1])]
    return all(held) if held else None


def derivation_holds(text: str, problem: str) -> bool | None:
    r"""Whether the text derives its answer to this arithmetic story step by step, in code or in words.

    It does when every derivation in it takes the story's numbers in order, with their signs, states after each step what
    the step gives, and is followed by the answer. One that is unfinished, wrong or another story's spoils the text. None
    without a derivation that we can follow, such as a bare answer, and for any problem that is no arithmetic story.

    >>> story = "Ann has 347 pens, gets 28 more and then loses 9. How many pens now?"
    >>> right = "347 and 28 more makes 375, and 9 less makes 366. The answer is 366."
    >>> derivation_holds(right, story), derivation_holds(right.replace("375", "365"), story)
    (True, False)
    >>> derivation_holds("```python\nx = 347 + 28 # 375\ny = x - 9 # 366\n```\n\\boxed{366}", story)
    True
    >>> derivation_holds("The answer is 366.", story) is None
    True
    """
    story = read_story(problem)
    if story is None:
        return None
    derivations = [*_coded(text, story), *_told(text, story)]
    if not derivations:
        return None
    if not all(holds for holds, _ in derivations):
        return False
    rest = text[max(end for _, end in derivations) :]
    # What follows must state the answer by itself, else the last step would be read as one.
    return all(grading.grade(said, str(story.result)).lenient == "right" for said in (rest, text))


def _coded(text: str, story: Sum) -> Iterator[tuple[bool, int]]:
    """For each fence whose steps we can follow, whether they are the story's, and where it ends."""
    begun = (story.start, story.first)
    right = [[begun, (left, story.second)] for left in (None, story.middle)]
    for fence in _fences(text):
        held = list(_claims(fence[1]))
        if not all(held):
            yield False, fence.end()
        elif held and len(steps := _steps(fence[1])) == len(held):
            yield steps in right, fence.end()


def _told(text: str, story: Sum) -> Iterator[tuple[bool, int]]:
    """For each derivation in words, whether it is the story's, and where it ends."""
    first, second = (
        f" and {abs(by)} {'more' if by > 0 else 'less'} makes "
        for by in (story.first, story.second)
    )
    right = f"{story.start}{first}{story.middle},{second}{story.result}"
    return ((told[0] == right, told.end()) for told in _TOLD.finditer(text))


def _steps(block: str) -> list[tuple[object, int]]:
    """What each line adds to what: to a number, or to a name (None); nothing when a line does something else."""
    steps: list[tuple[object, int]] = []
    for statement in _parse(block):
        match statement:
            case ast.Assign(
                value=ast.BinOp(
                    left=ast.Constant(value=int()) | ast.Name() as left,
                    op=ast.Add() | ast.Sub() as op,
                    right=ast.Constant(value=int(by)),
                )
            ):
                number = left.value if isinstance(left, ast.Constant) else None
                steps.append((number, by if isinstance(op, ast.Add) else -by))
            case _:
                return []
    return steps


def _fences(text: str) -> Iterator[re.Match[str]]:
    """The closed python fences, in order, without those too long to look at; group 1 is the body."""
    return (match for match in _FENCE.finditer(text) if len(match[1]) <= MAX_BLOCK)


def _parse(block: str) -> list[ast.stmt]:
    """The block's statements; none when Python does not accept it."""
    try:
        with warnings.catch_warnings():  # else the caller's filter decides whether "\d" parses
            warnings.simplefilter("ignore")
            return ast.parse(block).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _claims(block: str) -> Iterator[bool]:
    """For each claim that can be checked, whether it holds."""
    lines = [line.encode(errors="replace") for line in _LINE_END.split(block)]
    statements = _parse(block)
    if not statements and any(b"=" in line and _claim(line) is not None for line in lines):
        yield False  # values behind lines that Python could not run
    values: dict[str, int | None] = {}
    followed = True  # every statement so far: an unbound name is then Python's NameError
    for statement in statements:
        match statement:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=expression,
                end_lineno=int(row),
                end_col_offset=int(column),
            ):
                rest = lines[row - 1][column:].lstrip()
                claimed = _claim(rest) if rest.startswith(b"#") else None
            case _:
                values, followed = {}, False
                continue
        try:
            value = _value(expression, values, followed, MAX_DEPTH)
        except _BeyondUsError:
            if any(isinstance(node, ast.NamedExpr) for node in ast.walk(expression)):
                values, followed = {}, False
            values[name] = None
        except _FailsError:
            values, followed = {}, False
            if claimed is not None:
                yield False
        else:
            values[name] = value
            if claimed is not None:
                yield value == claimed


def _claim(line: bytes) -> int | None:
    """The integer in the line's comment, if the comment is just that."""
    comment = line.partition(b"#")[2].strip()
    return int(comment) if _INTEGER.fullmatch(comment) else None


def _value(node: ast.expr, values: dict[str, int | None], followed: bool, depth: int) -> int:
    """What an integer expression gives in Python."""
    if depth == 0:
        raise _BeyondUsError
    inside = values, followed, depth - 1
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            value = number
        case ast.Name(id=name):
            if name not in values and followed:
                raise _FailsError
            known = values.get(name)
            if known is None:
                raise _BeyondUsError
            value = known
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand, *inside)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand, *inside)
        case ast.BinOp(left=left, op=op, right=right):
            value = _apply(op, _value(left, *inside), _value(right, *inside))
        case _:
            raise _BeyondUsError
    if abs(value) > MAX_VALUE:
        raise _BeyondUsError
    return value


def _apply(op: ast.operator, left: int, right: int) -> int:
    """One operation on integers; a quotient that is no integer is beyond us."""
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.FloorDiv() | ast.Mod() | ast.Div() if right == 0:
            raise _FailsError
        case ast.FloorDiv():
            return left // right
        case ast.Mod():
            return left % right
        case ast.Div() if left % right == 0:
            return left // right
        case ast.Pow() if 0 <= right <= 100:
            return left**right
        case _:
            raise _BeyondUsError
