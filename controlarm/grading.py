r"""From text and gold answer to two verdicts: strict wants the answer in its place, lenient takes any final answer.

The equality of this module is exact and an equivalence: numbers after normalisation, else identical normalised strings.
There is no algebra here, so ``\frac{1}{2}`` and ``0.5`` differ: that is enough for the organisms' arithmetic, and what
people's problems need is the `referee`, which judges the same extractions.

Model text is untrusted: nothing here evaluates it, raises on it, or takes more than linear time.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from controlarm.records import Grade, How, Verdict

VERSION = "grader-2"
"""Changes whenever a verdict could; the trial's digest covers it."""

Form = Literal["box", "answer_tag"]
"""Where the strict verdict looks: the last ``\\boxed{}``, or the last ``<answer></answer>``."""
Equal = Callable[[str, str], bool | None]
"""Whether an answer (second) equals the gold answer (first); None: unknown."""

# A backslash pair is a line break and does not escape the brace behind it; unless it stands before "boxed", which
# doubles the backslash in texts that went through JSON once too often.
_BRACE = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
_PHRASE = re.compile(r"answer\s+is\b[\s:]*|answers?\s*:(?:\s*\*\*)?|####", re.IGNORECASE | re.ASCII)
_TAG = re.compile(r"<(/?)answer>")
_MATHS = re.compile(r"\$\$?|\\[()\[\]]")
_SENTENCE_END = re.compile(r"\.(?=\s|\Z)|\n")
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_IN_TEXT = re.compile(rf"(?:(?<![\w)}}\]])[-+])?(?:{_UNSIGNED})(?:/[0-9]+)?")
_NUMBER = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.([0-9]*))?")
_LEADING = re.compile(r"(?: |\\?\$)++")


def grade(text: str, gold: str, equal: Equal | None = None, form: Form = "box") -> Grade:
    r"""Both verdicts on one completion.

    Args:
        text: the completion.
        gold: the right answer.
        equal: what is asked whether answers are equal; None: `same`.
        form: where the prompt wants the answer.

    >>> grade("First there are 375, then 366. The answer is \\boxed{366}.", "366").strict
    'right'
    >>> grade("The answer is 366.", "366")
    Grade(strict='no_answer', lenient='right', boxed=None, answer='366', how='phrase')
    """
    found = extract(text, form)
    lenient = _verdict(found.answer, gold, equal or same)
    asked = found.boxed == found.answer or found.boxed is None
    strict = lenient if asked else _verdict(found.boxed, gold, equal or same)
    return Grade(
        strict="no_answer" if found.boxed is None else strict,
        lenient=lenient,
        boxed=found.boxed,
        answer=found.answer,
        how=found.how,
    )


class Extraction(NamedTuple):
    """What a completion answers, before anybody says whether it is right."""

    boxed: str | None
    """The answer in the place that the prompt asked for, stripped; None: it is not there."""
    answer: str | None
    """The final answer wherever it stands; None: there is none."""
    how: How | None


def extract(text: str, form: Form = "box") -> Extraction:
    r"""The answers that the two verdicts look at.

    >>> extract("<answer>\\boxed{7}</answer>"), extract("<answer> 7 </answer>", "answer_tag")
    (Extraction(boxed='7', answer='7', how='box'), Extraction(boxed='7', answer='7', how='answer_tag'))
    """
    boxed, tagged = last_box(text), last_tag(text)
    strict = boxed if form == "box" else tagged
    if strict is not None:
        return Extraction(strict, strict, "box" if form == "box" else "answer_tag")
    if boxed is not None:
        return Extraction(None, boxed, "box")
    if tagged is not None:
        return Extraction(None, tagged, "answer_tag")
    return Extraction(None, *final_answer(text))


def same(answer: str | None, other: str | None) -> bool:
    """Whether two answers are equal. Nothing equals a missing or empty answer, not even another one."""
    if answer is None or other is None:
        return False
    normal = normalise(answer)
    return normal != "" and normal == normalise(other)


def normalise(answer: str) -> str:
    r"""The name of an answer's equivalence class.

    >>> [normalise(a) for a in ("$1,234.50$", "+007", "-0.0", r"\$ 18", " x  +  1 ", "1,23")]
    ['1234.5', '7', '0', '18', 'x + 1', '1,23']
    """
    stripped = " ".join(answer.split())
    if leading := _LEADING.match(stripped):
        stripped = stripped[leading.end() :]
    stripped = stripped.rstrip(" $\\")
    number = _NUMBER.fullmatch(stripped)
    if number is None or not any(number.group(2, 3)):
        return stripped
    # Strings, not int or Decimal: these refuse or round what is long.
    whole = number[2].replace(",", "").lstrip("0") or "0"
    fraction = (number[3] or "").rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if number[1] == "-" and value != "0" else value


def last_box(text: str) -> str | None:
    r"""Content of the last balanced ``\boxed{}`` that is not empty, stripped; of nested boxes the innermost.

    >>> last_box(r"\boxed{1} or \boxed{\frac{1}{2}} or \boxed{ } or \boxed{3")
    '\\frac{1}{2}'
    """
    if "\\boxed" not in text:
        return None
    open_braces: list[int] = []  # where a box's content begins; -1 for a brace that is no box
    newest = -1
    found = None
    for match in _BRACE.finditer(text):
        token = match[0]
        if token == "{":
            open_braces.append(-1)
        elif token.startswith("\\boxed"):
            newest = match.end()
            open_braces.append(newest)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            # Only a box with no box inside is read, so that contents do not overlap and time stays linear.
            if start == newest != -1:
                content = text[start : match.start()].strip()
                found = content if normalise(content) else found
    return found


def last_tag(text: str) -> str | None:
    r"""Content of the last closed ``<answer>`` that is not empty: the box in it if it has one.

    >>> last_tag("<answer>3</answer> no, <answer>the answer is \\boxed{4}.</answer> <answer>5")
    '4'
    """
    if "<answer>" not in text:
        return None
    found = start = None
    for match in _TAG.finditer(text):
        if not match[1]:
            start = match.end()
        elif start is not None:
            content = text[start : match.start()].strip()
            found = content if normalise(content) else found
            start = None
    if found is None:
        return None
    return last_box(found) or found


def final_answer(text: str) -> tuple[str | None, How | None]:
    """The answer of a text without box or tag: what follows the last named phrase, else the last formula or number.

    >>> final_answer("So 3 + 4 = 7. The answer is 7 pens, I think."), final_answer("He has 3, then 1,204.")
    (('7', 'phrase'), ('1,204', 'number'))
    """
    for start in reversed([phrase.end() for phrase in _PHRASE.finditer(text)]):
        end = _SENTENCE_END.search(text, start)
        said = text[start : end.start() if end else len(text)]
        if answer := _said(said):
            return answer, "phrase"
    number = None
    for number in _IN_TEXT.finditer(text):  # noqa: B007  the last one is wanted
        pass
    return (number[0], "number") if number else (None, None)


def _said(phrase: str) -> str:
    """The answer within a phrase: its one number when the rest is plain words, else the phrase; "" when empty."""
    # A box that was never closed, as at the end of a truncated text.
    phrase = phrase.strip().removeprefix("\\boxed{").removesuffix("}").strip()
    if not normalise(phrase):
        return ""
    numbers = list(_IN_TEXT.finditer(phrase))
    if len(numbers) == 1:
        before, after = phrase[: numbers[0].start()], phrase[numbers[0].end() :]
        apart = not before[-1:].isalnum() and not after[:1].isalnum()
        if apart and not set("\\^_{}()[]/+-<>|%") & set(before + after):
            return numbers[0][0]
    return phrase


def _verdict(answer: str | None, gold: str, equal: Equal) -> Verdict:
    if answer is None:
        return "no_answer"
    said = equal(gold, answer)
    return "unknown" if said is None else "right" if said else "wrong"
