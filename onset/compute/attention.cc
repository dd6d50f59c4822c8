#include "onset/compute/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "onset/compute/page_format.h"

namespace onset {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr int32_t task_rows = 32;

const PlanBlock* block_of_row(const AttentionPattern& pattern, int32_t row) {
  for (const PlanBlock& block : pattern.blocks) {
    if (row >= block.row_begin && row < block.row_end) return &block;
  }
  return nullptr;
}

bool visits(const PlanBlock& block, int32_t slot) {
  for (const KeyRange& range : block.ranges) {
    if (slot >= range.begin && slot < range.end) return true;
  }
  return std::binary_search(block.columns.begin(), block.columns.end(), slot);
}

bool sees(const AttentionPattern& pattern, int32_t query_position, int32_t key_position) {
  if (pattern.causal && key_position > query_position) return false;
  return pattern.window == 0 || key_position < pattern.sink ||
         static_cast<int64_t>(query_position) - key_position < pattern.window;
}

// One row and head against the keys and values of a whole sequence, read into float32.
void attend_row(const AttentionCall& call, int32_t row, int32_t head, const std::vector<float>& keys,
                const std::vector<float>& values, std::vector<float>& scores) {
  const AttentionPattern& pattern = call.plan->pattern(head);
  const int32_t size = call.keys.head_size;
  const float* query = call.queries + row * call.query_stride + static_cast<int64_t>(head) * size;
  float* output = call.output + row * call.output_stride + static_cast<int64_t>(head) * size;
  std::fill(output, output + size, 0.0f);
  float maximum = minus_infinity;
  const PlanBlock* block = block_of_row(pattern, row);
  for (int32_t slot = 0; slot < call.keys.length; ++slot) {
    float& score = scores[static_cast<size_t>(slot)];
    score = minus_infinity;
    const int32_t position = call.keys.positions != nullptr ? call.keys.positions[slot] : slot;
    if (block == nullptr || call.keys.pages[static_cast<size_t>(slot / page_tokens)] == nullptr ||
        !sees(pattern, call.positions[row], position) || !visits(*block, slot)) {
      continue;
    }
    const float* key = keys.data() + static_cast<size_t>(slot) * static_cast<size_t>(size);
    float sum = 0;
    for (int32_t d = 0; d < size; ++d) sum += query[d] * key[d];
    score = sum * pattern.scale;
    maximum = std::max(maximum, score);
  }
  float total = 0;
  for (int32_t slot = 0; slot < call.keys.length && maximum > minus_infinity; ++slot) {
    if (scores[static_cast<size_t>(slot)] == minus_infinity) continue;
    const float weight = std::exp(scores[static_cast<size_t>(slot)] - maximum);
    total += weight;
    const float* value = values.data() + static_cast<size_t>(slot) * static_cast<size_t>(size);
    for (int32_t d = 0; d < size; ++d) output[d] += weight * value[d];
  }
  for (int32_t d = 0; d < size && total > 0; ++d) output[d] /= total;
  if (call.log_sum_exp != nullptr) {
    call.log_sum_exp[static_cast<int64_t>(row) * call.query_heads + head] =
        total > 0 ? maximum + std::log(total) : minus_infinity;
  }
}

// All stored keys and values of one KV head, [length, head_size] each.
void read_head_of_view(const KeyValueView& view, int32_t kv_head, std::vector<float>& keys, std::vector<float>& values) {
  const size_t size = static_cast<size_t>(view.head_size);
  keys.assign(static_cast<size_t>(view.length) * size, 0.0f);
  values.assign(static_cast<size_t>(view.length) * size, 0.0f);
  const size_t offset = static_cast<size_t>(kv_head) * head_layout(view.type, view.head_size).bytes;
  for (int32_t slot = 0; slot < view.length; ++slot) {
    const std::byte* page = view.pages[static_cast<size_t>(slot / page_tokens)];
    if (page == nullptr) continue;
    read_slot(view.type, 1, view.head_size, page + offset, slot % page_tokens,
              keys.data() + static_cast<size_t>(slot) * size, values.data() + static_cast<size_t>(slot) * size);
  }
}

}  // namespace

AttentionTasks attention_tasks(const std::vector<AttentionCall>& calls, int) {
  AttentionTasks result;
  for (size_t c = 0; c < calls.size(); ++c) {
    for (int32_t head = 0; head < calls[c].keys.heads; ++head) {
      for (int32_t row = 0; row < calls[c].rows; row += task_rows) {
        result.tasks.push_back({.call = static_cast<int32_t>(c),
                                .kv_head = head,
                                .row_begin = row,
                                .row_end = std::min(row + task_rows, calls[c].rows)});
      }
    }
  }
  return result;
}

size_t attention_scratch_bytes(const std::vector<AttentionCall>&) { return 64; }

void run_attention(Isa, const std::vector<AttentionCall>& calls, AttentionTasks& tasks, size_t index, std::byte*) {
  const AttentionTask& task = tasks.tasks[index];
  const AttentionCall& call = calls[static_cast<size_t>(task.call)];
  std::vector<float> keys, values, scores(static_cast<size_t>(call.keys.length));
  read_head_of_view(call.keys, task.kv_head, keys, values);
  const int32_t group = call.query_heads / call.keys.heads;
  for (int32_t row = task.row_begin; row < task.row_end; ++row) {
    for (int32_t g = 0; g < group; ++g) attend_row(call, row, task.kv_head * group + g, keys, values, scores);
  }
}

void finish_attention(const std::vector<AttentionCall>&, AttentionTasks&) {}

void merge_attention(int64_t rows, int heads, int head_size, float* output_a, float* lse_a, const float* output_b,
                     const float* lse_b) {
  for (int64_t i = 0; i < rows * heads; ++i) {
    const float largest = std::max(lse_a[i], lse_b[i]);
    if (!(largest > minus_infinity)) continue;
    const float a = std::exp(lse_a[i] - largest), b = std::exp(lse_b[i] - largest);
    for (int64_t d = i * head_size; d < (i + 1) * head_size; ++d) {
      output_a[d] = (a * output_a[d] + b * output_b[d]) / (a + b);
    }
    lse_a[i] = largest + std::log(a + b);
  }
}

void softmax_sums(Isa, const AttentionCall& call, SoftmaxSums& sums, std::byte*) {
  const size_t length = static_cast<size_t>(call.keys.length);
  sums.column.assign(static_cast<size_t>(call.query_heads) * length, 0.0f);
  sums.diagonal.assign(sums.column.size(), 0.0f);
  std::vector<float> keys, values, scores(length), output(static_cast<size_t>(call.keys.head_size));
  const int32_t group = call.query_heads / call.keys.heads;
  for (int32_t head = 0; head < call.query_heads; ++head) {
    if (head % group == 0) read_head_of_view(call.keys, head / group, keys, values);
    for (int32_t row = 0; row < call.rows; ++row) {
      AttentionCall one = call;
      one.output = output.data() - static_cast<int64_t>(head) * call.keys.head_size;
      one.output_stride = 0;
      one.log_sum_exp = nullptr;
      attend_row(one, row, head, keys, values, scores);
      const float maximum = length > 0 ? *std::max_element(scores.begin(), scores.end()) : minus_infinity;
      float total = 0;
      for (const float score : scores) total += maximum > minus_infinity ? std::exp(score - maximum) : 0.0f;
      for (size_t slot = 0; slot < length && total > 0; ++slot) {
        const float probability = std::exp(scores[slot] - maximum) / total;
        const int64_t position = call.keys.positions != nullptr ? call.keys.positions[slot] : static_cast<int64_t>(slot);
        const int64_t distance = call.positions[row] - position;
        sums.column[static_cast<size_t>(head) * length + slot] += probability;
        if (distance >= 0 && distance < call.keys.length) {
          sums.diagonal[static_cast<size_t>(head) * length + static_cast<size_t>(distance)] += probability;
        }
      }
    }
  }
}

}  // namespace onset
