"""docs/first-cuda-kernel.md: its code is the code that runs, and its outputs are what the tools print."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backends import needs_emulator

pytestmark = needs_emulator

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/first-cuda-kernel.md"
FOLDER = Path("examples/first_cuda_kernel")
# Each output on the page, by what is taken out of the source before the command above it is run.
TAKEN_OUT = {
    "guard": "    if (i >= OH || j >= OW) return;  // the grid is made of whole blocks, the image is not\n",
    "barrier": "        __syncthreads();  // everybody is done with the patch\n",
}


def commands():
    """Return what the page says that each command prints."""
    blocks = re.findall(r"^```console\n\$ python (.*)\n((?:.*\n)*?)```", PAGE.read_text(encoding="utf-8"), re.M)
    return dict(zip(["run", "guard", "barrier", "conflict", "padded", "debug"], blocks, strict=True))


def test_every_excerpt_is_the_code():
    text = PAGE.read_text(encoding="utf-8")
    file, checked = None, 0
    for link, excerpt in re.findall(r"\]\(\.\./([^)]+)\)|^```(?:cuda|python)\n(.*?)^```", text, re.S | re.M):
        if link:
            file = ROOT / link
        else:
            assert excerpt in file.read_text(encoding="utf-8")
            checked += 1
    assert checked == 4


@pytest.mark.parametrize("case", commands())
def test_the_page_shows_what_is_printed(case, tmp_path):
    if case == "debug" and shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    command, shown = commands()[case]
    shutil.copytree(ROOT / FOLDER, tmp_path / FOLDER)
    source = tmp_path / FOLDER / "convolution.cu"
    text = source.read_text(encoding="utf-8")
    assert TAKEN_OUT.get(case, "") in text
    source.write_text(text.replace(TAKEN_OUT.get(case, ""), ""), encoding="utf-8")
    script = re.sub(r"'([^']*)'", r"\1", command).split(" ")
    if case == "debug":
        script += [
            "--",
            "-batch",
            *(word for line in re.findall(r"^\(gdb\) (.*)", shown, re.M) for word in ("-ex", line)),
        ]
    process = subprocess.run(
        [sys.executable, *script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DEBUGINFOD_URLS": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    printed = process.stdout.splitlines()
    for line in shown.splitlines():
        if not line.startswith("(gdb) "):
            assert line in printed, process.stdout + process.stderr
