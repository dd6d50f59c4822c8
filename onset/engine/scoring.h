// Likelihoods of given text: what a model thinks of each token, and how far two precisions are apart.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"

namespace onset {

// One entry for each token. Entry 0 of logprob and rank says nothing: nobody predicts the first token.
struct Scores {
  std::vector<double> logprob;                  // natural logarithm of the probability of token i, given those before it
  std::vector<int32_t> rank;                    // 1: token i was the most likely one
  std::vector<int32_t> argmax;                  // the prediction after token i
  std::vector<std::pair<int32_t, double>> top;  // after the last token: the most likely ones and their logprob
  std::vector<float> last_logits;               // after the last token
};

// Runs the tokens as one prompt. `top`: how many alternatives after the last token.
// Errors: those of Engine::submit, and what made the request fail.
Result<Scores> score_tokens(Engine& engine, std::span<const int32_t> tokens, int32_t top);

struct PerplexityOptions {
  int32_t window = 2048;                                           // tokens that are read together; each window begins anew
  int32_t last = 0;                                                // score so many tokens at the end of each window; 0: all but the first
  std::function<void(int64_t done, int64_t total)> progress = {};  // in tokens
};

struct Perplexity {
  int64_t windows = 0;
  int64_t tokens_scored = 0;
  double nll = 0;  // mean negative log-likelihood, nats
  double perplexity = 0;
};

// Cuts the tokens into disjoint windows; a last one that is not full is left out. Every token of a window but the first is
// scored. Where the tokenizer begins texts with BOS, each window is BOS and the first window - 1 tokens of its run.
// Errors: invalid_argument for a window below 2, beyond the context, or with fewer tokens than it; those of Engine::submit.
Result<Perplexity> measure_perplexity(Engine& engine, std::span<const int32_t> tokens, const PerplexityOptions& options);

// Of one row: how far the tested logits are from the reference's.
struct RowDifference {
  double kl = 0;  // sum over tokens of p ln(p / q), p the reference's distribution and q the tested one's
  double tested_logprob = 0, reference_logprob = 0;  // of the token that follows
  bool same_top = false;                             // whether both have the same most likely token
};
RowDifference compare_rows(Isa isa, std::span<const float> reference, std::span<const float> tested, int32_t next);

// How far `tested` is from `reference` over the same tokens.
struct Divergence {
  Perplexity tested, reference;
  double kl_mean = 0;        // Kullback-Leibler divergence of tested's distribution from reference's, nats, mean over scored rows
  double kl_99 = 0;          // its 99th percentile
  double top1 = 0;           // share of the rows with the same most likely token
  double logprob_delta = 0;  // mean |difference| of the scored tokens' log-probabilities
};

// Both engines read the same windows, some rows at a time, so that only these rows' logits are in memory; with `last` each window is one
// prompt, and the last rows' logits are.
// Both need the same vocabulary. Errors: as measure_perplexity, and invalid_argument for vocabularies that differ.
Result<Divergence> measure_divergence(Engine& tested, Engine& reference, std::span<const int32_t> tokens, const PerplexityOptions& options);

}  // namespace onset
