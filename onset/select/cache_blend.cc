#include "onset/select/cache_blend.h"

#include <algorithm>
#include <cmath>
#include <limits>

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
  if (options.ratio >= 0 && options.ratio <= 1) return {};
  return error(Code::invalid_argument, "the ratio of cacheblend is {}, expected 0 to 1", options.ratio);
}

double cache_blend_ratio(const CacheBlendOptions& options, int layer, int layers) {
  const double ratio = options.ratio;
  if (options.schedule == CacheBlendSchedule::single || layers < 3) return ratio;
  constexpr double slope = 0.3;
  return std::min(1.0, ratio * (1 + slope * (1 - 2.0 * (layer - 1) / (layers - 2))));
}

CacheBlendSelect::CacheBlendSelect(const CacheBlendOptions& options, int layers, std::vector<KeyRange> reused,
                                   std::shared_ptr<CacheBlendReport> report)
    : options_(options), layers_(layers), reused_(std::move(reused)), report_(std::move(report)), earlier_(static_cast<size_t>(layers)) {
  report_->recomputed.assign(static_cast<size_t>(layers), 0);
}

bool CacheBlendSelect::asks(int layer) const {
  if (layer == 0 || options_.observe) return layer < layers_;
  const bool some = options_.ratio > 0 && options_.ratio < 1;
  return some && layer < layers_ && (layer == 1 || options_.schedule == CacheBlendSchedule::gradual);
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

std::vector<float> CacheBlendSelect::deviations(const SelectContext& context, std::span<const int32_t> candidates,
                                                KeyValueRows& fresh) const {
  KeyValueRows stored;
  context.probe->compare(fresh, stored);
  std::vector<float> deviations;
  for (const int32_t k : candidates) {
    float sum = 0;
    if (options_.metric == CacheBlendMetric::random) sum = shuffled(context.positions[context.running[k]]);
    const bool both = options_.metric == CacheBlendMetric::keys_values;
    if (both || options_.metric == CacheBlendMetric::keys) sum += squared_distance(fresh.key(k), stored.key(k), fresh.width);
    if (both || options_.metric == CacheBlendMetric::values) sum += squared_distance(fresh.value(k), stored.value(k), fresh.width);
    // What is no number is as far away as can be.
    deviations.push_back(std::isnan(sum) ? std::numeric_limits<float>::infinity() : sum);
  }
  return deviations;
}

Selection CacheBlendSelect::select(const SelectContext& context) {
  std::vector<int32_t> candidates;  // among the running rows
  std::vector<char> stays(context.running.size(), 1);
  for (size_t k = 0; k < context.running.size(); ++k) {
    if (!is_reused(context.positions[context.running[k]])) continue;
    candidates.push_back(static_cast<int32_t>(k));
    stays[k] = 0;
  }
  size_t most = candidates.size();
  if (options_.observe) {
    KeyValueRows fresh;
    options_.observe(context.layer, deviations(context, candidates, fresh));
  } else if (context.layer == 0) {
    if (options_.ratio == 0) most = 0;
  } else {
    const double ratio = cache_blend_ratio(options_, context.layer, layers_);
    const auto share = [&](int32_t position) { return std::floor(ratio * static_cast<double>(reused_below(position)) + 1e-9); };
    most = std::min(most, static_cast<size_t>(share(context.positions.back() + 1) - share(context.positions.front())));
  }
  if (most < candidates.size() && context.layer > 0) {
    KeyValueRows fresh;
    const std::vector<float> deviation = deviations(context, candidates, fresh);
    std::vector<size_t> order(candidates.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto farther = [&](size_t a, size_t b) { return deviation[a] != deviation[b] ? deviation[a] > deviation[b] : a < b; };
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(most), order.end(), farther);
    std::vector<int32_t> ending;
    for (size_t i = 0; i < order.size(); ++i) {
      if (i < most) {
        stays[static_cast<size_t>(candidates[order[i]])] = 1;
      } else {
        ending.push_back(candidates[order[i]]);
      }
    }
    context.probe->store(ending, fresh);
  } else if (most > 0) {
    for (const int32_t k : candidates) stays[static_cast<size_t>(k)] = 1;
  }
  count(context, most);
  Selection selection;
  for (size_t k = 0; k < stays.size(); ++k) {
    if (stays[k]) selection.keep.push_back(context.running[k]);
  }
  return selection;
}

}  // namespace onset
