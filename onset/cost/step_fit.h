// Learns what steps cost from steps that were measured: non-negative least squares, so that more work never seems to cost less.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "onset/base/status.h"
#include "onset/cost/step_cost.h"

namespace onset {

struct StepSample {
  StepShape shape;
  double seconds = 0;
};

struct StepFit {
  StepWeights weights;
  int64_t samples = 0;
  // Over the samples, measured / predicted seconds: its median and its 99th percentile (nearest rank), and the mean of
  // |measured / predicted - 1|.
  double ratio_50 = 1, ratio_99 = 1, mean_error = 0;
};

// The weights with the least sum of squared relative errors. `bends`: row-layers at which the line of rows may bend upwards.
// Errors: invalid_argument for a sample without a time above 0, or fewer samples than weights.
Result<StepFit> fit_step_cost(std::span<const StepSample> samples, std::span<const double> bends);

// The ratios and the error of given weights over samples that they were not fitted to.
StepFit judge_step_cost(const StepWeights& weights, std::span<const StepSample> samples);

// x >= 0 with the least |A x - b| (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23). a: [rows, columns], row-major.
std::vector<double> non_negative_least_squares(std::span<const double> a, std::span<const double> b, int64_t columns);

}  // namespace onset
