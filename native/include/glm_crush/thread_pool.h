// A persistent pool for SPMD work: every thread runs the same function, barriers inside it keep them in step.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace glm {

// Sense-reversing barrier. Spins first (a step has hundreds of barriers a few microseconds apart), then sleeps in
// the kernel, so that a machine with more runnable threads than cores still makes progress.
class Barrier {
 public:
  explicit Barrier(int num_threads) : num_threads_(num_threads), spins_(num_threads > 1 ? kSpins : 0) {}
  void wait();

 private:
  static constexpr int kSpins = 4000;
  const int num_threads_;
  const int spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

class ThreadPool {
 public:
  // num_threads includes the calling thread.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }
  Barrier& barrier() { return barrier_; }

  // Run work(thread_index) on every thread and return when all are done. Not re-entrant. `work` must not throw.
  void run(const std::function<void(int)>& work);

 private:
  void worker(int index);
  bool await_epoch(uint32_t seen);

  const int num_threads_;
  Barrier barrier_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int> running_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

}  // namespace glm
