"""The likely causes in a report are those that the evidence fits, and no others."""

import numpy as np
import pytest

from minifcn import Function, Tensor, ops
from minifcn.ops import activation, conv
from minifcn.testing import GradientError, check_gradients
from minifcn.testing.data import distinct, normal
from planted import faulty
from planted.bugs import OP_BUGS, change_gradient, faulty_kernel
from planted.subjects import SUBJECTS


def report(f, *inputs, **options):
    with pytest.raises(GradientError) as raised:
        check_gradients(f, *inputs, **options)
    return str(raised.value)


def likely(text):
    return "\n".join(line.removeprefix("  likely").strip() for line in text.splitlines() if line.startswith("  likely"))


CHANGES = {
    "sign": (lambda g: -g, "the sign: analytic = −numeric"),
    "any factor": (lambda g: 1.7 * g, "a factor: every element is 1.7 times what it should be"),
    "a mean over the pixels": (lambda g: g / 20, "an extra 1/20"),
    "a sum over the batch": (lambda g: 2 * g, "a missing 1/2"),
    "nothing": (lambda g: np.zeros_like(g), "no gradient arrives"),
    "columns turned round": (lambda g: g[..., ::-1], "flipped along axis 3"),
    "moved": (lambda g: np.roll(g, 1, axis=2), "moved by +1 along axis 2"),
    "rows and columns": (lambda g: g.swapaxes(2, 3), "axes 2 and 3 are swapped"),
    "order": (lambda g: g.T.reshape(g.shape), "the right numbers in the wrong places"),
    "a border left out": (lambda g: np.pad(g[..., 1:], ((0, 0), (0, 0), (0, 0), (1, 0))), "got exactly 0"),
}


class Twist(Function):
    """Twice x, with a gradient that a test can spoil."""

    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return (2 * grad,)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_gradient_is_recognised(change, monkeypatch):
    how, sentence = CHANGES[change]
    # (N, C, H, W): square where axes are swapped, and 2·20 elements in all.
    shape = (1, 2, 3, 3) if change == "rows and columns" else (2, 1, 4, 5)
    if "1/20" in sentence:
        shape = (1, 1, 4, 5)
    change_gradient(Twist, 0, how)(monkeypatch)
    assert sentence in likely(report(Twist.apply, distinct(shape)))


def test_a_derivative_that_is_not_multiplied_by_the_cotangent(monkeypatch):
    monkeypatch.setattr(Twist, "backward", lambda self, grad: (np.full_like(grad, 2),))
    assert "ignores its argument" in likely(report(Twist.apply, distinct((2, 3))))


def test_an_overwritten_contribution(monkeypatch):
    faulty_kernel("conv2d_grad_input", "overwritten")(monkeypatch)
    text = report(ops.conv2d, normal((1, 1, 1, 3)), normal((1, 1, 1, 2)))
    assert "only the last of 2 contributions arrived: overwritten" in likely(text)


def test_a_bias_that_sees_the_first_image_only(monkeypatch):
    monkeypatch.setattr(conv, "_sum_over_pixels", lambda grad: grad[0].sum(axis=(1, 2)))
    text = report(ops.conv2d, normal((3, 1, 2, 2)), normal((1, 1, 1, 1)), normal((1,)))
    assert "only index 0 of the output's axis 0 was counted" in likely(text)


def test_a_filter_turned_round(monkeypatch):
    faulty_kernel("conv2d_grad_weight", "filter turned round")(monkeypatch)
    text = report(ops.conv2d, normal((1, 1, 5, 5)), normal((1, 1, 3, 3)))
    assert "flipped along axis 2 and 3: a filter turned the wrong way round" in likely(text)


def test_a_forgotten_mask(monkeypatch):
    monkeypatch.setattr(activation.ReLU, "backward", lambda self, grad: (grad.copy(),))
    assert "a mask, an ignored label" in likely(report(ops.relu, distinct((2, 3))))


def test_a_pixel_that_a_sum_leaves_out(monkeypatch):
    monkeypatch.setattr(conv, "_sum_over_pixels", lambda grad: grad.sum(axis=(0, 2, 3)) - grad[-1, :, -1, -1])
    text = report(ops.conv2d, normal((1, 1, 3, 3)), normal((1, 1, 1, 1)), normal((1,)))
    assert "one of 9 contributions is missing" in likely(text)


def test_a_path_that_leaves_the_graph():
    assert "forward leaves the graph" in likely(report(lambda x: Tensor(2 * x.data), distinct((2, 2))))


def test_no_cause_is_named_without_evidence(monkeypatch):
    noise = normal((2, 3), seed=9)
    change_gradient(Twist, 0, lambda g: g + noise)(monkeypatch)
    assert likely(report(Twist.apply, distinct((2, 3)))) == ""


def test_the_snippet_fails_likewise(monkeypatch):
    change_gradient(Twist, 0, np.negative)(monkeypatch)
    text = report(Twist.apply, distinct((2, 3)), seed=5)
    code = "\n".join(line.strip() for line in text.partition("to see it again\n")[2].splitlines())
    with pytest.raises(GradientError) as again:
        exec(code, {"apply": Twist.apply})
    assert likely(str(again.value)) == likely(text)


def test_values_that_matter_are_written_out(monkeypatch):
    monkeypatch.setattr(Twist, "backward", lambda self, grad: (2 * grad if abs(grad[0, 0]) < 1e9 else grad,))
    f = lambda x: Twist.apply(x) if x.data[0, 0] != 3.0 else -1 * Tensor(x.data)  # noqa: E731
    text = report(f, np.array([[3.0, 1.0]]))
    assert "x0 = np.array([[3.0, 1.0]])" in text


def test_directions_find_one_wrong_element_among_thousands(monkeypatch):
    def spoil(grad):
        grad[17, 23] *= 1.5
        return grad

    change_gradient(Twist, 0, spoil)(monkeypatch)
    assert "element (17, 23)" in report(Twist.apply, distinct((40, 50)), mode="directional")


def test_the_faulty_kernels_are_right_without_a_fault(monkeypatch):
    for name in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight", "max_pool2d", "avg_pool2d", "avg_pool2d_grad"):
        assert callable(getattr(faulty, name))
        faulty_kernel(name, None)(monkeypatch)
    for name in ("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d"):
        check_gradients(SUBJECTS[name].call, *SUBJECTS[name].inputs)


def test_planted_bugs_have_names_of_their_own():
    names = [str(bug) for bug in OP_BUGS]
    assert len(set(names)) == len(names)
