#include "onset/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace onset {
namespace {

TEST(ThreadPool, EveryWorkerRunsOnceAndWorkerZeroIsTheCaller) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::vector<int> runs(threads, 0);
    std::vector<std::thread::id> ids(threads);
    pool.run([&](int worker) {
      ++runs[worker];
      ids[worker] = std::this_thread::get_id();
    });
    EXPECT_EQ(runs, std::vector<int>(threads, 1));
    EXPECT_EQ(ids[0], std::this_thread::get_id());
  }
}

// Everybody has a thread: parts that wait for each other come to their end.
TEST(ThreadPool, PartsRunBesideEachOther) {
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    for (int region = 0; region < 20; ++region) {
      std::atomic<int> here{0};
      pool.run([&](int) {
        here.fetch_add(1);
        while (here.load() < threads) std::this_thread::yield();
      });
      EXPECT_EQ(here.load(), threads);
    }
  }
}

// A thread that has not begun when the caller is done with its own part is not waited for.
TEST(ThreadPool, TheCallerDoesThePartsOfThreadsThatHaveNotBegun) {
  ThreadPool pool(2);
  int by_caller = 0;
  for (int region = 0; region < 100; ++region) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the other thread sleeps by now, and waking takes a while
    int runs[2] = {};
    std::thread::id other;
    pool.run([&](int worker) {
      ++runs[worker];
      if (worker == 1) other = std::this_thread::get_id();
    });
    EXPECT_EQ(runs[0], 1);
    EXPECT_EQ(runs[1], 1);
    by_caller += other == std::this_thread::get_id();
  }
  EXPECT_GT(by_caller, 0);
}

TEST(ThreadPool, PoolOfFewerThanOneIsAPoolOfOne) {
  ThreadPool pool(0);
  EXPECT_EQ(pool.threads(), 1);
  int runs = 0;
  pool.run([&](int worker) { runs += worker == 0; });
  EXPECT_EQ(runs, 1);
}

// Each region reads what the one before it wrote, on every worker: a missed barrier breaks the chain (and
// TSan says so).
TEST(ThreadPool, RegionsFollowEachOther) {
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<int64_t> values(threads, 1), next(threads);
    int64_t expected = 1;
    for (int region = 0; region < 3000; ++region) {
      pool.run([&](int worker) { next[worker] = std::accumulate(values.begin(), values.end(), int64_t{0}) % 1000003; });
      values.swap(next);
      expected = expected * threads % 1000003;
      ASSERT_EQ(values, std::vector<int64_t>(threads, expected)) << region;
    }
  }
}

TEST(ThreadPool, ForEachVisitsEveryIndexOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> visits(count);
      pool.for_each(count, [&](int64_t index, int worker) {
        ASSERT_LT(worker, threads);
        visits[index].fetch_add(1);
      });
      for (const auto& visit : visits) EXPECT_EQ(visit.load(), 1);
    }
  }
}

// Workers that have gone to sleep wake for the next region; a worker that is late is waited for.
TEST(ThreadPool, SleepersWakeAndLateOnesAreWaitedFor) {
  ThreadPool pool(3);
  for (int region = 0; region < 5; ++region) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::atomic<int> done{0};
    pool.run([&](int worker) {
      if (worker == 1 + region % 2) std::this_thread::sleep_for(std::chrono::milliseconds(3));
      done.fetch_add(1);
    });
    EXPECT_EQ(done.load(), 3);
  }
}

// Far more workers than cores, and two such pools at once: progress must not depend on all of them running.
TEST(ThreadPool, MoreThreadsThanCores) {
  auto regions = [] {
    ThreadPool pool(24);
    std::atomic<int64_t> sum{0};
    for (int region = 0; region < 200; ++region) {
      pool.for_each(100, [&](int64_t index, int) { sum.fetch_add(index, std::memory_order_relaxed); });
    }
    return sum.load();
  };
  int64_t other = 0;
  std::thread second([&] { other = regions(); });
  const int64_t mine = regions();
  second.join();
  EXPECT_EQ(mine, 200 * 4950);
  EXPECT_EQ(other, 200 * 4950);
}

TEST(ThreadPool, AnotherPoolMayRunInsideARegion) {
  ThreadPool outer(2);
  std::vector<int64_t> sums(2, 0);
  outer.run([&](int worker) {
    ThreadPool inner(2);
    std::atomic<int64_t> sum{0};
    inner.for_each(10, [&](int64_t index, int) { sum.fetch_add(index); });
    sums[worker] = sum.load();
  });
  EXPECT_EQ(sums, (std::vector<int64_t>{45, 45}));
}

#ifndef NDEBUG
TEST(ThreadPoolDeathTest, NestedRunStops) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        ThreadPool pool(1);
        pool.run([&](int) { pool.run([](int) {}); });
      },
      "inside one of its own regions");
}
#endif

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 200; ++i) ThreadPool pool(1 + i % 4);
}

}  // namespace
}  // namespace onset
