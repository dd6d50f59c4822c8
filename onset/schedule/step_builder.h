// What policies share: requests in order, a step under construction, and its pages.
#pragma once

#include <vector>

#include "onset/schedule/policy.h"

namespace onset {

// Whether the request's next row is the one that continues its answer.
bool continues_answer(const ScheduledRequest& request);

// A step under construction. Pages are counted as the engine will grant them.
class StepBuilder {
 public:
  // budget_rows: tokens of the step, INT32_MAX for no limit.
  StepBuilder(const ScheduleContext& context, const ScheduleOptions& options, int32_t budget_rows);

  // Those with a place, and those without, each by priority, then in order of arrival. A request that is admitted or preempted
  // in this step stays in the list in which it was.
  const std::vector<const ScheduledRequest*>& residents() const { return residents_; }
  const std::vector<const ScheduledRequest*>& waiting() const { return waiting_; }
  // With a place at the end of this step.
  int32_t running() const { return running_; }
  int64_t preemptions() const { return static_cast<int64_t>(step_.preempt.size()); }
  // All of them, by priority; those with a place before their equals without one.
  std::vector<const ScheduledRequest*> in_order() const;
  bool empty() const { return step_.spans.empty(); }
  int64_t spans() const { return static_cast<int64_t>(step_.spans.size()); }

  // The row of resident number `index`, which continues its answer. Where pages are missing, residents behind it give up theirs, the
  // last one first; if that does not help, it gives up its own. Returns whether its row runs.
  bool run_answer(size_t index);
  // The same for all residents that continue an answer.
  void run_answers();
  bool was_preempted(const ScheduledRequest& request) const;

  // For a waiting request that cannot be taken in (as `whole` and `watermark` say, or because `most_running` run): running ones of lower
  // priority give up their pages, the youngest of the lowest first. Where that would not help nobody does. To be called before any row
  // runs.
  void make_room_for(const ScheduledRequest& request, bool whole, int64_t watermark, int32_t most_running);

  // Takes in a waiting request if there is a place and its pages leave `watermark` pages free; where nobody runs the watermark protects
  // nobody. whole: reserves all that the request may come to need. Returns whether it was taken in.
  bool admit(const ScheduledRequest& request, bool whole, int64_t watermark);
  bool could_admit(const ScheduledRequest& request, bool whole, int64_t watermark) const;
  int64_t watermark() const { return watermark_; }

  // Up to `most_rows` of the rows that the request knows and has not computed, through `stage_layers` layers (0 = all), as many as
  // the budget and the time limit leave room for. The first rows of a step are never refused. Returns how many rows run. A request whose
  // rows run together (ScheduledRequest::row_block) runs all of them, through one layer at least if it is the step's first prompt.
  int32_t run_prompt(const ScheduledRequest& request, int32_t most_rows, int32_t stage_layers = 0);
  bool room_for_prompt(const ScheduledRequest& request, int32_t most_rows, int32_t stage_layers = 0) const;
  // An answer of a request that was admitted in this step with the pages it had.
  bool run_readmitted_answer(const ScheduledRequest& request);
  bool budget_left() const { return used_row_layers_ + context_.layers <= budget_row_layers_; }

  Step take() { return std::move(step_); }

 private:
  bool fits(const Span& span) const;
  void add(const Span& span);
  void preempt(const ScheduledRequest& request);
  bool grow(const ScheduledRequest& request, int32_t tokens);
  Span prompt_span(const ScheduledRequest& request, int32_t most_rows, int32_t stage_layers) const;
  Span block_span(const ScheduledRequest& request, int32_t most_rows) const;
  int64_t pages_of(const ScheduledRequest& request, int64_t tokens) const;
  int64_t pages_wanted(const ScheduledRequest& request, bool whole) const;

  const ScheduleContext& context_;
  const ScheduleOptions& options_;
  std::vector<const ScheduledRequest*> residents_, waiting_;
  Step step_;
  StepShape shape_;
  int64_t budget_row_layers_ = 0, used_row_layers_ = 0;
  int64_t free_pages_ = 0, watermark_ = 0;
  int32_t running_ = 0;
};

}  // namespace onset
