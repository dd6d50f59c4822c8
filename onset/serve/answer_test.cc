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

AnswerForm calling() {
  AnswerForm calls = form(true);
  calls.include_usage = false;
  calls.tool_form = ToolCallForm::hermes;
  calls.functions = {"add"};
  return calls;
}
const std::vector<std::string> call_pieces = {"Let me see.\n<tool_", "call>\n{\"name\": \"add\", \"arg",
                                              "uments\": {\"a\": ", "1}}\n</tool_call>"};

TEST(Answer, CallsOfToolsAreToldApart) {
  WholeAnswer answer(calling());
  for (const std::string& piece : call_pieces) answer.add(0, said(piece));
  answer.add(0, said("", Finish::stop));
  const Json choice = Json::parse(*answer.body())["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "Let me see.");
  const Json call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["function"], Json::parse(R"({"name": "add", "arguments": "{\"a\": 1}"})"));
  EXPECT_TRUE(call["id"].get<std::string>().starts_with("call_"));
}

TEST(Answer, CallsOfToolsAreStreamed) {
  StreamedAnswer answer(calling());
  std::string out, content, name, arguments;
  for (const std::string& piece : call_pieces) {
    answer.add(0, said(piece));
    if (answer.ready()) answer.write(out);
  }
  answer.add(0, said("", Finish::stop));
  answer.write(out);
  const std::vector<Json> all = chunks(out);
  for (const Json& chunk : all) {
    const Json& delta = chunk["choices"][0]["delta"];
    content += delta.value("content", "");
    if (!delta.contains("tool_calls")) continue;
    EXPECT_EQ(delta["tool_calls"][0]["index"], 0);
    name += delta["tool_calls"][0]["function"].value("name", "");
    arguments += delta["tool_calls"][0]["function"]["arguments"].get<std::string>();
  }
  EXPECT_EQ(content, "Let me see.");
  EXPECT_EQ(name, "add");
  EXPECT_EQ(Json::parse(arguments), Json::parse(R"({"a": 1})"));
  EXPECT_EQ(all.back()["choices"][0]["finish_reason"], "tool_calls");
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
  EXPECT_EQ(
      body["usage"],
      Json::parse(R"({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}})"));
}

}  // namespace
}  // namespace onset::serve
