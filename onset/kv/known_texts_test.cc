#include "onset/kv/known_texts.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <filesystem>
#include <numeric>
#include <random>

#include "onset/kv/chunk_folder.h"
#include "onset/kv/chunk_testing.h"
#include "onset/kv/stored_texts.h"

namespace onset {
namespace {

std::vector<int32_t> counting(int32_t first, int32_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<int32_t> join(std::initializer_list<std::vector<int32_t>> parts) {
  std::vector<int32_t> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(KnownTexts, AreFoundByTheirNamesInTheirSpace) {
  KnownTexts known;
  const std::vector<int32_t> text = counting(0, 10);
  const std::string id = known.add("a", text);
  EXPECT_EQ(id, text_id(text));
  EXPECT_EQ(id.size(), 4u + 32);
  EXPECT_EQ(known.add("a", text), id);
  EXPECT_EQ(known.tokens(), 10);
  ASSERT_NE(known.find("a", id), nullptr);
  EXPECT_EQ(*known.find("a", id), text);
  EXPECT_EQ(known.find("b", id), nullptr);
  EXPECT_EQ(known.find("a", text_id(counting(1, 10))), nullptr);
}

TEST(KnownTexts, StandAnywhereInAPrompt) {
  KnownTexts known;
  const auto first = counting(1000, 100), second = counting(2000, 333);
  known.add("", first);
  known.add("", second);
  const auto prompt = join({counting(1, 7), second, counting(50, 3), first, first, counting(90, 40)});
  const auto parts = known.find_in("", prompt, 64);
  ASSERT_EQ(parts.size(), 3u);
  const int32_t begins[] = {7, 343, 443}, counts[] = {333, 100, 100};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(parts[i].begin, begins[i]);
    EXPECT_EQ(parts[i].from, 0);
    EXPECT_EQ(parts[i].count, counts[i]);
    EXPECT_EQ(*parts[i].text, i == 0 ? second : first);
  }
  EXPECT_TRUE(known.find_in("other", prompt, 64).empty());
  EXPECT_TRUE(known.find_in("", prompt, 400).empty());
  EXPECT_TRUE(known.find_in("", std::span(prompt).first(20), 1).empty());
}

// Tokens at the ends are others where a text's neighbours make them so.
TEST(KnownTexts, PartsOfThemAreFound) {
  KnownTexts known;
  const auto text = counting(1000, 200);
  known.add("", text);
  const auto prompt = join({counting(1, 5), counting(1001, 120), counting(1, 9), counting(1140, 59)});
  const auto parts = known.find_in("", prompt, 50);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(std::tuple(parts[0].begin, parts[0].from, parts[0].count), std::tuple(5, 1, 120));
  EXPECT_EQ(std::tuple(parts[1].begin, parts[1].from, parts[1].count), std::tuple(134, 140, 59));
}

TEST(KnownTexts, TheLeastRecentlyUsedGo) {
  KnownTexts known(100);
  const auto a = counting(0, 40), b = counting(100, 40), c = counting(200, 40);
  const std::string first = known.add("", a), second = known.add("", b);
  known.find("", first);
  known.add("", c);
  EXPECT_EQ(known.find("", second), nullptr);
  EXPECT_NE(known.find("", first), nullptr);
  EXPECT_TRUE(known.find_in("", b, 32).empty());
  EXPECT_EQ(known.find_in("", a, 32).size(), 1u);
  EXPECT_EQ(known.tokens(), 80);
  known.add("", counting(1000, 101));
  EXPECT_EQ(known.tokens(), 80);
}

// Few different tokens, so that windows and hashes meet again and again.
RC_GTEST_PROP(KnownTexts, FindsWhatIsThereAndOnlyThat, ()) {
  const auto tokens = [](int least, int most) {
    const int count = *rc::gen::inRange(least, most);
    return *rc::gen::container<std::vector<int32_t>>(count, rc::gen::inRange(0, 3));
  };
  KnownTexts known;
  std::vector<std::vector<int32_t>> texts;
  for (int i = *rc::gen::inRange(1, 4); i > 0; --i) {
    texts.push_back(tokens(32, 150));
    known.add("", texts.back());
  }
  std::vector<int32_t> prompt;
  for (int i = *rc::gen::inRange(1, 5); i > 0; --i) {
    const auto between = tokens(0, 20);
    const auto& text = texts[*rc::gen::inRange<size_t>(0, texts.size())];
    prompt.insert(prompt.end(), between.begin(), between.end());
    prompt.insert(prompt.end(), text.begin(), text.end());
  }
  const auto parts = known.find_in("", prompt, KnownTexts::window);
  RC_ASSERT(!parts.empty());
  int32_t earliest = 0, found = 0;
  for (const KnownPart& part : parts) {
    RC_ASSERT(part.begin >= earliest && part.count >= KnownTexts::window);
    RC_ASSERT(std::equal(prompt.begin() + part.begin, prompt.begin() + part.begin + part.count, part.text->begin() + part.from));
    earliest = part.begin + part.count;
    found += part.count;
  }
  RC_ASSERT(earliest <= static_cast<int32_t>(prompt.size()));
  RC_ASSERT(found > 0);
}

class StoredTextsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("onset_stored_texts_{}", ::getpid());
    std::filesystem::remove_all(folder_);
    auto store = ChunkFolder::open(folder_, int64_t{1} << 30);
    ASSERT_TRUE(store.ok()) << store.status().message();
    store_ = *std::move(store);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
  std::shared_ptr<ChunkFolder> store_;
  KnownTexts known_;
};

TEST_F(StoredTextsTest, WhatAStoreHasIsKnownToThoseWhoseItIs) {
  NumberedChunk mine(1), theirs(2),
      foreign(3, 70, {.model = "another", .type = KvType::f32, .layers = 3, .head_groups = 2, .heads_per_group = 1, .head_size = 4});
  theirs.chunk.text.space = "theirs";
  for (const NumberedChunk* chunk : {&mine, &theirs, &foreign}) ASSERT_TRUE(store_->put(chunk->chunk).ok());
  StoredTexts stored({store_}, small_identity(), known_, std::chrono::milliseconds(0));
  const auto knows = [&](const std::string& space, const NumberedChunk& chunk) {
    return known_.find(space, text_id(chunk.chunk.text.tokens)) != nullptr;
  };
  stored.want("");
  stored.look();
  EXPECT_TRUE(knows("", mine));
  EXPECT_FALSE(knows("", theirs));
  EXPECT_FALSE(knows("", foreign));
  stored.want("theirs");
  const NumberedChunk later(4);
  ASSERT_TRUE(store_->put(later.chunk).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(600));  // not asked again at once
  stored.look();
  EXPECT_TRUE(knows("theirs", theirs));
  EXPECT_FALSE(knows("theirs", mine));
  EXPECT_TRUE(knows("", later));
}

TEST_F(StoredTextsTest, ItsThreadLooksWhenASpaceIsWanted) {
  const NumberedChunk chunk(1);
  ASSERT_TRUE(store_->put(chunk.chunk).ok());
  StoredTexts stored({store_}, small_identity(), known_, std::chrono::hours(1));
  stored.want("");
  const std::string id = text_id(chunk.chunk.text.tokens);
  while (known_.find("", id) == nullptr) std::this_thread::yield();
}

}  // namespace
}  // namespace onset
