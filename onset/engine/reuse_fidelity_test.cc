#include "onset/engine/reuse_fidelity.h"

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

TEST(ReuseFidelity, ReadingEverythingIsTheReference) {
  const auto engine = make_engine(test_options());
  const PromptParts parts{
      .prefix = random_tokens(5, 1), .contexts = {random_tokens(90, 2), random_tokens(60, 3)}, .prompt = random_tokens(9, 4)};
  const ContextReuse ways[] = {CacheBlendOptions{.ratio = 1}, CacheBlendOptions{.ratio = 0.5f}, CacheBlendOptions{.ratio = 0},
                               ParallelContextsOptions()};
  const auto measured = measure_reuse(*engine, parts, ways, 6);
  ASSERT_TRUE(measured.ok()) << measured.status().message();
  ASSERT_EQ(measured->size(), 4u);
  EXPECT_NEAR((*measured)[0].kl, 0, 1e-9);
  EXPECT_NEAR((*measured)[0].top1, 1, 1e-9);
  EXPECT_EQ((*measured)[0].logprob, (*measured)[0].reference_logprob);
  EXPECT_GT((*measured)[1].kl, 1e-6);
  EXPECT_GT((*measured)[2].kl, (*measured)[1].kl);
  EXPECT_GT((*measured)[3].kl, 1e-6);
  EXPECT_EQ((*measured)[3].reference_logprob, (*measured)[0].reference_logprob);
  EXPECT_FALSE(measure_reuse(*engine, parts, ways, 0).ok());
  expect_no_pages(*engine);
}

}  // namespace
}  // namespace onset
