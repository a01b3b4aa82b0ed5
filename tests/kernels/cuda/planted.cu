// Kernels without a bug, one for each thing that threads do together. test_checker.py plants bugs into them.
#include "ptx.cuh"

// y = x, every run of TILE turned round
template <int TILE>
__global__ void turn(const float* __restrict__ x, float* __restrict__ y, int runs) {
    __shared__ float tile[TILE];
    const int t = threadIdx.x;
    for (int run = 0; run < runs; ++run) {
        tile[t] = x[run * TILE + t];
        __syncthreads();  // the tile is complete
        y[run * TILE + t] = tile[TILE - 1 - t];
        __syncthreads();  // everybody is done with it
    }
}

// y[0] = Σ x: lanes add by shuffles, warps through shared memory, blocks by atomics
__global__ void sum(const float* __restrict__ x, float* __restrict__ y, int n) {
    __shared__ float parts[32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(~0u, v, d);
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = lane < warps ? parts[lane] : 0;
        for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(~0u, v, d);
        if (lane == 0) atomicAdd(y, v);
    }
}

// the same for one warp, through shared memory
__global__ void warp_sum(const float* __restrict__ x, float* __restrict__ y) {
    __shared__ float parts[32];
    const int t = threadIdx.x;
    parts[t] = x[t];
    __syncwarp();
    for (int d = 16; d > 0; d /= 2) {
        if (t < d) parts[t] += parts[t + d];
        __syncwarp();
    }
    if (t == 0) y[0] = parts[0];
}

// y = 2·x, four at a time, while the next four are under way: two stages of 128 numbers, a block of one warp
__global__ void stream(const float* __restrict__ x, float* __restrict__ y, int tiles) {
    extern __shared__ __align__(16) unsigned char smem[];
    float* stages = reinterpret_cast<float*>(smem);
    const int t = threadIdx.x;
    auto fetch = [&](int tile) {
        if (tile < tiles) cp_async<16>(&stages[tile % 2 * 128 + 4 * t], &x[tile * 128 + 4 * t]);
        cp_async_commit();
    };
    fetch(0);
    for (int tile = 0; tile < tiles; ++tile) {
        fetch(tile + 1);
        cp_async_wait<1>();
        __syncthreads();  // everybody's copies have landed
        for (int j = 0; j < 4; ++j) y[tile * 128 + j * 32 + t] = 2 * stages[tile % 2 * 128 + j * 32 + t];
        __syncthreads();  // everybody has read them
    }
}

// y = −x, four at a time
__global__ void negate(const float* __restrict__ x, float* __restrict__ y, int n) {
    const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const float4 v = *reinterpret_cast<const float4*>(&x[i]);
    *reinterpret_cast<float4*>(&y[i]) = make_float4(-v.x, -v.y, -v.z, -v.w);
}

// y (16, 8) = a (16, 8) · b (8, 8), by one warp on tensor cores
__global__ void tf32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    float af[4], bf[2], d[4] = {};
    for (int i = 0; i < 4; ++i) af[i] = to_tf32(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    for (int i = 0; i < 2; ++i) bf[i] = to_tf32(b[(t + i * 4) * 8 + g]);
    mma_m16n8k8_tf32(d, af, bf, d);
    for (int i = 0; i < 4; ++i) y[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}
