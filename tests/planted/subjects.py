"""Every op at a point where its mistakes show: sizes and options differ from axis to axis, and nothing is square.

Each names the `Function` that does its work, into which mistakes are planted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minifcn import ops
from minifcn.ops import activation, basic, conv, loss, movement, norm, pool, reduction
from minifcn.ops.crop import Crop, Fuse  # the module is hidden behind the op of its name
from minifcn.testing.cases import ConvCase, ConvTransposeCase, CropCase, LabelCase, NormCase, PoolCase
from minifcn.testing.data import distinct, normal, tied

CONV = ConvCase(N=2, C=2, K=4, H=5, W=6, R=2, S=3, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=True)
# Stride (3, 1) and dilation (2, 1) here, so that both orders occur.
TRANSPOSE = ConvTransposeCase(
    N=2, C=2, K=3, H=3, W=2, R=2, S=3, stride=(3, 1), padding=(0, 1), output_padding=(2, 0), dilation=(2, 1), bias=True
)
MAX_POOL = PoolCase(N=2, C=2, H=6, W=7, R=3, S=2, stride=(1, 2), padding=(1, 0), dilation=(1, 2), ceil_mode=True)
AVG_POOL = PoolCase(
    N=2, C=2, H=6, W=7, R=3, S=2, stride=(1, 2), padding=(1, 0), ceil_mode=True, count_include_pad=False
)
CROP = CropCase(N=2, C=2, H=5, W=6, offset=(1, 2), size=(3, 2))
LABELS = LabelCase(N=2, C=3, H=3, W=4, ignore=True, weight=True, mask=True)
NORM = NormCase(N=2, C=5, H=2, W=3, size=3)

_MASK = np.arange(12).reshape(3, 4) % 3 > 0


@dataclass(frozen=True)
class Subject:
    function: Any
    call: Callable[..., Any]
    inputs: tuple[Any, ...]


def _positive(shape, seed=0):
    return np.abs(distinct(shape, seed)) + 0.5


A, B = distinct((3, 4)), distinct((3, 4), seed=1)

SUBJECTS = {
    "add": Subject(basic.Add, lambda a, b: a + b, (A, B)),
    "sub": Subject(basic.Sub, lambda a, b: a - b, (A, B)),
    "mul": Subject(basic.Mul, lambda a, b: a * b, (A, B)),
    "div": Subject(basic.Div, lambda a, b: a / b, (A, B)),
    "add, broadcast": Subject(basic.Add, lambda a, b: a + b, (A, distinct((4,)))),
    "sub, broadcast": Subject(basic.Sub, lambda a, b: a - b, (distinct((3, 1)), A)),
    "mul, broadcast": Subject(basic.Mul, lambda a, b: a * b, (A, distinct((3, 1)))),
    "div, broadcast": Subject(basic.Div, lambda a, b: a / b, (A, distinct((1, 4)))),
    "neg": Subject(basic.Neg, lambda a: -a, (A,)),
    "pow": Subject(basic.Pow, lambda a: a**3, (A,)),
    "exp": Subject(basic.Exp, ops.exp, (A,)),
    "log": Subject(basic.Log, ops.log, (_positive((3, 4)),)),
    "sqrt": Subject(basic.Sqrt, ops.sqrt, (_positive((3, 4)),)),
    "matmul": Subject(basic.MatMul, ops.matmul, (A, distinct((4, 2)))),
    "matmul, broadcast": Subject(basic.MatMul, ops.matmul, (distinct((2, 3, 4)), distinct((4, 2)))),
    "sum": Subject(reduction.Sum, lambda a: ops.sum(a, 1), (A,)),
    "mean": Subject(reduction.Sum, lambda a: ops.mean(a, 1), (A,)),
    "max": Subject(reduction.Max, lambda a: ops.max(a, 1), (A,)),
    "reshape": Subject(movement.Reshape, lambda a: a.reshape(2, 6), (A,)),
    "permute": Subject(movement.Transpose, lambda a: ops.permute(a, 2, 0, 1), (distinct((2, 3, 4)),)),
    "transpose": Subject(movement.Transpose, lambda a: a.transpose(1, 0), (A,)),
    "getitem": Subject(movement.GetItem, lambda a: a[np.array([0, 2, 2]), 1:], (A,)),
    "cat": Subject(movement.Cat, lambda a, b: ops.cat([a, b], 1), (A, distinct((3, 2)))),
    "pad": Subject(movement.Pad, lambda a: ops.pad(a, (1, 2, 0, 3)), (A,)),
    "relu": Subject(activation.ReLU, ops.relu, (A,)),
    "softmax": Subject(activation.Softmax, lambda a: ops.softmax(a, 1), (A,)),
    "log_softmax": Subject(activation.LogSoftmax, lambda a: ops.log_softmax(a, 1), (A,)),
    "dropout": Subject(activation.Dropout, lambda a: ops.dropout(a, 0.5, mask=_MASK), (A,)),
    "conv2d": Subject(conv.Conv2d, lambda *a: ops.conv2d(*a, **CONV.options), tuple(CONV.arrays())),
    "conv_transpose2d": Subject(
        conv.ConvTranspose2d, lambda *a: ops.conv_transpose2d(*a, **TRANSPOSE.options), tuple(TRANSPOSE.arrays())
    ),
    "linear": Subject(conv.Conv2d, ops.linear, (normal((3, 4)), normal((2, 4)), normal((2,)))),
    "max_pool2d": Subject(pool.MaxPool2d, lambda x: ops.max_pool2d(x, **MAX_POOL.max_options), (MAX_POOL.array(),)),
    "avg_pool2d": Subject(pool.AvgPool2d, lambda x: ops.avg_pool2d(x, **AVG_POOL.avg_options), (AVG_POOL.array(),)),
    "crop": Subject(Crop, lambda x: ops.crop(x, CROP.offset, CROP.size), (CROP.arrays()[0],)),
    "fuse": Subject(Fuse, lambda a, b: ops.fuse(a, b, CROP.offset), tuple(CROP.arrays()[::-1])),
    "local_response_norm": Subject(
        norm.LocalResponseNorm, lambda x: ops.local_response_norm(x, **NORM.options), (NORM.array(),)
    ),
    "cross_entropy": Subject(loss.CrossEntropy, lambda z: ops.cross_entropy(z, **LABELS.options), (LABELS.logits(),)),
}

# The ops that have a rule for ties, at a point full of them.
TIED = {
    "relu": (ops.relu, tied((3, 4))),
    "max": (lambda a: ops.max(a, 1), tied((3, 4))),
    "max_pool2d": (
        lambda x: ops.max_pool2d(x, **MAX_POOL.max_options),
        PoolCase(N=2, C=2, H=6, W=7, ties=True).array(),
    ),
}
