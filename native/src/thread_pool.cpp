#include "glm_crush/thread_pool.h"

#include <sched.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

namespace glm {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A chunk takes microseconds; one that takes longer than this spin belongs to a thread that is not running now.
constexpr int kSpins = 2000;
// Between two steps Python schedules and detokenises; workers stay awake for about that long.
constexpr auto kIdleSpin = std::chrono::microseconds(300);

}  // namespace

void Phase::await(uint32_t step, int count) const {
  for (int i = 0; i < kSpins; ++i) {
    if (is_done(step, count)) return;
    pause();
  }
  while (!is_done(step, count)) ::sched_yield();
}

ThreadPool::ThreadPool(int num_threads, std::function<void(int, uint32_t)> work) : num_threads_(num_threads), work_(std::move(work)) {
  try {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { worker(i); });
  } catch (const std::system_error& error) {
    const std::string started = std::to_string(threads_.size() + 1);
    end();  // a thread that is destroyed while it runs ends the process
    throw std::runtime_error("the system starts " + started + " of " + std::to_string(num_threads) + " threads: " + error.what());
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
  stopping_.store(true);
  step_.fetch_add(1, std::memory_order_release);
  step_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(uint32_t step) {
  if (num_threads_ > 1) {
    step_.store(step, std::memory_order_release);
    step_.notify_all();
  }
  work_(0, step);
}

bool ThreadPool::await_step(uint32_t& seen) {
  const auto end = std::chrono::steady_clock::now() + kIdleSpin;
  uint32_t now = seen;
  do {
    for (int i = 0; i < 64 && now == seen; ++i) {
      pause();
      now = step_.load(std::memory_order_acquire);
    }
  } while (now == seen && std::chrono::steady_clock::now() < end);
  while (now == seen) {
    step_.wait(seen, std::memory_order_acquire);
    now = step_.load(std::memory_order_acquire);
  }
  seen = now;
  return !stopping_.load();
}

void ThreadPool::worker(int thread) {
  for (uint32_t seen = 0; await_step(seen);) work_(thread, seen);
}

}  // namespace glm
