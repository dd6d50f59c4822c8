#include "onset/base/thread_pool.h"

#include <sched.h>

#include <cassert>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace onset {
namespace {

// How long a waiting worker keeps its core before it sleeps: longer than the serial code between two regions
// of a step (sampling included), short enough that an idle server is idle. Waking a sleeper costs some 5 to
// 50 microseconds.
constexpr auto spin_time = std::chrono::microseconds(150);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins until done() or until the time is over.
template <typename Done>
void spin_until(const Done& done) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() - begin < spin_time);
}

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

struct ThreadPool::Shared {
  // The last region of which this worker's part was taken, by its own thread or by the caller.
  struct alignas(64) Part {
    std::atomic<uint32_t> taken{0};
  };

  // What to run: written before `epoch` goes up, read after it was seen to have gone up.
  Function function = nullptr;
  const void* context = nullptr;
  bool stop = false;
  bool spins = true;
  alignas(64) std::atomic<uint32_t> epoch{0};    // counts regions
  alignas(64) std::atomic<uint32_t> pending{0};  // parts that have not been finished in the region
  alignas(64) std::atomic<bool> running{false};
  std::vector<Part> parts;
  std::vector<std::thread> workers;

  // Whether a worker's part of a region is the one's who asks. Until all parts of it are finished no other region begins.
  bool take(int worker, uint32_t region) {
    uint32_t before = region - 1;
    return parts[worker].taken.compare_exchange_strong(before, region, std::memory_order_acq_rel);
  }

  void work(int worker) {
    uint32_t seen = 0;
    while (true) {
      if (spins) spin_until([&] { return epoch.load(std::memory_order_acquire) != seen; });
      epoch.wait(seen, std::memory_order_acquire);
      // Regions may have passed whose part the caller took.
      seen = epoch.load(std::memory_order_acquire);
      if (!take(worker, seen)) continue;
      if (stop) return;
      function(context, worker);
      if (pending.fetch_sub(1, std::memory_order_seq_cst) == 1) pending.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads), shared_(std::make_unique<Shared>()) {
  shared_->spins = threads_ <= available_cores();
  shared_->parts = std::vector<Shared::Part>(static_cast<size_t>(threads_));
  for (int worker = 1; worker < threads_; ++worker) {
    shared_->workers.emplace_back([shared = shared_.get(), worker] { shared->work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  shared_->stop = true;
  shared_->epoch.fetch_add(1, std::memory_order_seq_cst);
  shared_->epoch.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::run_erased(Function function, const void* context) {
  [[maybe_unused]] const bool busy = shared_->running.exchange(true, std::memory_order_relaxed);
  assert(!busy && "ThreadPool::run called from inside one of its own regions, or from two threads at a time");
  uint32_t region = 0;
  if (threads_ > 1) {
    shared_->function = function;
    shared_->context = context;
    shared_->pending.store(static_cast<uint32_t>(threads_ - 1), std::memory_order_relaxed);
    // Sequentially consistent, as are the sleepers' counters inside wait(): notify_all() must not miss one.
    region = shared_->epoch.fetch_add(1, std::memory_order_seq_cst) + 1;
    shared_->epoch.notify_all();
  }
  function(context, 0);
  if (threads_ > 1) {
    // A worker that has not begun may be waiting for a core that somebody else has: its part is done here, now.
    for (int worker = 1; worker < threads_; ++worker) {
      if (!shared_->take(worker, region)) continue;
      function(context, worker);
      shared_->pending.fetch_sub(1, std::memory_order_acq_rel);
    }
    if (shared_->spins) spin_until([&] { return shared_->pending.load(std::memory_order_acquire) == 0; });
    for (uint32_t left; (left = shared_->pending.load(std::memory_order_acquire)) != 0;) {
      shared_->pending.wait(left, std::memory_order_acquire);
    }
  }
  shared_->running.store(false, std::memory_order_relaxed);
}

}  // namespace onset
