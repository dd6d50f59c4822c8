#include "onset/attend/policy.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace onset {
namespace {

constexpr int query_heads = 2;

// A sequence of one layer whose last rows are asked about.
class Sequence {
 public:
  explicit Sequence(int32_t length)
      : layout_{.type = KvType::f32, .layers = 1, .head_groups = 1, .heads_per_group = 1, .head_size = 8, .windows = {0}},
        pool_(*PagePool::create(layout_page_bytes(layout_), 8)),
        cache_(layout_, pool_) {
    grow(length);
  }
  void grow(int32_t count) {
    std::vector<int32_t> positions(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), cache_.length(0));
    ASSERT_TRUE(cache_.append(0, positions).ok());
  }
  AttendContext last(int32_t rows, int32_t window = 0) {
    positions_.resize(static_cast<size_t>(rows));
    std::iota(positions_.begin(), positions_.end(), cache_.length(0) - rows);
    return {.query_heads = query_heads, .scale = 0.5f, .window = window, .positions = positions_, .cache = &cache_};
  }

 private:
  CacheLayout layout_;
  PagePool pool_;
  SequenceCache cache_;
  std::vector<int32_t> positions_;
};

// The slots that a row sees, by the plan's definition. A slot's position is its number.
std::set<int32_t> seen(const AttentionPlan& plan, const AttendContext& context, int32_t row) {
  std::set<int32_t> slots;
  const AttentionPattern& pattern = plan.patterns.at(plan.pattern_of_head.at(0));
  const int32_t position = context.positions[static_cast<size_t>(row)];
  for (const PlanBlock& block : pattern.blocks) {
    if (row < block.row_begin || row >= block.row_end) continue;
    for (const KeyRange& range : block.ranges) {
      for (int32_t slot = range.begin; slot < range.end; ++slot) {
        const bool past = !pattern.causal || slot <= position;
        const bool near = pattern.window == 0 || slot > position - pattern.window || slot < pattern.sink;
        if (past && near) slots.insert(slot);
      }
    }
  }
  return slots;
}

std::set<int32_t> slots(int32_t begin, int32_t end) {
  std::set<int32_t> all;
  for (int32_t slot = begin; slot < end; ++slot) all.insert(slot);
  return all;
}

TEST(DenseAttend, SeesAllThatCameBeforeInTheModelsWindow) {
  Sequence sequence(70);
  DenseAttend policy;
  AttendContext context = sequence.last(3);
  EXPECT_EQ(check_plan(policy.plan(context), 3, 70, query_heads), "");
  for (int32_t row = 0; row < 3; ++row) EXPECT_EQ(seen(policy.plan(context), context, row), slots(0, 68 + row));
  EXPECT_EQ(policy.plan(context).patterns[0].scale, 0.5f);

  // The plan is kept only as long as nothing it depends on changes.
  context = sequence.last(3, 10);
  EXPECT_EQ(seen(policy.plan(context), context, 2), slots(60, 70));
  sequence.grow(1);
  context = sequence.last(1, 10);
  EXPECT_EQ(seen(policy.plan(context), context, 0), slots(61, 71));
  context.scale = 0.25f;
  EXPECT_EQ(policy.plan(context).patterns[0].scale, 0.25f);
  context.query_heads = 4;
  EXPECT_EQ(policy.plan(context).pattern_of_head.size(), 4u);
}

TEST(WindowAttend, SeesABandAndTheSinks) {
  Sequence sequence(70);
  WindowAttend policy(20, 4);
  AttendContext context = sequence.last(2);
  EXPECT_EQ(check_plan(policy.plan(context), 2, 70, query_heads), "");
  std::set<int32_t> expected = slots(49, 69);
  expected.merge(slots(0, 4));
  EXPECT_EQ(seen(policy.plan(context), context, 0), expected);

  context = sequence.last(2, 8);  // the model's own window is narrower
  expected = slots(62, 70);
  expected.merge(slots(0, 4));
  EXPECT_EQ(seen(policy.plan(context), context, 1), expected);
}

TEST(PackedAttend, SeesItsOwnSlots) {
  Sequence sequence(70);
  PackedAttend policy(64);
  AttendContext context = sequence.last(6);
  const AttentionPlan& plan = policy.plan(context);
  EXPECT_EQ(check_plan(plan, 6, 70, query_heads), "");
  for (int32_t row = 0; row < 6; ++row) EXPECT_EQ(seen(plan, context, row), slots(64, 65 + row));
}

TEST(BlindAttend, SeesNobody) {
  Sequence sequence(70);
  BlindAttend policy;
  AttendContext context = sequence.last(2);
  const AttentionPlan& plan = policy.plan(context);
  EXPECT_EQ(check_plan(plan, 2, 70, query_heads), "");
  EXPECT_EQ(plan.pattern_of_head.size(), static_cast<size_t>(query_heads));
  EXPECT_TRUE(seen(plan, context, 0).empty());
}

}  // namespace
}  // namespace onset
