#include "onset/schedule/policy.h"

#include <gtest/gtest.h>

#include <map>

#include "onset/schedule/policies.h"
#include "onset/schedule/testing.h"

namespace onset {
namespace {

using onset::testing::World;

std::unique_ptr<SchedulePolicy> policy_of(const std::string& name, const ScheduleOptions& options) {
  return *make_schedule_policy(name, options);
}

ScheduleContext context_of(std::vector<ScheduledRequest> requests) {
  return {.requests = std::move(requests),
          .layers = 4,
          .longest = 1000,
          .pages = 100,
          .free_pages = 100,
          .pages_of = [](int64_t tokens) { return (tokens + 15) / 16; },
          .most_running = 8};
}

std::vector<RequestId> ids(const std::vector<Admission>& admissions) {
  std::vector<RequestId> all;
  for (const Admission& admission : admissions) all.push_back(admission.id);
  return all;
}

TEST(SchedulePolicies, AreMadeByNameAndNothingElse) {
  for (const std::string& name : schedule_policy_names()) EXPECT_EQ(policy_of(name, {})->name(), name);
  const auto refused = [](const std::string& name, const ScheduleOptions& options) {
    return make_schedule_policy(name, options).status().message();
  };
  EXPECT_EQ(
      refused("fifo", {}),
      "there is no schedule policy fifo, expected one of sarathi-serve, sarathi, vllm, orca, request-level, hybrid-only, chunked-only");
  EXPECT_EQ(refused("vllm", {.token_budget = 0}), "token_budget is 0, expected 1 to 16777216");
  EXPECT_EQ(refused("vllm", {.idle_budget = -1}), "idle_budget is -1, expected 0 to 16777216");
  EXPECT_EQ(refused("vllm", {.prompts_per_step = -1}), "prompts_per_step is -1, expected 0 to 16777216");
  EXPECT_EQ(refused("vllm", {.row_block = 0}), "row_block is 0, expected 1 to 16777216");
  EXPECT_EQ(refused("vllm", {.stage_layers = -1}), "stage_layers is -1, expected 0 to 16777216");
  EXPECT_EQ(refused("vllm", {.most_prompt_tokens = -1}), "most_prompt_tokens is -1, expected 0 to 16777216");
  EXPECT_EQ(refused("vllm", {.watermark = 1}), "watermark is 1, expected a share of the pool from 0 to below 1");
}

TEST(SchedulePolicies, CountAttendedSlots) {
  const StepShape shape = span_shape({.first_token = 10, .count = 3, .layer_begin = 1, .layer_end = 3});
  EXPECT_EQ(shape.prefill_row_layers, 6);
  EXPECT_EQ(shape.prefill_slots, (11 + 12 + 13) * 2);
  EXPECT_EQ(shape.prefill_keys, 10 * 2);
  const StepShape both = step_shape({.spans = {{.first_token = 10, .count = 3, .layer_end = 2},
                                               {.first_token = 7, .count = 1, .layer_end = 2, .wants_logits = true, .answer = true}}});
  EXPECT_EQ(both.prefill_row_layers, 6);
  EXPECT_EQ(both.decode_row_layers, 2);
  EXPECT_EQ(both.decode_slots, 8 * 2);
  EXPECT_EQ(both.output_rows, 1);
}

// --- sarathi-serve ------------------------------------------------------------------------------------------------

TEST(SarathiServe, AnswersGetTheirRowsBeforePrompts) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16});
  const Step step = policy->next(context_of({{.id = 1, .prompt_tokens = 40, .known = 40, .admitted = true, .pages = 3},
                                             {.id = 2, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = 1}}));
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[0].id, 2);
  EXPECT_EQ(step.spans[0].first_token, 7);
  EXPECT_TRUE(step.spans[0].wants_logits && step.spans[0].answer);
  EXPECT_EQ(step.spans[1].id, 1);
  EXPECT_EQ(step.spans[1].count, 15);
  EXPECT_FALSE(step.spans[1].wants_logits);
}

TEST(SarathiServe, NobodyOvertakesARequestThatWaitsForPages) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 2000, .watermark = 0});
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 900, .known = 900},
                                        {.id = 2, .prompt_tokens = 900, .known = 900},
                                        {.id = 3, .prompt_tokens = 4, .known = 4}});
  const Step step = policy->next(context);
  EXPECT_EQ(ids(step.admit), std::vector<RequestId>{1});
  EXPECT_EQ(step.admit[0].pages, 57);
  ASSERT_EQ(step.spans.size(), 1u);
  context.most_running = 0;
  EXPECT_TRUE(policy->next(context).spans.empty());
}

TEST(SarathiServe, AHigherPriorityGoesFirstAndEqualsInOrderOfArrival) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 12});
  const Step step = policy->next(context_of({{.id = 1, .prompt_tokens = 5, .known = 5},
                                             {.id = 2, .priority = 1, .prompt_tokens = 5, .known = 5},
                                             {.id = 3, .priority = 1, .prompt_tokens = 5, .known = 5}}));
  EXPECT_EQ(ids(step.admit), (std::vector<RequestId>{2, 3, 1}));
  ASSERT_EQ(step.spans.size(), 3u);
  EXPECT_EQ(step.spans[2].id, 1);
  EXPECT_EQ(step.spans[2].count, 2);
}

ScheduledRequest running_answer(RequestId id, int32_t priority, int64_t pages) {
  return {.id = id, .priority = priority, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = pages};
}

TEST(SarathiServe, AHigherPriorityTakesThePagesOfRunningOnes) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16, .watermark = 0});
  ScheduleContext context = context_of({running_answer(1, 0, 30),
                                        running_answer(2, 1, 20),
                                        running_answer(3, 0, 20),
                                        running_answer(4, 2, 20),
                                        {.id = 5, .priority = 2, .prompt_tokens = 400, .known = 400}});
  context.free_pages = 10;  // 25 are wanted
  Step step = policy->next(context);
  ASSERT_EQ(step.preempt.size(), 1u);
  EXPECT_EQ(step.preempt[0].id, 3);  // the youngest of the lowest
  EXPECT_EQ(ids(step.admit), std::vector<RequestId>{5});
  ASSERT_EQ(step.spans.size(), 4u);
  EXPECT_EQ(step.spans[3].id, 5);
  EXPECT_EQ(step.spans[3].count, 13);

  context.requests[2].fixed = true;  // keeps its pages: the other of the lowest goes
  step = policy->next(context);
  ASSERT_EQ(step.preempt.size(), 1u);
  EXPECT_EQ(step.preempt[0].id, 1);

  context.requests[2].fixed = false;
  context.requests[4].prompt_tokens = context.requests[4].known = 1000;  // 63 pages
  step = policy->next(context);
  ASSERT_EQ(step.preempt.size(), 3u);
  EXPECT_EQ(step.preempt[2].id, 2);                                      // the lower ones first
  context.requests[4].prompt_tokens = context.requests[4].known = 1400;  // 88: not even theirs would do
  step = policy->next(context);
  EXPECT_TRUE(step.preempt.empty() && step.admit.empty());
  context.requests[4].prompt_tokens = context.requests[4].known = 400;
  context.requests[4].priority = 0;  // equals wait
  step = policy->next(context);
  EXPECT_TRUE(step.preempt.empty() && step.admit.empty());
}

TEST(SarathiServe, NobodyComesInBeforeWhoGaveUpItsPages) {
  ScheduleContext context = context_of({running_answer(1, 0, 40),
                                        running_answer(2, 0, 60),
                                        {.id = 3, .priority = 1, .prompt_tokens = 400, .known = 400},
                                        {.id = 4, .prompt_tokens = 5, .known = 5}});
  context.free_pages = 0;
  const Step step = policy_of("sarathi-serve", {.token_budget = 1000, .watermark = 0})->next(context);
  ASSERT_EQ(step.preempt.size(), 1u);
  EXPECT_EQ(step.preempt[0].id, 2);
  EXPECT_EQ(ids(step.admit), std::vector<RequestId>{3});  // 35 pages would be left for request 4
}

TEST(SarathiServe, AHigherPriorityTakesAPlaceOfTheBudgetAndTheBudgetItself) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 2});
  Step step = policy->next(
      context_of({running_answer(1, 0, 1), running_answer(2, 0, 1), {.id = 3, .priority = 1, .prompt_tokens = 4, .known = 4}}));
  ASSERT_EQ(step.preempt.size(), 1u);
  EXPECT_EQ(step.preempt[0].id, 2);
  EXPECT_EQ(ids(step.admit), std::vector<RequestId>{3});
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 400, .computed = 10, .known = 400, .admitted = true, .pages = 25},
                                        {.id = 2, .priority = 1, .prompt_tokens = 5, .known = 5}});
  step = policy_of("sarathi-serve", {.token_budget = 16})->next(context);
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[0].id, 2);  // before the prompt that has begun
  EXPECT_EQ(step.spans[0].count, 5);
  EXPECT_EQ(step.spans[1].count, 11);
  // Nobody goes for a request that gets nothing of the budget as long as its equals read their prompts.
  context.requests[0].priority = 1;
  context.requests.push_back(running_answer(3, 0, 74));
  context.free_pages = 0;
  step = policy_of("sarathi-serve", {.token_budget = 16})->next(context);
  EXPECT_TRUE(step.preempt.empty() && step.admit.empty());
}

TEST(SarathiServe, ATimeLimitShortensThePromptsShareAlone) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16});
  const LinearStepCost cost({.per_step = 1.0, .per_prefill_row_layer = 0.5, .per_decode_row_layer = 0.25});
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = 1},
                                        {.id = 2, .prompt_tokens = 40, .known = 40, .admitted = true, .pages = 3}});
  context.cost = &cost;
  context.most_seconds = 1.0 + 0.25 * 4 + 0.5 * 4 * 3 + 0.1;  // the answer's row and three rows of the prompt
  Step step = policy->next(context);
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[1].count, 3);

  context.most_seconds = 0.1;  // not even the answer fits, but answers go on
  step = policy->next(context);
  ASSERT_EQ(step.spans.size(), 1u);
  EXPECT_EQ(step.spans[0].id, 1);

  context.requests.erase(context.requests.begin());  // a prompt alone makes progress
  step = policy->next(context);
  ASSERT_EQ(step.spans.size(), 1u);
  EXPECT_EQ(step.spans[0].count, 1);
}

TEST(SarathiServe, OptionsLimitThePromptsOfAStepAndGiveIdleStepsMore) {
  const std::vector<ScheduledRequest> prompts = {{.id = 1, .prompt_tokens = 5, .known = 5}, {.id = 2, .prompt_tokens = 50, .known = 50}};
  EXPECT_EQ(policy_of("sarathi-serve", {.token_budget = 16, .prompts_per_step = 1})->next(context_of(prompts)).spans.size(), 1u);
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16, .idle_budget = 40});
  EXPECT_EQ(policy->most_rows(1000), 40);
  EXPECT_EQ(policy->next(context_of(prompts)).spans[1].count, 35);
  std::vector<ScheduledRequest> with_answer = prompts;
  with_answer.push_back({.id = 3, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = 1});
  EXPECT_EQ(policy->next(context_of(with_answer)).spans[2].count, 10);
}

TEST(SarathiServe, PromptsWhoseRowsRunTogetherGoByLayers) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16});
  // 64 row-layers: an answer takes 4 of them, 30 rows go through 2 layers.
  const ScheduledRequest answer{.id = 1, .prompt_tokens = 3, .most_new_tokens = 9, .computed = 3, .known = 4, .admitted = true, .pages = 9};
  ScheduledRequest whole{.id = 2, .prompt_tokens = 30, .most_new_tokens = 9, .known = 30, .row_block = INT32_MAX, .fixed = true};
  Step step = policy->next(context_of({answer, whole}));
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[1].count, 30);
  EXPECT_EQ(step.spans[1].layer_end, 2);
  EXPECT_FALSE(step.spans[1].wants_logits);
  whole.layer = 2, whole.piece = 30, whole.admitted = true, whole.pages = 9;
  step = policy->next(context_of({whole}));
  EXPECT_EQ(step.spans[0].layer_begin, 2);
  EXPECT_EQ(step.spans[0].layer_end, 4);
  EXPECT_TRUE(step.spans[0].wants_logits);
  // A layer that no budget has room for runs nevertheless, beside answers, but not beside another prompt.
  ScheduledRequest huge{.id = 3, .prompt_tokens = 500, .most_new_tokens = 9, .known = 500, .row_block = INT32_MAX, .fixed = true};
  step = policy->next(context_of({answer, huge}));
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[1].count, 500);
  EXPECT_EQ(step.spans[1].layer_end, 1);
  const ScheduledRequest small{.id = 2, .prompt_tokens = 3, .most_new_tokens = 9, .known = 3};
  step = policy->next(context_of({answer, small, huge}));
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[1].id, 2);
}

TEST(SarathiServe, TheYoungestGivesUpItsPagesFirst) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16});
  ScheduleContext context =
      context_of({{.id = 1, .prompt_tokens = 5, .computed = 16, .known = 17, .admitted = true, .pages = 1},
                  {.id = 2, .prompt_tokens = 5, .computed = 16, .known = 17, .admitted = true, .pages = 1},
                  {.id = 3, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = 1},
                  {.id = 4, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .fixed = true, .pages = 1}});
  context.free_pages = 0;
  const Step step = policy->next(context);
  ASSERT_EQ(step.preempt.size(), 2u);
  EXPECT_EQ(step.preempt[0].id, 3);  // for request 1; request 4 is fixed
  EXPECT_EQ(step.preempt[1].id, 2);  // nobody is behind it: its own
  ASSERT_EQ(step.spans.size(), 2u);
  EXPECT_EQ(step.spans[0].id, 1);
  EXPECT_EQ(step.spans[1].id, 4);
  EXPECT_TRUE(step.admit.empty());  // who had to go does not come back in the same step
}

TEST(SarathiServe, PagesGoToTheFileWhereTheyCan) {
  const auto policy = policy_of("sarathi-serve", {.token_budget = 16, .preemption = PreemptionKind::swap});
  ScheduleContext context =
      context_of({{.id = 1, .prompt_tokens = 5, .computed = 32, .known = 33, .admitted = true, .pages = 2},
                  {.id = 2, .prompt_tokens = 5, .computed = 32, .known = 33, .admitted = true, .pages = 2},
                  {.id = 3, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .can_swap = true, .pages = 1}});
  context.free_pages = 0;
  Step step = policy->next(context);
  ASSERT_EQ(step.preempt.size(), 2u);
  EXPECT_EQ(step.preempt[0].kind, PreemptionKind::swap);
  EXPECT_EQ(step.preempt[1].kind, PreemptionKind::recompute);  // its pages find no room there
  // What comes back from the file goes on with its answer at once.
  step = policy->next(context_of({{.id = 3, .prompt_tokens = 5, .computed = 7, .known = 8, .swapped = true}}));
  EXPECT_EQ(ids(step.admit), std::vector<RequestId>{3});
  ASSERT_EQ(step.spans.size(), 1u);
  EXPECT_TRUE(step.spans[0].answer);
}

// --- sarathi ------------------------------------------------------------------------------------------------------

TEST(Sarathi, ChunksFillWholeRowBlocks) {
  const Sarathi policy({.token_budget = 64, .row_block = 12});
  for (int32_t answers = 0; answers < 200; ++answers) {
    const int32_t rows = policy.chunk_for(answers) + answers;
    EXPECT_EQ(rows % 12, 0);
    EXPECT_GE(rows, 64);
    EXPECT_GT(policy.chunk_for(answers), 0);
    EXPECT_LT(rows, std::max(64, answers + 1) + 12);
  }
  EXPECT_EQ(Sarathi({.token_budget = 256}).chunk_for(17), 256 - 17);  // section 4.4: C less the answers
}

// The trace of a run: for each step its spans.
using Trace = std::vector<std::vector<std::tuple<RequestId, int32_t, int32_t>>>;

Trace trace_of(SchedulePolicy& policy, World& world) {
  Trace trace;
  while (!world.idle()) {
    const Step step = world.step(policy);
    auto& spans = trace.emplace_back();
    for (const Span& span : step.spans) spans.emplace_back(span.id, span.first_token, span.count);
    std::sort(spans.begin(), spans.end());
  }
  return trace;
}

World random_world(uint32_t seed, int32_t requests, int32_t most_running) {
  World world({.pages = 100000, .most_running = most_running, .longest = 1000});
  std::mt19937 random(seed);
  for (int i = 0; i < requests; ++i) {
    world.arrive({.prompt_tokens = 1 + static_cast<int32_t>(random() % 500), .most_new_tokens = 1 + static_cast<int32_t>(random() % 60)});
  }
  return world;
}

// Brief of arXiv:2308.16369, check 4.
TEST(Sarathi, ABatchIsOneChunkAndEveryAnswer) {
  constexpr int32_t places = 6, block = 12;
  World world = random_world(1, 200, places);
  Sarathi policy({.token_budget = 60, .row_block = block});
  int64_t full_chunks = 0;
  while (!world.idle()) {
    std::map<RequestId, ScheduledRequest> before;
    for (const ScheduledRequest& request : world.requests()) before[request.id] = request;
    const Step step = world.step(policy);
    int32_t prompts = 0, answers = 0, rows = 0;
    bool full = false;
    for (const Span& span : step.spans) {
      (span.answer ? answers : prompts) += 1;
      rows += span.count;
      const ScheduledRequest& request = before[span.id];
      full = full || (!span.answer && request.known - request.computed > span.count);
    }
    EXPECT_LE(prompts, 1);
    if (prompts == 1) {
      EXPECT_LE(answers, places - 1);
    }
    if (full) {
      EXPECT_EQ(rows % block, 0);
    }
    full_chunks += full;
  }
  EXPECT_GT(full_chunks, 200);
}

// Check 5: with prompt : answer = C : (B - 1) no step has answers alone, once every place is taken; with half as many prompt
// tokens some do.
TEST(Sarathi, PromptsJustCoverTheAnswersAtTheRatioOfThePaper) {
  constexpr int32_t places = 5, budget = 64, answer = 40;
  const auto answers_alone = [&](int32_t prompt) {
    World world({.pages = 100000, .most_running = places, .longest = 2000});
    for (int i = 0; i < 60; ++i) world.arrive({.prompt_tokens = prompt, .most_new_tokens = answer});
    Sarathi policy({.token_budget = budget});
    int64_t alone = 0, steps = 0;
    while (world.waiting() > 0) {  // the end, where nobody comes after, is another matter
      const Step step = world.step(policy);
      bool prompts = false;
      for (const Span& span : step.spans) prompts = prompts || !span.answer;
      if (++steps > 200) alone += !prompts;
    }
    EXPECT_GT(steps, 400);
    return alone;
  };
  // A chunk beside B - 1 answers has C - (B - 1) rows, and a request needs answer - 1 rows after the one that its prompt ends with.
  const int32_t chunks = (answer - 1 + places - 2) / (places - 1);
  const int32_t covering = (chunks + 1) * (budget - (places - 1));
  EXPECT_NEAR(static_cast<double>(covering) / answer, static_cast<double>(budget) / (places - 1), 4);
  EXPECT_EQ(answers_alone(covering), 0);
  EXPECT_GT(answers_alone(covering / 2), 0);
}

// Check 6: chunks that hold any prompt make Orca's best case, in which a step may have one whole prompt.
TEST(Sarathi, ChunksAsLongAsTheContextAreOrca) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    World ours = random_world(seed, 50, 7), orcas = random_world(seed, 50, 7);
    Sarathi sarathi({.token_budget = 1000});
    IterationLevel orca({.prompts_per_step = 1}, true);
    EXPECT_EQ(trace_of(sarathi, ours), trace_of(orca, orcas));
  }
}

// Brief of arXiv:2403.02310, check 5: a budget beyond every prompt is the schedule without chunks, and a budget of one token works.
TEST(SarathiServe, ABudgetWithoutLimitIsHybridOnly) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    World ours = random_world(seed, 50, 7), hybrids = random_world(seed, 50, 7);
    SarathiServe serve({.token_budget = 1 << 20});
    IterationLevel hybrid({}, false);
    EXPECT_EQ(trace_of(serve, ours), trace_of(hybrid, hybrids));
  }
}

TEST(SarathiServe, ABudgetOfOneTokenRunsOneTokenAfterTheOther) {
  World world({.pages = 1000, .most_running = 8, .longest = 100});
  int32_t rows = 0;
  for (const int32_t tokens : {3, 7, 1}) {
    world.arrive({.prompt_tokens = tokens, .most_new_tokens = tokens});
    rows += 2 * tokens - 1;
  }
  SarathiServe policy({.token_budget = 1});
  for (const auto& step : trace_of(policy, world)) {
    ASSERT_EQ(step.size(), 1u);
    EXPECT_EQ(std::get<2>(step[0]), 1);
    --rows;
  }
  EXPECT_EQ(rows, 0);
}

// --- the others ---------------------------------------------------------------------------------------------------

TEST(PromptsFirst, PromptsRunWholeAndBeforeAnswers) {
  const auto policy = policy_of("vllm", {.most_prompt_tokens = 100});
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = 1},
                                        {.id = 2, .prompt_tokens = 70, .known = 70},
                                        {.id = 3, .prompt_tokens = 40, .known = 40},
                                        {.id = 4, .prompt_tokens = 5, .known = 5}});
  Step step = policy->next(context);
  ASSERT_EQ(step.spans.size(), 1u);  // two prompts are more than 100 tokens
  EXPECT_EQ(step.spans[0].id, 2);
  EXPECT_EQ(step.spans[0].count, 70);
  context.requests.resize(1);
  context.requests.push_back({.id = 5, .prompt_tokens = 500, .known = 500});
  EXPECT_EQ(policy->next(context).spans[0].count, 500);  // longer than the limit, by itself
  context.requests.resize(1);
  EXPECT_TRUE(policy->next(context).spans[0].answer);
}

TEST(RequestLevel, ABatchRunsToItsEnd) {
  World world({.pages = 1000, .most_running = 2, .longest = 100});
  for (int i = 0; i < 4; ++i) world.arrive({.prompt_tokens = 5, .most_new_tokens = 2 + i});
  RequestLevel policy({});
  const Trace trace = trace_of(policy, world);
  ASSERT_EQ(trace.size(), 3u + 5u);
  EXPECT_EQ(trace[0].size(), 2u);
  EXPECT_EQ(trace[2].size(), 1u);  // the first has ended, and nobody takes its place
  EXPECT_EQ(std::get<0>(trace[3][0]), 3);
}

TEST(Orca, ReservesAllThatARequestMayNeed) {
  const auto policy = policy_of("orca", {});
  ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 5, .most_new_tokens = 900, .known = 5},
                                        {.id = 2, .prompt_tokens = 5, .most_new_tokens = 900, .known = 5}});
  const Step step = policy->next(context);
  EXPECT_EQ(ids(step.admit), std::vector<RequestId>{1});
  EXPECT_EQ(step.admit[0].pages, 57);
  EXPECT_EQ(ids(policy_of("hybrid-only", {})->next(context).admit), (std::vector<RequestId>{1, 2}));
}

TEST(ChunkedOnly, PromptsAndAnswersTakeTurns) {
  const auto policy = policy_of("chunked-only", {.token_budget = 16});
  const ScheduleContext context = context_of({{.id = 1, .prompt_tokens = 5, .computed = 7, .known = 8, .admitted = true, .pages = 1},
                                              {.id = 2, .prompt_tokens = 70, .known = 70, .admitted = true, .pages = 5}});
  for (int turn = 0; turn < 3; ++turn) {
    Step step = policy->next(context);
    ASSERT_EQ(step.spans.size(), 1u);
    EXPECT_EQ(step.spans[0].count, 16);
    step = policy->next(context);
    ASSERT_EQ(step.spans.size(), 1u);
    EXPECT_TRUE(step.spans[0].answer);
  }
}

}  // namespace
}  // namespace onset
