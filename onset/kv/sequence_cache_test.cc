#include "onset/kv/sequence_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "onset/compute/page_format.h"

namespace onset {
namespace {

CacheLayout small_layout(std::vector<int32_t> windows, int32_t groups = 1) {
  const auto layers = static_cast<int32_t>(windows.size());
  return {
      .type = KvType::f32, .layers = layers, .head_groups = groups, .heads_per_group = 2, .head_size = 8, .windows = std::move(windows)};
}

PagePool small_pool(const CacheLayout& layout, int64_t pages) {
  return *PagePool::create(layout_page_bytes(layout), pages);
}

std::vector<int32_t> positions(int32_t first, int32_t count) {
  std::vector<int32_t> all(count);
  std::iota(all.begin(), all.end(), first);
  return all;
}

TEST(PagePool, GivesOutEveryPageOnceAndTakesThemBack) {
  PagePool pool = *PagePool::create(64, 5);
  std::vector<PageId> pages;
  for (int i = 0; i < 5; ++i) pages.push_back(pool.acquire());
  std::sort(pages.begin(), pages.end());
  EXPECT_EQ(pages, (std::vector<PageId>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.acquire(), no_page);
  pool.share(2);
  pool.release(2);
  EXPECT_EQ(pool.free_pages(), 0);
  pool.release(2);
  EXPECT_EQ(pool.free_pages(), 1);
}

TEST(PagePool, PagesAreZeroEachTimeTheyAreHandedOut) {
  PagePool pool = *PagePool::create(64, 1);
  const PageId page = pool.acquire();
  std::fill_n(pool.data(page), 64, std::byte{7});
  pool.release(page);
  EXPECT_EQ(pool.acquire(), page);
  EXPECT_TRUE(std::all_of(pool.data(page), pool.data(page) + 64, [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST(PagePool, RefusesSizesThatMakeNoSense) {
  EXPECT_FALSE(PagePool::create(0, 1).ok());
  EXPECT_FALSE(PagePool::create(65, 1).ok());
  EXPECT_FALSE(PagePool::create(64, 0).ok());
  EXPECT_FALSE(PagePool::create(size_t{1} << 40, 1 << 20).ok());
}

TEST(SequenceCache, TakesPagesAsTokensComeAndGivesThemAllBack) {
  const CacheLayout layout = small_layout({0, 0}, 2);
  PagePool pool = small_pool(layout, 100);
  {
    SequenceCache cache(layout, pool);
    for (int layer = 0; layer < 2; ++layer) {
      EXPECT_EQ(*cache.append(layer, positions(0, 60)), 0);
      EXPECT_EQ(*cache.append(layer, positions(60, 10)), 60);
    }
    EXPECT_EQ(cache.pages_held(), 2 * 2 * 2);
    EXPECT_EQ(cache.view(1, 1).pages.size(), 2u);
    EXPECT_EQ(cache.view(1, 1).positions, nullptr);
    cache.truncate(64);
    EXPECT_EQ(cache.pages_held(), 4);
    EXPECT_EQ(cache.length(0), 64);
  }
  EXPECT_EQ(pool.free_pages(), 100);
}

TEST(SequenceCache, AFullPoolIsAnErrorThatChangesNothing) {
  const CacheLayout layout = small_layout({0}, 2);
  PagePool pool = small_pool(layout, 3);
  SequenceCache cache(layout, pool);
  ASSERT_TRUE(cache.append(0, positions(0, 64)).ok());
  const auto refused = cache.append(0, positions(64, 1));
  EXPECT_EQ(refused.status().code(), Code::resource_exhausted);
  EXPECT_EQ(cache.length(0), 64);
  EXPECT_EQ(pool.free_pages(), 1);
}

TEST(SequenceCache, HeldSlotsAreTheRowsPositions) {
  const CacheLayout layout = small_layout({0, 0});
  PagePool pool = small_pool(layout, 9);
  SequenceCache cache(layout, pool);
  ASSERT_TRUE(cache.append(0, positions(0, 10)).ok());
  ASSERT_TRUE(cache.append(1, positions(0, 10)).ok());
  ASSERT_TRUE(cache.hold(100).ok());
  EXPECT_EQ(cache.held(), 100);
  EXPECT_EQ(cache.length(1), 100);
  std::vector<int32_t> slots = {7};
  ASSERT_TRUE(cache.take_slots(1, std::vector<int32_t>{12, 40, 99}, slots).ok());
  EXPECT_EQ(slots, (std::vector<int32_t>{7, 12, 40, 99}));
  EXPECT_EQ(cache.length(1), 100);
  // Behind them rows are appended as ever.
  slots.clear();
  ASSERT_TRUE(cache.take_slots(1, positions(98, 5), slots).ok());
  EXPECT_EQ(slots, positions(98, 5));
  EXPECT_EQ(cache.length(1), 103);
  EXPECT_FALSE(cache.hold(1000).ok());
  cache.truncate(50);
  EXPECT_EQ(cache.held(), 50);
  slots.clear();
  ASSERT_TRUE(cache.take_slots(0, positions(50, 2), slots).ok());
  EXPECT_EQ(slots, positions(50, 2));
  EXPECT_EQ(cache.length(0), 52);
}

// A windowed layer never holds more than pages_needed() says, and always holds what its window reaches.
TEST(SequenceCache, AWindowIsARing) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const int32_t window = 1 + static_cast<int32_t>(random() % 300), step = 1 + static_cast<int32_t>(random() % 200);
    const CacheLayout layout = small_layout({window});
    PagePool pool = small_pool(layout, 1000);
    SequenceCache cache(layout, pool);
    for (int32_t at = 0; at < 2000; at += step) {
      ASSERT_TRUE(cache.append(0, positions(at, step)).ok());
      EXPECT_LE(cache.pages_held(), pages_needed(layout, at + step, step));
      const KeyValueView view = cache.view(0);
      for (int32_t slot = std::max(0, at - window + 1); slot < at + step; ++slot) ASSERT_NE(view.pages[slot / page_tokens], nullptr);
    }
    EXPECT_LT(cache.pages_held(), 12);
  }
}

// LServe (arXiv:2502.14866), check 4: of a group that streams, what lies within the sink or near is read back exactly, all else is absent;
// its neighbour keeps everything.
TEST(SequenceCache, GroupsOfALayerKeepWhatTheirPatternsShow) {
  CacheLayout layout = small_layout({0}, 2);
  const BlockPattern streaming{.sink = 2, .local = 5};
  layout.patterns = {streaming, {}};
  PagePool pool = small_pool(layout, 200);
  SequenceCache cache(layout, pool);
  constexpr int32_t tokens = 10000;
  std::vector<float> key(16), value(16);
  for (int32_t i = 0; i < tokens; ++i) {
    ASSERT_TRUE(cache.append(0, positions(i, 1)).ok());
    for (int group = 0; group < 2; ++group) {
      std::fill(key.begin(), key.end(), static_cast<float>(i + group));
      write_slot(Isa::generic, layout.type, 2, 8, cache.page_for_write(0, group, i), i % page_tokens, key.data(), key.data());
    }
    if (i >= 1000) ASSERT_EQ(cache.pages_held() - (i / page_tokens + 1), 2 + 5) << i;
  }
  EXPECT_EQ(pages_needed(layout, tokens, 1), cache.pages_held());
  for (int group = 0; group < 2; ++group) {
    const KeyValueView view = cache.view(0, group);
    for (int32_t i = 0; i < tokens; ++i) {
      const std::byte* page = view.pages[i / page_tokens];
      const bool kept = group == 1 || streaming.sees((tokens - 1) / page_tokens, i / page_tokens);
      ASSERT_EQ(page != nullptr, kept) << i;
      // Whatever the place of the last token in its page, the sink's and the last 4 * 64 tokens are there.
      if (i < 128 || i >= tokens - 256) ASSERT_TRUE(kept) << i;
      if (!kept) continue;
      read_slot(layout.type, 2, 8, page, i % page_tokens, key.data(), value.data());
      ASSERT_EQ(key[3], static_cast<float>(i + group));
    }
  }
}

TEST(SequenceCache, SlotsCanBeAbsentAndPositionsMoved) {
  const CacheLayout layout = small_layout({0});
  PagePool pool = small_pool(layout, 10);
  SequenceCache cache(layout, pool);
  const PageId ready = pool.acquire();
  cache.attach_page(0, 0, ready, positions(128, 64));    // a stored chunk, moved to position 128
  cache.attach_page(0, 0, no_page, positions(192, 64));  // a gap
  ASSERT_TRUE(cache.append(0, positions(256, 3)).ok());
  const KeyValueView view = cache.view(0);
  EXPECT_EQ(view.length, 131);
  EXPECT_EQ(view.positions[0], 128);
  EXPECT_EQ(view.positions[130], 258);
  EXPECT_EQ(view.pages[1], nullptr);
  EXPECT_EQ(view.pages[0], pool.data(ready));
  cache.metadata(0, 0, 2).values = {1.0f};
  EXPECT_EQ(cache.metadata(0, 0, 2).values, std::vector<float>{1.0f});
  cache.drop_page(0, 0, 0);
  EXPECT_EQ(cache.view(0).pages[0], nullptr);
  EXPECT_EQ(pool.free_pages(), 9);
}

}  // namespace
}  // namespace onset
