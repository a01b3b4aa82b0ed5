// The memory checker: holds every access of a kernel against what CUDA allows.
//
// Compiled with -fsanitize=thread, a kernel calls a function of the sanitizer's library before each access to memory.
// We are that library (the hooks are at the end). For every element of an array argument, and every byte of shared
// memory, a cell remembers who wrote it last and who read it; two accesses of different threads, one of them a write,
// race unless something orders them:
//
//     the same block:  a __syncthreads between them, or, in one warp, a __syncwarp (or any other meeting) of all lanes
//     two blocks:      nothing does; only atomics may meet
//
// Also found: accesses outside of the arguments and of shared memory, writes to const arguments, shared memory that is
// read before this block wrote it, the target of a cp.async that is read before its wait; and, by three checks of the
// undefined-behaviour sanitizer, array indices out of bounds, misaligned addresses and division by zero.
//
// Not seen: fences, and anything about blocks that run at the same time.
#include "checker.h"

#include <link.h>
#include <string.h>

#include <algorithm>
#include <vector>

extern "C" void* __tls_get_addr(size_t module_and_offset[2]);

namespace emulator::checker {

namespace {

constexpr unsigned NOBODY = ~0u;

struct Access {
    Position by{NOBODY, 0, 0, 0};
    const void* code = nullptr;
    bool happened() const { return by.block != NOBODY; }
};

struct Cell {
    Access writer, readers[2];
    unsigned block = NOBODY;  // that these accesses are of, if this is shared memory
    bool atomic = false, in_flight = false;
};

struct Region {
    const char* name;  // of an argument; null for shared memory
    char* start;
    size_t size, grain;  // bytes per cell: an argument's element, or 1
    bool writable;
    std::vector<Cell> cells;
    bool shared() const { return name == nullptr; }
    bool holds(const char* p, size_t bytes) const { return p >= start && p + bytes <= start + size; }
};

struct Traced {  // emulator/library.py mirrors it
    uint64_t code, address;
    uint32_t thread;
    uint16_t size;
    uint8_t write, shared;
};

bool checking, tracing;
std::vector<Region> arguments;
Region static_shared, dynamic_shared;
const char *library, *library_end;
std::vector<Traced> trace;

bool ordered(const Position& before, const Position& now) {
    if (before.block != now.block) return false;
    if (before.thread == now.thread || before.block_epoch != now.block_epoch) return true;
    return before.thread / WARP == now.thread / WARP && before.warp_epoch != now.warp_epoch;
}

bool races(const Access& before, const Position& now) { return before.happened() && !ordered(before.by, now); }

[[noreturn]] void report_race(const Region& region, const char* does, const void* code, const char* did, const Access& other) {
    const char* whose = other.by.block == position().block ? "" : " of another block";
    uint3 t = thread_index(other.by.thread);
    fail("{%zx} %s %s that thread (%u,%u,%u)%s %s {%zx}, with no barrier between them (race)", offset(code), does,
         region.shared() ? "shared memory" : region.name, t.x, t.y, t.z, whose, did,
         offset(other.code));
}

// Two readers are enough to convict a later writer, if they are well chosen: the latest of a sequence of ordered ones,
// and of concurrent ones two of different warps.
void remember_reader(Cell& cell, const Access& me) {
    for (Access& reader : cell.readers)
        if (!reader.happened() || ordered(reader.by, me.by)) {
            reader = me;
            return;
        }
    if (cell.readers[0].by.thread / WARP == cell.readers[1].by.thread / WARP) cell.readers[1] = me;
}

void check_cell(const Region& region, Cell& cell, Kind kind, const Access& me) {
    bool writes = kind != Kind::read;
    const char* does = kind == Kind::atomic ? "atomically updates" : writes ? "writes" : "reads";
    if (!writes && cell.in_flight)
        fail("{%zx} reads the target of a cp.async that has not been waited for", offset(me.code));
    if (region.shared() && kind != Kind::write && kind != Kind::issue && !cell.writer.happened())
        fail("{%zx} reads shared memory that this block has not written", offset(me.code));
    if (races(cell.writer, me.by) && !(kind == Kind::atomic && cell.atomic))
        report_race(region, does, me.code, "wrote", cell.writer);
    if (!writes) return remember_reader(cell, me);
    for (const Access& reader : cell.readers)
        if (races(reader, me.by)) report_race(region, does, me.code, "read", reader);
    cell.writer = me;
    cell.atomic = kind == Kind::atomic;
    cell.in_flight = kind == Kind::issue;
}

void check_region(Region& region, char* p, size_t size, Kind kind, const void* code) {
    Position now = position();
    if (tracing && now.block == 0 && kind != Kind::issue)
        trace.push_back({offset(code), uint64_t(p), now.thread, uint16_t(size), kind != Kind::read, region.shared()});
    if (kind != Kind::read && !region.writable) fail("{%zx} writes to %s, which is const", offset(code), region.name);
    size_t first = p - region.start;
    for (size_t i = first / region.grain; i <= (first + size - 1) / region.grain; ++i) {
        Cell& cell = region.cells[i];
        if (region.shared() && cell.block != now.block) {  // every block has its own
            cell = Cell();
            cell.block = now.block;
        }
        check_cell(region, cell, kind, {now, code});
    }
}

[[noreturn]] void report_outside(const char* p, const char* does, const void* code) {
    if (p >= dynamic_shared.start && p < dynamic_shared.start + SHARED_BYTES)
        fail("{%zx} %s byte %td of dynamic shared memory, of which the launch asked for %zu", offset(code), does,
             p - dynamic_shared.start, dynamic_shared.size);
    auto distance = [p](const Region& region) {
        return p < region.start ? region.start - p : p - (region.start + region.size);
    };
    auto near = std::min_element(arguments.begin(), arguments.end(),
                                 [&](const Region& a, const Region& b) { return distance(a) < distance(b); });
    if (near == arguments.end()) fail("{%zx} %s memory that is nobody's", offset(code), does);
    ptrdiff_t bytes = p - near->start, grain = near->grain;
    ptrdiff_t element = (bytes - (bytes < 0 ? grain - 1 : 0)) / grain;
    fail("{%zx} %s element %td of %s, which has %zu", offset(code), does, element, near->name, near->size / near->grain);
}

Region shared_region(char* start, size_t size) {
    return {nullptr, start, size, 1, true, std::vector<Cell>(checking ? size : 0)};
}

// Find the library that `kernel` is in: where it lies, and its thread-local memory, which is its static shared memory.
int find_library(dl_phdr_info* info, size_t, void* kernel) {
    const char *first = nullptr, *last = nullptr;
    size_t shared_bytes = 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& segment = info->dlpi_phdr[i];
        const char* start = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
        if (segment.p_type == PT_TLS) shared_bytes = segment.p_memsz;
        if (segment.p_type != PT_LOAD) continue;
        first = first ? std::min(first, start) : start;
        last = std::max(last, start + segment.p_memsz);
    }
    if (kernel < first || kernel >= last) return 0;
    library = reinterpret_cast<const char*>(info->dlpi_addr);
    library_end = last;
    size_t module_and_offset[2] = {info->dlpi_tls_modid, 0};
    char* shared = shared_bytes ? static_cast<char*>(__tls_get_addr(module_and_offset)) : nullptr;
    static_shared = shared_region(shared, shared_bytes);
    return 1;
}

}  // namespace

size_t offset(const void* code) { return static_cast<const char*>(code) - library; }

void begin_launch(const Launch& launch, char* dynamic) {
    checking = launch.checking;
    tracing = launch.tracing;
    trace.clear();
    dl_iterate_phdr(find_library, reinterpret_cast<void*>(launch.kernel));
    dynamic_shared = shared_region(dynamic, launch.shared_bytes);
    if (static_shared.size > STATIC_SHARED_BYTES)
        fail("has %zu bytes of static shared memory; CUDA allows %zu, and more of dynamic", static_shared.size, STATIC_SHARED_BYTES);
    if (static_shared.size + launch.shared_bytes > SHARED_BYTES)
        fail("has %zu bytes of static and %zu of dynamic shared memory; a block can have %zu", static_shared.size,
             launch.shared_bytes, SHARED_BYTES);
    arguments.clear();
    for (const Buffer* b = launch.buffers; b != launch.buffers + launch.buffer_count; ++b)
        arguments.push_back({b->name, b->start, b->size, b->item_size, b->writable != 0,
                             std::vector<Cell>(checking ? b->size / b->item_size : 0)});
}

// Shared memory starts with what is a NaN in every float, so that using it unwritten shows in any mode.
void begin_block() {
    for (Region* region : {&static_shared, &dynamic_shared})
        if (region->size) memset(region->start, 0xff, region->size);
}

void access(const void* address, size_t size, Kind kind, const void* code) {
    if (!checking || !kernel_runs()) return;
    char* p = static_cast<char*>(const_cast<void*>(address));
    for (Region* region : {&static_shared, &dynamic_shared})
        if (region->holds(p, size)) return check_region(*region, p, size, kind, code);
    for (Region& region : arguments)
        if (region.holds(p, size)) return check_region(region, p, size, kind, code);
    bool registers_of_a_thread = p >= reinterpret_cast<char*>(&registers) && p < reinterpret_cast<char*>(&registers + 1);
    bool constant = kind == Kind::read && p >= library && p < library_end;
    if (!registers_of_a_thread && !constant && !on_a_stack(p)) report_outside(p, kind == Kind::read ? "reads" : "writes", code);
}

}  // namespace emulator::checker

using emulator::checker::Kind;

extern "C" {

const void* emulator_trace(size_t* count) {
    *count = emulator::checker::trace.size();
    return emulator::checker::trace.data();
}

// ---- The hooks that -fsanitize=thread calls
#define HOOK(name, size, kind) \
    void name(void* address) { emulator::checker::access(address, size, kind, __builtin_return_address(0)); }
#define HOOKS(size)                                              \
    HOOK(__tsan_read##size, size, Kind::read)                    \
    HOOK(__tsan_write##size, size, Kind::write)                  \
    HOOK(__tsan_unaligned_read##size, size, Kind::read)          \
    HOOK(__tsan_unaligned_write##size, size, Kind::write)        \
    HOOK(__tsan_volatile_read##size, size, Kind::read)           \
    HOOK(__tsan_volatile_write##size, size, Kind::write)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* address, size_t size) {
    emulator::checker::access(address, size, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t size) {
    emulator::checker::access(address, size, Kind::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// ---- and those of -fsanitize=bounds,alignment,integer-divide-by-zero, with the compiler's descriptions of the place
struct Place {
    const char* file;
    unsigned line, column;
    emulator::Site site() const { return {file, int(line)}; }
};
struct Type {
    unsigned short kind, info;
    char name[1];  // and the rest of it
};
void __ubsan_handle_out_of_bounds(void* data, size_t index) {
    struct Data { Place place; const Type *array, *index; };
    auto it = static_cast<const Data*>(data);
    emulator::fail_at(it->place.site(), "index %td is out of the bounds of %s", ptrdiff_t(index), it->array->name);
}
void __ubsan_handle_type_mismatch_v1(void* data, size_t address) {
    struct Data { Place place; const Type* type; unsigned char log2_alignment, check; };
    auto it = static_cast<const Data*>(data);
    emulator::fail_at(it->place.site(), "address %zx is not aligned to the %d bytes that %s needs", address,
                      1 << it->log2_alignment, it->type->name);
}
void __ubsan_handle_divrem_overflow(void* data, size_t, size_t) {
    emulator::fail_at(static_cast<const Place*>(data)->site(), "divides by zero");
}

}  // extern "C"
