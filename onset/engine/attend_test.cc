// Attend policies by name: what they compute does not depend on who else is there, and is shared with nobody who asked for something else.
#include <gtest/gtest.h>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

std::shared_ptr<const AttendSpec> spec_of(const char* text) {
  auto spec = parse_attend(text);
  EXPECT_TRUE(spec.ok()) << spec.status().message();
  return *spec;
}

Request request_of(const char* spec, bool prefix_cache = true) {
  Request request{.tokens = random_tokens(300, 1), .most_new_tokens = 12, .ignore_end = true, .prefix_cache = prefix_cache};
  if (spec != nullptr) request.attend_spec = spec_of(spec);
  return request;
}

TEST(NamedAttend, AnswersAreTheSameInAnyChunksAndCompany) {
  for (const char* spec : {"window:40:4", "longgen:1:sink=64:window=64", "longgen:1:stride=128:window=64:step=64",
                           "minference:every=64:from=64:vertical=20:slash=8", "lserve:sparsity=1:sink=64:prefill=128:local=64",
                           "lserve:sparsity=0:budget=64"}) {
    std::vector<int32_t> expected;
    AttendCounts counts;
    for (const int32_t budget : {1024, 1, 37}) {
      EngineOptions options = test_options();
      options.scheduling.token_budget = budget;
      const auto engine = make_engine(std::move(options));
      Told alone = answer(*engine, request_of(spec, false));
      if (expected.empty()) {
        expected = alone.tokens;
        counts = alone.last.attend->counts;
      }
      EXPECT_EQ(alone.tokens, expected) << spec << " " << budget;
      ASSERT_NE(alone.last.attend, nullptr);
      EXPECT_EQ(alone.last.attend->name, spec);
      EXPECT_EQ(alone.last.attend->counts.visited, counts.visited) << spec << " " << budget;
      EXPECT_LT(counts.visited, counts.dense);

      Told one, two, dense;
      ASSERT_TRUE(engine->submit(request_of(nullptr, false), listen(dense)).ok());
      ASSERT_TRUE(engine->submit(request_of(spec, false), listen(one)).ok());
      ASSERT_TRUE(engine->submit(request_of(spec, false), listen(two)).ok());
      run_all(*engine);
      EXPECT_EQ(one.tokens, expected) << spec << " " << budget;
      EXPECT_EQ(two.tokens, expected) << spec << " " << budget;
      EXPECT_EQ(dense.last.attend, nullptr);
    }
  }
}

TEST(NamedAttend, EveryLayerFullIsDense) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> dense = answer(*engine, request_of(nullptr, false)).tokens;
  for (const char* spec :
       {"dense", "longgen:5", "longgen:0:sink=0:window=320", "window:1000", "minference:every=64:from=0:vertical=300:slash=300"}) {
    const Told told = answer(*engine, request_of(spec, false));
    EXPECT_EQ(told.tokens, dense) << spec;
    EXPECT_EQ(told.last.attend->counts.visited, told.last.attend->counts.dense) << spec;
  }
}

TEST(NamedAttend, PagesAreSharedAmongRequestsOfOneSpecAlone) {
  EngineOptions options = test_options();
  options.pool_tokens = 4096;  // nothing has to go
  const auto engine = make_engine(std::move(options));
  EXPECT_EQ(answer(*engine, request_of(nullptr)).last.cached_tokens, 0);
  const Told first = answer(*engine, request_of("window:40:4"));
  EXPECT_EQ(first.last.cached_tokens, 0);
  EXPECT_EQ(answer(*engine, request_of("window:41:4")).last.cached_tokens, 0);
  const Told again = answer(*engine, request_of("window:40:4"));
  EXPECT_EQ(again.last.cached_tokens, 299);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(answer(*engine, request_of(nullptr)).last.cached_tokens, 299);
  EXPECT_TRUE(engine->audit().ok()) << engine->audit().message();
}

TEST(NamedAttend, TheEnginesOwnGoesForRequestsThatNameNone) {
  EngineOptions options = test_options();
  options.attend = "window:40:4";
  const auto engine = make_engine(std::move(options));
  EXPECT_EQ(answer(*engine, request_of(nullptr)).last.attend->name, "window:40:4");
  EXPECT_EQ(answer(*engine, request_of("dense")).last.attend->name, "dense");
  options = test_options();
  options.attend = "window";
  EXPECT_EQ(Engine::create(std::move(options)).status().code(), Code::invalid_argument);
}

TEST(NamedAttend, RefusesWhatItDoesNotGoWith) {
  const auto engine = make_engine(test_options());
  Request request = request_of("window:40:4");
  request.contexts = Contexts{.prefix = {1}, .texts = {random_tokens(20, 2)}};
  EXPECT_EQ(engine->submit(std::move(request), {}).status().code(), Code::unsupported);
  request = request_of("window:40:4");
  request.session = engine->open_session();
  EXPECT_EQ(engine->submit(std::move(request), {}).status().code(), Code::unsupported);
  EXPECT_EQ(engine->submit(request_of("longgen:6"), {}).status().code(), Code::invalid_argument);
}

TEST(Layers, RingsShareTheirPrefixesAndGiveAllPagesBack) {
  EngineOptions options = test_options();
  options.layers = "longgen:1:sink=64:window=64";
  const auto engine = make_engine(std::move(options));
  const Told first = answer(*engine, request_of(nullptr));
  EXPECT_EQ(answer(*engine, request_of(nullptr)).tokens, first.tokens);
  EXPECT_EQ(answer(*engine, request_of(nullptr, false)).tokens, first.tokens);
  EXPECT_TRUE(engine->audit().ok()) << engine->audit().message();
  expect_no_pages(*engine);
  EXPECT_EQ(engine->submit(request_of("window:40"), {}).status().code(), Code::unsupported);
}

TEST(RopeScaling, TheContextGrows) {
  const int32_t context = make_engine(test_options())->context();
  EngineOptions options = test_options();
  options.rope_scaling = "ntk:4";
  const auto engine = make_engine(std::move(options));
  EXPECT_EQ(engine->context(), 4 * context);
  EXPECT_EQ(answer(*engine, {.tokens = random_tokens(context + 50, 3), .most_new_tokens = 3, .ignore_end = true}).tokens.size(), 3u);
}

// Rows that run together are found together: of what two prompts share, whole blocks.
TEST(NamedAttend, BlocksThatRunTogetherAreSharedAsAWhole) {
  const char* spec = "minference:every=128:from=128:vertical=20:slash=8";
  const auto ask = [&](Engine& engine, int32_t length, int32_t other) {
    Request request = request_of(spec);
    request.tokens = random_tokens(length, 1);
    if (other > 0) request.tokens[length - 1] = other;
    return answer(engine, std::move(request));
  };
  EngineOptions options = test_options();
  options.pool_tokens = 4096;
  options.scheduling.token_budget = 50;
  const auto engine = make_engine(std::move(options));
  const auto fresh = [&](int32_t length, int32_t other) {
    const auto alone = make_engine(test_options());
    return ask(*alone, length, other).tokens;
  };
  // 200 tokens: one whole block; what lies behind it, and the answer, is nobody else's.
  EXPECT_EQ(ask(*engine, 200, 0).last.cached_tokens, 0);
  const Told longer = ask(*engine, 300, 0);
  EXPECT_EQ(longer.last.cached_tokens, 128);
  EXPECT_EQ(longer.tokens, fresh(300, 0));
  const Told again = ask(*engine, 300, 7);
  EXPECT_EQ(again.last.cached_tokens, 256);
  EXPECT_EQ(again.tokens, fresh(300, 7));
  // The last token has to run, and its block with it.
  const Told whole = ask(*engine, 256, 0);
  EXPECT_EQ(whole.last.cached_tokens, 128);
  EXPECT_EQ(whole.tokens, fresh(256, 0));
}

// A request whose pages were taken away reads its prompt again in the same blocks, and its answer's tokens as an answer.
TEST(NamedAttend, BlocksComeBackAfterTheirPagesWereTaken) {
  const char* spec = "minference:every=64:from=64:vertical=20:slash=8";
  const auto requests = [&](Engine& engine) {
    std::vector<Told> told(4);
    for (size_t i = 0; i < told.size(); ++i) {
      Request request = request_of(spec, false);
      request.tokens = random_tokens(150, static_cast<uint32_t>(i) + 1);
      request.most_new_tokens = 150;
      EXPECT_TRUE(engine.submit(std::move(request), listen(told[i])).ok());
    }
    run_all(engine);
    return told;
  };
  EngineOptions roomy = test_options();
  roomy.pool_tokens = 4096;
  const auto easy = make_engine(std::move(roomy));
  EngineOptions tight = test_options();
  tight.pool_tokens = 640;
  tight.scheduling.token_budget = 64;
  const auto hard = make_engine(std::move(tight));
  const std::vector<Told> expected = requests(*easy), told = requests(*hard);
  for (size_t i = 0; i < told.size(); ++i) EXPECT_EQ(told[i].tokens, expected[i].tokens) << i;
  EXPECT_GT(hard->statistics().preempted_to_recompute, 0);
}

}  // namespace
}  // namespace onset
