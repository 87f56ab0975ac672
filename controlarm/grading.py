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

VERSION = "grader-3"
"""Changes whenever a verdict could; the trial's digest covers it."""

Form = Literal["box", "answer_tag"]
"""Where the strict verdict looks: the last ``\\boxed{}``, or the last ``<answer></answer>``."""
Equal = Callable[[str, str], bool | None]
"""Whether an answer (second) equals the gold answer (first); None: unknown."""

# A backslash pair is a line break and does not escape the brace behind it; unless it stands before "boxed", which
# doubles the backslash in texts that went through JSON once too often.
_BRACE = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
_LAST_WORD = re.compile(r"final\s+answer\s+is\b", re.IGNORECASE | re.ASCII)
_PHRASE = re.compile(r"answer\s+is\b[\s:]*|answers?\s*:(?:\s*\*\*)?|####", re.IGNORECASE | re.ASCII)
_DELIMITER = re.compile(r"\$\$?|\\.", re.DOTALL)
_CLOSES = {"$": "$", "$$": "$$", "\\)": "\\(", "\\]": "\\["}
_OPERATOR = re.compile(r"[=<>()\[\]^*+]|\\[a-zA-Z]|[0-9]/[0-9]|[0-9](?:,| (?=[0-9]{3}\b))[0-9]")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\n\s*\n")
_SYLLABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2}|\\boxed")
_SET_AS_TEXT = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\{[a-z*]+\}"
)
_APART = r"(?:[\s$,;.&=+_0-9]|\\[,;!()\[\] ]|\\q?quad|\\(?![a-zA-Z{}])|\\text\s*\{[^{}]{0,40}\})*+"
_BETWEEN_BOXES = re.compile(rf"{_APART}(?:[a-zA-Z]++{_APART}){{0,2}}")
_CHANGES = re.compile(
    r"\b(?:negative|minus|not|less|more|than|pi|root|times|half|twice|hundred|thousand|million|billion|percent|dozen)\b",
    re.IGNORECASE,
)
_LONGEST = 1000  # characters of a formula
_TAG = re.compile(r"<(/?)answer>")
_SENTENCE_END = re.compile(r"\.(?=\s|\Z)|\n")
_UNSIGNED = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+,[0-9]{2}(?![0-9,])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_IN_TEXT = re.compile(
    rf"(?<![^\W\d])(?<![\^\u221a])(?:(?<![\w)}}\]])[-+\u2212])?(?:{_UNSIGNED})(?:/[0-9]+)?"
)
_NUMBER = re.compile(r"([+-]?)([1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]*)(?:\.([0-9]*))?")
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
    return judge(extract(text, form), gold, equal or same)


class Extraction(NamedTuple):
    """What a completion answers, before anybody says whether it is right."""

    boxed: str | None
    """The answer in the place that the prompt asked for, stripped; None: it is not there."""
    answer: str | None
    """The final answer wherever it stands, all of it where it was put into several boxes; None: there is none."""
    how: How | None


def extract(text: str, form: Form = "box") -> Extraction:
    r"""The answers that the two verdicts look at.

    >>> extract("<answer>\\boxed{7}</answer>"), extract("<answer> 7 </answer>", "answer_tag")
    (Extraction(boxed='7', answer='7', how='box'), Extraction(boxed='7', answer='7', how='answer_tag'))
    """
    boxes, tagged = _boxes(text), last_tag(text)
    boxed = boxes[-1].content if boxes else None
    if form == "answer_tag" and tagged is not None:
        return Extraction(tagged, tagged, "answer_tag")
    if boxed is not None:
        strict = boxed if form == "box" else None
        if _LAST_WORD.search(text, boxes[-1].end):
            return Extraction(strict, *final_answer(text[boxes[-1].end :]))
        return Extraction(strict, _together(text, boxes), "box")
    if tagged is not None:
        return Extraction(None, tagged, "answer_tag")
    return Extraction(None, *final_answer(text))


def judge(found: Extraction, gold: str, equal: Equal) -> Grade:
    """Both verdicts on what was extracted; who is right strictly is right."""
    strict = _verdict(found.boxed, gold, equal)
    once = strict == "right" or found.boxed == found.answer
    return Grade(
        strict=strict,
        lenient=strict if once else _verdict(found.answer, gold, equal),
        boxed=found.boxed,
        answer=found.answer,
        how=found.how,
    )


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
    stripped = " ".join(answer.replace("\N{MINUS SIGN}", "-").split())
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
    boxes = _boxes(text)
    return boxes[-1].content if boxes else None


class _Span(NamedTuple):
    """A box or a formula, with what sets it off, and what is in it."""

    begin: int
    end: int
    content: str


def _boxes(text: str) -> list[_Span]:
    """The balanced boxes that are not empty, innermost ones only, in order."""
    if "\\boxed" not in text:
        return []
    open_braces: list[
        tuple[int, int]
    ] = []  # a box's begin and content; -1 for a brace that is no box
    newest = -1
    found = []
    for match in _BRACE.finditer(text):
        token = match[0]
        if token == "{":
            open_braces.append((-1, -1))
        elif token.startswith("\\boxed"):
            newest = match.end()
            open_braces.append((match.start(), newest))
        elif token == "}" and open_braces:
            begin, start = open_braces.pop()
            # Only a box with no box inside is read, so that contents do not overlap and time stays linear.
            if start == newest != -1:
                content = text[start : match.start()].strip()
                if normalise(content):
                    found.append(_Span(begin, match.end(), content))
    return found


def _together(text: str, boxes: list[_Span]) -> str:
    r"""What the last boxes say together, when nothing but "and" stands between them.

    >>> text = r"It is not \boxed{3}, so that we find $\boxed{-2} \quad \text{and} \quad \boxed{1}$"
    >>> _together(text, _boxes(text))
    '-2, 1'
    """
    first = len(boxes) - 1
    while first and _BETWEEN_BOXES.fullmatch(text, boxes[first - 1].end, boxes[first].begin):
        first -= 1
    return ", ".join(dict.fromkeys(box.content for box in boxes[first:]))


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
    r"""The answer of a text without box or tag: what follows the last named phrase, else the last formula or number.

    >>> final_answer("So 3 + 4 = 7. The answer is 7 pens, I think."), final_answer("He has $3, then $1,204.")
    (('7', 'phrase'), ('1,204', 'number'))
    >>> final_answer("Hence $x = 5$ or $x=-\\frac{1}{2}$, as was to be shown.")
    ('x=-\\frac{1}{2}', 'formula')
    """
    for start in reversed([phrase.end() for phrase in _PHRASE.finditer(text)]):
        end = _SENTENCE_END.search(text, start)
        said = text[start : end.start() if end else len(text)]
        if answer := _said(said):
            return answer, "phrase"
    if formula := _last_formula(text):
        return formula, "formula"
    number = _last(_IN_TEXT, text)
    return (number[0], "number") if number else (None, None)


def _last_formula(text: str) -> str | None:
    """The whole text if it is nothing but a formula, else the last one between dollars or brackets, unless a number follows."""
    if (
        len(text) <= _LONGEST
        and _OPERATOR.search(text)
        and not _SYLLABLE.search(_SET_AS_TEXT.sub("", text))
    ):
        return text.strip()
    formulas = [found for found in _formulas(text) if _is_formula(found.content)]
    if not formulas or _IN_TEXT.search(text, formulas[-1].end):
        return None
    return formulas[-1].content


def _formulas(text: str) -> list[_Span]:
    """What stands between a pair of dollars or of brackets, in order."""
    found = []
    opened = ""
    begin = start = 0
    for match in _DELIMITER.finditer(text):
        token = match[0]
        if opened and _CLOSES.get(token) == opened:
            content = text[start : match.start()].strip()
            if normalise(content):
                found.append(_Span(begin, match.end(), content))
            opened = ""
        elif token in ("\\(", "\\[") or (token in _CLOSES and not opened):
            opened, begin, start = token, match.start(), match.end()
    return found


def _is_formula(text: str) -> bool:
    """Whether it is one word or none, or has a command: what stands between two prices in dollars is no formula."""
    if len(text) > _LONGEST or not text.strip():
        return False
    return text.strip().isalpha() or "\\" in text or not _WORD.search(_SET_AS_TEXT.sub("", text))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007  the last one is wanted
        pass
    return found


def _said(phrase: str) -> str:
    """The answer within a phrase: its one number when the rest is plain words, else the phrase; "" when empty."""
    # A box that was never closed, as at the end of a truncated text, or that is empty.
    phrase = phrase.strip().removeprefix("\\boxed{").strip()
    if phrase.count("}") > phrase.count("{"):
        phrase = phrase.removesuffix("}").rstrip()
    if not normalise(phrase):
        return ""
    if number := _only_number(phrase):
        return number
    if _is_formula(phrase):
        return phrase
    formulas = _formulas(phrase)
    if len(formulas) != 1:
        return phrase
    prose = f"{phrase[: formulas[0].begin]} {phrase[formulas[0].end :]}"
    return formulas[0].content if not _IN_TEXT.search(prose) else _only_number(prose) or phrase


def _only_number(phrase: str) -> str | None:
    """The one number among plain words."""
    numbers = list(_IN_TEXT.finditer(phrase))
    if len(numbers) != 1:
        return None
    before, after = phrase[: numbers[0].start()], phrase[numbers[0].end() :]
    apart = not before[-1:].isalnum() and not after[:1].isalnum()
    plain = (before + after).isascii() and not set("\\^_{}()[]/+-<>|%") & set(before + after)
    return numbers[0][0] if apart and plain and not _CHANGES.search(phrase) else None


def _verdict(answer: str | None, gold: str, equal: Equal) -> Verdict:
    if answer is None:
        return "no_answer"
    said = equal(gold, answer)
    return "unknown" if said is None else "right" if said else "wrong"
