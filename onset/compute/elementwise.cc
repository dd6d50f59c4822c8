#include "onset/compute/elementwise.h"

#include <cmath>
#include <limits>

#include "onset/compute/elementwise_kernels.h"

namespace onset {
namespace {

const ElementwiseKernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::generic:
      break;
#if defined(__x86_64__)
    case Isa::avx2:
    case Isa::avx_vnni:
      return elementwise_avx2;
    case Isa::avx512:
      return elementwise_avx512;
#else
    default:
      break;
#endif
  }
  return elementwise_generic;
}

}  // namespace

void rms_norm(Isa isa, ConstRows input, int64_t rows, int64_t width, const float* gain, float epsilon, Rows output) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.rms_norm(input.data + r * input.stride, width, gain, epsilon, output.data + r * output.stride);
  }
}

void rms_norm_heads(Isa isa, Rows data, int64_t rows, int heads, int head_size, const float* gain, float epsilon) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  for (int64_t r = 0; r < rows; ++r) {
    for (int h = 0; h < heads; ++h) {
      float* head = data.data + r * data.stride + static_cast<int64_t>(h) * head_size;
      kernels.rms_norm(head, head_size, gain, epsilon, head);
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

void apply_rotary(Isa isa, RotaryPairs pairs, Rows data, int64_t rows, int heads, int head_size, int rotary_size, const float* table,
                  const int32_t* lines) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  const auto rotate = pairs == RotaryPairs::neighbours ? kernels.rotate_neighbours : kernels.rotate_halves;
  for (int64_t r = 0; r < rows; ++r) {
    const float* cosines = table + (lines != nullptr ? lines[r] : r) * rotary_size;
    rotate(data.data + r * data.stride, heads, head_size, rotary_size, cosines, cosines + rotary_size / 2);
  }
}

void gated_activation(Isa isa, Activation activation, ConstRows input, int64_t rows, int64_t width, Rows output) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  const auto activate = activation == Activation::silu ? kernels.silu : kernels.gelu_tanh;
  for (int64_t r = 0; r < rows; ++r) {
    const float* gate = input.data + r * input.stride;
    activate(gate, gate + width, width, output.data + r * output.stride);
  }
}

void add(Isa isa, Rows output, ConstRows input, int64_t rows, int64_t width) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  for (int64_t r = 0; r < rows; ++r) kernels.add(output.data + r * output.stride, input.data + r * input.stride, width);
}

void scale(Isa isa, Rows data, int64_t rows, int64_t width, float factor) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  for (int64_t r = 0; r < rows; ++r) kernels.scale(data.data + r * data.stride, width, factor);
}

void soft_cap(Isa isa, Rows data, int64_t rows, int64_t width, float cap) {
  const ElementwiseKernels& kernels = kernels_for(isa);
  for (int64_t r = 0; r < rows; ++r) kernels.soft_cap(data.data + r * data.stride, width, cap);
}

int32_t argmax(Isa isa, std::span<const float> values) {
  return static_cast<int32_t>(kernels_for(isa).argmax(values.data(), static_cast<int64_t>(values.size())));
}

LogitStatistics logit_statistics(Isa isa, std::span<const float> logits) {
  LogitStatistics statistics;
  statistics.maximum = -std::numeric_limits<float>::infinity();
  statistics.log_sum_exp = -std::numeric_limits<double>::infinity();
  if (logits.empty()) return statistics;
  statistics.argmax = argmax(isa, logits);
  statistics.maximum = logits[static_cast<size_t>(statistics.argmax)];
  const double sum = kernels_for(isa).sum_of_exponentials(logits.data(), static_cast<int64_t>(logits.size()), statistics.maximum);
  statistics.log_sum_exp = static_cast<double>(statistics.maximum) + std::log(sum);
  return statistics;
}

void softmax(Isa isa, std::span<float> values) {
  if (values.empty()) return;
  const auto shift = static_cast<float>(logit_statistics(isa, values).log_sum_exp);
  kernels_for(isa).exponentials(values.data(), static_cast<int64_t>(values.size()), shift);
}

void log_softmax(Isa isa, std::span<float> values) {
  const double shift = logit_statistics(isa, values).log_sum_exp;
  for (float& value : values) value = static_cast<float>(value - shift);
}

}  // namespace onset
