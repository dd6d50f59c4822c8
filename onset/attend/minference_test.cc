#include "onset/attend/minference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "onset/attend/named.h"
#include "onset/attend/pattern_search.h"
#include "onset/compute/attention.h"
#include "onset/compute/page_format.h"

namespace onset {
namespace {

constexpr int head_size = 16, query_heads = 4, kv_heads = 2;

// One layer's keys, values and queries, for all rows of a prompt.
class Prompt {
 public:
  explicit Prompt(int32_t length, uint32_t seed = 1)
      : queries(static_cast<size_t>(length) * query_heads * head_size),
        keys(static_cast<size_t>(length) * kv_heads * head_size),
        values(keys.size()),
        positions(static_cast<size_t>(length)),
        layout_{.type = KvType::f32, .layers = 1, .heads_per_group = kv_heads, .head_size = head_size, .windows = {0}},
        pool_(*PagePool::create(layout_page_bytes(layout_), (length + page_tokens - 1) / page_tokens)),
        cache_(layout_, pool_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    for (auto* numbers : {&queries, &keys, &values}) {
      for (float& number : *numbers) number = normal(random);
    }
    std::iota(positions.begin(), positions.end(), 0);
  }

  // After the last change of keys and values.
  void store() {
    EXPECT_TRUE(cache_.append(0, positions).ok());
    for (size_t i = 0; i < positions.size(); ++i) {
      write_slot(Isa::generic, KvType::f32, kv_heads, head_size, cache_.page_for_write(0, 0, static_cast<int32_t>(i)),
                 static_cast<int>(i % page_tokens), keys.data() + i * kv_heads * head_size, values.data() + i * kv_heads * head_size);
    }
  }

  AttendContext rows(int32_t begin, int32_t end) const {
    return {.query_heads = query_heads,
            .scale = 0.25f,
            .positions = std::span(positions).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
            .cache = &cache_,
            .queries = queries.data() + static_cast<size_t>(begin) * query_heads * head_size,
            .query_stride = query_heads * head_size};
  }

  double score(int32_t row, int head, int32_t key) const {
    double sum = 0;
    for (int d = 0; d < head_size; ++d) {
      sum += double{queries[(static_cast<size_t>(row) * query_heads + head) * head_size + d]} *
             double{keys[(static_cast<size_t>(key) * kv_heads + head / 2) * head_size + d]};
    }
    return 0.25 * sum;
  }

  std::vector<float> run(const AttendContext& context, const AttentionPlan& plan) const {
    const auto count = static_cast<int32_t>(context.positions.size());
    std::vector<float> output(static_cast<size_t>(count) * query_heads * head_size);
    EXPECT_EQ(check_plan(plan, count, cache_.length(0), query_heads), "");
    const std::vector<AttentionCall> calls = {{.plan = &plan,
                                               .keys = cache_.view(0),
                                               .rows = count,
                                               .query_heads = query_heads,
                                               .positions = context.positions.data(),
                                               .queries = context.queries,
                                               .query_stride = context.query_stride,
                                               .output = output.data(),
                                               .output_stride = query_heads * head_size}};
    AttentionTasks tasks = attention_tasks(calls, 1);
    AlignedVector<std::byte> scratch(attention_scratch_bytes(calls));
    for (size_t task = 0; task < tasks.tasks.size(); ++task) run_attention(Isa::generic, calls, tasks, task, scratch.data());
    finish_attention(calls, tasks);
    return output;
  }

  std::vector<float> queries, keys, values;
  std::vector<int32_t> positions;

 private:
  CacheLayout layout_;
  PagePool pool_;
  SequenceCache cache_;
};

bool visits(const AttentionPattern& pattern, int32_t row, int32_t key) {
  for (const PlanBlock& block : pattern.blocks) {
    if (row < block.row_begin || row >= block.row_end) continue;
    for (const KeyRange& range : block.ranges) {
      if (range.begin <= key && key < range.end) return true;
    }
    return std::find(block.columns.begin(), block.columns.end(), key) != block.columns.end();
  }
  return false;
}

// Of the pairs that are causal.
double visited_pairs_share(const AttentionPlan& plan, int32_t length) {
  std::vector<int32_t> positions(static_cast<size_t>(length));
  std::iota(positions.begin(), positions.end(), 0);
  return static_cast<double>(visited_pairs(plan, positions)) / (query_heads * 0.5 * length * (length + 1.0));
}

std::shared_ptr<const HeadTable> table_of(const std::vector<HeadPattern>& heads) {
  HeadTable table;
  table.layers = {heads};
  return std::make_shared<HeadTable>(std::move(table));
}

const std::vector<HeadPattern> mixed = {
    {HeadShape::vertical_slash, 40, 12}, {HeadShape::a_shape, 10, 100}, {HeadShape::block_sparse, 2, 0}, {HeadShape::dense, 0, 0}};
const MInferenceOptions small = {.every = 128, .from = 128, .estimating_rows = 64, .first_columns = 4, .near_diagonals = 3};

// Checks 3 and 11: each query head's output is the softmax over what its own plan visits, heads of one KV head apart.
TEST(MInference, IsTheSoftmaxOverWhatIsVisited) {
  for (const int32_t length : {400, 449, 512}) {
    Prompt prompt(length);
    prompt.store();
    MInferenceAttend policy(table_of(mixed), small, length);
    const AttendContext context = prompt.rows(0, length);
    const AttentionPlan plan = policy.plan(context);
    const std::vector<float> output = prompt.run(context, plan);
    EXPECT_LT(visited_pairs_share(plan, length), 0.9);
    for (int32_t row = 0; row < length; row += 7) {
      for (int head = 0; head < query_heads; ++head) {
        double sum = 0;
        std::vector<double> expected(head_size);
        for (int32_t key = 0; key <= row; ++key) {
          if (!visits(plan.pattern(head), row, key)) continue;
          const double weight = std::exp(prompt.score(row, head, key));
          sum += weight;
          for (int d = 0; d < head_size; ++d)
            expected[d] += weight * prompt.values[(static_cast<size_t>(key) * kv_heads + head / 2) * head_size + d];
        }
        ASSERT_GT(sum, 0) << row;
        for (int d = 0; d < head_size; ++d) {
          ASSERT_NEAR(output[(static_cast<size_t>(row) * query_heads + head) * head_size + d], expected[d] / sum, 1e-5)
              << row << " " << head;
        }
      }
    }
  }
}

// A row's plan does not depend on how whole blocks come.
TEST(MInference, BlocksMayComeOneByOne) {
  constexpr int32_t length = 449;
  Prompt prompt(length);
  prompt.store();
  MInferenceAttend all(table_of(mixed), small, length);
  const AttendContext context = prompt.rows(0, length);
  const std::vector<float> expected = prompt.run(context, all.plan(context));
  MInferenceAttend pieces(table_of(mixed), small, length);
  for (int32_t begin = 0; begin < length; begin += small.every) {
    const int32_t end = std::min(begin + small.every, length);
    const AttendContext piece = prompt.rows(begin, end);
    const std::vector<float> output = prompt.run(piece, pieces.plan(piece));
    for (size_t i = 0; i < output.size(); ++i) {
      ASSERT_EQ(output[i], expected[static_cast<size_t>(begin) * query_heads * head_size + i]) << begin;
    }
  }
}

// Check 1, with the sparse plans really made.
TEST(MInference, FullBudgetsAreDense) {
  constexpr int32_t length = 400;
  Prompt prompt(length);
  prompt.store();
  const AttendContext context = prompt.rows(0, length);
  const std::vector<float> dense = prompt.run(context, dense_plan(length, length, query_heads, context.scale));
  for (const HeadPattern& full : {HeadPattern{HeadShape::vertical_slash, length, length}, HeadPattern{HeadShape::a_shape, 0, length},
                                  HeadPattern{HeadShape::block_sparse, 7, 0}}) {
    MInferenceOptions options = small;
    options.from = 0;
    MInferenceAttend policy(table_of(std::vector<HeadPattern>(query_heads, full)), options, length);
    const AttentionPlan plan = policy.plan(context);
    EXPECT_GT(plan.patterns[0].blocks.size(), 1u);
    EXPECT_EQ(prompt.run(context, plan), dense) << static_cast<int>(full.shape);
  }
}

// Check 4.
TEST(MInference, EstimatesAreSumsOfSoftmaxRows) {
  constexpr int32_t length = 333, rows = 64;
  Prompt prompt(length);
  prompt.store();
  const AttendContext context = prompt.rows(100, length);
  HeadEstimator estimator(context);
  for (int head = 0; head < query_heads; ++head) {
    std::vector<float> column, diagonal;
    estimator.estimate(head, length - 100, rows, 0, column, diagonal);
    std::vector<double> columns(length), diagonals(length);
    for (int32_t row = length - rows; row < length; ++row) {
      double sum = 0;
      for (int32_t key = 0; key <= row; ++key) sum += std::exp(prompt.score(row, head, key));
      for (int32_t key = 0; key <= row; ++key) {
        const double p = std::exp(prompt.score(row, head, key)) / sum;
        columns[key] += p;
        diagonals[row - key] += p;
      }
    }
    for (int32_t i = 0; i < length; ++i) {
      ASSERT_NEAR(column[i], columns[i], 1e-5);
      ASSERT_NEAR(diagonal[i], diagonals[i], 1e-5);
    }
    EXPECT_NEAR(std::accumulate(column.begin(), column.end(), 0.0), rows, 1e-3);
    EXPECT_NEAR(std::accumulate(diagonal.begin(), diagonal.end(), 0.0), rows, 1e-3);
  }
}

// Check 5: tiles whose keys go with the queries are found.
TEST(MInference, BlockSparseFindsPlantedTiles) {
  constexpr int32_t length = 640;
  Prompt prompt(length);
  for (float& query : prompt.queries) query = 0.1f * query + 1;
  for (const int32_t tile : {1, 4, 7}) {
    for (size_t i = 0; i < size_t{page_tokens} * kv_heads * head_size; ++i) {
      prompt.keys[static_cast<size_t>(tile) * page_tokens * kv_heads * head_size + i] += 2;
    }
  }
  prompt.store();
  MInferenceOptions options = small;
  options.from = 0;
  MInferenceAttend policy(table_of(std::vector<HeadPattern>(query_heads, {HeadShape::block_sparse, 3, 0})), options, length);
  const AttentionPlan plan = policy.plan(prompt.rows(0, length));
  const PlanBlock& last = plan.patterns[0].blocks.back();
  ASSERT_EQ(last.ranges.size(), 3u);
  EXPECT_EQ(last.ranges[0].begin, 64);
  EXPECT_EQ(last.ranges[1].begin, 256);
  EXPECT_EQ(last.ranges[2].begin, 448);
}

// Check 12: what is short, what is an answer, and what is no number.
TEST(MInference, IsDenseWhereThereIsLittle) {
  Prompt prompt(300);
  prompt.queries[250 * query_heads * head_size] = NAN;
  prompt.store();
  MInferenceAttend policy(table_of(mixed), small, 260);
  for (const auto& [begin, end] : {std::pair{0, 1}, std::pair{0, 128}, std::pair{256, 260}, std::pair{260, 261}, std::pair{260, 300}}) {
    const AttendContext context = prompt.rows(begin, end);
    const AttentionPlan& plan = policy.plan(context);
    for (const uint16_t pattern : plan.pattern_of_head) {
      ASSERT_EQ(plan.patterns[pattern].blocks.size(), 1u) << begin;
      EXPECT_EQ(plan.patterns[pattern].blocks[0].ranges.size(), 1u);
    }
  }
  const AttendContext context = prompt.rows(128, 256);
  EXPECT_EQ(check_plan(policy.plan(context), 128, 300, query_heads), "");
}

// Check 6: heads that look in one way only are found to, and no candidate costs much more than another.
TEST(PatternSearch, FindsTheShapeOfAHead) {
  constexpr int32_t length = 2048;
  Prompt prompt(length, 3);
  // Head 0: the neighbours alone. Its KV head is head 1's too, which looks at far columns.
  const auto key = [&](int32_t position, int head) {
    return prompt.keys.data() + (static_cast<size_t>(position) * kv_heads + head) * head_size;
  };
  const auto query = [&](int32_t position, int head) {
    return prompt.queries.data() + (static_cast<size_t>(position) * query_heads + head) * head_size;
  };
  for (int32_t position = 0; position < length; ++position) {
    std::fill_n(key(position, 0), head_size, 0.0f);
    // A turning pair: near positions go together.
    const double angle = position * 0.002;
    key(position, 0)[0] = static_cast<float>(std::cos(angle));
    key(position, 0)[1] = static_cast<float>(std::sin(angle));
    if (position % 64 == 37) key(position, 0)[2] = 1;
    for (const int head : {0, 1}) std::fill_n(query(position, head), head_size, 0.0f);
    query(position, 0)[0] = static_cast<float>(160 * std::cos(angle));
    query(position, 0)[1] = static_cast<float>(160 * std::sin(angle));
    query(position, 1)[2] = 60;
  }
  prompt.store();
  PatternSearchOptions options;
  options.length = length;
  options.inference.every = 512;
  PatternFindings findings;
  PatternSearch search(options, 1, query_heads, findings);
  search.plan(prompt.rows(1024, length));
  ASSERT_EQ(findings.layers_done, 1);
  const HeadTable table = best_table(findings, options, true);
  ASSERT_EQ(table.layers[0].size(), size_t{query_heads});
  EXPECT_EQ(table.layers[0][1].shape, HeadShape::vertical_slash);
  const auto& trials = findings.trials[0][0];
  double near = 0, tiles = 0;
  for (const PatternTrial& trial : trials) {
    if (trial.target != target_slots(length)) continue;
    EXPECT_NEAR(trial.slots, trial.target, 0.3 * trial.target);
    if (trial.pattern.shape == HeadShape::a_shape) near = trial.pattern.score;
    if (trial.pattern.shape == HeadShape::vertical_slash) tiles = std::max(tiles, trial.pattern.score);
  }
  EXPECT_LE(near, tiles);
  // What is shared out costs no more in all, and lies nearer in all.
  const HeadTable shared = best_table(findings, options, false);
  double even_distance = 0, shared_distance = 0;
  for (int head = 0; head < query_heads; ++head) {
    even_distance += table.layers[0][head].score;
    shared_distance += shared.layers[0][head].score;
  }
  EXPECT_LE(shared_distance, even_distance * 1.1);
  options.slash_alone = true;
  const HeadTable slash = best_table(findings, options);
  for (const HeadPattern& head : slash.layers[0]) EXPECT_EQ(head.shape, HeadShape::vertical_slash);
  EXPECT_EQ(search.plan(prompt.rows(0, 100)).patterns.size(), 1u);
}

}  // namespace
}  // namespace onset
