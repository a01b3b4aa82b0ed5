"""The kernels against ONNX's reference evaluator, which others wrote from the same definitions.

Outside what both can do, and so not compared here: asymmetric and automatic padding; an even size of LRN, whose
window ONNX lays to the higher channels; and a mean loss over no pixel, where ONNX gives NaN. The evaluator has
errors of its own, which the tests go around: its pools are wrong in ceil_mode, its max pool mixes up paddings that
differ between the axes (so it is given a padded input), its transposed convolution is wrong with groups (so it is
asked for one group at a time), and its LRN looks at as many channels as there are images.
"""

import numpy as np
import onnx
import onnx.reference
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from backends import backends
from geometry import LOGIT_SHAPES, SEEDS, convolutions, normal, poolings, whole
from minifcn.random import stream
from oracles import conv as oracle


def evaluate(operator, *inputs, **attributes):
    """Return what ONNX computes for one operator; a None among the inputs is left out."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    node = onnx.helper.make_node(operator, names, ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        operator,
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in zip(names, inputs, strict=True)
            if name
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if name}
    return onnx.reference.ReferenceEvaluator(model).run(None, feeds)[0]


def window_attributes(options):
    """Translate our names; ONNX pads with (top, left, bottom, right)."""
    return {"strides": options["stride"], "pads": options["padding"] * 2}


@backends
@given(convolutions(), SEEDS)
def test_conv(backend, g, seed):
    x, w, b = normal(seed, g.x_shape), normal(seed + 1, g.w_shape), normal(seed + 2, g.w_shape[:1])
    attributes = window_attributes(g.options) | {"dilations": g.options["dilation"], "group": g.options["groups"]}
    with kernels.use_backend(backend):
        y = kernels.conv2d(x, w, b, **g.options)
    np.testing.assert_allclose(y, evaluate("Conv", x, w, b, **attributes), rtol=1e-12, atol=1e-12)


@backends
@given(convolutions(), SEEDS)
def test_conv_transpose_is_the_gradient_of_a_convolution(backend, g, seed):
    spatial = {name: value for name, value in g.options.items() if name != "groups"}
    gy = normal(seed, oracle.output_shape(g.x_shape, g.w_shape, **spatial))
    w = normal(seed + 1, g.w_shape)
    axes = zip(g.x_shape[2:], gy.shape[2:], g.w_shape[2:], *spatial.values(), strict=True)
    left_over = [size - ((out - 1) * step + gap * (taps - 1) + 1 - 2 * pad) for size, out, taps, step, pad, gap in axes]
    attributes = window_attributes(g.options) | {"dilations": g.options["dilation"], "output_padding": left_over}
    groups = zip(np.split(gy, g.options["groups"], axis=1), np.split(w, g.options["groups"]), strict=True)
    expected = np.concatenate([evaluate("ConvTranspose", *group, **attributes) for group in groups], axis=1)
    with kernels.use_backend(backend):
        gx = kernels.conv2d_grad_input(gy, w, g.x_shape, **g.options)
    np.testing.assert_allclose(gx, expected, rtol=1e-12, atol=1e-12)


@backends
@given(poolings(dilated=True, ceil=False), SEEDS)
def test_max_pool(backend, g, seed):
    x = whole(seed, g.x_shape)
    with kernels.use_backend(backend):
        y, _ = kernels.max_pool2d(x, **g.options)
    rows, columns = g.options["padding"]
    padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)), constant_values=-np.inf)
    options = {"kernel_shape": g.options["kernel_size"], "strides": g.options["stride"]}
    expected = evaluate("MaxPool", padded, dilations=g.options["dilation"], **options)
    np.testing.assert_array_equal(y, expected)


@backends
@given(poolings(dilated=False, ceil=False), SEEDS)
def test_average_pool(backend, g, seed):
    x = normal(seed, g.x_shape)
    attributes = window_attributes(g.options) | {"count_include_pad": int(g.options["count_include_pad"])}
    with kernels.use_backend(backend):
        y = kernels.avg_pool2d(x, **g.options)
    expected = evaluate("AveragePool", x, kernel_shape=g.options["kernel_size"], **attributes)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@backends
@given(SEEDS, st.integers(1, 7), st.sampled_from([1, 3, 5]))
def test_lrn(backend, seed, channels, size):
    x = normal(seed, (channels, channels, 2, 3))
    with kernels.use_backend(backend):
        y = kernels.local_response_norm(x, size, 0.5, 0.75, 2.0)
    expected = evaluate("LRN", x, size=size, alpha=0.5, beta=0.75, bias=2.0)
    np.testing.assert_allclose(y, expected, rtol=1e-6)  # ONNX keeps the constants in float32


@backends
@given(LOGIT_SHAPES, SEEDS, st.booleans(), st.sampled_from(["mean", "sum", "none"]))
def test_softmax_cross_entropy_loss(backend, shape, seed, weighted, reduction):
    N, C, H, W = shape
    logits, target = normal(seed, shape), stream(seed).integers(0, C, (N, H, W))
    target[stream(seed, 1).random(target.shape) < 0.25] = 255
    target[0, 0, 0] = 0
    weight = stream(seed, 2).uniform(0.5, 2, C) if weighted else None
    with kernels.use_backend(backend):
        loss = kernels.softmax_cross_entropy(logits, target, weight=weight, reduction=reduction)
    expected = evaluate("SoftmaxCrossEntropyLoss", logits, target, weight, reduction=reduction, ignore_index=255)
    np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-12)
