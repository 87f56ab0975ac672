"""Right solutions of a problem in either strategy, as the pretraining corpus would write them: texts that no policy chose."""

from controlarm.organisms.corpus import Strategy, right_solution
from controlarm.problems.arithmetic import Sum, read_story
from controlarm.records import Problem

STRATEGIES: tuple[Strategy, ...] = ("code", "words")


def story(problem: Problem) -> Sum:
    """The story that a problem tells.

    Raises:
        ValueError: it is not a problem of the arithmetic set.
    """
    told = read_story(problem.text)
    if told is None:
        raise ValueError(
            f"problem {problem.id!r}: this probe needs right solutions to compare with, and only arithmetic stories have "
            "them; for other problems run the probes 'forced', 'temperature' and 'sparsity' alone"
        )
    return told


def reference(problem: Problem, strategy: Strategy) -> str:
    """The right solution, with a box.

    Raises:
        ValueError: it is not a problem of the arithmetic set.
    """
    return right_solution(story(problem), strategy)
