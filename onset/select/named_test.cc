// Names of select policies, as options and requests write them.
#include "onset/select/named.h"

#include <gtest/gtest.h>

#include "onset/select/lazy.h"

namespace onset {
namespace {

std::string message_of(const std::string& text) {
  return named_select(text).status().message();
}

// What a name makes for a model of so many layers.
Result<std::unique_ptr<SelectPolicy>> made(const std::string& text, int32_t layers) {
  ONSET_ASSIGN(const auto spec, named_select(text));
  return spec->make({.layers = layers, .heads_per_group = 1, .head_size = 16, .windows = std::vector<int32_t>(layers, 0)});
}

TEST(NamedSelect, AllIsNoPolicy) {
  const auto policy = made("all", 30);
  ASSERT_TRUE(policy.ok());
  EXPECT_EQ(*policy, nullptr);
}

TEST(NamedSelect, PresetsFollowTheModelsLayers) {
  for (const char* name : {"lazyllm", "lazyllm:mild", "lazyllm:medium", "lazyllm:fast", "lazyllm:fast:revive=0:least=10:score=random",
                           "lazyllm:revive=3", "lazyllm:9,18,27:0.7", "lazyllm:9,18,27:0.7,0.5,0.3:least=0"}) {
    const auto policy = made(name, 30);
    ASSERT_TRUE(policy.ok()) << policy.status().message();
    EXPECT_TRUE((*policy)->whole_prompt());
    EXPECT_EQ((*policy)->report()->policy, name);
    EXPECT_EQ(dynamic_cast<LazySelect&>(**policy).stages(), 4);
  }
  EXPECT_TRUE(made("lazyllm:fast", 12).ok());
  EXPECT_TRUE(made("lazyllm", 5).ok());
  // Two layers round to the same layer twice.
  EXPECT_FALSE(made("lazyllm", 2).ok());
}

TEST(NamedSelect, EachRequestHasItsOwn) {
  const auto spec = named_select("lazyllm:1:0.5");
  ASSERT_TRUE(spec.ok());
  const CacheLayout layout{.layers = 3, .windows = {0, 0, 0}};
  const auto a = (*spec)->make(layout), b = (*spec)->make(layout);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(a->get(), b->get());
}

TEST(NamedSelect, SaysWhatItCannotRead) {
  EXPECT_EQ(message_of(""),
            "there is no select policy without a name, expected all, lazyllm or lazyllm:LAYERS:KEEP as in lazyllm:9,18,27:0.7");
  EXPECT_EQ(message_of("lazy:3"), "there is no select policy lazy, expected all, lazyllm or lazyllm:LAYERS:KEEP as in lazyllm:9,18,27:0.7");
  EXPECT_EQ(message_of("lazyllm:9,x:0.7"), "select policy lazyllm:9,x:0.7: x is not a layer, mild, medium or fast");
  EXPECT_EQ(message_of("lazyllm:9,,10:0.7"), "select policy lazyllm:9,,10:0.7: an empty part is not a layer, mild, medium or fast");
  EXPECT_EQ(message_of("lazyllm:9"),
            "select policy lazyllm:9: the shares to keep are missing, expected lazyllm:LAYERS:KEEP as in "
            "lazyllm:9,18,27:0.7");
  for (const char* share : {"0", "1.5", "-1", "nan", "inf", "1e999"}) {
    EXPECT_FALSE(named_select(std::string("lazyllm:9:") + share).ok()) << share;
  }
  EXPECT_EQ(message_of("lazyllm:9:0"), "select policy lazyllm:9:0: 0 is not a share of more than 0 and at most 1");
  EXPECT_EQ(message_of("lazyllm:9:0.5:revive=-1"),
            "select policy lazyllm:9:0.5:revive=-1: revive=-1 is not revive=N with a number of tokens");
  EXPECT_EQ(message_of("lazyllm:9:0.5:score=best"),
            "select policy lazyllm:9:0.5:score=best: score=best is not score=attention or score=random");
  EXPECT_EQ(message_of("lazyllm:mild:0.5"), "select policy lazyllm:mild:0.5: 0.5 is not an option (revive=N, least=N, score=random)");
  EXPECT_FALSE(made("lazyllm:30:0.5", 30).ok());
}

TEST(NamedSelect, LayersWithWindowsAreRefused) {
  const auto spec = named_select("lazyllm:1:0.5");
  EXPECT_EQ((*spec)->make({.layers = 3, .windows = {0, 64, 0}}).status().message(),
            "lazyllm needs layers that see everything, this model has layers with windows");
}

}  // namespace
}  // namespace onset
