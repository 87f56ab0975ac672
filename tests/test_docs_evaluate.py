"""The commands of docs/evaluate.md, in their order, with models and files of the names that it uses."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlarm import prompts, store
from controlarm.cli import app

pytest.importorskip("transformers")

from tests import tiny_models

PAGE = (Path(__file__).parent.parent / "docs" / "evaluate.md").read_text()


def write(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_command_of_the_page_runs(tmp_path, monkeypatch):
    commands = re.findall(r"^    controlarm (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 8
    tiny_models.tiny("qwen2", tmp_path / "base")
    tiny_models.tiny("llama", tmp_path / "checkpoint-300")
    asked = [{"problem": f"What is ${n}+{n}$?", "answer": str(2 * n)} for n in (1, 12)]
    write(tmp_path / "problems.jsonl", asked)
    write(tmp_path / "clean.jsonl", [{"problem": "What is $9-4$?", "answer": "5"}])
    write(tmp_path / "texts.jsonl", [{"text": "Let me see."}, {"prompt": "Q", "text": " A"}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "80"})
        assert result.exit_code == 0, (command, result.output)
        assert "…" not in result.output
        if "all" in command:
            assert "the best prompt is" in result.output
    made = store.conditions(tmp_path / "evaluations" / "base")
    assert {c.prompt for c in made.values() if c.greedy} == set(prompts.TEMPLATES)


def test_the_page_tells_every_template_and_every_column():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == list(prompts.TEMPLATES)
    for name in (*store.SAMPLES.names, *store.GRADES.names):
        assert f"`{name}`" in PAGE
