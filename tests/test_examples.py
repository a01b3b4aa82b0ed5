"""Every example runs, experiments on tiny settings; the pages show what they print, and the index leads to all."""

import importlib
import itertools
import re
import runpy
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
RESULTS = (ROOT / "docs/results.md").read_text("utf-8")
QUESTIONS = (ROOT / "docs/questions.md").read_text("utf-8")
NUMBERED = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.name[0].isdigit())
ANSWERS = NUMBERED[:14]
EXPERIMENTS = [name for name in NUMBERED if "from experiment import" in (EXAMPLES / f"{name}.py").read_text("utf-8")]
LONG = {"33_full_size"}  # its nets have 134 million weights, whatever the image


@pytest.fixture
def at_examples(monkeypatch, tmp_path):
    """Be where an example may leave its results, with what it imports within reach; return its `experiment`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield importlib.import_module("experiment")
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


def test_examples_are_numbered_without_a_gap():
    assert [int(name.partition("_")[0]) for name in NUMBERED] == list(range(1, len(NUMBERED) + 1))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_prints_what_the_page_of_questions_shows_and_the_page_shows_it_whole(at_examples, capsys, name):
    number = int(name.partition("_")[0])
    section = re.split(r"^## \d+ ", QUESTIONS, flags=re.M)[number]
    _, code = (EXAMPLES / f"{name}.py").read_text("utf-8").split('"""\n\n', 1)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert f"```python\n{code}```\n```text\n{printed.strip()}\n```" in section
    assert f"](../examples/{name}.py)" in section


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in EXPERIMENTS]
)
def test_an_experiment_prints_the_table_of_the_results_page_and_leaves_it_with_a_picture(
    at_examples, tmp_path, monkeypatch, capsys, name
):
    monkeypatch.setattr(at_examples, "SCENE", 72)  # the smallest that holds a digit
    tiny = at_examples.Effort(classifier_steps=2, steps=10, test_scenes=2, side=227)
    monkeypatch.setattr(at_examples, "QUICK", tiny)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    (path,) = (tmp_path / "runs").glob("*/table.md")
    table = path.read_text("utf-8")
    assert table in capsys.readouterr().out
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    header, *rows = lines
    shown = table_under(header)
    assert [first_cell(row) for row in rows] == [first_cell(row) for row in shown]

    section = next(s for s in re.split(r"^## ", RESULTS, flags=re.M) if f"](../examples/{name}.py)" in s)
    pictures = re.findall(r"\]\(images/results/(\S+)\)", section)
    assert len(pictures) == len(list(path.parent.glob("*.png")))
    for picture in path.parent.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 20


def test_without_full_an_experiment_is_quick(at_examples, monkeypatch):
    for arguments, effort in ([], at_examples.QUICK), (["--full"], at_examples.FULL):
        monkeypatch.setattr(sys, "argv", ["16_efficiency.py", *arguments])
        assert at_examples.chosen_effort() == effort


def test_weights_from_elsewhere_are_loaded_or_refused_with_the_reason(at_examples, capsys):
    runpy.run_path(str(EXAMPLES / "34_foreign_weights.py"), run_name="__main__")
    loaded, *refused = capsys.readouterr().out.split("\n\n")
    assert loaded.startswith("port.npz: loaded; channels BGR")
    expected = (
        "missing: conv5_1.bias",
        "unexpected: ema",
        "of another shape: fc6.bias",
        "photo.png: is neither",
        "pth",
    )
    assert len(refused) == len(expected)
    for message, part in zip(refused, expected, strict=True):
        assert part in message


def first_cell(row):
    return row.split("|")[1].strip()


def table_under(header):
    """Return the lines that follow the header of a table on the results page, to its end."""
    _, found, below = RESULTS.partition(header + "\n")
    assert found, f"docs/results.md has no table {header}"
    return list(itertools.takewhile(lambda line: line.startswith("|"), below.splitlines()))


def test_the_results_page_shows_every_experiment_with_its_command():
    for name in EXPERIMENTS:
        assert re.search(rf"`python examples/{name}\.py( --full)?`", RESULTS), name
        assert f"](../examples/{name}.py)" in RESULTS


def test_the_index_lists_every_example_once():
    index = (EXAMPLES / "README.md").read_text("utf-8")
    assert re.findall(r"^\| (\d+) \|.*\]\((\d+_\w+)\.py\)", index, re.M) == [
        (str(int(name.partition("_")[0])), name) for name in NUMBERED
    ]
