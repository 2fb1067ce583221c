// A stand-in for NVIDIA's driver library: the functions of the driver API that src/gpu/driver.rs calls, over a device that
// is this process. It runs the very sources of the kernels, compiled for the host, so that the whole path from a flag to a
// token can be tested on a machine without a GPU. It says nothing about speed.
//
// EMULATED_GPU_MEMORY is the device's memory in bytes, EMULATED_GPU_MAJOR=7 makes it a Turing. Each allocation ends at a page that nobody may touch (but for up to
// 15 bytes), so that a kernel that reads or writes past its buffer ends the test.
#define EMULATED_GPU
#include "attention.cu"
#include "halves.cu"
#include "matmul.cu"
#include "rows.cu"
#include "tensor.cu"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <tuple>
#include <utility>

namespace emulator {

// ---- kernels ----

template <typename... A, size_t... I>
static void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*(std::decay_t<A> *)arguments[I]...);
}
template <typename... A>
static void call(void (*kernel)(A...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}
template <auto K>
static void trampoline(void **arguments) {
    call(K, arguments);
}

/// A kernel, and the sizes of its parameters.
struct Kernel {
    void (*run)(void **);
    std::vector<size_t> parameters;
};
template <typename... A>
static std::vector<size_t> sizes(void (*)(A...)) {
    return {sizeof(std::decay_t<A>)...};
}

#define KERNEL(name) {#name, {trampoline<name>, sizes(name)}}
#define MATMULS(format) KERNEL(matmul_##format##_1), KERNEL(matmul_##format##_8), KERNEL(gated_##format)
#define QUANTIZED(format) MATMULS(format), KERNEL(tensor_##format)
static const auto &KERNELS = *new std::map<std::string, Kernel>{
    KERNEL(add_normed), KERNEL(geglu), KERNEL(copy_16), KERNEL(rope_and_store), KERNEL(attend_scores),
    KERNEL(attend_values), KERNEL(attend_scores_tile), KERNEL(attend_values_tile), KERNEL(quantize_q8), MATMULS(f32), MATMULS(f16), MATMULS(bf16), QUANTIZED(q4_0), QUANTIZED(q4_1),
    QUANTIZED(q5_0), QUANTIZED(q5_1), QUANTIZED(q8_0), QUANTIZED(iq4_nl), QUANTIZED(q2_k), QUANTIZED(q3_k), QUANTIZED(q4_k),
    QUANTIZED(q5_k), QUANTIZED(q6_k), QUANTIZED(iq4_xs), KERNEL(bf16_round), KERNEL(bf16_few), KERNEL(bf16_gated),
    KERNEL(bf16_many_128), KERNEL(bf16_many_64),
};

// ---- streams ----

/// What a stream does: a launch, with its arguments, which a driver copies at once; or, without a kernel, a copy.
struct Step {
    const Kernel *kernel;
    dim3 grid;
    unsigned threads;
    std::vector<std::vector<char>> arguments;
    void *to;
    const void *from;
    size_t bytes;
};
typedef std::vector<Step> Graph;

/// Nothing is done before somebody waits for it: what is freed or written too early shows.
struct Stream {
    Graph *recording = nullptr;
    Graph pending;

    void run_pending() {
        for (Step &step : std::exchange(pending, {})) {
            if (!step.kernel) {
                std::memcpy(step.to, step.from, step.bytes);
                continue;
            }
            std::vector<void *> arguments;
            for (auto &bytes : step.arguments) arguments.push_back(bytes.data());
            run(step.grid, step.threads, step.kernel->run, arguments.data());
        }
    }
};

/// What was done so far; told at the end where EMULATED_GPU_COUNTS is set.
static struct Counts {
    unsigned launches, recordings, replays, replayed, uploads, downloads, copies, synchronizations;

    ~Counts() {
        if (!std::getenv("EMULATED_GPU_COUNTS")) return;
        std::fprintf(stderr,
                     "emulated GPU: %u launches, %u recordings, %u replays of %u launches, %u uploads, %u downloads, %u "
                     "copies, %u synchronizations\n",
                     launches, recordings, replays, replayed, uploads, downloads, copies, synchronizations);
    }
} counts;

// ---- memory ----

struct Allocation {
    void *pages;
    size_t page_bytes, bytes;
};
static std::mutex lock;
// Never destroyed: at the end of the process threads may still free what they had.
static auto &allocations = *new std::map<uint64_t, Allocation>, &host_allocations = *new std::map<uint64_t, Allocation>;
static size_t used = 0;

static size_t total_memory() {
    const char *bytes = std::getenv("EMULATED_GPU_MEMORY");
    return bytes ? std::strtoull(bytes, nullptr, 10) : (size_t)4 << 30;
}

/// Whether these bytes lie in one allocation, on the device or on the host.
static bool is_allocated(uint64_t at, size_t bytes, std::map<uint64_t, Allocation> &allocations = emulator::allocations) {
    std::lock_guard<std::mutex> guard(lock);
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return false;
    const auto &[start, allocation] = *--after;
    return at + bytes <= start + allocation.bytes;
}

static bool is_on_host(const void *at, size_t bytes) { return is_allocated((uint64_t)at, bytes, host_allocations); }

/// Memory that ends at a page that nobody may touch (but for up to 15 bytes), and holds anything at all.
static bool allocate(size_t bytes, std::map<uint64_t, Allocation> &allocations, uint64_t *at) {
    const size_t page = 4096, rounded = (bytes + 15) / 16 * 16, page_bytes = (rounded + page - 1) / page * page + page;
    void *pages = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return false;
    mprotect((char *)pages + page_bytes - page, page, PROT_NONE);
    std::memset(pages, 0xff, page_bytes - page);
    *at = (uint64_t)pages + page_bytes - page - rounded;
    allocations[*at] = {pages, page_bytes, bytes};
    return true;
}

/// The bytes that were allocated; 0 where nothing was.
static size_t release(uint64_t at, std::map<uint64_t, Allocation> &allocations) {
    const auto found = allocations.find(at);
    if (found == allocations.end()) return 0;
    const size_t bytes = found->second.bytes;
    munmap(found->second.pages, found->second.page_bytes);
    allocations.erase(found);
    return bytes;
}

} // namespace emulator

// ---- the driver API ----

using namespace emulator;
typedef int CUresult;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900 };
static thread_local bool has_context = false;

extern "C" {

CUresult cuInit(unsigned) { return std::getenv("EMULATED_GPU_BROKEN") ? 999 : SUCCESS; }

CUresult cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
    switch (error) {
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return SUCCESS;
        case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return SUCCESS;
        case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; return SUCCESS;
        case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; return SUCCESS;
        case 999: *name = "CUDA_ERROR_UNKNOWN"; return SUCCESS;
        default: return INVALID_VALUE;
    }
}

CUresult cuDeviceGetCount(int *count) {
    *count = std::getenv("EMULATED_GPU_ABSENT") ? 0 : 1;
    return SUCCESS;
}

CUresult cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, int) {
    std::snprintf(name, len, "emulated GPU");
    return SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = total_memory();
    return SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int) {
    // The compute capability: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
    const char *major = std::getenv("EMULATED_GPU_MAJOR");
    *value = attribute == 75 ? (major ? std::atoi(major) : 9) : attribute == 76 && major ? 5 : 0;
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(void **context, int) {
    *context = &used;
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

CUresult cuCtxSetCurrent(void *context) {
    has_context = context != nullptr;
    return SUCCESS;
}

CUresult cuStreamCreate(Stream **stream, unsigned flags) {
    if (!has_context) return NO_CONTEXT;
    if (flags != 1) return INVALID_VALUE;
    *stream = new Stream;
    return SUCCESS;
}

CUresult cuStreamDestroy_v2(Stream *stream) {
    delete stream;
    return SUCCESS;
}

CUresult cuStreamSynchronize(Stream *stream) {
    if (!has_context) return NO_CONTEXT;
    if (stream->recording) return CAPTURE_UNSUPPORTED;
    counts.synchronizations++;
    stream->run_pending();
    return SUCCESS;
}

CUresult cuStreamBeginCapture_v2(Stream *stream, int) {
    if (stream->recording) return INVALID_VALUE;
    stream->recording = new Graph;
    return SUCCESS;
}

CUresult cuStreamEndCapture(Stream *stream, Graph **graph) {
    if (!stream->recording) return INVALID_VALUE;
    *graph = std::exchange(stream->recording, nullptr);
    counts.recordings++;
    return SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, uint64_t) {
    *executable = new Graph(*graph);
    return SUCCESS;
}

CUresult cuGraphDestroy(Graph *graph) {
    delete graph;
    return SUCCESS;
}

CUresult cuGraphExecDestroy(Graph *executable) {
    delete executable;
    return SUCCESS;
}

CUresult cuGraphLaunch(Graph *executable, Stream *stream) {
    if (stream->recording) return INVALID_VALUE;
    counts.replays++;
    counts.replayed += executable->size();
    stream->pending.insert(stream->pending.end(), executable->begin(), executable->end());
    return SUCCESS;
}

CUresult cuModuleLoadData(void **module, const void *image) {
    if (!has_context) return NO_CONTEXT;
    // Whether it is PTX at all, ended as the driver expects it.
    if (!std::strstr((const char *)image, ".version 7.0")) return INVALID_VALUE;
    *module = strdup((const char *)image);
    return SUCCESS;
}

CUresult cuModuleLoadDataEx(void **module, const void *image, unsigned n, int *options, void **values) {
    const CUresult result = cuModuleLoadData(module, image);
    for (unsigned i = 0; i < n && result != SUCCESS; i++) {
        // CU_JIT_ERROR_LOG_BUFFER, and its size.
        if (options[i] == 5) std::strcpy((char *)values[i], "ptxas: it is no such PTX\n");
        if (options[i] == 6) values[i] = (void *)25;
    }
    return result;
}

CUresult cuModuleUnload(void *module) {
    std::free(module);
    return SUCCESS;
}

CUresult cuModuleGetFunction(void **function, void *module, const char *name) {
    const auto found = KERNELS.find(name);
    // It must be in the module that was loaded, too.
    const std::string entry = std::string(".entry ") + name + "(";
    if (found == KERNELS.end() || !std::strstr((const char *)module, entry.c_str())) return NOT_FOUND;
    *function = (void *)&found->second;
    return SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    if (!has_context) return NO_CONTEXT;
    std::lock_guard<std::mutex> guard(lock);
    *total = total_memory();
    *free_bytes = *total > used ? *total - used : 0;
    return SUCCESS;
}

CUresult cuMemAlloc_v2(uint64_t *at, size_t bytes) {
    if (!has_context) return NO_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(lock);
    if (used + bytes > total_memory() || !allocate(bytes, allocations, at)) return OUT_OF_MEMORY;
    used += bytes;
    return SUCCESS;
}

CUresult cuMemFree_v2(uint64_t at) {
    std::lock_guard<std::mutex> guard(lock);
    const size_t bytes = release(at, allocations);
    used -= bytes;
    return bytes ? SUCCESS : INVALID_VALUE;
}

CUresult cuMemHostAlloc(void **at, size_t bytes, unsigned) {
    if (!has_context) return NO_CONTEXT;
    std::lock_guard<std::mutex> guard(lock);
    return allocate(bytes, host_allocations, (uint64_t *)at) ? SUCCESS : OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void *at) {
    std::lock_guard<std::mutex> guard(lock);
    return release((uint64_t)at, host_allocations) ? SUCCESS : INVALID_VALUE;
}

/// A copy between two places of which it was seen that they are there.
static CUresult copy(void *to, const void *from, size_t bytes, Stream *stream, bool is_there, unsigned &count) {
    if (!has_context) return NO_CONTEXT;
    // A device could record it, but none is: it would copy the same bytes each time.
    if (stream->recording) return CAPTURE_UNSUPPORTED;
    if (!is_there) return ILLEGAL_ADDRESS;
    count++;
    stream->pending.push_back({nullptr, {}, 0, {}, to, from, bytes});
    return SUCCESS;
}

// Other memory of the host than that of cuMemHostAlloc is refused: whether it is read at once is up to the system.

CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    const bool is_there = is_allocated(to, bytes) && is_on_host(from, bytes);
    return copy((void *)to, from, bytes, stream, is_there, counts.uploads);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    const bool is_there = is_allocated(from, bytes) && is_on_host(to, bytes);
    return copy(to, (const void *)from, bytes, stream, is_there, counts.downloads);
}

CUresult cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream *stream) {
    const bool is_there = is_allocated(from, bytes) && is_allocated(to, bytes);
    return copy((void *)to, (const void *)from, bytes, stream, is_there, counts.copies);
}

CUresult cuLaunchKernel(const Kernel *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                        unsigned, Stream *stream, void **arguments, void **) {
    if (!has_context) return NO_CONTEXT;
    // The limits of every device.
    if (x == 0 || y == 0 || z == 0 || x > 0x7fffffff || y > 65535 || z > 65535) return INVALID_VALUE;
    if (threads == 0 || threads > MAX_THREADS || threads % WARP) return INVALID_VALUE;
    Step step = {kernel, {x, y, z}, threads, {}, nullptr, nullptr, 0};
    for (size_t i = 0; i < kernel->parameters.size(); i++) {
        const char *bytes = (const char *)arguments[i];
        step.arguments.emplace_back(bytes, bytes + kernel->parameters[i]);
    }
    if (!stream->recording) counts.launches++;
    (stream->recording ? *stream->recording : stream->pending).push_back(std::move(step));
    return SUCCESS;
}
}
