#include "onset/compute/reference/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace onset::reference {

std::vector<double> linear(std::span<const double> input, std::span<const double> weight, std::span<const double> bias, int64_t rows,
                           int64_t in, int64_t out) {
  std::vector<double> output(rows * out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < out; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += input[r * in + k] * weight[n * in + k];
      output[r * out + n] = sum + (bias.empty() ? 0.0 : bias[n]);
    }
  }
  return output;
}

std::vector<double> rotate(std::span<const double> row) {
  const auto count = static_cast<int64_t>(row.size());
  const int64_t power = count & -count;
  std::vector<int64_t> factors;
  for (int64_t left = count / power, prime = 3; prime <= 13; prime += 2) {
    for (; left % prime == 0; left /= prime) factors.push_back(prime);
  }
  std::vector<double> rotated(count);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < count; ++j) {
      // Sylvester's Hadamard matrix: the sign of (i, j) is the parity of the bits that i and j share.
      const bool minus = std::popcount(static_cast<uint64_t>((i % power) & (j % power))) % 2 == 1;
      double element = (minus ? -1 : 1) / std::sqrt(static_cast<double>(power));
      int64_t left_i = i / power, left_j = j / power;
      for (const int64_t factor : factors) {
        element *= (left_i % factor == left_j % factor ? 1.0 : 0.0) - 2.0 / static_cast<double>(factor);
        left_i /= factor;
        left_j /= factor;
      }
      if (left_i == left_j) rotated[i] += element * row[j];
    }
  }
  return rotated;
}

Quantized quantize(std::span<const double> row) {
  double largest = 0;
  for (const double value : row) largest = std::max(largest, std::abs(value));
  Quantized result;
  result.scale = largest / 127;
  for (const double value : row) result.integers.push_back(largest > 0 ? value / result.scale : 0.0);
  return result;
}

}  // namespace onset::reference
