"""What the docs say is so: their code runs, their names exist, their tables are complete."""

import importlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import contamination
from controlarm.analysis.folder import JOURNAL
from controlarm.analysis.summary import summarise
from controlarm.protocol import PRESETS, Recipe
from tests.fabricate import fabricate

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

BLOCK = re.compile(r"^```python(?P<norun> no-run)?\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
"""The mark ``no-run`` is for code that trains or needs files; it must still compile."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """Files under version control, or all but the ignored ones where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: which files are tracked is unknown")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def section(page: str, title: str) -> str:
    """Text under the heading that holds the title, to the next heading."""
    found = re.search(
        rf"^#+ [^\n]*{re.escape(title)}[^\n]*\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE
    )
    assert found, f"no heading {title!r}"
    return found[1]


def first_column(table: str) -> list[str]:
    """Backticked names in the first cells of a table's rows."""
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def blocks() -> Iterator:
    for page in PAGES:
        for number, block in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), start=1):
            yield pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("block", list(blocks()))
def test_a_python_block_compiles_and_runs(block: re.Match, tmp_path, monkeypatch):
    code = compile(block["code"], "block", "exec")
    if not block["norun"]:
        monkeypatch.chdir(tmp_path)
        exec(code, {"__name__": "block"})


def names() -> list[str]:
    found: set[str] = set()
    for page in PAGES:
        found |= set(
            re.findall(r"`(controlarm(?:\.[A-Za-z_]\w*)+)(?:\(.*?\))?`", page.read_text("utf-8"))
        )
    return sorted(found)


@pytest.mark.parametrize("name", names())
def test_a_dotted_name_exists(name: str):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("controlarm"):
                raise
            continue
        for attribute in parts[length:]:
            thing = getattr(thing, attribute)
        return
    raise AssertionError(f"{name} is no module")


def links() -> Iterator:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            yield pytest.param(page.parent / target, id=f"{page.relative_to(ROOT)}-{target}")


@pytest.mark.parametrize("target", list(links()))
def test_a_link_leads_to_a_file(target: Path):
    assert target.exists()


def test_the_journal_is_documented_column_by_column():
    listed = section(read("docs/formats.md"), "`steps.jsonl`").strip().split("\n\n")[1]
    columns = [re.search(r"`(\w+)`", item) for item in listed.split("·")]
    assert [c[1] for c in columns if c] == list(JOURNAL)
    assert first_column(section(read("docs/metrics.md"), "`steps.jsonl`")) == list(JOURNAL)


def test_what_is_told_of_contamination_was_measured():
    results = json.loads(read("benchmarks/results/contamination.json"))
    assert contamination.table(results) in read("docs/method.md")


IDENTITY = {
    "version",
    "pretraining_seed",
    "model",
    "seed",
    "step",
    "steps",
    "k",
    "units",
    "values",
    "value",
}
"""Keys of the report that say where a number belongs, or hold a number that the row or table names."""


def numbers(part: Any, key: str = "") -> Iterator[str]:
    """Keys of a report that hold a number or a list of numbers."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from numbers(value, name)
    elif isinstance(part, list):
        for value in part:
            yield from numbers(value, key)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield key.removesuffix("_ci95")


def test_every_number_of_the_report_is_documented(tmp_path):
    fabricate(tmp_path / "fabricated")
    report = summarise(tmp_path / "fabricated")
    shown = {
        name for title, part in report.items() if title != "trial" for name in numbers(part, title)
    }
    documented = set(re.findall(r"`(\w+)`", read("docs/metrics.md")))
    assert shown - IDENTITY - documented == set()


AFFIXES = re.compile(
    r"^(?:within|placebo|full|coins|over)_|_(?:(?:within_)?(?:low|high)|units|before|after|first|last)$"
)
"""Of intervals and of two times, told once for all claims."""


@pytest.mark.parametrize(
    "path", sorted((ROOT / "records").glob("*/CLAIM-*.json")), ids=lambda path: path.stem
)
def test_every_number_of_a_claim_is_documented(path: Path):
    made = json.loads(path.read_text(encoding="utf-8"))
    shown = {
        name for title, part in made.items() if title != "claim" for name in numbers(part, title)
    }
    documented = set(re.findall(r"`(\w+)`", read("docs/metrics.md"))) | IDENTITY
    unknown = {
        name
        for name in shown - documented
        if AFFIXES.sub("", AFFIXES.sub("", name)) not in documented
    }
    assert unknown == set()


@pytest.mark.skipif(
    not (ROOT / "README.md").exists() or not (ROOT / "controlarm/arms.py").exists(),
    reason="there is no README or no arm yet",
)
def test_the_readme_has_a_row_for_every_arm_and_no_other():
    arms = importlib.import_module("controlarm.arms").ARMS
    table = section(read("README.md"), "Arms")
    assert sorted(re.split(r"\W", name)[0] for name in first_column(table)) == sorted(arms)


def test_every_algorithm_has_a_row_and_every_setting_of_credit_is_told():
    page = read("docs/algorithms.md")
    assert first_column(page) == list(PRESETS)
    credit = get_args(Recipe.model_fields["credit"].annotation)
    assert all(f"`{name}`" in section(page, "Settings") for name in credit)


def test_agents_can_be_read_in_a_minute():
    assert len(read("AGENTS.md").splitlines()) <= 40
    assert read("CLAUDE.md") == read("AGENTS.md")


def test_decisions_are_numbered_and_fit_a_page():
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert len(text.split()) <= 500
        assert all(f"**{part}" in text for part in ("Problem", "Choice", "What we gave up"))


def test_no_path_of_a_machine_is_tracked():
    machine = re.compile(rb"(?<![\w.])/(?:work|tmp|root|home)/\w")
    texts = {p: p.read_bytes() for p in tracked() if p.is_file()}
    found = [p for p, text in texts.items() if b"\0" not in text and machine.search(text)]
    assert not found
