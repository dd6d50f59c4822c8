// From logits to a token.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "onset/base/status.h"

namespace onset {

struct SamplingOptions {
  float temperature = 0.0f;  // 0: greedy (the largest logit, the lowest id among equals)
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // CTRL (arXiv:1909.05858, section 4.1): logits of seen tokens divided (or multiplied, below 0)
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  int32_t top_logprobs = 0;  // how many alternatives to report with each token; 0..20
  bool logprobs = false;     // report each token's log-probability
};

// Errors: invalid_argument naming the option and what was expected.
Status check_sampling(const SamplingOptions& options, int32_t vocabulary);

struct SampledToken {
  int32_t token = 0;
  float logprob = 0;                                    // natural logarithm, of the unmodified distribution
  std::vector<std::pair<int32_t, float>> alternatives;  // top_logprobs of them, most likely first
};

// Draws one sequence's tokens. The draw number n of a sequence depends on seed and n alone, so companions and chunks change
// nothing. Order: penalties and bias, temperature, top-k, top-p, min-p.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, std::span<const int32_t> prompt);
  SampledToken sample(std::span<const float> logits);

 private:
  SamplingOptions options_;
  std::vector<std::pair<int32_t, int32_t>> counts_;  // tokens seen and how often among the generated ones, sorted by token
  uint64_t draws_ = 0;
};

}  // namespace onset
