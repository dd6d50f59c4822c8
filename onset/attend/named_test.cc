#include "onset/attend/named.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "onset/attend/block_sparse.h"

namespace onset {
namespace {

// A cache of one layer with `length` slots, whose last rows are asked about.
struct Sequence {
  explicit Sequence(int32_t length, int32_t kv_heads = 1)
      : layout{.type = KvType::f32, .layers = 1, .heads_per_group = kv_heads, .head_size = 8, .windows = {0}},
        pool(*PagePool::create(layout_page_bytes(layout), 64)),
        cache(layout, pool),
        positions(static_cast<size_t>(length)) {
    std::iota(positions.begin(), positions.end(), 0);
    EXPECT_TRUE(cache.append(0, positions).ok());
  }
  AttendContext last(int32_t rows, int32_t query_heads = 1) const {
    return {.query_heads = query_heads, .scale = 0.5f, .positions = std::span(positions).last(rows), .cache = &cache};
  }
  CacheLayout layout;
  PagePool pool;
  SequenceCache cache;
  std::vector<int32_t> positions;
};

bool plan_sees(const AttentionPattern& pattern, int32_t row, int32_t position, int32_t slot) {
  if (slot > position) return false;
  for (const PlanBlock& block : pattern.blocks) {
    if (row < block.row_begin || row >= block.row_end) continue;
    for (const KeyRange& range : block.ranges) {
      if (range.begin <= slot && slot < range.end) return true;
    }
  }
  return false;
}

// LongGen, check 3.
TEST(BlockPlan, IsTheMask) {
  std::mt19937 random(1);
  const auto any = [&](int32_t least, int32_t most) { return std::uniform_int_distribution<int32_t>(least, most)(random); };
  for (int trial = 0; trial < 100; ++trial) {
    const Sequence sequence(any(1, 700), 2);
    const BlockPattern pattern{.sink = any(0, 3), .local = any(1, 4), .stride = any(0, 5), .offset = any(0, 7)};
    const int32_t step = pattern.stride > 0 ? any(0, 2) : 0;
    const auto length = static_cast<int32_t>(sequence.positions.size());
    const AttendContext context = sequence.last(any(1, length), 4);
    const AttentionPlan plan = block_plan(pattern, context, step);
    const auto rows = static_cast<int32_t>(context.positions.size());
    ASSERT_EQ(check_plan(plan, rows, length, 4), "");
    int64_t pairs = 0;
    for (int head = 0; head < 4; ++head) {
      BlockPattern own = pattern;
      own.offset += step * (head / 2);
      for (int32_t row = 0; row < rows; ++row) {
        const int32_t position = context.positions[row], block = position / page_tokens;
        for (int32_t slot = 0; slot < length; ++slot) {
          const int32_t key = slot / page_tokens;
          const bool stripe = own.stride > 0 && (key + own.offset) % own.stride == 0;
          const bool want = slot <= position && (key < own.sink || stripe || block - key < own.local);
          ASSERT_EQ(plan_sees(plan.pattern(head), row, position, slot), want) << position << " " << slot;
          pairs += want;
        }
        ASSERT_TRUE(own.sees(block, block)) << "the diagonal";
      }
    }
    EXPECT_EQ(visited_pairs(plan, context.positions), pairs);
  }
}

// What a later query sees, every query between has seen: a cache never needs a page again.
TEST(BlockPattern, OnlyLosesBlocks) {
  const auto efficient = [](auto sees) {
    for (int query = 0; query < 40; ++query) {
      for (int key = 0; key <= query; ++key) {
        if (!sees(query, key) && sees(query + 1, key)) return false;
      }
    }
    return true;
  };
  for (int stride = 0; stride < 6; ++stride) {
    const BlockPattern pattern{.sink = 2, .local = 3, .stride = stride, .offset = 1};
    EXPECT_TRUE(efficient([&](int query, int key) { return pattern.sees(query, key); }));
    for (int64_t blocks = 1; blocks < 40; ++blocks) {
      int64_t held = 0;
      for (int64_t key = 0; key < blocks; ++key) held += pattern.sees(blocks - 1, key);
      EXPECT_EQ(pattern.kept(blocks, 1), held) << stride << " " << blocks;
    }
  }
  EXPECT_FALSE(efficient([](int query, int key) { return query == key || (query - key) % 3 == 0; }))
      << "it finds a pattern that comes back";
}

TEST(LongGen, TheMiddleLayersAreFull) {
  const auto full = [](int32_t count, int32_t layers) {
    std::vector<int32_t> found;
    for (int32_t layer = 0; layer < layers; ++layer) {
      if (long_gen_full({.full_layers = count}, layers, layer)) found.push_back(layer);
    }
    return found;
  };
  EXPECT_EQ(full(10, 30).front(), 10);
  EXPECT_EQ(full(10, 30).back(), 19);
  EXPECT_EQ(full(12, 32).front(), 10);
  EXPECT_EQ(full(12, 32).back(), 21);
  EXPECT_EQ(full(4, 4).size(), 4u);
  EXPECT_TRUE(full(0, 4).empty());
  EXPECT_FALSE(check_long_gen({.full_layers = 31}, 30).ok());
  EXPECT_FALSE(check_long_gen({.full_layers = -1}, 30).ok());
}

TEST(NamedAttend, ReadsWhatItsHeaderSays) {
  const AttendFacts facts{.layers = 6};
  for (const char* text :
       {"dense", "window:64", "window:1024:4", "longgen:2", "longgen:6:sink=64:window=448", "longgen:0:stride=4096:step=64"}) {
    const auto spec = parse_attend(text);
    ASSERT_TRUE(spec.ok()) << spec.status().message();
    EXPECT_EQ((*spec)->text(), text);
    EXPECT_TRUE((*spec)->check(facts).ok()) << text;
    EXPECT_NE((*spec)->make(facts), nullptr);
  }
  EXPECT_EQ(parse_long_gen("10")->pattern, (BlockPattern{.sink = 1, .local = 31}));
  EXPECT_EQ(parse_long_gen("10:stride=8192")->pattern, (BlockPattern{.sink = 0, .local = 16, .stride = 128}));
}

TEST(NamedAttend, RefusesWhatMakesNoSense) {
  for (const char* text : {"",
                           "dense:1",
                           "Dense",
                           "window",
                           "window:",
                           "window:0",
                           "window:-5",
                           "window:5:x",
                           "window:5:4:3",
                           "window:99999999999",
                           "longgen",
                           "longgen:",
                           "longgen:x",
                           "longgen:2:",
                           "longgen:2:window=100",
                           "longgen:2:window=0",
                           "longgen:2:window",
                           "longgen:2:step=64",
                           "longgen:2:offset=64",
                           "longgen:2:pad=64",
                           "longgen:2:sink=-64",
                           "minference:table.json"}) {
    const auto spec = parse_attend(text);
    ASSERT_FALSE(spec.ok()) << text;
    EXPECT_EQ(spec.status().message().substr(0, 6), "attend") << spec.status().message();
  }
  EXPECT_FALSE(parse_attend(std::string(5000, 'a')).ok());
  EXPECT_FALSE((*parse_attend("longgen:7"))->check({.layers = 6}).ok());
  EXPECT_FALSE((*parse_attend("longgen:2"))->check({.layers = 6, .windows = true}).ok());
  EXPECT_FALSE((*parse_attend("window:64"))->check({.layers = 6, .windows = true}).ok());
  EXPECT_FALSE((*parse_attend("window:64:0"))->check({.layers = 6, .patterns = true}).ok());
  EXPECT_TRUE((*parse_attend("window:64:0"))->check({.layers = 6, .windows = true}).ok());
  EXPECT_TRUE((*parse_attend("dense"))->check({.layers = 6, .windows = true, .patterns = true}).ok());
}

TEST(CountedAttend, CountsPairs) {
  const Sequence sequence(300);
  CountedAttend counted((*parse_attend("window:10:2"))->make({.layers = 1}));
  counted.plan(sequence.last(300, 3));
  int64_t visited = 0, dense = 0;
  for (int64_t position = 0; position < 300; ++position) {
    dense += position + 1;
    visited += position < 10 ? position + 1 : 10 + std::min<int64_t>(2, position - 9);
  }
  EXPECT_EQ(counted.counts().dense, 3 * dense);
  EXPECT_EQ(counted.counts().visited, 3 * visited);
}

}  // namespace
}  // namespace onset
