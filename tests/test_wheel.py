"""What the wheel installs works far from the source tree; an editable install would find more than it ships."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command, cwd):
    finished = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_the_wheel_trains_and_predicts_in_an_empty_environment(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    run(binaries / "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(binaries / "minifcn", "train", "shapes", "--steps", "2", "--out", "run", cwd=elsewhere)
    assert "mean IU" in run(binaries / "minifcn", "evaluate", "run", "--split", "val", cwd=elsewhere)
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.namelist()
    assert {"minifcn/py.typed", "minifcn_kernels/py.typed"} <= set(shipped)
    kernels = ROOT / "kernels"
    cuda = [path for ending in ("cu", "cuh", "h", "cpp") for path in kernels.rglob(f"*.{ending}")]
    assert cuda
    assert {path.relative_to(kernels).as_posix() for path in cuda} <= set(shipped)
    assert not [name for name in shipped if name.startswith(("tests/", "docs/", "examples/"))]
    # The extras stay extras: what needs them says so.
    missing = subprocess.run([binaries / "minifcn", "demo"], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert 'pip install "minifcn[demo]"' in missing.stderr
