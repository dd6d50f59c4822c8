#include "onset/schedule/policy.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <set>

namespace onset {
namespace {

ScheduleContext context_of(std::vector<ScheduledRequest> requests) {
  return {.requests = std::move(requests), .layers = 4, .free_pages = 100, .budget_row_layers = 16 * 4,
          .most_running = 8};
}

TEST(FirstComeChunked, AnswersGetTheirRowsBeforePrompts) {
  FirstComeChunked policy(16);
  const Step step = policy.next(context_of({{.id = 1, .prompt_tokens = 40, .known = 40, .admitted = true},
                                            {.id = 2, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true}}));
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[0].id, 2);
  EXPECT_EQ(step.spans[0].first_token, 7);
  EXPECT_TRUE(step.spans[0].wants_logits);
  EXPECT_EQ(step.spans[1].id, 1);
  EXPECT_EQ(step.spans[1].count, 15);
  EXPECT_FALSE(step.spans[1].wants_logits);
}

TEST(FirstComeChunked, NobodyOvertakesARequestThatWaitsForPages) {
  FirstComeChunked policy(16);
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 4, .known = 4, .pages_needed = 60},
                                        {.id = 2, .prompt_tokens = 4, .known = 4, .pages_needed = 60},
                                        {.id = 3, .prompt_tokens = 4, .known = 4, .pages_needed = 1}});
  const Step step = policy.next(context);
  EXPECT_EQ(step.admit, std::vector<RequestId>{1});
  ASSERT_EQ(step.spans.size(), 1u);
  context.most_running = 0;
  EXPECT_TRUE(policy.next(context).spans.empty());
}

TEST(FirstComeChunked, AnswersTakeTurnsWhereTheBudgetIsTooSmall) {
  FirstComeChunked policy(16);
  std::vector<ScheduledRequest> requests;
  for (int id = 1; id <= 5; ++id) {
    requests.push_back({.id = id, .prompt_tokens = 1, .computed = 1, .known = 2, .admitted = true});
  }
  ScheduleContext context = context_of(requests);
  context.budget_row_layers = 2 * 4 + 1;
  std::map<RequestId, int> rows;
  for (int round = 0; round < 5; ++round) {
    const Step step = policy.next(context);
    EXPECT_EQ(step.spans.size(), 2u);
    for (const Span& span : step.spans) ++rows[span.id];
  }
  for (int id = 1; id <= 5; ++id) EXPECT_EQ(rows[id], 2) << id;
}

TEST(FirstComeChunked, ATimeLimitShortensThePromptsShareAlone) {
  FirstComeChunked policy(16);
  const LinearStepCost cost({.per_step = 1.0, .per_prefill_row_layer = 0.5, .per_decode_row_layer = 0.25});
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true},
                                        {.id = 2, .prompt_tokens = 40, .known = 40, .admitted = true}});
  context.cost = &cost;
  context.most_seconds = 1.0 + 0.25 * 4 + 0.5 * 4 * 3 + 0.1;  // the answer's row and three rows of the prompt
  Step step = policy.next(context);
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[1].count, 3);

  context.most_seconds = 0.1;  // not even the answer fits, but answers go on
  step = policy.next(context);
  ASSERT_EQ(step.spans.size(), 1u);
  EXPECT_EQ(step.spans[0].id, 1);

  context.requests.erase(context.requests.begin());  // a prompt alone makes progress
  step = policy.next(context);
  ASSERT_EQ(step.spans.size(), 1u);
  EXPECT_EQ(step.spans[0].count, 1);
}

TEST(FirstComeChunked, CountsAttendedSlots) {
  const StepShape shape = span_shape({.first_token = 10, .count = 3, .layer_begin = 1, .layer_end = 3}, false);
  EXPECT_EQ(shape.prefill_row_layers, 6);
  EXPECT_EQ(shape.attended_slots, (11 + 12 + 13) * 2);
}

// A world that runs what the policy says and checks every step; finishes each request after most_new_tokens.
class World {
 public:
  World(int32_t layers, int64_t pages, int64_t budget, int32_t most_running, int32_t chunk) : chunk_(chunk) {
    context_ = {.layers = layers, .free_pages = pages, .budget_row_layers = budget, .most_running = most_running};
  }
  ScheduleContext& context() { return context_; }
  void arrive(int32_t prompt, int32_t most_new, int64_t pages) {
    context_.requests.push_back({.id = ++last_id_, .prompt_tokens = prompt, .most_new_tokens = most_new, .known = prompt,
                                 .pages_needed = pages});
  }
  bool idle() const { return context_.requests.empty(); }

  void step(SchedulePolicy& policy) {
    const Step step = policy.next(context_);
    RC_ASSERT(!step.spans.empty());  // work is left and every request fits alone
    for (const RequestId id : step.admit) admit(id);
    int64_t row_layers = 0;
    int64_t rows = 0;
    std::set<RequestId> seen;
    for (const Span& span : step.spans) {
      RC_ASSERT(seen.insert(span.id).second);
      row_layers += int64_t{span.count} * (span.layer_end - span.layer_begin);
      rows += span.count;
      run(span);
    }
    RC_ASSERT(row_layers <= context_.budget_row_layers || step.spans.size() == 1);
    if (row_layers > context_.budget_row_layers) RC_ASSERT(rows == 1 || step.spans[0].layer_end - step.spans[0].layer_begin == 1);
    retire();
  }

 private:
  ScheduledRequest& find(RequestId id) {
    for (ScheduledRequest& request : context_.requests) {
      if (request.id == id) return request;
    }
    RC_FAIL("a span of an unknown request");
    return context_.requests[0];
  }

  void admit(RequestId id) {
    ScheduledRequest& request = find(id);
    RC_ASSERT(!request.admitted);
    RC_ASSERT(id == last_admitted_ + 1);  // first come, first served
    last_admitted_ = id;
    request.admitted = true;
    context_.free_pages -= request.pages_needed;
    RC_ASSERT(context_.free_pages >= 0);
    int32_t running = 0;
    for (const ScheduledRequest& other : context_.requests) running += other.admitted;
    RC_ASSERT(running <= context_.most_running);
  }

  void run(const Span& span) {
    ScheduledRequest& request = find(span.id);
    RC_ASSERT(request.admitted);
    RC_ASSERT(span.count >= 1 && span.count <= std::min(chunk_, context_.most_rows));
    RC_ASSERT(span.first_token == request.computed);  // every token once, in order
    RC_ASSERT(span.first_token + span.count <= request.known);
    RC_ASSERT(span.layer_begin == request.layer);  // layers follow each other
    RC_ASSERT(span.layer_end > span.layer_begin && span.layer_end <= context_.layers);
    if (request.layer > 0) RC_ASSERT(span.count == request.piece);
    const bool last = span.first_token + span.count == request.known && span.layer_end == context_.layers;
    RC_ASSERT(span.wants_logits == last);
    if (span.layer_end < context_.layers) {
      request.layer = span.layer_end;
      request.piece = span.count;
      return;
    }
    request.layer = request.piece = 0;
    request.computed += span.count;
    if (last) ++request.known;
  }

  void retire() {
    std::erase_if(context_.requests, [&](const ScheduledRequest& request) {
      if (request.known - request.prompt_tokens < request.most_new_tokens) return false;
      context_.free_pages += request.pages_needed;
      return true;
    });
  }

  ScheduleContext context_;
  int32_t chunk_;
  RequestId last_id_ = 0, last_admitted_ = 0;
};

TEST(FirstComeChunked, InvariantsHoldForAnyLoad) {
  EXPECT_TRUE(rc::check([] {
    const auto layers = *rc::gen::inRange(1, 7);
    const auto chunk = *rc::gen::inRange(1, 20);
    const auto stage = *rc::gen::inRange(0, 8);
    const auto budget = *rc::gen::inRange(1, 100);
    World world(layers, 20, budget, *rc::gen::inRange(1, 6), chunk);
    world.context().most_rows = *rc::gen::inRange(1, 30);
    const LinearStepCost cost({.per_step = 1, .per_prefill_row_layer = 1, .per_decode_row_layer = 1, .per_attended_slot = 0.01});
    if (*rc::gen::arbitrary<bool>()) {
      world.context().cost = &cost;
      world.context().most_seconds = *rc::gen::inRange(1, 50);
    }
    FirstComeChunked policy(chunk, stage);
    int64_t work = 0;
    const int32_t requests = *rc::gen::inRange(1, 12);
    const auto arrive = [&] {
      const auto prompt = *rc::gen::inRange(1, 40);
      const auto answer = *rc::gen::inRange(1, 10);
      world.arrive(prompt, answer, *rc::gen::inRange(1, 20));
      work += (prompt + answer) * layers;
    };
    for (int i = 0; i < requests; ++i) {
      arrive();
      if (*rc::gen::arbitrary<bool>()) world.step(policy);
      if (world.idle()) continue;
    }
    // No starvation: every step runs at least one row through one layer, so this many steps do it all.
    for (int64_t i = 0; i < work && !world.idle(); ++i) world.step(policy);
    RC_ASSERT(world.idle());
  }));
}

}  // namespace
}  // namespace onset
