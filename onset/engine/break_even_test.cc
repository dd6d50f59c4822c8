#include "onset/engine/break_even.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

// A store in this process' memory.
class MapStore : public ChunkStore {
 public:
  const char* tier() const override { return "map"; }
  std::unique_ptr<StoredChunk> find(const std::string& key, const ChunkIdentity& identity) override {
    const std::lock_guard lock(mutex_);
    const auto found = chunks_.find(key);
    if (found == chunks_.end()) return nullptr;
    auto chunk = std::make_unique<Chunk>();
    chunk->data = found->second;
    chunk->page = identity.page_bytes();
    chunk->layers = identity.layers;
    return chunk;
  }
  Status put(const ChunkToStore& chunk) override {
    const std::lock_guard lock(mutex_);
    ++puts;
    if (!refuses) chunks_[chunk_key(chunk.identity, chunk.text)] = {chunk.pages.begin(), chunk.pages.end()};
    return {};
  }
  Result<std::vector<std::string>> keys() override { return std::vector<std::string>(); }
  Result<ChunkText> text(const std::string&, const ChunkIdentity&) override { return error(Code::not_found, "it keeps no texts"); }
  ChunkStoreStatistics statistics() const override { return {.failure = refuses ? "no room" : ""}; }
  void erase(const std::string& key) {
    const std::lock_guard lock(mutex_);
    chunks_.erase(key);
  }
  size_t size() const { return chunks_.size(); }
  int puts = 0;
  bool refuses = false;

 private:
  struct Chunk : StoredChunk {
    int64_t bytes() const override { return static_cast<int64_t>(data.size()); }
    Status read_layer(int32_t layer, std::span<std::byte* const> pages) override {
      const std::byte* from = data.data() + layer * (data.size() / layers);
      for (std::byte* target : pages) {
        std::copy_n(from, page, target);
        from += page;
      }
      return {};
    }
    std::vector<std::byte> data;
    size_t page = 0, layers = 1;
  };
  std::mutex mutex_;
  std::map<std::string, std::vector<std::byte>> chunks_;
};

class MeasuredBreakEven : public ::testing::Test {
 protected:
  void SetUp() override { make(4096); }
  void make(int64_t pool_tokens) {
    EngineOptions options = test_options();
    options.pool_tokens = pool_tokens;
    options.chunk_stores = {store};
    engine = make_engine(std::move(options));
    // Tiers by name, to be changed by tests.
    tiers = {{.name = "memory"},
             {.name = "map",
              .store = store.get(),
              .after =
                  [this](const std::string& key) {
                    store->erase(key);
                    return Status();
                  }},
             {.name = "never", .store = store.get(), .before = [](const std::string&) { return Result<bool>(false); }}};
  }
  std::shared_ptr<MapStore> store = std::make_shared<MapStore>();
  std::unique_ptr<Engine> engine;
  std::vector<MeasuredTier> tiers;
};

TEST_F(MeasuredBreakEven, EveryTierIsAskedInEveryRound) {
  tiers.back().after = tiers[1].after;
  const auto measured = measure_break_even(*engine, tiers, {.tokens = {30, 200}, .repeat = 3});
  ASSERT_TRUE(measured.ok()) << measured.status().message();
  ASSERT_EQ(measured->size(), 2u);
  for (const ChunkTimes& times : *measured) {
    EXPECT_EQ(times.tokens, &times == measured->data() ? 30 : 200);
    EXPECT_EQ(times.alone_seconds.size(), 3u);
    EXPECT_EQ(times.compute_seconds.size(), 3u);
    ASSERT_EQ(times.tiers.size(), 3u);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(times.tiers[i].first_token_seconds.size(), 3u);
      for (size_t round = 0; round < 3; ++round) {
        EXPECT_GT(times.tiers[i].load_seconds[round], 0);
        EXPECT_LT(times.tiers[i].load_seconds[round], times.tiers[i].first_token_seconds[round]);
      }
      // One page of 64 slots holds 31 tokens, four hold 201, in every layer and group.
      const ChunkIdentity identity = chunk_identity("", engine->model().cache_layout(engine->kv_type()));
      EXPECT_EQ(times.tiers[i].bytes,
                (times.tokens == 30 ? 1 : 4) * identity.layers * identity.head_groups * static_cast<int64_t>(identity.page_bytes()));
    }
    EXPECT_TRUE(times.tiers[2].first_token_seconds.empty()) << "it cannot be measured";
    EXPECT_GT(delay_seconds(times, times.compute_seconds), 0);
  }
  EXPECT_EQ(store->size(), 0u) << "nothing is left";
  // Of each length: what was read, a chunk for each of 1 + 3 rounds, and the one with which the last tier gave up.
  EXPECT_EQ(store->puts, 2 * (1 + 4 + 1));
  expect_no_pages(*engine);
}

TEST_F(MeasuredBreakEven, WhatIsWrongIsSaid) {
  const auto refusal = [&](BreakEvenOptions options) {
    options.repeat = 1;
    return measure_break_even(*engine, tiers, options).status().message();
  };
  EXPECT_EQ(refusal({.tokens = {5, 0}}), "a chunk of 0 tokens cannot be measured: expected 1 to 508");
  EXPECT_EQ(refusal({.tokens = {510}}), "a chunk of 510 tokens cannot be measured: expected 1 to 508");
  EXPECT_EQ(measure_break_even(*engine, tiers, {.tokens = {5}, .repeat = 0}).status().message(), "repeat is 0, expected 1 or more");
  store->refuses = true;
  EXPECT_EQ(refusal({.tokens = {30}}), "map does not keep a chunk of 30 tokens: no room");
  // What is written is lost before it is loaded.
  store->refuses = false;
  tiers[1].before = [&](const std::string& key) {
    store->erase(key);
    return Result<bool>(true);
  };
  EXPECT_EQ(refusal({.tokens = {30}, .seed = 2}),
            "map: a chunk of 30 tokens came from elsewhere: the pool is too small to keep it, or the store has failed");
}

TEST(BreakEvenDelay, IsTheDifferenceOfMedians) {
  const ChunkTimes times{.alone_seconds = {0.1, 0.3, 0.2}, .compute_seconds = {1, 5, 2}};
  EXPECT_NEAR(delay_seconds(times, times.compute_seconds), 1.8, 1e-12);
  EXPECT_EQ(delay_seconds(times, std::vector<double>{0.1}), 1e-6);
}

TEST(BreakEvenShape, IsTheModels) {
  const auto engine = make_engine(test_options());
  const ModelShape shape = shape_of(engine->model());
  EXPECT_EQ(shape.name, "stories260K");
  EXPECT_EQ(shape.layers, 5);
  EXPECT_EQ(shape.hidden, 64);
  EXPECT_EQ(shape.query_heads, 8);
  EXPECT_EQ(shape.kv_heads, 4);
  EXPECT_EQ(shape.head_size, 8);
  EXPECT_EQ(shape.feed_forward, 172);
  EXPECT_EQ(bytes_of_number(KvType::f32, 64), 4);
  EXPECT_EQ(bytes_of_number(KvType::bf16, 64), 2);
  EXPECT_EQ(bytes_of_number(KvType::int8, 128), 1 + 3 * 4 / 256.0);
}

}  // namespace
}  // namespace onset
