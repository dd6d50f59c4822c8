#include "onset/engine/answer_scores.h"

#include "onset/engine/scoring.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

EngineOptions reference_options() {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  options.pool_tokens = 4096;
  return options;
}

// One after the other: what score_tokens says of the whole text.
TEST(AnswerScores, AreThoseOfTheWholeText) {
  const auto engine = make_engine(reference_options());
  const AnsweredPrompt prompt{
      .parts = {.prefix = random_tokens(5, 1), .contexts = {random_tokens(90, 2), random_tokens(60, 3)}, .prompt = random_tokens(9, 4)},
      .answers = {{7, 8, 9}, {7, 8, 10}, {11}}};
  const auto score = score_answers(*engine, prompt, {});
  ASSERT_TRUE(score.ok()) << score.status().message();
  ASSERT_EQ(score->answers.size(), 3u);
  double best = -1e9;
  for (size_t i = 0; i < prompt.answers.size(); ++i) {
    std::vector<int32_t> all = prompt.parts.prefix;
    for (const auto& context : prompt.parts.contexts) all.insert(all.end(), context.begin(), context.end());
    all.insert(all.end(), prompt.parts.prompt.begin(), prompt.parts.prompt.end());
    const size_t begin = all.size();
    all.insert(all.end(), prompt.answers[i].begin(), prompt.answers[i].end());
    const auto whole = score_tokens(*engine, all, 0);
    ASSERT_TRUE(whole.ok());
    double sum = 0;
    for (size_t token = begin; token < all.size(); ++token) sum += whole->logprob[token];
    EXPECT_NEAR(score->answers[i], sum, 1e-3) << i;
    best = std::max(best, sum / static_cast<double>(prompt.answers[i].size()));
  }
  EXPECT_NEAR(score->logprob, best, 1e-3);
  EXPECT_FALSE(score->right) << "there are no labels";

  // Every way reads the same prompt; blending with everything computed again is reading one after the other, too.
  const auto blended = score_answers(*engine, prompt, CacheBlendOptions{.ratio = 1});
  ASSERT_TRUE(blended.ok()) << blended.status().message();
  EXPECT_NEAR(blended->answers[0], score->answers[0], 1e-3);
  for (const ContextReuse& way : {ContextReuse(parallel_contexts_step("pcw")), ContextReuse(ParallelContextsOptions())}) {
    const auto other = score_answers(*engine, prompt, way);
    ASSERT_TRUE(other.ok()) << other.status().message();
    EXPECT_LT(other->answers[0], 0);
    EXPECT_GT(std::abs(other->answers[0] - score->answers[0]), 1e-4);
  }
  expect_no_pages(*engine);
}

TEST(AnswerScores, TheRightLabelIsTheLikeliest) {
  const auto engine = make_engine(reference_options());
  AnsweredPrompt prompt{.parts = {.prefix = {}, .contexts = {random_tokens(30, 2)}, .prompt = random_tokens(9, 4)},
                        .answers = {{7}, {8, 5}, {9}},
                        .label = 0};
  int right = 0;
  for (size_t label = 0; label < 3; ++label) {
    prompt.label = label;
    const auto score = score_answers(*engine, prompt, ParallelContextsOptions());
    ASSERT_TRUE(score.ok()) << score.status().message();
    EXPECT_EQ(score->logprob, score->answers[label] / static_cast<double>(prompt.answers[label].size()));
    right += static_cast<int>(score->right);
  }
  EXPECT_EQ(right, 1);
}

TEST(AnswerScores, WhatIsWrongIsSaid) {
  const auto engine = make_engine(reference_options());
  AnsweredPrompt prompt{.parts = {.prefix = {}, .contexts = {{5}}, .prompt = {6}}, .answers = {}};
  const auto refusal = [&] {
    const auto score = score_answers(*engine, prompt, {});
    return score.ok() ? "" : score.status().message();
  };
  EXPECT_EQ(refusal(), "the list of answers is empty: expected one or more");
  prompt.answers = {{7}, {}};
  EXPECT_EQ(refusal(), "answer 2 is empty: expected one token or more");
  prompt.answers = {{7}, {8}};
  prompt.label = 2;
  EXPECT_EQ(refusal(), "the right label is 2, expected 0 to 1");
  prompt.label = 1;
  EXPECT_EQ(refusal(), "");
  // One that cannot be read leaves nothing behind.
  prompt.answers = {{7}, std::vector<int32_t>(600, 8)};
  EXPECT_NE(refusal(), "");
  EXPECT_FALSE(engine->has_work());
  expect_no_pages(*engine);
}

}  // namespace
}  // namespace onset
