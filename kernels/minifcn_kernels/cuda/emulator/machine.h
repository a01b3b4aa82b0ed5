// The machine that runs CUDA threads on one CPU thread. machine.cpp explains how; dialect.h is what kernels see of it.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

// What `threadIdx`, `blockIdx`, `blockDim` and `gridDim` are for the CUDA thread that runs now.
struct Registers {
    uint3 thread_index, block_index;
    dim3 block_size, grid_size;
};
extern Registers registers;

// A place in a kernel's source. As a default argument, `here()` is the place of the call.
struct Site {
    const char* file;
    int line;
};
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

// Stop the launch with a message (as of printf). The running CUDA thread never goes on.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail_at(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));

unsigned lane();  // of the running thread in its warp, 0 to 31

// __syncthreads(). `barrier` tells one of the source's barriers from another.
void wait_for_block(int barrier, Site site);

// Meet the lanes of `mask` here. The last to come calls `act` once, for all of them, with what each brought along;
// null stands for a lane that is not in the mask. Everything that a warp does together is made of this.
void meet_warp(unsigned mask, void* brought, void (*act)(void* const brought[32]), Site site);

// cp.async: copies are queued, committed in groups, and land when their group is waited for.
void queue_copy(void* to, const void* from, size_t size, const void* code);
void commit_copies();
void wait_for_copies(unsigned groups_left_in_flight);

// One atomic read-modify-write is about to happen at `address`.
void announce_atomic(void* address, size_t size, const void* code);

constexpr size_t WARP = 32, MOST_THREADS = 1024;
constexpr size_t STATIC_SHARED_BYTES = 48 << 10;    // CUDA's limit for __shared__ arrays of fixed size
constexpr size_t SHARED_BYTES = 163 << 10;          // what a block of an sm_80 device can have

// What launches a kernel, and an array argument of it. emulator/library.py mirrors both.
struct Buffer {
    char* start;
    size_t size, item_size;
    const char* name;
    int writable;
};
struct Launch {
    void (*kernel)(void** arguments);
    void** arguments;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    unsigned order;
    const Buffer* buffers;
    size_t buffer_count;
    int checking, tracing;
};

}  // namespace emulator
