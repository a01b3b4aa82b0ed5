// One convolution's sizes, and which of its taps meet a pixel of the input: what all kernels of this folder share.
#pragma once

// ConvGeometry of contract.py under the same names, and what follows from it; gpu.py fills it in.
struct Conv {
    int N, C, H, W, K, R, S, OH, OW;
    int stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    int C_per_group, K_per_group;
    int gcd_h, gcd_w;          // greatest common divisor of stride and dilation
    int inverse_h, inverse_w;  // of dilation / gcd, modulo stride / gcd
};

// The taps of a filter that meet one input position, along one axis.
//
// Tap r of output i meets the input at h = i·stride + r·dilation − padding. Seen from h, only those r count for which
// h + padding − r·dilation is divisible by the stride. With g = gcd(stride, dilation) they exist only where g divides
// the phase (h + padding) mod stride, and then they are
//
//     r = first, first + step, first + 2·step, …        step = stride / g
//
// and each meets the output `shift` = dilation / g positions before the one that the tap before it met. Positions of one
// phase share their taps: for them the gradient is an ordinary convolution of stride 1, and no zeros are multiplied.
//
//     stride 2, dilation 1, R = 3, padding 1           h:   0    1    2    3    4
//                                                   phase:  1    0    1    0    1
//                                                    taps:  1   0,2   1   0,2   1
struct Taps {
    int first, step, count, shift;

    __device__ Taps(int phase, int R, int stride, int dilation, int gcd, int inverse)
        : first(phase / gcd * inverse % (stride / gcd)), step(stride / gcd), count(0), shift(dilation / gcd) {
        if (phase % gcd == 0) count = (R - first + step - 1) / step;  // 0 if first ≥ R, for first < step
    }
};
