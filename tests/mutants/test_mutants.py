"""The table of what `make mutants` changes is complete, and what it sets aside is still there."""

import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONFIG = tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))
EQUIVALENT = tomllib.loads((HERE / "equivalent.toml").read_text(encoding="utf-8"))["mutant"]
GROUPS = {name: group for name, group in CONFIG.items() if isinstance(group, dict) and "files" in group}
CHANGED = {file: tests for group in GROUPS.values() for file, tests in group["files"].items()}


def test_every_module_of_the_engine_the_ops_and_the_kernels_is_changed_or_named():
    engine = [ROOT / "minifcn" / f"{name}.py" for name in ("anomaly", "arrays", "tensor", "trace")]
    modules = [*engine, *ROOT.glob("minifcn/ops/*.py"), *ROOT.glob("kernels/**/*.py")]
    for module in modules:
        file = module.relative_to(ROOT)
        named = str(file) in CHANGED or any(file.match(pattern) for pattern in CONFIG["left_out"])
        assert named or module.name == "__init__.py", f"name {file} in tests/mutants/mutants.toml, with its tests"


@pytest.mark.parametrize("file", CHANGED)
def test_what_is_changed_exists_and_so_do_its_tests(file):
    for path in (file, *CHANGED[file]):
        assert (ROOT / path).is_file()


def test_what_is_set_aside_is_in_the_code_and_has_a_reason():
    for mutant in EQUIVALENT:
        code = " ".join((ROOT / mutant["file"]).read_text(encoding="utf-8").split())
        assert " ".join(mutant["before"].split()) in code, f"gone from {mutant['file']}: {mutant['before']}"
        assert mutant["reason"]
