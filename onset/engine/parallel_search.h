// The search for the prefix, the temperature and the scale with which parallel contexts answer best: APE (arXiv:2502.05431), section 4.4.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "onset/engine/answer_scores.h"

namespace onset {

struct ParallelSearchOptions {
  std::vector<float> temperatures = {1.0f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f, 0.4f, 0.3f, 0.2f, 0.1f};
  std::vector<float> scales = temperatures;
  size_t usual_prefix = 0;                                         // the one that contexts have without a search
  std::function<void(int64_t done, int64_t total)> progress = {};  // prompts that were scored, of those still expected
};

// One prefix, temperature and scale, and how the prompts were answered with it.
struct ParallelConfiguration {
  std::string stage;  // where the search came to it: "prefix", "temperature", "scale", or "default"
  size_t prefix = 0;  // among the candidates
  ParallelContextsOptions options = {};
  double accuracy = 0;           // share of the prompts whose right label is the likeliest, where there are labels
  double logprob = 0;            // of right answers: mean over their tokens, then over the prompts
  std::vector<double> logprobs;  // of each prompt
};

struct ParallelSearch {
  std::vector<ParallelConfiguration> trace;  // all that were scored, in this order, each once
  size_t best = 0;                           // in the trace
  size_t usual = 0;                          // in the trace: the defaults behind the usual prefix
};

// Greedy: the prefix at temperature and scale 1, then the temperature at scale 1, then the scale; beside them the defaults, behind the
// usual prefix and behind the chosen one. The best of all that were scored wins: by accuracy where all prompts have labels, then by
// log-probability; of equals the one that was scored first. A stage reads all its configurations for one prompt after the other, so that
// contexts are read once for each prefix and found again from then on, as far as the pool holds them.
// `prefixes`: token ids in place of the prompts' own prefix. Errors: invalid_argument for no prompts, prefixes, temperatures or scales,
// for options that check_parallel_contexts refuses and a usual prefix that is none; those of score_answers(), naming the prompt.
Result<ParallelSearch> search_parallel_contexts(Engine& engine, std::span<const AnsweredPrompt> prompts,
                                                std::span<const std::vector<int32_t>> prefixes, const ParallelSearchOptions& options);

// `drawn` of the numbers below `count`, in order; all of them where there are no more. Equal seeds draw equal numbers everywhere.
std::vector<size_t> draw_some(size_t count, size_t drawn, uint64_t seed);

}  // namespace onset
