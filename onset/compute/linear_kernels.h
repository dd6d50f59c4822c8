// What linear.cc and the kernels compiled for each instruction set share: where things lie in packed matrices
// and prepared rows, and the table of kernels. Plain structs only: kernel files may emit no inline function
// that the linker could merge with other files' copies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onset {

// Columns of a panel, the unit in which weights are packed.
inline constexpr int64_t linear_panel_columns = 32;

// The orthogonal transform that spreads a row's large values over all of it, before both factors of a product
// are rounded to int8: the Kronecker product of a Walsh-Hadamard transform of `power` values and of a
// Householder reflection I - (2/f) J (J all ones) for each small odd prime factor f of the row's length; 576
// = 64 x 3 x 3, 1536 = 512 x 3. Hadamard is applied as sums, not normalised: the product of two transformed
// rows is `power` times that of the rows. rotation.h says which factors, and why.
struct Rotation {
  int64_t count;  // values of a row
  int64_t power;  // the largest power of two that divides count
  int factors;
  int64_t factor[12];  // of stride power, power * factor[0], ...
};

// The fast precision. A packed matrix is ceil(out / 32) panels, one after the other. Panel p holds columns
// 32p..32p+31:
//
//   int8   weights[padded_in / 4][32][4]  at 0: four consecutive k of one column side by side (vpdpbusd)
//   int32  sums[32]                       at panel_sums: -128 times the sum of the column's weights
//   float  scales[32]                     at panel_scales
//   float  biases[32]                     at panel_biases: weight * shift (InputConditioning)
//
// After the panels, at `conditioning`: float shift[in], then inverse[in], each in a stretch of a multiple of
// 64 bytes. Weights past `in` or `out` are 0. A prepared row is
//
//   float  scale                          at 0
//   int8   values[padded_in]              at row_values. For VNNI: value + 128, unsigned, and products
//                                         start from `sums`; for others: in 16 bits
//
// and a product is (sum over k of value * weight) * row scale * column scale + the column's bias, the sum
// exact in int32 (in <= 131,072), the rest in float32, each operation rounded. One scale for a row and one
// for a column, so that the kernel needs no float arithmetic but at the end of a sum.
struct FastLayout {
  int64_t in, out;
  int64_t padded_in;  // in rounded up to a multiple of 4
  Rotation rotation;
  int64_t row_bytes, row_values;
  int64_t panel_bytes, panel_sums, panel_scales, panel_biases;
  int64_t conditioning, conditioning_bytes;  // where it begins, and bytes of either of its parts
};

// The precisions with float sums. Reference: panels of float weights[in][32]; a prepared row is its `in` floats.
// bf16: panels of bfloat16 weights[steps][32][2], two consecutive k of one column side by side (vdpbf16ps); a
// prepared row is its bfloat16 values, stored as such or as floats (the instruction set's choice), with zeros
// up to 2 * steps.
struct FloatLayout {
  int64_t in, out;
  int64_t steps;  // in, or pairs of it
  int64_t row_bytes;
  int64_t panel_bytes;
};

// One multiplication of prepared rows with a range of columns. Pointers count from row 0 and column 0, the
// output's from first_column.
struct MultiplyCall {
  const std::byte* weight;
  const std::byte* prepared;
  int64_t rows;
  int64_t column_begin, column_end;
  float* output;
  int64_t output_stride, first_column;
  const float* bias;  // or null
  bool accumulate;
};

struct LinearKernels {
  int64_t tile_rows;  // rows of the tile that many rows are worked on with
  void (*rotate)(const Rotation& rotation, float* values);
  // weight: the packed matrix. scratch: twice layout.in floats rounded up to a multiple of 64, 64-byte
  // aligned.
  void (*prepare)(const FastLayout& layout, const std::byte* weight, const float* input, int64_t input_stride, int64_t rows,
                  std::byte* prepared, float* scratch);
  void (*multiply)(const FastLayout& layout, const MultiplyCall& call);
  void (*multiply_reference)(const FloatLayout& layout, const MultiplyCall& call);
  void (*prepare_bf16)(const FloatLayout& layout, const float* input, int64_t input_stride, int64_t rows, std::byte* prepared);
  void (*multiply_bf16)(const FloatLayout& layout, const MultiplyCall& call);
};

extern const LinearKernels linear_generic;
#if defined(__x86_64__)
extern const LinearKernels linear_avx2, linear_avx_vnni, linear_evex_vnni, linear_avx512;
#endif

}  // namespace onset
