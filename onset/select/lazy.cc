#include "onset/select/lazy.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "onset/base/aligned.h"
#include "onset/compute/attention.h"

namespace onset {
namespace {

// Runs of slots that are this short are visited as single columns, which the kernel gathers.
constexpr int32_t short_run = 16;

// A number that looks random, the same for the same position.
float shuffled(int32_t position) {
  uint64_t x = (static_cast<uint64_t>(position) + 1) * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return static_cast<float>((x ^ (x >> 31)) >> 40);
}

// A block of rows that visits these slots, ascending.
PlanBlock block_of(int32_t rows, const std::vector<int32_t>& slots) {
  PlanBlock block{.row_begin = 0, .row_end = rows, .ranges = {}, .columns = {}};
  for (size_t begin = 0, end = 0; begin < slots.size(); begin = end) {
    for (end = begin + 1; end < slots.size() && slots[end] == slots[end - 1] + 1;) ++end;
    if (static_cast<int32_t>(end - begin) < short_run) {
      block.columns.insert(block.columns.end(), slots.begin() + static_cast<std::ptrdiff_t>(begin),
                           slots.begin() + static_cast<std::ptrdiff_t>(end));
    } else {
      block.ranges.push_back({slots[begin], slots[end - 1] + 1});
    }
  }
  return block;
}

Status check(const LazyOptions& options, const CacheLayout& layout) {
  for (size_t i = 0; i < options.layers.size(); ++i) {
    const int32_t layer = options.layers[i];
    if (layer < 1 || layer >= layout.layers) {
      return error(Code::invalid_argument, "lazyllm prunes after layer {}, expected 1 to {}: the model has {} layers", layer,
                   layout.layers - 1, layout.layers);
    }
    if (i > 0 && layer <= options.layers[i - 1]) {
      return error(Code::invalid_argument, "lazyllm prunes after layer {} and then after layer {}, expected ascending layers",
                   options.layers[i - 1], layer);
    }
  }
  if (options.keep.size() != options.layers.size()) {
    return error(Code::invalid_argument, "lazyllm has {} shares to keep for {} layers, expected one for all or one for each",
                 options.keep.size(), options.layers.size());
  }
  for (const double keep : options.keep) {
    if (!(keep > 0 && keep <= 1)) return error(Code::invalid_argument, "lazyllm keeps {}, expected more than 0 and at most 1", keep);
  }
  if (options.most_revived < 0 || options.least_tokens < 0) {
    return error(Code::invalid_argument, "lazyllm revives {} tokens in prompts of {} or more, expected 0 or more", options.most_revived,
                 options.least_tokens);
  }
  if (std::any_of(layout.windows.begin(), layout.windows.end(), [](int32_t window) { return window > 0; })) {
    return error(Code::unsupported, "lazyllm needs layers that see everything, this model has layers with windows");
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<LazySelect>> LazySelect::create(LazyOptions options, const CacheLayout& layout) {
  if (options.keep.size() == 1) options.keep.assign(options.layers.size(), options.keep[0]);
  ONSET_TRY(check(options, layout));
  return std::unique_ptr<LazySelect>(new LazySelect(std::move(options), layout));
}

LazySelect::LazySelect(LazyOptions options, const CacheLayout& layout)
    : options_(std::move(options)), layers_(layout.layers), attend_(*this), slots_(options_.layers.size() + 1) {
  begins_.push_back(0);
  begins_.insert(begins_.end(), options_.layers.begin(), options_.layers.end());
  begins_.push_back(layers_);
  report_->policy = options_.name;
  report_->prompt_rows.assign(static_cast<size_t>(layers_), 0);
  report_->rows_by_now = report_->prompt_rows;
}

int32_t LazySelect::stage_of(int32_t layer) const {
  return static_cast<int32_t>(std::upper_bound(begins_.begin(), begins_.end(), layer) - begins_.begin()) - 1;
}

// --- a step -------------------------------------------------------------------------------------------------------

std::span<const int32_t> LazySelect::earlier() {
  waiting_.clear();
  if (!answers_ || options_.most_revived == 0) return waiting_;
  for (int32_t position = 0; position < static_cast<int32_t>(stored_.size()); ++position) {
    if (!stored_[position].empty()) waiting_.push_back(position);
  }
  return waiting_;
}

bool LazySelect::waits(int32_t row) const {
  if (answers_) return row < static_cast<int32_t>(waiting_.size());
  // A prompt that comes back for its next layers: rows are positions.
  return !first_layer_only_ && !alive_flags_[row];
}

bool LazySelect::asks(int layer) const {
  return prompt_ >= options_.least_tokens && std::binary_search(options_.layers.begin(), options_.layers.end(), layer);
}

// Called for each layer when the keys of the rows that run have been stored.
const AttentionPlan& LazySelect::plan(const AttendContext& context) {
  const int32_t stage = stage_of(context.layer);
  if (context.group == 0) {
    if (context.layer == 0) begin_step(context);
    if (context.layer == begins_[stage]) {
      take_slots(stage, context);
      see_alive(stage, context);
    }
  }
  if (asks(context.layer + 1) && options_.score == LazyScore::attention) score(context);
  if (context.layer + 1 == layers_ && !answers_ && context.group + 1 == context.cache->layout().head_groups) {
    answers_ = true;
    report_->prompt_rows = report_->rows_by_now;
  }
  return plan_;
}

// All tokens are alive, those that had been dropped included.
void LazySelect::begin_step(const AttendContext& context) {
  const int32_t tokens = context.positions.back() + 1;
  if (!answers_) {
    prompt_ = tokens;
    for (auto& slots : slots_) slots.clear();
    std::fill(report_->rows_by_now.begin(), report_->rows_by_now.end(), 0);
  }
  for (auto& slots : slots_) slots.resize(tokens, -1);
  stored_.resize(tokens);
  alive_flags_.assign(tokens, 1);
  alive_.resize(tokens);
  std::iota(alive_.begin(), alive_.end(), 0);
}

// The keys of the rows that run were put at the end of this stage's tables.
void LazySelect::take_slots(int32_t stage, const AttendContext& context) {
  const auto rows = static_cast<int32_t>(context.positions.size());
  const int32_t first = context.cache->length(context.layer) - rows;
  int32_t of_prompt = 0;
  for (int32_t row = 0; row < rows; ++row) {
    int32_t& slot = slots_[stage][context.positions[row]];
    assert(slot < 0);  // once only
    slot = first + row;
    of_prompt += context.positions[row] < prompt_;
  }
  for (int32_t layer = begins_[stage]; layer < begins_[stage + 1]; ++layer) report_->rows_by_now[layer] += of_prompt;
}

// The same in all layers of a stage.
void LazySelect::see_alive(int32_t stage, const AttendContext& context) {
  std::vector<int32_t> visited;
  visited.reserve(alive_.size());
  for (const int32_t position : alive_) visited.push_back(slots_[stage][position]);
  std::sort(visited.begin(), visited.end());
  AttentionPattern pattern{.scale = context.scale, .causal = true, .window = 0, .sink = 0, .blocks = {}};
  pattern.blocks.push_back(block_of(static_cast<int32_t>(context.positions.size()), visited));
  plan_ = {.patterns = {std::move(pattern)}, .pattern_of_head = std::vector<uint16_t>(static_cast<size_t>(context.query_heads), 0)};
  last_row_plan_ = plan_;
  last_row_plan_.patterns[0].blocks[0].row_end = 1;
}

// Equation 1: the last row's softmax over the tokens that are alive, the mean over the heads. Groups of heads add up.
void LazySelect::score(const AttendContext& context) {
  const int32_t stage = stage_of(context.layer);
  const auto last = static_cast<int32_t>(context.positions.size()) - 1;
  const AttentionCall call{.plan = &last_row_plan_,
                           .keys = context.cache->view(context.layer, context.group),
                           .rows = 1,
                           .query_heads = context.query_heads,
                           .positions = &context.positions[last],
                           .queries = context.queries + last * context.query_stride,
                           .query_stride = context.query_stride};
  AlignedVector<std::byte> scratch(attention_scratch_bytes({call}));
  SoftmaxSums sums;
  softmax_sums(context.isa, call, sums, scratch.data());
  if (context.group == 0) {
    scores_.assign(alive_.size(), 0.0f);
    scored_heads_ = 0;
  }
  const int64_t length = call.keys.length;
  for (size_t i = 0; i < alive_.size(); ++i) {
    for (int head = 0; head < context.query_heads; ++head) scores_[i] += sums.column[head * length + slots_[stage][alive_[i]]];
  }
  scored_heads_ += context.query_heads;
  if (context.group + 1 < context.cache->layout().head_groups) return;
  for (float& score : scores_) score /= static_cast<float>(scored_heads_);
}

// Those of the alive tokens that go on, by their indices among them, best first.
std::vector<int32_t> LazySelect::ranked(double keep) const {
  const auto count = static_cast<int32_t>(alive_.size());
  const auto rank = [&](int32_t i) {
    if (alive_[i] == 0 || i + 1 == count) return std::numeric_limits<float>::infinity();
    return std::isnan(scores_[i]) ? -1.0f : scores_[i];
  };
  std::vector<int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return rank(a) != rank(b) ? rank(a) > rank(b) : a < b; });
  // A product that is a whole number but for its rounding is that number.
  const auto most = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(keep * count - 1e-9)));
  std::vector<int32_t> kept;
  for (int32_t i = 0; i < count; ++i) {
    if (i < most || order[i] + 1 == count || alive_[order[i]] >= prompt_) kept.push_back(order[i]);
  }
  return kept;
}

// Of the tokens that go on, those that can: a limit may leave some of those out that would have to be revived. (In a prompt
// all of them run and none is revived.)
void LazySelect::keep_alive(int32_t stage, const std::vector<int32_t>& order) {
  std::vector<int32_t> next;
  int64_t revived = 0;
  for (const int32_t i : order) {
    const int32_t position = alive_[i];
    const bool revives = answers_ && slots_[stage][position] < 0 && !stored_[position].empty();
    if (revives && revived++ >= options_.most_revived) continue;
    next.push_back(position);
  }
  std::sort(next.begin(), next.end());
  if (options_.observe) options_.observe(begins_[stage], alive_, scores_, next);
  alive_ = std::move(next);
  std::fill(alive_flags_.begin(), alive_flags_.end(), 0);
  for (const int32_t position : alive_) alive_flags_[position] = 1;
}

void LazySelect::store(int32_t position, const float* hidden, int64_t size) {
  assert(stored_[position].empty());
  stored_[position].assign(hidden, hidden + size);
  ++report_->stored_rows;
  report_->stored_bytes += size * static_cast<int64_t>(sizeof(float));
}

Selection LazySelect::select(const SelectContext& context) {
  const int32_t stage = stage_of(context.layer);
  if (options_.score == LazyScore::random) {
    scores_.clear();
    for (const int32_t position : alive_) scores_.push_back(shuffled(position));
  }
  first_layer_only_ = false;
  keep_alive(stage, ranked(options_.keep[stage - 1]));
  Selection selection;
  for (size_t i = 0; i < context.running.size(); ++i) {
    const int32_t position = context.positions[context.running[i]];
    if (alive_flags_[position]) {
      selection.keep.push_back(context.running[i]);
    } else {
      store(position, context.hidden[i], context.hidden_size);
    }
  }
  if (!answers_) return selection;
  for (size_t row = 0; row < waiting_.size(); ++row) {
    const int32_t position = waiting_[row];
    if (!alive_flags_[position] || stored_[position].empty() || slots_[stage][position] >= 0) continue;
    selection.rejoin.push_back({.row = static_cast<int32_t>(row), .hidden = std::exchange(stored_[position], {})});
    ++report_->rejoined;
    --report_->stored_rows;
    report_->stored_bytes -= context.hidden_size * static_cast<int64_t>(sizeof(float));
  }
  return selection;
}

Status LazySelect::audit() const {
  std::vector<int32_t> with_keys(slots_.size(), 0);
  int64_t stored = 0;
  for (int32_t position = 0; position < static_cast<int32_t>(stored_.size()); ++position) {
    int32_t depth = 0;
    while (depth < stages() && has_keys(depth, position)) ++depth;
    for (int32_t stage = 0; stage < stages(); ++stage) {
      with_keys[stage] += has_keys(stage, position) && position < prompt_;
      if (stage > depth && has_keys(stage, position)) {
        return error(Code::failed, "token {} has keys in stage {}, and none in stage {}", position, stage, depth);
      }
    }
    if ((depth < stages()) == stored_[position].empty()) {
      return error(Code::failed, "token {} has keys in {} of {} stages and {} state stored", position, depth, stages(),
                   stored_[position].empty() ? "no" : "a");
    }
    stored += !stored_[position].empty();
  }
  for (int32_t layer = 0; layer < layers_; ++layer) {
    if (report_->rows_by_now[layer] == with_keys[stage_of(layer)]) continue;
    return error(Code::failed, "{} prompt rows ran through layer {}, and {} have keys there", report_->rows_by_now[layer], layer,
                 with_keys[stage_of(layer)]);
  }
  if (stored == report_->stored_rows) return {};
  return error(Code::failed, "{} states are stored, the report says {}", stored, report_->stored_rows);
}

}  // namespace onset
