#include "onset/engine/kv_deviation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "onset/compute/page_format.h"

namespace onset {
namespace {

std::vector<double> ranks_of(std::span<const float> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = 0.5 * static_cast<double>(begin + end - 1);
  }
  return ranks;
}

// Attention matrices [layer][row, head, context token].
using Attention = std::vector<std::vector<float>>;

// Dense attention that tells what the last rows' queries give to the slots of the contexts.
class ObservedAttend : public AttendPolicy {
 public:
  ObservedAttend(KeyRange contexts, int32_t first_row, Attention& seen) : contexts_(contexts), first_row_(first_row), seen_(seen) {}

  const AttentionPlan& plan(const AttendContext& context) override {
    for (size_t row = 0; row < context.positions.size(); ++row) {
      if (context.positions[row] >= first_row_) observe(context, static_cast<int32_t>(row));
    }
    return dense_.plan(context);
  }

 private:
  void observe(const AttendContext& context, int32_t row) {
    const KeyValueView view = context.cache->view(context.layer, context.group);
    const int32_t keys = context.positions[row] + 1, size = view.head_size, width = view.heads * size;
    if (keys_layer_ != context.layer || std::ssize(keys_) < int64_t{keys} * width) read_keys(context, view);
    for (int head = 0; head < context.query_heads; ++head) {
      const float* query = context.queries + row * context.query_stride + head * size;
      const int32_t kv_head = head / (context.query_heads / view.heads);
      std::vector<float> scores(keys);
      for (int32_t key = 0; key < keys; ++key) {
        const float* here = keys_.data() + int64_t{key} * width + kv_head * size;
        scores[key] = context.scale * std::inner_product(query, query + size, here, 0.0f);
      }
      const float most = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (float& score : scores) sum += score = std::exp(score - most);
      for (int32_t key = contexts_.begin; key < contexts_.end; ++key) seen_[context.layer].push_back(static_cast<float>(scores[key] / sum));
    }
  }

  void read_keys(const AttendContext& context, const KeyValueView& view) {
    const int64_t width = int64_t{view.heads} * view.head_size;
    keys_.resize(view.length * width);
    std::vector<float> value(width);
    for (int32_t slot = 0; slot < view.length; ++slot) {
      read_slot(view.type, view.heads, view.head_size, view.pages[slot / page_tokens], slot % page_tokens, keys_.data() + slot * width,
                value.data());
    }
    keys_layer_ = context.layer;
  }

  KeyRange contexts_;
  int32_t first_row_;
  Attention& seen_;
  std::vector<float> keys_;
  int keys_layer_ = -1;
  DenseAttend dense_;
};

// The mean over heads of the norm of the difference of two layers' matrices.
double distance(const std::vector<float>& a, const std::vector<float>& b, int64_t tokens, int64_t heads) {
  std::vector<double> squares(heads);
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = a[i] - b[i];
    squares[static_cast<int64_t>(i) / tokens % heads] += difference * difference;
  }
  double sum = 0;
  for (const double square : squares) sum += std::sqrt(square);
  return sum / static_cast<double>(heads);
}

}  // namespace

double rank_correlation(std::span<const float> a, std::span<const float> b) {
  const std::vector<double> x = ranks_of(a), y = ranks_of(b);
  const double mean = 0.5 * static_cast<double>(x.size() - 1);
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

double AttentionDeviation::mean() const {
  return std::accumulate(layers.begin(), layers.end(), 0.0) / static_cast<double>(layers.size());
}

double KvDeviation::median_correlation() const {
  if (correlation.empty()) return 0;
  std::vector<double> sorted = correlation;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

Result<KvDeviation> measure_kv_deviation(Engine& engine, const PromptParts& parts, CacheBlendMetric metric, std::span<const float> ratios,
                                         int32_t rows) {
  const ModelConfig& config = engine.model().config();
  KeyRange contexts{.begin = static_cast<int32_t>(parts.prefix.size()), .end = static_cast<int32_t>(parts.prefix.size())};
  for (const auto& text : parts.contexts) contexts.end += static_cast<int32_t>(text.size());
  const int32_t total = contexts.end + static_cast<int32_t>(parts.prompt.size());
  const int32_t first_row = std::max(contexts.end, total - rows);
  const auto read = [&](const CacheBlendOptions& blend) -> Result<Attention> {
    Attention seen(config.layers);
    Request request;
    request.tokens = parts.prompt;
    request.most_new_tokens = 0;
    request.attend = std::make_unique<ObservedAttend>(contexts, first_row, seen);
    request.contexts = Contexts{parts.prefix, parts.contexts, blend};
    ONSET_TRY(run_to_end(engine, std::move(request), {}));
    return seen;
  };

  KvDeviation deviation;
  deviation.tokens.resize(config.layers);
  // What is looked at is computed all the same: this one reads everything.
  CacheBlendOptions all{.ratio = 1, .metric = metric};
  all.observe = [&](int layer, std::span<const float> tokens) {
    deviation.tokens[layer].insert(deviation.tokens[layer].end(), tokens.begin(), tokens.end());
  };
  ONSET_ASSIGN(const Attention reference, read(all));
  for (int32_t layer = 1; layer + 1 < config.layers; ++layer) {
    deviation.correlation.push_back(rank_correlation(deviation.tokens[layer], deviation.tokens[layer + 1]));
  }
  for (const float ratio : ratios) {
    for (const CacheBlendMetric chosen : {metric, CacheBlendMetric::random}) {
      ONSET_ASSIGN(const Attention seen, read({.ratio = ratio, .metric = chosen, .carry = 0}));
      AttentionDeviation& entry = deviation.attention.emplace_back(AttentionDeviation{.ratio = ratio, .metric = chosen, .layers = {}});
      for (int32_t layer = 0; layer < config.layers; ++layer) {
        entry.layers.push_back(distance(seen[layer], reference[layer], contexts.end - contexts.begin, config.query_heads));
      }
    }
  }
  return deviation;
}

}  // namespace onset
