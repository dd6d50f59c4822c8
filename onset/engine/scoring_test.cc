#include "onset/engine/scoring.h"

#include <cmath>
#include <random>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

std::vector<int32_t> story_tokens(const Engine& engine, int32_t count) {
  std::vector<int32_t> tokens;
  while (static_cast<int32_t>(tokens.size()) < count) {
    const auto more = *engine.tokenizer()->encode("Once upon a time, there was a little girl named Lily. She loved to play outside. ",
                                                  {.add_special = false});
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  tokens.resize(count);
  return tokens;
}

// The definition, from the logits themselves.
TEST(Scoring, EqualsTheDefinition) {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  const auto engine = make_engine(std::move(options));
  const std::vector<int32_t> tokens = story_tokens(*engine, 40);
  std::vector<std::vector<float>> logits(40);
  Request request{.tokens = tokens, .most_new_tokens = 0, .on_logits = [&](int32_t position, std::span<const float> row) {
                    logits[position].assign(row.begin(), row.end());
                  }};
  ASSERT_TRUE(engine->submit(std::move(request), {}).ok());
  run_all(*engine);

  const Result<Scores> scores = score_tokens(*engine, tokens, 5);
  ASSERT_TRUE(scores.ok()) << scores.status().message();
  for (size_t i = 0; i < 40; ++i) {
    const std::vector<float>& row = logits[i];
    EXPECT_EQ(scores->argmax[i], std::max_element(row.begin(), row.end()) - row.begin());
    if (i + 1 == 40) break;
    double sum = 0;
    int32_t larger = 0;
    for (const float logit : row) {
      sum += std::exp(static_cast<double>(logit));
      larger += logit > row[tokens[i + 1]];
    }
    EXPECT_NEAR(scores->logprob[i + 1], row[tokens[i + 1]] - std::log(sum), 1e-6);
    EXPECT_EQ(scores->rank[i + 1], larger + 1);
  }
  EXPECT_EQ(scores->last_logits, logits[39]);
  ASSERT_EQ(scores->top.size(), 5u);
  EXPECT_EQ(scores->top[0].first, scores->argmax[39]);
  EXPECT_GE(scores->top[0].second, scores->top[1].second);
}

TEST(Scoring, PerplexityIsThatOfItsWindows) {
  const auto engine = make_engine(test_options());  // a tokenizer that begins texts with BOS
  const std::vector<int32_t> tokens = story_tokens(*engine, 100);
  const Result<Perplexity> measured = measure_perplexity(*engine, tokens, {.window = 32});
  ASSERT_TRUE(measured.ok());
  EXPECT_EQ(measured->windows, 3);
  EXPECT_EQ(measured->tokens_scored, 3 * 31);
  double sum = 0;
  for (int window = 0; window < 3; ++window) {
    std::vector<int32_t> here = {*engine->tokenizer()->bos()};
    here.insert(here.end(), tokens.begin() + 32 * window, tokens.begin() + 32 * window + 31);
    const Scores scores = *score_tokens(*engine, here, 0);
    for (size_t i = 1; i < here.size(); ++i) sum += scores.logprob[i];
  }
  EXPECT_NEAR(measured->nll, -sum / (3 * 31), 1e-9);
  EXPECT_NEAR(measured->perplexity, std::exp(measured->nll), 1e-9);
}

TEST(Scoring, DivergenceFromItselfIsNothingAndFromAnotherPrecisionSmall) {
  EngineOptions exact = test_options();
  exact.precision = Precision::reference;
  const auto reference = make_engine(std::move(exact));
  const auto fast = make_engine(test_options());
  const std::vector<int32_t> tokens = story_tokens(*fast, 400);
  int64_t last = 0;
  const PerplexityOptions options{.window = 150, .progress = [&](int64_t done, int64_t) { last = done; }};
  const Result<Divergence> none = measure_divergence(*fast, *fast, tokens, options);
  ASSERT_TRUE(none.ok()) << none.status().message();
  EXPECT_NEAR(none->kl_mean, 0, 1e-9);
  EXPECT_EQ(none->top1, 1);
  EXPECT_EQ(none->logprob_delta, 0);
  EXPECT_EQ(last, 2 * 150 - 1);

  const Result<Divergence> some = measure_divergence(*fast, *reference, tokens, options);
  ASSERT_TRUE(some.ok());
  EXPECT_GT(some->kl_mean, 0);
  EXPECT_LT(some->kl_mean, 0.02);
  EXPECT_GE(some->kl_99, some->kl_mean);
  EXPECT_GT(some->top1, 0.9);
  EXPECT_GT(some->logprob_delta, 0);
  // Both perplexities are those measured alone.
  EXPECT_NEAR(some->tested.perplexity, measure_perplexity(*fast, tokens, options)->perplexity, 1e-9);
  EXPECT_NEAR(some->reference.perplexity, measure_perplexity(*reference, tokens, options)->perplexity, 1e-9);
  expect_no_pages(*fast);
}

TEST(Scoring, BadWindowsSaySo) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> tokens(20, 5);
  EXPECT_EQ(measure_perplexity(*engine, tokens, {.window = 513}).status().message(), "the window is 513, expected 2 to 512 (the context)");
  EXPECT_EQ(measure_perplexity(*engine, tokens, {.window = 21}).status().message(), "the text has 20 tokens, a window needs 21");
  EXPECT_EQ(score_tokens(*engine, std::vector<int32_t>{}, 0).status().message(), "the prompt is empty: expected one token or more");
}

}  // namespace
}  // namespace onset
