// A fork-join pool for short parallel regions: workers spin for a while, then sleep.
//
// A decode step has hundreds of regions of a few microseconds each, so entering and leaving one must
// cost far less than that; a server that waits for requests must not burn a core, so idle workers sleep.
// Where there are more workers than cores, nobody spins: a waiting worker gives its core away at once. Where other programs want the cores,
// too, a worker may get none for some milliseconds: the caller then does its part, too.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace onset {

class ThreadPool {
 public:
  // `threads` >= 1, the calling thread included: a pool of 1 starts no thread at all.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Runs body(worker) once for every worker in 0..threads()-1, worker 0 on the calling thread, those whose thread has not begun when that
  // is done there as well, and returns when all are done; what they wrote is visible to the caller. The body must not throw. Only one
  // thread may be in run() at a time (the engine's step loop owns its pool), and the body must not call the pool it runs on: it would wait
  // for itself. Debug builds stop at such a call; another pool may be used inside a body.
  template <typename Body>
  void run(const Body& body) {
    run_erased([](const void* context, int worker) { (*static_cast<const Body*>(context))(worker); }, &body);
  }

  // Runs body(index, worker) for every index in 0..count-1. Workers claim the next free index one after the
  // other, so that a core that is slowed by others holds the rest up as little as possible.
  template <typename Body>
  void for_each(int64_t count, const Body& body) {
    if (count <= 0) return;
    if (count == 1 || threads_ == 1) {
      for (int64_t index = 0; index < count; ++index) body(index, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    run([&](int worker) {
      for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(index, worker);
    });
  }

 private:
  using Function = void (*)(const void* context, int worker);
  void run_erased(Function function, const void* context);

  struct Shared;
  int threads_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace onset
