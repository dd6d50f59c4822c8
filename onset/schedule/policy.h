// The schedule seat: which rows run in the next step.
//
// A policy sees waiting and running requests as plain numbers, so that a simulator can drive it as the engine does. It decides who
// is admitted, whose rows run, and who gives up pages when the pool is short. It is made by its name:
//
//   sarathi-serve   stall-free batches under a token budget (arXiv:2403.02310, algorithm 3); the engine's default
//   sarathi         decode-maximal batches: one chunk of one prompt, and every answer (arXiv:2308.16369, section 4)
//   vllm            prompts first, whole and by themselves; answers wait meanwhile
//   orca            iteration level: every answer and every whole prompt that can be admitted
//   request-level   a batch runs to its end before the next one begins (FasterTransformer)
//   hybrid-only     sarathi-serve without chunks        } the two halves of sarathi-serve, for comparison
//   chunked-only    sarathi-serve's chunks, but prompts and answers take turns }
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/cost/step_cost.h"

namespace onset {

using RequestId = int64_t;

// A request as the scheduler sees it.
struct ScheduledRequest {
  RequestId id = 0;      // ascending in order of arrival
  int32_t priority = 0;  // higher ones go first; equals in order of arrival
  int32_t prompt_tokens = 0;
  int32_t most_new_tokens = 0;  // an upper bound of what it may generate
  int32_t computed = 0;         // tokens (prompt and generated) whose keys are stored in every layer
  int32_t known = 0;            // tokens known so far: the prompt and what was generated; computed < known while work is left
  int32_t layer = 0;            // layer-staged prefill: the next layer of the current piece (0 = a new piece)
  int32_t piece = 0;            // rows of the current piece
  bool admitted = false;        // it has a place and pages
  bool swapped = false;         // waits with its pages in a file: once admitted it goes on where it was
  // Rows of its prompt run together in blocks that begin at multiples of this many tokens (INT32_MAX: the whole prompt), through as many
  // layers as there is room for. 0: rows run as they come.
  int32_t row_block = 0;
  bool fixed = false;        // never gives up its pages: all it may come to need are reserved when it is admitted
  bool can_swap = false;     // its pages could go to a file
  int64_t pages = 0;         // reserved for it, and free when it gives them up
  int64_t shared_pages = 0;  // of the pages of its tokens, those that others hold anyway
};

// A piece of work of one sequence: `count` tokens from `first_token` on, through layers layer_begin..layer_end-1.
struct Span {
  RequestId id = 0;
  int32_t first_token = 0;
  int32_t count = 0;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  bool wants_logits = false;  // the last of the rows reaches the end of what is known, and the last layer
  bool answer = false;        // the row that continues an answer
};

struct ScheduleContext {
  std::vector<ScheduledRequest> requests = {};  // in order of arrival, running and waiting
  int32_t layers = 0;
  int32_t longest = 0;                                   // tokens that a request may come to hold (the context)
  int64_t pages = 0;                                     // of the whole pool
  int64_t free_pages = 0;                                // not reserved by any request
  std::function<int64_t(int64_t tokens)> pages_of = {};  // pages of a sequence that holds so many tokens; never falls
  int32_t most_running = 0;                              // most requests admitted at a time
  const StepCost* cost = nullptr;
  double most_seconds = 0;  // how long a step should take, as `cost` predicts it; 0 = no limit
};

// Whose pages are taken away, and what becomes of them.
enum class PreemptionKind : uint8_t {
  recompute,  // forgotten: prompt and answer are read again later
  swap,       // written to a file and read back
};
struct Preemption {
  RequestId id = 0;
  PreemptionKind kind = PreemptionKind::recompute;
};

// A waiting request that gets a place, with so many pages (what it held before included).
struct Admission {
  RequestId id = 0;
  int64_t pages = 0;
};

// Carried out in this order: pages are given up, requests are admitted, spans run. A span's request is granted the pages of its
// tokens as it grows.
struct Step {
  std::vector<Preemption> preempt = {};
  std::vector<Admission> admit = {};
  std::vector<Span> spans = {};
};

// What policies can be told. Each uses what it names in its own description.
struct ScheduleOptions {
  int32_t token_budget = 1024;     // tokens of a step (sarathi-serve, chunked-only); tokens of a batch with a chunk (sarathi)
  int32_t idle_budget = 0;         // sarathi-serve: the budget while no answer runs; 0: token_budget
  int32_t prompts_per_step = 0;    // sarathi-serve, orca, hybrid-only: prompts that may share a step; 0: any number
  int32_t row_block = 1;           // rows that the kernels compute together: sarathi's batches are multiples of it
  int32_t stage_layers = 0;        // sarathi-serve: layers that a prompt's chunk runs through in a step; 0: all
  int32_t most_prompt_tokens = 0;  // vllm: prompt tokens of a step; 0: the context. A longer prompt runs by itself
  double watermark = 0.01;         // share of the pool that admission leaves free for answers that grow
  PreemptionKind preemption = PreemptionKind::recompute;  // swap: where a request's pages can go to a file
};

class SchedulePolicy {
 public:
  virtual ~SchedulePolicy() = default;
  virtual const char* name() const = 0;
  // The next step; one without spans if nothing can run. Each request has one span at most.
  virtual Step next(const ScheduleContext& context) = 0;
  // The most rows that one request ever has in a step, where none holds more than `longest` tokens.
  virtual int32_t most_rows(int32_t longest) const { return longest; }
};

// Errors: invalid_argument for a name that nobody has (all are listed) and for options that make no sense (the option is named).
Result<std::unique_ptr<SchedulePolicy>> make_schedule_policy(const std::string& name, const ScheduleOptions& options);
std::vector<std::string> schedule_policy_names();
inline constexpr const char* default_schedule_policy = "sarathi-serve";

// The work of a span as the cost model counts it (every earlier key is seen).
StepShape span_shape(const Span& span);
// The work of all spans.
StepShape step_shape(const Step& step);

}  // namespace onset
