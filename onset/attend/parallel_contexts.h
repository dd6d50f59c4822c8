// APE: adaptive parallel encoding (arXiv:2502.05431, section 4).
#pragma once

#include <vector>

#include "onset/attend/policy.h"

namespace onset {

// How the attention of a query to contexts that were read apart from each other is brought back to what it would be for one text.
struct ParallelContextsOptions {
  float temperature = 0.9f;  // T: scores of context keys are divided by it (equation 5)
  float scale = 0.9f;        // S: the contexts' log-sum-exp counts S * T times ...
  float shift = 0.0f;        // ... and so much more: the logarithm of the repository's additive form of S
};
// Errors: invalid_argument for a temperature that is not above 0, a scale below 0, a shift that is no number.
Status check_parallel_contexts(const ParallelContextsOptions& options);

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
