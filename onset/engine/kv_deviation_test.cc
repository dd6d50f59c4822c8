#include "onset/engine/kv_deviation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

TEST(RankCorrelation, IsSpearmans) {
  const std::vector<float> a = {1, 2, 3, 4, 5};
  EXPECT_NEAR(rank_correlation(a, std::vector<float>{10, 20, 25, 30, 1000}), 1, 1e-12);
  EXPECT_NEAR(rank_correlation(a, std::vector<float>{5, 4, 3, 2, 1}), -1, 1e-12);
  // 1 - 6 * (1 + 1 + 1 + 1) / (5 * 24)
  EXPECT_NEAR(rank_correlation(a, std::vector<float>{2, 1, 4, 3, 5}), 0.8, 1e-12);
  // Ties share their mean rank: ranks 0.5, 0.5, 2 and 0, 1, 2.
  EXPECT_NEAR(rank_correlation(std::vector<float>{1, 1, 2}, std::vector<float>{3, 4, 5}), 0.8660254, 1e-6);
  EXPECT_EQ(rank_correlation(a, std::vector<float>(5, 7.0f)), 0);
}

TEST(KvDeviation, GrowsAboveTheFirstLayerAndGoesWhereAllIsComputed) {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  options.pool_tokens = 4096;
  options.scheduling.token_budget = 50;
  const auto engine = make_engine(std::move(options));
  const PromptParts parts{
      .prefix = random_tokens(5, 1), .contexts = {random_tokens(60, 2), random_tokens(90, 3)}, .prompt = random_tokens(20, 4)};
  const std::vector<float> ratios = {0, 0.5f, 1};
  const auto found = measure_kv_deviation(*engine, parts, CacheBlendMetric::keys_values, ratios);
  ASSERT_TRUE(found.ok()) << found.status().message();
  const int32_t layers = engine->model().config().layers;
  ASSERT_EQ(std::ssize(found->tokens), layers);
  for (int32_t layer = 0; layer < layers; ++layer) {
    const std::vector<float>& tokens = found->tokens[layer];
    ASSERT_EQ(tokens.size(), 150u);
    if (layer == 0) {
      EXPECT_LT(*std::max_element(tokens.begin(), tokens.end()), 1e-5f);
    } else {
      EXPECT_GT(*std::min_element(tokens.begin(), tokens.end()), 0);
    }
  }
  EXPECT_EQ(std::ssize(found->correlation), layers - 2);
  EXPECT_GT(found->median_correlation(), 0.5);
  ASSERT_EQ(found->attention.size(), 6u);
  EXPECT_GT(found->attention[0].mean(), 0);
  EXPECT_EQ(found->attention[0].mean(), found->attention[1].mean()) << "nothing is computed again either way";
  EXPECT_LT(found->attention[2].mean(), found->attention[0].mean());
  EXPECT_LT(found->attention[2].mean(), found->attention[3].mean()) << "the tokens that deviate most matter more than others";
  EXPECT_EQ(found->attention[4].mean(), 0);
}

}  // namespace
}  // namespace onset
