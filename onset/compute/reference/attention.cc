#include "onset/compute/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "onset/compute/page_format.h"

namespace onset::reference {
namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

// scale * q.k for every slot, minus infinity where the row does not look.
std::vector<double> scores_of_row(const AttentionCall& call, const PlainKeyValues& stored, int32_t row, int32_t head) {
  const auto size = static_cast<size_t>(call.keys.head_size);
  const auto heads = static_cast<size_t>(call.keys.heads);
  const auto kv_head = static_cast<size_t>(head / (call.query_heads / call.keys.heads));
  const float* query = call.queries + row * call.query_stride + static_cast<int64_t>(head) * call.keys.head_size;
  std::vector<double> scores(static_cast<size_t>(call.keys.length), minus_infinity);
  for (int32_t slot = 0; slot < call.keys.length; ++slot) {
    if (!sees(call, row, head, slot)) continue;
    const double* key = stored.keys.data() + (static_cast<size_t>(slot) * heads + kv_head) * size;
    double sum = 0;
    for (size_t d = 0; d < size; ++d) sum += static_cast<double>(query[d]) * key[d];
    scores[static_cast<size_t>(slot)] = sum * static_cast<double>(call.plan->pattern(head).scale);
  }
  return scores;
}

// log(sum of exp(scores)).
double log_sum_exp(const std::vector<double>& scores) {
  const double largest = scores.empty() ? minus_infinity : *std::max_element(scores.begin(), scores.end());
  if (largest == minus_infinity) return minus_infinity;
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - largest);
  return largest + std::log(sum);
}

}  // namespace

PlainKeyValues read_view(const KeyValueView& view) {
  const size_t token = static_cast<size_t>(view.heads) * static_cast<size_t>(view.head_size);
  PlainKeyValues plain;
  plain.keys.resize(token * static_cast<size_t>(view.length));
  plain.values.resize(plain.keys.size());
  std::vector<float> key(token), value(token);
  for (int32_t slot = 0; slot < view.length; ++slot) {
    const std::byte* page = view.pages[static_cast<size_t>(slot / page_tokens)];
    if (page == nullptr) continue;
    read_slot(view.type, view.heads, view.head_size, page, slot % page_tokens, key.data(), value.data());
    std::copy(key.begin(), key.end(), plain.keys.begin() + static_cast<int64_t>(token) * slot);
    std::copy(value.begin(), value.end(), plain.values.begin() + static_cast<int64_t>(token) * slot);
  }
  return plain;
}

bool sees(const AttentionCall& call, int32_t row, int32_t head, int32_t slot) {
  if (call.keys.pages[static_cast<size_t>(slot / page_tokens)] == nullptr) return false;
  const AttentionPattern& pattern = call.plan->pattern(head);
  const int64_t key_position = call.keys.positions != nullptr ? call.keys.positions[slot] : slot;
  const int64_t distance = call.positions[row] - key_position;
  if (pattern.causal && distance < 0) return false;
  if (pattern.window != 0 && key_position >= pattern.sink && distance >= pattern.window) return false;
  for (const PlanBlock& block : pattern.blocks) {
    if (row < block.row_begin || row >= block.row_end) continue;
    for (const KeyRange& range : block.ranges) {
      if (slot >= range.begin && slot < range.end) return true;
    }
    return std::find(block.columns.begin(), block.columns.end(), slot) != block.columns.end();
  }
  return false;
}

AttentionResult attention(const AttentionCall& call, const PlainKeyValues& stored) {
  const auto size = static_cast<size_t>(call.keys.head_size);
  AttentionResult result;
  for (int32_t row = 0; row < call.rows; ++row) {
    for (int32_t head = 0; head < call.query_heads; ++head) {
      const auto kv_head = static_cast<size_t>(head / (call.query_heads / call.keys.heads));
      const std::vector<double> scores = scores_of_row(call, stored, row, head);
      const double total = log_sum_exp(scores);
      std::vector<double> output(size, 0.0);
      for (size_t slot = 0; slot < scores.size(); ++slot) {
        if (scores[slot] == minus_infinity) continue;
        const double weight = std::exp(scores[slot] - total);
        const double* value = stored.values.data() + (slot * static_cast<size_t>(call.keys.heads) + kv_head) * size;
        for (size_t d = 0; d < size; ++d) output[d] += weight * value[d];
      }
      result.output.insert(result.output.end(), output.begin(), output.end());
      result.log_sum_exp.push_back(total);
    }
  }
  return result;
}

std::vector<double> softmax_row(const AttentionCall& call, const PlainKeyValues& stored, int32_t row, int32_t head) {
  std::vector<double> scores = scores_of_row(call, stored, row, head);
  const double total = log_sum_exp(scores);
  for (double& score : scores) score = score == minus_infinity ? 0.0 : std::exp(score - total);
  return scores;
}

}  // namespace onset::reference
