// A stand-in for Apple's GPU, which src/gpu/metal/emulated.rs uses in Metal's place: memory, and the very text of the
// kernels, compiled for the host, so that the whole path from a flag to a token can be tested on a machine without one. It
// says nothing about speed.
//
// EMULATED_GPU_MEMORY is the device's memory in bytes. Each allocation ends at a page that nobody may touch (but for up to
// 15 bytes), so that a kernel that reads or writes past its buffer ends the test.
#include "fibers.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <sys/mman.h>

// One text, as the system gets it.
#include "common.metal"
#include "rows.metal"
#include "attention.metal"
#include "matmul.metal"
#undef kernel
#undef device
#undef thread

namespace emulator {

/// A kernel with its arguments, which are one structure, and what PLACE adds.
template <typename Arguments>
using Function = void (*)(const Arguments &, uint3, uint3, uint);

template <typename Arguments>
static void call(Function<Arguments> kernel, void **arguments) {
    const Place &at = place();
    const uint3 group = {at.block.x, at.block.y, at.block.z};
    const uint3 size = {at.block_size.x, at.block_size.y, at.block_size.z};
    kernel(*(const Arguments *)arguments, group, size, at.thread.x);
}
template <auto K>
static void trampoline(void **arguments) {
    call(K, arguments);
}
template <typename Arguments>
constexpr size_t bytes_of(Function<Arguments>) {
    return sizeof(Arguments);
}

struct Kernel {
    void (*run)(void **);
    size_t argument_bytes;
};

#define KERNEL(name) {#name, {trampoline<name>, bytes_of(name)}}
#define PRODUCTS(format) KERNEL(matmul_##format##_1), KERNEL(matmul_##format##_8), KERNEL(gated_##format)
static const std::map<std::string, Kernel> KERNELS = {
    KERNEL(add_normed), KERNEL(geglu), KERNEL(copy_16), KERNEL(rope_and_store), KERNEL(attend_scores),
    KERNEL(attend_values), KERNEL(quantize_q8), PRODUCTS(f32), PRODUCTS(f16), PRODUCTS(bf16), PRODUCTS(q4_0),
    PRODUCTS(q4_1), PRODUCTS(q5_0), PRODUCTS(q5_1), PRODUCTS(q8_0), PRODUCTS(iq4_nl), PRODUCTS(q2_k), PRODUCTS(q3_k),
    PRODUCTS(q4_k), PRODUCTS(q5_k), PRODUCTS(q6_k), PRODUCTS(iq4_xs),
};

static constexpr size_t PAGE = 4096;
static size_t rounded(size_t bytes) { return (bytes + 15) / 16 * 16; }
static size_t page_bytes(size_t bytes) { return (rounded(bytes) + PAGE - 1) / PAGE * PAGE + PAGE; }

} // namespace emulator

using namespace emulator;

extern "C" {

/// 0, or 1 where there is no device, or 2 where it does not answer.
int metal_status() { return std::getenv("EMULATED_GPU_BROKEN") ? 2 : std::getenv("EMULATED_GPU_ABSENT") ? 1 : 0; }

uint64_t metal_total_memory() {
    const char *bytes = std::getenv("EMULATED_GPU_MEMORY");
    return bytes ? std::strtoull(bytes, nullptr, 10) : (uint64_t)4 << 30;
}

/// Null where there is no memory. The address is a multiple of 16.
void *metal_allocate(size_t bytes) {
    const size_t all = page_bytes(bytes);
    char *pages = (char *)mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    mprotect(pages + all - PAGE, PAGE, PROT_NONE);
    // What is new holds anything at all.
    std::memset(pages, 0xff, all - PAGE);
    return pages + all - PAGE - rounded(bytes);
}

void metal_free(void *at, size_t bytes) {
    char *end = (char *)at + rounded(bytes) + PAGE;
    munmap(end - page_bytes(bytes), page_bytes(bytes));
}

/// Null where there is none of that name.
const void *metal_kernel(const char *name) {
    const auto found = KERNELS.find(name);
    return found == KERNELS.end() ? nullptr : &found->second;
}

/// Runs a kernel on a grid of threadgroups. False where it takes other arguments, or a device would refuse the grid.
bool metal_run(const void *kernel, unsigned x, unsigned y, unsigned threads, const void *arguments, size_t bytes) {
    const Kernel &it = *(const Kernel *)kernel;
    if (it.argument_bytes != bytes || x == 0 || y == 0 || threads == 0 || threads > MAX_THREADS || threads % WARP)
        return false;
    run({x, y, 1}, threads, it.run, (void **)arguments);
    return true;
}
}
