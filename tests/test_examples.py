"""Every experiment runs, on tiny settings, and leaves its table and its picture; the results page lists them all."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
EXPERIMENTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if "from experiment import" in path.read_text("utf-8"))


@pytest.fixture
def imported(monkeypatch, tmp_path):
    """Import an example as its script would be run, from a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_prints_its_table_and_leaves_it_with_a_picture(imported, tmp_path, capsys, name):
    effort = imported("experiment").Effort(classifier_steps=2, steps=10, test_scenes=2)
    imported(name).main(effort)
    folder = tmp_path / "runs" / name
    header, rule, *rows = (folder / "table.md").read_text("utf-8").splitlines()
    assert (folder / "table.md").read_text("utf-8") in capsys.readouterr().out
    assert rows
    assert {line.count("|") for line in (header, rule, *rows)} == {header.count("|")}
    pictures = list(folder.glob("*.png"))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as opened:
            assert min(opened.size) > 20


def test_the_results_page_shows_every_experiment_with_its_command():
    page = (ROOT / "docs/results.md").read_text("utf-8")
    assert EXPERIMENTS
    for name in EXPERIMENTS:
        assert f"python examples/{name}.py" in page
        assert f"](../examples/{name}.py)" in page


def test_the_results_page_shows_the_tables_that_the_experiments_print(imported):
    """A table on the page has the header that its script prints."""
    page = (ROOT / "docs/results.md").read_text("utf-8")
    tables = re.findall(r"^\|.*\|\n\|[-| ]+\|\n", page, flags=re.M)
    assert len(tables) >= len(EXPERIMENTS)
