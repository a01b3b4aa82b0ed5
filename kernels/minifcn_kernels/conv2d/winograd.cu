// Winograd's F(4×4, 3×3): a 4×4 tile of a 3×3 convolution with 36 products instead of 144.
//
//     y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A         y 4×4, w 3×3, x 6×6, ⊙ element by element
//
// Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, §4.3: polynomials are multiplied by their
// values at the points 0, 1, −1, 2, −2 and ∞. The sum over channels may be taken before the last transform, so the
// products become 36 independent matrix products, one for each element e of a 6×6 tile:
//
//     x ──input──▶ V[e][c][tile] ─┐
//                                 ├─▶ M[e][k][tile] = Σ_c U[e][k][c] · V[e][c][tile] ──output──▶ y
//     w ─filter──▶ U[e][k][c] ────┘          (a 1×1 convolution in 36·G groups: conv2d_gemm)
//
// The gradient of x is such a convolution itself, of gy with the turned filters. The gradient of w is the transpose of
// the whole in w; the same matrices come back, transposed:
//
//     gw = Gᵀ [ Σ_tile (A gy Aᵀ) ⊙ (Bᵀ x B) ] G       Z = A gy Aᵀ by winograd_cotangent, the sum by
//                                                     conv2d_grad_weight_gemm, in as many groups
//
// Tiles are numbered (n·TH + row)·TW + column; first_tile is the number of tile 0 of V, M or Z, whose rows hold `tiles`
// tiles, those behind the last one zero. One thread transforms one tile of one channel; neighbouring threads have
// neighbouring tiles and write neighbouring elements.
#include "conv2d.cuh"

// Apply a transform of columns, `out` numbers from `in`, along both axes of a tile: T x Tᵀ.
template <int out, int in, class F>
__device__ __forceinline__ void along_both_axes(const float (&x)[in][in], float (&y)[out][out], const F& transform) {
    float half[in][out];
    #pragma unroll
    for (int j = 0; j < in; ++j) {
        float column[in];
        #pragma unroll
        for (int i = 0; i < in; ++i) column[i] = x[i][j];
        transform(column, half[j]);
    }
    #pragma unroll
    for (int i = 0; i < out; ++i) {
        float row[in];
        #pragma unroll
        for (int j = 0; j < in; ++j) row[j] = half[j][i];
        transform(row, y[i]);
    }
}

// Bᵀ
__device__ __forceinline__ void input_transform(const float (&x)[6], float (&v)[6]) {
    v[0] = 4 * x[0] - 5 * x[2] + x[4];
    v[1] = x[4] - 4 * x[2] + (x[3] - 4 * x[1]);
    v[2] = x[4] - 4 * x[2] - (x[3] - 4 * x[1]);
    v[3] = x[4] - x[2] + 2 * (x[3] - x[1]);
    v[4] = x[4] - x[2] - 2 * (x[3] - x[1]);
    v[5] = 4 * x[1] - 5 * x[3] + x[5];
}
// G
__device__ __forceinline__ void filter_transform(const float (&w)[3], float (&u)[6]) {
    u[0] = w[0] / 4;
    u[1] = -(w[0] + w[2] + w[1]) / 6;
    u[2] = -(w[0] + w[2] - w[1]) / 6;
    u[3] = (w[0] + 4 * w[2] + 2 * w[1]) / 24;
    u[4] = (w[0] + 4 * w[2] - 2 * w[1]) / 24;
    u[5] = w[2];
}
// Gᵀ
__device__ __forceinline__ void filter_gradient_transform(const float (&u)[6], float (&w)[3]) {
    w[0] = u[0] / 4 - (u[1] + u[2]) / 6 + (u[3] + u[4]) / 24;
    w[1] = (u[2] - u[1]) / 6 + (u[3] - u[4]) / 12;
    w[2] = (u[3] + u[4] - u[1] - u[2]) / 6 + u[5];
}
// Aᵀ
__device__ __forceinline__ void output_transform(const float (&m)[6], float (&y)[4]) {
    y[0] = m[0] + m[1] + m[2] + m[3] + m[4];
    y[1] = m[1] - m[2] + 2 * (m[3] - m[4]);
    y[2] = m[1] + m[2] + 4 * (m[3] + m[4]);
    y[3] = m[1] - m[2] + 8 * (m[3] - m[4]) + m[5];
}
// A
__device__ __forceinline__ void cotangent_transform(const float (&y)[4], float (&z)[6]) {
    z[0] = y[0];
    z[1] = y[0] + y[2] + (y[1] + y[3]);
    z[2] = y[0] + y[2] - (y[1] + y[3]);
    z[3] = y[0] + 4 * y[2] + 2 * (y[1] + 4 * y[3]);
    z[4] = y[0] + 4 * y[2] - 2 * (y[1] + 4 * y[3]);
    z[5] = y[3];
}

// Store the 36 elements of a transformed tile, `apart` elements from each other.
__device__ __forceinline__ void spread(const float (&tile)[6][6], float* to, int apart) {
    #pragma unroll
    for (int e = 0; e < 36; ++e) to[e * apart] = tile[e / 6][e % 6];
}

struct Tile {
    int n, h, w;  // image, and the position of the first output
    bool exists;
};
__device__ __forceinline__ Tile tile_at(int number, const Conv& g) {
    const int TH = (g.OH + 3) / 4, TW = (g.OW + 3) / 4;
    return {number / (TH * TW), number / TW % TH * 4, number % TW * 4, number < g.N * TH * TW};
}

// Load a size×size tile at (h, w) of a map; what lies outside of it is zero.
template <int size>
__device__ __forceinline__ void load(float (&tile)[size][size], const float* map, int h, int w, int H, int W, bool exists) {
    #pragma unroll
    for (int i = 0; i < size; ++i)
        #pragma unroll
        for (int j = 0; j < size; ++j) {
            const bool inside = exists && 0 <= h + i && h + i < H && 0 <= w + j && w + j < W;
            tile[i][j] = inside ? map[(h + i) * W + w + j] : 0;
        }
}

// w (K, C/G, 3, 3) → u (36, K, C/G); or, `turned` by half a turn for the gradient of the input, (36, C, K/G).
template <bool turned>
__global__ void winograd_filter(const float* __restrict__ w, float* __restrict__ u, int K, int C_per_group, int groups) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, filters = K * C_per_group;
    if (i >= filters) return;
    int filter = i;  // k·C/G + c
    if constexpr (turned) {
        const int K_per_group = K / groups, c = i / K_per_group;  // c counts all channels
        const int k = c / C_per_group * K_per_group + i % K_per_group;
        filter = k * C_per_group + c % C_per_group;
    }
    float tile[3][3], transformed[6][6];
    #pragma unroll
    for (int tap = 0; tap < 9; ++tap) tile[tap / 3][tap % 3] = w[filter * 9 + (turned ? 8 - tap : tap)];
    along_both_axes(tile, transformed, filter_transform);
    spread(transformed, u + i, filters);
}

// x (N, C, H, W) → v (36, C, tiles)
__global__ void winograd_input(const float* __restrict__ x, float* __restrict__ v, Conv g, int first_tile, int tiles) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.C * tiles) return;
    const int c = i / tiles;
    const Tile at = tile_at(first_tile + i % tiles, g);
    float tile[6][6], transformed[6][6];
    load(tile, x + (at.n * g.C + c) * g.H * g.W, at.h - g.padding_h, at.w - g.padding_w, g.H, g.W, at.exists);
    along_both_axes(tile, transformed, input_transform);
    spread(transformed, v + i, g.C * tiles);
}

// gy (N, K, OH, OW) → z (36, K, tiles)
__global__ void winograd_cotangent(const float* __restrict__ gy, float* __restrict__ z, Conv g, int first_tile, int tiles) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.K * tiles) return;
    const int k = i / tiles;
    const Tile at = tile_at(first_tile + i % tiles, g);
    float tile[4][4], transformed[6][6];
    load(tile, gy + (at.n * g.K + k) * g.OH * g.OW, at.h, at.w, g.OH, g.OW, at.exists);
    along_both_axes(tile, transformed, cotangent_transform);
    spread(transformed, z + i, g.K * tiles);
}

// m (36, K, tiles) → y (N, K, OH, OW), with the bias b (K)
__global__ void winograd_output(
    const float* __restrict__ m, const float* __restrict__ b, float* __restrict__ y, Conv g, int first_tile, int tiles)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.K * tiles) return;
    const int k = i / tiles;
    const Tile at = tile_at(first_tile + i % tiles, g);
    if (!at.exists) return;
    float tile[6][6], transformed[4][4];
    #pragma unroll
    for (int e = 0; e < 36; ++e) tile[e / 6][e % 6] = m[e * g.K * tiles + i];
    along_both_axes(tile, transformed, output_transform);
    float* plane = y + (at.n * g.K + k) * g.OH * g.OW;
    #pragma unroll
    for (int h = 0; h < 4; ++h)
        #pragma unroll
        for (int w = 0; w < 4; ++w)
            if (at.h + h < g.OH && at.w + w < g.OW) plane[(at.h + h) * g.OW + at.w + w] = transformed[h][w] + b[k];
}

// The sum over tiles, (36, K, C/G) → gw (K, C/G, 3, 3)
__global__ void winograd_grad_weight(const float* __restrict__ sum, float* __restrict__ gw, int filters) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= filters) return;
    float tile[6][6], transformed[3][3];
    #pragma unroll
    for (int e = 0; e < 36; ++e) tile[e / 6][e % 6] = sum[e * filters + i];
    along_both_axes(tile, transformed, filter_gradient_transform);
    #pragma unroll
    for (int tap = 0; tap < 9; ++tap) gw[i * 9 + tap] = transformed[tap / 3][tap % 3];
}
