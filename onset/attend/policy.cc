#include "onset/attend/policy.h"

#include <algorithm>

#include "onset/attend/block_sparse.h"

namespace onset {

const AttentionPlan& DenseAttend::plan(const AttendContext& context) {
  if (context.blocks.any()) {
    rows_ = -1;
    return plan_ = block_plan(context.blocks, context);
  }
  const auto rows = static_cast<int32_t>(context.positions.size());
  const int32_t length = context.cache->length(context.layer, context.group);
  if (rows != rows_ || length != length_ || context.window != window_ || context.query_heads != query_heads_ || context.scale != scale_) {
    plan_ = dense_plan(rows, length, context.query_heads, context.scale, context.window);
    rows_ = rows, length_ = length, window_ = context.window;
    query_heads_ = context.query_heads, scale_ = context.scale;
  }
  return plan_;
}

const AttentionPlan& WindowAttend::plan(const AttendContext& context) {
  const int32_t window = context.window == 0 ? window_ : std::min(window_, context.window);
  plan_ = dense_plan(static_cast<int32_t>(context.positions.size()), context.cache->length(context.layer, context.group),
                     context.query_heads, context.scale, window);
  plan_.patterns[0].sink = sink_;
  return plan_;
}

const AttentionPlan& PackedAttend::plan(const AttendContext& context) {
  const auto rows = static_cast<int32_t>(context.positions.size());
  plan_ = dense_plan(rows, rows, context.query_heads, context.scale, context.window);
  for (PlanBlock& block : plan_.patterns[0].blocks) {
    for (KeyRange& range : block.ranges) range.begin += first_slot_, range.end += first_slot_;
  }
  return plan_;
}

const AttentionPlan& BlindAttend::plan(const AttendContext& context) {
  plan_.patterns.assign(1, AttentionPattern());
  plan_.pattern_of_head.assign(context.query_heads, 0);
  return plan_;
}

}  // namespace onset
