// LServe (arXiv:2502.14866) in the engine: its limits, its company, and what may be shared.
#include <gtest/gtest.h>

#include <fstream>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

// A table of the story model's 5 layers and 4 KV heads, half of which stream.
std::string table_file() {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "lserve_streaming.tsv";
  std::ofstream file(path);
  for (int layer = 0; layer < 5; ++layer) file << (layer % 2 == 0 ? "0\t1\t0\t1\n" : "0\t0\t1\t1\n");
  return path.string();
}

std::shared_ptr<const AttendSpec> spec_of(const std::string& text) {
  auto spec = parse_attend(text, AttendFiles::read);
  EXPECT_TRUE(spec.ok()) << spec.status().message();
  return *spec;
}

Request request_of(const std::string& spec, int32_t prompt = 300, int32_t answer = 40, uint32_t seed = 1, bool prefix_cache = false) {
  Request request{.tokens = random_tokens(prompt, seed), .most_new_tokens = answer, .ignore_end = true, .prefix_cache = prefix_cache};
  request.sampling.top_logprobs = 20;
  request.sampling.logprobs = true;
  if (!spec.empty()) request.attend_spec = spec_of(spec);
  return request;
}

// Every token with the logarithms of its and its neighbours' probabilities.
struct Answer {
  std::vector<SampledToken> tokens;
  Event last;
};
Answer answer_of(Engine& engine, Request request) {
  Answer answer;
  EXPECT_TRUE(engine
                  .submit(std::move(request),
                          [&](const Event& event) {
                            if (event.token) answer.tokens.push_back(*event.token);
                            answer.last = event;
                          })
                  .ok());
  run_all(engine);
  return answer;
}
void expect_same(const Answer& a, const Answer& b, const std::string& what) {
  ASSERT_EQ(a.tokens.size(), b.tokens.size()) << what;
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    ASSERT_EQ(a.tokens[i].token, b.tokens[i].token) << what << " " << i;
    ASSERT_EQ(a.tokens[i].logprob, b.tokens[i].logprob) << what << " " << i;
    ASSERT_EQ(a.tokens[i].alternatives, b.tokens[i].alternatives) << what << " " << i;
  }
}

// Check 1.
TEST(LServeEngine, AtItsLimitsIsDenseBitForBit) {
  for (const KvType type : {KvType::f32, KvType::f16, KvType::bf16, KvType::int8}) {
    EngineOptions options = test_options();
    options.kv_type = type;
    const auto engine = make_engine(std::move(options));
    const Answer dense = answer_of(*engine, request_of(""));
    for (const char* spec : {"lserve:sparsity=0:budget=384", "lserve:sparsity=1:prefill=384:local=384", "lserve:sparsity=1:sink=384"}) {
      const Answer sparse = answer_of(*engine, request_of(spec));
      expect_same(sparse, dense, fmt::format("{} {}", kv_type_name(type), spec));
      EXPECT_EQ(sparse.last.attend->counts.visited, sparse.last.attend->counts.dense) << spec;
    }
    const Answer sparse = answer_of(*engine, request_of("lserve:sparsity=0:budget=64"));
    EXPECT_LT(sparse.last.attend->counts.visited, sparse.last.attend->counts.dense);
  }
}

// Check 11: requests of several lengths, in one batch and with any budget of tokens, are what they are alone.
TEST(LServeEngine, TheSameTokensAloneOrInABusyBatch) {
  const std::string spec = "lserve:" + table_file() + ":sink=64:prefill=128:local=64:budget=128";
  const std::vector<int32_t> lengths = {40, 130, 220, 300, 391};
  std::vector<std::vector<int32_t>> expected;
  const auto alone = make_engine(test_options());
  for (const int32_t length : lengths) expected.push_back(answer(*alone, request_of(spec, length, 60, 1 + length)).tokens);
  for (const int32_t budget : {1024, 64, 7}) {
    EngineOptions options = test_options();
    options.scheduling.token_budget = budget;
    options.pool_tokens = 4096;
    const auto engine = make_engine(std::move(options));
    std::vector<Told> told(lengths.size());
    for (size_t i = 0; i < lengths.size(); ++i) {
      ASSERT_TRUE(engine->submit(request_of(spec, lengths[i], 60, 1 + lengths[i]), listen(told[i])).ok());
    }
    run_all(*engine);
    for (size_t i = 0; i < lengths.size(); ++i) EXPECT_EQ(told[i].tokens, expected[i]) << budget << " " << lengths[i];
  }
}

// An answer that begins again after its pages were taken away chooses the same pages.
TEST(LServeEngine, AnswersGoOnAfterTheirPagesWereTaken) {
  const std::string spec = "lserve:" + table_file() + ":sink=64:prefill=64:local=64:budget=64";
  const auto ask = [&](Engine& engine, bool prefix_cache) {
    std::vector<Told> told(4);
    for (size_t i = 0; i < told.size(); ++i) {
      EXPECT_TRUE(engine.submit(request_of(spec, 150, 150, static_cast<uint32_t>(i) + 1, prefix_cache), listen(told[i])).ok());
    }
    run_all(engine);
    return told;
  };
  EngineOptions roomy = test_options();
  roomy.pool_tokens = 4096;
  const std::vector<Told> expected = ask(*make_engine(std::move(roomy)), false);
  for (const bool prefix_cache : {false, true}) {
    EngineOptions tight = test_options();
    tight.pool_tokens = 640;
    tight.scheduling.token_budget = 64;
    const auto engine = make_engine(std::move(tight));
    const std::vector<Told> told = ask(*engine, prefix_cache);
    for (size_t i = 0; i < told.size(); ++i) EXPECT_EQ(told[i].tokens, expected[i].tokens) << i;
    EXPECT_GT(engine->statistics().preempted_to_recompute, 0);
    EXPECT_TRUE(engine->audit().ok()) << engine->audit().message();
  }
}

// Prompts that begin alike share their pages, whose bounds are made from what lies there; answers are nobody else's.
TEST(LServeEngine, PromptsAreSharedAndAnswersAreNot) {
  const std::string spec = "lserve:" + table_file() + ":sink=64:prefill=128:local=64:budget=64";
  EngineOptions options = test_options();
  options.pool_tokens = 4096;
  const auto engine = make_engine(std::move(options));
  const Told first = answer(*engine, request_of(spec, 300, 60, 1, true));
  EXPECT_EQ(first.last.cached_tokens, 0);
  const Told again = answer(*engine, request_of(spec, 300, 60, 1, true));
  EXPECT_EQ(again.last.cached_tokens, 299);
  EXPECT_EQ(again.tokens, first.tokens);
  // The next prompt has the answer in it.
  Request longer = request_of(spec, 300, 20, 1, true);
  longer.tokens.insert(longer.tokens.end(), first.tokens.begin(), first.tokens.end());
  Request fresh = request_of(spec, 300, 20, 1, false);
  fresh.tokens = longer.tokens;
  const Told told = answer(*engine, std::move(longer));
  EXPECT_EQ(told.last.cached_tokens, 300);
  EXPECT_EQ(told.tokens, answer(*make_engine(test_options()), std::move(fresh)).tokens);
}

}  // namespace
}  // namespace onset
