#include "onset/engine/likelihood.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace onset {
namespace {

// Values handled side by side: compilers turn the loops over them into vector instructions of any width up to this.
constexpr size_t lanes = 16;

// exp(x) for x <= 0 by exp2 of a split argument: 2^n * 2^f with |f| <= 1/2, a polynomial of degree 6 for 2^f (Cephes). The
// relative error is below 1e-7 * (1 + |x|). Arguments below -87 give 0.
inline float fast_exp(float x) {
  const float t = std::max(x, -87.0f) * 1.44269504f;
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
  const float shifted = t + 12582912.0f;
  const float f = t - (shifted - 12582912.0f);
  float p = 1.535336188319500e-4f;
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  const float value = p * std::bit_cast<float>(exponent);
  return x < -87.0f ? 0.0f : value;
}

// Applies exponent to every logit, hands each block to `store`, and adds all up: lanes in float32 over 256 values at most, then
// in double precision.
template <typename Store>
double sum_of_exponentials(std::span<const float> logits, float largest, float scale, const Store& store) {
  constexpr size_t block = 16 * lanes;
  double total = 0;
  size_t i = 0;
  for (; i + lanes <= logits.size();) {
    std::array<float, lanes> sums{};
    const size_t end = std::min(logits.size() - logits.size() % lanes, i + block);
    for (; i < end; i += lanes) {
      std::array<float, lanes> values;
      for (size_t lane = 0; lane < lanes; ++lane) values[lane] = fast_exp((logits[i + lane] - largest) * scale);
      for (size_t lane = 0; lane < lanes; ++lane) sums[lane] += values[lane];
      store(i, std::span<const float>(values));
    }
    for (const float sum : sums) total += sum;
  }
  for (; i < logits.size(); ++i) {
    const float value = fast_exp((logits[i] - largest) * scale);
    total += value;
    store(i, std::span<const float>(&value, 1));
  }
  return total;
}

}  // namespace

LargestLogit largest_logit(std::span<const float> logits) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  std::array<float, lanes> largest;
  largest.fill(lowest);
  size_t i = 0;
  for (; i + lanes <= logits.size(); i += lanes) {
    for (size_t lane = 0; lane < lanes; ++lane) {
      largest[lane] = logits[i + lane] > largest[lane] ? logits[i + lane] : largest[lane];
    }
  }
  float value = *std::max_element(largest.begin(), largest.end());
  for (; i < logits.size(); ++i) value = logits[i] > value ? logits[i] : value;
  if (value == lowest) return {-1, lowest};
  const auto found = std::find(logits.begin(), logits.end(), value);
  return {static_cast<int32_t>(found - logits.begin()), value};
}

double log_sum_exp(std::span<const float> logits) {
  const float largest = largest_logit(logits).value;
  if (!std::isfinite(largest)) return largest;
  return largest + std::log(sum_of_exponentials(logits, largest, 1.0f, [](size_t, std::span<const float>) {}));
}

double exponentials(std::span<const float> logits, float largest, float inverse_temperature, std::span<float> weights) {
  return sum_of_exponentials(logits, largest, inverse_temperature, [&](size_t i, std::span<const float> values) {
    std::copy(values.begin(), values.end(), weights.begin() + static_cast<std::ptrdiff_t>(i));
  });
}

int32_t rank_of(std::span<const float> logits, int32_t token) {
  const float own = logits[token];
  int32_t before = 0;
  const auto size = static_cast<int32_t>(logits.size());
  for (int32_t i = 0; i < token; ++i) before += logits[i] >= own;
  for (int32_t i = token + 1; i < size; ++i) before += logits[i] > own;
  return before + 1;
}

}  // namespace onset
