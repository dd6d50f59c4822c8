#include "onset/compute/elementwise.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace onset {
namespace {

void norm_row(const float* input, int64_t width, const float* gain, float epsilon, float* output) {
  float sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += input[i] * input[i];
  const float factor = 1.0f / std::sqrt(sum / static_cast<float>(width) + epsilon);
  for (int64_t i = 0; i < width; ++i) output[i] = input[i] * factor * (gain != nullptr ? gain[i] : 1.0f);
}

float activate(Activation activation, float x) {
  if (activation == Activation::silu) return x / (1.0f + std::exp(-x));
  const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + std::tanh(inner));
}

}  // namespace

void rms_norm(Isa, ConstRows input, int64_t rows, int64_t width, const float* gain, float epsilon, Rows output) {
  for (int64_t r = 0; r < rows; ++r) {
    norm_row(input.data + r * input.stride, width, gain, epsilon, output.data + r * output.stride);
  }
}

void rms_norm_heads(Isa, Rows data, int64_t rows, int heads, int head_size, const float* gain, float epsilon) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int h = 0; h < heads; ++h) {
      float* head = data.data + r * data.stride + static_cast<int64_t>(h) * head_size;
      norm_row(head, head_size, gain, epsilon, head);
    }
  }
}

void fill_rotary_line(int64_t position, std::span<const double> frequencies, double factor, float* line) {
  const size_t pairs = frequencies.size();
  for (size_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    line[i] = static_cast<float>(factor * std::cos(angle));
    line[pairs + i] = static_cast<float>(factor * std::sin(angle));
  }
}

void apply_rotary(Isa, RotaryPairs pairs, Rows data, int64_t rows, int heads, int head_size, int rotary_size,
                  const float* table, const int32_t* lines) {
  const int half = rotary_size / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float* cosines = table + (lines != nullptr ? lines[r] : r) * rotary_size;
    const float* sines = cosines + half;
    for (int h = 0; h < heads; ++h) {
      float* head = data.data + r * data.stride + static_cast<int64_t>(h) * head_size;
      for (int i = 0; i < half; ++i) {
        float& a = pairs == RotaryPairs::neighbours ? head[2 * i] : head[i];
        float& b = pairs == RotaryPairs::neighbours ? head[2 * i + 1] : head[half + i];
        const float x = a, y = b;
        a = x * cosines[i] - y * sines[i];
        b = x * sines[i] + y * cosines[i];
      }
    }
  }
}

void gated_activation(Isa, Activation activation, ConstRows input, int64_t rows, int64_t width, Rows output) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* in = input.data + r * input.stride;
    float* out = output.data + r * output.stride;
    for (int64_t i = 0; i < width; ++i) out[i] = activate(activation, in[i]) * in[width + i];
  }
}

void add(Isa, Rows output, ConstRows input, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) output.data[r * output.stride + i] += input.data[r * input.stride + i];
  }
}

void scale(Isa, Rows data, int64_t rows, int64_t width, float factor) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) data.data[r * data.stride + i] *= factor;
  }
}

void soft_cap(Isa, Rows data, int64_t rows, int64_t width, float cap) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      float& value = data.data[r * data.stride + i];
      value = cap * std::tanh(value / cap);
    }
  }
}

int32_t argmax(Isa, std::span<const float> values) {
  if (values.empty()) return 0;
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

LogitStatistics logit_statistics(Isa isa, std::span<const float> logits) {
  LogitStatistics statistics;
  statistics.maximum = -std::numeric_limits<float>::infinity();
  statistics.log_sum_exp = -std::numeric_limits<double>::infinity();
  if (logits.empty()) return statistics;
  statistics.argmax = argmax(isa, logits);
  statistics.maximum = logits[static_cast<size_t>(statistics.argmax)];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - statistics.maximum);
  statistics.log_sum_exp = static_cast<double>(statistics.maximum) + std::log(sum);
  return statistics;
}

void softmax(Isa isa, std::span<float> values) {
  const LogitStatistics statistics = logit_statistics(isa, values);
  const auto shift = static_cast<float>(statistics.log_sum_exp);
  for (float& value : values) value = std::exp(value - shift);
}

void log_softmax(Isa isa, std::span<float> values) {
  const double shift = logit_statistics(isa, values).log_sum_exp;
  for (float& value : values) value = static_cast<float>(value - shift);
}

}  // namespace onset
