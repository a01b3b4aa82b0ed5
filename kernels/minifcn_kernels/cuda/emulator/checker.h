// The memory checker: what every access of a kernel is held against. checker.cpp explains it.
#pragma once
#include "machine.h"

namespace emulator::checker {

enum class Kind { read, write, atomic, issue };  // issue: of a cp.async, which may write from now on until its wait

void begin_launch(const Launch& launch, char* dynamic_shared);
void begin_block();
void access(const void* address, size_t size, Kind kind, const void* code);

// Where in the kernel's library an instruction is; the launcher turns {offset} in messages into file:line.
size_t offset(const void* code);

// What the machine tells the checker about the thread that runs now (`kernel_runs`: if one does).
struct Position {
    unsigned block, thread;
    unsigned block_epoch, warp_epoch;  // how many barriers its block, and how many meetings its warp has passed
};
bool kernel_runs();
Position position();
uint3 thread_index(size_t thread);
bool on_a_stack(const char* address);

}  // namespace emulator::checker
