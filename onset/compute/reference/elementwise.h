// The steps of elementwise.h written straight from their definitions in double precision: what the kernels
// are tested against.
#pragma once

#include <vector>

#include "onset/compute/elementwise.h"

namespace onset::reference {

std::vector<double> rms_norm(const std::vector<float>& row, const float* gain, double epsilon);

// One head at angles position * frequencies[i].
std::vector<double> rotate(RotaryPairs pairs, const std::vector<float>& head, const std::vector<double>& frequencies, double position,
                           double factor);

double activate(Activation activation, double x);

double log_sum_exp(const std::vector<float>& logits);

}  // namespace onset::reference
