// How many tokens a step may have, so that nobody waits longer than a target for the next token.
#pragma once

#include <cstdint>

#include "onset/base/status.h"
#include "onset/cost/step_cost.h"

namespace onset {

struct BudgetQuestion {
  double target_seconds = 0;  // between two tokens of an answer
  double ratio_99 = 1;        // measured / predicted, 99th percentile: predictions are taken times this
  int32_t layers = 0;
  int32_t answers = 8;     // that run beside the prompt
  int32_t context = 1024;  // tokens that answers and prompt have behind them
  int32_t row_block = 1;   // the budget is rounded down to whole blocks of the kernels, where it has one
  int32_t most = 1 << 16;
};

// The largest number of tokens of a step (the answers' rows and a chunk of one prompt, that ends it) whose predicted time is within the
// target (arXiv:2403.02310, section 4.3). Errors: resource_exhausted if not even the answers' rows are; the sentence says how long
// they take.
Result<int32_t> pick_token_budget(const StepCost& cost, const BudgetQuestion& question);

}  // namespace onset
