// The instructions that CUDA C++ has no word for, each with a twin for the emulator, which cannot run PTX.
#pragma once

// ---- cp.async: copy from global to shared memory without a detour through registers.
//
//     cp_async<16>(&tile[i], &x[j]);   start copying 4, 8 or 16 bytes (both addresses aligned to as many)
//     cp_async<4>(&tile[i], x, false); write zeros instead, and read nothing: for what lies outside
//     cp_async_commit();               the copies since the last commit are one group
//     cp_async_wait<1>();              all groups of this thread but the newest 1 have landed
//
// Each thread waits for its own copies only: a barrier has to follow before others may read them.
#ifdef MINIFCN_EMULATOR

template <int bytes>
NOT_CHECKED inline __attribute__((noinline)) void cp_async(void* shared, const void* global, bool inside = true) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    emulator::queue_copy(shared, inside ? global : nullptr, bytes, __builtin_return_address(0));
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int groups_left>
inline void cp_async_wait() { emulator::wait_for_copies(groups_left); }

#else

template <int bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool inside = true) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if __CUDA_ARCH__ >= 800
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    int read = inside ? bytes : 0;  // the instruction fills up with zeros
    if constexpr (bytes == 16)  // .cg, for 16 bytes only, does not keep a copy in the L1 cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(read) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(bytes), "r"(read)
                     : "memory");
#else  // older devices copy through registers, and at once
    if constexpr (bytes == 16) *static_cast<int4*>(shared) = inside ? *static_cast<const int4*>(global) : int4{};
    if constexpr (bytes == 8) *static_cast<int2*>(shared) = inside ? *static_cast<const int2*>(global) : int2{};
    if constexpr (bytes == 4) *static_cast<int*>(shared) = inside ? *static_cast<const int*>(global) : 0;
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int groups_left>
__device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
#endif
}

#endif

// ---- TF32 tensor cores: d = a·b + c, (16, 8) = (16, 8)·(8, 8) + (16, 8), by one warp together; from sm_80 on.
//
// Which lane holds what (PTX ISA, "Matrix fragments for mma.m16n8k8", .tf32), with g = lane / 4 and t = lane % 4:
//
//     a[0] (g, t)    a[1] (g + 8, t)    a[2] (g, t + 4)    a[3] (g + 8, t + 4)      row, column of a
//     b[0] (t, g)    b[1] (t + 4, g)                                                row, column of b
//     c[0] (g, 2t)   c[1] (g, 2t + 1)   c[2] (g + 8, 2t)   c[3] (g + 8, 2t + 1)     and d likewise
//
// TF32 has float32's exponent and 10 bits of its mantissa. The instruction ignores the other 13, which would round
// towards zero: round operands to the nearest by `to_tf32` first.
#ifdef MINIFCN_EMULATOR

inline float to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7f800000) == 0x7f800000) return x;          // infinities and NaN stay
    return __uint_as_float((bits + 0x1000) & 0xffffe000);     // half of the last bit kept, ties away from zero
}

namespace emulator {
struct Fragments {
    const float *a, *b, *c;
    float* d;
};
NOT_CHECKED inline void multiply_fragments(void* const brought[32]) {
    auto used = [](float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000); };
    float a[16][8], b[8][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        auto mine = static_cast<const Fragments*>(brought[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = used(mine->a[i]);
        for (int i = 0; i < 2; ++i) b[t + i * 4][g] = used(mine->b[i]);
        for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = mine->c[i];
    }
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 8; ++n)
            for (int k = 0; k < 8; ++k) d[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            static_cast<const Fragments*>(brought[lane])->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}
}  // namespace emulator

inline void mma_m16n8k8_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2], const float (&c)[4],
                             emulator::Site site = emulator::here()) {
    emulator::Fragments mine{a, b, c, d};
    emulator::meet_warp(~0u, &mine, emulator::multiply_fragments, site);
}

#else

__device__ __forceinline__ float to_tf32(float x) {
#if __CUDA_ARCH__ >= 800
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
#else
    __trap();  // the launcher's callers ask for TF32 from sm_80 on only
    return x;
#endif
}
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2],
                                                 const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
    __trap();
#endif
}

#endif
