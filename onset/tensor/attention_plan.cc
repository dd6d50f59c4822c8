#include "onset/tensor/attention_plan.h"

#include <fmt/format.h>

#include <cmath>

#include "onset/tensor/key_value_view.h"

namespace onset {
namespace {

std::string check_block(const PlanBlock& block, int32_t rows, int32_t length) {
  if (block.row_begin < 0 || block.row_begin >= block.row_end || block.row_end > rows) {
    return fmt::format("rows {}..{} of a block lie outside the {} query rows", block.row_begin, block.row_end, rows);
  }
  int32_t end = 0;
  for (const KeyRange& range : block.ranges) {
    if (range.begin < end || range.end <= range.begin || range.end > length) {
      return fmt::format("key range {}..{} overlaps another or lies outside the {} slots", range.begin, range.end, length);
    }
    end = range.end;
  }
  size_t at = 0;
  int32_t previous = -1;
  for (const int32_t column : block.columns) {
    if (column <= previous || column >= length) {
      return fmt::format("key column {} is out of order or outside the {} slots", column, length);
    }
    previous = column;
    while (at < block.ranges.size() && block.ranges[at].end <= column) ++at;
    if (at < block.ranges.size() && block.ranges[at].begin <= column) {
      return fmt::format("key column {} also lies in a key range", column);
    }
  }
  return "";
}

}  // namespace

const char* kv_type_name(KvType type) {
  switch (type) {
    case KvType::f32:
      return "f32";
    case KvType::f16:
      return "f16";
    case KvType::bf16:
      return "bf16";
    case KvType::int8:
      return "int8";
    case KvType::int4:
      return "int4";
  }
  return "unknown";
}

AttentionPlan dense_plan(int32_t rows, int32_t length, int query_heads, float scale, int32_t window) {
  AttentionPattern pattern{.scale = scale, .causal = true, .window = window, .sink = 0, .blocks = {}};
  pattern.blocks.push_back({.row_begin = 0, .row_end = rows, .ranges = {{0, length}}, .columns = {}});
  return {.patterns = {std::move(pattern)}, .pattern_of_head = std::vector<uint16_t>(static_cast<size_t>(query_heads), 0)};
}

std::string check_plan(const AttentionPlan& plan, int32_t rows, int32_t length, int query_heads) {
  if (plan.pattern_of_head.size() != static_cast<size_t>(query_heads)) {
    return fmt::format("the plan names {} query heads, the layer has {}", plan.pattern_of_head.size(), query_heads);
  }
  for (const uint16_t index : plan.pattern_of_head) {
    if (index >= plan.patterns.size()) return fmt::format("there is no pattern {}", index);
  }
  for (const AttentionPattern& pattern : plan.patterns) {
    if (!std::isfinite(pattern.scale)) return "a scale is not finite";
    if (pattern.window < 0 || pattern.sink < 0) return "a window or sink is negative";
    int32_t row = 0;
    for (const PlanBlock& block : pattern.blocks) {
      if (block.row_begin < row) return fmt::format("two blocks cover row {}", block.row_begin);
      if (std::string wrong = check_block(block, rows, length); !wrong.empty()) return wrong;
      row = block.row_end;
    }
  }
  if (plan.beside.empty()) return "";
  if (plan.beside.size() > 1 || !plan.beside.front().beside.empty()) return "more than one plan lies beside it";
  if (!std::isfinite(plan.beside_factor) || !std::isfinite(plan.beside_shift)) return "a factor or shift of the merge is not finite";
  return check_plan(plan.beside.front(), rows, length, query_heads);
}

}  // namespace onset
