#include "onset/engine/engine.h"

#include <cstring>
#include <mutex>
#include <random>

#include "onset/engine/scoring.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

// The greedy story of llama2.c's own program for this model and prompt (run -t 0.0 -i "Once upon a time").
constexpr const char* story =
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. She wanted "
    "to play with it, but it was too high.";

TEST(Engine, TellsTheStoryThatLlama2cTells) {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  const auto engine = make_engine(std::move(options));
  const Told told = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 100});
  EXPECT_EQ(told.text.substr(0, std::strlen(story)), story);
  EXPECT_EQ(told.last.finish, Finish::length);
  EXPECT_EQ(told.last.new_tokens, 100);
  EXPECT_EQ(told.tokens.size(), 100u);
  EXPECT_EQ(told.events, 100);  // the last token's event is the last one
  EXPECT_EQ(told.last.prompt_tokens, 5);
  EXPECT_GT(told.last.first_token_seconds, 0);
  expect_no_pages(*engine);
}

TEST(Engine, TextIdsAndVectorsAreTheSamePrompt) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> tokens = *engine->tokenizer()->encode("Once upon a time");
  std::vector<std::vector<float>> vectors;
  for (const int32_t token : tokens) {
    vectors.emplace_back(engine->model().config().hidden);
    engine->model().embed(token, vectors.back());
  }
  const Told by_text = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 20});
  const Told by_ids = answer(*engine, {.tokens = tokens, .most_new_tokens = 20});
  const Told by_vectors = answer(*engine, {.vectors = vectors, .most_new_tokens = 20});
  EXPECT_EQ(by_text.tokens, by_ids.tokens);
  EXPECT_EQ(by_text.tokens, by_vectors.tokens);
}

// --- the same results however the work is cut ------------------------------------------------------------------------

// Logits of prompt rows by position, as bits.
class KeptLogits {
 public:
  std::function<void(int32_t, std::span<const float>)> handler() {
    return [this](int32_t position, std::span<const float> logits) {
      const std::lock_guard lock(mutex_);
      rows_[position].assign(logits.begin(), logits.end());
    };
  }
  const std::map<int32_t, std::vector<float>>& rows() const { return rows_; }

 private:
  std::mutex mutex_;
  std::map<int32_t, std::vector<float>> rows_;
};

bool same_bits(const std::map<int32_t, std::vector<float>>& a, const std::map<int32_t, std::vector<float>>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [position, row] : a) {
    const auto other = b.find(position);
    if (other == b.end() || other->second.size() != row.size()) return false;
    if (std::memcmp(row.data(), other->second.data(), row.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

struct Outcome {
  std::map<int32_t, std::vector<float>> logits;
  std::vector<int32_t> tokens;
};

std::vector<int32_t> random_prompt(const Engine& engine, int32_t tokens, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> token(0, engine.model().config().vocabulary - 1);
  std::vector<int32_t> prompt(tokens);
  for (int32_t& value : prompt) value = token(random);
  return prompt;
}

// One chosen request alone or among others, in chunks of some size.
Outcome run_among(EngineOptions options, int companions, int32_t prompt_tokens, int32_t new_tokens) {
  options.pool_tokens = int64_t{companions + 1} * 512;
  const auto engine = make_engine(std::move(options));
  KeptLogits kept;
  Told told;
  std::vector<Told> others(companions);
  for (int i = 0; i < companions; ++i) {
    if (i == companions / 2) {
      EXPECT_TRUE(
          engine
              ->submit({.tokens = random_prompt(*engine, prompt_tokens, 1), .most_new_tokens = new_tokens, .on_logits = kept.handler()},
                       listen(told))
              .ok());
    }
    EXPECT_TRUE(engine
                    ->submit({.tokens = random_prompt(*engine, 3 + 5 * i, 100 + i),
                              .most_new_tokens = 4 + i,
                              .sampling = {.temperature = 0.8f, .seed = uint64_t(i)},
                              .ignore_end = true},
                             listen(others[i]))
                    .ok());
  }
  if (companions == 0) {
    EXPECT_TRUE(
        engine
            ->submit({.tokens = random_prompt(*engine, prompt_tokens, 1), .most_new_tokens = new_tokens, .on_logits = kept.handler()},
                     listen(told))
            .ok());
  }
  run_all(*engine);
  expect_no_pages(*engine);
  return {kept.rows(), told.tokens};
}

void expect_same_whatever_the_cut(const std::filesystem::path& model, const std::vector<KvType>& types, int32_t prompt, int companions) {
  for (const KvType type : types) {
    const auto options = [&](int32_t chunk, int32_t threads) {
      EngineOptions chosen = test_options(model);
      chosen.kv_type = type;
      chosen.scheduling.token_budget = chunk;
      chosen.threads = threads;
      return chosen;
    };
    const Outcome whole = run_among(options(1 << 12, 1), 0, prompt, 8);
    EXPECT_EQ(whole.logits.size(), static_cast<size_t>(prompt));
    for (const int32_t chunk : {1, 7, 64, 333, 1 << 12}) {
      for (const int32_t threads : {1, 2}) {
        for (const int among : {0, companions}) {
          if (chunk == 1 << 12 && threads == 1 && among == 0) continue;
          const Outcome cut = run_among(options(chunk, threads), among, prompt, 8);
          EXPECT_TRUE(same_bits(whole.logits, cut.logits))
              << kv_type_name(type) << " chunk " << chunk << " threads " << threads << " companions " << among;
          EXPECT_EQ(whole.tokens, cut.tokens);
        }
      }
    }
  }
}

TEST(EngineSame, StoriesWhateverChunksThreadsAndCompanions) {
  expect_same_whatever_the_cut(stories_model(), {KvType::f32, KvType::f16, KvType::bf16, KvType::int8}, 150, 7);
}

TEST(EngineSame, WindowsWhateverChunksThreadsAndCompanions) {
  expect_same_whatever_the_cut(fixture_model("gemma3"), {KvType::int8}, 200, 3);
}

TEST(EngineSame, ReferencePrecisionWhateverTheChunks) {
  std::map<int32_t, std::vector<float>> first;
  for (const int32_t chunk : {5, 100}) {
    EngineOptions options = test_options();
    options.precision = Precision::reference;
    options.scheduling.token_budget = chunk;
    const Outcome outcome = run_among(std::move(options), 2, 60, 4);
    if (first.empty()) first = outcome.logits;
    EXPECT_TRUE(same_bits(first, outcome.logits));
  }
}

TEST(EngineSame, LayerStagedPrefillEqualsWhole) {
  Outcome whole;
  for (const int32_t stage : {0, 1, 2, 3, 5}) {
    EngineOptions options = test_options();
    options.scheduling.token_budget = 48;
    options.scheduling.stage_layers = stage;
    Outcome outcome = run_among(std::move(options), 3, 130, 6);
    if (stage == 0) whole = outcome;
    EXPECT_TRUE(same_bits(whole.logits, outcome.logits)) << stage;
    EXPECT_EQ(whole.tokens, outcome.tokens) << stage;
  }
}

// --- pages --------------------------------------------------------------------------------------------------------

TEST(EnginePages, ARequestThatDoesNotFitNowWaits) {
  EngineOptions options = test_options();
  options.pool_tokens = 128;
  const auto engine = make_engine(std::move(options));
  std::vector<Told> told(5);
  int32_t most_at_once = 0;
  engine->set_step_hook([&](const StepReport& report) { most_at_once = std::max(most_at_once, report.running); });
  for (Told& each : told) {
    ASSERT_TRUE(engine->submit({.text = "Once upon a time", .most_new_tokens = 40}, listen(each)).ok());
  }
  run_all(*engine);
  EXPECT_EQ(most_at_once, 2);  // two pages of 64 tokens in each layer
  for (const Told& each : told) EXPECT_EQ(each.tokens, told[0].tokens);
  expect_no_pages(*engine);
}

TEST(EnginePages, ARequestThatCanNeverFitIsRefused) {
  EngineOptions options = test_options();
  options.pool_tokens = 128;
  const auto engine = make_engine(std::move(options));
  EXPECT_EQ(engine->context(), 128);
  Told told;
  const auto too_long = engine->submit({.tokens = std::vector<int32_t>(129, 5)}, listen(told));
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(too_long.status().message(), "the prompt has 129 tokens, the context has room for 128");
  EXPECT_EQ(told.events, 0);
  EXPECT_FALSE(engine->has_work());
}

// Pages that open sessions hold come back only when they are closed: what waits for them must not wait for ever.
TEST(EnginePages, ARequestThatWaitsForSessionsIsToldSo) {
  EngineOptions options = test_options();
  options.pool_tokens = 128;
  const auto engine = make_engine(std::move(options));
  const int64_t session = engine->open_session();
  answer(*engine, {.tokens = std::vector<int32_t>(100, 5), .most_new_tokens = 1, .session = session});
  const Told told = answer(*engine, {.tokens = std::vector<int32_t>(10, 5), .most_new_tokens = 10});
  EXPECT_EQ(told.last.finish, Finish::failed);
  EXPECT_EQ(told.last.status.code(), Code::resource_exhausted);
  EXPECT_NE(told.last.status.message().find("1 open sessions"), std::string::npos) << told.last.status.message();
  engine->close_session(session);
  expect_no_pages(*engine);
  EXPECT_EQ(answer(*engine, {.tokens = std::vector<int32_t>(10, 5), .most_new_tokens = 10}).last.new_tokens, 10);
}

TEST(EnginePages, TheContextMayBeFilledToItsEnd) {
  EngineOptions options = test_options();
  options.pool_tokens = 70;
  const auto engine = make_engine(std::move(options));
  // The last token is given out, never read: 70 tokens are read in all.
  const Told told = answer(*engine, {.tokens = std::vector<int32_t>(60, 5), .ignore_end = true});
  EXPECT_EQ(told.last.new_tokens, 11);
  EXPECT_EQ(told.last.finish, Finish::length);
  EXPECT_EQ(answer(*engine, {.tokens = std::vector<int32_t>(70, 5), .ignore_end = true}).last.new_tokens, 1);
}

// --- ends ---------------------------------------------------------------------------------------------------------

TEST(EngineEnds, StopStringsEndTheAnswerBeforeThem) {
  const auto engine = make_engine(test_options());
  const Told told = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 100, .stop = {"xyzzy", "Lily. She"}});
  EXPECT_EQ(told.text, ", there was a little girl named ");
  EXPECT_EQ(told.last.finish, Finish::stop);
  EXPECT_LT(told.last.new_tokens, 40);
}

TEST(EngineEnds, EndTokensEndTheAnswerUnlessIgnored) {
  const auto engine = make_engine(test_options());
  const int32_t end = *engine->tokenizer()->eos();
  SamplingOptions sampling;
  sampling.logit_bias = {{end, 1000.0f}};
  const Told told = answer(*engine, {.text = "Once", .most_new_tokens = 5, .sampling = sampling});
  EXPECT_EQ(told.last.finish, Finish::stop);
  EXPECT_EQ(told.tokens, std::vector<int32_t>{end});
  EXPECT_EQ(told.text, "");
  const Told ignored = answer(*engine, {.text = "Once", .most_new_tokens = 5, .sampling = sampling, .ignore_end = true});
  EXPECT_EQ(ignored.last.finish, Finish::length);
  EXPECT_EQ(ignored.tokens.size(), 5u);
}

TEST(EngineEnds, CancelFreesPagesAndTellsOnce) {
  const auto engine = make_engine(test_options());
  Told told;
  const RequestId id = *engine->submit({.text = "Once upon a time", .most_new_tokens = 100}, listen(told));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine->step().ok());
  engine->cancel(id);
  EXPECT_EQ(told.last.finish, Finish::cancelled);
  EXPECT_EQ(told.last.new_tokens, 5);
  EXPECT_FALSE(engine->has_work());
  expect_no_pages(*engine);
  engine->cancel(id);  // does nothing
  engine->cancel(12345);
  EXPECT_EQ(told.ends, 1);
}

TEST(EngineEnds, HandlersMaySubmitAndCancel) {
  const auto engine = make_engine(test_options());
  Told second, third, never;
  RequestId cancelled = 0;
  RequestId self = 0;
  int own_events = 0;
  Finish own_finish = Finish::none;
  self = *engine->submit({.text = "Once upon a time", .most_new_tokens = 100}, [&](const Event& event) {
    ++own_events;
    own_finish = event.finish;
    if (event.new_tokens == 3 && event.finish == Finish::none) {
      EXPECT_TRUE(engine->submit({.text = "One day", .most_new_tokens = 7}, listen(third)).ok());
      engine->cancel(cancelled);
      engine->cancel(self);
    }
  });
  ASSERT_TRUE(engine->submit({.text = "Lily", .most_new_tokens = 7}, listen(second)).ok());
  cancelled = *engine->submit({.text = "Tom", .most_new_tokens = 100}, listen(never));
  run_all(*engine);
  EXPECT_EQ(own_events, 4);
  EXPECT_EQ(own_finish, Finish::cancelled);
  EXPECT_EQ(second.last.finish, Finish::length);
  EXPECT_EQ(third.tokens.size(), 7u);
  EXPECT_EQ(never.last.finish, Finish::cancelled);
  expect_no_pages(*engine);
}

TEST(EngineEnds, BadRequestsSaySo) {
  const auto engine = make_engine(test_options());
  const auto refused = [&](Request request) { return engine->submit(std::move(request), {}).status().message(); };
  EXPECT_EQ(refused({}), "the prompt is empty: expected one token or more");
  EXPECT_EQ(refused({.text = "a", .tokens = {1}}), "a prompt is text, token ids or vectors: expected one of them, got 2");
  EXPECT_EQ(refused({.tokens = {1, 512}}), "the prompt has token id 512, expected 0 to 511");
  EXPECT_EQ(refused({.tokens = {-1}}), "the prompt has token id -1, expected 0 to 511");
  EXPECT_EQ(refused({.vectors = {{1.0f}}}), "input vector 0 has 1 values, expected 64");
  EXPECT_EQ(refused({.tokens = std::vector<int32_t>(513, 1)}), "the prompt has 513 tokens, the context has room for 512");
  EXPECT_EQ(refused({.tokens = {1}, .most_new_tokens = -1}), "most_new_tokens is -1, expected 0 or more");
  EXPECT_EQ(refused({.tokens = {1}, .sampling = {.temperature = -1}}), "temperature is -1, expected 0 (greedy) to 100");
  EXPECT_NE(refused({.tokens = {1}, .stop = {""}}), "");
  EXPECT_EQ(refused({.tokens = {1}, .session = 9}), "there is no session 9");
  EXPECT_FALSE(engine->has_work());
}

TEST(EngineEnds, BadOptionsSaySo) {
  const auto refused = [](EngineOptions options) { return Engine::create(std::move(options)).status().message(); };
  EngineOptions options = test_options();
  options.threads = -1;
  EXPECT_EQ(refused(std::move(options)), "threads is -1, expected 0 to 1024");
  options = test_options();
  options.scheduling.token_budget = 0;
  EXPECT_EQ(refused(std::move(options)), "token_budget is 0, expected 1 to 16777216");
  options = test_options("no-such-model.gguf");
  EXPECT_NE(refused(std::move(options)).find("no-such-model.gguf"), std::string::npos);
}

// --- policies -----------------------------------------------------------------------------------------------------

// Drops every row but the last at one layer: no earlier row reaches the end.
class KeepLast : public SelectPolicy {
 public:
  explicit KeepLast(bool keep_last) : keep_last_(keep_last) {}
  bool asks(int layer) const override { return layer == 2; }
  Selection select(const SelectContext& context) override {
    if (context.positions.size() == 1) return {.keep = {context.running.begin(), context.running.end()}, .rejoin = {}};
    Selection selection;
    if (keep_last_) selection.keep = {context.running.back()};
    return selection;
  }

 private:
  bool keep_last_;
};

TEST(EnginePolicies, ASelectorDecidesWhichRowsGoOn) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> prompt = *engine->tokenizer()->encode("Once upon a time there was");
  KeptLogits kept;
  Told told;
  ASSERT_TRUE(
      engine
          ->submit({.tokens = prompt, .most_new_tokens = 3, .select = std::make_unique<KeepLast>(true), .on_logits = kept.handler()},
                   listen(told))
          .ok());
  run_all(*engine);
  EXPECT_EQ(told.last.new_tokens, 3);
  ASSERT_EQ(kept.rows().size(), 1u);  // only the last row has logits
  EXPECT_EQ(kept.rows().begin()->first, static_cast<int32_t>(prompt.size()) - 1);

  const Told none = answer(*engine, {.tokens = prompt, .most_new_tokens = 3, .select = std::make_unique<KeepLast>(false)});
  EXPECT_EQ(none.last.finish, Finish::failed);
  EXPECT_EQ(none.last.status.message(), "the last row was dropped by the select policy: no token follows it");
  expect_no_pages(*engine);
}

TEST(EnginePolicies, AWindowAsWideAsThePromptIsDense) {
  const auto engine = make_engine(test_options());
  const Told dense = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 30});
  const Told window = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 30, .attend = std::make_unique<WindowAttend>(64, 4)});
  const Told narrow = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 30, .attend = std::make_unique<WindowAttend>(3, 0)});
  EXPECT_EQ(dense.tokens, window.tokens);
  EXPECT_NE(dense.tokens, narrow.tokens);
}

// A schedule that breaks the rules is an error of the engine, not a crash.
class BadSchedule : public SchedulePolicy {
 public:
  const char* name() const override { return "bad"; }
  Step next(const ScheduleContext& context) override {
    const RequestId id = context.requests[0].id;
    return {.admit = {{id, 1}}, .spans = {{.id = id, .first_token = 3, .count = 1, .layer_begin = 0, .layer_end = context.layers}}};
  }
};

TEST(EnginePolicies, AScheduleThatBreaksTheRulesIsNamed) {
  EngineOptions options = test_options();
  options.schedule = std::make_unique<BadSchedule>();
  const auto engine = make_engine(std::move(options));
  ASSERT_TRUE(engine->submit({.text = "Once upon a time"}, {}).ok());
  const Status status = engine->step();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.message().find("schedule policy bad: it runs tokens 3 to 4"), 0u) << status.message();
}

TEST(EnginePolicies, AStepsLengthIsLimitedByItsPredictedCost) {
  EngineOptions options = test_options();
  options.cost = std::make_shared<LinearStepCost>(StepWeights{.per_prefill_row_layer = 1e-3});
  options.most_step_seconds = 10.5e-3 * 5;  // ten rows through the five layers
  const auto engine = make_engine(std::move(options));
  int32_t most_rows = 0;
  engine->set_step_hook([&](const StepReport& report) { most_rows = std::max(most_rows, report.step.spans[0].count); });
  answer(*engine, {.tokens = std::vector<int32_t>(45, 5), .most_new_tokens = 1});
  EXPECT_EQ(most_rows, 10);
}

// A layer whose keys cannot be loaded fails its own request; the others of the batch go on.
class FailingAttend : public AttendPolicy {
 public:
  const AttentionPlan& plan(const AttendContext& context) override {
    if (!failed_) {
      failed_ = true;
      const_cast<SequenceCache*>(context.cache)->set_pending_load(context.layer + 1, [] {
        return error(Code::failed, "the store is gone");
      });
    }
    return dense_.plan(context);
  }

 private:
  DenseAttend dense_;
  bool failed_ = false;
};

TEST(EnginePolicies, OneRequestsFailureIsNotTheOthers) {
  const auto engine = make_engine(test_options());
  const Told alone = answer(*engine, {.text = "Once upon a time", .most_new_tokens = 10});
  Told bad, good;
  ASSERT_TRUE(engine->submit({.text = "Once upon a time", .most_new_tokens = 10}, listen(good)).ok());
  ASSERT_TRUE(engine->submit({.text = "One day", .most_new_tokens = 10, .attend = std::make_unique<FailingAttend>()}, listen(bad)).ok());
  run_all(*engine);
  EXPECT_EQ(good.tokens, alone.tokens);
  // What could not be loaded is not there when it runs by itself either.
  EXPECT_EQ(bad.last.finish, Finish::failed);
  const Told fails_alone = answer(*engine, {.text = "One day", .most_new_tokens = 10, .attend = std::make_unique<FailingAttend>()});
  EXPECT_EQ(fails_alone.last.finish, Finish::failed);
  EXPECT_EQ(fails_alone.last.status.message(), "the store is gone");
  expect_no_pages(*engine);
}

// --- sessions -----------------------------------------------------------------------------------------------------

TEST(EngineSessions, AConversationGoesOnAsIfItWereOnePrompt) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> first = *engine->tokenizer()->encode("Once upon a time");
  const std::vector<int32_t> second = *engine->tokenizer()->encode(" The dog", {.add_special = false});
  const int64_t session = engine->open_session();
  const Told one = answer(*engine, {.tokens = first, .most_new_tokens = 10, .session = session});
  std::vector<int32_t> all = first;
  all.insert(all.end(), one.tokens.begin(), one.tokens.end());
  EXPECT_EQ(engine->session_tokens(session), all);

  const EngineStatistics before = engine->statistics();
  const Told two = answer(*engine, {.tokens = second, .most_new_tokens = 10, .session = session});
  // Only what is new is computed: the last token of the first answer, and the prompt.
  EXPECT_EQ(engine->statistics().prompt_rows - before.prompt_rows, static_cast<int64_t>(second.size()) + 1);
  EXPECT_EQ(two.last.prompt_tokens, static_cast<int32_t>(second.size()));
  all.insert(all.end(), second.begin(), second.end());
  const Told whole = answer(*engine, {.tokens = all, .most_new_tokens = 10});
  EXPECT_EQ(two.tokens, whole.tokens);
  engine->close_session(session);
  expect_no_pages(*engine);
}

TEST(EngineSessions, TheyCanBeCutAndAreBusyWhileTheyRun) {
  const auto engine = make_engine(test_options());
  const int64_t session = engine->open_session();
  const std::vector<int32_t> prompt = *engine->tokenizer()->encode("Once upon a time");
  const Told once = answer(*engine, {.tokens = prompt, .most_new_tokens = 30, .session = session});
  EXPECT_EQ(*engine->truncate_session(session, static_cast<int32_t>(prompt.size()) - 1), 4);
  const Told again = answer(*engine, {.tokens = {prompt.back()}, .most_new_tokens = 30, .session = session});
  EXPECT_EQ(once.tokens, again.tokens);

  Told running;
  ASSERT_TRUE(engine->submit({.tokens = {5}, .most_new_tokens = 10, .session = session}, listen(running)).ok());
  ASSERT_TRUE(engine->step().ok());
  EXPECT_NE(engine->submit({.tokens = {5}, .session = session}, {}).status().message().find("is busy"), std::string::npos);
  EXPECT_FALSE(engine->truncate_session(session, 0).ok());
  engine->close_session(session);
  EXPECT_EQ(running.last.finish, Finish::cancelled);
  expect_no_pages(*engine);
  EXPECT_TRUE(engine->session_tokens(session).empty());
}

TEST(EngineSessions, APromptThatWasCancelledIsForgotten) {
  EngineOptions options = test_options();
  options.scheduling.token_budget = 8;
  for (const int32_t stage : {0, 2}) {
    options = test_options();
    options.scheduling.token_budget = 8;
    options.scheduling.stage_layers = stage;
    const auto engine = make_engine(std::move(options));
    const int64_t session = engine->open_session();
    const std::vector<int32_t> prompt = random_prompt(*engine, 40, 4);
    const RequestId id = *engine->submit({.tokens = prompt, .session = session}, {});
    for (int i = 0; i < (stage == 0 ? 2 : 4); ++i) ASSERT_TRUE(engine->step().ok());
    engine->cancel(id);
    const std::vector<int32_t> left = engine->session_tokens(session);
    EXPECT_EQ(left.size(), stage == 0 ? 16u : 8u);
    const Told rest = answer(
        *engine, {.tokens = {prompt.begin() + static_cast<int>(left.size()), prompt.end()}, .most_new_tokens = 5, .session = session});
    EXPECT_EQ(rest.tokens, answer(*engine, {.tokens = prompt, .most_new_tokens = 5}).tokens);
    engine->close_session(session);
    expect_no_pages(*engine);
  }
}

TEST(EngineSessions, CuttingBehindAWindowBeginsAnew) {
  const auto engine = make_engine(test_options(fixture_model("gemma3")));
  const int64_t session = engine->open_session();
  const std::vector<int32_t> prompt = random_prompt(*engine, 300, 4);
  answer(*engine, {.tokens = prompt, .most_new_tokens = 1, .session = session});
  EXPECT_EQ(*engine->truncate_session(session, 299), 299);
  const int32_t kept = *engine->truncate_session(session, 60);
  EXPECT_TRUE(kept == 0 || kept == 60);
  const Told told = answer(*engine, {.tokens = {prompt.begin() + kept, prompt.begin() + 100}, .most_new_tokens = 5, .session = session});
  EXPECT_EQ(told.tokens, answer(*engine, {.tokens = {prompt.begin(), prompt.begin() + 100}, .most_new_tokens = 5}).tokens);
  engine->close_session(session);
  expect_no_pages(*engine);
}

// --- outputs ------------------------------------------------------------------------------------------------------

TEST(EngineOutputs, HiddenRowsAndLogitsBelongTogether) {
  const auto engine = make_engine(test_options());
  KeptLogits logits, hidden;
  Told told;
  const std::vector<int32_t> prompt = random_prompt(*engine, 20, 3);
  ASSERT_TRUE(
      engine->submit({.tokens = prompt, .most_new_tokens = 0, .on_logits = logits.handler(), .on_hidden = hidden.handler()}, listen(told))
          .ok());
  run_all(*engine);
  EXPECT_EQ(told.events, 1);
  EXPECT_EQ(told.last.finish, Finish::length);
  EXPECT_EQ(told.last.new_tokens, 0);
  ASSERT_EQ(logits.rows().size(), 20u);
  ASSERT_EQ(hidden.rows().size(), 20u);
  EXPECT_EQ(hidden.rows().at(7).size(), static_cast<size_t>(engine->model().config().hidden));
  EXPECT_EQ(logits.rows().at(7).size(), static_cast<size_t>(engine->model().config().vocabulary));
}

TEST(EngineOutputs, LogProbabilitiesOfSampledTokensAreThoseOfScoring) {
  const auto engine = make_engine(test_options());
  SamplingOptions sampling;
  sampling.top_logprobs = 3;
  std::vector<double> logprobs;
  std::vector<int32_t> tokens = *engine->tokenizer()->encode("Once upon a time");
  const size_t prompt = tokens.size();
  ASSERT_TRUE(engine
                  ->submit({.tokens = tokens, .most_new_tokens = 12, .sampling = sampling},
                           [&](const Event& event) {
                             logprobs.push_back(event.token->logprob);
                             tokens.push_back(event.token->token);
                             EXPECT_EQ(event.token->alternatives.size(), 3u);
                             EXPECT_EQ(event.token->alternatives[0].first, event.token->token);  // greedy
                           })
                  .ok());
  run_all(*engine);
  const Result<Scores> scores = score_tokens(*engine, tokens, 2);
  ASSERT_TRUE(scores.ok());
  for (size_t i = 0; i < logprobs.size(); ++i) {
    EXPECT_NEAR(scores->logprob[prompt + i], logprobs[i], 1e-5);
    EXPECT_EQ(scores->rank[prompt + i], 1);
    EXPECT_EQ(scores->argmax[prompt + i - 1], tokens[prompt + i]);
  }
}

}  // namespace
}  // namespace onset
