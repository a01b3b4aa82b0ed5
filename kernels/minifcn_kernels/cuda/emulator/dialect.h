// CUDA C++ spelled in plain C++17: included before a .cu file, it makes an ordinary function of every kernel.
//
// Only what can be given a meaning on a CPU is here, and of that only what kernels commonly use; all else is an error
// of the compiler. Inline PTX cannot be: keep an instruction behind a function that has a twin for the CPU (ptx.cuh).
#pragma once
#include <math.h>
#include <string.h>

#include <type_traits>

#include "machine.h"

#define MINIFCN_EMULATOR 1

// ---- Keywords. A `thread_local` inside a function is static, legal after `extern`, and lies in a segment of its own:
// all there is of a library's thread-local memory is shared memory. The machine finds it and fills it.
#define __shared__ thread_local
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// Memory accesses of the machine itself, on behalf of a kernel, are not the kernel's.
#define NOT_CHECKED __attribute__((no_sanitize("thread")))
#define EXPORTED __attribute__((visibility("default")))

// ---- Built-in variables and types
#define threadIdx (emulator::registers.thread_index)
#define blockIdx (emulator::registers.block_index)
#define blockDim (emulator::registers.block_size)
#define gridDim (emulator::registers.grid_size)
constexpr int warpSize = emulator::WARP;

#define VECTORS_OF(T, name)                                                                     \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                          \
    struct name##3 { T x, y, z; };                                                              \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };          \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                           \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                   \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define uint3 cuda_uint3  // machine.h has it already
VECTORS_OF(float, float)
VECTORS_OF(double, double)
VECTORS_OF(int, int)
VECTORS_OF(unsigned, uint)
#undef uint3
#undef VECTORS_OF

// ---- What threads do together
#define __syncthreads() emulator::wait_for_block(__COUNTER__, emulator::here())
static inline void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::here()) {
    emulator::meet_warp(mask, &mask, [](void* const*) {}, site);
}
static inline void __threadfence() {}        // blocks run one after another, and every
static inline void __threadfence_block() {}  // thread sees at once what another wrote

namespace emulator {
template <class T>
struct Shuffled {
    T value, received;
    unsigned source;
    Site site;
};
template <class T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
    Shuffled<T> mine{value, value, source, site};
    meet_warp(mask, &mine, [](void* const brought[32]) {
        for (unsigned lane = 0; lane < WARP; ++lane)
            if (auto taker = static_cast<Shuffled<T>*>(brought[lane])) {
                auto giver = static_cast<Shuffled<T>*>(brought[taker->source]);
                if (!giver) fail_at(taker->site, "lane %u shuffles from lane %u, which is not in the mask", lane, taker->source);
                taker->received = giver->value;
            }
    }, site);
    return mine.received;
}
struct Vote {
    bool yes;
    unsigned ballot;
};
}  // namespace emulator

// A warp is cut into pieces of `width` lanes; nothing is shuffled across their borders.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emulator::Site site = emulator::here()) {
    return emulator::shuffle(mask, value, emulator::lane() / width * width + unsigned(source) % width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, emulator::Site site = emulator::here()) {
    unsigned lane = emulator::lane(), source = lane ^ bits;
    return emulator::shuffle(mask, value, source / width <= lane / width ? source : lane, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, emulator::Site site = emulator::here()) {
    unsigned lane = emulator::lane();
    return emulator::shuffle(mask, value, lane % width + delta < unsigned(width) ? lane + delta : lane, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, emulator::Site site = emulator::here()) {
    unsigned lane = emulator::lane();
    return emulator::shuffle(mask, value, lane % width >= delta ? lane - delta : lane, site);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::here()) {
    emulator::Vote mine{predicate != 0, 0};
    emulator::meet_warp(mask, &mine, [](void* const brought[32]) {
        unsigned ballot = 0;
        for (unsigned lane = 0; lane < emulator::WARP; ++lane) {
            auto vote = static_cast<emulator::Vote*>(brought[lane]);
            if (vote && vote->yes) ballot |= 1u << lane;
        }
        for (unsigned lane = 0; lane < emulator::WARP; ++lane)
            if (brought[lane]) static_cast<emulator::Vote*>(brought[lane])->ballot = ballot;
    }, site);
    return mine.ballot;
}
static inline int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::here()) {
    return __ballot_sync(mask, predicate, site) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::here()) {
    return __ballot_sync(mask, !predicate, site) == 0;
}

// ---- Atomics: one thread runs at a time, so they need only be told to the checker as what they are
#define ATOMIC(name, updated)                                                           \
    template <class T>                                                                  \
    NOT_CHECKED __attribute__((noinline)) T name(T* address, std::common_type_t<T> value) { \
        emulator::announce_atomic(address, sizeof(T), __builtin_return_address(0));     \
        T old = *address;                                                               \
        *address = updated;                                                             \
        return old;                                                                     \
    }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicMax, old > value ? old : value)
ATOMIC(atomicMin, old < value ? old : value)
ATOMIC(atomicExch, value)
#undef ATOMIC
template <class T>
NOT_CHECKED __attribute__((noinline)) T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
    emulator::announce_atomic(address, sizeof(T), __builtin_return_address(0));
    T old = *address;
    if (old == expected) *address = value;
    return old;
}

// ---- Arithmetic that CUDA has and C++ spells otherwise
template <class T>
constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T>
constexpr T max(T a, T b) { return a < b ? b : a; }
template <class T>
inline __attribute__((always_inline)) T __ldg(const T* address) { return *address; }  // counts as its caller's access
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf expf  // the C library has functions of these names already
#define __logf logf
#define __powf powf
namespace emulator {
template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace emulator
static inline float __int_as_float(int i) { return emulator::same_bits<float>(i); }
static inline int __float_as_int(float f) { return emulator::same_bits<int>(f); }
static inline float __uint_as_float(unsigned i) { return emulator::same_bits<float>(i); }
static inline unsigned __float_as_uint(float f) { return emulator::same_bits<unsigned>(f); }
