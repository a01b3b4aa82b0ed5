// One convolution, three times: y[k, i, j] = Σ_c Σ_r Σ_s w[k, c, r, s] · x[c, i + r, j + s]
//
//     x (C, H, W)   w (K, C, R, S)   y (K, OH, OW) with OH = H − R + 1, OW = W − S + 1

// ---- One thread, one output.
__global__ void naive(const float* x, const float* w, float* y, int C, int H, int W, int K, int R, int S) {
    const int OH = H - R + 1, OW = W - S + 1;
    const int j = blockIdx.x * blockDim.x + threadIdx.x;
    const int i = blockIdx.y * blockDim.y + threadIdx.y;
    const int k = blockIdx.z;
    if (i >= OH || j >= OW) return;  // the grid is made of whole blocks, the image is not
    float sum = 0;
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < S; ++s)
                sum += w[((k * C + c) * R + r) * S + s] * x[(c * H + i + r) * W + j + s];
    y[(k * OH + i) * OW + j] = sum;
}

// ---- A block shares what its 16 × 16 threads read: the patch of one channel that lies under their windows.
constexpr int TILE = 16, MOST_TAPS = 7, PATCH = TILE + MOST_TAPS - 1;

__global__ void tiled(const float* x, const float* w, float* y, int C, int H, int W, int K, int R, int S) {
    __shared__ float patch[PATCH][PATCH];
    const int OH = H - R + 1, OW = W - S + 1;
    const int i = blockIdx.y * TILE + threadIdx.y, j = blockIdx.x * TILE + threadIdx.x, k = blockIdx.z;
    const int rows = TILE + R - 1, columns = TILE + S - 1;
    float sum = 0;
    for (int c = 0; c < C; ++c) {
        for (int t = threadIdx.y * TILE + threadIdx.x; t < rows * columns; t += TILE * TILE) {
            const int h = blockIdx.y * TILE + t / columns, v = blockIdx.x * TILE + t % columns;
            patch[t / columns][t % columns] = h < H && v < W ? x[(c * H + h) * W + v] : 0;
        }
        __syncthreads();  // the patch is complete
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < S; ++s)
                sum += w[((k * C + c) * R + r) * S + s] * patch[threadIdx.y + r][threadIdx.x + s];
        __syncthreads();  // everybody is done with the patch
    }
    if (i < OH && j < OW) y[(k * OH + i) * OW + j] = sum;
}

// ---- As a product of matrices: y (K, P) = w (K, D) · u (D, P), with D = C·R·S and P = OH·OW. Column p of u is the
// window of output p, unrolled. u never exists: each block gathers the SIDE × SIDE pieces of it that it needs.
//
//     a block: y[k0 … k0 + 31, p0 … p0 + 31], by 32 × 8 threads; thread (tx, ty) has column tx, rows 4·ty … 4·ty + 3
constexpr int SIDE = 32, ROWS = 4;

template <int PAD>
__global__ void gemm(const float* x, const float* w, float* y, int C, int H, int W, int K, int R, int S) {
    __shared__ float a[SIDE][SIDE + PAD], b[SIDE][SIDE];  // a[d][k] of w, b[d][p] of u
    const int OH = H - R + 1, OW = W - S + 1, D = C * R * S, P = OH * OW;
    const int k0 = blockIdx.y * SIDE, p0 = blockIdx.x * SIDE, tx = threadIdx.x, ty = threadIdx.y;
    float sum[ROWS] = {};
    for (int d0 = 0; d0 < D; d0 += SIDE) {
        for (int m = ty; m < SIDE; m += SIDE / ROWS) {
            a[tx][m] = k0 + m < K && d0 + tx < D ? w[(k0 + m) * D + d0 + tx] : 0;
            const int d = d0 + m, c = d / (R * S), r = d / S % R, s = d % S, p = p0 + tx;
            b[m][tx] = d < D && p < P ? x[(c * H + p / OW + r) * W + p % OW + s] : 0;
        }
        __syncthreads();
        for (int d = 0; d < SIDE; ++d)
            for (int m = 0; m < ROWS; ++m) sum[m] += a[d][ROWS * ty + m] * b[d][tx];
        __syncthreads();
    }
    for (int m = 0; m < ROWS; ++m) {
        const int k = k0 + ROWS * ty + m, p = p0 + tx;
        if (k < K && p < P) y[k * P + p] = sum[m];
    }
}
