// Texts that begin as earlier ones did: the same answers, fewer rows, and the pool's books.
#include <gtest/gtest.h>

#include <random>

#include "onset/engine/engine.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

std::vector<int32_t> joined(std::vector<int32_t> first, const std::vector<int32_t>& then) {
  first.insert(first.end(), then.begin(), then.end());
  return first;
}

// Tokens with their log-probabilities: equal only where all logits are.
std::vector<std::pair<int32_t, float>> answer_of(Engine& engine, Request request, int32_t* cached = nullptr) {
  std::vector<std::pair<int32_t, float>> answer;
  request.sampling.logprobs = true;
  request.ignore_end = true;
  const auto id = engine.submit(std::move(request), [&](const Event& event) {
    if (event.token) answer.emplace_back(event.token->token, event.token->logprob);
    if (cached != nullptr) *cached = event.cached_tokens;
  });
  EXPECT_TRUE(id.ok()) << id.status().message();
  run_all(engine);
  return answer;
}

EngineOptions one_thread(const std::filesystem::path& model, bool prefix_cache) {
  EngineOptions options = test_options(model);
  options.threads = 1;
  options.prefix_cache = prefix_cache;
  return options;
}

TEST(Prefix, ASecondTurnReadsOnlyItsNewTokens) {
  const auto fresh = make_engine(one_thread(stories_model(), false));
  const auto engine = make_engine(one_thread(stories_model(), true));
  const std::vector<int32_t> question = random_tokens(150, 1);
  int32_t cached = -1;
  const auto first = answer_of(*engine, {.tokens = question, .most_new_tokens = 20}, &cached);
  EXPECT_EQ(cached, 0);
  EXPECT_EQ(first, answer_of(*fresh, {.tokens = question, .most_new_tokens = 20}));

  std::vector<int32_t> history = question;
  for (const auto& [token, logprob] : first) history.push_back(token);
  const std::vector<int32_t> second = joined(history, random_tokens(30, 2));
  const int64_t rows = engine->statistics().prompt_rows;
  const auto answer = answer_of(*engine, {.tokens = second, .most_new_tokens = 20}, &cached);
  EXPECT_EQ(answer, answer_of(*fresh, {.tokens = second, .most_new_tokens = 20}));
  // The first answer's last token was given out, but never read.
  EXPECT_EQ(cached, 150 + 19);
  EXPECT_EQ(engine->statistics().prompt_rows - rows, 30 + 1);
  EXPECT_EQ(engine->statistics().cached_tokens, 150 + 19);
  EXPECT_EQ(engine->statistics().looked_up_tokens, 150 + 200);
  expect_no_pages(*engine);
}

TEST(Prefix, APromptThatIsKnownWholeStillGetsItsToken) {
  const auto engine = make_engine(one_thread(stories_model(), true));
  const std::vector<int32_t> prompt = random_tokens(128, 3);
  int32_t cached = 0;
  const auto first = answer_of(*engine, {.tokens = prompt, .most_new_tokens = 5}, &cached);
  EXPECT_EQ(answer_of(*engine, {.tokens = prompt, .most_new_tokens = 5}, &cached), first);
  EXPECT_EQ(cached, 127);
}

TEST(Prefix, SpacesDoNotShareAndWhatIsNotPlainIsNotKept) {
  const auto engine = make_engine(one_thread(stories_model(), true));
  const std::vector<int32_t> prompt = random_tokens(200, 4);
  int32_t cached = -1;
  const auto ask = [&](Request request) {
    request.tokens = prompt;
    request.most_new_tokens = 1;
    answer_of(*engine, std::move(request), &cached);
    return cached;
  };
  Request windowed;
  windowed.attend = std::make_unique<WindowAttend>(32, 4);
  EXPECT_EQ(ask(std::move(windowed)), 0);
  EXPECT_EQ(ask({.prefix_cache = false}), 0);
  EXPECT_EQ(ask({.space = "a"}), 0);
  EXPECT_EQ(ask({.space = "b"}), 0);
  EXPECT_EQ(ask({.space = "a"}), 199);
  EXPECT_EQ(ask({.space = "a", .prefix_cache = false}), 0);
  windowed = {.space = "a"};
  windowed.attend = std::make_unique<WindowAttend>(32, 4);
  EXPECT_EQ(ask(std::move(windowed)), 0);
  EXPECT_EQ(ask({}), 0);
}

// A layer with a window shares the keys that its window still reaches.
TEST(Prefix, ModelsWithWindowsGoOnWhereATextEnded) {
  for (const char* model : {"gemma3", "mistral"}) {
    const auto fresh = make_engine(one_thread(fixture_model(model), false));
    const auto engine = make_engine(one_thread(fixture_model(model), true));
    const auto vocabulary = static_cast<uint32_t>(fresh->model().config().vocabulary);
    std::vector<int32_t> prompt = random_tokens(230, 5);
    for (int32_t& token : prompt) token %= static_cast<int32_t>(vocabulary);
    const auto first = answer_of(*engine, {.tokens = prompt, .most_new_tokens = 4});
    for (const auto& [token, logprob] : first) prompt.push_back(token);
    prompt.push_back(7);
    int32_t cached = 0;
    const auto second = answer_of(*engine, {.tokens = prompt, .most_new_tokens = 4}, &cached);
    EXPECT_EQ(cached, 230 + 3) << model;
    EXPECT_EQ(second, answer_of(*fresh, {.tokens = prompt, .most_new_tokens = 4})) << model;
    expect_no_pages(*engine);
  }
}

// Many texts of a common stem at once, in a pool that holds them only if they share it: all run, and answer as alone.
TEST(Prefix, RequestsThatShareAStemFitWhereTheirSumWouldNot) {
  const std::vector<int32_t> stem = random_tokens(256, 6);
  EngineOptions options = one_thread(stories_model(), true);
  options.pool_tokens = 512;
  const auto engine = make_engine(std::move(options));
  answer_of(*engine, {.tokens = stem, .most_new_tokens = 1});
  const auto fresh = make_engine(one_thread(stories_model(), false));
  std::vector<Told> told(3);
  int32_t most_running = 0;
  engine->set_step_hook([&](const StepReport& report) { most_running = std::max(most_running, report.running); });
  for (int i = 0; i < 3; ++i) {
    Request request{.tokens = joined(stem, random_tokens(20, 10 + i)), .most_new_tokens = 30, .ignore_end = true};
    ASSERT_TRUE(engine->submit(std::move(request), listen(told[i])).ok());
  }
  run_all(*engine);
  EXPECT_EQ(most_running, 3);  // 3 x 306 tokens, 2 x 256 of them the stem's
  EXPECT_EQ(engine->statistics().preempted_to_recompute, 0);
  for (int i = 0; i < 3; ++i) {
    const Told alone = answer(*fresh, {.tokens = joined(stem, random_tokens(20, 10 + i)), .most_new_tokens = 30, .ignore_end = true});
    EXPECT_EQ(told[i].tokens, alone.tokens);
    EXPECT_EQ(told[i].last.cached_tokens, 256);
  }
  expect_no_pages(*engine);
}

// 300 requests of texts that begin alike, in pools that are too small for them, under every policy: the answers of an engine that shares
// nothing.
TEST(Prefix, ARandomWorkloadAnswersAsWithoutSharing) {
  const auto request_number = [](int i) {
    std::mt19937 random(static_cast<uint32_t>(i) * 7919 + 1);
    std::vector<int32_t> tokens;
    for (int part = 0; part < 3; ++part) {
      const uint32_t which = random() % 4;
      tokens = joined(std::move(tokens), random_tokens(5 + 45 * static_cast<int32_t>(which), 100 + which));
    }
    tokens.resize(std::min<size_t>(tokens.size(), 1 + random() % 300));
    return Request{.tokens = std::move(tokens), .most_new_tokens = static_cast<int32_t>(random() % 40), .ignore_end = true};
  };
  constexpr int requests = 300;
  std::vector<std::vector<int32_t>> expected;
  const auto fresh = make_engine(one_thread(stories_model(), false));
  for (int i = 0; i < requests; ++i) expected.push_back(answer(*fresh, request_number(i)).tokens);
  for (const std::string& policy : schedule_policy_names()) {
    for (const PreemptionKind kind : {PreemptionKind::recompute, PreemptionKind::swap}) {
      EngineOptions options = one_thread(stories_model(), true);
      options.policy = policy;
      options.scheduling = {.token_budget = 48, .watermark = 0, .preemption = kind};
      options.pool_tokens = 448;
      const auto engine = make_engine(std::move(options));
      std::vector<Told> told(requests);
      for (int i = 0; i < requests; ++i) {
        Request request = request_number(i);
        if (i % 3 == 0) request.space.push_back('a');
        ASSERT_TRUE(engine->submit(std::move(request), listen(told[i])).ok());
        if (i % 4 != 3) continue;
        for (int step = 0; step < 5; ++step) {
          const Status status = engine->step();
          ASSERT_TRUE(status.ok()) << policy << ": " << status.message();
        }
        if (i % 16 == 15) engine->cancel(i - 4);
      }
      run_all(*engine);
      int equal = 0;
      for (int i = 0; i < requests; ++i) {
        ASSERT_EQ(told[i].ends, 1);
        if (told[i].last.finish == Finish::cancelled) continue;
        EXPECT_EQ(told[i].tokens, expected[i]) << policy << " " << i;
        ++equal;
      }
      EXPECT_GT(equal, requests * 8 / 10);
      EXPECT_GT(engine->statistics().cached_tokens, 1000) << policy;
      expect_no_pages(*engine);
    }
  }
}

}  // namespace
}  // namespace onset
