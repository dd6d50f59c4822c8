#include "onset/engine/parallel_search.h"

#include <algorithm>
#include <set>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

EngineOptions search_options() {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  options.pool_tokens = 8192;
  return options;
}

std::vector<AnsweredPrompt> some_prompts(bool labels) {
  std::vector<AnsweredPrompt> prompts;
  for (uint32_t i = 0; i < 4; ++i) {
    AnsweredPrompt& prompt = prompts.emplace_back();
    prompt.parts = {.prefix = {}, .contexts = {random_tokens(40, 10 + i), random_tokens(25, 20 + i)}, .prompt = random_tokens(6, 30 + i)};
    prompt.answers = {random_tokens(2, 40 + i), random_tokens(1, 50 + i), random_tokens(2, 60 + i)};
    if (labels) prompt.label = i % 3;
  }
  return prompts;
}

const std::vector<std::vector<int32_t>> prefixes = {{}, random_tokens(2, 1), random_tokens(12, 2)};

bool equal(const ParallelSearch& a, const ParallelSearch& b) {
  const auto same = [](const ParallelConfiguration& x, const ParallelConfiguration& y) {
    return x.stage == y.stage && x.prefix == y.prefix && x.options.temperature == y.options.temperature &&
           x.options.scale == y.options.scale && x.accuracy == y.accuracy && x.logprobs == y.logprobs;
  };
  return a.best == b.best && a.usual == b.usual && std::equal(a.trace.begin(), a.trace.end(), b.trace.begin(), b.trace.end(), same);
}

// Check 8 of the brief: never below the defaults, every configuration of the greedy path once, the same each time.
TEST(ParallelSearch, IsGreedyAndNeverBelowTheDefaults) {
  for (const bool labels : {false, true}) {
    const std::vector<AnsweredPrompt> prompts = some_prompts(labels);
    ParallelSearchOptions options{.usual_prefix = 1};
    int64_t done = 0, total = 0;
    options.progress = [&](int64_t now, int64_t of) { done = now, total = of; };
    const auto engine = make_engine(search_options());
    const auto found = search_parallel_contexts(*engine, prompts, prefixes, options);
    ASSERT_TRUE(found.ok()) << found.status().message();
    const auto& trace = found->trace;
    const auto merit = [&](const ParallelConfiguration& each) {
      return std::pair(labels ? std::lround(4 * each.accuracy) : 0, each.logprob);
    };
    std::set<std::tuple<size_t, float, float>> scored;
    for (const ParallelConfiguration& each : trace) {
      EXPECT_TRUE(scored.emplace(each.prefix, each.options.temperature, each.options.scale).second) << "scored twice";
      EXPECT_EQ(each.logprobs.size(), prompts.size());
      EXPECT_LE(merit(each), merit(trace[found->best]));
    }
    EXPECT_EQ(done, std::ssize(trace) * 4);
    EXPECT_GE(total, done);

    // Each stage goes on from the best of the one before.
    const auto best_of = [&](auto belongs) {
      const ParallelConfiguration* best = nullptr;
      for (const ParallelConfiguration& each : trace) {
        if (belongs(each) && (best == nullptr || merit(*best) < merit(each))) best = &each;
      }
      return *best;
    };
    const size_t prefix = best_of([](const auto& each) { return each.stage == "prefix"; }).prefix;
    const float temperature = best_of([&](const auto& each) {
                                return each.stage != "default" && each.prefix == prefix && each.options.scale == 1;
                              }).options.temperature;
    for (const ParallelConfiguration& each : trace) {
      if (each.stage == "prefix") {
        EXPECT_EQ(each.options.temperature, 1);
        EXPECT_EQ(each.options.scale, 1);
      } else if (each.stage != "default") {
        EXPECT_EQ(each.prefix, prefix);
        EXPECT_EQ(each.stage == "temperature" ? each.options.scale : each.options.temperature,
                  each.stage == "temperature" ? 1 : temperature);
      }
    }
    for (const float value : options.temperatures) {
      EXPECT_TRUE(scored.contains({prefix, value, 1.0f}));
      EXPECT_TRUE(scored.contains({prefix, temperature, value}));
    }
    EXPECT_TRUE(scored.contains({prefix, 0.9f, 0.9f}));
    EXPECT_EQ(trace[found->usual].prefix, 1u);
    EXPECT_EQ(trace[found->usual].options.temperature, 0.9f);
    EXPECT_EQ(trace[found->usual].options.scale, 0.9f);

    const auto again = search_parallel_contexts(*make_engine(search_options()), prompts, prefixes, options);
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(equal(*found, *again));
    expect_no_pages(*engine);
  }
}

// Contexts are read once for each prefix: the other rows are prompts and answers.
TEST(ParallelSearch, ReadsContextsOnceForEachPrefix) {
  const std::vector<AnsweredPrompt> prompts = some_prompts(false);
  const auto engine = make_engine(search_options());
  const auto found = search_parallel_contexts(*engine, prompts, prefixes, {});
  ASSERT_TRUE(found.ok()) << found.status().message();
  // Three answers are read behind two or three heads: 6 tokens of the prompt each time, and those of the head.
  int64_t answers = 0;
  for (const AnsweredPrompt& prompt : prompts) {
    std::set<std::vector<int32_t>> heads;
    for (const auto& answer : prompt.answers) heads.emplace(answer.begin(), answer.end() - 1);
    for (const auto& head : heads) answers += std::ssize(prompt.parts.prompt) + std::ssize(head);
  }
  int64_t most = answers * std::ssize(found->trace);
  for (const auto& prefix : prefixes) most += std::ssize(prompts) * (40 + 25 + 2 * std::ssize(prefix));
  EXPECT_LE(engine->statistics().prompt_rows, most);
}

TEST(ParallelSearch, WhatIsWrongIsSaid) {
  const auto engine = make_engine(search_options());
  std::vector<AnsweredPrompt> prompts = some_prompts(false);
  const auto refusal = [&](const ParallelSearchOptions& options, std::span<const std::vector<int32_t>> asked = prefixes) {
    const auto found = search_parallel_contexts(*engine, prompts, asked, options);
    return found.ok() ? "" : found.status().message();
  };
  EXPECT_EQ(refusal({.temperatures = {}}), "the list of temperatures is empty: expected one or more");
  EXPECT_EQ(refusal({.scales = {}}), "the list of scales is empty: expected one or more");
  EXPECT_EQ(refusal({}, {}), "the list of prefixes is empty: expected one or more");
  EXPECT_EQ(refusal({.temperatures = {0}}), "the temperature of parallel contexts is 0, expected a number above 0");
  EXPECT_EQ(refusal({.usual_prefix = 3}), "the usual prefix is 3, expected 0 to 2");
  prompts[2].answers.clear();
  EXPECT_EQ(refusal({}), "prompt 3: the list of answers is empty: expected one or more");
  prompts.clear();
  EXPECT_EQ(refusal({}), "the list of prompts is empty: expected one or more");
}

TEST(ParallelSearch, DrawsTheSameForOneSeed) {
  EXPECT_EQ(draw_some(100, 10, 7), draw_some(100, 10, 7));
  EXPECT_NE(draw_some(100, 10, 7), draw_some(100, 10, 8));
  const std::vector<size_t> drawn = draw_some(100, 10, 7);
  EXPECT_EQ(drawn.size(), 10u);
  EXPECT_EQ(std::set<size_t>(drawn.begin(), drawn.end()).size(), 10u);
  EXPECT_LT(drawn.back(), 100u);
  EXPECT_EQ(draw_some(3, 10, 7), (std::vector<size_t>{0, 1, 2}));
  EXPECT_TRUE(draw_some(0, 10, 7).empty());
}

}  // namespace
}  // namespace onset
