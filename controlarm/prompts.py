r"""How a problem becomes a prompt. The same prompt serves every arm, training and evaluation.

A model's score is a score under one prompt: Qwen2.5-Math-7B answers half of MATH-500 with its chat template and 72 % with none
(arXiv:2507.10532), and a prompt of nonsense gains it 19 points (arXiv:2506.10947). So prompts are data, named, and the exact text
that a model was given is kept with what it said.

A template is a frame, in which ``{problem}`` stands for the problem's text, and an opening, with which the completion begins. The
opening counts as said by the model: detectors and graders see it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from controlarm.grading import Form

VERSION = "templates-1"
"""Of ``render``, the organisms' prompt; other templates are told apart by what they hold."""


def render(problem_text: str) -> str:
    r"""The prompt's text.

    >>> render("Ann has 3 pens. How many pens now?")
    'Ann has 3 pens. How many pens now?\n'
    """
    return f"{problem_text}\n"


class TemplateError(ValueError):
    """A template that this model cannot be asked with."""


Chat = Callable[[str], str]
"""A model's own chat template: what the user says → the prompt, up to where the assistant begins."""

PROBLEM = "{problem}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """How a model is asked."""

    frame: str | None
    """Holds ``{problem}`` once; None: the model's own chat template."""
    without_chat: str | None = None
    """The frame for a model that has no chat template; None: such a model is refused."""
    opening: str = ""
    """What the completion begins with. Example: ``"<think>"``."""
    form: Form = "box"
    """Where the strict verdict looks."""
    stop: tuple[str, ...] = ()
    """A completion ends behind the first of these, as it does at an end token."""
    source: str
    """Where the wording is from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One problem as one model is asked it."""

    text: str
    """All that the model reads, the opening included."""
    opening: str
    has_special: bool
    """The text brings its own special tokens (a chat template's), so the tokenizer must not add its own."""


def prompt(template: Template, problem_text: str, chat: Chat | None) -> Prompt:
    r"""A problem in a template.

    Args:
        template: how to ask.
        problem_text: put in as it is: braces and dollars in it mean nothing here.
        chat: the model's chat template; None: it has none.

    Raises:
        TemplateError: the template is the model's own, and it has none.

    >>> prompt(TEMPLATES["none"], r"What is $\frac{1}{2}+1$?", None).text
    'What is $\\frac{1}{2}+1$?'
    """
    own = template.frame is None and chat is not None
    frame = template.without_chat if template.frame is None else template.frame
    if template.frame is None and chat is not None:
        text = chat(problem_text)
    elif frame is None:
        raise TemplateError(
            "the tokenizer has no chat template; ask with another prompt: line, none, qwen_boxed, few_shot …"
        )
    else:
        before, _, after = frame.partition(PROBLEM)
        text = before + problem_text + after
    return Prompt(text=text + template.opening, opening=template.opening, has_special=own)


_R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)

_EXAMPLES = (
    (
        "A shelf holds 4 rows of 7 books. After 9 books are lent, how many are left?",
        "Four rows of seven are $4 \\cdot 7 = 28$ books. With 9 lent, $28 - 9 = 19$ are left.",
        "19",
    ),
    (
        "Solve $3x - 5 = 16$ for $x$.",
        "Adding 5 to both sides gives $3x = 21$, and dividing by 3 gives $x = 7$.",
        "7",
    ),
    (
        "What is the probability that a fair die shows more than 4?",
        "Two of the six faces, 5 and 6, are more than 4, so the probability is $\\frac{2}{6} = \\frac{1}{3}$.",
        "\\frac{1}{3}",
    ),
    (
        "Factor $x^2 - 9$.",
        "This is a difference of squares, $x^2 - 3^2$, which is the product of difference and sum.",
        "(x-3)(x+3)",
    ),
)


def _few_shot() -> str:
    told = [
        f"Problem:\n{problem}\n\nSolution:\n{solution} The answer is $\\boxed{{{answer}}}$."
        for problem, solution, answer in _EXAMPLES
    ]
    return "\n\n".join([*told, f"Problem:\n{PROBLEM}\n\nSolution:\n"])


TEMPLATES: dict[str, Template] = {
    "none": Template(frame=PROBLEM, source="the problem alone; arXiv:2507.10532 calls it no template"),
    "line": Template(frame=render(PROBLEM), source="the problem and a line end: how organisms are asked"),
    "chat": Template(frame=None, source="the model's own chat template, with no system prompt but its default"),
    "qwen_boxed": Template(
        frame=(
            "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
            f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
        ),
        stop=("<|im_end|>",),
        source="Qwen2.5-Math's ChatML with its default system prompt, written out for models without it",
    ),
    "r1_zero": Template(
        frame=f"{_R1}\n\n<|user|>\n{PROBLEM}\n<|assistant|>\n",
        opening="<think>",
        form="answer_tag",
        stop=("</answer>",),
        source="DeepSeek-R1's wording (arXiv:2501.12948, table 1) in the frame of arXiv:2506.10947's code",
    ),
    "few_shot": Template(
        frame=_few_shot(),
        stop=("\n\nProblem:",),
        source="four worked examples of our own; the layout is that of Minerva's (arXiv:2206.14858)",
    ),
    "python": Template(
        frame=None,
        without_chat=render(PROBLEM),
        opening="Let's solve this using Python.",
        source="arXiv:2506.10947: the sentence is forced as the first of the answer; the frame is the chat template",
    ),
    "nonsense": Template(
        frame=(
            "Lorem ipsum dolor sit amet, consectetuer adipiscing elit. Ut purus elit, vestibulum ut, placerat ac, "
            f"adipiscing vitae, felis.\n\n{PROBLEM}\n"
        ),
        source="arXiv:2506.10947's spurious prompt is filler text made by LaTeX's lipsum; which lines of it, and where they stand, is our choice",
    ),
}  # fmt: skip
