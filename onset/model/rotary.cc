#include "onset/model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace onset {
namespace {

// The pair whose wavelength makes `turns` turns within the original context (YaRN, section 3.2, solved for the dimension).
double pair_of_turns(const RopeConfig& rope, double turns) {
  return rope.dimensions * std::log(rope.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.base));
}

}  // namespace

std::vector<float> rotary_frequencies(const RopeConfig& rope) {
  const int32_t pairs = rope.dimensions / 2;
  std::vector<float> frequencies(pairs);
  for (int32_t i = 0; i < pairs; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.dimensions);
    frequencies[i] = 1.0f / std::pow(rope.base, exponent);
  }
  using Scaling = RopeConfig::Scaling;
  if (rope.scaling == Scaling::linear) {
    for (float& frequency : frequencies) frequency /= rope.factor;
  } else if (rope.scaling == Scaling::factors) {
    for (int32_t i = 0; i < pairs; ++i) frequencies[i] /= rope.frequency_factors[i];
  } else if (rope.scaling == Scaling::yarn) {
    // Fast pairs keep their frequency, slow ones are interpolated, those between are blended.
    const double low = std::max(0.0, std::floor(pair_of_turns(rope, rope.beta_fast)));
    const double high = std::min(rope.dimensions - 1.0, std::ceil(pair_of_turns(rope, rope.beta_slow)));
    for (int32_t i = 0; i < pairs; ++i) {
      const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
      frequencies[i] = static_cast<float>(frequencies[i] / rope.factor * ramp + frequencies[i] * (1.0 - ramp));
    }
  }
  return frequencies;
}

void rotary_table(const RopeConfig& rope, std::span<const float> frequencies, std::span<const int32_t> positions, float* table) {
  const size_t pairs = frequencies.size();
  for (size_t row = 0; row < positions.size(); ++row) {
    float* line = table + row * 2 * pairs;
    for (size_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(positions[row]) * frequencies[i];
      line[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * rope.attention_factor;
      line[pairs + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * rope.attention_factor;
    }
  }
}

}  // namespace onset
