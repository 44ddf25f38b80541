#include "glm_crush/thread_pool.h"

#include <chrono>

namespace glm {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Between two steps Python schedules and detokenises; workers stay awake for about that long.
constexpr auto kIdleSpin = std::chrono::microseconds(300);

}  // namespace

void Barrier::wait() {
  if (num_threads_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == num_threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  for (int i = 0; i < spins_; ++i) {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    pause();
  }
  while (phase_.load(std::memory_order_acquire) == phase) phase_.wait(phase, std::memory_order_acquire);
}

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), barrier_(num_threads) {
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& work) {
  if (num_threads_ == 1) return work(0);
  work_ = &work;
  running_.store(num_threads_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(0);
  for (int i = 0; i < 4000; ++i) {
    if (running_.load(std::memory_order_acquire) == 0) return;
    pause();
  }
  for (int left; (left = running_.load(std::memory_order_acquire)) != 0;) running_.wait(left, std::memory_order_acquire);
}

bool ThreadPool::await_epoch(uint32_t seen) {
  const auto end = std::chrono::steady_clock::now() + kIdleSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (epoch_.load(std::memory_order_acquire) != seen) return !stopping_.load();
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  while (epoch_.load(std::memory_order_acquire) == seen) epoch_.wait(seen, std::memory_order_acquire);
  return !stopping_.load();
}

void ThreadPool::worker(int index) {
  for (uint32_t seen = 0; await_epoch(seen); ++seen) {
    (*work_)(index);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace glm
