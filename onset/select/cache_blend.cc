#include "onset/select/cache_blend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace onset {
namespace {

template <typename Enum, size_t count>
Result<Enum> named(const std::string& what, const std::string& name, const char* (&names)[count]) {
  std::string expected;
  for (size_t i = 0; i < count; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    expected += (i == 0 ? "" : i + 1 == count ? " or " : ", ") + std::string(names[i]);
  }
  return error(Code::invalid_argument, "{} is {}, expected {}", what, name, expected);
}

const char* metric_names[] = {"keys-values", "keys", "values", "random"};
const char* schedule_names[] = {"single", "gradual"};

// A number that looks random, the same for the same position.
float shuffled(int32_t position) {
  uint64_t x = static_cast<uint64_t>(position) + 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return static_cast<float>((x ^ (x >> 31)) >> 40);
}

// Fewer tokens of a text, and those that deviate most at that, say little of its others.
constexpr int64_t least_carrying_tokens = 8;

float squared_distance(const float* a, const float* b, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

}  // namespace

Result<CacheBlendMetric> cache_blend_metric(const std::string& name) {
  return named<CacheBlendMetric>("the metric of cacheblend", name, metric_names);
}
const char* cache_blend_metric_name(CacheBlendMetric metric) {
  return metric_names[static_cast<int>(metric)];
}

Result<CacheBlendSchedule> cache_blend_schedule(const std::string& name) {
  return named<CacheBlendSchedule>("the schedule of cacheblend", name, schedule_names);
}
const char* cache_blend_schedule_name(CacheBlendSchedule schedule) {
  return schedule_names[static_cast<int>(schedule)];
}

Status check_cache_blend(const CacheBlendOptions& options) {
  if (!(options.ratio >= 0 && options.ratio <= 1)) {
    return error(Code::invalid_argument, "the ratio of cacheblend is {}, expected 0 to 1", options.ratio);
  }
  if (options.carry >= 0 && options.carry <= 1) return {};
  return error(Code::invalid_argument, "the carry of cacheblend is {}, expected 0 to 1", options.carry);
}

double cache_blend_ratio(const CacheBlendOptions& options, int layer, int layers) {
  const double ratio = options.ratio;
  if (options.schedule == CacheBlendSchedule::single || layers < 3) return ratio;
  constexpr double slope = 0.3;
  return std::min(1.0, ratio * (1 + slope * (1 - 2.0 * (layer - 1) / (layers - 2))));
}

CacheBlendSelect::CacheBlendSelect(const CacheBlendOptions& options, int layers, std::vector<KeyRange> reused,
                                   std::shared_ptr<CacheBlendReport> report)
    : options_(options),
      layers_(layers),
      reused_(std::move(reused)),
      report_(std::move(report)),
      earlier_(static_cast<size_t>(layers)),
      carried_(static_cast<size_t>(layers)) {
  report_->recomputed.assign(static_cast<size_t>(layers), 0);
}

bool CacheBlendSelect::asks(int layer) const {
  if (layer == 0 || options_.observe) return layer < layers_;
  const bool some = options_.ratio > 0 && options_.ratio < 1;
  return some && layer < layers_ && (layer == 1 || carries(layer) || options_.schedule == CacheBlendSchedule::gradual);
}

int64_t CacheBlendSelect::reused_below(int32_t position) const {
  int64_t count = 0;
  for (const KeyRange& range : reused_) count += std::clamp(position, range.begin, range.end) - range.begin;
  return count;
}

bool CacheBlendSelect::is_reused(int32_t position) const {
  return reused_below(position + 1) > reused_below(position);
}

// From this layer on so many reused rows of this piece run.
void CacheBlendSelect::count(const SelectContext& context, size_t rows) {
  if (context.layer == 0 && piece_ != context.positions.front()) {
    // A new piece, and not one that runs a second time.
    piece_ = context.positions.front();
    earlier_ = report_->recomputed;
  }
  for (auto layer = static_cast<size_t>(context.layer); layer < earlier_.size(); ++layer) {
    report_->recomputed[layer] = earlier_[layer] + static_cast<int32_t>(rows);
  }
}

float CacheBlendSelect::deviation(const SelectContext& context, int32_t index, KeyValueRows& fresh, KeyValueRows& stored) const {
  if (options_.metric == CacheBlendMetric::random) return shuffled(context.positions[context.running[index]]);
  const bool both = options_.metric == CacheBlendMetric::keys_values;
  float sum = 0;
  if (both || options_.metric == CacheBlendMetric::keys) sum += squared_distance(fresh.key(index), stored.key(index), fresh.width);
  if (both || options_.metric == CacheBlendMetric::values) sum += squared_distance(fresh.value(index), stored.value(index), fresh.width);
  // What is no number is as far away as can be.
  return std::isnan(sum) ? std::numeric_limits<float>::infinity() : sum;
}

// Which of the candidates go on, as flags: the `most` that deviate farthest.
std::vector<char> CacheBlendSelect::farthest(const SelectContext& context, std::span<const int32_t> candidates, size_t most,
                                             KeyValueRows& fresh, KeyValueRows& stored) const {
  std::vector<float> deviations;
  for (const int32_t k : candidates) deviations.push_back(deviation(context, k, fresh, stored));
  std::vector<size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto farther = [&](size_t a, size_t b) { return deviations[a] != deviations[b] ? deviations[a] > deviations[b] : a < b; };
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(most), order.end(), farther);
  std::vector<char> chosen(candidates.size(), 0);
  for (size_t i = 0; i < most; ++i) chosen[order[i]] = 1;
  return chosen;
}

void CacheBlendSelect::carry(const SelectContext& context, std::span<const int32_t> candidates, KeyValueRows& fresh, KeyValueRows& stored) {
  const int32_t first = context.positions.front(), end = context.positions.back() + 1;
  // A step that runs a second time finds what it has moved.
  if (carried_[context.layer] >= end) return;
  carried_[context.layer] = end;
  for (const KeyRange& text : reused_) {
    const KeyRange part{std::max(text.begin, first), std::min(text.end, end)};
    std::vector<int32_t> computed;
    for (const int32_t k : candidates) {
      const int32_t position = context.positions[context.running[k]];
      if (position >= part.begin && position < part.end) computed.push_back(k);
    }
    if (std::ssize(computed) < least_carrying_tokens) continue;
    KeyValueShift shift = context.probe->mean_shift(computed, fresh, stored);
    for (std::vector<float>* values : {&shift.key, &shift.value}) {
      // What is no number moves nobody.
      for (float& value : *values) value = std::isfinite(value) ? options_.carry * value : 0;
    }
    // Those that run are among them: their fresh keys and values come over it.
    context.probe->shift(part, shift);
  }
}

// How many of the candidates go through the layer.
size_t CacheBlendSelect::most_rows(const SelectContext& context, size_t candidates) const {
  if (options_.observe) return candidates;
  if (context.layer == 0) return options_.ratio == 0 ? 0 : candidates;
  const double ratio = cache_blend_ratio(options_, context.layer, layers_);
  const auto share = [&](int32_t position) { return std::floor(ratio * static_cast<double>(reused_below(position)) + 1e-9); };
  return std::min(candidates, static_cast<size_t>(share(context.positions.back() + 1) - share(context.positions.front())));
}

Selection CacheBlendSelect::select(const SelectContext& context) {
  std::vector<int32_t> candidates;  // among the running rows
  std::vector<char> stays(context.running.size(), 1);
  for (size_t k = 0; k < context.running.size(); ++k) {
    if (is_reused(context.positions[context.running[k]])) candidates.push_back(static_cast<int32_t>(k));
  }
  const size_t most = most_rows(context, candidates.size());
  const bool some_end = most < candidates.size() && context.layer > 0;
  KeyValueRows fresh, stored;
  const bool moves = carries(context.layer) && std::ssize(candidates) >= least_carrying_tokens;
  if (options_.observe || some_end || moves) context.probe->compare(fresh, stored);
  if (options_.observe) {
    std::vector<float> deviations;
    for (const int32_t k : candidates) deviations.push_back(deviation(context, k, fresh, stored));
    options_.observe(context.layer, deviations);
  }
  if (moves) carry(context, candidates, fresh, stored);
  if (most < candidates.size()) {
    const std::vector<char> chosen =
        some_end ? farthest(context, candidates, most, fresh, stored) : std::vector<char>(candidates.size(), 0);
    std::vector<int32_t> ending;
    for (size_t i = 0; i < candidates.size(); ++i) {
      stays[static_cast<size_t>(candidates[i])] = chosen[i];
      if (!chosen[i]) ending.push_back(candidates[i]);
    }
    if (some_end) context.probe->store(ending, fresh);
  }
  count(context, most);
  Selection selection;
  for (size_t k = 0; k < stays.size(); ++k) {
    if (stays[k]) selection.keep.push_back(context.running[k]);
  }
  return selection;
}

}  // namespace onset
