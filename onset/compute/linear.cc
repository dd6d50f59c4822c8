#include "onset/compute/linear.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <memory>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/compute/linear_layout.h"
#include "onset/compute/rotation.h"
#include "onset/tensor/dtype.h"

namespace onset {
namespace {

constexpr int64_t columns_of_panel = linear_panel_columns;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int64_t panels(int64_t out) {
  return round_up(out, columns_of_panel) / columns_of_panel;
}

// The best instruction set of this CPU: for packing, whose results are the same with any.
const LinearKernels& best_kernels() {
  Isa best = Isa::generic;
  for (const Isa isa : {Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (cpu_supports(isa)) best = isa;
  }
  return linear_kernels(best);
}

// Moves the inputs' conditioning into a row of weights; returns the row's bias.
float condition_weights(const InputConditioning& conditioning, std::span<float> row) {
  if (conditioning.shift.empty()) return 0.0f;
  double bias = 0;
  for (size_t k = 0; k < row.size(); ++k) {
    bias += static_cast<double>(row[k]) * conditioning.shift[k];
    row[k] /= conditioning.inverse[k];
  }
  return static_cast<float>(bias);
}

void write_conditioning(const FastLayout& layout, const InputConditioning& conditioning, std::byte* destination) {
  auto* shift = reinterpret_cast<float*>(destination + layout.conditioning);
  auto* inverse = reinterpret_cast<float*>(destination + layout.conditioning + layout.conditioning_bytes);
  for (int64_t k = 0; k < layout.conditioning_bytes / 4; ++k) {
    const bool given = k < static_cast<int64_t>(conditioning.shift.size());
    shift[k] = given ? conditioning.shift[k] : 0.0f;
    inverse[k] = given ? conditioning.inverse[k] : 1.0f;
  }
}

// One column of a panel: rotates the row, finds its scale and stores integers, sum and scale. `integers` is
// scratch with room for a row rounded up to a multiple of 4.
void pack_fast_column(const LinearKernels& kernels, const FastLayout& layout, std::span<float> row, int64_t column,
                      std::span<int8_t> integers, std::byte* panel) {
  kernels.rotate(layout.rotation, row.data());
  float largest = 0;
  for (const float value : row) largest = std::max(largest, std::abs(value));
  const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
  int32_t sum = 0;
  for (int64_t k = 0; k < layout.in; ++k) {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    integers[k] = static_cast<int8_t>(std::bit_cast<uint32_t>(row[k] * inverse + 12582912.0f));
    sum += integers[k];
  }
  for (int64_t k = layout.in; k < layout.padded_in; ++k) integers[k] = 0;
  for (int64_t k = 0; k < layout.padded_in; k += 4) {
    std::memcpy(panel + (k * columns_of_panel + column * 4), integers.data() + k, 4);
  }
  reinterpret_cast<int32_t*>(panel + layout.panel_sums)[column] = -128 * sum;
  // The rotation of rows is not normalised: the product of both transforms is `power` times the matrix
  // product.
  reinterpret_cast<float*>(panel + layout.panel_scales)[column] =
      inverse == 0.0f ? 0.0f : largest / (127.0f * static_cast<float>(layout.rotation.power));
}

}  // namespace

const char* precision_name(Precision precision) {
  switch (precision) {
    case Precision::reference:
      return "reference";
    case Precision::bf16:
      return "bf16";
    case Precision::fast:
      return "fast";
  }
  return "unknown";
}

uint32_t linear_layout_version() {
  return 3;
}

FastLayout fast_layout(int64_t in, int64_t out) {
  FastLayout layout;
  layout.in = in;
  layout.out = out;
  layout.padded_in = round_up(in, 4);
  layout.rotation = rotation_for(in);
  layout.row_values = 64;
  layout.row_bytes = layout.row_values + 2 * round_up(in, 64);
  layout.panel_sums = layout.padded_in * columns_of_panel;
  layout.panel_scales = layout.panel_sums + columns_of_panel * 4;
  layout.panel_biases = layout.panel_scales + columns_of_panel * 4;
  layout.panel_bytes = layout.panel_biases + columns_of_panel * 4;
  layout.conditioning = panels(out) * layout.panel_bytes;
  layout.conditioning_bytes = round_up(in * 4, 64);
  return layout;
}

FloatLayout reference_layout(int64_t in, int64_t out) {
  return {in, out, in, round_up(in * 4, 64), in * columns_of_panel * 4};
}

FloatLayout bf16_layout(int64_t in, int64_t out) {
  const int64_t steps = (in + 1) / 2;
  return {in, out, steps, round_up(steps * 8, 64), steps * columns_of_panel * 4};
}

const LinearKernels& linear_kernels(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::generic:
      return linear_generic;
    case Isa::avx2:
      return linear_avx2;
    case Isa::avx_vnni:
      return vnni256_is_evex() ? linear_evex_vnni : linear_avx_vnni;
    case Isa::avx512:
      return linear_avx512;
  }
#endif
  return linear_generic;
}

namespace {

FloatLayout float_layout(Precision precision, int64_t in, int64_t out) {
  return precision == Precision::bf16 ? bf16_layout(in, out) : reference_layout(in, out);
}

// Two consecutive k of one column side by side; the odd last one beside a zero.
void pack_bf16_column(std::span<const float> row, int64_t column, std::byte* panel) {
  auto* weights = reinterpret_cast<uint16_t*>(panel) + 2 * column;
  for (size_t k = 0; k < row.size(); ++k) weights[k / 2 * (2 * columns_of_panel) + k % 2] = f32_to_bf16(row[k]);
  if (row.size() % 2 == 1) weights[row.size() / 2 * (2 * columns_of_panel) + 1] = 0;
}

}  // namespace

size_t linear_bytes(Precision precision, int64_t in, int64_t out) {
  if (precision != Precision::fast) return static_cast<size_t>(panels(out) * float_layout(precision, in, out).panel_bytes);
  const FastLayout layout = fast_layout(in, out);
  return static_cast<size_t>(layout.conditioning + 2 * layout.conditioning_bytes);
}

void pack_linear(Precision precision, int64_t in, int64_t out, const WeightRows& rows, const InputConditioning& conditioning,
                 std::byte* destination, ThreadPool& pool) {
  const FastLayout fast = fast_layout(in, out);
  const int64_t panel_bytes = precision == Precision::fast ? fast.panel_bytes : float_layout(precision, in, out).panel_bytes;
  const LinearKernels& kernels = best_kernels();
  std::vector<AlignedVector<float>> scratch(pool.threads());
  std::vector<std::vector<int8_t>> integers(pool.threads());
  if (precision == Precision::fast) write_conditioning(fast, conditioning, destination);
  pool.for_each(panels(out), [&](int64_t index, int worker) {
    scratch[worker].resize(round_up(in, 64));
    integers[worker].resize(fast.padded_in);
    const std::span<float> row(scratch[worker].data(), in);
    std::byte* panel = destination + index * panel_bytes;
    const int64_t columns = std::min(columns_of_panel, out - index * columns_of_panel);
    if (columns < columns_of_panel) std::memset(panel, 0, panel_bytes);
    for (int64_t column = 0; column < columns; ++column) {
      rows(index * columns_of_panel + column, row);
      if (precision == Precision::fast) {
        reinterpret_cast<float*>(panel + fast.panel_biases)[column] = condition_weights(conditioning, row);
        pack_fast_column(kernels, fast, row, column, integers[worker], panel);
      } else if (precision == Precision::bf16) {
        pack_bf16_column(row, column, panel);
      } else {
        auto* weights = reinterpret_cast<float*>(panel) + column;
        for (int64_t k = 0; k < in; ++k) weights[k * columns_of_panel] = row[k];
      }
    }
  });
}

int64_t linear_tile_rows(Isa isa) {
  return linear_kernels(isa).tile_rows;
}

size_t linear_input_bytes(const LinearWeight& weight, int64_t rows) {
  const int64_t row_bytes = weight.precision == Precision::fast ? fast_layout(weight.in, weight.out).row_bytes
                                                                : float_layout(weight.precision, weight.in, weight.out).row_bytes;
  return static_cast<size_t>(rows * row_bytes);
}

void prepare_linear_input(Isa isa, const LinearWeight& weight, const float* input, int64_t input_stride, int64_t rows,
                          std::byte* prepared) {
  if (weight.precision == Precision::reference) {
    const FloatLayout layout = reference_layout(weight.in, weight.out);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(prepared + r * layout.row_bytes, input + r * input_stride, weight.in * sizeof(float));
    }
    return;
  }
  if (weight.precision == Precision::bf16) {
    linear_kernels(isa).prepare_bf16(bf16_layout(weight.in, weight.out), input, input_stride, rows, prepared);
    return;
  }
  const FastLayout layout = fast_layout(weight.in, weight.out);
  const int64_t needed = 2 * round_up(weight.in, 64);
  // Rows longer than this are rare enough for an allocation.
  constexpr int64_t on_stack = 4096;
  alignas(64) float stack[on_stack];
  std::unique_ptr<AlignedVector<float>> heap;
  if (needed > on_stack) heap = std::make_unique<AlignedVector<float>>(needed);
  linear_kernels(isa).prepare(layout, weight.data, input, input_stride, rows, prepared, heap ? heap->data() : stack);
}

void multiply_linear(Isa isa, const LinearWeight& weight, const std::byte* prepared, int64_t rows, int64_t column_begin, int64_t column_end,
                     const LinearOutput& output) {
  assert(column_begin % linear_column_step == 0);
  assert(column_end == weight.out || column_end % linear_column_step == 0);
  const MultiplyCall call = {weight.data, prepared,         rows, column_begin, column_end, output.data, output.stride, output.first_column,
                             output.bias, output.accumulate};
  if (weight.precision == Precision::fast) {
    linear_kernels(isa).multiply(fast_layout(weight.in, weight.out), call);
  } else if (weight.precision == Precision::bf16) {
    linear_kernels(isa).multiply_bf16(bf16_layout(weight.in, weight.out), call);
  } else {
    linear_kernels(isa).multiply_reference(reference_layout(weight.in, weight.out), call);
  }
}

}  // namespace onset
