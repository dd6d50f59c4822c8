// Linear layers in double precision: what compute/linear.h must equal. Plain loops, nothing else.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace onset::reference {

// output[r][n] = sum over k of input[r][k] * weight[n][k]  (+ bias[n], when bias is not empty).
// input [rows, in], weight [out, in], output [rows, out], all row-major.
std::vector<double> linear(std::span<const double> input, std::span<const double> weight, std::span<const double> bias, int64_t rows,
                           int64_t in, int64_t out);

// The orthogonal rotation of the fast precision, as an explicit product with the matrix: element i of the
// result is sum over j of rotation(i, j) * row[j], rotation being symmetric or not, but orthogonal.
std::vector<double> rotate(std::span<const double> row);

// A row (already rotated) as small integers with one scale: scale = largest magnitude / 127 and integer =
// value / scale, not rounded, so that a test sees how near to a tie it is.
struct Quantized {
  std::vector<double> integers;
  double scale = 0;
};
Quantized quantize(std::span<const double> row);

}  // namespace onset::reference
