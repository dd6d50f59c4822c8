#include "onset/attend/parallel_contexts.h"

#include <algorithm>
#include <cmath>

namespace onset {

Status check_parallel_contexts(const ParallelContextsOptions& options) {
  if (!(options.temperature > 0) || !std::isfinite(options.temperature)) {
    return error(Code::invalid_argument, "the temperature of parallel contexts is {}, expected a number above 0", options.temperature);
  }
  if (!(options.scale >= 0) || !std::isfinite(options.scale)) {
    return error(Code::invalid_argument, "the scale of parallel contexts is {}, expected 0 or more", options.scale);
  }
  if (!std::isfinite(options.shift)) {
    return error(Code::invalid_argument, "the shift of parallel contexts is {}, expected a finite number", options.shift);
  }
  return {};
}

bool is_parallel_contexts(const std::string& name) {
  return std::find(parallel_contexts_names.begin(), parallel_contexts_names.end(), name) != parallel_contexts_names.end();
}

ParallelContextsOptions parallel_contexts_step(const std::string& name, ParallelContextsOptions options) {
  const auto step = std::find(parallel_contexts_names.begin(), parallel_contexts_names.end(), name) - parallel_contexts_names.begin();
  options.shared_prefix = step >= 1;
  if (step < 2) options.temperature = 1;
  if (step < 3) {
    options.scale = 1;
    options.shift = 0;
  }
  return options;
}

const AttentionPlan& ParallelContextsAttend::plan(const AttendContext& context) {
  const auto rows = static_cast<int32_t>(context.positions.size());
  plan_ = dense_plan(rows, context.cache->length(context.layer, context.group), context.query_heads, context.scale);
  std::vector<KeyRange>& own = plan_.patterns[0].blocks[0].ranges;
  own[0].begin = first_own_slot_;
  if (prefix_.end > prefix_.begin) own.insert(own.begin(), prefix_);

  // Every context key is seen by every row, wherever it lies: contexts share positions.
  AttentionPattern pattern{.scale = context.scale / options_.temperature, .causal = false, .window = 0, .sink = 0, .blocks = {}};
  pattern.blocks.push_back({.row_begin = 0, .row_end = rows, .ranges = contexts_, .columns = {}});
  plan_.beside.resize(1);
  plan_.beside[0].patterns.assign(1, std::move(pattern));
  plan_.beside[0].pattern_of_head.assign(static_cast<size_t>(context.query_heads), 0);
  plan_.beside_factor = options_.scale * options_.temperature;
  plan_.beside_shift = options_.shift;
  return plan_;
}

}  // namespace onset
