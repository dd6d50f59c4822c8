// Linear layers: output[row][n] = sum over k of input[row][k] * weight[n][k]  (+ bias[n]).
//
// A weight matrix is packed once into the panels that the micro-kernel reads; the bytes can be kept in a file
// and mapped. The kernel and the arithmetic follow from the precision:
//   reference  float32 weights and inputs, one fixed order of addition over k for every element
//   bf16       bfloat16 weights and inputs, exact products, float32 sums over pairs of k in one fixed order. Half
//              of float32's bytes and, where the CPU multiplies bfloat16, twice its speed. Last bits may
//              differ between instruction sets, because theirs rounds once for a pair.
//   fast       int8 weights times int8 inputs with exact int32 sums and one scale for each input row and each
//              output column; before they are rounded, inputs are conditioned and rotated (rotation.h),
//              weights inversely. Measured on SmolLM2 against float32 (mean KL in nats; llama.cpp's own fast
//              path 0.0027): blocks of 64 rotated 0.0053, whole rows rotated 0.0043, and conditioned by a
//              short text 0.0022.
// In all, an output element depends only on its input row and weight row: never on the other rows of a call,
// on how rows or columns are split among calls, or on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "onset/base/cpu_features.h"
#include "onset/base/thread_pool.h"

namespace onset {

enum class Precision : uint8_t { reference, bf16, fast };

// "reference", "bf16", "fast".
const char* precision_name(Precision precision);

// A packed matrix [out, in]. Does not own its bytes (an arena or a mapped file does).
struct LinearWeight {
  Precision precision = Precision::reference;
  int64_t in = 0;  // at most 131,072 in the fast precision: int32 sums of 127 * 127
  int64_t out = 0;
  const std::byte* data = nullptr;  // 64-byte aligned, linear_bytes() long
};

// Identifies the packed layout: changes whenever packed bytes would differ, so that stale packed files are
// refused.
uint32_t linear_layout_version();

// Bytes of a packed matrix, a multiple of 64.
size_t linear_bytes(Precision precision, int64_t in, int64_t out);

// Called from any worker: writes row `n` of the matrix, `in` float32 values.
using WeightRows = std::function<void(int64_t n, std::span<float> values)>;

// What happens to an input before it is rotated and quantised, so that less is rounded away:
//     input' = (input - shift) * inverse
// The packed weights carry the opposite (columns divided by `inverse`, and weight * shift added to every
// output), so that the product stays what it was. Both spans are [in], `inverse` positive; both empty:
// nothing happens.
struct InputConditioning {
  std::span<const float> shift, inverse;
};

// Packs a matrix into `destination` (linear_bytes() long, 64-byte aligned). Only the fast precision
// needs conditioning, the others ignore it.
void pack_linear(Precision precision, int64_t in, int64_t out, const WeightRows& rows, const InputConditioning& conditioning,
                 std::byte* destination, ThreadPool& pool);
inline void pack_linear(Precision precision, int64_t in, int64_t out, const WeightRows& rows, std::byte* destination, ThreadPool& pool) {
  pack_linear(precision, in, out, rows, {}, destination, pool);
}

// The input rows in the form that multiply() reads: rotated, quantised, with their scales; or plain floats.
// linear_input_bytes() says how much room `rows` rows take (a multiple of 64). Prepared rows lie one after
// another and know nothing of each other: row r begins linear_input_bytes(weight, r) bytes on, so workers may
// prepare and multiply blocks of rows of one buffer. What is prepared for one instruction set is read by
// multiply_linear() of the same one only.
size_t linear_input_bytes(const LinearWeight& weight, int64_t rows);
// input: row r begins at input + r * input_stride (in floats). `prepared` is 64-byte aligned.
void prepare_linear_input(Isa isa, const LinearWeight& weight, const float* input, int64_t input_stride, int64_t rows, std::byte* prepared);

// What becomes of the products.
struct LinearOutput {
  float* data = nullptr;  // row r, column n at data[r * stride + n], n counted over the whole matrix
  int64_t stride = 0;
  const float* bias = nullptr;  // [out], or none
  bool accumulate = false;      // adds to what is there (a residual stream) instead of overwriting it
  int64_t first_column = 0;     // column n is at data[r * stride + n - first_column], for outputs that hold a few
};

// Columns are split among workers at multiples of this.
inline constexpr int64_t linear_column_step = 32;

// Rows that the kernels work on at a time: blocks of a multiple of this waste nothing.
int64_t linear_tile_rows(Isa isa);

// Multiplies `rows` prepared rows with columns column_begin..column_end-1 (column_begin a multiple of
// linear_column_step, column_end such a multiple or weight.out). Runs on the calling thread. One row (decode)
// and many rows (prefill) take different kernels over the same packed bytes with bit-equal results.
void multiply_linear(Isa isa, const LinearWeight& weight, const std::byte* prepared, int64_t rows, int64_t column_begin, int64_t column_end,
                     const LinearOutput& output);

}  // namespace onset
