// A persistent pool in which every thread is welcome and none is needed.
//
// Work is a sequence of phases, each cut into chunks. A thread takes the chunks that are its own, then those nobody
// has taken yet, and goes on to the next phase once every chunk of this one is done. So a thread that the operating
// system has put aside, or that has not woken up yet, holds nobody up unless it was in the middle of a chunk; there is no
// barrier to meet at. A thread that comes late finds all chunks taken and passes through.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace glm {

// One phase: who has taken which chunk, and how many are done, both stamped with the step they belong to, so that
// nothing has to be reset between steps.
class Phase {
 public:
  static constexpr int kChunksPerThread = 16;  // at most

  explicit Phase(int num_threads) : taken_(static_cast<size_t>(num_threads)) {}

  // True for exactly one caller per step and chunk.
  bool take(uint32_t step, int thread, int chunk) {
    auto& stamp = taken_[static_cast<size_t>(thread)].step[chunk];
    uint32_t seen = stamp.load(std::memory_order_relaxed);
    return static_cast<int32_t>(step - seen) > 0 && stamp.compare_exchange_strong(seen, step, std::memory_order_relaxed);
  }
  void complete(uint32_t step) {
    uint64_t seen = done_.load(std::memory_order_relaxed), next = 0;
    do {
      next = static_cast<uint32_t>(seen >> 32) == step ? seen + 1 : (static_cast<uint64_t>(step) << 32 | 1);
    } while (!done_.compare_exchange_weak(seen, next, std::memory_order_acq_rel, std::memory_order_relaxed));
  }
  // All `count` chunks of the step are done (or a later step has begun).
  bool is_done(uint32_t step, int count) const {
    const uint64_t seen = done_.load(std::memory_order_acquire);
    const auto ahead = static_cast<int32_t>(static_cast<uint32_t>(seen >> 32) - step);
    return ahead > 0 || (ahead == 0 && static_cast<int>(static_cast<uint32_t>(seen)) >= count);
  }
  void await(uint32_t step, int count) const;
  // Stamps what no step has touched for long with one that is over: half a circle of numbers later it would seem to be
  // ahead. Called between steps, at least every 2^30 of them; late threads find what they would have found.
  void renew(uint32_t step) {
    for (Taken& taken : taken_) {
      for (auto& stamp : taken.step) stamp.store(step, std::memory_order_relaxed);
    }
    if (static_cast<uint32_t>(done_.load(std::memory_order_relaxed) >> 32) != step) done_.store(static_cast<uint64_t>(step) << 32, std::memory_order_release);
  }

 private:
  struct alignas(64) Taken { std::atomic<uint32_t> step[kChunksPerThread] = {}; };
  alignas(64) std::atomic<uint64_t> done_{0};
  std::vector<Taken> taken_;
};

class ThreadPool {
 public:
  // num_threads includes the caller of run. Each thread calls work(thread, step) for the steps it wakes up for; work
  // must not throw, and must take chunks only through phases. Throws std::runtime_error when there are too few threads.
  ThreadPool(int num_threads, std::function<void(int, uint32_t)> work);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }
  // Wake the others for `step` (1, 2, ... wrapping) and do the caller's part. Returns when the caller's walk through
  // the phases is over, which is when all chunks are done.
  void run(uint32_t step);

 private:
  void worker(int thread);
  void end();
  bool await_step(uint32_t& seen);

  const int num_threads_;
  const std::function<void(int, uint32_t)> work_;
  alignas(64) std::atomic<uint32_t> step_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

}  // namespace glm
