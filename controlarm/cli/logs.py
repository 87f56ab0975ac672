"""Logs of training that somebody else ran."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from controlarm.cli.common import answering, app, say


@app.command()
def audit(
    logs: Annotated[list[str], typer.Argument(metavar="[NAME=]LOG…", help="Files or folders; of several the base first. The name of an arm says that this control was run.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder of the page and its numbers.")] = Path("audit"),
    problems: Annotated[str | None, typer.Option(metavar="SET", help="Problem set or file with the right answers, for logs that hold none; found by the problem's text in the prompt.", show_default="none")] = None,
    form: Annotated[Literal["box", "answer_tag"], typer.Option(help="Where the prompts want the answer; the strict verdict looks there.")] = "box",
    completion: Annotated[str | None, typer.Option(help="Field of the completion.", show_default="found")] = None,
    prompt: Annotated[str | None, typer.Option(help="Field of the problem or prompt.", show_default="found")] = None,
    answer: Annotated[str | None, typer.Option(help="Field of the right answer.", show_default="found")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Field that names the problem.", show_default="found")] = None,
    step: Annotated[str | None, typer.Option(help="Field of the training step.", show_default="found")] = None,
    extract: Annotated[str | None, typer.Option(help="Field of what the log's own grader read.", show_default="found")] = None,
    truncated: Annotated[str | None, typer.Option(help="Field that says whether the length ran out.", show_default="found")] = None,
    score: Annotated[list[str] | None, typer.Option(help="Field of a reward or verdict; may be repeated.", show_default="found")] = None,
) -> None:  # fmt: skip
    """Say what a gain was made of, from somebody's logs alone.

    TRL completions, verl rollouts, OpenRLHF samples, or any JSONL, JSON or parquet; told by content. Two logs of the same
    problems are compared; one log with steps is compared with itself. Everything is graded anew. No model, no GPU, no torch.

    Example: controlarm audit before.jsonl after.jsonl

    Example: controlarm audit base=before.jsonl trained=after.jsonl random=placebo.jsonl --to audits/mine

    Example: controlarm audit run.jsonl --completion answer_text --answer gold

    Writes TO/audit.html and TO/audit.json.
    """
    from controlarm import audit as auditing
    from controlarm import referee
    from controlarm.logs import Fields
    from controlarm.problems import sets
    from controlarm.report import audit as page

    with answering(ValueError):
        fields = Fields(
            completion=completion, prompt=prompt, gold=answer, id=id_, step=step, answer=extract,
            truncated=truncated, scores=tuple(score or ()),
        )  # fmt: skip
        found = auditing.audit(
            auditing.named(logs),
            fields,
            sets.load(problems) if problems else (),
            form,
            referee.default_cache(),
        )
        for log in found["logs"]:
            say(log["sentence"])
        say()
        for sentence in found["sentences"]:
            say(sentence)
        for log in found["logs"]:
            named = [d for d in found["damaged"] if d["name"] == log["name"]][:3]
            for damage in named:
                say(f"damaged: {log['name']}: {damage['place']}: {damage['what']}")
            if more := log["num_damaged"] - len(named):
                say(f"damaged: {log['name']}: {more:,} more, on the page and in audit.json")
        say(f"page: {page.write(to, found)}")
