// Prompts whose answers are known: they have their answer once, where it is meant to be, and the length that was asked for.
#include "onset/engine/long_tasks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

constexpr LongTask tasks[] = {LongTask::needle, LongTask::passkey, LongTask::variables, LongTask::pairs, LongTask::two_facts};

size_t times(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Where a part of the text begins, 0 to 1.
double depth_of(const std::string& text, const std::string& part) {
  return static_cast<double>(text.find(part)) / static_cast<double>(text.size());
}

TEST(Haystack, CutsATextIntoSentencesAndPutsNothingIntoThem) {
  const auto haystack = Haystack::of_text("It rains. \"Does it?\" she asked.\n\nA heading\n\nIt is 3.5 degrees! The end");
  ASSERT_TRUE(haystack.ok());
  EXPECT_EQ(haystack->sentences(), 6u);
  EXPECT_EQ(haystack->text(4, 4, {}), "It is 3.5 degrees! The end\nIt rains. \"Does it?\" ");
  const std::vector<HiddenSentence> hidden = {{"Late.", 1}, {"Half.", 0.5}, {"Also half.", 0.5}, {"Early.", 0}};
  EXPECT_EQ(haystack->text(0, 2, hidden), "Early. It rains. Half. Also half. \"Does it?\" Late. ");
  EXPECT_EQ(Haystack::of_text("One sentence").status().code(), Code::invalid_argument);
  EXPECT_EQ(Haystack::of_text("").status().code(), Code::invalid_argument);
}

TEST(LongTasks, NamesAreThoseOfTheCommandLine) {
  for (const LongTask task : tasks) EXPECT_EQ(long_task(long_task_name(task)), task);
  EXPECT_EQ(long_task("needles"), std::nullopt);
}

TEST(LongTasks, TheAnswerStandsOnceAtItsDepth) {
  const Haystack noise = Haystack::noise();
  constexpr int64_t units = 200;
  for (const LongTask task : {LongTask::needle, LongTask::passkey, LongTask::pairs, LongTask::two_facts}) {
    for (const double depth : {0.0, 0.3, 1.0}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const DraftPrompt draft(task, noise, depth, seed, 3);
        const std::string message = draft.message(units), answer = draft.references().back();
        EXPECT_EQ(times(message, answer), 1u) << long_task_name(task) << " " << seed;
        // The instructions and the question take some of the text.
        EXPECT_NEAR(depth_of(message, answer), depth, 0.06) << long_task_name(task) << " " << seed;
        EXPECT_NE(draft.answer().find(answer), std::string::npos);
        ASSERT_EQ(draft.others().size(), 3u);
        for (const std::string& other : draft.others()) EXPECT_NE(other, draft.answer());
      }
    }
  }
}

TEST(LongTasks, AReaderOfThePromptFindsTheAnswer) {
  const Haystack noise = Haystack::noise();
  for (uint64_t seed = 0; seed < 30; ++seed) {
    std::smatch match;
    const DraftPrompt needle(LongTask::needle, noise, 0.4, seed, 3);
    const std::string text = needle.message(100);
    ASSERT_TRUE(std::regex_search(text, match, std::regex(R"(What is the secret number of the ([a-z ]+) that)")));
    const std::regex fact("The secret number of the " + match[1].str() + " is (\\d{7})\\.");
    ASSERT_TRUE(std::regex_search(text, match, fact));
    EXPECT_EQ(" " + match[1].str(), needle.answer());

    const DraftPrompt pairs(LongTask::pairs, noise, 0.7, seed, 3);
    const std::string json = pairs.message(60);
    ASSERT_TRUE(std::regex_search(json, match, std::regex(R"(value of the key ("[0-9a-f]{8}")\?)")));
    const std::regex pair(match[1].str() + ": \"(\\d{5})\"");
    ASSERT_TRUE(std::regex_search(json, match, pair));
    EXPECT_EQ(match[1].str(), pairs.answer());
    for (const std::string& other : pairs.others()) EXPECT_EQ(times(json, "\"" + other + "\""), 1u);
  }
}

TEST(LongTasks, AValueIsHandedOnFourTimesInOrder) {
  const Haystack noise = Haystack::noise();
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const DraftPrompt draft(LongTask::variables, noise, 0, seed, 2);
    const std::string text = draft.message(100);
    std::smatch match;
    ASSERT_TRUE(std::regex_search(text, match, std::regex(R"(Which variables have the value (\d{5})\?)")));
    std::string value = match[1];
    std::vector<std::string> chain;
    size_t before = 0;
    while (std::regex_search(text, match, std::regex("VAR ([A-Z]{5}) = " + value + "\\."))) {
      EXPECT_GT(static_cast<size_t>(match.position()), before);
      before = match.position();
      chain.push_back(match[1]);
      value = "VAR " + chain.back();
    }
    EXPECT_EQ(chain, draft.references());
    EXPECT_EQ(chain.size(), 5u);
  }
}

TEST(LongTasks, TheSeedDecides) {
  const Haystack noise = Haystack::noise();
  for (const LongTask task : tasks) {
    const DraftPrompt one(task, noise, 0.5, 7, 3), same(task, noise, 0.5, 7, 3), other(task, noise, 0.5, 8, 3);
    EXPECT_EQ(one.message(50), same.message(50));
    EXPECT_EQ(one.others(), same.others());
    EXPECT_NE(one.answer(), other.answer());
    // A longer prompt asks the same.
    EXPECT_EQ(one.reply(), DraftPrompt(task, noise, 0.5, 7, 0).reply());
  }
}

TEST(LongTasks, FillTheLengthToTheLastSentence) {
  const auto engine = make_engine(test_options());
  const Haystack noise = Haystack::noise();
  const Tokenizer& tokenizer = *engine->tokenizer();
  for (const LongTask task : tasks) {
    const DraftPrompt draft(task, noise, 0.5, 3, 2);
    for (const int32_t length : {600, 1000, 1501}) {
      const auto item = long_item(*engine, {}, draft, length);
      ASSERT_TRUE(item.ok()) << item.status().message();
      const auto tokens = static_cast<int32_t>(item->prompt.size()) + item->most_new_tokens;
      EXPECT_LE(tokens, length);
      EXPECT_GT(tokens, length - 60) << long_task_name(task);  // a sentence, or a pair
      EXPECT_EQ(item->answers.size(), 3u);
      const auto reply = tokenizer.decode(item->answers[0], {.text_start = false});
      ASSERT_TRUE(reply.ok());
      EXPECT_EQ(*reply, draft.answer());
    }
    EXPECT_EQ(long_item(*engine, {}, draft, 40).status().code(), Code::invalid_argument);
  }
}

TEST(LongTasks, TokensThatFollowATextAreThoseBeyondIt) {
  const auto engine = make_engine(test_options());
  const Tokenizer& tokenizer = *engine->tokenizer();
  const auto after = following_tokens(tokenizer, "Once upon a", " time");
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(*tokenizer.decode(*after, {.text_start = false}), " time");
  EXPECT_EQ(following_tokens(tokenizer, "Once upon a ti", "me").status().code(), Code::unsupported);
  EXPECT_EQ(following_tokens(tokenizer, "Once", "").status().code(), Code::unsupported);
}

TEST(LongTasks, AWindowOfATextIsScoredAtItsEnd) {
  const auto engine = make_engine(test_options());
  const std::vector<int32_t> window = random_tokens(100, 5);
  const LongItem item = text_item(*engine, window, 30);
  ASSERT_TRUE(engine->tokenizer()->add_bos());
  EXPECT_EQ(item.prompt.size(), 70u);
  EXPECT_EQ(item.prompt[0], *engine->tokenizer()->bos());
  EXPECT_TRUE(std::equal(item.prompt.begin() + 1, item.prompt.end(), window.begin() + 1));
  ASSERT_EQ(item.answers.size(), 1u);
  EXPECT_TRUE(std::equal(item.answers[0].begin(), item.answers[0].end(), window.begin() + 70));
}

}  // namespace
}  // namespace onset
