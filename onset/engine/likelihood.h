// Probabilities out of logits, in one fixed order of additions: what sampling, scoring and perplexity have in common.
#pragma once

#include <cstdint>
#include <span>

namespace onset {

// The largest logit, and the lowest index that has it. No logit compares greater than a NaN here: a row of nothing but NaN and
// -infinity gives -infinity and index -1.
struct LargestLogit {
  int32_t index = -1;
  float value = 0;
};
LargestLogit largest_logit(std::span<const float> logits);

// ln(sum of exp(logits)), to about 1e-7; the sum in double precision.
double log_sum_exp(std::span<const float> logits);

// weights[i] = exp((logits[i] - largest) * inverse_temperature); returns their sum.
double exponentials(std::span<const float> logits, float largest, float inverse_temperature, std::span<float> weights);

// How many logits come before `token`'s when sorted from most to least likely, plus one: 1 for the most likely token. Among equal
// logits the lower index comes first.
int32_t rank_of(std::span<const float> logits, int32_t token);

}  // namespace onset
