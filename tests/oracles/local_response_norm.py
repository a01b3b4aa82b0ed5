"""Local response normalisation by the definition, and its gradient as a full Jacobian times the cotangent."""

import numpy as np


def window(c, C, size):
    return [d for d in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= d < C]


def local_response_norm(x, size, alpha, beta, k):
    y = np.zeros(x.shape, x.dtype)
    C = x.shape[1]
    for n, c, h, w in np.ndindex(*x.shape):
        squares = sum(float(x[n, d, h, w]) ** 2 for d in window(c, C, size))
        y[n, c, h, w] = x[n, c, h, w] / (k + alpha / size * squares) ** beta
    return y


def local_response_norm_grad(gy, x, size, alpha, beta, k):
    gx = np.zeros(x.shape, x.dtype)
    N, C, H, W = x.shape
    for n, h, w in np.ndindex(N, H, W):
        z = [float(value) for value in x[n, :, h, w]]
        for e in range(C):
            scale = k + alpha / size * sum(z[d] ** 2 for d in window(e, C, size))
            for c in range(C):
                # ∂y_e/∂x_c: through the numerator if c is e, and through the scale if c is in e's window.
                slope = scale**-beta if c == e else 0.0
                if c in window(e, C, size):
                    slope -= z[e] * beta * scale ** (-beta - 1) * alpha / size * 2 * z[c]
                gx[n, c, h, w] += slope * gy[n, e, h, w]
    return gx
