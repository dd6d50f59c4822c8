#include <algorithm>

#include "onset/schedule/policies.h"
#include "onset/schedule/step_builder.h"

namespace onset {
namespace {

constexpr int32_t unlimited = INT32_MAX;

int32_t round_up(int32_t value, int32_t block) {
  return (value + block - 1) / block * block;
}

}  // namespace

// --- sarathi-serve ------------------------------------------------------------------------------------------------

int32_t SarathiServe::most_rows(int32_t longest) const {
  return std::min(longest, std::max(options_.token_budget, options_.idle_budget));
}

Step SarathiServe::next(const ScheduleContext& context) {
  const bool answers = std::any_of(context.requests.begin(), context.requests.end(),
                                   [](const ScheduledRequest& request) { return request.admitted && continues_answer(request); });
  StepBuilder builder(context, options_, answers ? options_.token_budget : std::max(options_.token_budget, options_.idle_budget));
  builder.run_answers();
  const int32_t most = most_rows(context.longest);  // staged pieces could have more

  const int32_t most_prompts = options_.prompts_per_step > 0 ? options_.prompts_per_step : unlimited;
  int32_t prompts = 0;
  for (const ScheduledRequest* request : builder.residents()) {
    if (continues_answer(*request) || builder.was_preempted(*request)) continue;
    if (prompts == most_prompts || builder.run_prompt(*request, most, options_.stage_layers) == 0) break;
    ++prompts;
  }
  if (builder.preempted_any()) return builder.take();
  // Nobody overtakes a request that waits for pages, a place or the budget.
  for (const ScheduledRequest* request : builder.waiting()) {
    if (builder.running() >= options_.token_budget) break;
    if (continues_answer(*request)) {  // comes back with its pages
      if (!builder.budget_left() || !builder.admit(*request, false, builder.watermark())) break;
      builder.run_readmitted_answer(*request);
      continue;
    }
    if (prompts == most_prompts || !builder.room_for_prompt(*request, most, options_.stage_layers)) break;
    if (!builder.admit(*request, false, builder.watermark())) break;
    builder.run_prompt(*request, most, options_.stage_layers);
    ++prompts;
  }
  return builder.take();
}

// --- sarathi ------------------------------------------------------------------------------------------------------

int32_t Sarathi::chunk_for(int32_t answers) const {
  return round_up(std::max(options_.token_budget, answers + 1), options_.row_block) - answers;
}

Step Sarathi::next(const ScheduleContext& context) {
  StepBuilder builder(context, options_, unlimited);
  const ScheduledRequest* prompt = nullptr;
  const auto consider = [&](const ScheduledRequest* request) {
    if (prompt == nullptr && !continues_answer(*request)) prompt = request;
  };
  builder.run_answers();
  for (const ScheduledRequest* request : builder.residents()) {
    if (!builder.was_preempted(*request)) consider(request);
  }
  for (const ScheduledRequest* request : builder.waiting()) {
    if (!builder.admit(*request, true, 0)) break;
    if (continues_answer(*request)) builder.run_readmitted_answer(*request);
    consider(request);
  }
  if (prompt == nullptr) return builder.take();
  const auto answers = static_cast<int32_t>(builder.spans());
  builder.run_prompt(*prompt, chunk_for(answers));
  return builder.take();
}

}  // namespace onset
