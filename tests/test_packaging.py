"""What a wheel and the Makefile promise: every file that the code reads is shipped, every Python that is allowed may build."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = PROJECT["tool"]["setuptools"]["package-data"]


def shipped(package: str) -> set[Path]:
    home = ROOT.joinpath(*package.split("."))
    return {path for pattern in DATA[package] for path in home.glob(pattern)}


def test_every_file_that_is_no_module_is_in_the_wheel():
    named = {path for package in DATA for path in shipped(package)}
    found = {
        path
        for path in (ROOT / "controlarm").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert ROOT / "controlarm/report/page.css" in found
    assert found - named == set()


@pytest.mark.parametrize(
    ("package", "pattern"), [(p, pattern) for p, patterns in DATA.items() for pattern in patterns]
)
def test_a_pattern_of_package_data_finds_a_file(package: str, pattern: str):
    assert list(ROOT.joinpath(*package.split(".")).glob(pattern))


def test_the_makefile_checks_the_bounds_of_python_that_the_project_states():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    bounds = re.search(r"\(3, (\d+)\) <= v < \(3, (\d+)\)", makefile)
    assert bounds
    low, high = map(int, bounds.groups())
    assert PROJECT["project"]["requires-python"] == f">=3.{low},<3.{high}"
    assert f"Python 3.{low} to 3.{high - 1}" in makefile
