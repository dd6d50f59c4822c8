#include "onset/attend/lserve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "onset/attend/named.h"
#include "onset/base/aligned.h"
#include "onset/compute/attention.h"
#include "onset/compute/page_format.h"

namespace onset {
namespace {

constexpr int head_size = 16, query_heads = 4, kv_heads = 2, of_one = query_heads / kv_heads;

// One layer's keys and queries; rows come in any pieces.
class Text {
 public:
  explicit Text(int32_t length, uint32_t seed = 1)
      : queries(static_cast<size_t>(length) * query_heads * head_size),
        keys(static_cast<size_t>(length) * kv_heads * head_size),
        positions_(static_cast<size_t>(length)),
        layout_{.type = KvType::f32, .layers = 1, .heads_per_group = kv_heads, .head_size = head_size, .windows = {0}},
        pool_(*PagePool::create(layout_page_bytes(layout_), (length + page_tokens - 1) / page_tokens)),
        cache_(layout_, pool_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (auto* numbers : {&queries, &keys}) {
      for (float& number : *numbers) number = normal(random);
    }
    std::iota(positions_.begin(), positions_.end(), 0);
  }

  // Stores rows up to `end` and says what the rows from `begin` on see.
  AttendContext rows(int32_t begin, int32_t end) {
    const int32_t stored = cache_.length(0);
    if (end > stored) {
      EXPECT_TRUE(cache_.append(0, std::span(positions_).subspan(static_cast<size_t>(stored), static_cast<size_t>(end - stored))).ok());
      for (int32_t i = stored; i < end; ++i) {
        const float* key = keys.data() + static_cast<size_t>(i) * kv_heads * head_size;
        write_slot(Isa::generic, KvType::f32, kv_heads, head_size, cache_.page_for_write(0, 0, i), i % page_tokens, key, key);
      }
    }
    return {.query_heads = query_heads,
            .scale = 0.25f,
            .positions = std::span(positions_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
            .cache = &cache_,
            .queries = queries.data() + static_cast<size_t>(begin) * query_heads * head_size,
            .query_stride = query_heads * head_size};
  }

  // Plain Quest: the upper bound over the tokens first..last-1.
  double bound(int32_t position, int head, int32_t first, int32_t last) const {
    double sum = 0;
    for (int d = 0; d < head_size; ++d) {
      const double q =
          queries[(static_cast<size_t>(position) * query_heads + static_cast<size_t>(head)) * head_size + static_cast<size_t>(d)];
      double best = -1e30;
      for (int32_t key = first; key < last; ++key) best = std::max(best, q * key_number(key, head / of_one, d));
      sum += best;
    }
    return sum;
  }
  double key_number(int32_t key, int kv_head, int d) const {
    return keys[(static_cast<size_t>(key) * kv_heads + static_cast<size_t>(kv_head)) * head_size + static_cast<size_t>(d)];
  }

  std::vector<float> queries, keys;

 private:
  std::vector<int32_t> positions_;
  CacheLayout layout_;
  PagePool pool_;
  SequenceCache cache_;
};

std::shared_ptr<const StreamingHeads> heads(bool first, bool second) {
  return std::make_shared<StreamingHeads>(StreamingHeads{{first, second}});
}

// Keys that a row of a plan sees, by the plan's own rules.
std::vector<int32_t> seen(const AttentionPlan& plan, int head, int32_t row, int32_t position) {
  std::vector<int32_t> keys;
  const AttentionPattern& pattern = plan.pattern(head);
  for (const PlanBlock& block : pattern.blocks) {
    if (row < block.row_begin || row >= block.row_end) continue;
    for (const KeyRange& range : block.ranges) {
      for (int32_t key = range.begin; key < std::min(range.end, position + 1); ++key) {
        if (pattern.window == 0 || key < pattern.sink || position - key < pattern.window) keys.push_back(key);
      }
    }
  }
  return keys;
}

LServeOptions small_options() {
  LServeOptions options;
  options.sink = 64;
  options.prefill = 192;
  options.local = 128;
  options.budget = 256;
  options.one_selection = false;
  return options;
}

// Prompt rows: the Lambda mask to the token, and everything; any pieces of any text.
TEST(LServe, PromptsSeeSinkAndBandOrEverything) {
  const int32_t length = 700;
  for (const int32_t piece : {700, 64, 37, 1}) {
    Text text(length);
    LServeAttend policy(heads(true, false), small_options(), length);
    for (int32_t begin = 0; begin < length; begin += piece) {
      const int32_t end = std::min(begin + piece, length);
      const AttendContext context = text.rows(begin, end);
      const AttentionPlan& plan = policy.plan(context);
      ASSERT_EQ(check_plan(plan, end - begin, end, query_heads), "");
      for (int32_t position = begin; position < end; ++position) {
        std::vector<int32_t> band;
        for (int32_t key = 0; key <= position; ++key) {
          if (key < 64 || position - key < 192) band.push_back(key);
        }
        ASSERT_EQ(seen(plan, 0, position - begin, position), band) << piece << " " << position;
        ASSERT_EQ(static_cast<int32_t>(seen(plan, 2, position - begin, position).size()), position + 1);
      }
    }
  }
}

// Check 3 and 5: what an answer's rows read; their own page is always there; one choice for `interval` positions.
TEST(LServe, AnswersReadTheBudgetWhateverTheLength) {
  const int32_t prompt = 500, length = 1500;
  for (const bool one : {false, true}) {
    Text text(length);
    LServeOptions options = small_options();
    options.one_selection = one;
    LServeAttend policy(heads(true, false), options, prompt);
    policy.plan(text.rows(0, prompt));
    std::vector<int32_t> before;
    for (int32_t position = prompt; position < length; ++position) {
      const AttentionPlan& plan = policy.plan(text.rows(position, position + 1));
      ASSERT_EQ(check_plan(plan, 1, position + 1, query_heads), "");
      std::vector<int32_t> near;
      for (int32_t key = 0; key <= position; ++key) {
        if (key < 64 || position - key < 128) near.push_back(key);
      }
      ASSERT_EQ(seen(plan, 0, 0, position), near);
      const std::vector<int32_t> keys = seen(plan, 2, 0, position), other = seen(plan, 3, 0, position);
      ASSERT_EQ(static_cast<int32_t>(keys.size()), (256 / 64 - 1) * 64 + position % 64 + 1);
      ASSERT_EQ(keys.back(), position);
      if (one) ASSERT_EQ(keys, other);
      const std::vector<int32_t> chosen(keys.begin(), keys.end() - position % 64 - 1);
      if (position % 4 != 0 && position > prompt) ASSERT_EQ(chosen, before) << position;
      before = chosen;
    }
  }
}

// Check 2: with logical pages as long as pages the choice is plain Quest's.
TEST(LServe, ChoosesThePagesWithTheLargestBounds) {
  for (const int32_t logical : {64, 16, 1}) {
    Text text(1000, 5);
    LServeOptions options = small_options();
    options.interval = 1;
    options.logical = logical;
    LServeAttend policy(heads(false, false), options, 900);
    policy.plan(text.rows(0, 900));
    for (int32_t position = 900; position < 1000; ++position) {
      const AttentionPlan& plan = policy.plan(text.rows(position, position + 1));
      for (int head = 0; head < query_heads; ++head) {
        std::vector<std::pair<double, int32_t>> order;
        for (int32_t page = 0; page < position / 64; ++page) {
          double best = -1e30;
          for (int32_t key = page * 64; key < (page + 1) * 64; key += logical)
            best = std::max(best, text.bound(position, head, key, key + logical));
          order.push_back({best, page});
        }
        std::sort(order.rbegin(), order.rend());
        if (order[2].first - order[3].first < 0.1) continue;  // half precision may see it otherwise
        std::vector<int32_t> expected;
        for (int i = 0; i < 3; ++i) expected.push_back(order[static_cast<size_t>(i)].second);
        std::sort(expected.begin(), expected.end());
        std::vector<int32_t> pages;
        for (const int32_t key : seen(plan, head, 0, position)) {
          if (key % 64 == 0 && key / 64 < position / 64) pages.push_back(key / 64);
        }
        EXPECT_EQ(pages, expected) << position << " " << head << " " << logical;
      }
    }
  }
}

// Rows of an answer that are read again, in any pieces, see what they saw.
TEST(LServe, AnswersReadAgainSeeTheSame) {
  const int32_t prompt = 310, length = 600;
  std::vector<std::vector<int32_t>> expected;
  for (const int32_t piece : {1, 7, 64, 290}) {
    Text text(length);
    LServeAttend policy(heads(false, true), small_options(), prompt);
    std::vector<std::vector<int32_t>> all;
    // Pieces from before the prompt's end.
    policy.plan(text.rows(0, 250));
    for (int32_t begin = 250; begin < length; begin += piece) {
      const int32_t end = std::min(begin + piece, length);
      const AttentionPlan& plan = policy.plan(text.rows(begin, end));
      for (int32_t position = begin; position < end; ++position) {
        for (int head = 0; head < query_heads; ++head) all.push_back(seen(plan, head, position - begin, position));
      }
    }
    if (expected.empty()) expected = all;
    EXPECT_EQ(all, expected) << piece;
  }
}

TEST(LServe, BestPagesAreTheLargestAndOfEqualsTheFirst) {
  EXPECT_EQ(best_pages(std::vector<float>{-1, 3, 2, 3, -0.0f, 0}, 3), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(best_pages(std::vector<float>{-1, 3, 2, 3, -0.0f, 0}, 4), (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_EQ(best_pages(std::vector<float>{NAN, -1, -2}, 1), (std::vector<int32_t>{0}));
  EXPECT_EQ(best_pages(std::vector<float>{1, 2}, 5), (std::vector<int32_t>{0, 1}));
}

TEST(LServe, RefusesWhatMakesNoSense) {
  const auto sentence = [](const char* text) { return parse_attend(text).status().message(); };
  EXPECT_EQ(sentence("lserve:sink=100"), "attend lserve:sink=100: sink is 100, expected a multiple of the page of 64 tokens");
  EXPECT_EQ(sentence("lserve:budget=0"), "attend lserve:budget=0: budget is 0, expected a number from 64 to 134217728");
  EXPECT_EQ(sentence("lserve:budget=100"), "attend lserve:budget=100: budget is 100, expected a multiple of the page of 64 tokens");
  EXPECT_EQ(sentence("lserve:interval=5"), "attend lserve:interval=5: interval is 5, expected a number that divides the page of 64 tokens");
  EXPECT_EQ(sentence("lserve:logical=24"), "attend lserve:logical=24: logical is 24, expected a number that divides the page of 64 tokens");
  EXPECT_EQ(sentence("lserve:sparsity=1.5"), "attend lserve:sparsity=1.5: sparsity is 1.5, expected a number from 0 to 1");
  EXPECT_EQ(sentence("lserve:local=1024"), "attend lserve:local=1024: local is 1024, expected no more than the 512 of prefill");
  EXPECT_EQ(
      sentence("lserve:depth=1"),
      "attend lserve:depth=1: depth is not known: expected sparsity=, sink=, prefill=, local=, budget=, interval=, logical=, group= or "
      "seed=");
  EXPECT_EQ(sentence("lserve:nobody"), "attend lserve:nobody: there is no built-in table nobody: expected smollm2-135m or gemma-3-270m");
  const auto spec = parse_attend("lserve:sparsity=0.5");
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(
      (*spec)->check({.layers = 5, .query_heads = 8, .kv_heads = 4}).message(),
      "attend lserve:sparsity=0.5: no built-in table has the model's 5 layers and 4 KV heads, expected lserve:TABLE (onset search-heads "
      "--streaming makes one) or sparsity=0");
  EXPECT_TRUE((*parse_attend("lserve:sparsity=0"))->check({.layers = 5, .query_heads = 8, .kv_heads = 4}).ok());
  EXPECT_EQ((*parse_attend("lserve:smollm2-135m"))->check({.layers = 30, .query_heads = 8, .kv_heads = 4}).message(),
            "attend lserve:smollm2-135m: layer 0 of the table has 3 KV heads, the model 4");
}

}  // namespace
}  // namespace onset
