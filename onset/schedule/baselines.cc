// The policies that sarathi and sarathi-serve are compared with.
#include <algorithm>

#include "onset/schedule/policies.h"
#include "onset/schedule/step_builder.h"

namespace onset {
namespace {

constexpr int32_t unlimited = INT32_MAX;

// Waiting answers whose pages come back from a file, while they are the next in order.
void readmit_answers(StepBuilder& builder) {
  if (builder.preemptions() > 0) return;
  for (const ScheduledRequest* request : builder.waiting()) {
    if (!continues_answer(*request) || !builder.admit(*request, false, builder.watermark())) return;
    builder.run_readmitted_answer(*request);
  }
}

}  // namespace

// --- vllm ---------------------------------------------------------------------------------------------------------

Step PromptsFirst::next(const ScheduleContext& context) {
  StepBuilder builder(context, options_, unlimited);
  for (const ScheduledRequest* request : builder.residents()) {
    if (!continues_answer(*request)) builder.run_prompt(*request, unlimited);
  }
  const int64_t most = options_.most_prompt_tokens > 0 ? options_.most_prompt_tokens : context.longest;
  int64_t tokens = 0;
  for (const ScheduledRequest* request : builder.waiting()) {
    if (continues_answer(*request)) break;
    tokens += request->known - request->computed;
    if (tokens > most && !builder.empty()) break;
    if (!builder.admit(*request, false, builder.watermark())) break;
    builder.run_prompt(*request, unlimited);
  }
  if (!builder.empty()) return builder.take();
  builder.run_answers();
  readmit_answers(builder);
  return builder.take();
}

// --- orca, hybrid-only --------------------------------------------------------------------------------------------

Step IterationLevel::next(const ScheduleContext& context) {
  StepBuilder builder(context, options_, unlimited);
  builder.run_answers();
  const int32_t most_prompts = options_.prompts_per_step > 0 ? options_.prompts_per_step : unlimited;
  int32_t prompts = 0;
  for (const ScheduledRequest* request : builder.residents()) {
    if (continues_answer(*request) || builder.was_preempted(*request)) continue;
    if (prompts == most_prompts) break;
    prompts += builder.run_prompt(*request, unlimited) > 0;
  }
  if (builder.preemptions() > 0) return builder.take();
  for (const ScheduledRequest* request : builder.waiting()) {
    const bool answer = continues_answer(*request);
    if (!answer && prompts == most_prompts) break;
    if (!builder.admit(*request, reserves_, reserves_ ? 0 : builder.watermark())) break;
    if (answer) {
      builder.run_readmitted_answer(*request);
    } else {
      prompts += builder.run_prompt(*request, unlimited) > 0;
    }
  }
  return builder.take();
}

// --- request-level ------------------------------------------------------------------------------------------------

Step RequestLevel::next(const ScheduleContext& context) {
  StepBuilder builder(context, options_, unlimited);
  if (builder.residents().empty()) {
    for (const ScheduledRequest* request : builder.waiting()) {
      if (!builder.admit(*request, true, 0)) break;
      builder.run_prompt(*request, unlimited);
    }
    return builder.take();
  }
  for (const ScheduledRequest* request : builder.residents()) {
    if (!continues_answer(*request)) builder.run_prompt(*request, unlimited);
  }
  if (builder.empty()) builder.run_answers();
  return builder.take();
}

// --- chunked-only -------------------------------------------------------------------------------------------------

int32_t ChunkedOnly::most_rows(int32_t longest) const {
  return std::min(longest, options_.token_budget);
}

Step ChunkedOnly::prompts(const ScheduleContext& context) const {
  StepBuilder builder(context, options_, options_.token_budget);
  for (const ScheduledRequest* request : builder.residents()) {
    if (!continues_answer(*request) && builder.run_prompt(*request, unlimited) == 0) return builder.take();
  }
  for (const ScheduledRequest* request : builder.waiting()) {
    if (continues_answer(*request) || !builder.room_for_prompt(*request, unlimited)) break;
    if (!builder.admit(*request, false, builder.watermark())) break;
    builder.run_prompt(*request, unlimited);
  }
  return builder.take();
}

Step ChunkedOnly::answers(const ScheduleContext& context) const {
  StepBuilder builder(context, options_, unlimited);
  builder.run_answers();
  readmit_answers(builder);
  return builder.take();
}

Step ChunkedOnly::next(const ScheduleContext& context) {
  Step step = answers_turn_ ? answers(context) : prompts(context);
  // Giving up pages is a step too: who comes next depends on it.
  if (step.spans.empty() && step.preempt.empty()) {
    step = answers_turn_ ? prompts(context) : answers(context);
  } else {
    answers_turn_ = !answers_turn_;
  }
  return step;
}

}  // namespace onset
