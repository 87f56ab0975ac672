"""How a problem becomes a prompt. The same prompt serves every arm, training and evaluation."""

VERSION = "templates-1"


def render(problem_text: str) -> str:
    r"""The prompt's text.

    >>> render("Ann has 3 pens. How many pens now?")
    'Ann has 3 pens. How many pens now?\n'
    """
    return f"{problem_text}\n"
