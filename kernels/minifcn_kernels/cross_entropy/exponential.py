"""The exponential function for whole rows, in vector instructions.

Numba calls the C library for every single exponential, which takes five times as long as the arithmetic needs. That is

    eᵈ = 2ⁿ · eʳ        n = ⌊d / ln 2 + ½⌋        r = d − n · ln 2,  |r| ≤ ln 2 / 2 (and a rounding error)

in which 2ⁿ is a matter of writing n into the exponent of a floating-point number, and eʳ is the Taylor series. The
rest after the term rᵏ/k! is below 2 · |r|ᵏ⁺¹ / (k + 1)!: with k = 7 that is 1.0e-8, a sixth of float32's rounding
error 2⁻²⁴, and with k = 13 it is 8e-18, a thirteenth of float64's 2⁻⁵³.

What has to be exact is r. So ln 2 is cut in two: HIGH has 9 bits, so n · HIGH is exact for all n that occur (and so is
d − n · HIGH, in which the leading digits cancel), and only n · LOW, a small number, is rounded. This is why the
compiler must not reorder these sums. In all the error stays below 1.5 ulp, units in the last place: 1.2 was seen, and
0.9 where multiply and add are one instruction.
"""

import math

import numpy as np

from minifcn_kernels.jit import Array, inlined_in_order

HIGH = 355 / 512
LOW = -2.1219444005469057e-4  # ln 2 − HIGH
# 1/k! from the last term to the first.
TAYLOR_7 = tuple(1 / math.factorial(k) for k in range(7, -1, -1))
TAYLOR_13 = tuple(1 / math.factorial(k) for k in range(13, -1, -1))
# Below, the result would be smaller than the smallest normal number, 2⁻¹²⁶ or 2⁻¹⁰²².
LEAST_FLOAT32 = -126 * math.log(2)
LEAST_FLOAT64 = -1022 * math.log(2)


@inlined_in_order
def exponentials(y: Array, x: Array, largest: Array) -> None:
    """y[i] = exp(x[i] − largest[i]), where no x[i] is larger than largest[i]; all of one float dtype.

    Within 1.5 ulp, but 0 for what is below the smallest normal number. exp(NaN) is NaN.
    """
    number = y.dtype.type
    single = y.itemsize == 4
    least = number(LEAST_FLOAT32 if single else LEAST_FLOAT64)
    for i in range(len(y)):
        difference = x[i] - largest[i]
        d = least if difference < least else difference
        # Of NaN there is no whole number: n becomes that of `least`, and r stays NaN.
        n = np.floor((d if d > least else least) * number(1 / math.log(2)) + number(0.5))
        r = (d - n * number(HIGH)) - n * number(LOW)
        # Horner's rule; and n plus the bias in front of the bits of the mantissa, which are 0, is the number 2ⁿ.
        if single:
            series = number(TAYLOR_7[0])
            for factor in TAYLOR_7[1:]:
                series = series * r + number(factor)
            power = number(np.int32((np.int32(n) + 127) << 23).view(np.float32))
        else:
            series = number(TAYLOR_13[0])
            for factor in TAYLOR_13[1:]:
                series = series * r + number(factor)
            power = number(np.int64((np.int64(np.int32(n)) + 1023) << 52).view(np.float64))
        y[i] = number(0) if difference < least else series * power
