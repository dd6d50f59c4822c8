// The schedule seat: which rows run in the next step.
//
// A policy sees waiting and running sequences as plain numbers, so that a simulator can drive it as the engine does.
#pragma once

#include <cstdint>
#include <vector>

#include "onset/cost/step_cost.h"

namespace onset {

using RequestId = int64_t;

// A request as the scheduler sees it.
struct ScheduledRequest {
  RequestId id = 0;              // ascending in order of arrival
  int32_t prompt_tokens = 0;
  int32_t most_new_tokens = 0;   // an upper bound of what it may generate
  int32_t computed = 0;          // tokens (prompt and generated) whose keys are stored in every layer
  int32_t known = 0;             // tokens known so far: the prompt and what was generated; computed < known while work is left
  int32_t layer = 0;             // layer-staged prefill: the next layer of the current piece (0 = a new piece)
  int32_t piece = 0;             // rows of the current piece
  bool admitted = false;         // pages are reserved for it
  int64_t pages_needed = 0;      // pages to be reserved when it is admitted
};

// A piece of work of one sequence: `count` tokens from `first_token` on, through layers layer_begin..layer_end-1.
struct Span {
  RequestId id = 0;
  int32_t first_token = 0;
  int32_t count = 0;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  bool wants_logits = false;  // the last of the rows reaches the end of what is known, and the last layer
};

struct ScheduleContext {
  std::vector<ScheduledRequest> requests = {};  // in order of arrival, running and waiting
  int32_t layers = 0;
  int64_t free_pages = 0;         // not reserved by any admitted request
  int64_t budget_row_layers = 0;  // most rows times layers of a step
  int32_t most_rows = INT32_MAX;  // most rows of one sequence in a step: pages were counted for no more
  int32_t most_running = 0;       // most requests admitted at a time
  const StepCost* cost = nullptr;
  double most_seconds = 0;        // how long a step should take, as `cost` predicts it; 0 = no limit
};

struct Step {
  std::vector<Span> spans = {};
  std::vector<RequestId> admit = {};  // waiting requests that begin with this step; their pages are to be reserved
};

class SchedulePolicy {
 public:
  virtual ~SchedulePolicy() = default;
  virtual const char* name() const = 0;
  // The next step; an empty one if nothing can run. Each request has one span at most.
  virtual Step next(const ScheduleContext& context) = 0;
};

// The work of a span as the cost model counts it (every earlier key is seen).
StepShape span_shape(const Span& span, bool continues_answer);

// First come, first served, prompts in chunks: every running answer gets its row, what is left of the budget goes to prompts in
// order of arrival, each up to `chunk_tokens` a step. Requests are admitted in order while their pages fit.
//
// A step keeps the budget unless a single row alone exceeds it. Where the budget cannot hold a row of every running answer, they
// take turns. A limit in seconds shortens the prompts' share of a step, never the answers'; a step without answers
// always makes progress.
class FirstComeChunked : public SchedulePolicy {
 public:
  // chunk_tokens >= 1. stage_layers: how many layers a prompt chunk runs through in a step; 0 = all.
  explicit FirstComeChunked(int32_t chunk_tokens, int32_t stage_layers = 0)
      : chunk_tokens_(chunk_tokens), stage_layers_(stage_layers) {}
  const char* name() const override { return "first-come-chunked"; }
  Step next(const ScheduleContext& context) override;

 private:
  int32_t chunk_tokens_, stage_layers_;
  RequestId last_answer_ = 0;  // the last one that got its row when not all could
};

}  // namespace onset
