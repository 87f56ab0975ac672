"""Templates as data: how a problem becomes a prompt. The same template serves every arm, training and evaluation."""

VERSION = "templates-1"

TEMPLATES = {"organism": "{problem}\n"}


def render(problem_text: str, template: str = "organism") -> str:
    r"""The prompt's text.

    >>> render("Ann has 3 pens. How many pens now?")
    'Ann has 3 pens. How many pens now?\n'
    """
    return TEMPLATES[template].replace("{problem}", problem_text)
