// The measuring code itself: what is reported belongs to what ran. No figure is judged here.
#include "onset/engine/benchmark.h"

#include <nlohmann/json.hpp>

#include "onset/engine/kernel_benchmark.h"
#include "onset/engine/profile.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

TEST(Benchmark, RunsWhatItReports) {
  const auto engine = make_engine(test_options());
  int64_t prompt_rows = 0, decode_steps = 0;
  engine->set_step_hook([&](const StepReport& report) {
    const Step& step = report.step;
    if (step.spans[0].count > 1) prompt_rows += step.spans[0].count;
    if (step.spans[0].count == 1) ++decode_steps;
  });
  const Result<Benchmark> benchmark = run_benchmark(*engine, {.prompts = {16, 40}, .generate = 8, .repeat = 2});
  ASSERT_TRUE(benchmark.ok()) << benchmark.status().message();
  EXPECT_EQ(prompt_rows, 3 * (16 + 40));  // one run each is thrown away
  EXPECT_EQ(decode_steps, 3 * (1 + 8));   // one token, then eight
  ASSERT_EQ(benchmark->prefill.size(), 2u);
  EXPECT_EQ(benchmark->prefill[1].tokens, 40);
  EXPECT_EQ(benchmark->prefill[1].tokens_per_second.size(), 2u);
  EXPECT_EQ(benchmark->decode.tokens_per_second.size(), 2u);
  for (const double speed : benchmark->decode.tokens_per_second) EXPECT_GT(speed, 0);
  expect_no_pages(*engine);
}

TEST(Benchmark, TheWholeContextCanBeMeasured) {
  EngineOptions options = test_options();
  options.pool_tokens = 100;
  const auto engine = make_engine(std::move(options));
  EXPECT_TRUE(run_benchmark(*engine, {.prompts = {100}, .generate = 99, .repeat = 1}).ok());
  EXPECT_EQ(run_benchmark(*engine, {.prompts = {101}}).status().message(),
            "a prompt of 101 tokens cannot be measured: expected 1 to 100, the context");
  EXPECT_EQ(run_benchmark(*engine, {.prompts = {}, .generate = 101}).status().message(),
            "an answer of 101 tokens cannot be measured: expected 0 to 100, the context");
}

TEST(Benchmark, Median) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
}

TEST(Profile, EveryLayersOperationsAreThere) {
  EngineOptions options = test_options();
  options.scheduling.token_budget = 32;
  const auto engine = make_engine(std::move(options));
  const Result<Profile> profile = profile_prefill(*engine, std::vector<int32_t>(50, 7));
  ASSERT_TRUE(profile.ok());
  EXPECT_EQ(profile->steps, 2);
  EXPECT_EQ(profile->tokens, 50);
  double last = 0;
  for (const TimedOperation& operation : profile->operations) {
    EXPECT_GE(operation.begin, last);  // one after another
    EXPECT_GE(operation.end, operation.begin);
    last = operation.begin;
  }
  EXPECT_LE(last, profile->seconds);
  int64_t calls = 0;
  for (const OperationTotal& total : operation_totals(*profile)) {
    calls += total.calls;
    if (total.name.find("outputs") == std::string::npos)
      EXPECT_EQ(total.calls % (2 * 5), 0) << total.name;  // two chunks through five layers
  }
  EXPECT_EQ(calls, static_cast<int64_t>(profile->operations.size()));

  const auto trace = nlohmann::json::parse(chrome_trace(*profile));
  ASSERT_EQ(trace["traceEvents"].size(), profile->operations.size());
  EXPECT_EQ(trace["traceEvents"][0]["ph"], "X");
  EXPECT_EQ(trace["traceEvents"][0]["name"], profile->operations[0].name);
}

TEST(KernelBenchmark, EachShapeOfTheModelIsThere) {
  const auto engine = make_engine(test_options());
  ThreadPool pool(2);
  const auto timings = benchmark_kernels(*engine, pool, {.rows = {1, 8}, .keys = 100});
  ASSERT_TRUE(timings.ok()) << timings.status().message();
  int linear = 0, attention = 0;
  for (const KernelTiming& timing : *timings) {
    EXPECT_GT(timing.seconds, 0) << timing.name;
    linear += timing.name == "linear";
    attention += timing.name == "attention";
  }
  EXPECT_EQ(linear, 2 * 5);  // queries, keys and values; output; gate and up; down; head
  EXPECT_EQ(attention, 2);
}

}  // namespace
}  // namespace onset
