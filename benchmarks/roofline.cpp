// The two limits of a CPU that bound an LLM engine: bytes read from memory and 8-bit multiply-adds in registers.
//
//   roofline THREADS  ->  {"bytes_per_second": ..., "int8_operations_per_second": ...}
//
// Built by roofline.py with -march=native. Each figure is the best of several rounds: a limit, not an average.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int kRounds = 7;
volatile std::uint64_t sink;

double seconds_of(int threads, const std::function<void(int)>& work) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> team;
    for (int i = 0; i < threads; ++i) team.emplace_back(work, i);
    for (auto& member : team) member.join();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Sum of 64-bit words [count], read once in order; four vectors in flight.
std::uint64_t read_all(const std::uint64_t* words, std::size_t count) {
    using Vector = std::uint64_t __attribute__((vector_size(64)));
    const auto* vectors = reinterpret_cast<const Vector*>(words);
    Vector a{}, b{}, c{}, d{};
    for (std::size_t i = 0; i + 4 <= count / 8; i += 4) {
        a += vectors[i];
        b += vectors[i + 1];
        c += vectors[i + 2];
        d += vectors[i + 3];
    }
    a += b + c + d;
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

double read_bandwidth(int threads) {
    const std::size_t words = (std::size_t{1} << 27) / static_cast<std::size_t>(threads) / 64 * 64;  // 1 GiB in all
    std::vector<std::uint64_t*> parts(static_cast<std::size_t>(threads));
    seconds_of(threads, [&](int i) {  // each thread touches its own part first
        auto* part = static_cast<std::uint64_t*>(std::aligned_alloc(4096, words * 8));
        std::fill(part, part + words, std::uint64_t(i + 1));
        parts[static_cast<std::size_t>(i)] = part;
    });
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
        const double time = seconds_of(threads, [&](int i) { sink = read_all(parts[static_cast<std::size_t>(i)], words); });
        best = std::max(best, static_cast<double>(words) * 8 * threads / time);
    }
    for (auto* part : parts) std::free(part);
    return best;
}

// One step is twelve independent dot-product instructions (more than latency times throughput of any current core),
// written out so that the accumulators stay in registers.
constexpr int kChains = 12;
constexpr long kSteps = 8'000'000;
#define GLM_TWELVE(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define GLM_CLOBBERS                                                                                              \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
        "xmm14", "xmm15"

#if defined(__AVX512VNNI__)
constexpr int kBytes = 64;
#define GLM_STEP(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #i "\n\t"
#elif defined(__AVXVNNI__)
constexpr int kBytes = 32;
#define GLM_STEP(i) "{vex} vpdpbusd %%ymm14, %%ymm15, %%ymm" #i "\n\t"
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#define GLM_STEP(i) "vpmaddubsw %%ymm14, %%ymm15, %%ymm12\n\tvpaddw %%ymm12, %%ymm" #i ", %%ymm" #i "\n\t"
#else
#error "roofline.cpp knows the int8 peak of x86-64 with AVX2 or newer only"
#endif

void multiply_add() {
    for (long step = 0; step < kSteps; ++step) asm volatile(GLM_TWELVE(GLM_STEP) ::: GLM_CLOBBERS);
}

double int8_peak(int threads) {
    const double operations = 2.0 * kBytes * kChains * static_cast<double>(kSteps) * threads;
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
        best = std::max(best, operations / seconds_of(threads, [](int) { multiply_add(); }));
    }
    return best;
}

}  // namespace

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    if (threads < 1) return 2;
    std::printf("{\"bytes_per_second\": %.0f, \"int8_operations_per_second\": %.0f}\n", read_bandwidth(threads),
                int8_peak(threads));
}
