// Scores of answers to long prompts: what they are made of, and that a policy is asked as it would be in an answer.
#include "onset/engine/long_scores.h"

#include <gtest/gtest.h>

#include <numeric>

#include "onset/engine/scoring.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

LongWay way_of(const char* attend, const char* select) {
  LongWay way{.name = "way"};
  if (attend != nullptr) way.attend = *parse_attend(attend);
  if (select != nullptr) way.select = *named_select(select);
  return way;
}

LongItem item_of(int32_t tokens) {
  LongItem item{.length = tokens, .most_new_tokens = 12};
  item.prompt = random_tokens(tokens, 9);
  return item;
}

// The likeliest tokens behind the prompt, and the log-probability of each.
std::pair<std::vector<int32_t>, std::vector<double>> likeliest(Engine& engine, const LongItem& item, const LongWay& way) {
  Request request{.tokens = item.prompt, .most_new_tokens = item.most_new_tokens, .ignore_end = true, .prefix_cache = false};
  request.sampling.logprobs = true;
  request.attend_spec = way.attend;
  request.select_spec = way.select;
  std::pair<std::vector<int32_t>, std::vector<double>> found;
  EXPECT_TRUE(run_to_end(engine, std::move(request), [&](const Event& event) {
                if (!event.token) return;
                found.first.push_back(event.token->token);
                found.second.push_back(event.token->logprob);
              }).ok());
  return found;
}

TEST(LongScores, LikelihoodsAreThoseOfTheAnswerBehindThePrompt) {
  const auto engine = make_engine(test_options());
  LongItem item = item_of(200);
  item.given = random_tokens(4, 1);
  item.answers = {random_tokens(6, 2), random_tokens(6, 3), random_tokens(6, 4)};
  const auto score = score_item(*engine, item, {.name = "dense"}, "a");
  ASSERT_TRUE(score.ok()) << score.status().message();
  std::vector<double> sums;
  for (const std::vector<int32_t>& answer : item.answers) {
    std::vector<int32_t> all = item.prompt;
    all.insert(all.end(), item.given.begin(), item.given.end());
    all.insert(all.end(), answer.begin(), answer.end());
    const auto scores = score_tokens(*engine, all, 0);
    ASSERT_TRUE(scores.ok());
    sums.push_back(std::accumulate(scores->logprob.end() - 6, scores->logprob.end(), 0.0));
  }
  EXPECT_NEAR(score->logprob, sums[0] / 6, 1e-4);
  EXPECT_EQ(score->first, sums[0] >= sums[1] && sums[0] >= sums[2]);
  // The likeliest of them, asked for as the right one, is first; the others are not.
  const size_t best = std::max_element(sums.begin(), sums.end()) - sums.begin();
  for (size_t i = 0; i < 3; ++i) {
    LongItem other = item;
    std::swap(other.answers[0], other.answers[i]);
    EXPECT_EQ(score_item(*engine, other, {.name = "dense"}, "b")->first, i == best);
    other.right = 3;  // of several right ones the likeliest counts
    EXPECT_NEAR(score_item(*engine, other, {.name = "dense"}, "c")->logprob, sums[best] / 6, 1e-4);
  }
}

// Given tokens run as an answer does: where they are those that the model says, the policy has made the same choices.
TEST(LongScores, GivenAnswersRunAsTheModelsOwn) {
  const auto engine = make_engine(test_options());
  for (const LongWay& way : {way_of(nullptr, nullptr), way_of("window:40:4", nullptr), way_of(nullptr, "lazyllm:1,3:0.5"),
                             way_of("minference:every=64:from=64:vertical=20:slash=8", nullptr)}) {
    LongItem item = item_of(300);
    const auto [tokens, logprobs] = likeliest(*engine, item, way);
    item.answers = {tokens};
    const auto score = score_item(*engine, item, way, "a");
    ASSERT_TRUE(score.ok()) << score.status().message();
    EXPECT_NEAR(score->logprob, std::accumulate(logprobs.begin(), logprobs.end(), 0.0) / static_cast<double>(logprobs.size()), 1e-5);
    EXPECT_TRUE(score->first);
    EXPECT_GT(score->bytes, 0);
    EXPECT_GT(score->first_token_seconds, 0);
    EXPECT_EQ(score->decoded_tokens, 11);
  }
}

TEST(LongScores, WhatIsLeftOutIsSaid) {
  const auto engine = make_engine(test_options());
  LongItem item = item_of(300);
  item.answers = {random_tokens(3, 1)};
  const LongScore dense = *score_item(*engine, item, way_of(nullptr, nullptr), "a");
  EXPECT_EQ(dense.skipped, 0);
  EXPECT_EQ(dense.rows, 1);
  const LongScore window = *score_item(*engine, item, way_of("window:40:4", nullptr), "b");
  EXPECT_GT(window.skipped, 0.5);
  const LongScore lazy = *score_item(*engine, item, way_of(nullptr, "lazyllm:1,3:0.5"), "c");
  EXPECT_NEAR(lazy.rows, (1 + 0.5 + 0.5 + 0.25 + 0.25) / 5, 1e-9);
  EXPECT_EQ(score_item(*engine, item, way_of("window:40:4", "lazyllm:1,3:0.5"), "d").status().code(), Code::invalid_argument);
}

TEST(LongScores, AnAnswerIsRightByWhatItContains) {
  const auto engine = make_engine(test_options());
  LongItem item = item_of(120);
  item.answers = {random_tokens(3, 1)};
  const std::string said = score_item(*engine, item, {.name = "dense"}, "a")->answer;
  ASSERT_GT(said.size(), 4u);
  std::string upper = said.substr(1, 3);
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  item.references = {upper, "nobody says this"};
  EXPECT_EQ(score_item(*engine, item, {.name = "dense"}, "b")->exact, 0.5);
  item.references = {"nobody says this"};
  EXPECT_EQ(score_item(*engine, item, {.name = "dense"}, "c")->exact, 0);
}

TEST(LongScores, AreSummedUp) {
  LongScore one, two;
  one.exact = 1;
  one.first = true;
  one.logprob = -1;
  one.decoded_tokens = 10;
  one.decode_seconds = 1;
  one.bytes = 5;
  two.logprob = -3;
  two.decoded_tokens = 20;
  two.decode_seconds = 4;
  two.bytes = 7;
  const LongSummary summary = summary_of(std::vector<LongScore>{one, two});
  EXPECT_EQ(summary.exact, 0.5);
  EXPECT_EQ(summary.first, 0.5);
  EXPECT_EQ(summary.logprob, -2);
  EXPECT_EQ(summary.decode_tokens_per_second, 6);
  EXPECT_EQ(summary.bytes, 7);
}

TEST(LongScores, StatisticsHaveTheirKnownValues) {
  const Interval half = wilson_interval(0.5, 10), all = wilson_interval(1, 20);
  EXPECT_NEAR(half.low, 0.2366, 1e-4);
  EXPECT_NEAR(half.high, 0.7634, 1e-4);
  EXPECT_NEAR(all.low, 0.8389, 1e-4);
  EXPECT_EQ(all.high, 1);
  EXPECT_NEAR(mcnemar(0, 5), 0.0625, 1e-9);
  EXPECT_NEAR(mcnemar(1, 9), 22.0 / 1024, 1e-9);
  EXPECT_EQ(mcnemar(3, 3), 1);
  EXPECT_EQ(mcnemar(0, 0), 1);
  EXPECT_FALSE(above_chance(0.25, 0.25, 100));
  EXPECT_FALSE(above_chance(0.37, 0.25, 100));
  EXPECT_TRUE(above_chance(0.38, 0.25, 100));
  EXPECT_FALSE(above_chance(0, 0, 100));
  EXPECT_TRUE(above_chance(0.01, 0, 100));
}

}  // namespace
}  // namespace onset
