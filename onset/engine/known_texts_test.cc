// Known texts inside ordinary prompts (EngineOptions::reuse_auto), and contexts whose parts a prompt has.
#include <gtest/gtest.h>

#include <filesystem>

#include "onset/engine/engine.h"
#include "onset/engine/testing.h"
#include "onset/kv/chunk_folder.h"

namespace onset {
namespace {

using namespace onset::testing;

EngineOptions automatic(float ratio) {
  EngineOptions options = test_options();
  options.precision = Precision::reference;
  options.pool_tokens = 4096;
  options.reuse_auto = CacheBlendOptions{.ratio = ratio};
  return options;
}

Request plain(std::vector<int32_t> tokens) {
  return {.tokens = std::move(tokens), .most_new_tokens = 12, .ignore_end = true};
}

void append(std::vector<int32_t>& all, const std::vector<int32_t>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

// A prompt with two texts in it, of which the first has lost its first token and the second its last two.
struct Prompt {
  std::vector<int32_t> first = random_tokens(90, 4), second = random_tokens(130, 5);
  std::vector<int32_t> tokens() const {
    std::vector<int32_t> all = random_tokens(37, 1);
    all.insert(all.end(), first.begin() + 1, first.end());
    append(all, random_tokens(5, 2));
    all.insert(all.end(), second.begin(), second.end() - 2);
    append(all, random_tokens(21, 3));
    return all;
  }
  Contexts contexts(float ratio) const {
    return {.prefix = {}, .texts = {first, second}, .reuse = CacheBlendOptions{.ratio = ratio}, .places = {{37, 1, 89}, {131, 0, 128}}};
  }
  // Somebody's contexts: from now on they are known.
  void make_known(Engine& engine, const std::string& space = {}) const {
    Request request{.tokens = random_tokens(3, 9), .most_new_tokens = 0};
    request.contexts = Contexts{.prefix = {}, .texts = {second, first}, .reuse = CacheBlendOptions{.ratio = 0}};
    request.space = space;
    (void)answer(engine, std::move(request));
  }
};

TEST(KnownTextsInPrompts, AreBlendedWhereTheyStand) {
  const Prompt prompt;
  const auto engine = make_engine(automatic(0.2f)), other = make_engine(automatic(0.2f));
  prompt.make_known(*engine);
  const Told found = answer(*engine, plain(prompt.tokens()));
  ASSERT_NE(found.last.blend, nullptr);
  EXPECT_EQ(found.last.blend->reused_tokens, 89 + 128);
  EXPECT_EQ(found.last.blend->recomputed[1], 43);
  EXPECT_EQ(found.last.cached_tokens, 89 + 128);
  EXPECT_EQ(found.last.prompt_tokens, static_cast<int32_t>(prompt.tokens().size()));
  EXPECT_EQ(found.last.context_tokens, 0);
  EXPECT_EQ(found.last.contexts->tokens.at("memory"), 89 + 128);
  EXPECT_GT(found.last.contexts->find_seconds, 0);
  // As somebody would have it who says where they stand.
  Request said = plain(prompt.tokens());
  said.contexts = prompt.contexts(0.2f);
  const Told placed = answer(*other, std::move(said));
  EXPECT_EQ(placed.tokens, found.tokens);
  EXPECT_EQ(placed.last.contexts->tokens.at("read"), 89 + 128);
  // What stands before them was computed as ever, and is shared.
  const Told again = answer(*engine, plain(prompt.tokens()));
  EXPECT_EQ(again.tokens, found.tokens);
  EXPECT_EQ(again.last.cached_tokens, 37 + 89 + 128);
  expect_no_pages(*engine);
}

TEST(KnownTextsInPrompts, AllComputedAgainAreThePromptAsItIs) {
  const Prompt prompt;
  const auto engine = make_engine(automatic(1));
  prompt.make_known(*engine);
  EngineOptions options = automatic(0);
  options.reuse_auto.reset();
  EXPECT_EQ(answer(*engine, plain(prompt.tokens())).tokens, answer(*make_engine(std::move(options)), plain(prompt.tokens())).tokens);
}

// A prompt without them, another's, one that was read before, and texts that are known but whose keys and values are not there.
TEST(KnownTextsInPrompts, NothingIsFoundWhereNothingIs) {
  const Prompt prompt;
  EngineOptions options = automatic(0);
  options.reuse_auto.reset();
  const auto usual = make_engine(std::move(options));
  const Told expected = answer(*usual, plain(prompt.tokens()));
  const auto engine = make_engine(automatic(0));
  EXPECT_EQ(answer(*engine, plain(prompt.tokens())).tokens, expected.tokens);
  prompt.make_known(*engine);
  const Told exact = answer(*engine, plain(prompt.tokens()));
  EXPECT_EQ(exact.tokens, expected.tokens);
  EXPECT_EQ(exact.last.blend, nullptr);  // the prefix cache has it
  Request others = plain(prompt.tokens());
  others.space = "another";
  EXPECT_EQ(answer(*engine, std::move(others)).last.blend, nullptr);

  const auto side_by_side = make_engine(automatic(0));
  Request ape{.tokens = random_tokens(3, 9), .most_new_tokens = 0};
  ape.contexts = Contexts{.prefix = random_tokens(4, 8), .texts = {prompt.first}, .reuse = ParallelContextsOptions()};
  (void)answer(*side_by_side, std::move(ape));
  const Told computed = answer(*side_by_side, plain(prompt.tokens()));
  EXPECT_EQ(computed.tokens, expected.tokens);
  ASSERT_NE(computed.last.blend, nullptr);
  EXPECT_EQ(computed.last.blend->reused_tokens, 0);
  // It was computed as ever, and is shared.
  EXPECT_EQ(answer(*side_by_side, plain(prompt.tokens())).last.cached_tokens, static_cast<int32_t>(prompt.tokens().size()) - 1);
  expect_no_pages(*side_by_side);
}

TEST(KnownTextsInPrompts, AreLoadedFromStores) {
  std::string name = (std::filesystem::temp_directory_path() / "onset-known-XXXXXX").string();
  const std::filesystem::path folder = mkdtemp(name.data());
  const auto with_store = [&] {
    EngineOptions options = automatic(0.2f);
    options.chunk_stores = {*ChunkFolder::open(folder, int64_t{1} << 30)};
    return options;
  };
  const Prompt prompt;
  Told first;
  {
    const auto engine = make_engine(with_store());
    prompt.make_known(*engine);
    first = answer(*engine, plain(prompt.tokens()));
  }
  const auto engine = make_engine(with_store());
  EXPECT_NE(engine->known_text("", text_id(prompt.first)), nullptr);
  EXPECT_EQ(engine->known_text("another", text_id(prompt.first)), nullptr);
  const Told loaded = answer(*engine, plain(prompt.tokens()));
  EXPECT_EQ(loaded.tokens, first.tokens);
  EXPECT_EQ(loaded.last.contexts->tokens.at("disk"), 89 + 128);
  std::filesystem::remove_all(folder);
  expect_no_pages(*engine);
}

// The pool has room for the prompts and not for the texts beside them: nobody is refused.
TEST(KnownTextsInPrompts, InASmallAndBusyPool) {
  const Prompt prompt;
  EngineOptions options = automatic(0.2f);
  options.pool_tokens = 640;
  options.scheduling.token_budget = 48;
  const auto engine = make_engine(std::move(options));
  prompt.make_known(*engine);
  std::vector<Told> told(8);
  for (int i = 0; i < 8; ++i) {
    std::vector<int32_t> tokens = prompt.tokens();
    append(tokens, random_tokens(40 * (i % 3), i));
    ASSERT_TRUE(engine->submit(plain(tokens), listen(told[i])).ok());
  }
  run_all(*engine);
  for (const Told& each : told) {
    EXPECT_EQ(each.ends, 1);
    EXPECT_TRUE(each.last.status.ok()) << each.last.status.message();
    EXPECT_EQ(each.tokens.size(), 12u);
  }
  expect_no_pages(*engine);
}

TEST(KnownTextsInPrompts, PlacesThatAreWrongAreRefused) {
  const Prompt prompt;
  const auto engine = make_engine(automatic(0));
  const auto refusal = [&](auto change) {
    Request request = plain(prompt.tokens());
    request.contexts = prompt.contexts(0.2f);
    change(*request.contexts);
    const auto id = engine->submit(std::move(request), {});
    return id.ok() ? std::string() : id.status().message();
  };
  const std::string first = "the prompt does not have tokens 1 to 90 of context 1 at ";
  EXPECT_EQ(refusal([](Contexts& contexts) { contexts.places[0].begin = 38; }), first + "38");
  EXPECT_EQ(refusal([](Contexts& contexts) { contexts.places[0].begin = 100000; }), first + "100000");
  EXPECT_EQ(refusal([](Contexts& contexts) { contexts.places[0].begin = -1; }), first + "-1");
  EXPECT_EQ(refusal([](Contexts& contexts) { contexts.places[0].count = 0; }), "the prompt does not have tokens 1 to 1 of context 1 at 37");
  EXPECT_EQ(refusal([](Contexts& contexts) { std::swap(contexts.places[0], contexts.places[1]); }),
            "the prompt does not have tokens 0 to 128 of context 1 at 131");
  EXPECT_EQ(refusal([](Contexts& contexts) { contexts.places.pop_back(); }),
            "places go with cacheblend, without a prefix, and with one text each: 1 places, 2 texts");
  EXPECT_EQ(refusal([](Contexts& contexts) { contexts.reuse = ParallelContextsOptions(); }),
            "places go with cacheblend, without a prefix, and with one text each: 2 places, 2 texts");
  expect_no_pages(*engine);
}

}  // namespace
}  // namespace onset
