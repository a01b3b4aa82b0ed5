// Convolutions as matrix products whose matrices nobody writes down ("implicit GEMM").
//
//     out[m][j] = Σ_l A[m][l] · B[l][j]        m < M, j < columns, l < length
//
// For the forward pass m is a filter, j a pixel of the output and l a weight (c, r, s): A is the filters as they lie in
// memory, B what the pixels see of the input. B has R·S times the input's size and many zeros of padding, so it is
// never stored: a `Sum` says where row l and column j meet, and the element is copied from there when it is needed.
// conv2d.cu makes all three sums of a convolution this way.
//
// Who computes what. A block owns BM × BN outputs and walks along the sum in steps of BK:
//
//                                  columns j                      A step is fetched into shared memory, A and B,
//                           ┌───────────┬───────────┐             while the three steps before it are on their way
//                         l │ B: BK×BN  │           │             or being used:
//              l            └───────────┴───────────┘
//          ┌────────┐       ┌───────────┬───────────┐             fetch  s+3   copies start (cp.async)
//          │   A    │       │ block     │           │                    s+2   under way
//        m │ BM×BK  │     m │   BM × BN │           │                    s+1   under way
//          ├────────┤       ├───────────┼───────────┤             add    s     landed: multiplied
//          │        │       │           │           │
//          └────────┘       └───────────┴───────────┘             One barrier a step tells that step s has landed for
//                                                                 all threads, and that all are done with step s−1,
//                                                                 whose place step s+3 takes.
//
// How a block's outputs fall to its threads is the Tile's business (tile.cuh).
//
// Nothing here depends on how many blocks run at once, and no two threads add to the same output. A sum too long for
// the few blocks that its outputs make is cut into parts by gpu.py, by the geometry alone; the parts are stored side by
// side and added in order (`conv2d_sum_parts`). So results are the same bits on every run and on every device.
#pragma once
#include "ptx.cuh"
#include "tile.cuh"

// Place of row l: what it adds to the addresses in A and B, and to the position (h, w) that B's element has in a map.
struct alignas(16) Row {
    int a, b, h, w;
};
// Place of column j: what it adds to the address in B, to that position, and to the address of the output.
struct alignas(16) Column {
    int b, h, w, out;
};
// A position that makes any sum of a row's and a column's position fall outside of a map (two of them do not overflow);
// as the address of an output: there is none.
constexpr int NOWHERE = -(1 << 30);

// What a Sum consists of beside its functions `Row row(int l)` and `Column column(int j)`.
template <class T>
struct Operands {
    const T* A;  // A[m][l] = A[m·a_step + row(l).a]
    const T* B;  // B[l][j] = B[row(l).b + column(j).b], but 0 where row and column meet outside of the map
    int H, W;    // size of that map
    T* out;      // out[m][j] = out[m·out_step + column(j).out]
    int a_step, out_step, M, columns, length;
};

// Which way neighbours in memory lie in B: neighbouring lanes of a warp have to copy neighbours.
enum class Lanes { along_columns, along_rows };

// Compute the block of outputs that starts at (m0, j0), summing over first ≤ l < end, and store it. `bias`, if not
// null, holds a number for every m. V: how many neighbouring columns are sure to be neighbours in memory.
template <class Tile, Lanes lanes, int V, class Sum>
__device__ __forceinline__ void gemm(const Sum& sum, int m0, int j0, int first, int end, const typename Tile::T* bias) {
    using T = typename Tile::T;
    constexpr int BM = Tile::BM, BN = Tile::BN, BK = Tile::BK, THREADS = Tile::THREADS, STAGES = 4;
    __shared__ __align__(16) T A[STAGES][BK][BM + Tile::PAD];  // transposed: a thread reads neighbouring m
    __shared__ __align__(16) T B[STAGES][BK][BN + Tile::PAD];
    __shared__ Row rows[2][BK];
    __shared__ Column columns[BN];
    const int t = threadIdx.x, steps = (end - first + BK - 1) / BK;

    for (int j = t; j < BN; j += THREADS)
        columns[j] = j0 + j < sum.columns ? sum.column(j0 + j) : Column{0, NOWHERE, NOWHERE, NOWHERE};

    // Work out where the rows of a step lie: divisions, so one thread does it for all, a step ahead of `fetch`.
    const auto look_up = [&](int step) {
        const int l = first + step * BK + t;
        if (t < BK) rows[step % 2][t] = l < end ? sum.row(l) : Row{0, 0, NOWHERE, NOWHERE};
    };
    // Copies of what does not exist write zeros.
    const auto copy_a = [&](int step, const Row& row, int l, int m) {
        const bool exists = m0 + m < sum.M && row.h != NOWHERE;
        cp_async<sizeof(T)>(&A[step % STAGES][l][m], sum.A + ((m0 + m) * sum.a_step + row.a), exists);
    };
    const auto copy_b = [&](int step, const Row& row, const Column& column, int l, int j) {
        const unsigned h = row.h + column.h, w = row.w + column.w;  // of a negative number, unsigned makes a large one
        const bool exists = h < unsigned(sum.H) && w < unsigned(sum.W);
        cp_async<V * sizeof(T)>(&B[step % STAGES][l][j], sum.B + (row.b + column.b), exists);
    };
    const auto fetch = [&](int step) {
        if (step < steps) {
            constexpr int APART = THREADS / BK;  // BK neighbouring threads copy BK neighbours in a row of A
            const int l = t % BK;
            const Row row = rows[step % 2][l];
            #pragma unroll 1  // written out, these copies would take the registers that the sums need
            for (int i = 0; i < BM / APART; ++i) copy_a(step, row, l, t / BK + i * APART);
            if constexpr (lanes == Lanes::along_rows) {
                #pragma unroll
                for (int i = 0; i < BN / APART; ++i) {
                    const int j = t / BK + i * APART;
                    copy_b(step, row, columns[j], l, j);
                }
            } else {
                constexpr int COPIES = BN / V, ROWS = THREADS / COPIES;  // copies to a row of B, rows at a time
                const int j = t % COPIES * V;
                const Column column = columns[j];
                #pragma unroll
                for (int i = 0; i < BK / ROWS; ++i) {
                    const int l = t / COPIES + i * ROWS;
                    copy_b(step, rows[step % 2][l], column, l, j);
                }
            }
        }
        cp_async_commit();
    };

    #pragma unroll 1  // and so would these
    for (int step = 0; step < STAGES - 1; ++step) {
        look_up(step);
        __syncthreads();
        fetch(step);
    }
    look_up(STAGES - 1);
    Tile tile;
    #pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        look_up(step + STAGES);
        tile.add(A[step % STAGES], B[step % STAGES]);
    }

    tile.each([&](int m, int j, T (&value)[Tile::RUN]) {  // RUN neighbouring columns
        if (m0 + m >= sum.M) return;
        if (bias)
            for (T& v : value) v += bias[m0 + m];
        T* row = sum.out + (m0 + m) * sum.out_step;
        const int at = columns[j].out, last = columns[j + Tile::RUN - 1].out;
        if (last == at + Tile::RUN - 1 && reinterpret_cast<size_t>(row + at) % sizeof(value) == 0) {
            *reinterpret_cast<Vector<T, Tile::RUN>*>(row + at) = *reinterpret_cast<Vector<T, Tile::RUN>*>(value);
        } else {
            for (int i = 0; i < Tile::RUN; ++i)
                if (columns[j + i].out != NOWHERE) row[columns[j + i].out] = value[i];
        }
    });
}
