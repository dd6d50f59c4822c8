// How near answers to reused contexts are to those of reading everything.
#pragma once

#include <span>
#include <vector>

#include "onset/engine/answer_scores.h"
#include "onset/engine/scoring.h"

namespace onset {

// Of one question and one way of reuse, over the tokens of the answer.
struct ReuseFidelity {
  double kl = 0;                 // mean divergence from reading everything, nats
  double top1 = 0;               // share of the tokens with the same most likely one
  double logprob = 0;            // mean log-probability of the answer that reading everything gives ...
  double reference_logprob = 0;  // ... and that of reading everything
};

// Reads everything and answers with `answer_tokens` tokens, the most likely one each time; then each way reads this question and answer,
// and its distributions are compared with those of reading everything (teacher forcing). One entry for each way. Errors: those of
// Engine::submit and what made a request fail; invalid_argument for fewer than one answer token.
Result<std::vector<ReuseFidelity>> measure_reuse(Engine& engine, const PromptParts& parts, std::span<const ContextReuse> ways,
                                                 int32_t answer_tokens);

}  // namespace onset
