// Convolution and its gradients without tiles, for what tiles are wasted on: few filters to a group (depthwise
// convolution has one, bilinear upsampling too), so that outputs share nothing worth keeping. Notation as in contract.py.
//
//     conv2d_direct, conv2d_grad_input_direct     one thread, one output; neighbouring threads, neighbours in a row
//     conv2d_wide, conv2d_grad_weight_direct      one warp, one output: its 32 lanes go along the sum side by side
//
// The memory is what limits them: 9 products per input read are far below the 20 FLOPs per byte that a device can do.
#include "conv2d.cuh"

struct Position {
    int n, channel, h, w;
};
__device__ __forceinline__ Position position(int i, int channels, int H, int W) {
    return {i / (channels * H * W), i / (H * W) % channels, i / W % H, i % W};
}

// The sum over a warp's lanes, in lane 0. Always the same tree of additions:
//     lane:   0 + 16, 1 + 17, …      then 0 + 8, …      then 0 + 4, …      0 + 2      0 + 1
template <class T>
__device__ __forceinline__ T sum_of_warp(T value) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_down_sync(0xffffffff, value, apart);
    return value;
}

template <class T>
__global__ void conv2d_direct(
    const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Conv g)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.N * g.K * g.OH * g.OW) return;
    const auto [n, k, oh, ow] = position(i, g.K, g.OH, g.OW);
    const int c0 = k / g.K_per_group * g.C_per_group;  // the first input channel of k's group
    T sum = b[k];
    for (int c = 0; c < g.C_per_group; ++c)
        for (int r = 0; r < g.R; ++r) {
            const int h = oh * g.stride_h + r * g.dilation_h - g.padding_h;
            if (h < 0 || h >= g.H) continue;
            const T* x_row = x + ((n * g.C + c0 + c) * g.H + h) * g.W;
            const T* w_row = w + ((k * g.C_per_group + c) * g.R + r) * g.S;
            for (int s = 0; s < g.S; ++s) {
                const int column = ow * g.stride_w + s * g.dilation_w - g.padding_w;
                if (0 <= column && column < g.W) sum += w_row[s] * x_row[column];
            }
        }
    y[i] = sum;
}

template <class T>
__global__ void conv2d_grad_input_direct(
    const T* __restrict__ gy, const T* __restrict__ w, T* __restrict__ gx, Conv g)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.N * g.C * g.H * g.W) return;
    const auto [n, c, h, column] = position(i, g.C, g.H, g.W);
    const int k0 = c / g.C_per_group * g.K_per_group;  // the first output channel of c's group
    const int reach_h = h + g.padding_h, reach_w = column + g.padding_w;
    const Taps r(reach_h % g.stride_h, g.R, g.stride_h, g.dilation_h, g.gcd_h, g.inverse_h);
    const Taps s(reach_w % g.stride_w, g.S, g.stride_w, g.dilation_w, g.gcd_w, g.inverse_w);
    // The outputs that the first taps belong to; later taps belong to earlier ones.
    const int last_h = (reach_h - r.first * g.dilation_h) / g.stride_h;
    const int last_w = (reach_w - s.first * g.dilation_w) / g.stride_w;
    T sum = 0;
    for (int k = k0; k < k0 + g.K_per_group; ++k)
        for (int i = 0; i < r.count; ++i) {
            const int oh = last_h - i * r.shift;
            if (oh < 0 || oh >= g.OH) continue;
            const T* gy_row = gy + ((n * g.K + k) * g.OH + oh) * g.OW;
            const T* w_row = w + ((k * g.C_per_group + c % g.C_per_group) * g.R + r.first + i * r.step) * g.S;
            for (int j = 0; j < s.count; ++j) {
                const int ow = last_w - j * s.shift;
                if (0 <= ow && ow < g.OW) sum += w_row[s.first + j * s.step] * gy_row[ow];
            }
        }
    gx[i] = sum;
}

// For large filters: the lanes go along (c, r, s), so that they read neighbouring weights and neighbouring pixels.
template <class T>
__global__ void conv2d_wide(
    const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Conv g)
{
    const int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= g.N * g.K * g.OH * g.OW) return;  // all lanes of a warp together
    const auto [n, k, oh, ow] = position(i, g.K, g.OH, g.OW);
    const int c0 = k / g.K_per_group * g.C_per_group, length = g.C_per_group * g.R * g.S;
    T sum = 0;
    for (int l = lane; l < length; l += 32) {
        const int c = l / (g.R * g.S), tap = l % (g.R * g.S);
        const int h = oh * g.stride_h + tap / g.S * g.dilation_h - g.padding_h;
        const int column = ow * g.stride_w + tap % g.S * g.dilation_w - g.padding_w;
        if (0 <= h && h < g.H && 0 <= column && column < g.W)
            sum += w[k * length + l] * x[((n * g.C + c0 + c) * g.H + h) * g.W + column];
    }
    sum = sum_of_warp(sum);
    if (lane == 0) y[i] = sum + b[k];
}

// One warp sums one weight's products over a part of the pixels (n, i, j), blockIdx.y · part_length on.
template <class T>
__global__ void conv2d_grad_weight_direct(
    const T* __restrict__ x, const T* __restrict__ gy, T* __restrict__ gw, Conv g, int part_length)
{
    const int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int weights = g.K * g.C_per_group * g.R * g.S, pixels = g.N * g.OH * g.OW;
    if (i >= weights) return;  // all lanes of a warp together
    const auto [k, c, r, s] = position(i, g.C_per_group, g.R, g.S);
    const int c0 = k / g.K_per_group * g.C_per_group;
    const int first = blockIdx.y * part_length, end = min(first + part_length, pixels);
    T sum = 0;
    for (int pixel = first + lane; pixel < end; pixel += 32) {
        const int n = pixel / (g.OH * g.OW), in_plane = pixel % (g.OH * g.OW);
        const int h = in_plane / g.OW * g.stride_h + r * g.dilation_h - g.padding_h;
        const int column = in_plane % g.OW * g.stride_w + s * g.dilation_w - g.padding_w;
        if (0 <= h && h < g.H && 0 <= column && column < g.W)
            sum += gy[(n * g.K + k) * g.OH * g.OW + in_plane] * x[((n * g.C + c0 + c) * g.H + h) * g.W + column];
    }
    sum = sum_of_warp(sum);
    if (lane == 0) gw[blockIdx.y * weights + i] = sum;
}
