#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "onset/base/mapped_file.h"
#include "onset/cost/machine_file.h"
#include "onset/cost/step_fit.h"
#include "onset/cost/token_budget.h"

namespace onset {
namespace {

// --- the fit ------------------------------------------------------------------------------------------------------

TEST(NonNegativeLeastSquares, IsTheUnconstrainedOneWhereThatHasNoNegatives) {
  const std::vector<double> a = {1, 0, 1, 1, 1, 2, 1, 3}, b = {1, 3, 5, 7};
  const std::vector<double> x = non_negative_least_squares(a, b, 2);
  EXPECT_NEAR(x[0], 1, 1e-9);
  EXPECT_NEAR(x[1], 2, 1e-9);
}

// The Karush-Kuhn-Tucker conditions say that nothing better exists.
TEST(NonNegativeLeastSquares, NothingIsBetter) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (int round = 0; round < 200; ++round) {
    const int rows = 3 + static_cast<int>(random() % 20), columns = 1 + static_cast<int>(random() % 8);
    std::vector<double> a(rows * columns), b(rows);
    for (double& value : a) value = normal(random);
    for (double& value : b) value = normal(random);
    const std::vector<double> x = non_negative_least_squares(a, b, columns);
    for (int c = 0; c < columns; ++c) {
      double gradient = 0;
      for (int r = 0; r < rows; ++r) {
        double rest = b[r];
        for (int k = 0; k < columns; ++k) rest -= a[r * columns + k] * x[k];
        gradient += a[r * columns + c] * rest;
      }
      EXPECT_GE(x[c], 0);
      EXPECT_LE(gradient, 1e-6);
      if (x[c] > 0) {
        EXPECT_NEAR(gradient, 0, 1e-6);
      }
    }
  }
}

std::vector<StepSample> samples_of(const StepWeights& truth, int count, double noise, uint32_t seed) {
  const LinearStepCost cost(truth);
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<StepSample> samples;
  for (int i = 0; i < count; ++i) {
    const int64_t rows = random() % 400, answers = random() % 32, context = random() % 4000;
    StepSample sample{.shape = {.prefill_row_layers = rows * 30,
                                .decode_row_layers = answers * 30,
                                .prefill_slots = rows * context * 30,
                                .decode_slots = answers * static_cast<int64_t>(random() % 4000) * 30,
                                .prefill_keys = context * 30,
                                .output_rows = answers + static_cast<int64_t>(random() % 3)}};
    sample.seconds = cost.seconds(sample.shape) * (1 + noise * normal(random));
    samples.push_back(sample);
  }
  return samples;
}

constexpr double bends[] = {16 * 30.0, 64 * 30.0};

TEST(StepFit, FindsTheWeightsThatMadeTheTimes) {
  const StepWeights truth{.per_step = 5e-3,
                          .per_prefill_row_layer = 2e-6,
                          .per_decode_row_layer = 3e-6,
                          .per_prefill_slot = 1e-9,
                          .per_decode_slot = 4e-9,
                          .per_prefill_key = 2e-8,
                          .per_output_row = 1e-4,
                          .bends = {{64 * 30.0, 3e-6}}};
  const auto fit = fit_step_cost(samples_of(truth, 300, 0, 1), bends);
  ASSERT_TRUE(fit.ok()) << fit.status().message();
  EXPECT_NEAR(fit->weights.per_step, 5e-3, 1e-6);
  EXPECT_NEAR(fit->weights.per_decode_slot, 4e-9, 1e-12);
  EXPECT_NEAR(fit->weights.per_prefill_key, 2e-8, 1e-11);
  EXPECT_LT(fit->mean_error, 1e-6);
  EXPECT_NEAR(fit->ratio_99, 1, 1e-6);

  const auto noisy = fit_step_cost(samples_of(truth, 1000, 0.05, 2), bends);
  const StepFit judged = judge_step_cost(noisy->weights, samples_of(truth, 1000, 0.05, 3));
  EXPECT_LT(judged.mean_error, 0.06);
  EXPECT_NEAR(judged.ratio_50, 1, 0.02);
  EXPECT_NEAR(judged.ratio_99, 1 + 2.33 * 0.05, 0.04);
}

TEST(StepFit, NeverSaysThatMoreWorkCostsLess) {
  // Times that fall with the context: nothing to learn from, but nothing to believe either.
  std::vector<StepSample> samples = samples_of({.per_step = 1e-2}, 200, 0, 4);
  for (StepSample& sample : samples) sample.seconds -= 1e-12 * static_cast<double>(sample.shape.prefill_slots);
  const StepWeights weights = fit_step_cost(samples, bends)->weights;
  EXPECT_EQ(weights.per_prefill_slot, 0);
  EXPECT_GT(weights.per_step, 5e-3);
}

TEST(StepFit, StepsThatWereInterruptedChangeLittle) {
  const StepWeights truth{.per_step = 5e-3, .per_prefill_row_layer = 2e-6, .per_prefill_slot = 1e-9};
  std::vector<StepSample> samples = samples_of(truth, 300, 0.02, 3);
  for (size_t i = 0; i < samples.size(); i += 10) samples[i].seconds *= 4;
  const auto fit = fit_step_cost(samples, bends);
  ASSERT_TRUE(fit.ok()) << fit.status().message();
  const LinearStepCost expected(truth), found(fit->weights);
  for (const StepSample& sample : samples) EXPECT_NEAR(found.seconds(sample.shape) / expected.seconds(sample.shape), 1, 0.05);
}

TEST(StepFit, BadSamplesSaySo) {
  std::vector<StepSample> samples(3, StepSample{.shape = {}, .seconds = 1});
  EXPECT_EQ(fit_step_cost(samples, bends).status().message(), "3 measured steps are too few for 9 weights");
  samples.resize(20, StepSample{.shape = {}, .seconds = 0});
  EXPECT_EQ(fit_step_cost(samples, bends).status().message(), "a measured step took 0 seconds, expected more than 0");
}

// --- the budget ---------------------------------------------------------------------------------------------------

TEST(TokenBudget, IsTheLargestThatKeepsTheTarget) {
  const LinearStepCost cost({.per_step = 10e-3, .per_prefill_row_layer = 1e-3, .per_decode_row_layer = 1e-3});
  BudgetQuestion question{.target_seconds = 50.001e-3, .layers = 1, .answers = 4};
  EXPECT_EQ(*pick_token_budget(cost, question), 40);
  question.ratio_99 = 1.25;
  EXPECT_EQ(*pick_token_budget(cost, question), 30);
  question.row_block = 12;
  EXPECT_EQ(*pick_token_budget(cost, question), 24);
  question.row_block = 64;  // not one whole block
  EXPECT_EQ(*pick_token_budget(cost, question), 30);
  question.most = 20;
  EXPECT_EQ(*pick_token_budget(cost, question), 20);
  question.target_seconds = 1e-3;
  EXPECT_EQ(pick_token_budget(cost, question).status().message(),
            "a step of 4 answers with 1024 tokens behind each takes 17.5 ms, more than the 1.0 ms asked for");
}

// --- the machine file ---------------------------------------------------------------------------------------------

StepModel some_model(const std::string& name) {
  return {.key = {.model = name, .weight_bytes = 12345, .threads = 2, .isa = "avx512", .precision = "fast", .kv = "int8"},
          .layers = 30,
          .row_block = 12,
          .fit = {.weights = {.per_step = 1e-3, .per_prefill_row_layer = 1.0 / 3, .bends = {{30, 1e-6}, {90, 2e-6}}},
                  .samples = 7,
                  .ratio_50 = 1,
                  .ratio_99 = 1.1,
                  .mean_error = 0.03}};
}

TEST(MachineFile, ComesBackAsItWas) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "machine-file-test" / "machine.json";
  MachineFile file;
  file.put(some_model("a"));
  file.put(some_model("b"));
  StepModel again = some_model("a");
  again.fit.samples = 8;
  file.put(again);
  ASSERT_TRUE(file.save(path).ok());
  const auto read = MachineFile::load(path);
  ASSERT_TRUE(read.ok()) << read.status().message();
  ASSERT_EQ(read->step_models().size(), 2u);
  const StepModel* found = read->find(some_model("a").key);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->fit.samples, 8);
  EXPECT_EQ(found->fit.weights.per_prefill_row_layer, 1.0 / 3);
  EXPECT_EQ(found->fit.weights.bends[1].row_layers, 90);
  StepModelKey other = some_model("a").key;
  other.threads = 1;
  EXPECT_EQ(read->find(other), nullptr);
  std::filesystem::remove_all(path.parent_path());
}

TEST(MachineFile, ErrorsNameTheField) {
  MachineFile file;
  file.put(some_model("a"));
  const std::string good = file.to_json();
  const auto said = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    return MachineFile::parse(text, "m.json").status().message();
  };
  EXPECT_EQ(MachineFile::parse("{", "m.json").status().message(), "m.json: is not valid JSON");
  EXPECT_EQ(MachineFile::parse(std::string(100000, '['), "m.json").status().message(), "m.json: is not valid JSON");
  EXPECT_EQ(MachineFile::parse("[]", "m.json").status().message(), "m.json: expected an object");
  EXPECT_EQ(said("onset machine file", "song"), "m.json.format is song, expected onset machine file");
  EXPECT_EQ(said("\"version\": 1", "\"version\": 2"), "m.json.version is 2, expected 1 to 1");
  EXPECT_EQ(said("\"threads\": 2", "\"threads\": 0"), "m.json.step_models[0].threads is 0, expected 1 to 1024");
  EXPECT_EQ(said("\"threads\": 2", "\"threads\": 2.5"), "m.json.step_models[0].threads: expected a whole number");
  EXPECT_EQ(said("\"isa\"", "\"isb\""), "m.json.step_models[0].isa is missing");
  EXPECT_EQ(said("\"per_step\": 0.001", "\"per_step\": -1"), "m.json.step_models[0].weights.per_step is -1, expected 0 or more");
  EXPECT_EQ(said("\"per_step\": 0.001", "\"per_step\": \"x\""), "m.json.step_models[0].weights.per_step: expected a number");
  EXPECT_EQ(said("30.0,", "-30.0,"), "m.json.step_models[0].weights.bends[0]: expected [row_layers, seconds], neither below 0");
  EXPECT_EQ(said("\"weights\": {", "\"weights\": 3, \"x\": {"), "m.json.step_models[0].weights: expected an object");
  EXPECT_NE(MachineFile::load("/no/such/machine.json").status().message().find("/no/such/machine.json"), std::string::npos);
}

}  // namespace
}  // namespace onset
