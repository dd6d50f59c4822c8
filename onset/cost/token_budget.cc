#include "onset/cost/token_budget.h"

#include <algorithm>

namespace onset {
namespace {

StepShape shape_of(const BudgetQuestion& question, int32_t tokens) {
  const int64_t answers = std::min(tokens, question.answers);
  const int64_t rows = tokens - answers;
  const int64_t layers = question.layers, context = question.context;
  return {.prefill_row_layers = rows * layers,
          .decode_row_layers = answers * layers,
          .prefill_slots = (rows * context + rows * (rows + 1) / 2) * layers,
          .decode_slots = answers * (context + 1) * layers,
          .prefill_keys = rows > 0 ? context * layers : 0,
          .output_rows = answers + (rows > 0 ? 1 : 0)};
}

}  // namespace

Result<int32_t> pick_token_budget(const StepCost& cost, const BudgetQuestion& question) {
  const auto seconds = [&](int32_t tokens) { return question.ratio_99 * cost.seconds(shape_of(question, tokens)); };
  const int32_t least = std::max(1, question.answers);
  if (seconds(least) > question.target_seconds) {
    return error(Code::resource_exhausted,
                 "a step of {} answers with {} tokens behind each takes {:.1f} ms, more than the {:.1f} ms asked for", least,
                 question.context, 1e3 * seconds(least), 1e3 * question.target_seconds);
  }
  int32_t fits = least;
  int32_t too_many = std::max(question.most, least) + 1;
  while (too_many - fits > 1) {
    const int32_t middle = fits + (too_many - fits) / 2;
    (seconds(middle) <= question.target_seconds ? fits : too_many) = middle;
  }
  const int32_t whole = fits / question.row_block * question.row_block;
  return whole >= least ? whole : fits;
}

}  // namespace onset
