// APE: adaptive parallel encoding (arXiv:2502.05431, section 4).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "onset/attend/policy.h"

namespace onset {

// How the attention of a query to contexts that were read apart from each other is brought back to what it would be for one text.
struct ParallelContextsOptions {
  float temperature = 0.9f;  // T: scores of context keys are divided by it (equation 5)
  float scale = 0.9f;        // S: the contexts' log-sum-exp counts S * T times ...
  float shift = 0.0f;        // ... and so much more: the logarithm of the repository's additive form of S
  // Every context is read behind one prefix. False: each begins a text of its own, and the prefix is read with the prompt.
  bool shared_prefix = true;
};
// Errors: invalid_argument for a temperature that is not above 0, a scale below 0, a shift that is no number.
Status check_parallel_contexts(const ParallelContextsOptions& options);

// The steps from parallel context windows (PCW, arXiv:2212.10947) to APE (its table 5), by name:
//     pcw        each context begins a text; temperature and scale are 1
//     pcw+p      all are read behind one prefix
//     pcw+p+t    and the scores of their keys have a temperature
//     ape        and their log-sum-exp has a scale
inline constexpr std::array parallel_contexts_names = {"pcw", "pcw+p", "pcw+p+t", "ape"};
bool is_parallel_contexts(const std::string& name);
// What of `options` the step of this name has: the rest does nothing. The name is one of the above.
ParallelContextsOptions parallel_contexts_step(const std::string& name, ParallelContextsOptions options = {});

// A query that sees a prefix, itself, and every key of every context; all contexts are one set (appendix C), whose softmax is merged with
// that of the rest by their log-sum-exps. The keys stay what they were when each context was read behind the prefix.
class ParallelContextsAttend : public AttendPolicy {
 public:
  // Slots of the prefix (may be none), of each context, and where the query's own begin.
  ParallelContextsAttend(const ParallelContextsOptions& options, KeyRange prefix, std::vector<KeyRange> contexts, int32_t first_own_slot)
      : options_(options), prefix_(prefix), contexts_(std::move(contexts)), first_own_slot_(first_own_slot) {}
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  ParallelContextsOptions options_;
  KeyRange prefix_;
  std::vector<KeyRange> contexts_;
  int32_t first_own_slot_;
  AttentionPlan plan_;
};

}  // namespace onset
