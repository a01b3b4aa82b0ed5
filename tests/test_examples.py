"""Every experiment runs, on tiny settings, and its table is that of the results page but for the numbers."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs/results.md").read_text("utf-8")
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
def test_an_experiment_prints_the_table_of_the_results_page_and_leaves_it_with_a_picture(
    imported, tmp_path, monkeypatch, capsys, name
):
    experiment = imported("experiment")
    monkeypatch.setattr(experiment, "SCENE", 72)  # the smallest that holds a digit
    imported(name).main(experiment.Effort(classifier_steps=2, steps=10, test_scenes=2))
    table = (tmp_path / "runs" / name / "table.md").read_text("utf-8")
    assert table in capsys.readouterr().out
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    header, *rows = lines
    assert [first_cell(row) for row in rows] == [first_cell(row) for row in table_under(header)]

    pictures = list((tmp_path / "runs" / name).glob("*.png"))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as opened:
            assert min(opened.size) > 20


def first_cell(row):
    return row.split("|")[1].strip()


def table_under(header):
    """Return the lines that follow the header of a table on the results page, to its end."""
    _, found, below = PAGE.partition(header + "\n")
    assert found, f"docs/results.md has no table {header}"
    return list(itertools.takewhile(lambda line: line.startswith("|"), below.splitlines()))


def test_the_results_page_shows_every_experiment_with_its_command():
    assert EXPERIMENTS
    for name in EXPERIMENTS:
        assert f"python examples/{name}.py" in PAGE
        assert f"](../examples/{name}.py)" in PAGE
