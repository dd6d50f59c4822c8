// From logits to a token.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "onset/base/cpu_features.h"
#include "onset/base/status.h"
#include "onset/text/grammar_tokens.h"

namespace onset {

struct SamplingOptions {
  float temperature = 0.0f;         // 0: greedy (the largest logit, the lowest id among equals)
  int32_t top_k = 0;                // only the k most likely tokens; 0: off
  float top_p = 1.0f;               // only the most likely tokens that together have this probability; 1: off
  float min_p = 0.0f;               // only tokens at least this likely relative to the most likely one; 0: off
  float repetition_penalty = 1.0f;  // CTRL (arXiv:1909.05858, section 4.1): logits of seen tokens divided (or multiplied, below 0)
  float presence_penalty = 0.0f;    // subtracted from the logits of tokens that were generated before
  float frequency_penalty = 0.0f;   // the same, times how often
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  uint64_t seed = 0;
  int32_t top_logprobs = 0;                          // how many alternatives to report with each token; 0..20
  bool logprobs = false;                             // report each token's log-probability
  std::shared_ptr<const TokenGrammar> grammar = {};  // only tokens that continue a text of it; null: all
  std::vector<int32_t> given = {};  // the first tokens are these, whatever the logits say (teacher forcing); no grammar then
};

// Errors: invalid_argument naming the option and what was expected, also for a grammar that was made for another vocabulary.
Status check_sampling(const SamplingOptions& options, int32_t vocabulary);

struct SampledToken {
  int32_t token = -1;                                   // -1: no (allowed) token has a finite logit, nothing can be drawn
  float logprob = 0;                                    // natural logarithm, of the unmodified distribution; if asked for
  std::vector<std::pair<int32_t, float>> alternatives;  // top_logprobs of them, most likely first
};

// Draws one sequence's tokens. The draw number n of a sequence depends on seed and n alone, so companions and chunks change
// nothing. Order: penalties and bias, grammar, temperature, top-k, top-p, min-p.
class Sampler {
 public:
  // `prompt` counts as seen for the repetition penalty; ids below 0 (inputs that were vectors) are passed over.
  Sampler(const SamplingOptions& options, std::span<const int32_t> prompt, Isa isa);
  SampledToken sample(std::span<const float> logits);

  struct Candidate {
    int32_t token;
    float weight;  // its probability, or its logit
  };

 private:
  struct Seen {
    int32_t token = 0;
    int32_t generated = 0;  // how often it was generated
  };
  bool changes_logits() const;
  void change_logits(std::span<float> logits) const;
  void leave_only_allowed(std::span<float> logits);
  int32_t draw(std::span<const float> logits);
  const std::vector<Candidate>& filter(std::span<const float> weights, float largest) const;
  void remember(int32_t token, int32_t generated);

  SamplingOptions options_;
  Isa isa_;
  std::optional<TokenConstraint> constraint_;
  std::vector<Seen> seen_;  // sorted by token; kept only where a penalty needs it
  uint64_t draws_ = 0;
  size_t given_ = 0;  // tokens of options_.given so far
};

}  // namespace onset
