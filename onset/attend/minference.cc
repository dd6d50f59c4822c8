#include "onset/attend/minference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "onset/base/thread_pool.h"
#include "onset/compute/attention.h"
#include "onset/compute/page_format.h"

namespace onset {
namespace {

int32_t tile_floor(int32_t position) {
  return position / page_tokens * page_tokens;
}
int32_t tile_ceiling(int32_t position) {
  return (position + page_tokens - 1) / page_tokens * page_tokens;
}

// A query head's KV head within its group.
int kv_head_of(const AttendContext& context, int head) {
  return head / (context.query_heads / context.cache->layout().heads_per_group);
}

// The rows of one tile of queries, with one range of keys or two.
std::vector<PlanBlock> a_shape_blocks(const HeadPattern& pattern, const AttendContext& context, int32_t row_begin, int32_t row_end) {
  std::vector<PlanBlock> blocks;
  for (int32_t row = row_begin; row < row_end;) {
    const int32_t position = context.positions[row], next = tile_floor(position) + page_tokens;
    const int32_t rows = std::min(next - position, row_end - row), end = position + rows;
    const int32_t near = std::max(0, tile_floor(position - std::min(position, pattern.second - 1)));
    const int32_t sink = std::min(tile_ceiling(pattern.first), near);
    PlanBlock& block = blocks.emplace_back(PlanBlock{.row_begin = row, .row_end = row + rows, .ranges = {}, .columns = {}});
    if (sink == near) {
      block.ranges.push_back({0, end});
    } else {
      if (sink > 0) block.ranges.push_back({0, sink});
      block.ranges.push_back({near, end});
    }
    row += rows;
  }
  return blocks;
}

// The mean of the queries of rows begin..end-1.
std::vector<float> mean_query(const AttendContext& context, int head, int32_t begin, int32_t end, int32_t head_size) {
  std::vector<float> mean(static_cast<size_t>(head_size), 0.0f);
  for (int32_t row = begin; row < end; ++row) {
    const float* query = context.queries + row * context.query_stride + int64_t{head} * head_size;
    for (int32_t d = 0; d < head_size; ++d) mean[d] += query[d];
  }
  for (float& value : mean) value /= static_cast<float>(end - begin);
  return mean;
}

// The key tiles whose mean has the largest product with the mean query, ascending; of equals the first.
std::vector<int32_t> best_tiles(std::span<const float> query, const PooledKeys& pooled, int kv_head, int32_t tiles, int32_t count) {
  std::vector<float> scores(static_cast<size_t>(tiles));
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const std::span<const float> key = pooled.tile(tile, kv_head);
    float score = 0;
    for (size_t d = 0; d < query.size(); ++d) score += query[d] * key[d];
    scores[tile] = std::isnan(score) ? 0.0f : score;
  }
  std::vector<int32_t> order(static_cast<size_t>(tiles));
  std::iota(order.begin(), order.end(), 0);
  count = std::min(count, tiles);
  std::partial_sort(order.begin(), order.begin() + count, order.end(),
                    [&](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

// Algorithm 3: for each tile of queries the tiles of keys whose means go with its own.
std::vector<PlanBlock> block_sparse_blocks(const HeadPattern& pattern, const AttendContext& context, int head, int32_t row_begin,
                                           int32_t row_end, const PooledKeys& pooled) {
  const int32_t head_size = context.cache->layout().head_size;
  std::vector<PlanBlock> blocks;
  for (int32_t row = row_begin; row < row_end;) {
    const int32_t position = context.positions[row], own = position / page_tokens;
    const int32_t rows = std::min((own + 1) * page_tokens - position, row_end - row), end = position + rows;
    PlanBlock& block = blocks.emplace_back(PlanBlock{.row_begin = row, .row_end = row + rows, .ranges = {}, .columns = {}});
    const std::vector<float> query = mean_query(context, head, row, row + rows, head_size);
    for (const int32_t tile : best_tiles(query, pooled, kv_head_of(context, head), own + 1, pattern.first)) {
      const KeyRange range{tile * page_tokens, std::min((tile + 1) * page_tokens, end)};
      if (!block.ranges.empty() && block.ranges.back().end == range.begin) {
        block.ranges.back().end = range.end;
      } else {
        block.ranges.push_back(range);
      }
    }
    row += rows;
  }
  return blocks;
}

}  // namespace

int32_t target_slots(int64_t keys) {
  return static_cast<int32_t>(std::max<int64_t>(512, keys / 8));
}

HeadPattern scaled_pattern(const HeadTable& table, const HeadPattern& pattern, int64_t keys, double ratio) {
  const double grows = table.reference_length > 0 ? std::max(1.0, static_cast<double>(keys) / table.reference_length) : 1;
  const auto scaled = [&](int32_t budget) {
    return static_cast<int32_t>(std::clamp(std::round(budget * grows * ratio), budget > 0 ? 1.0 : 0.0, double(1 << 27)));
  };
  HeadPattern result = pattern;
  result.first = scaled(pattern.first);
  result.second = scaled(pattern.second);
  return result;
}

HeadEstimator::HeadEstimator(const AttendContext& context)
    : context_(context), scratch_(context.pool != nullptr ? static_cast<size_t>(context.pool->threads()) : 1) {}

void HeadEstimator::estimate(int head, int32_t row_end, int32_t rows, int worker, std::vector<float>& column,
                             std::vector<float>& diagonal) {
  const int32_t first = row_end - rows, keys = context_.positions[row_end - 1] + 1;
  const AttentionPlan plan = dense_plan(rows, keys, context_.query_heads, context_.scale);
  AttentionCall call{.plan = &plan,
                     .keys = context_.cache->view(context_.layer, context_.group),
                     .rows = rows,
                     .query_heads = context_.query_heads,
                     .positions = context_.positions.data() + first,
                     .queries = context_.queries + first * context_.query_stride,
                     .query_stride = context_.query_stride};
  call.keys.length = keys;
  AlignedVector<std::byte>& scratch = scratch_[worker];
  if (scratch.empty()) scratch.resize(attention_scratch_bytes({call}));
  column.assign(static_cast<size_t>(keys), 0.0f);
  diagonal.assign(static_cast<size_t>(keys), 0.0f);
  add_softmax_sums(context_.isa, call, head, column.data(), diagonal.data(), scratch.data());
}

void PooledKeys::extend(const AttendContext& context, int32_t keys) {
  const CacheLayout& layout = context.cache->layout();
  head_size_ = layout.head_size;
  heads_ = layout.heads_per_group;
  const size_t width = static_cast<size_t>(head_size_) * static_cast<size_t>(heads_);
  const int32_t first = keys_ / page_tokens, tiles = (keys + page_tokens - 1) / page_tokens;
  if (keys <= keys_) return;
  means_.resize(static_cast<size_t>(tiles) * width);
  const KeyValueView view = context.cache->view(context.layer, context.group);
  for_each(context, tiles - first, [&](int64_t i, int) {
    const int64_t tile = first + i;
    const auto slots = static_cast<int>(std::min<int64_t>(page_tokens, keys - tile * page_tokens));
    mean_key(layout.type, heads_, head_size_, view.pages[tile], slots, means_.data() + static_cast<size_t>(tile) * width);
  });
  keys_ = keys;
}

std::span<const float> PooledKeys::tile(int32_t tile, int kv_head) const {
  const size_t at =
      (static_cast<size_t>(tile) * static_cast<size_t>(heads_) + static_cast<size_t>(kv_head)) * static_cast<size_t>(head_size_);
  return {means_.data() + at, static_cast<size_t>(head_size_)};
}

std::vector<PlanBlock> pattern_blocks(const HeadPattern& pattern, const MInferenceOptions& options, const AttendContext& context, int head,
                                      int32_t row_begin, int32_t row_end, int worker, HeadEstimator& estimator, const PooledKeys& pooled) {
  const int32_t begin = context.positions[row_begin], end = context.positions[row_end - 1] + 1;
  switch (pattern.shape) {
    case HeadShape::dense:
      break;
    case HeadShape::a_shape:
      return a_shape_blocks(pattern, context, row_begin, row_end);
    case HeadShape::block_sparse:
      return block_sparse_blocks(pattern, context, head, row_begin, row_end, pooled);
    case HeadShape::vertical_slash: {
      std::vector<float> column, diagonal;
      estimator.estimate(head, row_end, std::min(options.estimating_rows, row_end - row_begin), worker, column, diagonal);
      const VerticalSlash chosen = choose_vertical_slash(column, diagonal,
                                                         {.columns = pattern.first,
                                                          .diagonals = pattern.second,
                                                          .first_columns = options.first_columns,
                                                          .near_diagonals = options.near_diagonals});
      std::vector<PlanBlock> blocks;
      append_vertical_slash(chosen, row_begin, begin, end, blocks);
      return blocks;
    }
  }
  return {{.row_begin = row_begin, .row_end = row_end, .ranges = {{0, end}}, .columns = {}}};
}

std::vector<MInferenceAttend::RowBlock> MInferenceAttend::row_blocks(const AttendContext& context) const {
  std::vector<RowBlock> blocks;
  const auto rows = static_cast<int32_t>(context.positions.size());
  for (int32_t row = 0; row < rows;) {
    const int32_t position = context.positions[row];
    const int64_t next = std::min<int64_t>((int64_t{position} / options_.every + 1) * options_.every, prompt_tokens_);
    const bool prompt = position < prompt_tokens_;
    const auto count = static_cast<int32_t>(std::min<int64_t>(prompt ? next - position : rows, rows - row));
    const bool sparse = prompt && position >= options_.from && count >= options_.estimating_rows;
    if (!sparse && !blocks.empty() && !blocks.back().sparse) {
      blocks.back().end += count;
    } else {
      blocks.push_back({row, row + count, sparse});
    }
    row += count;
  }
  return blocks;
}

const HeadPattern* MInferenceAttend::heads_of(const AttendContext& context) const {
  const std::vector<HeadPattern>& heads = table_->layers[context.layer];
  if (context.window > 0 || heads.empty()) return nullptr;
  return heads.data() + context.group * context.query_heads;
}

const AttentionPlan& MInferenceAttend::plan(const AttendContext& context) {
  const HeadPattern* heads = heads_of(context);
  if (heads == nullptr) return dense_.plan(context);
  const std::vector<RowBlock> blocks = row_blocks(context);
  if (blocks.size() == 1 && !blocks.front().sparse) return dense_.plan(context);
  const std::span<const HeadPattern> own(heads, static_cast<size_t>(context.query_heads));
  PooledKeys& pooled = pooled_[{context.layer, context.group}];
  const bool pools = std::any_of(own.begin(), own.end(), [](const HeadPattern& head) { return head.shape == HeadShape::block_sparse; });
  if (pools) pooled.extend(context, context.positions.back() + 1);

  const auto count = static_cast<int64_t>(blocks.size()) * context.query_heads;
  std::vector<std::vector<PlanBlock>> parts(static_cast<size_t>(count));
  HeadEstimator estimator(context);
  for_each(context, count, [&](int64_t i, int worker) {
    // The last blocks see most: they go first.
    const RowBlock& rows = blocks[blocks.size() - 1 - static_cast<size_t>(i / context.query_heads)];
    const auto head = static_cast<int>(i % context.query_heads);
    const int32_t keys = context.positions[rows.end - 1] + 1;
    const HeadPattern pattern = rows.sparse ? scaled_pattern(*table_, own[head], keys, options_.ratio) : HeadPattern{};
    parts[i] = pattern_blocks(pattern, options_, context, head, rows.begin, rows.end, worker, estimator, pooled);
  });
  plan_.patterns.assign(static_cast<size_t>(context.query_heads), {.scale = context.scale, .window = context.window, .blocks = {}});
  plan_.pattern_of_head.resize(static_cast<size_t>(context.query_heads));
  std::iota(plan_.pattern_of_head.begin(), plan_.pattern_of_head.end(), uint16_t{0});
  for (int64_t i = count - 1; i >= 0; --i) {
    std::vector<PlanBlock>& all = plan_.patterns[i % context.query_heads].blocks;
    std::move(parts[i].begin(), parts[i].end(), std::back_inserter(all));
  }
  return plan_;
}

}  // namespace onset
