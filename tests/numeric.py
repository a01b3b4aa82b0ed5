"""The gradient of any function of tensors, against central differences and with a random cotangent."""

import numpy as np

from differences import gradient
from geometry import normal
from minifcn import Tensor


def check_gradients(f, *arrays, seed=0):
    """Check every input's gradient of ⟨u, f(inputs)⟩ with a random u; and that the inputs stay untouched."""
    arrays = [np.asarray(array) for array in arrays]
    before = [array.copy() for array in arrays]
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    y = f(*tensors)
    u = normal(seed, y.shape)
    y.backward(u)
    for i, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):

        def of_one_input(x, i=i):
            return f(*[Tensor(x if j == i else other) for j, other in enumerate(arrays)]).data

        assert tensor.grad.dtype == array.dtype
        assert tensor.grad.shape == array.shape
        np.testing.assert_array_equal(array, before[i], err_msg=f"input {i} was written to")
        np.testing.assert_allclose(tensor.grad, gradient(of_one_input, array, u), rtol=1e-6, atol=1e-7)
