#include "onset/engine/offline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "onset/engine/step_benchmark.h"
#include "onset/engine/testing.h"
#include "onset/engine/trace.h"

namespace onset {
namespace {

using namespace onset::testing;

// Many small steps: a second thread only costs time where it has to be waited for.
EngineOptions one_thread(std::filesystem::path model = stories_model()) {
  EngineOptions options = test_options(std::move(model));
  options.threads = 1;
  return options;
}

std::vector<std::vector<int32_t>> prompts_of(const std::vector<int32_t>& lengths, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int32_t>> prompts;
  for (const int32_t length : lengths) {
    auto& prompt = prompts.emplace_back(length);
    for (int32_t& token : prompt) token = 3 + static_cast<int32_t>(random() % 300);  // every fixture has so many
  }
  return prompts;
}

std::vector<std::vector<int32_t>> tokens_of(const Engine& engine, const std::vector<std::vector<int32_t>>& prompts,
                                            const OfflineOptions& options) {
  const Result<OfflineRun> run = run_offline(engine, prompts, options);
  EXPECT_TRUE(run.ok()) << run.status().message();
  return run.ok() ? run->tokens : std::vector<std::vector<int32_t>>();
}

const std::vector<OfflineOptions> every_way() {
  std::vector<OfflineOptions> ways;
  for (const OfflinePolicy policy : {OfflinePolicy::ragged, OfflinePolicy::padded, OfflinePolicy::length_ordered, OfflinePolicy::prepack}) {
    for (const bool omit_last : {false, true}) {
      ways.push_back({.policy = policy, .batch = 16, .omit_last = omit_last});
      if (policy == OfflinePolicy::prepack) ways.push_back({.policy = policy, .batch = 16, .whole_data_set = true, .omit_last = omit_last});
    }
  }
  return ways;
}

// Brief of arXiv:2404.09529, checks 1 and 5: whatever the batch, each prompt is answered as if it were alone; 32 greedy tokens.
TEST(Offline, EveryWayGivesTheAnswersOfPromptsAlone) {
  const auto engine = make_engine(one_thread());
  std::mt19937 random(7);
  std::vector<std::vector<int32_t>> cases = {{1}, {1, 1, 1, 90}, {40, 40, 40, 40}, {300, 2, 1, 7, 5, 3, 1, 64, 65}};
  auto& mixed = cases.emplace_back();
  for (int i = 0; i < 40; ++i) mixed.push_back(1 + static_cast<int32_t>(random() % 200));
  for (const std::vector<int32_t>& lengths : cases) {
    const auto prompts = prompts_of(lengths, 3);
    std::vector<std::vector<int32_t>> alone;
    for (const auto& prompt : prompts) {
      alone.push_back(answer(*engine, {.tokens = prompt, .most_new_tokens = 32, .ignore_end = true}).tokens);
    }
    for (OfflineOptions way : every_way()) {
      way.new_tokens = 32;
      EXPECT_EQ(tokens_of(*engine, prompts, way), alone)
          << offline_policy_name(way.policy) << " " << way.omit_last << " of " << lengths.size();
    }
  }
}

TEST(Offline, WindowsAreNoMatter) {
  const auto engine = make_engine(one_thread(fixture_model("gemma3")));
  const auto prompts = prompts_of({200, 30, 70, 1, 128, 90}, 4);
  const auto ragged = tokens_of(*engine, prompts, {.policy = OfflinePolicy::ragged, .new_tokens = 8});
  for (OfflineOptions way : every_way()) {
    way.new_tokens = 8;
    EXPECT_EQ(tokens_of(*engine, prompts, way), ragged) << offline_policy_name(way.policy);
  }
}

// Check 2: the others of a line are no matter.
TEST(Offline, NothingLeaksFromOnePromptIntoAnother) {
  const auto engine = make_engine(one_thread());
  const std::vector<int32_t> lengths = {100, 60, 40, 30, 30, 20, 50};
  auto prompts = prompts_of(lengths, 5);
  const OfflineOptions options{.policy = OfflinePolicy::prepack, .new_tokens = 16};
  const auto before = tokens_of(*engine, prompts, options);
  const auto others = prompts_of(lengths, 6);
  for (size_t i = 1; i < prompts.size(); i += 2) prompts[i] = others[i];
  const auto after = tokens_of(*engine, prompts, options);
  for (size_t i = 0; i < prompts.size(); i += 2) EXPECT_EQ(before[i], after[i]);
  EXPECT_NE(before[1], after[1]);
}

TEST(Offline, CountsTheRowsThatItComputes) {
  const auto engine = make_engine(one_thread());
  const auto prompts = prompts_of({100, 60, 40, 30, 50, 20}, 5);
  const auto run = [&](OfflinePolicy policy) { return *run_offline(*engine, prompts, {.policy = policy, .batch = 3}); };
  const OfflineRun padded = run(OfflinePolicy::padded), packed = run(OfflinePolicy::prepack), ragged = run(OfflinePolicy::ragged);
  EXPECT_EQ(padded.computed_rows, 3 * 100 + 3 * 50);
  EXPECT_EQ(packed.computed_rows, 2 * 100 + 2 * 50);
  EXPECT_EQ(ragged.computed_rows, 300);
  EXPECT_EQ(packed.lines, 4);
  for (const OfflineRun& each : {padded, packed, ragged}) {
    EXPECT_EQ(each.prompt_tokens, 300);
    EXPECT_EQ(each.batch_seconds.size(), 2u);
    EXPECT_GT(each.prefill_seconds, 0);
    EXPECT_GE(each.seconds, each.prefill_seconds);
  }
}

TEST(Offline, BadPromptsSaySo) {
  const auto engine = make_engine(one_thread());
  const auto refused = [&](const std::vector<std::vector<int32_t>>& prompts) {
    return run_offline(*engine, prompts, {}).status().message();
  };
  EXPECT_EQ(refused({}), "there are no prompts: expected one or more");
  EXPECT_EQ(refused({{5}, {}}), "prompt 1 is empty: expected one token or more");
  EXPECT_EQ(refused({{5}, {512}}), "prompt 1 has token id 512, expected 0 to 511");
  EXPECT_EQ(refused({std::vector<int32_t>(513, 5)}), "prompt 0 has 513 tokens and 1 new ones, the context has room for 512");
}

// --- what steps cost, and their time line ------------------------------------------------------------------------

TEST(StepBenchmark, MeasuresStepsOfAllShapesAndFitsThem) {
  const StepBenchmarkOptions wanted{.samples = 60, .most_rows = 64, .most_answers = 5, .most_context = 200};
  EngineOptions options = one_thread();
  options.pool_tokens = step_benchmark_tokens(wanted);
  const auto engine = make_engine(std::move(options));
  const auto benchmark = benchmark_steps(*engine, wanted);
  ASSERT_TRUE(benchmark.ok()) << benchmark.status().message();
  ASSERT_EQ(benchmark->samples.size(), 60u);
  int alone = 0, prompts = 0, both = 0, ends = 0;
  for (const StepSample& sample : benchmark->samples) {
    const bool rows = sample.shape.prefill_row_layers > 0, answers = sample.shape.decode_row_layers > 0;
    alone += answers && !rows;
    prompts += rows && !answers;
    both += rows && answers;
    ends += sample.shape.output_rows * 5 > sample.shape.decode_row_layers;
    EXPECT_LE(sample.shape.prefill_row_layers, 64 * 5);
    EXPECT_LE(sample.shape.decode_row_layers, 5 * 5);
    EXPECT_GT(sample.seconds, 0);
  }
  EXPECT_GT(alone, 0);
  EXPECT_GT(prompts, 0);
  EXPECT_GT(both, 10);
  EXPECT_GT(ends, 0);
  EXPECT_EQ(benchmark->model.key.model, "stories260K.gguf");
  EXPECT_EQ(benchmark->model.fit.samples, 60);
  EXPECT_FALSE(engine->has_work());
  expect_no_pages(*engine);
  EXPECT_STREQ(engine->schedule().name(), "sarathi-serve");

  const std::vector<StepPoint> points = {
      {.rows = 20, .context = 50}, {.answers = 3, .context = 50}, {.rows = 17, .answers = 3, .context = 50}};
  const auto seconds = measure_points(*engine, points, 2, {});
  ASSERT_TRUE(seconds.ok()) << seconds.status().message();
  EXPECT_EQ((*seconds)[2].size(), 2u);
  expect_no_pages(*engine);
  EXPECT_FALSE(benchmark_steps(*engine, {.samples = 60, .most_context = 100000}).ok());
}

TEST(StepBenchmark, ATargetPicksTheBudgetFromTheMachineFile) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "onset-tbt-test.json";
  std::filesystem::remove(path);
  const auto with_target = [&](double seconds) {
    EngineOptions options = one_thread();
    options.tbt_seconds = seconds;
    options.machine_file = path;
    return Engine::create(std::move(options));
  };
  const std::string missing = with_target(0.05).status().message();
  EXPECT_NE(missing.find("has no step times of stories260K.gguf on 1 threads"), std::string::npos) << missing;
  EXPECT_NE(missing.find("onset bench steps measures them"), std::string::npos) << missing;

  const auto plain = make_engine(one_thread());
  MachineFile file;
  file.put({.key = step_model_key(plain->model(), 1, plain->kv_type()),
            .layers = 5,
            .row_block = 12,
            .fit = {.weights = {.per_step = 5e-3, .per_prefill_row_layer = 1e-4, .per_decode_row_layer = 1e-4}, .ratio_99 = 1.25}});
  ASSERT_TRUE(file.save(path).ok());
  const auto engine = with_target(0.05);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  EXPECT_EQ((*engine)->scheduling().token_budget, 60);  // 50 ms / 1.25 less 5 ms are 70 rows, 5 blocks of 12
  EXPECT_NE(with_target(1e-3).status().message().find("more than the 1.0 ms asked for"), std::string::npos);
  EXPECT_EQ(with_target(-1).status().message(), "tbt_seconds is -1, expected 0 (no target) or more");
  std::filesystem::remove(path);
}

TEST(StepTrace, ShowsEveryTokenOnceAndNoTwoStepsAtATime) {
  EngineOptions options = one_thread();
  options.scheduling = {.token_budget = 32, .watermark = 0};
  options.pool_tokens = 320;
  options.prefix_cache = false;  // rows of preempted requests are counted
  const auto engine = make_engine(std::move(options));
  StepTrace trace;
  engine->set_step_hook([&](const StepReport& report) { trace.add(report); });
  std::vector<Told> told(12);
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(
        engine->submit({.tokens = prompts_of({20 + 5 * i}, i)[0], .most_new_tokens = 60, .ignore_end = true}, listen(told[i])).ok());
  }
  run_all(*engine);
  double end = 0;
  int64_t tokens = 0, preempted = 0;
  std::map<RequestId, int32_t> computed;
  for (const StepReport& step : trace.steps()) {
    EXPECT_GE(step.begin_seconds, end);
    end = step.begin_seconds + step.seconds;
    EXPECT_LE(step.prompt_rows + step.answer_rows, 32);
    for (const Preemption& gone : step.step.preempt) computed[gone.id] = 0, ++preempted;
    for (const Span& span : step.step.spans) {
      EXPECT_EQ(span.first_token, computed[span.id]);
      computed[span.id] += span.count;
      tokens += span.wants_logits;
    }
  }
  EXPECT_EQ(tokens, 12 * 60);
  EXPECT_GT(preempted, 0);
  const std::string json = trace.chrome_trace();
  EXPECT_NE(json.find("\"pages given up\""), std::string::npos);
  EXPECT_NE(json.find("\"request 12\""), std::string::npos);
}

}  // namespace
}  // namespace onset
