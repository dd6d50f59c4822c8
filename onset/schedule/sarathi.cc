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
  make_room(builder);
  const int64_t for_priority = builder.preemptions();
  builder.run_answers();
  const int32_t most = most_rows(context.longest);  // staged pieces could have more

  // Nobody overtakes a request that waits for pages, a place or the budget; while answers lack pages nobody is taken in.
  bool closed = builder.preemptions() > for_priority;
  const int32_t most_prompts = options_.prompts_per_step > 0 ? options_.prompts_per_step : unlimited;
  int32_t prompts = 0;
  for (const ScheduledRequest* request : builder.in_order()) {
    // Who lost its pages to a better one comes back before those behind it come in.
    closed = closed || builder.was_preempted(*request);
    if (builder.was_preempted(*request) || (request->admitted ? continues_answer(*request) : closed)) continue;
    if (continues_answer(*request)) {  // comes back with its pages
      closed = !builder.budget_left() || !take_in(builder, *request) || !builder.run_readmitted_answer(*request);
      continue;
    }
    if (prompts == most_prompts || !builder.room_for_prompt(*request, most, options_.stage_layers)) break;
    if (!request->admitted && !take_in(builder, *request)) {
      closed = true;
      continue;
    }
    builder.run_prompt(*request, most, options_.stage_layers);
    ++prompts;
  }
  return builder.take();
}

bool SarathiServe::take_in(StepBuilder& builder, const ScheduledRequest& request) const {
  return builder.running() < options_.token_budget && builder.admit(request, false, builder.watermark());
}

void SarathiServe::make_room(StepBuilder& builder) const {
  if (builder.waiting().empty()) return;
  const ScheduledRequest& first = *builder.waiting().front();
  // Where its equals and betters leave it nothing of the budget, nobody gives up pages for it.
  int64_t rows_before = 0;
  for (const ScheduledRequest* resident : builder.residents()) {
    if (resident->priority >= first.priority) rows_before += resident->known - resident->computed;
  }
  if (rows_before < options_.token_budget) builder.make_room_for(first, false, builder.watermark(), options_.token_budget);
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
