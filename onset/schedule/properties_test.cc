// What holds for every policy and load, and what sarathi-serve promises beyond.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "onset/schedule/policy.h"
#include "onset/schedule/testing.h"

namespace onset {
namespace {

using onset::testing::World;
using onset::testing::WorldOptions;

WorldOptions any_world() {
  return {.layers = *rc::gen::inRange(1, 7),
          .pages = *rc::gen::inRange(8, 40),
          .most_running = *rc::gen::inRange(1, 9),
          .longest = 64,
          .page_tokens = 8,
          .swap_pages = *rc::gen::element<int64_t>(0, 10, 100)};
}

ScheduleOptions any_options() {
  return {.token_budget = *rc::gen::inRange(1, 40),
          .idle_budget = *rc::gen::element(0, 60),
          .prompts_per_step = *rc::gen::inRange(0, 3),
          .row_block = *rc::gen::inRange(1, 14),
          .stage_layers = *rc::gen::inRange(0, 8),
          .most_prompt_tokens = *rc::gen::element(0, 30),
          .watermark = *rc::gen::element(0.0, 0.01, 0.2),
          .preemption = *rc::gen::element(PreemptionKind::recompute, PreemptionKind::swap)};
}

// A request that fits the pool alone: at most 64 tokens, 8 pages.
ScheduledRequest any_request(bool priorities) {
  const int32_t prompt = *rc::gen::inRange(1, 50);
  return {.priority = priorities ? *rc::gen::inRange(0, 3) : 0,
          .prompt_tokens = prompt,
          .most_new_tokens = *rc::gen::inRange(1, 65 - prompt),
          .fixed = *rc::gen::inRange(0, 8) == 0};
}

TEST(EverySchedulePolicy, RunsAllWorkByTheRules) {
  for (const std::string& name : schedule_policy_names()) {
    EXPECT_TRUE(rc::check(name, [&] {
      World world(any_world());
      const LinearStepCost cost({.per_step = 1, .per_prefill_row_layer = 1, .per_decode_row_layer = 1, .per_prefill_slot = 0.01});
      if (*rc::gen::arbitrary<bool>()) {
        world.context().cost = &cost;
        world.context().most_seconds = *rc::gen::inRange(1, 50);
      }
      const auto policy = *make_schedule_policy(name, any_options());
      const int32_t requests = *rc::gen::inRange(1, 16);
      std::map<RequestId, int32_t> wanted;
      for (int i = 0; i < requests; ++i) {
        const ScheduledRequest request = any_request(true);
        wanted[world.arrive(request)] = request.most_new_tokens;
        if (*rc::gen::arbitrary<bool>() && !world.idle()) world.step(*policy);
      }
      // Nobody starves: the first in order never gives up its pages to anyone behind it, so that each of its steps counts. The rest of
      // the steps are those of the ones that had to begin anew.
      for (int64_t step = 0; !world.idle(); ++step) {
        RC_ASSERT(step < 64 * 7 * 16 * 16);
        world.step(*policy);
      }
      RC_ASSERT(world.answers() == wanted);  // exactly what was asked for, whoever was preempted
      RC_ASSERT(world.context().free_pages == world.context().pages);
    }));
  }
}

TEST(SarathiServe, NeverExceedsItsBudgetAndNeverPausesAnAnswer) {
  EXPECT_TRUE(rc::check([] {
    WorldOptions options = any_world();
    options.most_running = *rc::gen::inRange(1, 60);
    World world(options);
    ScheduleOptions chosen = any_options();
    chosen.stage_layers = chosen.idle_budget = 0;
    const auto policy = *make_schedule_policy("sarathi-serve", chosen);
    for (int i = *rc::gen::inRange(1, 30); i > 0; --i) world.arrive(any_request(false));
    while (!world.idle()) {
      std::set<RequestId> answers;
      for (const ScheduledRequest& request : world.requests()) {
        if (request.admitted && request.computed >= request.prompt_tokens && request.known - request.computed == 1)
          answers.insert(request.id);
      }
      const Step step = world.step(*policy);
      int64_t rows = 0;
      for (const Span& span : step.spans) rows += span.count, answers.erase(span.id);
      for (const Preemption& gone : step.preempt) answers.erase(gone.id);
      RC_ASSERT(rows <= chosen.token_budget);
      RC_ASSERT(answers.empty());
      for (const Span& span : step.spans) {
        if (span.answer) continue;
        // Whoever still reads its prompt has a share of every step that has room left.
        RC_ASSERT(span.count >= 1);
      }
    }
  }));
}

// Brief of arXiv:2403.02310, checks 2 and 3, over a long run.
TEST(SarathiServe, KeepsItsPromisesOverTenThousandSteps) {
  World world({.pages = 200, .most_running = 32, .longest = 600});
  const auto policy = *make_schedule_policy("sarathi-serve", {.token_budget = 64});
  std::mt19937 random(1);
  int64_t preemptions = 0, paused = 0, over_budget = 0, below_watermark = 0;
  for (int step_number = 0; step_number < 10000; ++step_number) {
    while (world.waiting() < 3) {
      world.arrive(
          {.prompt_tokens = 1 + static_cast<int32_t>(random() % 400), .most_new_tokens = 1 + static_cast<int32_t>(random() % 200)});
    }
    std::set<RequestId> answers;
    bool anyone = false;
    for (const ScheduledRequest& request : world.requests()) {
      anyone = anyone || request.admitted;
      if (request.admitted && request.computed >= request.prompt_tokens && request.known - request.computed == 1)
        answers.insert(request.id);
    }
    const Step step = world.step(*policy);
    int64_t rows = 0, admitted = 0;
    for (const Span& span : step.spans) rows += span.count, answers.erase(span.id);
    for (const Preemption& gone : step.preempt) answers.erase(gone.id);
    for (const Admission& admission : step.admit) admitted += admission.pages;
    preemptions += static_cast<int64_t>(step.preempt.size());
    paused += static_cast<int64_t>(answers.size());
    over_budget += rows > 64;
    // Growth may go below the watermark, admission may not; requests that ended in this step gave pages back already.
    below_watermark += admitted > 0 && anyone && world.context().free_pages < 2;
  }
  EXPECT_EQ(paused, 0);
  EXPECT_EQ(over_budget, 0);
  EXPECT_EQ(below_watermark, 0);
  EXPECT_GT(preemptions, 20);
  EXPECT_GT(world.ended(), 300);
}

}  // namespace
}  // namespace onset
