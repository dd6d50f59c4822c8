// The float32 steps between matrix products: norms, rotary embedding, gated activations, statistics of
// logits.
//
// Everything runs on the calling thread over a block of rows and treats each row by itself, in one fixed
// order of operations: a row's result depends neither on how rows are split among calls nor on the
// instruction set. Strides count floats. exp() is our own: a polynomial with a relative error below 2e-7 (3
// units in the last place).
#pragma once

#include <cstdint>
#include <span>

#include "onset/base/cpu_features.h"

namespace onset {

// A block of rows: row r, column i at data[r * stride + i].
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;
};
struct ConstRows {
  const float* data = nullptr;
  int64_t stride = 0;
  ConstRows() = default;
  ConstRows(const float* data_in, int64_t stride_in) : data(data_in), stride(stride_in) {}
  ConstRows(const Rows& rows) : data(rows.data), stride(rows.stride) {}  // NOLINT: implicit on purpose
};

// output = input / sqrt(mean(input^2) + epsilon) * gain[width], over rows of `width`. Output may be the
// input. Gain may be null (all ones).
void rms_norm(Isa isa, ConstRows input, int64_t rows, int64_t width, const float* gain, float epsilon, Rows output);

// The same for each head of a row by itself, in place: the query and key norms of Qwen3 and Gemma 3.
// gain[head_size].
void rms_norm_heads(Isa isa, Rows data, int64_t rows, int heads, int head_size, const float* gain, float epsilon);

// Which numbers of a head form the pairs that rotary embedding turns.
enum class RotaryPairs : uint8_t {
  neighbours,  // (0, 1), (2, 3), ...: GGUF's llama ("normal")
  halves,      // (0, size/2), (1, size/2 + 1), ...: Hugging Face, "neox"
};

// One position's line of a rotary table: cosines of position * frequencies[i], then sines; each
// frequencies.size() long and multiplied by `factor` (YaRN and LongRoPE scale the embedding by it; 1
// otherwise). Computed in double precision.
void fill_rotary_line(int64_t position, std::span<const double> frequencies, double factor, float* line);

// Turns the first `rotary_size` (even) numbers of each head of each row, in place; the rest of a head stays.
// Row r uses line lines[r] of the table, or line r where `lines` is null; a line is rotary_size floats as
// fill_rotary_line writes them.
void apply_rotary(Isa isa, RotaryPairs pairs, Rows data, int64_t rows, int heads, int head_size, int rotary_size, const float* table,
                  const int32_t* lines);

enum class Activation : uint8_t {
  silu,       // x / (1 + exp(-x))
  gelu_tanh,  // x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
};

// output[i] = activation(input[i]) * input[width + i] for i < width: gate first, then up. Output may be the
// input's first half.
void gated_activation(Isa isa, Activation activation, ConstRows input, int64_t rows, int64_t width, Rows output);

// output[i] += input[i].
void add(Isa isa, Rows output, ConstRows input, int64_t rows, int64_t width);
// data[i] *= factor.
void scale(Isa isa, Rows data, int64_t rows, int64_t width, float factor);
// data[i] = cap * tanh(data[i] / cap).
void soft_cap(Isa isa, Rows data, int64_t rows, int64_t width, float cap);

// What a row of logits says as a whole. The probability of entry i is exp(logits[i] - log_sum_exp).
struct LogitStatistics {
  int32_t argmax = 0;  // the smallest index of the largest value
  float maximum = 0;
  double log_sum_exp = 0;  // natural logarithm; summed in float64 by blocks
};
LogitStatistics logit_statistics(Isa isa, std::span<const float> logits);

// The smallest index of the largest value; 0 for an empty row.
int32_t argmax(Isa isa, std::span<const float> values);

// values[i] = exp(values[i]) / sum, in place; and the same as logarithms.
void softmax(Isa isa, std::span<float> values);
void log_softmax(Isa isa, std::span<float> values);

}  // namespace onset
