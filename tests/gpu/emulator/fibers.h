// Threads of a GPU on one thread of the host: each thread of a block is a fiber, and a block's fibers take turns, so that
// barriers and exchanges between neighbouring lanes mean what they mean on a GPU. Blocks run one after the other.
#pragma once

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};

namespace emulator {

/// Lanes of a warp.
constexpr unsigned WARP = 32;

/// A thread's place; the fiber's own.
struct Place {
    dim3 thread, block, block_size, grid;
};

constexpr unsigned MAX_THREADS = 256;
constexpr size_t STACK_BYTES = 64 << 10;

struct Fiber {
    Place place;
    jmp_buf where;
    ucontext_t start;
    bool is_started = false, is_done = true;
    std::vector<char> stack;
};

/// Threads that wait for each other.
struct Barrier {
    unsigned arrived = 0, generation = 0;
};

/// One thread of the host and the fibers of the block that it runs.
struct Machine {
    Fiber fibers[MAX_THREADS];
    Barrier block, warps[MAX_THREADS / WARP];
    unsigned exchanged[MAX_THREADS / WARP][2][WARP];
    unsigned n_threads = 0, current = 0, n_done = 0;
    jmp_buf host;
    void (*kernel)(void **) = nullptr;
    void **arguments = nullptr;
};

thread_local Machine *machine = nullptr;

/// The running thread's place.
const Place &place() { return machine->fibers[machine->current].place; }

/// What a fiber does: one block after the other, for as long as the process lives.
static void live();

static __attribute__((noinline)) void go_to(unsigned next) {
    machine->current = next;
    Fiber &fiber = machine->fibers[next];
    if (fiber.is_started) _longjmp(fiber.where, 1);
    fiber.is_started = true;
    fiber.stack.resize(STACK_BYTES);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber.start, live, 0);
    setcontext(&fiber.start);
}

/// Lets `next` run until somebody comes back.
static __attribute__((noinline)) void turn_to(unsigned next) {
    if (next == machine->current) return;
    if (!_setjmp(machine->fibers[machine->current].where)) go_to(next);
}

static void live() {
    for (;;) {
        machine->kernel(machine->arguments);
        machine->fibers[machine->current].is_done = true;
        machine->n_done++;
        if (_setjmp(machine->fibers[machine->current].where)) continue;
        if (machine->n_done == machine->n_threads) _longjmp(machine->host, 1);
        unsigned next = machine->current;
        while (machine->fibers[next].is_done) next = (next + 1) % machine->n_threads;
        go_to(next);
    }
}

static void fail(const char *what) {
    std::fprintf(stderr, "emulated GPU: %s\n", what);
    std::abort();
}

/// Waits until `size` fibers from `first` on have arrived. A barrier that some thread of the block never reaches is a
/// mistake of the kernel: a GPU would hang.
static void wait(Barrier &barrier, unsigned first, unsigned size) {
    if (++barrier.arrived == size) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    const unsigned mine = barrier.generation;
    const unsigned me = machine->current;
    for (unsigned rounds = 0; barrier.generation == mine; rounds++) {
        const unsigned next = first + (me - first + 1) % size;
        if (machine->fibers[next].is_done || rounds > (1u << 20)) fail("a thread never comes to a barrier");
        turn_to(next);
    }
}

/// Waits for all threads of the block.
void block_barrier() { wait(machine->block, 0, machine->n_threads); }

/// Waits for all lanes of the warp, and returns what they brought; it stays until the next but one such call.
const unsigned *exchange(unsigned value) {
    const unsigned warp = machine->current / WARP;
    Barrier &barrier = machine->warps[warp];
    unsigned *values = machine->exchanged[warp][barrier.generation % 2];
    values[machine->current % WARP] = value;
    wait(barrier, warp * WARP, WARP);
    return values;
}

static void run_block(dim3 block, dim3 grid, unsigned n_threads) {
    machine->n_threads = n_threads;
    machine->n_done = 0;
    for (unsigned i = 0; i < n_threads; i++) {
        machine->fibers[i].place = {{i, 0, 0}, block, {n_threads, 1, 1}, grid};
        machine->fibers[i].is_done = false;
    }
    if (!_setjmp(machine->host)) go_to(0);
}

static void run(dim3 grid, unsigned n_threads, void (*kernel)(void **), void **arguments) {
    if (!machine) machine = new Machine;
    machine->kernel = kernel;
    machine->arguments = arguments;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) run_block({x, y, z}, grid, n_threads);
}

} // namespace emulator
