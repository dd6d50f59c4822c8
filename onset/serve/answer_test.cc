#include "onset/serve/answer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace onset::serve {
namespace {

using Json = nlohmann::ordered_json;

Event said(std::string text, Finish finish = Finish::none) {
  Event event;
  event.text = std::move(text);
  event.token = SampledToken{.token = 1, .logprob = 0, .alternatives = {}};
  event.finish = finish;
  return event;
}

AnswerForm form(bool chat, int32_t choices = 1) {
  return {.chat = chat, .id = "x-1", .model = "a\"b", .created = 7, .choices = choices, .prompt_tokens = 5, .include_usage = true};
}

// The stream's events; the last must be [DONE].
std::vector<Json> chunks(const std::string& stream) {
  std::vector<Json> found;
  size_t begin = 0;
  for (size_t end; (end = stream.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
    const std::string event = stream.substr(begin, end - begin);
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    if (event != "data: [DONE]") found.push_back(Json::parse(event.substr(6)));
  }
  EXPECT_EQ(begin, stream.size());
  return found;
}

TEST(Answer, WhatWaitsIsJoinedIntoOneChunk) {
  StreamedAnswer answer(form(true));
  EXPECT_FALSE(answer.ready());
  std::string out;
  answer.add(0, said("one "));
  answer.write(out);
  EXPECT_EQ(answer.waiting_bytes(), 0u);
  for (const char* word : {"two ", "three ", "four"}) answer.add(0, said(word));
  EXPECT_GE(answer.waiting_bytes(), 14u);
  answer.add(0, said("", Finish::stop));
  answer.write(out);
  const std::vector<Json> all = chunks(out);
  ASSERT_EQ(all.size(), 5u);  // role, "one ", the rest, the end, usage
  EXPECT_EQ(all[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(all[1]["choices"][0]["delta"]["content"], "one ");
  EXPECT_EQ(all[2]["choices"][0]["delta"]["content"], "two three four");
  EXPECT_EQ(all[3]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(all[4]["usage"]["completion_tokens"], 5);
  EXPECT_EQ(all[4]["model"], "a\"b");
  EXPECT_TRUE(out.ends_with("data: [DONE]\n\n"));
}

TEST(Answer, ATokenInTheMiddleOfACharacterSaysNothing) {
  StreamedAnswer answer(form(false));
  std::string out;
  answer.add(0, said("a"));
  answer.write(out);
  answer.add(0, said(""));
  EXPECT_FALSE(answer.ready());
}

TEST(Answer, ChoicesEndOneByOne) {
  StreamedAnswer answer(form(false, 2));
  std::string out;
  answer.add(1, said("b", Finish::length));
  answer.write(out);
  EXPECT_FALSE(answer.done());
  EXPECT_EQ(out.find("[DONE]"), std::string::npos);
  answer.add(0, said("a", Finish::stop));
  answer.write(out);
  const std::vector<Json> all = chunks(out);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0]["choices"][0], Json::parse(R"({"index": 1, "text": "b", "logprobs": null, "finish_reason": "length"})"));
  EXPECT_EQ(all[1]["choices"][0]["index"], 0);
}

TEST(Answer, AFailureEndsTheStreamWithAnError) {
  StreamedAnswer answer(form(false));
  std::string out;
  answer.add(0, said("a"));
  answer.write(out);
  Event failed;
  failed.finish = Finish::failed;
  failed.status = Status(Code::failed, "the model's logits are not finite");
  answer.add(0, failed);
  EXPECT_TRUE(answer.done());
  answer.add(0, said("late"));
  answer.write(out);
  const std::vector<Json> all = chunks(out);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1]["error"]["message"], "the model's logits are not finite");
  EXPECT_EQ(answer.error()->status, 500);
}

TEST(Answer, WholeAnswersAreOneObject) {
  WholeAnswer answer(form(true, 2));
  answer.add(1, said("second", Finish::length));
  answer.add(0, said("fir"));
  EXPECT_FALSE(answer.done());
  answer.add(0, said("st\n\x01", Finish::stop));
  ASSERT_TRUE(answer.done());
  const Json body = Json::parse(*answer.body());
  EXPECT_EQ(body["choices"][0]["message"]["content"], "first\n\x01");
  EXPECT_EQ(body["choices"][1]["message"]["content"], "second");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(body["usage"], Json::parse(R"({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})"));
}

}  // namespace
}  // namespace onset::serve
