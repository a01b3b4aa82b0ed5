"""The house: who may import whom, what is public, and how large a file may grow."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import minifcn
import minifcn_kernels

# From the ground floor up. A part may import the parts below its own floor, and itself.
FLOORS = [
    {"kernels", "random"},
    {"anomaly", "arrays", "data"},
    {"tensor"},
    {"ops", "trace"},
    {"nn"},
    {"fcn", "models", "testing"},
    {"training", "weights"},
    {"nets", "pictures"},
    {"demo"},
    {"cli"},
]
# The operators' algebra stands on the tensor's class and its methods on the algebra: the tensor's last line.
EXCEPTION = {("minifcn.tensor", f"minifcn.ops.{name}") for name in ("basic", "movement", "reduction")}

PACKAGES = (minifcn, minifcn_kernels)
SOURCES = {
    ".".join((package.__name__, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
    for package in PACKAGES
    for root in [Path(package.__file__).parent]
    for path in sorted(root.rglob("*.py"))
}


def imports(module):
    """Return the full name of every module of ours that ``module`` imports, wherever in the file."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; the house writes full names"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module


def part(module):
    package, _, rest = module.partition(".")
    return "kernels" if package == "minifcn_kernels" else rest.partition(".")[0]


def floor(module):
    return next(i for i, parts in enumerate(FLOORS) if part(module) in parts)


def ours(module):
    return module.partition(".")[0] in ("minifcn", "minifcn_kernels")


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - {"minifcn"}))
def test_imports_run_downwards_only(module):
    for imported in filter(ours, imports(module)):
        if part(imported) != part(module) and (module, imported) not in EXCEPTION:
            assert imported != "minifcn", f"{module} imports through the roof; import the module that defines it"
            assert floor(imported) < floor(module), f"{module} must not import {imported}"


def test_no_op_imports_another():
    """Its compiled code would not notice that the other's sources have changed."""
    for module in SOURCES:
        match module.split("."):
            case ["minifcn_kernels", op, _] if op != "cuda":
                for imported in filter(ours, imports(module)):
                    # The launcher is no op: what it compiles is cached by the sources themselves.
                    shared = imported.count(".") == 1 or imported.startswith("minifcn_kernels.cuda.")
                    assert shared or imported.startswith(f"minifcn_kernels.{op}."), f"{module} imports {imported}"


def test_the_one_import_upwards_is_the_tensors_last_statement():
    last = ast.parse(SOURCES["minifcn.tensor"].read_text()).body[-1]
    assert isinstance(last, ast.ImportFrom)
    assert {("minifcn.tensor", f"{last.module}.{alias.name}") for alias in last.names} == EXCEPTION


def test_data_imports_nothing_of_the_engine():
    used = {part(name) for module in SOURCES if part(module) == "data" for name in imports(module) if ours(name)}
    assert used <= {"data", "random"}


def test_nothing_but_its_own_parts_imports_testing():
    users = {module for module in SOURCES if any(part(name) == "testing" for name in imports(module) if ours(name))}
    assert {part(module) for module in users} <= {"testing", ""}  # itself, and the front door


def test_only_the_strategies_import_hypothesis():
    users = {module for module in SOURCES if any(name.startswith("hypothesis") for name in imports(module))}
    assert users <= {"minifcn.testing.strategies"}


def test_importing_the_package_imports_none_of_its_extras():
    extras = ["hypothesis", "sklearn", "matplotlib", "onnx", "torch", "cupy"]
    code = f"import minifcn, sys; print([name for name in {extras} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


PUBLIC = {
    "minifcn": "Tensor Function no_grad detect_anomaly trace ops nn models fcn data training testing weights",
    "minifcn.ops": "conv2d conv_transpose2d linear max_pool2d avg_pool2d crop fuse relu dropout local_response_norm "
    "cat pad softmax log_softmax cross_entropy sum mean max exp log sqrt matmul",
    "minifcn.nn": "Parameter Module Conv2d ConvTranspose2d MaxPool2d AvgPool2d ReLU Dropout LocalResponseNorm Flatten "
    "Linear Sequential Parallel Window init random_state",
    "minifcn.models": "lenet tiny_vgg alexnet vgg16 googlenet",
    "minifcn.fcn": "convolutionalize FCN geometry inspect summarize feature_scales shift_and_stitch rarefy "
    "bilinear_upsampling sample_loss sample_labels images_per_batch MultiTask LateFusion",
    "minifcn.fcn.geometry": "coordinate_map receptive_field crop_offset minimum_padding explain",
    "minifcn.weights": "load read Pixels",
    "minifcn.data": "digits shapes folder Masked WithDepth",
    "minifcn.training": "SGD Trainer metrics checkpoint regimes diagnose",
    "minifcn.training.regimes": "accumulated online heavy equal_momentum equal_lr lr_of_mean lr_of_sum",
    "minifcn.training.metrics": "confusion_matrix pixel_accuracy mean_accuracy mean_iu frequency_weighted_iu",
    "minifcn.testing": "check_gradients check_adjoint check_backends strategies",
    "minifcn_kernels": "conv2d conv2d_grad_input conv2d_grad_weight max_pool2d max_pool2d_grad avg_pool2d "
    "avg_pool2d_grad crop crop_grad fuse softmax_cross_entropy softmax_cross_entropy_grad local_response_norm "
    "local_response_norm_grad use_backend use_algorithm allow_tf32 backends",
}
METHODS = {
    minifcn.Tensor: "data shape dtype ndim backward zero_grad detach item numpy to retain_grad sum mean max reshape "
    "transpose exp log sqrt",
    minifcn.nn.Module: "parameters named_parameters state_dict load_state_dict train eval to zero_grad window",
}


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in PUBLIC.items() for name in names.split()])
def test_a_public_name_can_be_imported(module, name):
    exec(f"from {module} import {name}", {})


@pytest.mark.parametrize(("owner", "name"), [(o, name) for o, names in METHODS.items() for name in names.split()])
def test_a_public_method_exists_and_is_documented(owner, name):
    assert inspect.getdoc(getattr(owner, name))


def exporting_modules():
    for package in PACKAGES:
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "__all__" in SOURCES[info.name].read_text():
                yield info.name
        yield package.__name__


@pytest.mark.parametrize("name", sorted(exporting_modules()))
def test_all_is_true_and_everything_in_it_is_documented(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        value = getattr(module, exported)
        if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
            assert value.__doc__, f"{name}.{exported} has no docstring"


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_file_grows_beyond_a_few_screens(module):
    assert len(SOURCES[module].read_text().splitlines()) <= 450
