// Contexts that are read apart: the acceptance checks of APE (arXiv:2502.05431) and CacheBlend (arXiv:2405.16444) that an engine shows, on
// small models, in reference precision.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "onset/engine/engine.h"
#include "onset/engine/testing.h"
#include "onset/kv/chunk_folder.h"

namespace onset {
namespace {

using namespace onset::testing;

EngineOptions reference_options(int64_t pool_tokens = 4096) {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  options.pool_tokens = pool_tokens;
  return options;
}

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  Event last;
};

Answer ask(Engine& engine, Request request) {
  Answer answer;
  request.sampling.logprobs = true;
  request.ignore_end = true;
  const auto id = engine.submit(std::move(request), [&](const Event& event) {
    if (event.token) {
      answer.tokens.push_back(event.token->token);
      answer.logprobs.push_back(event.token->logprob);
    }
    answer.last = event;
  });
  EXPECT_TRUE(id.ok()) << id.status().message();
  run_all(engine);
  return answer;
}

void expect_near(const Answer& a, const Answer& b, float tolerance) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) EXPECT_NEAR(a.logprobs[i], b.logprobs[i], tolerance) << i;
}

constexpr ParallelContextsOptions plain = {.temperature = 1, .scale = 1};

// Check 1. The prefix ends inside a page, so that its page is also the context's first.
TEST(Contexts, OneContextIsSequentialEncoding) {
  const std::vector<int32_t> prefix = random_tokens(21, 1), context = random_tokens(130, 2), query = random_tokens(17, 3);
  std::vector<int32_t> all = prefix;
  all.insert(all.end(), context.begin(), context.end());
  all.insert(all.end(), query.begin(), query.end());
  for (const bool prefix_cache : {true, false}) {
    EngineOptions options = reference_options();
    options.prefix_cache = prefix_cache;
    const auto engine = make_engine(std::move(options));
    const Answer sequential = ask(*engine, {.tokens = all, .most_new_tokens = 64});
    const Answer parallel = ask(*engine, {.tokens = query, .most_new_tokens = 64, .contexts = {{prefix, {context}, plain}}});
    expect_near(parallel, sequential, 1e-4f);
    EXPECT_EQ(parallel.last.context_tokens, 21 + 130);
    expect_no_pages(*engine);
  }
}

// Checks 4 and 5: the order of contexts makes no difference (sequential encoding's does), and what each is read as does not depend on the
// others.
TEST(Contexts, TheirOrderMakesNoDifference) {
  const auto engine = make_engine(reference_options());
  const std::vector<int32_t> prefix = random_tokens(9, 1), query = random_tokens(12, 3);
  std::vector<std::vector<int32_t>> texts = {random_tokens(70, 4), random_tokens(33, 5), random_tokens(128, 6)};
  const Request request = {};
  const Answer first = ask(*engine, {.tokens = query, .most_new_tokens = 8, .contexts = {{prefix, texts, {}}}});
  std::swap(texts[0], texts[2]);
  const Answer swapped = ask(*engine, {.tokens = query, .most_new_tokens = 8, .contexts = {{prefix, texts, {}}}});
  expect_near(swapped, first, 1e-5f);
  EXPECT_EQ(swapped.last.cached_tokens, swapped.last.context_tokens);
  texts[1][0] ^= 1;
  const Answer edited = ask(*engine, {.tokens = query, .most_new_tokens = 8, .contexts = {{prefix, texts, {}}}});
  EXPECT_NE(edited.logprobs, first.logprobs);
  EXPECT_EQ(edited.last.context_tokens - edited.last.cached_tokens, 33);

  const auto joined = [&](std::vector<int> order) {
    std::vector<int32_t> all = prefix;
    for (const int i : order) all.insert(all.end(), texts[i].begin(), texts[i].end());
    all.insert(all.end(), query.begin(), query.end());
    return ask(*engine, {.tokens = all, .most_new_tokens = 1}).logprobs[0];
  };
  EXPECT_GT(std::fabs(joined({0, 1, 2}) - joined({2, 1, 0})), 1e-4f);
}

// Without a shared prefix each context is read behind the token that begins a text, from position 0, and the prefix with the prompt: for
// one context, that is one text.
TEST(Contexts, WithoutASharedPrefixEachBeginsAText) {
  const auto engine = make_engine(reference_options());
  const std::vector<int32_t> prefix = random_tokens(9, 1), context = random_tokens(70, 4), query = random_tokens(12, 3);
  const ParallelContextsOptions pcw = parallel_contexts_step("pcw");
  std::vector<int32_t> all = {*engine->tokenizer()->bos()};
  for (const auto* part : {&context, &prefix, &query}) all.insert(all.end(), part->begin(), part->end());
  const Answer sequential = ask(*engine, {.tokens = all, .most_new_tokens = 16});
  const Answer alone = ask(*engine, {.tokens = query, .most_new_tokens = 16, .contexts = {{prefix, {context}, pcw}}});
  expect_near(alone, sequential, 1e-4f);
  EXPECT_EQ(alone.last.context_tokens, 70);
  EXPECT_EQ(alone.last.prompt_tokens, 9 + 12);

  // A changed prefix leaves what was read of the texts what it was; with a shared prefix it changes every one of them (check 5).
  const std::vector<std::vector<int32_t>> texts = {context, random_tokens(33, 5)};
  const std::vector<int32_t> other = random_tokens(9, 2);
  ask(*engine, {.tokens = query, .most_new_tokens = 1, .contexts = {{prefix, texts, pcw}}});
  ask(*engine, {.tokens = query, .most_new_tokens = 1, .contexts = {{prefix, texts, plain}}});
  EXPECT_EQ(ask(*engine, {.tokens = query, .most_new_tokens = 1, .contexts = {{other, texts, pcw}}}).last.cached_tokens, 70 + 33);
  EXPECT_EQ(ask(*engine, {.tokens = query, .most_new_tokens = 1, .contexts = {{other, texts, plain}}}).last.cached_tokens, 0);

  const auto refused = engine->submit({.vectors = {std::vector<float>(64)}, .contexts = {{prefix, texts, pcw}}}, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message(), "a prompt of vectors cannot begin with the tokens of a prefix that its contexts do not share");
  expect_no_pages(*engine);
}

// Check 6: every context begins behind the prefix, the query behind the longest context.
TEST(Contexts, PositionsAreSharedAndTheWindowHoldsTheLongest) {
  const auto engine = make_engine(reference_options());
  const int32_t context = engine->context();
  const std::vector<int32_t> prefix = random_tokens(10, 1), query = random_tokens(6, 3);
  // More tokens in all than the model's context, none of them alone.
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 6; ++i) texts.push_back(random_tokens(context - 16 - 3 - i, 10 + i));
  const Answer answer = ask(*engine, {.tokens = query, .contexts = {{prefix, texts, {}}}});
  EXPECT_EQ(answer.last.finish, Finish::length);
  EXPECT_EQ(answer.last.new_tokens, 3 + 1);  // the last one is not read
  for (const float logprob : answer.logprobs) EXPECT_TRUE(std::isfinite(logprob));
  EXPECT_GT(answer.last.context_tokens, 2 * context);
  texts[0] = random_tokens(context - 10 - 5, 9);
  const auto refused = engine->submit({.tokens = query, .contexts = {{prefix, texts, {}}}}, {});
  EXPECT_FALSE(refused.ok());
  expect_no_pages(*engine);
}

// Check 11: contexts that are known are not computed again, and the answer is the same to the last bit.
TEST(Contexts, ASecondRequestComputesOnlyItsPrompt) {
  const auto engine = make_engine(reference_options());
  const std::vector<int32_t> prefix = random_tokens(64, 1), query = random_tokens(20, 3);
  const std::vector<std::vector<int32_t>> texts = {random_tokens(64, 4), random_tokens(100, 5)};
  const Answer first = ask(*engine, {.tokens = query, .most_new_tokens = 5, .contexts = {{prefix, texts, {}}}});
  EXPECT_EQ(first.last.cached_tokens, 0);
  const int64_t rows = engine->statistics().prompt_rows;
  const Answer second = ask(*engine, {.tokens = query, .most_new_tokens = 5, .contexts = {{prefix, texts, {}}}});
  EXPECT_EQ(engine->statistics().prompt_rows - rows, 20);
  EXPECT_EQ(second.last.cached_tokens, 64 + 64 + 100);
  EXPECT_EQ(second.logprobs, first.logprobs);
  expect_no_pages(*engine);
}

// Check 10: contexts take the memory of their tokens' keys and values, but for the rest of each one's last page.
TEST(Contexts, TakeTheMemoryOfTheirTokens) {
  const auto engine = make_engine(reference_options());
  const std::vector<int32_t> prefix = random_tokens(64, 1), query = random_tokens(20, 3);
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 8; ++i) texts.push_back(random_tokens(251 + i % 5, 10 + i));
  const Answer answer = ask(*engine, {.tokens = query, .most_new_tokens = 1, .contexts = {{prefix, texts, {}}}});
  const ModelConfig& config = engine->model().config();
  const double token_bytes = 2.0 * config.layers * config.kv_heads * config.head_size * sizeof(float);
  const EngineStatistics statistics = engine->statistics();
  const double kept = static_cast<double>(statistics.cached_pages) * static_cast<double>(statistics.page_bytes);
  EXPECT_NEAR(kept / (answer.last.context_tokens * token_bytes), 1, 0.05);
}

// Among others, in small chunks: the same answers; cancelled midway: no page is lost.
TEST(Contexts, InABusyEngine) {
  const auto alone = make_engine(reference_options());
  EngineOptions options = reference_options(2048);
  options.scheduling.token_budget = 24;
  const auto busy = make_engine(std::move(options));
  const auto request_number = [](int i) {
    return Request{
        .tokens = random_tokens(5 + i, 50 + i),
        .most_new_tokens = 6,
        .ignore_end = true,
        .contexts = {{random_tokens(12, 1), {random_tokens(80 + i, 60 + i), random_tokens(40, 61), random_tokens(90, 70 + i % 3)}, {}}}};
  };
  std::vector<Told> told(12), others(12);
  std::vector<RequestId> ids;
  for (int i = 0; i < 12; ++i) {
    ids.push_back(*busy->submit(request_number(i), listen(told[i])));
    ASSERT_TRUE(busy->submit({.tokens = random_tokens(30 + i, i), .most_new_tokens = 20, .ignore_end = true}, listen(others[i])).ok());
  }
  for (int step = 0; busy->has_work(); ++step) {
    ASSERT_TRUE(busy->step().ok());
    if (step == 3) busy->cancel(ids[1]);
    if (step == 30) busy->cancel(ids[5]);
  }
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(told[i].ends, 1);
    EXPECT_EQ(others[i].last.finish, Finish::length);
    if (i == 1 || i == 5) continue;
    EXPECT_EQ(told[i].tokens, answer(*alone, request_number(i)).tokens) << i << ": " << told[i].last.status.message();
  }
  expect_no_pages(*busy);
}

// Check 12.
TEST(Contexts, WhatIsWrongIsSaid) {
  const auto engine = make_engine(reference_options());
  const auto refusal = [&](Contexts contexts, std::vector<int32_t> query = {5}) {
    const auto id = engine->submit({.tokens = std::move(query), .contexts = std::move(contexts)}, {});
    return id.ok() ? std::string() : id.status().message();
  };
  EXPECT_EQ(refusal({{}, {{5}}, ParallelContextsOptions{.temperature = 0}}),
            "the temperature of parallel contexts is 0, expected a number above 0");
  EXPECT_EQ(refusal({{}, {{5}}, ParallelContextsOptions{.scale = -1}}), "the scale of parallel contexts is -1, expected 0 or more");
  EXPECT_EQ(refusal({{}, {{5}, {}}, {}}), "context 2 is empty: expected one token or more");
  EXPECT_EQ(refusal({{}, {}, {}}), "the list of contexts is empty: expected one or more");
  EXPECT_EQ(refusal({{}, {{5}}, {}}, {}), "the prompt is empty: expected one token or more");
  EXPECT_EQ(refusal({{-3}, {{5}}, {}}), "the contexts' prefix has token id -3, expected 0 to 511");
  EXPECT_NE(refusal({{}, {std::vector<int32_t>(600, 5)}, {}}).find("context 1 has 600 tokens with what it is read behind"),
            std::string::npos);
  const auto windows = make_engine(test_options(fixture_model("mistral")));
  const auto id = windows->submit({.tokens = {5}, .contexts = {{{}, {{5}}, {}}}}, {});
  ASSERT_FALSE(id.ok());
  EXPECT_NE(id.status().message().find("has windows"), std::string::npos);
}

// --- blended --------------------------------------------------------------------------------------------------------

struct Blend {
  std::vector<int32_t> prefix = random_tokens(64, 1);
  std::vector<std::vector<int32_t>> texts = {random_tokens(64, 4), random_tokens(100, 5), random_tokens(41, 6)};
  std::vector<int32_t> query = random_tokens(20, 3);

  Request request(CacheBlendOptions options, int32_t most_new_tokens = 5) const {
    return {.tokens = query, .most_new_tokens = most_new_tokens, .contexts = {{prefix, texts, options}}};
  }
  Request sequential(int32_t most_new_tokens = 5) const {
    std::vector<int32_t> all = prefix;
    for (const auto& text : texts) all.insert(all.end(), text.begin(), text.end());
    all.insert(all.end(), query.begin(), query.end());
    return {.tokens = all, .most_new_tokens = most_new_tokens};
  }
};

// Check 1.
TEST(BlendedContexts, WithAllOfThemComputedAreSequentialReading) {
  const Blend blend;
  const auto engine = make_engine(reference_options());
  const Answer blended = ask(*engine, blend.request({.ratio = 1}, 64));
  const Answer sequential = ask(*engine, blend.sequential(64));
  EXPECT_EQ(blended.tokens, sequential.tokens);
  EXPECT_EQ(blended.logprobs, sequential.logprobs);
  EXPECT_EQ(blended.last.context_tokens, 64 + 64 + 100 + 41);
  EXPECT_EQ(blended.last.prompt_tokens, 20);
  EXPECT_EQ(sequential.last.cached_tokens, 64 + 64 + 100 + 41 + 19);  // nothing was left out: others can use it
  expect_no_pages(*engine);
}

// Check 2: what the prefix cache has of the text as it stands is exact, and no row of it runs.
TEST(BlendedContexts, WhatIsKnownInItsPlaceIsExact) {
  const Blend blend;
  const auto engine = make_engine(reference_options());
  Blend other = blend;
  other.query = random_tokens(20, 33);
  ask(*engine, other.sequential());
  const Answer blended = ask(*engine, blend.request({.ratio = 0.15f}));
  EXPECT_EQ(blended.logprobs, ask(*engine, blend.sequential()).logprobs);
  ASSERT_NE(blended.last.blend, nullptr);
  EXPECT_EQ(blended.last.blend->reused_tokens, 0);
  EXPECT_EQ(blended.last.blend->fresh_tokens, 20);
  EXPECT_EQ(blended.last.blend->recomputed, std::vector<int32_t>(static_cast<size_t>(engine->model().config().layers)));
}

TEST(BlendedContexts, AreFoundAgainInAnyOrder) {
  Blend blend;
  const auto engine = make_engine(reference_options());
  const Answer first = ask(*engine, blend.request({.ratio = 0.2f}));
  EXPECT_EQ(first.last.cached_tokens, 0);
  const Answer second = ask(*engine, blend.request({.ratio = 0.2f}));
  EXPECT_EQ(second.last.cached_tokens, 64 + 64 + 100 + 41);
  EXPECT_EQ(second.logprobs, first.logprobs);
  EXPECT_EQ(second.last.blend->reused_tokens, 64 + 100 + 41);
  EXPECT_EQ(second.last.blend->fresh_tokens, 20);  // the prefix was known where it stands
  EXPECT_EQ(second.last.blend->recomputed[1], 41);
  std::swap(blend.texts[0], blend.texts[2]);
  const Answer swapped = ask(*engine, blend.request({.ratio = 0.2f}));
  EXPECT_EQ(swapped.last.cached_tokens, 64 + 64 + 100 + 41);
  EXPECT_NE(swapped.logprobs, first.logprobs);
  // A text may come twice, and be a single token.
  blend.texts = {blend.texts[0], blend.texts[0], {7}};
  const Answer twice = ask(*engine, blend.request({.ratio = 0.2f}));
  EXPECT_EQ(twice.last.finish, Finish::length);
  EXPECT_EQ(twice.last.blend->reused_tokens, 41 + 41 + 1);
  expect_no_pages(*engine);
}

// A ratio above 0 chooses among the rows of a piece; without one the cut into steps changes nothing.
TEST(BlendedContexts, InABusyEngine) {
  const auto alone = make_engine(reference_options());
  EngineOptions options = reference_options(2048);
  options.scheduling.token_budget = 24;
  const auto busy = make_engine(std::move(options));
  const auto request_number = [](int i) {
    Blend blend;
    blend.texts = {random_tokens(80 + i, 60 + i), random_tokens(40, 61), random_tokens(90, 70 + i % 3)};
    blend.query = random_tokens(5 + i, 50 + i);
    return blend.request({.ratio = i % 2 == 0 ? 0.0f : 0.3f}, 6);
  };
  std::vector<Told> told(12), others(12);
  std::vector<RequestId> ids;
  for (int i = 0; i < 12; ++i) {
    ids.push_back(*busy->submit(request_number(i), listen(told[i])));
    ASSERT_TRUE(busy->submit({.tokens = random_tokens(30 + i, i), .most_new_tokens = 20, .ignore_end = true}, listen(others[i])).ok());
  }
  for (int step = 0; busy->has_work(); ++step) {
    ASSERT_TRUE(busy->step().ok());
    if (step == 3) busy->cancel(ids[1]);
    if (step == 40) busy->cancel(ids[5]);
  }
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(told[i].ends, 1);
    EXPECT_EQ(others[i].tokens, answer(*alone, {.tokens = random_tokens(30 + i, i), .most_new_tokens = 20, .ignore_end = true}).tokens);
    if (i == 1 || i == 5) continue;
    EXPECT_TRUE(told[i].last.status.ok()) << told[i].last.status.message();
    if (i % 2 == 0) {
      EXPECT_EQ(told[i].tokens, answer(*alone, request_number(i)).tokens) << i;
    }
  }
  expect_no_pages(*busy);
}

// Check 12.
TEST(BlendedContexts, WhatIsWrongIsSaid) {
  const auto engine = make_engine(reference_options());
  const auto refusal = [](Engine& asked, Request request) {
    const auto id = asked.submit(std::move(request), {});
    return id.ok() ? std::string() : id.status().message();
  };
  Blend blend;
  EXPECT_EQ(refusal(*engine, blend.request({.ratio = -0.1f})), "the ratio of cacheblend is -0.1, expected 0 to 1");
  EXPECT_EQ(refusal(*engine, blend.request({.ratio = 1.5f})), "the ratio of cacheblend is 1.5, expected 0 to 1");
  blend.query.clear();
  EXPECT_EQ(refusal(*engine, blend.request({})), "the prompt is empty: expected one token or more");
  blend = {};
  blend.texts.clear();
  EXPECT_EQ(refusal(*engine, blend.request({})), "the list of contexts is empty: expected one or more");
  blend = {};
  blend.texts.push_back(random_tokens(400, 8));
  EXPECT_NE(refusal(*engine, blend.request({})).find("the context has room for"), std::string::npos);
  const auto windows = make_engine(test_options(fixture_model("mistral")));
  EXPECT_NE(refusal(*windows, Blend().request({})).find("has windows"), std::string::npos);
  EngineOptions staged = reference_options();
  staged.scheduling.stage_layers = 2;
  const auto stages = make_engine(std::move(staged));
  EXPECT_EQ(refusal(*stages, Blend().request({})), "cacheblend needs steps through all layers, this engine's have 2");
  // Contexts and the request together are more than the pool has.
  const auto small = make_engine(reference_options(320));
  const Answer refused = ask(*small, Blend().request({.ratio = 0.2f}));
  EXPECT_EQ(refused.last.finish, Finish::failed);
  EXPECT_EQ(refused.last.status.code(), Code::resource_exhausted);
  expect_no_pages(*small);
}

// --- contexts from chunk stores -----------------------------------------------------------------------------------

// A folder that is gone at the end, with a store in it.
class StoreFolder {
 public:
  StoreFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "onset-contexts-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~StoreFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::shared_ptr<ChunkFolder> open() const { return *ChunkFolder::open(path / "chunks", int64_t{1} << 30); }
  std::filesystem::path path;
};

EngineOptions stored_options(std::shared_ptr<ChunkStore> store, int64_t pool_tokens = 4096) {
  EngineOptions options = reference_options(pool_tokens);
  options.chunk_stores = {std::move(store)};
  return options;
}

// What the engine read is written when it ends; another one loads it, and says the same.
TEST(StoredContexts, AnotherEngineFindsWhatOneHasRead) {
  const StoreFolder folder;
  const std::vector<int32_t> prefix = random_tokens(9, 1), query = random_tokens(12, 3);
  const std::vector<std::vector<int32_t>> texts = {random_tokens(70, 4), random_tokens(33, 5), random_tokens(128, 6)};
  for (const ContextReuse& reuse : {ContextReuse(ParallelContextsOptions()), ContextReuse(CacheBlendOptions{.ratio = 0.2f}),
                                    ContextReuse(CacheBlendOptions{.ratio = 0})}) {
    SCOPED_TRACE(reuse.index() == 0 ? "ape" : "cacheblend");
    const auto request = [&] { return Request{.tokens = query, .most_new_tokens = 8, .contexts = {{prefix, texts, reuse}}}; };
    Answer first;
    {
      const auto engine = make_engine(stored_options(folder.open()));
      first = ask(*engine, request());
      const Answer again = ask(*engine, request());
      expect_near(again, first, 0);
      EXPECT_EQ(again.last.contexts->tokens.count("disk"), 0u) << "memory is nearer";
      EXPECT_EQ(again.last.contexts->loaded_bytes, 0);
    }
    const auto engine = make_engine(stored_options(folder.open()));
    const Answer loaded = ask(*engine, request());
    expect_near(loaded, first, 0);
    const ContextsReport& report = *loaded.last.contexts;
    EXPECT_EQ(report.tokens.count("read"), 0u);
    EXPECT_EQ(report.tokens.at("disk"), 70 + 33 + 128 + (reuse.index() == 0 ? 9 : 0));
    EXPECT_GT(report.loaded_bytes, 0);
    EXPECT_EQ(ask(*engine, request()).last.contexts->tokens.count("disk"), 0u) << "what was loaded is in memory now";
    expect_no_pages(*engine);
  }
}

TEST(StoredContexts, SomeAreLoadedAndSomeAreRead) {
  const StoreFolder folder;
  const std::vector<int32_t> query = random_tokens(12, 3);
  std::vector<std::vector<int32_t>> texts = {random_tokens(70, 4), random_tokens(33, 5), random_tokens(128, 6)};
  const CacheBlendOptions blend{.ratio = 0.2f};
  (void)ask(*make_engine(stored_options(folder.open())),
            {.tokens = query, .most_new_tokens = 1, .contexts = {{{}, {texts[2], texts[0]}, blend}}});
  const auto engine = make_engine(stored_options(folder.open())), alone = make_engine(reference_options());
  const Answer mixed = ask(*engine, {.tokens = query, .most_new_tokens = 8, .contexts = {{{}, texts, blend}}});
  expect_near(mixed, ask(*alone, {.tokens = query, .most_new_tokens = 8, .contexts = {{{}, texts, blend}}}), 0);
  EXPECT_EQ(mixed.last.contexts->tokens, (std::map<std::string, int32_t>{{"disk", 70 + 128}, {"read", 33}}));
  // Another key's texts are another's.
  const Answer other = ask(*engine, {.tokens = query, .most_new_tokens = 1, .contexts = {{{}, texts, blend}}, .space = "another key"});
  EXPECT_EQ(other.last.contexts->tokens, (std::map<std::string, int32_t>{{"read", 70 + 33 + 128}}));
}

// A chunk that turns out to be damaged while its layers are computed: the text is read again, and the answer is right.
TEST(StoredContexts, DamageIsReadAgain) {
  const StoreFolder folder;
  const std::vector<int32_t> query = random_tokens(12, 3);
  const std::vector<std::vector<int32_t>> texts = {random_tokens(70, 4), random_tokens(128, 6)};
  for (const ContextReuse& reuse : {ContextReuse(ParallelContextsOptions()), ContextReuse(CacheBlendOptions{.ratio = 0.2f})}) {
    const auto request = [&] { return Request{.tokens = query, .most_new_tokens = 8, .contexts = {{{}, texts, reuse}}}; };
    const Answer right = ask(*make_engine(stored_options(folder.open())), request());
    for (const auto& entry : std::filesystem::directory_iterator(folder.path / "chunks")) {
      if (entry.path().extension() != ".kv") continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(entry.file_size()) - 4000);
      file.put('x').put('y').put('z');
    }
    const auto engine = make_engine(stored_options(folder.open()));
    Told other;
    ASSERT_TRUE(engine->submit({.tokens = random_tokens(30, 9), .most_new_tokens = 5, .ignore_end = true}, listen(other)).ok());
    const Answer answer = ask(*engine, request());
    EXPECT_EQ(answer.last.finish, Finish::length) << answer.last.status.message();
    expect_near(answer, right, 0);
    EXPECT_EQ(answer.last.contexts->tokens, (std::map<std::string, int32_t>{{"read", 70 + 128}}));
    EXPECT_EQ(engine->statistics().context_failures, 1);
    EXPECT_EQ(other.ends, 1);
    EXPECT_TRUE(other.last.status.ok());
    expect_no_pages(*engine);
  }
}

// From a slow device more is computed again while it loads, and from a very slow one nothing is loaded.
TEST(StoredContexts, MoreIsComputedWhereLoadingTakesLonger) {
  const StoreFolder folder;
  Blend blend;
  blend.texts = {random_tokens(150, 60), random_tokens(140, 61), random_tokens(90, 70)};
  blend.query = random_tokens(9, 50);
  const CacheBlendOptions asked{.ratio = 0.1f, .hide_loading = true};
  const auto make = [&](double rate) {
    EngineOptions options = stored_options(folder.open());
    options.chunk_bytes_per_second = rate;
    options.cost = std::make_shared<LinearStepCost>(StepWeights{.per_prefill_row_layer = 1e-4});
    return make_engine(std::move(options));
  };
  (void)ask(*make(0), blend.request(asked, 1));
  const auto bytes = static_cast<double>(ask(*make(0), blend.request(asked, 1)).last.contexts->loaded_bytes);
  // What reading the contexts takes by the step model.
  const double prefill = 1e-4 * 380 * make(0)->model().config().layers;
  // From a device that takes this share of it to load them.
  const auto ratio_at = [&](double share) {
    const auto engine = make(bytes / (share * prefill));
    // The engine learns how quick the device is from another request.
    Blend other = blend;
    other.texts.resize(1);
    (void)ask(*engine, other.request(asked, 1));
    other.texts = {blend.texts[1], blend.texts[2]};
    return ask(*engine, other.request(asked, 4)).last;
  };
  EXPECT_NEAR(ratio_at(0.01).blend->ratio, 0.1f, 1e-6);
  const Event slow = ratio_at(0.6);
  EXPECT_GT(slow.blend->ratio, 0.3f);
  EXPECT_LT(slow.blend->ratio, 0.95f);
  const Event slowest = ratio_at(3);
  EXPECT_EQ(slowest.contexts->loaded_bytes, 0);
  EXPECT_EQ(slowest.blend->reused_tokens, 0);
}

// Slow loading holds up nobody else, and requests that end meanwhile leave nothing.
TEST(StoredContexts, InABusyEngine) {
  const StoreFolder folder;
  const auto alone = make_engine(reference_options());
  const auto request_number = [](int i) {
    Blend blend;
    blend.texts = {random_tokens(80 + i % 2, 60 + i % 2), random_tokens(40, 61), random_tokens(90, 70 + i % 3)};
    blend.query = random_tokens(5 + i, 50 + i);
    return blend.request({.ratio = i % 2 == 0 ? 0.0f : 0.3f}, 6);
  };
  for (int i = 0; i < 6; ++i) (void)ask(*make_engine(stored_options(folder.open())), request_number(i));
  EngineOptions options = stored_options(folder.open(), 2048);
  options.chunk_bytes_per_second = 3e7;
  const auto busy = make_engine(std::move(options));
  std::vector<Told> told(12), others(12);
  std::vector<RequestId> ids;
  for (int i = 0; i < 12; ++i) {
    ids.push_back(*busy->submit(request_number(i), listen(told[i])));
    ASSERT_TRUE(busy->submit({.tokens = random_tokens(30 + i, i), .most_new_tokens = 20, .ignore_end = true}, listen(others[i])).ok());
  }
  for (int step = 0; busy->has_work(); ++step) {
    ASSERT_TRUE(busy->step().ok());
    if (step == 3) busy->cancel(ids[1]);
    if (step == 40) busy->cancel(ids[5]);
  }
  int loaded = 0;
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(told[i].ends, 1);
    EXPECT_EQ(others[i].tokens, answer(*alone, {.tokens = random_tokens(30 + i, i), .most_new_tokens = 20, .ignore_end = true}).tokens);
    if (i == 1 || i == 5) continue;
    EXPECT_TRUE(told[i].last.status.ok()) << told[i].last.status.message();
    EXPECT_EQ(told[i].last.contexts->tokens.count("read"), 0u);
    loaded += static_cast<int>(told[i].last.contexts->tokens.count("disk"));
    if (i % 2 == 0) {
      EXPECT_EQ(told[i].tokens, answer(*alone, request_number(i)).tokens) << i;
    }
  }
  EXPECT_GT(loaded, 0);
  expect_no_pages(*busy);
}

}  // namespace
}  // namespace onset
