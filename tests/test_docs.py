"""What the documentation says is true: links lead somewhere, excerpts are the code (answers: see test_examples.py)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def code_blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_of_the_project(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", prose)
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


def slug(heading):
    """The anchor that a heading gets: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_is_a_heading_of_its_page(page):
    for target, anchor in re.findall(r"\]\(([^)#]*\.md)?#([^)]+)\)", page.read_text(encoding="utf-8")):
        linked = (page.parent / target) if target else page
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.M)
        assert anchor in {slug(heading) for heading in headings}, f"{target}#{anchor}"


def test_the_questions_page_has_all_twelve_questions_and_the_two_unclear_points():
    page = (ROOT / "docs/questions.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^## (\d+) ", page, flags=re.M)]
    assert numbers == list(range(1, 15))
    sections = re.split(r"^## ", page, flags=re.M)[1:]
    assert all("```python" in section for section in sections)


@pytest.mark.parametrize(
    "page", [ROOT / "docs/reading.md", ROOT / "docs/fast-convolution.md"], ids=lambda page: page.name
)
def test_every_excerpt_is_the_code(page):
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
    assert checked == len(code_blocks(page)) > 3


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
