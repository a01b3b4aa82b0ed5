// How a block's BM × BN outputs fall to its threads: on the ordinary arithmetic units, and on the tensor cores.
//
// Both kinds multiply one step at a time, a BK × BM piece of A and a BK × BN piece of B in shared memory, and hand out
// their sums with `each(f)`, which calls f(m, j, value) with the RUN neighbouring outputs (m, j) … (m, j + RUN − 1).
// Rows in shared memory are PAD elements longer than they need to be, so that threads that write or read a column at
// the same time meet different banks.
#pragma once
#include "ptx.cuh"

template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
    T element[N];
};

// Each thread keeps TM × TN sums in registers. For every l it reads TM + TN numbers and makes TM·TN products of them:
// 16 and 64 with 8 × 8, so that shared memory, which gives a warp 32 words a cycle, is not what it waits for.
//
//               tx = 0      1      2     …      0      1           A thread's columns come in runs of 16 bytes, the
//             ┌──────┬──────┬──────┬─────┬──────┬──────┐           runs BN / (TN / RUN) apart. Neighbouring threads
//      ty = 0 │ 4×4  │      │      │     │ 4×4  │      │           thus read neighbouring vectors of shared memory,
//           1 │      │      │      │     │      │      │           and write neighbouring vectors of the output. The
//             │  …   │      │      │     │      │      │           same holds for the rows.
//           0 │ 4×4  │      │      │     │ 4×4  │      │
//             └──────┴──────┴──────┴─────┴──────┴──────┘           (RegisterTile<float, …, 8, 8>: four 4 × 4 patches)
template <class T_, int BM_, int BN_, int TM, int TN>
struct RegisterTile {
    using T = T_;
    static constexpr int BM = BM_, BN = BN_, BK = 8, RUN = 16 / sizeof(T), PAD = RUN;
    static constexpr int TX = BN / TN, TY = BM / TM, THREADS = TX * TY;

    T sum[TM][TN] = {};

    __device__ static int m_of(int i) { return (i / RUN * TY + threadIdx.x / TX) * RUN + i % RUN; }
    __device__ static int j_of(int i) { return (i / RUN * TX + threadIdx.x % TX) * RUN + i % RUN; }

    __device__ __forceinline__ void add(const T (*A)[BM + PAD], const T (*B)[BN + PAD]) {
        #pragma unroll
        for (int l = 0; l < BK; ++l) {
            Vector<T, RUN> a[TM / RUN], b[TN / RUN];
            #pragma unroll
            for (int i = 0; i < TM / RUN; ++i) a[i] = *reinterpret_cast<const Vector<T, RUN>*>(&A[l][m_of(i * RUN)]);
            #pragma unroll
            for (int i = 0; i < TN / RUN; ++i) b[i] = *reinterpret_cast<const Vector<T, RUN>*>(&B[l][j_of(i * RUN)]);
            #pragma unroll
            for (int i = 0; i < TM; ++i)
                #pragma unroll
                for (int j = 0; j < TN; ++j) sum[i][j] += a[i / RUN].element[i % RUN] * b[j / RUN].element[j % RUN];
        }
    }

    template <class F>
    __device__ __forceinline__ void each(const F& f) {
        #pragma unroll
        for (int i = 0; i < TM; ++i)
            #pragma unroll
            for (int j = 0; j < TN; j += RUN) {
                alignas(16) T value[RUN];
                #pragma unroll
                for (int k = 0; k < RUN; ++k) value[k] = sum[i][j + k];
                f(m_of(i), j_of(j), value);
            }
    }
};

// Each warp owns WM × WN outputs and computes them in pieces of 16 × 8, one tensor core instruction for 8 l. The operands
// are rounded to TF32, the sums are float32. What a lane holds of a piece is in ptx.cuh; from sm_80 on.
template <int BM_, int BN_, int WM, int WN>
struct TensorTile {
    using T = float;
    static constexpr int BM = BM_, BN = BN_, BK = 8, RUN = 2, PAD = 8;
    static constexpr int THREADS = BM / WM * (BN / WN) * 32;

    float sum[WM / 16][WN / 8][4] = {};

    __device__ static int m_warp() { return threadIdx.x / 32 / (BN / WN) * WM + threadIdx.x % 32 / 4; }
    __device__ static int j_warp() { return threadIdx.x / 32 % (BN / WN) * WN; }

    __device__ __forceinline__ void add(const float (*A)[BM + PAD], const float (*B)[BN + PAD]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        float a[WM / 16][4], b[WN / 8][2];
        #pragma unroll
        for (int i = 0; i < WM / 16; ++i)
            #pragma unroll
            for (int k = 0; k < 4; ++k) a[i][k] = to_tf32(A[t + k / 2 * 4][m_warp() + i * 16 + k % 2 * 8]);
        #pragma unroll
        for (int j = 0; j < WN / 8; ++j)
            #pragma unroll
            for (int k = 0; k < 2; ++k) b[j][k] = to_tf32(B[t + k * 4][j_warp() + j * 8 + g]);
        #pragma unroll
        for (int i = 0; i < WM / 16; ++i)
            #pragma unroll
            for (int j = 0; j < WN / 8; ++j) mma_m16n8k8_tf32(sum[i][j], a[i], b[j], sum[i][j]);
    }

    template <class F>
    __device__ __forceinline__ void each(const F& f) {
        #pragma unroll
        for (int i = 0; i < WM / 16; ++i)
            #pragma unroll
            for (int j = 0; j < WN / 8; ++j)
                #pragma unroll
                for (int k = 0; k < 4; k += RUN) {
                    alignas(8) float value[RUN] = {sum[i][j][k], sum[i][j][k + 1]};
                    f(m_warp() + i * 16 + k / 2 * 8, j_warp() + j * 8 + threadIdx.x % 4 * 2, value);
                }
    }
};
