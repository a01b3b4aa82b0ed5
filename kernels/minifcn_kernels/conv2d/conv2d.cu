// Convolution and its two gradients as implicit matrix products (gemm.cuh); notation as in contract.py.
//
//                            A            row l        B                column j           out
//     conv2d                 w            (c, r, s)    x                (n, i, j)          y
//     conv2d_grad_input      w            (k, r, s)    gy               (n, h, w)          gx, of one phase
//     conv2d_grad_weight     gy           (n, i, j)    x                (c, r, s)          gw
//
// The last one's operands are the first one's with rows and columns exchanged: that is why one loop serves all.
#include "conv2d.cuh"
#include "gemm.cuh"

// How many tiles lie along the columns (of all phases), and how long the parts of a sum are.
struct Cut {
    int column_tiles, part_length;
};

// What this block computes: blockIdx.x counts the tiles along the columns, then those along m, then the groups, and
// blockIdx.y counts the parts.
template <class Tile>
struct Block {
    int column_tile, m0, group, first;

    __device__ Block(int M, const Cut& cut) {
        const int m_tiles = (M + Tile::BM - 1) / Tile::BM, row_tile = blockIdx.x / cut.column_tiles;
        column_tile = blockIdx.x % cut.column_tiles;
        m0 = row_tile % m_tiles * Tile::BM;
        group = row_tile / m_tiles;
        first = blockIdx.y * cut.part_length;
    }
};

template <class T>
struct ForwardSum : Operands<T> {
    const Conv& g;

    // y[n, k, i, j] = Σ w[k, c, r, s] · x[n, c, i·stride + r·dilation − padding, …]
    __device__ ForwardSum(const T* x, const T* w, T* y, const Conv& g, int group) : g(g) {
        this->A = w + group * g.K_per_group * g.C_per_group * g.R * g.S;
        this->B = x + group * g.C_per_group * g.H * g.W;
        this->H = g.H, this->W = g.W;
        this->out = y + group * g.K_per_group * g.OH * g.OW;
        this->a_step = this->length = g.C_per_group * g.R * g.S;
        this->out_step = g.OH * g.OW;
        this->M = g.K_per_group;
        this->columns = g.N * g.OH * g.OW;
    }
    __device__ Row row(int l) const {
        const int c = l / (g.R * g.S), tap = l % (g.R * g.S);
        const int h = tap / g.S * g.dilation_h, w = tap % g.S * g.dilation_w;
        return {l, (c * g.H + h) * g.W + w, h, w};
    }
    __device__ Column column(int pixel) const {
        const int n = pixel / (g.OH * g.OW), in_plane = pixel % (g.OH * g.OW);
        const int h = in_plane / g.OW * g.stride_h - g.padding_h, w = in_plane % g.OW * g.stride_w - g.padding_w;
        return {(n * g.C * g.H + h) * g.W + w, h, w, n * g.K * g.OH * g.OW + in_plane};
    }
};

template <class Tile, int V, class T>
__device__ __forceinline__ void forward_block(const T* x, const T* w, const T* b, T* y, const Conv& g, const Cut& cut) {
    const Block<Tile> block(g.K_per_group, cut);
    const ForwardSum<T> sum(x, w, y + blockIdx.y * (g.N * g.K * g.OH * g.OW), g, block.group);
    const int end = min(block.first + cut.part_length, sum.length);
    const T* bias = gridDim.y == 1 ? b + block.group * sum.M : nullptr;
    gemm<Tile, Lanes::along_columns, V>(sum, block.m0, block.column_tile * Tile::BN, block.first, end, bias);
}

template <class T>
struct GradInputSum : Operands<T> {
    const Conv& g;
    Taps r, s;
    int rows, columns_of_phase;          // size of the phase's part of the input: every stride-th row and column,
    int first_h, first_w;                // from here on
    int output_h, output_w;              // which output the first tap of (first_h, first_w) belongs to

    // gx[n, c, h, w] = Σ w[k, c, r, s] · gy[n, k, (h + padding − r·dilation) / stride, …] over the taps of its phase
    __device__ GradInputSum(const T* gy, const T* w, T* gx, const Conv& g, int group, int phase)
        : g(g),
          r(phase / g.stride_w, g.R, g.stride_h, g.dilation_h, g.gcd_h, g.inverse_h),
          s(phase % g.stride_w, g.S, g.stride_w, g.dilation_w, g.gcd_w, g.inverse_w)
    {
        rows = (g.H + g.stride_h - 1) / g.stride_h;
        columns_of_phase = (g.W + g.stride_w - 1) / g.stride_w;
        first_h = (phase / g.stride_w - g.padding_h % g.stride_h + g.stride_h) % g.stride_h;
        first_w = (phase % g.stride_w - g.padding_w % g.stride_w + g.stride_w) % g.stride_w;
        output_h = (first_h + g.padding_h - r.first * g.dilation_h) / g.stride_h;
        output_w = (first_w + g.padding_w - s.first * g.dilation_w) / g.stride_w;
        this->A = w + group * g.K_per_group * g.C_per_group * g.R * g.S;
        this->B = gy + group * g.K_per_group * g.OH * g.OW;
        this->H = g.OH, this->W = g.OW;
        this->out = gx + group * g.C_per_group * g.H * g.W;
        this->a_step = g.R * g.S;
        this->out_step = g.H * g.W;
        this->M = g.C_per_group;
        this->columns = g.N * rows * columns_of_phase;
        this->length = g.K_per_group * r.count * s.count;
    }
    __device__ Row row(int l) const {
        const int k = l / (r.count * s.count), tap = l % (r.count * s.count);
        const int i = tap / s.count, j = tap % s.count;
        const int in_filter = (r.first + i * r.step) * g.S + s.first + j * s.step;
        const int h = -i * r.shift, w = -j * s.shift;
        return {k * g.C_per_group * g.R * g.S + in_filter, (k * g.OH + h) * g.OW + w, h, w};
    }
    __device__ Column column(int pixel) const {
        const int n = pixel / (rows * columns_of_phase), in_phase = pixel % (rows * columns_of_phase);
        const int i = in_phase / columns_of_phase, j = in_phase % columns_of_phase;
        const int h = first_h + i * g.stride_h, w = first_w + j * g.stride_w;
        const int oh = output_h + i, ow = output_w + j;
        if (h >= g.H || w >= g.W) return {0, NOWHERE, NOWHERE, NOWHERE};  // phases differ by a row and a column
        return {(n * g.K * g.OH + oh) * g.OW + ow, oh, ow, (n * g.C * g.H + h) * g.W + w};
    }
};

template <class Tile, class T>
__device__ __forceinline__ void grad_input_block(const T* gy, const T* w, T* gx, const Conv& g, const Cut& cut) {
    const Block<Tile> block(g.C_per_group, cut);
    const int tiles = cut.column_tiles / (g.stride_h * g.stride_w);  // of a phase
    const int phase = block.column_tile / tiles, j0 = block.column_tile % tiles * Tile::BN;
    const GradInputSum<T> sum(gy, w, gx + blockIdx.y * (g.N * g.C * g.H * g.W), g, block.group, phase);
    const int end = min(block.first + cut.part_length, sum.length);  // phases differ in length: it may lie before first
    gemm<Tile, Lanes::along_columns, 1>(sum, block.m0, j0, block.first, end, nullptr);
}

template <class T>
struct GradWeightSum : Operands<T> {
    const Conv& g;

    // gw[k, c, r, s] = Σ gy[n, k, i, j] · x[n, c, i·stride + r·dilation − padding, …]
    __device__ GradWeightSum(const T* x, const T* gy, T* gw, const Conv& g, int group) : g(g) {
        this->A = gy + group * g.K_per_group * g.OH * g.OW;
        this->B = x + group * g.C_per_group * g.H * g.W;
        this->H = g.H, this->W = g.W;
        this->out_step = this->columns = g.C_per_group * g.R * g.S;
        this->out = gw + group * g.K_per_group * this->out_step;
        this->a_step = g.OH * g.OW;
        this->M = g.K_per_group;
        this->length = g.N * g.OH * g.OW;
    }
    __device__ Row row(int pixel) const {
        const int n = pixel / (g.OH * g.OW), in_plane = pixel % (g.OH * g.OW);
        const int h = in_plane / g.OW * g.stride_h, w = in_plane % g.OW * g.stride_w;
        return {n * g.K * g.OH * g.OW + in_plane, (n * g.C * g.H + h) * g.W + w, h, w};
    }
    __device__ Column column(int weight) const {
        const int c = weight / (g.R * g.S), tap = weight % (g.R * g.S);
        const int h = tap / g.S * g.dilation_h - g.padding_h, w = tap % g.S * g.dilation_w - g.padding_w;
        return {(c * g.H + h) * g.W + w, h, w, weight};
    }
};

template <class Tile, class T>
__device__ __forceinline__ void grad_weight_block(const T* x, const T* gy, T* gw, const Conv& g, const Cut& cut) {
    const Block<Tile> block(g.K_per_group, cut);
    const GradWeightSum<T> sum(x, gy, gw + blockIdx.y * (g.K * g.C_per_group * g.R * g.S), g, block.group);
    const int end = min(block.first + cut.part_length, sum.length);
    gemm<Tile, Lanes::along_rows, 1>(sum, block.m0, block.column_tile * Tile::BN, block.first, end, nullptr);
}

// Two blocks of 256 threads fit an SM if a thread takes at most 128 of its 65,536 registers; so do four of 128.
#define BOUNDS(threads) __launch_bounds__(threads, 512 / (threads))

template <class T, int BM, int BN, int TM, int TN, int V>
__global__ void BOUNDS(BM / TM * (BN / TN)) conv2d_gemm(
    const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Conv g, Cut cut)
{
    forward_block<RegisterTile<T, BM, BN, TM, TN>, V>(x, w, b, y, g, cut);
}

template <class T, int BM, int BN, int TM, int TN>
__global__ void BOUNDS(BM / TM * (BN / TN)) conv2d_grad_input_gemm(
    const T* __restrict__ gy, const T* __restrict__ w, T* __restrict__ gx, Conv g, Cut cut)
{
    grad_input_block<RegisterTile<T, BM, BN, TM, TN>>(gy, w, gx, g, cut);
}

template <class T, int BM, int BN, int TM, int TN>
__global__ void BOUNDS(BM / TM * (BN / TN)) conv2d_grad_weight_gemm(
    const T* __restrict__ x, const T* __restrict__ gy, T* __restrict__ gw, Conv g, Cut cut)
{
    grad_weight_block<RegisterTile<T, BM, BN, TM, TN>>(x, gy, gw, g, cut);
}

template <int BM, int BN, int WM, int WN, int V>
__global__ void BOUNDS(BM / WM * (BN / WN) * 32) conv2d_gemm_tf32(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, float* __restrict__ y,
    Conv g, Cut cut)
{
    forward_block<TensorTile<BM, BN, WM, WN>, V>(x, w, b, y, g, cut);
}

template <int BM, int BN, int WM, int WN>
__global__ void BOUNDS(BM / WM * (BN / WN) * 32) conv2d_grad_input_gemm_tf32(
    const float* __restrict__ gy, const float* __restrict__ w, float* __restrict__ gx, Conv g, Cut cut)
{
    grad_input_block<TensorTile<BM, BN, WM, WN>>(gy, w, gx, g, cut);
}

template <int BM, int BN, int WM, int WN>
__global__ void BOUNDS(BM / WM * (BN / WN) * 32) conv2d_grad_weight_gemm_tf32(
    const float* __restrict__ x, const float* __restrict__ gy, float* __restrict__ gw, Conv g, Cut cut)
{
    grad_weight_block<TensorTile<BM, BN, WM, WN>>(x, gy, gw, g, cut);
}

// out[i] = bias + Σ_part partial[part][i], for 32 outputs a block; a bias belongs to a plane, bias[i / plane % channels].
// Always the same order: slice s of 8 adds the parts s, s + 8, s + 16, …, then thread (x, 0) adds the slices.
template <class T>
__global__ void __launch_bounds__(256) conv2d_sum_parts(
    const T* __restrict__ partial, const T* __restrict__ bias, T* __restrict__ out,
    int size, int parts, int plane, int channels)
{
    constexpr int SLICES = 8;
    __shared__ T slices[SLICES][32];
    const int i = blockIdx.x * 32 + threadIdx.x, slice = threadIdx.y;
    T sum = 0;
    if (i < size)
        for (int part = slice; part < parts; part += SLICES) sum += partial[part * size + i];
    slices[slice][threadIdx.x] = sum;
    __syncthreads();
    if (slice > 0 || i >= size) return;
    sum = bias[i / plane % channels];
    for (const auto& of_slice : slices) sum += of_slice[threadIdx.x];
    out[i] = sum;
}
