"""What kind of reasoning a completion shows: three detectors for code, from the most comparable to the strictest.

`has_python` is the original paper's detector, kept so that shares can be compared; it also fires on "we need no Python".
`code_parses` wants a block that Python would accept. `claims_hold` checks the values that a model writes behind its
lines, as if it had run them. Nothing here runs model text: expressions are read by an integer evaluator of our own.
"""

import ast
import re
import warnings
from collections.abc import Iterator

VERSION = "detectors-1"
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
    return any(_parse(block) for block in _blocks(text))


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
    held = [holds for block in _blocks(text) for holds in _claims(block)]
    return all(held) if held else None


def _blocks(text: str) -> Iterator[str]:
    """Bodies of the closed python fences, in order, without those too long to look at."""
    return (match[1] for match in _FENCE.finditer(text) if len(match[1]) <= MAX_BLOCK)


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
