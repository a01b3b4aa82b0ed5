"""The page about proving gradients is true: its code runs, and its reports are what is printed."""

import inspect
import re
from pathlib import Path

import pytest

from minifcn.testing import claims, diagnosis

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "proving-gradients.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "examples" / "test_your_own_layer.py").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", PAGE, flags=re.DOTALL)


def run_page():
    """Run the page's code from top to bottom; yield each report that it shows, and what was raised instead."""
    namespace = {}
    for (kind, block), (following, report) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if kind == "text":
            continue
        code = compile(block, "docs/proving-gradients.md", "exec")
        if following == "text":
            with pytest.raises((AssertionError, ValueError)) as raised:
                exec(code, namespace)
            yield report.rstrip("\n"), f"{raised.type.__name__}: {raised.value}"
        else:
            exec(code, namespace)


def test_the_code_runs_and_the_reports_are_true():
    for shown, raised in run_page():
        assert shown == raised


def test_the_claims_on_the_page_are_the_claims():
    listed = re.findall(r"^- (.+)$", PAGE.partition("each of these is a few lines")[2].partition("##")[0], re.MULTILINE)
    assert set(listed) == {claim.sentence for claim in (*claims.CLAIMS_BEFORE, *claims.CLAIMS_AFTER)}


@pytest.mark.parametrize("name", ["BlurPool", "DepthwiseSeparable"])
def test_the_layers_on_the_page_are_those_of_the_example(name):
    pattern = rf"^class {name}\(.*?(?=^\S|\Z)"
    on_page = re.search(pattern, "\n".join(block for _, block in BLOCKS), re.DOTALL | re.MULTILINE)
    assert on_page.group().strip() in EXAMPLE


def test_the_rule_on_the_page_is_a_rule():
    body = inspect.getsource(diagnosis.sign).partition("\n")[2]
    assert body in PAGE
