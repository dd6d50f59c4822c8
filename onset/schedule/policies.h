// The policies behind make_schedule_policy().
#pragma once

#include "onset/schedule/policy.h"

namespace onset {

class StepBuilder;

// Stall-free batching under a token budget (arXiv:2403.02310, algorithm 3): every running answer gets its row; what is left of
// the budget goes to prompts by their priority, then to those that have begun before new ones, in order. A waiting request of
// higher priority takes the place and the pages of running ones where it must. No step exceeds the budget (a single row alone may, where
// layers are staged), and no answer is ever paused but to give up its pages.
//
// Whoever is admitted will want a row in each step, so no more are admitted than the budget has tokens. A limit in seconds
// shortens the prompts' share of a step, never the answers'; a step without answers always makes progress.
class SarathiServe : public SchedulePolicy {
 public:
  explicit SarathiServe(const ScheduleOptions& options) : options_(options) {}
  const char* name() const override { return "sarathi-serve"; }
  Step next(const ScheduleContext& context) override;
  int32_t most_rows(int32_t longest) const override;

 private:
  bool take_in(StepBuilder& builder, const ScheduledRequest& request) const;
  void make_room(StepBuilder& builder) const;

  ScheduleOptions options_;
};

// Decode-maximal batching (arXiv:2308.16369, section 4.3): a step is one chunk of one prompt and the row of every running answer.
// The chunk is as long as the batch has room up to a multiple of the kernels' row block (section 4.4): with d answers,
// max(C, d + 1) rounded up to whole blocks, less d. A place has pages for all that its request may come to need.
class Sarathi : public SchedulePolicy {
 public:
  explicit Sarathi(const ScheduleOptions& options) : options_(options) {}
  const char* name() const override { return "sarathi"; }
  Step next(const ScheduleContext& context) override;
  // The rows of a prompt beside so many answers.
  int32_t chunk_for(int32_t answers) const;

 private:
  ScheduleOptions options_;
};

// Prompts that fit run whole and by themselves; answers only when no prompt can (vLLM before chunks).
class PromptsFirst : public SchedulePolicy {
 public:
  explicit PromptsFirst(const ScheduleOptions& options) : options_(options) {}
  const char* name() const override { return "vllm"; }
  Step next(const ScheduleContext& context) override;

 private:
  ScheduleOptions options_;
};

// Every running answer and every whole prompt that can be admitted. As Orca a request reserves all that it may come to need
// (Yu et al., OSDI 2022); as hybrid-only it grows as under sarathi-serve.
class IterationLevel : public SchedulePolicy {
 public:
  IterationLevel(const ScheduleOptions& options, bool reserves) : options_(options), reserves_(reserves) {}
  const char* name() const override { return reserves_ ? "orca" : "hybrid-only"; }
  Step next(const ScheduleContext& context) override;

 private:
  ScheduleOptions options_;
  bool reserves_;
};

// A set of requests is admitted when nobody runs; their prompts are read together, then all answers run to their ends.
class RequestLevel : public SchedulePolicy {
 public:
  explicit RequestLevel(const ScheduleOptions& options) : options_(options) {}
  const char* name() const override { return "request-level"; }
  Step next(const ScheduleContext& context) override;

 private:
  ScheduleOptions options_;
};

// Steps of prompt chunks under the budget and steps of answers take turns.
class ChunkedOnly : public SchedulePolicy {
 public:
  explicit ChunkedOnly(const ScheduleOptions& options) : options_(options) {}
  const char* name() const override { return "chunked-only"; }
  Step next(const ScheduleContext& context) override;
  int32_t most_rows(int32_t longest) const override;

 private:
  Step prompts(const ScheduleContext& context) const;
  Step answers(const ScheduleContext& context) const;

  ScheduleOptions options_;
  bool answers_turn_ = false;
};

}  // namespace onset
