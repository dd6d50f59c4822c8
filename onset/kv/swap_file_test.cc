#include "onset/kv/swap_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <numeric>

#include "onset/kv/sequence_cache.h"

namespace onset {
namespace {

std::vector<std::byte> page_of(int value) {
  return std::vector<std::byte>(4096, static_cast<std::byte>(value));
}

TEST(SwapFile, KeepsPagesAndUsesPlacesAgain) {
  SwapFile file = *SwapFile::create(::testing::TempDir(), 4096, 3);
  std::vector<int64_t> places;
  for (int i = 0; i < 3; ++i) places.push_back(*file.write(page_of(i).data()));
  EXPECT_EQ(file.free_pages(), 0);
  const auto full = file.write(page_of(9).data());
  EXPECT_EQ(full.status().code(), Code::resource_exhausted);
  EXPECT_NE(full.status().message().find("holds its 3 pages"), std::string::npos) << full.status().message();
  file.free(places[1]);
  EXPECT_EQ(*file.write(page_of(7).data()), places[1]);
  std::vector<std::byte> read(4096);
  for (const auto& [place, value] : {std::pair(places[0], 0), std::pair(places[1], 7), std::pair(places[2], 2)}) {
    ASSERT_TRUE(file.read(place, read.data()).ok());
    EXPECT_EQ(read, page_of(value));
  }
  EXPECT_NE(file.read(17, read.data()).message().find("ends too soon"), std::string::npos);
}

TEST(SwapFile, RefusesWhatMakesNoSense) {
  EXPECT_FALSE(SwapFile::create(::testing::TempDir(), 0, 1).ok());
  EXPECT_FALSE(SwapFile::create(::testing::TempDir(), 64, 0).ok());
  const auto nowhere = SwapFile::create("/no/such/folder", 64, 1);
  EXPECT_EQ(nowhere.status().message(), "/no/such/folder: no swap file can be made there: No such file or directory");
}

// A file that may not grow stands for a full disk.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) {
    signal_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }

 private:
  rlimit before_{};
  void (*signal_)(int) = nullptr;
};

TEST(SwapFile, AFullDiskIsAnErrorThatChangesNothing) {
  SwapFile file = *SwapFile::create(::testing::TempDir(), 4096, 100);
  const SmallDisk disk(2 * 4096 + 100);
  ASSERT_TRUE(file.write(page_of(1).data()).ok());
  ASSERT_TRUE(file.write(page_of(2).data()).ok());
  const auto refused = file.write(page_of(3).data());
  EXPECT_EQ(refused.status().code(), Code::resource_exhausted);
  EXPECT_NE(refused.status().message().find("cannot be written"), std::string::npos) << refused.status().message();
  EXPECT_EQ(file.used_pages(), 2);
}

// --- caches -------------------------------------------------------------------------------------------------------

struct Caches {
  CacheLayout layout{.type = KvType::f32, .layers = 2, .head_groups = 1, .heads_per_group = 2, .head_size = 8, .windows = {0, 100}};
  PagePool pool = *PagePool::create(layout_page_bytes(layout), 20);

  std::vector<int32_t> positions(int32_t count) const {
    std::vector<int32_t> all(count);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::vector<std::byte> bytes(const SequenceCache& cache, int layer) const {
    std::vector<std::byte> all;
    for (const std::byte* page : cache.view(layer).pages) {
      if (page != nullptr) all.insert(all.end(), page, page + pool.page_bytes());
    }
    return all;
  }
};

TEST(SequenceCacheSwap, PagesComeBackAsTheyWere) {
  Caches world;
  SwapFile file = *SwapFile::create(::testing::TempDir(), world.pool.page_bytes(), 100);
  SequenceCache cache(world.layout, world.pool);
  for (int layer = 0; layer < 2; ++layer) {
    ASSERT_TRUE(cache.append(layer, world.positions(300)).ok());
    for (int32_t slot = 0; slot < 300; slot += page_tokens) {
      std::byte* page = cache.page_for_write(layer, 0, slot);
      std::fill_n(page, world.pool.page_bytes(), static_cast<std::byte>(1 + layer * 100 + slot / page_tokens));
    }
  }
  cache.drop_page(1, 0, 0);  // as a window does
  const auto first = world.bytes(cache, 0), second = world.bytes(cache, 1);
  const int64_t held = cache.pages_held();
  ASSERT_TRUE(cache.swap_out(file).ok());
  EXPECT_TRUE(cache.swapped_out());
  EXPECT_EQ(world.pool.free_pages(), 20);
  EXPECT_EQ(cache.pages_held(), 0);
  EXPECT_EQ(file.used_pages(), held);
  EXPECT_EQ(cache.length(0), 300);

  std::vector<PageId> others;
  for (int i = 0; i < 15; ++i) others.push_back(world.pool.acquire());
  EXPECT_EQ(cache.swap_in().code(), Code::resource_exhausted);
  EXPECT_TRUE(cache.swapped_out());
  for (const PageId page : others) std::fill_n(world.pool.data(page), world.pool.page_bytes(), std::byte{0xff});
  for (const PageId page : others) world.pool.release(page);

  ASSERT_TRUE(cache.swap_in().ok());
  EXPECT_EQ(world.bytes(cache, 0), first);
  EXPECT_EQ(world.bytes(cache, 1), second);
  EXPECT_EQ(cache.pages_held(), held);
  EXPECT_EQ(file.used_pages(), 0);
}

TEST(SequenceCacheSwap, WhatDoesNotFitStaysWhereItIs) {
  Caches world;
  SwapFile file = *SwapFile::create(::testing::TempDir(), world.pool.page_bytes(), 4);
  SequenceCache cache(world.layout, world.pool);
  for (int layer = 0; layer < 2; ++layer) ASSERT_TRUE(cache.append(layer, world.positions(150)).ok());
  EXPECT_EQ(cache.swap_out(file).code(), Code::resource_exhausted);
  EXPECT_FALSE(cache.swapped_out());
  EXPECT_EQ(cache.pages_held(), 6);
  EXPECT_EQ(file.used_pages(), 0);
}

TEST(SequenceCacheSwap, PlacesAreFreeAgainWhenTheCacheIsForgotten) {
  Caches world;
  SwapFile file = *SwapFile::create(::testing::TempDir(), world.pool.page_bytes(), 100);
  {
    SequenceCache cache(world.layout, world.pool);
    ASSERT_TRUE(cache.append(0, world.positions(150)).ok());
    ASSERT_TRUE(cache.swap_out(file).ok());
    cache.truncate(0);
    EXPECT_EQ(file.used_pages(), 0);
    EXPECT_FALSE(cache.swapped_out());
    ASSERT_TRUE(cache.append(0, world.positions(70)).ok());
    ASSERT_TRUE(cache.swap_out(file).ok());
    EXPECT_EQ(file.used_pages(), 2);
  }
  EXPECT_EQ(file.used_pages(), 0);
  EXPECT_EQ(world.pool.free_pages(), 20);
}

}  // namespace
}  // namespace onset
