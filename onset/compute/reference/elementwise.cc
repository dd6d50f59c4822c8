#include "onset/compute/reference/elementwise.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace onset::reference {

std::vector<double> rms_norm(const std::vector<float>& row, const float* gain, double epsilon) {
  double sum = 0;
  for (const float x : row) sum += static_cast<double>(x) * x;
  std::vector<double> result;
  for (size_t i = 0; i < row.size(); ++i) {
    result.push_back(row[i] / std::sqrt(sum / static_cast<double>(row.size()) + epsilon) * (gain != nullptr ? gain[i] : 1.0));
  }
  return result;
}

std::vector<double> rotate(RotaryPairs pairs, const std::vector<float>& head, const std::vector<double>& frequencies, double position,
                           double factor) {
  std::vector<double> result(head.begin(), head.end());
  const size_t half = frequencies.size();
  for (size_t i = 0; i < half; ++i) {
    const size_t first = pairs == RotaryPairs::neighbours ? 2 * i : i;
    const size_t second = pairs == RotaryPairs::neighbours ? 2 * i + 1 : half + i;
    const double cosine = factor * std::cos(position * frequencies[i]), sine = factor * std::sin(position * frequencies[i]);
    result[first] = head[first] * cosine - head[second] * sine;
    result[second] = head[second] * cosine + head[first] * sine;
  }
  return result;
}

double activate(Activation activation, double x) {
  if (activation == Activation::silu) return x / (1 + std::exp(-x));
  return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

double log_sum_exp(const std::vector<float>& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

}  // namespace onset::reference
