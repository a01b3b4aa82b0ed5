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
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", prose)
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


def test_every_excerpt_on_the_reading_road_is_the_code():
    page = ROOT / "docs/reading.md"
    file, checked = None, 0
    # Walk the page: an excerpt is of the file that was linked last before it.
    for link, excerpt in re.findall(
        r"\]\(\.\./([^)]+\.py)\)|^```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M
    ):
        if link:
            file = ROOT / link
        else:
            assert excerpt in file.read_text(encoding="utf-8"), f"not in {file}:\n{excerpt}"
            checked += 1
    assert checked == len(code_blocks(page)) > 5


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
