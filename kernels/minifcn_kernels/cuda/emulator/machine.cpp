// One CPU thread runs the CUDA threads of a launch, one block after another.
//
// Every CUDA thread is a fiber: a stack of its own, and a place to go on from. A fiber runs until its kernel ends or has
// to wait, at a barrier or for the other lanes of its warp; then the scheduler goes on with the next:
//
//     scheduler ──resume──▶ thread 0 ──waits──▶ scheduler ──resume──▶ thread 1 ── … ── all wait: open the barrier
//
// Which thread is next is the launch's `order`: 0 ascending, 1 descending, all others a shuffle. A correct kernel does
// not care, so a result that depends on it is a bug found. A kernel without barriers needs one fiber, not 1,024.
//
// A launch that fails unwinds nothing on the fibers' stacks: they are given up, and reused from their start. What the
// machine itself allocates does not live there, so nothing leaks; a kernel's own locals must own nothing, as on a GPU.
#include "machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "checker.h"

// Dynamic shared memory: kernels declare it as `extern __shared__ … smem[]`.
alignas(128) thread_local char smem[emulator::SHARED_BYTES];

namespace emulator {

Registers registers;

namespace {

constexpr size_t STACK_BYTES = 64 << 10, PAGE = 4096;

struct Fiber {
    char* stack;
    ucontext_t start;  // how a fiber comes to life; from then on `place` is where it stopped
    jmp_buf place;
    bool alive = false;
    // Stacks begin at the same place in their pages; shifted by some cache lines they do not evict each other.
    size_t shift;

    explicit Fiber(size_t number) : shift(number % 61 * 64) {
        void* memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        stack = static_cast<char*>(memory);
        mprotect(stack, PAGE, PROT_NONE);  // a stack that overflows shall crash, not write into its neighbour
    }
    ~Fiber() { munmap(stack, STACK_BYTES); }
    bool holds(const char* address) const { return address >= stack && address < stack + STACK_BYTES; }
};

enum class State { fresh, ready, at_barrier, in_warp, done };

struct Copy {
    char* to;
    const char* from;  // null: zeros
    size_t size;
    const void* code;
};

struct Thread {
    uint3 index{};
    State state = State::fresh;
    Fiber* fiber = nullptr;
    Site site{};            // where it waits,
    int barrier = 0;        // at which barrier,
    unsigned mask = 0;      // or for which lanes
    void* brought = nullptr;
    unsigned warp_epoch = 0;  // how often its whole warp has met
    std::vector<std::vector<Copy>> copies;  // in groups, the last one open; none if nothing was ever queued
};

struct Failure {};

struct Name {
    char text[64];
};

Name name_of(const Thread& thread) {
    Name name;
    snprintf(name.text, sizeof name.text, "thread (%u,%u,%u)", thread.index.x, thread.index.y, thread.index.z);
    return name;
}

// Of the launch that runs. All of it is empty or meaningless between launches.
std::vector<Thread> threads;
Thread* running;
Launch launch;
unsigned block_epoch;  // how many barriers the block has passed
unsigned block_number;
bool failed;
std::string message;

// Kept for the next launch
jmp_buf scheduler;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;

const char* file_of(Site site) {
    const char* slash = strrchr(site.file, '/');
    return slash ? slash + 1 : site.file;
}

std::string name_of(Site site) { return file_of(site) + (":" + std::to_string(site.line)); }

void record_failure(const Thread* thread, const char* text) {
    auto& b = registers.block_index;
    message = "block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," + std::to_string(b.z) + ") " +
              (thread ? std::string(name_of(*thread).text) + " " : "") + text;
    failed = true;
}

void leave() {  // to the scheduler; returns when this fiber is resumed
    Fiber* fiber = running->fiber;
    if (!_setjmp(fiber->place)) _longjmp(scheduler, 1);
}

void wait(State state, Site site) {
    running->state = state;
    running->site = site;
    leave();
}

void run_kernels() {  // what a fiber does: kernel after kernel, each as the thread that runs now
    for (;;) {
        launch.kernel(launch.arguments);
        running->state = State::done;
        leave();
    }
}

Fiber* idle_fiber() {
    if (idle.empty()) {
        fibers.push_back(std::make_unique<Fiber>(fibers.size()));
        idle.push_back(fibers.back().get());
    }
    Fiber* fiber = idle.back();
    idle.pop_back();
    return fiber;
}

void switch_to(Fiber& fiber) {  // and come back when it leaves
    if (_setjmp(scheduler)) return;
    if (fiber.alive) _longjmp(fiber.place, 1);
    fiber.alive = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK_BYTES - fiber.shift;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_kernels, 0);
    setcontext(&fiber.start);
}

void resume(Thread& thread) {
    if (thread.state == State::fresh) {
        thread.fiber = idle_fiber();
        thread.state = State::ready;
    }
    running = &thread;
    registers.thread_index = thread.index;
    switch_to(*thread.fiber);
    if (failed) throw Failure();
    running = nullptr;
    if (thread.state == State::done) {
        idle.push_back(thread.fiber);
        thread.fiber = nullptr;
    }
}

[[noreturn]] void fail_for(const Thread& thread, const std::string& text) {  // from the scheduler
    record_failure(&thread, text.c_str());
    throw Failure();
}

void explain_warp(Thread& thread) {  // why it waits in vain
    size_t first_lane = (&thread - threads.data()) / WARP * WARP;
    for (size_t lane = 0; lane < WARP && first_lane + lane < threads.size(); ++lane) {
        const Thread& other = threads[first_lane + lane];
        if (!(thread.mask >> lane & 1) || other.state == State::in_warp) continue;
        fail_for(thread, "waits at " + name_of(thread.site) + " for lane " + std::to_string(lane) + " of its warp, which " +
                             (other.state == State::done ? "has returned" : "waits at the __syncthreads of " + name_of(other.site)));
    }
    fail_for(thread, "waits at " + name_of(thread.site) + " for lanes that wait elsewhere");
}

void open_barrier() {  // nobody can run: all wait at one barrier, or somebody waits in vain
    Thread* first = nullptr;
    for (Thread& thread : threads) {
        if (thread.state == State::in_warp) explain_warp(thread);
        if (thread.state == State::at_barrier && !first) first = &thread;
    }
    for (Thread& thread : threads) {
        if (thread.state == State::done)
            fail_for(*first, "waits at the __syncthreads of " + name_of(first->site) + ", but " + name_of(thread).text +
                                 " has returned (divergent barrier)");
        if (thread.barrier != first->barrier)
            fail_for(*first, "waits at the __syncthreads of " + name_of(first->site) + ", but " + name_of(thread).text +
                                 " at that of " + name_of(thread.site) + " (divergent barrier)");
    }
    ++block_epoch;
    for (Thread& thread : threads) thread.state = State::ready;
}

void run_block(const std::vector<size_t>& order) {
    const auto& size = registers.block_size;
    block_epoch = 0;
    checker::begin_block();
    for (size_t t = 0; t < threads.size(); ++t) {
        threads[t] = Thread();
        threads[t].index = {unsigned(t % size.x), unsigned(t / size.x % size.y), unsigned(t / (size_t(size.x) * size.y))};
    }
    for (bool finished = false; !finished;) {
        bool progressed = false;
        finished = true;
        for (size_t t : order) {
            Thread& thread = threads[t];
            if (thread.state == State::fresh || thread.state == State::ready) {
                resume(thread);
                progressed = true;
            }
            finished &= thread.state == State::done;
        }
        if (!finished && !progressed) open_barrier();
    }
}

std::vector<size_t> ordered(size_t count, unsigned order) {
    std::vector<size_t> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    if (order == 1) std::reverse(numbers.begin(), numbers.end());
    if (order > 1) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(order));
    return numbers;
}

void run_grid() {
    const auto& grid = registers.grid_size;
    auto thread_order = ordered(threads.size(), launch.order);
    for (size_t b : ordered(size_t(grid.x) * grid.y * grid.z, launch.order)) {
        block_number = unsigned(b);
        registers.block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (size_t(grid.x) * grid.y))};
        run_block(thread_order);
    }
}

}  // namespace

// Nothing in the frames that a failing fiber leaves behind may own memory: no std::string here.
void fail(const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    record_failure(running, text);
    if (!running) throw Failure();  // the scheduler's own code
    _longjmp(scheduler, 1);
}

void fail_at(Site site, const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fail("at %s:%d: %s", file_of(site), site.line, text);
}

unsigned lane() { return (running - threads.data()) % WARP; }

void wait_for_block(int barrier, Site site) {
    running->barrier = barrier;
    wait(State::at_barrier, site);
}

void meet_warp(unsigned mask, void* brought, void (*act)(void* const brought[32]), Site site) {
    Thread& me = *running;
    if (!(mask >> lane() & 1)) fail_at(site, "lane %u is not in its own mask %08x", lane(), mask);
    Thread* warp = &me - lane();
    size_t lanes = std::min<size_t>(WARP, threads.data() + threads.size() - warp);  // the last warp may be smaller
    me.state = State::in_warp;
    me.site = site;
    me.mask = mask;
    me.brought = brought;
    void* all[WARP] = {};
    for (size_t i = 0; i < lanes; ++i) {
        if (!(mask >> i & 1)) continue;
        if (warp[i].state != State::in_warp) return leave();  // not all are here yet
        if (warp[i].site.line != site.line || strcmp(warp[i].site.file, site.file))
            fail_at(site, "lane %zu of the same mask waits at %s:%d", i, file_of(warp[i].site), warp[i].site.line);
        all[i] = warp[i].brought;
    }
    act(all);
    bool whole = true;
    for (size_t i = 0; i < lanes; ++i) whole &= mask >> i & 1;
    for (size_t i = 0; i < lanes; ++i) {
        if (mask >> i & 1) warp[i].state = State::ready;
        warp[i].warp_epoch += whole;
    }
}

void queue_copy(void* to, const void* from, size_t size, const void* code) {
    if (uintptr_t(to) % size || uintptr_t(from) % size)
        fail("{%zx} copies %zu bytes by cp.async to or from an address that is not aligned to as many", checker::offset(code), size);
    if (running->copies.empty()) running->copies.emplace_back();
    running->copies.back().push_back({static_cast<char*>(to), static_cast<const char*>(from), size, code});
    checker::access(to, size, checker::Kind::issue, code);
}

void commit_copies() {
    if (running->copies.empty()) running->copies.emplace_back();
    running->copies.emplace_back();
}

// A copy lands as late as CUDA allows, at the wait, so that a wait that is missing or too lax reads what was there before.
void wait_for_copies(unsigned groups_left) {
    auto& groups = running->copies;
    while (groups.size() > groups_left + 1) {
        for (const Copy& copy : groups.front()) {
            if (copy.from) checker::access(copy.from, copy.size, checker::Kind::read, copy.code);
            checker::access(copy.to, copy.size, checker::Kind::write, copy.code);
            if (copy.from) memcpy(copy.to, copy.from, copy.size);
            else memset(copy.to, 0, copy.size);
        }
        groups.erase(groups.begin());
    }
}

void announce_atomic(void* address, size_t size, const void* code) {
    checker::access(address, size, checker::Kind::atomic, code);
}

namespace checker {

bool kernel_runs() { return running != nullptr; }
Position position() { return {block_number, unsigned(running - threads.data()), block_epoch, running->warp_epoch}; }
uint3 thread_index(size_t thread) { return threads[thread].index; }
bool on_a_stack(const char* address) {
    if (running->fiber->holds(address)) return true;
    for (auto& fiber : fibers)
        if (fiber->holds(address)) return true;
    return false;
}

}  // namespace checker
}  // namespace emulator

// Run a launch. Returns null, or what went wrong; the text holds until the next launch.
extern "C" const char* emulator_launch(const emulator::Launch* wanted) {
    using namespace emulator;
    launch = *wanted;
    registers.grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
    registers.block_size = {launch.block[0], launch.block[1], launch.block[2]};
    registers.block_index = {0, 0, 0};
    running = nullptr;
    failed = false;
    message.clear();
    try {
        threads.assign(size_t(launch.block[0]) * launch.block[1] * launch.block[2], Thread());
        checker::begin_launch(launch, smem);
        run_grid();
    } catch (const Failure&) {
        idle.clear();
        for (auto& fiber : fibers) {
            fiber->alive = false;
            idle.push_back(fiber.get());
        }
    } catch (const std::bad_alloc&) {
        message = "out of memory for the machine's own books";
    }
    running = nullptr;
    threads.clear();
    return message.empty() ? nullptr : message.c_str();
}
