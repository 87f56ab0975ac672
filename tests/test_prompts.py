r"""What a model reads under each template, character by character, whatever stands in a problem."""

import hashlib

import pytest

from controlarm import grading, prompts
from controlarm.prompts import TEMPLATES, Template, TemplateError, prompt

HOSTILE = "{problem} $x^{2}$ \\boxed{} %s {0} <|im_end|> \x1b[31m"


def chat(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


GOLDEN = {
    "none": "Q",
    "line": "Q\n",
    "chat": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
    "qwen_boxed": (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    ),
    "python": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nLet's solve this using Python.",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_short_template_reads_as_published(name):
    assert prompt(TEMPLATES[name], "Q", chat).text == GOLDEN[name]


DIGESTS = {
    "r1_zero": "4087ffd033b4b178",
    "few_shot": "df215e830ff6345f",
    "nonsense": "1d6441305b874ac5",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_long_template_is_the_one_that_was_checked(name):
    """Whoever changes one must say so: samples under the old wording are another condition."""
    text = prompt(TEMPLATES[name], "Q", chat).text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[name]


def test_every_template_is_checked():
    assert set(GOLDEN) | set(DIGESTS) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_problem_stands_in_its_template_as_it_is_and_once(name):
    said = prompt(TEMPLATES[name], HOSTILE, chat).text
    empty = prompt(TEMPLATES[name], "", chat).text
    assert said.count(HOSTILE) == 1
    assert said.replace(HOSTILE, "") == empty
    assert said.endswith(TEMPLATES[name].opening)


def test_without_a_chat_template_the_model_s_own_is_refused_and_python_has_a_frame():
    with pytest.raises(TemplateError, match="no chat template; ask with another prompt: line"):
        prompt(TEMPLATES["chat"], "Q", None)
    assert prompt(TEMPLATES["python"], "Q", None).text == "Q\nLet's solve this using Python."


def test_only_a_chat_template_brings_special_tokens():
    own = {name for name, template in TEMPLATES.items() if prompt(template, "Q", chat).has_special}
    assert own == {"chat", "python"}
    assert not prompt(TEMPLATES["python"], "Q", None).has_special


def test_examples_are_right_and_hold_the_box_that_is_asked_for():
    frame, (stop,) = TEMPLATES["few_shot"].frame, TEMPLATES["few_shot"].stop
    assert frame
    *examples, asked = frame.split(stop)
    assert [grading.last_box(part) for part in examples] == [
        "19",
        "7",
        "\\frac{1}{3}",
        "(x-3)(x+3)",
    ]
    assert grading.last_box(asked) is None


def test_an_answer_behind_the_openings_is_found():
    for template in TEMPLATES.values():
        told = (
            "so 7</think> <answer>7</answer>" if template.form == "answer_tag" else r"so \boxed{7}"
        )
        assert grading.grade(template.opening + told, "7", form=template.form).strict == "right"


def test_organisms_are_asked_as_they_were():
    assert prompts.render("Q") == prompt(TEMPLATES["line"], "Q", None).text == "Q\n"
    assert isinstance(TEMPLATES["line"], Template)
