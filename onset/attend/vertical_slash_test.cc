#include "onset/attend/vertical_slash.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <limits>
#include <random>
#include <set>

#include "onset/tensor/key_value_view.h"

namespace onset {
namespace {

// Check 2: what is asked for is covered, nothing twice, no column that a row of the block could not see.
void expect_covered(const VerticalSlash& chosen, int32_t begin, int32_t end) {
  std::vector<PlanBlock> blocks;
  append_vertical_slash(chosen, 7, begin, end, blocks);
  int32_t row = 7;
  for (const PlanBlock& block : blocks) {
    ASSERT_EQ(block.row_begin, row);
    row = block.row_end;
    const int32_t first = begin + block.row_begin - 7, last = begin + block.row_end - 7;
    ASSERT_EQ(first / page_tokens, (last - 1) / page_tokens);
    std::set<int32_t> keys;
    for (const KeyRange& range : block.ranges) {
      ASSERT_LT(range.begin, range.end);
      for (int32_t key = range.begin; key < range.end; ++key) ASSERT_TRUE(keys.insert(key).second);
    }
    for (const int32_t column : block.columns) {
      ASSERT_TRUE(keys.insert(column).second);
      ASSERT_LT(column, first);
    }
    ASSERT_LT(*keys.rbegin(), last);
    for (int32_t position = first; position < last; ++position) {
      for (const int32_t column : chosen.columns) ASSERT_TRUE(column > position || keys.count(column) == 1);
      for (const int32_t distance : chosen.distances) ASSERT_TRUE(distance > position || keys.count(position - distance) == 1);
    }
  }
  ASSERT_EQ(row, 7 + end - begin);
}

TEST(VerticalSlash, CoversWhatIsAskedForAndNothingTwice) {
  rc::check("covered", [] {
    const int32_t end = *rc::gen::inRange(1, 900), begin = *rc::gen::inRange(0, end);
    std::set<int32_t> columns, distances = {0};
    for (int i = *rc::gen::inRange(0, 80); i > 0; --i) columns.insert(*rc::gen::inRange(0, end));
    for (int i = *rc::gen::inRange(0, 20); i > 0; --i) distances.insert(*rc::gen::inRange(0, end));
    expect_covered({{columns.begin(), columns.end()}, {distances.begin(), distances.end()}}, begin, end);
  });
}

TEST(VerticalSlash, ATileOfManyColumnsIsVisitedAsAWhole) {
  VerticalSlash chosen{.columns = {}, .distances = {0}};
  for (int32_t column = 64; column < 80; ++column) chosen.columns.push_back(column);
  chosen.columns.push_back(200);
  std::vector<PlanBlock> blocks;
  append_vertical_slash(chosen, 0, 512, 576, blocks);
  ASSERT_EQ(blocks.size(), 1u);
  ASSERT_EQ(blocks[0].ranges.size(), 2u);
  EXPECT_EQ(blocks[0].ranges[0].begin, 64);
  EXPECT_EQ(blocks[0].ranges[0].end, 128);
  EXPECT_EQ(blocks[0].columns, std::vector<int32_t>{200});
  EXPECT_EQ(computed_slots(blocks), 3 * 64);
}

// Check 5: planted columns and diagonals are those that are chosen.
TEST(VerticalSlash, ChoosesTheLargestSums) {
  std::vector<float> column(1000, 0.001f), diagonal(1000, 0.001f);
  const std::vector<int32_t> hot = {401, 517, 640, 800, 999};
  for (const int32_t each : hot) column[each] = 2;
  for (const int32_t each : {300, 555, 700}) diagonal[each] = 3;
  const VerticalSlash chosen =
      choose_vertical_slash(column, diagonal, {.columns = 5, .diagonals = 4, .first_columns = 0, .near_diagonals = 1});
  EXPECT_EQ(chosen.columns, hot);
  EXPECT_EQ(chosen.distances, (std::vector<int32_t>{0, 300, 555, 700}));
}

TEST(VerticalSlash, TheFirstColumnsAndNearestDiagonalsComeFirst) {
  std::vector<float> column(300, 0.0f), diagonal(300, 0.0f);
  column[200] = diagonal[200] = 5;
  const VerticalSlash chosen =
      choose_vertical_slash(column, diagonal, {.columns = 31, .diagonals = 20, .first_columns = 30, .near_diagonals = 64});
  ASSERT_EQ(chosen.columns.size(), 31u);
  EXPECT_EQ(chosen.columns[29], 29);
  EXPECT_EQ(chosen.columns[30], 200);
  // Fewer than are forced: the nearest of them, itself first.
  ASSERT_EQ(chosen.distances.size(), 20u);
  EXPECT_EQ(chosen.distances[0], 0);
  EXPECT_EQ(chosen.distances[19], 19);
}

// Check 12: sums that are not numbers choose something defined.
TEST(VerticalSlash, NotANumberCountsAsNothing) {
  const std::vector<float> sums(100, std::numeric_limits<float>::quiet_NaN());
  const VerticalSlash chosen = choose_vertical_slash(sums, sums, {.columns = 3, .diagonals = 0, .first_columns = 0, .near_diagonals = 0});
  EXPECT_EQ(chosen.columns, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(chosen.distances, std::vector<int32_t>{0});
  expect_covered(chosen, 0, 100);
}

}  // namespace
}  // namespace onset
