// Rotary position embedding: frequencies out of a configuration, and tables of cosines and sines for the rows of a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "onset/model/config.h"

namespace onset {

// The angle of pair i at position p is p * frequencies[i]; dimensions / 2 of them. RoFormer (arXiv:2104.09864) with linear scaling,
// per-pair factors (Llama 3) or yarn (arXiv:2309.00071, section 3.2, NTK-by-parts).
std::vector<float> rotary_frequencies(const RopeConfig& rope);

// cos (dimensions / 2 values) then sin (as many) for each position: [positions, dimensions]. Angles are float32 products, as the models
// were trained with; both are scaled by the rope's attention factor.
void rotary_table(const RopeConfig& rope, std::span<const float> frequencies, std::span<const int32_t> positions, float* table);

}  // namespace onset
