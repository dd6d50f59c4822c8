#include "onset/kv/prefix_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <list>
#include <numeric>
#include <random>

namespace onset {
namespace {

CacheLayout layout_with(std::vector<int32_t> windows, int32_t groups = 1) {
  const auto layers = static_cast<int32_t>(windows.size());
  return {
      .type = KvType::f32, .layers = layers, .head_groups = groups, .heads_per_group = 1, .head_size = 8, .windows = std::move(windows)};
}

// A text on its way through the cache. Each slot is stamped with all tokens up to its own, as keys and values are made of them.
class Text {
 public:
  Text(PrefixCache& prefixes, const CacheLayout& layout, PagePool& pool, std::string space)
      : prefixes_(prefixes), space_(std::move(space)), cache_(layout, pool) {}
  ~Text() {
    cache_.truncate(0);
    lease_.cut(0);
  }
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;

  int32_t attach(std::span<const int32_t> tokens) {
    const int32_t found = prefixes_.attach(space_, tokens, cache_, lease_);
    for (const int32_t token : tokens.first(found)) know(token);
    return found;
  }
  // False: the pool has too few pages.
  bool extend(std::span<const int32_t> tokens) {
    const auto first = static_cast<int32_t>(tokens_.size());
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), first);
    for (int layer = 0; layer < cache_.layout().layers; ++layer) {
      if (!cache_.append(layer, positions).ok()) return false;
    }
    for (const int32_t token : tokens) know(token);
    for (int layer = 0; layer < cache_.layout().layers; ++layer) {
      for (int group = 0; group < cache_.layout().head_groups; ++group) {
        for (const int32_t position : positions) {
          const uint64_t stamp = stamp_of(position, layer, group);
          std::memcpy(cache_.page_for_write(layer, group, position) + place(position), &stamp, sizeof(stamp));
        }
      }
    }
    return true;
  }
  void publish() { prefixes_.publish(space_, tokens_, cache_, lease_); }
  void publish_all() { prefixes_.publish_all(space_, tokens_, cache_, lease_); }

  // Every slot that the next token may look at holds what this text put there, or would have.
  void check() const {
    const auto length = static_cast<int32_t>(tokens_.size());
    for (int layer = 0; layer < cache_.layout().layers; ++layer) {
      const int32_t window = cache_.layout().windows[layer];
      for (int group = 0; group < cache_.layout().head_groups; ++group) {
        const KeyValueView view = cache_.view(layer, group);
        ASSERT_EQ(view.length, length);
        ASSERT_EQ(view.positions, nullptr);
        for (int32_t position = window == 0 ? 0 : std::max(0, length - window + 1); position < length; ++position) {
          const std::byte* page = view.pages[position / page_tokens];
          ASSERT_NE(page, nullptr) << "layer " << layer << ", position " << position << " of " << length;
          uint64_t stamp = 0;
          std::memcpy(&stamp, page + place(position), sizeof(stamp));
          ASSERT_EQ(stamp, stamp_of(position, layer, group)) << "layer " << layer << ", position " << position << " of " << length;
        }
      }
    }
  }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  const SequenceCache& cache() const { return cache_; }
  const PrefixLease& lease() const { return lease_; }

 private:
  static size_t place(int32_t position) { return position % page_tokens * sizeof(uint64_t); }
  void know(int32_t token) {
    tokens_.push_back(token);
    hashes_.push_back((hashes_.empty() ? 1 : hashes_.back()) * 6364136223846793005u + static_cast<uint64_t>(token) + 1442695040888963407u);
  }
  uint64_t stamp_of(int32_t position, int layer, int group) const { return hashes_[position] ^ static_cast<uint64_t>(layer * 16 + group); }

  PrefixCache& prefixes_;
  std::string space_;
  SequenceCache cache_;
  PrefixLease lease_;
  std::vector<int32_t> tokens_;
  std::vector<uint64_t> hashes_;
};

std::vector<int32_t> numbers(int32_t first, int32_t count) {
  std::vector<int32_t> all(count);
  std::iota(all.begin(), all.end(), first);
  return all;
}

struct World {
  explicit World(CacheLayout its_layout, int64_t pages = 64)
      : layout(std::move(its_layout)), pool(*PagePool::create(layout_page_bytes(layout), pages)), prefixes(layout, pool) {}

  // Reads a text to its end and lets go of it.
  void read(std::span<const int32_t> tokens, const std::string& space = "") {
    Text text(prefixes, layout, pool, space);
    const int32_t known = text.attach(tokens);
    ASSERT_TRUE(text.extend(tokens.subspan(known)));
    text.publish_all();
    text.check();
  }
  int32_t known(std::span<const int32_t> tokens, const std::string& space = "") { return prefixes.match(space, tokens).tokens; }

  CacheLayout layout;
  PagePool pool;
  PrefixCache prefixes;
};

TEST(PrefixCache, ATextThatWasReadIsKnownToItsLastToken) {
  World world(layout_with({0, 0}, 2));
  const std::vector<int32_t> tokens = numbers(0, 150);
  EXPECT_EQ(world.known(tokens), 0);
  world.read(tokens);
  EXPECT_EQ(world.known(tokens), 150);
  EXPECT_EQ(world.known(numbers(0, 149)), 149);
  EXPECT_EQ(world.known(numbers(0, 300)), 150);
  EXPECT_EQ(world.known(numbers(1, 100)), 0);
  EXPECT_EQ(world.prefixes.idle_pages(), 3 * 4);
  EXPECT_EQ(world.pool.free_pages() + world.prefixes.idle_pages(), world.pool.pages());
  Text text(world.prefixes, world.layout, world.pool, "");
  EXPECT_EQ(text.attach(tokens), 150);
  text.check();
  EXPECT_EQ(text.lease().tokens(), 128);
  EXPECT_EQ(world.prefixes.pinned_pages(), 2 * 4);
  EXPECT_EQ(world.prefixes.pages(text.lease()), 2 * 4);
  EXPECT_EQ(world.prefixes.shared_pages(text.lease()), 0);
}

TEST(PrefixCache, TextsPartWhereTheyDiffer) {
  World world(layout_with({0}));
  std::vector<int32_t> one = numbers(0, 200), other = one;
  other[100] = 9999;
  world.read(one);
  EXPECT_EQ(world.known(other), 100);
  world.read(other);
  EXPECT_EQ(world.known(one), 200);
  EXPECT_EQ(world.known(other), 200);
  // The first page is there once.
  EXPECT_EQ(world.prefixes.idle_pages(), 4 + 3);
}

TEST(PrefixCache, ALongerTailTakesTheShorterOnesPlace) {
  World world(layout_with({0}));
  world.read(numbers(0, 20));
  world.read(numbers(0, 40));
  EXPECT_EQ(world.prefixes.idle_pages(), 1);
  world.read(numbers(0, 30));
  EXPECT_EQ(world.prefixes.idle_pages(), 1);
  EXPECT_EQ(world.known(numbers(0, 64)), 40);
  world.read(numbers(0, 64));
  EXPECT_EQ(world.prefixes.idle_pages(), 1);
  EXPECT_EQ(world.known(numbers(0, 64)), 64);
}

TEST(PrefixCache, SpacesKnowNothingOfEachOther) {
  World world(layout_with({0}));
  world.read(numbers(0, 100), "a");
  EXPECT_EQ(world.known(numbers(0, 100), "b"), 0);
  EXPECT_EQ(world.known(numbers(0, 100)), 0);
  EXPECT_EQ(world.known(numbers(0, 100), "a"), 100);
  world.prefixes.clear();
  EXPECT_EQ(world.known(numbers(0, 100), "a"), 0);
  EXPECT_EQ(world.pool.free_pages(), world.pool.pages());
}

TEST(PrefixCache, EqualTextsReadAtOnceEndWithTheSamePages) {
  World world(layout_with({0}));
  const std::vector<int32_t> tokens = numbers(0, 128);
  Text one(world.prefixes, world.layout, world.pool, ""), other(world.prefixes, world.layout, world.pool, "");
  ASSERT_TRUE(one.extend(tokens) && other.extend(tokens));
  EXPECT_EQ(world.pool.free_pages(), world.pool.pages() - 4);
  one.publish();
  other.publish();
  EXPECT_EQ(world.pool.free_pages(), world.pool.pages() - 2);
  EXPECT_EQ(one.cache().page(0, 0, 1), other.cache().page(0, 0, 1));
  EXPECT_EQ(world.prefixes.shared_pages(one.lease()), 2);
  EXPECT_EQ(world.prefixes.pages(one.lease()), world.prefixes.shared_pages(one.lease()));
  other.check();
}

TEST(PrefixCache, WhoContinuesATailGetsACopyOfIt) {
  World world(layout_with({0}));
  world.read(numbers(0, 10));
  Text one(world.prefixes, world.layout, world.pool, ""), other(world.prefixes, world.layout, world.pool, "");
  EXPECT_EQ(one.attach(numbers(0, 10)), 10);
  EXPECT_EQ(other.attach(numbers(0, 8)), 8);
  ASSERT_TRUE(one.extend(numbers(500, 3)) && other.extend(numbers(700, 3)));
  one.check();
  other.check();
  Text third(world.prefixes, world.layout, world.pool, "");
  EXPECT_EQ(third.attach(numbers(0, 10)), 10);
  third.check();
}

TEST(PrefixCache, WhatWasUsedLeastRecentlyGoesFirst) {
  World world(layout_with({0}), 6);
  world.read(numbers(0, 128));
  world.read(numbers(1000, 128));
  world.read(numbers(0, 128));
  world.read(numbers(2000, 192));  // wants three pages, two are free
  EXPECT_EQ(world.known(numbers(0, 128)), 128);
  EXPECT_EQ(world.known(numbers(1000, 128)), 64);
  EXPECT_EQ(world.known(numbers(2000, 192)), 192);
}

TEST(PrefixCache, PagesInUseStay) {
  World world(layout_with({0}), 4);
  Text text(world.prefixes, world.layout, world.pool, "");
  ASSERT_TRUE(text.extend(numbers(0, 128)));
  text.publish();
  Text greedy(world.prefixes, world.layout, world.pool, "");
  EXPECT_TRUE(greedy.extend(numbers(1000, 128)));
  EXPECT_FALSE(greedy.extend(numbers(2000, 1)));
  text.check();
  EXPECT_EQ(world.known(numbers(0, 128)), 128);
}

TEST(PrefixCache, AWindowNeedsOnlyTheLastPages) {
  World world(layout_with({0, 70}));
  {
    // In steps, so that the ring lets go of its pages.
    Text text(world.prefixes, world.layout, world.pool, "");
    for (int32_t first = 0; first < 640; first += 40) ASSERT_TRUE(text.extend(numbers(first, 40)));
    text.publish_all();
  }
  Text text(world.prefixes, world.layout, world.pool, "");
  EXPECT_EQ(text.attach(numbers(0, 700)), 640);
  text.check();
  // In the middle the window's keys are gone.
  EXPECT_EQ(world.known(numbers(0, 400)), 0);
}

TEST(PrefixCache, WithoutRoomForACopyThePagesBeforeItServe) {
  World world(layout_with({0}), 3);
  world.read(numbers(0, 80));
  Text holder(world.prefixes, world.layout, world.pool, "");
  ASSERT_TRUE(holder.extend(numbers(1000, 64)));
  Text text(world.prefixes, world.layout, world.pool, "");
  EXPECT_EQ(text.attach(numbers(0, 80)), 64);
  text.check();
}

// Texts that begin alike, part and end in any order, in a pool that is too small for them: whatever is found is right, no page is lost, and
// those in use are never more than they are accounted for.
TEST(PrefixCache, ARandomWorkloadKeepsItsBooks) {
  std::mt19937 random(5);
  for (const auto& windows : {std::vector<int32_t>{0}, {0, 100, 0}, {90, 200}}) {
    World world(layout_with(windows, 2), 160);
    std::list<Text> texts;
    int64_t found_tokens = 0;
    for (int step = 0; step < 4000; ++step) {
      const int what = static_cast<int>(random() % 10);
      if (texts.empty() || (what == 0 && texts.size() < 6)) {
        // Few choices at a time, so that many texts begin alike.
        std::vector<int32_t> tokens;
        for (int part = 0; part < 4; ++part) {
          const auto choice = static_cast<int32_t>(random() % 3);
          for (int32_t i = 0; i < 20 + 37 * choice; ++i) tokens.push_back(choice * 1000 + i);
        }
        texts.emplace_back(world.prefixes, world.layout, world.pool, random() % 2 == 0 ? "a" : "b");
        found_tokens += texts.back().attach(tokens);
        texts.back().check();
        if (!texts.back().extend(std::span(tokens).subspan(texts.back().tokens().size()))) texts.pop_back();
        continue;
      }
      auto text = std::next(texts.begin(), static_cast<int64_t>(random() % texts.size()));
      if (what < 6) {
        if (!text->extend(numbers(static_cast<int32_t>(random() % 3) * 1000, 1 + static_cast<int32_t>(random() % 30)))) texts.erase(text);
      } else if (what < 9) {
        text->publish();
        text->check();
      } else {
        text->publish_all();
        texts.erase(text);
      }
      // What is not free is idle, pinned, or some text's own; a window's pages in use by nobody but the tree are given back on demand.
      int64_t own = 0;
      for (const Text& each : texts) own += each.cache().pages_held();
      const int64_t taken = world.pool.pages() - world.pool.free_pages() - world.prefixes.idle_pages();
      if (windows == std::vector<int32_t>{0}) {
        ASSERT_LE(taken, own);
      }
      ASSERT_GE(taken, 0);
      ASSERT_GE(world.prefixes.idle_pages(), 0);
    }
    for (const Text& text : texts) text.check();
    texts.clear();
    EXPECT_EQ(world.prefixes.pinned_pages(), 0);
    EXPECT_EQ(world.pool.free_pages() + world.prefixes.idle_pages(), world.pool.pages());
    world.prefixes.clear();
    EXPECT_EQ(world.pool.free_pages(), world.pool.pages());
    EXPECT_GT(found_tokens, 1000);
  }
}

}  // namespace
}  // namespace onset
