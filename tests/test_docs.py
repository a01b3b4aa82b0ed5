"""What the documentation says is true: links lead somewhere, excerpts are the code, examples run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_project(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


def test_every_excerpt_on_the_reading_road_is_the_code():
    page = ROOT / "docs/reading.md"
    # An excerpt follows a line that ends in the link to its file.
    excerpts = re.findall(r"\]\(\.\./([^)]+)\):?\n\n```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    assert len(excerpts) == len(code_blocks(page)) > 5
    for file, excerpt in excerpts:
        source = (ROOT / file).read_text(encoding="utf-8")
        for part in excerpt.split("    ...\n"):  # an ellipsis on a line of its own leaves something out
            assert part.strip("\n") in source, f"not in {file}:\n{part}"


def test_the_readmes_python_runs():
    namespace = {}
    for block in code_blocks(ROOT / "README.md"):
        exec(block, namespace)
    assert namespace["scores"].shape == (1, 21, 90, 120)


def test_the_readmes_commands_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", "\n".join(re.findall(r"`make [a-z]+`|^make [a-z]+", text, re.M)))):
        assert re.search(rf"^{target}:", makefile, re.M), target
