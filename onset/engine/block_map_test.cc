// The map of visited blocks is what the plans' masks say, pair by pair.
#include "onset/engine/block_map.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

constexpr int32_t story_layers = 5, story_heads = 8, tokens = 300;

// Asks for every pair of a query and a key, by position, whether the plan has it: the definition of attention_plan.h.
struct Mask {
  std::vector<int64_t> pairs = std::vector<int64_t>(int64_t{story_layers} * story_heads * tokens * tokens);
  int64_t& at(int32_t layer, int32_t head, int32_t query, int32_t key) {
    return pairs[((int64_t{layer} * story_heads + head) * tokens + query) * tokens + key];
  }

  void add(const AttendContext& context, const AttentionPlan& plan) {
    for (int32_t head = 0; head < context.query_heads; ++head) {
      const AttentionPattern& pattern = plan.pattern(head);
      for (const PlanBlock& block : pattern.blocks) {
        for (int32_t row = block.row_begin; row < block.row_end; ++row) add_row(context, pattern, block, head, context.positions[row]);
      }
    }
  }
  void add_row(const AttendContext& context, const AttentionPattern& pattern, const PlanBlock& block, int32_t head, int32_t query) {
    if (query >= tokens) return;
    const KeyValueView view = context.cache->view(context.layer, context.group);
    for (int32_t slot = 0; slot < view.length; ++slot) {
      const int32_t key = view.positions != nullptr ? view.positions[slot] : slot;
      const bool listed =
          std::any_of(block.ranges.begin(), block.ranges.end(), [&](const KeyRange& r) { return slot >= r.begin && slot < r.end; }) ||
          std::find(block.columns.begin(), block.columns.end(), slot) != block.columns.end();
      const bool band = pattern.window == 0 || key < pattern.sink || query - key < pattern.window;
      if (listed && band && key <= query) ++at(context.layer, context.group * context.query_heads + head, query, key);
    }
  }
};

class MaskedAttend : public AttendPolicy {
 public:
  MaskedAttend(std::unique_ptr<AttendPolicy> policy, Mask& mask) : policy_(std::move(policy)), mask_(&mask) {}
  const AttentionPlan& plan(const AttendContext& context) override {
    const AttentionPlan& plan = policy_->plan(context);
    mask_->add(context, plan);
    return plan;
  }

 private:
  std::unique_ptr<AttendPolicy> policy_;
  Mask* mask_;
};

class MaskedSpec : public AttendSpec {
 public:
  MaskedSpec(std::shared_ptr<const AttendSpec> spec, Mask& mask) : AttendSpec(spec->text()), spec_(std::move(spec)), mask_(&mask) {}
  Status check(const AttendFacts& facts) const override { return spec_->check(facts); }
  std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const override {
    return std::make_unique<MaskedAttend>(spec_->make(facts), *mask_);
  }
  bool stateless() const override { return spec_->stateless(); }
  int32_t block_rows() const override { return spec_->block_rows(); }
  bool allows_dropped_rows() const override { return spec_->allows_dropped_rows(); }

 private:
  std::shared_ptr<const AttendSpec> spec_;
  Mask* mask_;
};

std::vector<int32_t> all_layers() {
  return {0, 1, 2, 3, 4};
}

TEST(BlockMap, IsTheMaskOfThePlans) {
  for (const char* text : {"dense", "window:40:4", "longgen:1:sink=64:window=64", "longgen:1:stride=128:window=64:step=64",
                           "minference:every=64:from=64:vertical=20:slash=8"}) {
    for (const int32_t budget : {1024, 37}) {
      EngineOptions options = test_options();
      options.scheduling.token_budget = budget;
      const auto engine = make_engine(std::move(options));
      Mask mask;
      const auto spec = parse_attend(text);
      ASSERT_TRUE(spec.ok());
      const std::vector<int32_t> prompt = random_tokens(tokens, 1);
      const auto map = map_blocks(*engine, prompt, std::make_shared<MaskedSpec>(*spec, mask), nullptr, all_layers());
      ASSERT_TRUE(map.ok()) << map.status().message();
      ASSERT_EQ(map->blocks(), 5);
      for (int32_t layer = 0; layer < story_layers; ++layer) {
        EXPECT_EQ(map->rows(layer), tokens);
        int64_t in_layer = 0;
        for (int32_t head = 0; head < story_heads; ++head) {
          std::vector<int64_t> expected(25);
          for (int32_t query = 0; query < tokens; ++query) {
            for (int32_t key = 0; key <= query; ++key) expected[query / 64 * 5 + key / 64] += mask.at(layer, head, query, key);
          }
          for (int32_t i = 0; i < 25; ++i) {
            EXPECT_EQ(map->visited(layer, head, i / 5, i % 5), expected[i]) << text << " " << budget << " " << layer << " " << head;
            EXPECT_LE(expected[i], map->dense(layer, i / 5, i % 5));
            in_layer += expected[i];
          }
        }
        EXPECT_EQ(map->visited_in_layer(layer), in_layer);
      }
    }
  }
}

TEST(BlockMap, DenseVisitsWhatThereIs) {
  const auto engine = make_engine(test_options());
  const auto map = map_blocks(*engine, random_tokens(tokens, 2), nullptr, nullptr, {2});
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(map->dense(2), int64_t{tokens} * (tokens + 1) / 2);
  EXPECT_EQ(map->visited(2, 3), map->dense(2));
  EXPECT_EQ(map->dense(2, 1, 0), 64 * 64);
  EXPECT_EQ(map->dense(2, 1, 1), 64 * 65 / 2);
  EXPECT_EQ(map->dense(2, 0, 1), 0);
  EXPECT_EQ(map->dense(2, 4, 0), (tokens - 256) * 64);
  EXPECT_EQ(map->visited_in_layer(0), story_heads * map->dense(0));
}

// Of rows that are left, each sees those before it; the rows are where they are in the text.
TEST(BlockMap, CountsRowsThatWereLeft) {
  const auto engine = make_engine(test_options());
  const auto map = map_blocks(*engine, random_tokens(tokens, 3), nullptr, *named_select("lazyllm:1,3:0.5"), all_layers());
  ASSERT_TRUE(map.ok()) << map.status().message();
  const std::vector<int64_t> rows = {300, 150, 150, 75, 75};
  for (int32_t layer = 0; layer < story_layers; ++layer) {
    EXPECT_EQ(map->rows(layer), rows[layer]);
    EXPECT_EQ(map->visited_in_layer(layer), story_heads * rows[layer] * (rows[layer] + 1) / 2);
    for (int32_t i = 0; i < 25; ++i) EXPECT_LE(map->visited(layer, 0, i / 5, i % 5), map->dense(layer, i / 5, i % 5));
    EXPECT_GT(map->visited(layer, 0, 4, 4), 0);  // the last row stays
    EXPECT_GT(map->visited(layer, 0, 4, 0), 0);  // so does the first
  }
}

TEST(BlockMap, RecallIsTheShareOfTheSoftmax) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> prompt = random_tokens(tokens, 4);
  const auto dense = map_blocks(*engine, prompt, *parse_attend("dense"), nullptr, {1, 3}, true);
  const auto narrow = map_blocks(*engine, prompt, *parse_attend("window:40:4"), nullptr, {0, 3}, true);
  const auto wide = map_blocks(*engine, prompt, *parse_attend("window:150:4"), nullptr, {0, 3}, true);
  const auto whole = map_blocks(*engine, prompt, *parse_attend("window:300:4"), nullptr, {0, 3}, true);
  ASSERT_TRUE(dense.ok() && narrow.ok() && wide.ok() && whole.ok());
  for (int32_t head = 0; head < story_heads; ++head) {
    EXPECT_EQ(dense->recall(1, head), 1);
    EXPECT_NEAR(whole->recall(3, head), 1, 1e-6);
    EXPECT_LT(narrow->recall(0, head), wide->recall(0, head));  // both see the same keys in the first layer
    EXPECT_LT(wide->recall(0, head), 1);
    EXPECT_GT(narrow->recall(0, head), 0);
  }
}

TEST(BlockMap, RefusesLayersThatAreNotThere) {
  const auto engine = make_engine(test_options());
  for (const int32_t layer : {-1, 5}) {
    EXPECT_EQ(map_blocks(*engine, random_tokens(10, 1), nullptr, nullptr, {layer}).status().code(), Code::invalid_argument);
  }
}

}  // namespace
}  // namespace onset
