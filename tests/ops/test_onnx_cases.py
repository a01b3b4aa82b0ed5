"""The ops against outputs that others have recorded: ONNX's node cases, and what PyTorch computed for its layers.

Both come with the onnx package. A case is a small graph of operators, its inputs and its outputs; every case that
consists of operators that we have is run, or named in `OUTSIDE` with the reason.

Some of ONNX's options are put into ours: a single axis is a map of one row, an output's size and ``SAME_…`` become
numbers of padding, and padding that differs between the sides, or is larger than our pools allow, a frame that is
added before, or a border that is cut off afterwards.
"""

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

import minifcn_kernels as kernels
from minifcn import Tensor, ops

OUTSIDE = {
    "three axes: our maps have two": """
        averagepool_3d_default averagepool_3d_dilations_small
        averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False
        averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True
        averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False
        averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True
        convtranspose_3d maxpool_3d_default maxpool_3d_dilations maxpool_3d_dilations_use_ref_impl
        maxpool_3d_dilations_use_ref_impl_large AvgPool3d AvgPool3d_stride AvgPool3d_stride1_pad0_gpu_input
        Conv3d Conv3d_dilated Conv3d_dilated_strided Conv3d_groups Conv3d_no_bias Conv3d_stride Conv3d_stride_padding
        MaxPool3d MaxPool3d_stride MaxPool3d_stride_padding""",
    "a dilated average: ours is of neighbours, as PyTorch's": "averagepool_2d_dilations",
    "a product with a vector: ours is of matrices": "matmul_1d_1d matmul_1d_3d matmul_4d_1d",
    "a frame that copies from the map: ours has one value": """
        edge_pad reflect_pad wrap_pad ReflectionPad2d ReplicationPad2d operator_pad""",
}
REASONS = {name: reason for reason, names in OUTSIDE.items() for name in names.split()}


@dataclass(frozen=True)
class Window:
    """A window over maps, in our order: two numbers each, rows first."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]

    @classmethod
    def over(cls, x, kernel_shape, strides=None, pads=None, dilations=None, auto_pad=b"NOTSET"):
        """Read ONNX's attributes, for a map x."""
        axes = len(kernel_shape)
        strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
        before, after = pads[:axes], pads[axes:]
        if auto_pad != b"NOTSET":  # as many windows as strides, and as little padding as they need
            before, after = [], []
            for size, taps, step, gap in zip(x.shape[-axes:], kernel_shape, strides, dilations, strict=True):
                needed = max((-(-size // step) - 1) * step + gap * (taps - 1) + 1 - size, 0)
                before.append(needed // 2 if auto_pad == b"SAME_UPPER" else -(-needed // 2))
                after.append(needed - before[-1])
        rest = 2 - axes
        return cls(
            (*[1] * rest, *kernel_shape),
            (*[1] * rest, *strides),
            (*[1] * rest, *dilations),
            (*[0] * rest, *before),
            (*[0] * rest, *after),
        )

    def pad(self, x, most=None, value=0.0):
        """Return x with its padding, and what padding is left to do: all of it if it is even and no more than most."""
        even = self.before == self.after
        if even and (most is None or all(p <= m for p, m in zip(self.before, most, strict=True))):
            return x, self.before
        (top, left), (bottom, right) = self.before, self.after
        return ops.pad(x, (left, right, top, bottom), value=value), (0, 0)


def maps(x):
    """(N, C, W) → (N, C, 1, W), and likewise for filters."""
    return Tensor(x[:, :, None] if x.ndim == 3 else x)


def like(y, x):
    """Undo `maps`, if it did something to x."""
    return y.data[:, :, 0] if x.ndim == 3 else y.data


def conv(x, w, b=None, *, kernel_shape=None, group=1, **attributes):
    window = Window.over(x, w.shape[2:], **attributes)
    padded, padding = window.pad(maps(x))
    bias = None if b is None else Tensor(b)
    options = {"stride": window.stride, "padding": padding, "dilation": window.dilation, "groups": group}
    return like(ops.conv2d(padded, maps(w), bias, **options), x)


def conv_transpose(x, w, b=None, *, kernel_shape=None, group=1, output_padding=None, output_shape=None, **attributes):
    auto_pad = attributes.pop("auto_pad", b"NOTSET")
    window = Window.over(x, w.shape[2:], **attributes)
    before, after, more = list(window.before), list(window.after), [0, 0]
    if auto_pad != b"NOTSET":
        output_shape = [size * step for size, step in zip(x.shape[2:], window.stride, strict=True)]
    for axis in (0, 1):
        if output_padding is not None:
            more[axis] = [0, 0, *output_padding][axis - 2]
        if output_shape is not None:
            span = window.dilation[axis] * (window.kernel[axis] - 1) + 1
            whole = (maps(x).shape[2 + axis] - 1) * window.stride[axis] + span + more[axis]
            more[axis] += max(output_shape[axis] - whole, 0)
            surplus = max(whole - output_shape[axis], 0)
            before[axis] = surplus // 2 if auto_pad != b"SAME_LOWER" else -(-surplus // 2)
            after[axis] = surplus - before[axis]
    padding = tuple(before) if before == after else (0, 0)
    options = {"stride": window.stride, "dilation": window.dilation, "groups": group, "output_padding": tuple(more)}
    y = ops.conv_transpose2d(maps(x), maps(w), None if b is None else Tensor(b), padding=padding, **options)
    if before != after:
        size = tuple(n - p - q for n, p, q in zip(y.shape[2:], before, after, strict=True))
        y = ops.crop(y, tuple(before), size)
    return like(y, x)


def max_pool(x, *, kernel_shape, ceil_mode=0, storage_order=0, **attributes):
    window = Window.over(x, kernel_shape, **attributes)
    padded, padding = window.pad(maps(x), most=[k // 2 for k in window.kernel], value=-np.inf)
    options = {"stride": window.stride, "padding": padding, "dilation": window.dilation, "ceil_mode": bool(ceil_mode)}
    y = ops.max_pool2d(padded, window.kernel, **options)
    # ONNX counts through all planes, ours within one; storage_order 1 counts down the columns.
    _, index = kernels.max_pool2d(padded.data, window.kernel, **options)
    (N, C, H, W), (rows, columns) = padded.shape, np.divmod(index, padded.shape[3])
    planes = np.arange(N * C).reshape(N, C, 1, 1) * H * W
    return like(y, x), planes + (columns * H + rows if storage_order else index)


def average_pool(x, *, kernel_shape, ceil_mode=0, count_include_pad=0, **attributes):
    window = Window.over(x, kernel_shape, **attributes)
    assert window.dilation == (1, 1)

    def average(x, count_include_pad):
        padded, padding = window.pad(x, most=[k // 2 for k in window.kernel])
        options = {"stride": window.stride, "padding": padding, "ceil_mode": bool(ceil_mode)}
        y = ops.avg_pool2d(padded, window.kernel, count_include_pad=count_include_pad, **options)
        return y, padded.shape != x.shape

    y, framed = average(maps(x), bool(count_include_pad))
    if framed and not count_include_pad:
        y = y / average(Tensor(np.ones_like(maps(x).data)), True)[0]  # the share of the window that is no frame
    return like(y, x)


def lrn(x, *, size, alpha=1e-4, beta=0.75, bias=1.0):
    return ops.local_response_norm(Tensor(x), size, alpha, beta, bias).data


def softmax_cross_entropy_loss(x, target, weight=None, *, reduction=b"mean", ignore_index=255):
    logits, labels = Tensor(x), target
    if x.ndim > 2:  # whatever its axes, a map of as many pixels
        logits, labels = logits.reshape(*x.shape[:2], -1, 1), target.reshape(len(x), -1, 1)
    options = {"weight": weight, "reduction": reduction.decode(), "ignore_index": ignore_index}
    loss = ops.cross_entropy(logits, labels, **options).data
    return loss.reshape(target.shape) if loss.ndim else loss, ops.log_softmax(Tensor(x), 1).data


def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0, broadcast=1):
    y = ops.linear(Tensor(a.T if transA else a), Tensor(b if transB else b.T)) * alpha
    return (y if c is None else y + c * np.float32(beta)).data


def pad(x, pads=None, value=0.0, axes=None, *, mode=b"constant", **attributes):
    assert mode == b"constant"
    pads, value = attributes.get("pads", pads), attributes.get("value", value)
    axes = range(x.ndim) if axes is None else axes
    frame = np.zeros((2, x.ndim), int)
    frame[:, axes] = np.reshape(pads, (2, -1))
    assert not frame[:, :-2].any()
    (top, left), (bottom, right) = frame[:, -2:].tolist()
    return ops.pad(Tensor(x), (left, right, top, bottom), value=float(value)).data


def transpose(x, *, perm=None):
    return ops.permute(Tensor(x), *(range(x.ndim)[::-1] if perm is None else perm)).data


# softmax's axis used to be the first of several; in all old cases it is the last anyway.
OPERATORS = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LRN": lrn,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy_loss,
    "Relu": lambda x: ops.relu(Tensor(x)).data,
    "Softmax": lambda x, axis=-1: ops.softmax(Tensor(x), axis).data,
    "LogSoftmax": lambda x, axis=-1: ops.log_softmax(Tensor(x), axis).data,
    "Exp": lambda x: ops.exp(Tensor(x)).data,
    "Log": lambda x: ops.log(Tensor(x)).data,
    "Sqrt": lambda x: ops.sqrt(Tensor(x)).data,
    "Neg": lambda x: (-Tensor(x)).data,
    "Concat": lambda *xs, axis: ops.cat([Tensor(x) for x in xs], axis).data,
    "Pad": pad,
    "Transpose": transpose,
    "MatMul": lambda a, b: ops.matmul(Tensor(a), Tensor(b)).data,
    "Gemm": gemm,
}
# What graphs use besides; no op of ours stands behind these.
SHAPING = {
    "Constant": lambda value: onnx.numpy_helper.to_array(value),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "Squeeze": lambda x, axes: np.squeeze(x, tuple(axes)),
}


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    inputs: list
    outputs: list
    rtol: float
    atol: float

    @property
    def operators(self):
        return {node.op_type for node in self.model.graph.node}

    def run(self):
        graph = self.model.graph
        values = {"": None} | {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        free = [entry.name for entry in graph.input if entry.name not in values]
        values |= dict(zip(free, self.inputs, strict=True))
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            made = (OPERATORS | SHAPING)[node.op_type](*[values[name] for name in node.input], **attributes)
            values |= zip(node.output, made if isinstance(made, tuple) else (made,), strict=False)
        return [values[entry.name] for entry in graph.output]


def stored(folder):
    """Read the inputs and the outputs of a case that lies in files."""
    for kind in ("input", "output"):
        paths = sorted(Path(folder, "test_data_set_0").glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
        yield [onnx.numpy_helper.to_array(onnx.load_tensor(path)) for path in paths]


@functools.cache
def cases():
    """Return all cases of which an operator of ours is part, by name."""
    np.random.seed(0)  # noqa: NPY002  ONNX draws its inputs from it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX's own, about operators of other kinds
        tests = [t for kind in ("node", "pytorch-converted", "pytorch-operator") for t in load_model_tests(kind=kind)]
    found = {}
    for test in tests:
        model = test.model or onnx.load(Path(test.model_dir, "model.onnx"))
        if {node.op_type for node in model.graph.node} & OPERATORS.keys():
            inputs, outputs = test.data_sets[0] if test.model else stored(test.model_dir)
            found[test.name.removeprefix("test_")] = Case(
                test.name.removeprefix("test_"), model, inputs, outputs, test.rtol, test.atol
            )
    return found


def runnable():
    return [c for c in cases().values() if c.operators <= OPERATORS.keys() | SHAPING.keys() and c.name not in REASONS]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_recorded_outputs_are_ours(operator, backend):
    mine = [case for case in runnable() if operator in case.operators]
    assert mine
    for case in mine:
        with kernels.use_backend(backend), np.errstate(invalid="ignore"):  # a root of a negative number is asked for
            outputs = case.run()
        for actual, expected in zip(outputs, case.outputs, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=case.rtol, atol=case.atol, err_msg=case.name)


WINDOWED = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LRN", "SoftmaxCrossEntropyLoss"}


def test_every_case_is_run_or_named_as_outside():
    # "…_expanded" writes an operator that we do not have out in others.
    ours = {c.name for c in cases().values() if c.operators & WINDOWED or len(c.operators) == 1}
    ours = {name for name in ours if not name.endswith("_expanded")}
    assert ours <= {case.name for case in runnable()} | REASONS.keys()


def test_what_is_named_as_outside_cannot_be_run():
    for name in REASONS:
        with pytest.raises((AssertionError, IndexError, TypeError, ValueError)):
            cases()[name].run()
