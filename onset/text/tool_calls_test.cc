#include "onset/text/tool_calls.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

namespace onset {
namespace {

using Kind = ToolCallEvent::Kind;

// What an answer says, pieces put together: "text", [name(arguments)] for a call, [name(arguments!] for a
// broken one.
std::string told(const std::vector<ToolCallEvent>& events) {
  std::string text;
  int32_t calls = 0;
  for (const ToolCallEvent& event : events) {
    switch (event.kind) {
      case Kind::content:
        text += event.text;
        break;
      case Kind::begin:
        text += "[" + event.text + "(";
        break;
      case Kind::arguments:
        text += event.text;
        break;
      case Kind::end:
        text += ")]";
        break;
      case Kind::broken:
        text += "!]";
        break;
    }
    if (event.kind != Kind::content) {
      EXPECT_EQ(event.call, calls);
    }
    if (event.kind == Kind::end || event.kind == Kind::broken) ++calls;
  }
  return text;
}

const std::vector<std::string> functions{"add", "get weather", "now"};

std::string parsed(ToolCallForm form, std::string_view answer, size_t piece) {
  ToolCallParser parser(form, functions);
  std::vector<ToolCallEvent> events;
  for (size_t at = 0; at < answer.size(); at += piece) {
    for (ToolCallEvent& event : parser.push(answer.substr(at, piece))) events.push_back(std::move(event));
  }
  for (ToolCallEvent& event : parser.finish()) events.push_back(std::move(event));
  return told(events);
}

// The same however the answer is cut.
void expect(ToolCallForm form, std::string_view answer, std::string_view expected) {
  for (const size_t piece : {answer.size(), size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{20}}) {
    if (piece > 0) {
      EXPECT_EQ(parsed(form, answer, piece), expected) << "pieces of " << piece << " of " << answer;
    }
  }
}

TEST(ToolCalls, Hermes) {
  const auto is = [](std::string_view answer, std::string_view expected) { expect(ToolCallForm::hermes, answer, expected); };
  is("Just text.", "Just text.");
  is("<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, {}]}}\n</tool_call>", "[add({\"a\": 1, \"b\": [2, {}]})]");
  is("Let me see.\n<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>\n", "Let me see.[now({})]");
  is("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", "
     "\"arguments\": {\"a\": \"}\\\"\"}}\n</tool_call>",
     "[now({})][add({\"a\": \"}\\\"\"})]");
  is("<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"add\"}</tool_call> done", "[add({\"x\": 1})]done");
  is("<tool_call>{\"type\": \"function\", \"name\": \"get weather\", \"arguments\": {\"x\": 1}, \"id\": "
     "\"7\"}</tool_call>",
     "[get weather({\"x\": 1})]");
}

TEST(ToolCalls, WhatIsNoCallIsContent) {
  const auto is = [](std::string_view answer, std::string_view expected) { expect(ToolCallForm::hermes, answer, expected); };
  for (const char* answer :
       {"a < b <tool", " <tool_call>", "x\n<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>", "<tool_call>\nno</tool_call>",
        "<tool_call>{\"name\": \"add\", \"arguments\": \"x\"}</tool_call>", "<tool_call>{\"name\": \"add\"}</tool_call>",
        "<tool_call>{\"city\": 1}</tool_call>", "  trailing \n", "<tool_call>{\"name\": \"add\", \"argum"}) {
    is(answer, answer);
  }
  // A call that breaks off, and what comes instead.
  is("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1", "[add({\"a\": 1!]");
  is("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1,, 2}", "[add({\"a\": 1,!], 2}");
  // A call that nobody closes is one all the same.
  is("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}", "[add({\"a\": 1})]");
  is("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool", "[add({\"a\": 1})]");
  is("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}} and so on", "[add({\"a\": 1})]and so on");
  is("<tool_call>bad</tool_call><tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>", "<tool_call>bad</tool_call>[now({})]");
}

TEST(ToolCalls, Llama3) {
  const auto is = [](std::string_view answer, std::string_view expected) { expect(ToolCallForm::llama3, answer, expected); };
  is("{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "[add({\"a\": 1})]");
  is("<|python_tag|>{\"name\": \"now\", \"parameters\": {}}", "[now({})]");
  is("\n {\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}\n", "[now({})]");
  is("{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"add\", \"parameters\": {\"b\": 2}}", "[now({})][add({\"b\": 2})]");
  is("{\"name\": \"now\", \"parameters\": {}};", "[now({})]");
  for (const char* answer : {"Hello {\"name\": \"now\", \"parameters\": {}}", "{\"answer\": 42}", "<|python_tag|>print(1)", "{", "<|py",
                             "   ", "{\"name\": \"other\", \"parameters\": {}}"}) {
    is(answer, answer);
  }
  is("{\"name\": \"now\", \"parameters\": {}} because", "[now({})]because");
  is("{\"name\": \"now\", \"parameters\": {}}; because", "[now({})]; because");
}

TEST(ToolCalls, NoFormNoCalls) {
  const char* answer = " <tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call> ";
  expect(ToolCallForm::none, answer, answer);
}

// Without a call, whatever comes goes out again: random texts of the characters that matter.
TEST(ToolCalls, NeverLoseACharacter) {
  const std::vector<std::string> parts{
      "<tool_call>", "</tool_call>", "{\"name\"",      ": \"", "no\"", ", \"arguments\": {", "}", "\n", " ", "<",
      "é",           "\\",           "<|python_tag|>", ";"};
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string answer;
    for (unsigned i = random() % 12; i > 0; --i) answer += parts[random() % parts.size()];
    for (const ToolCallForm form : {ToolCallForm::hermes, ToolCallForm::llama3}) {
      EXPECT_EQ(parsed(form, answer, 1 + random() % 9), answer);
    }
  }
}

TEST(ToolCalls, ArgumentsGoOutAsTheyCome) {
  ToolCallParser parser(ToolCallForm::hermes, functions);
  EXPECT_TRUE(parser.push("<tool_call>{\"name\": \"add\", \"arguments\"").empty());
  EXPECT_EQ(told(parser.push(": {\"text\": \"on")), "[add({\"text\": \"on");
  const auto next = parser.push("ce");
  ASSERT_EQ(next.size(), 1u);
  EXPECT_EQ(next[0].kind, Kind::arguments);
  EXPECT_EQ(next[0].text, "ce");
}

TEST(ToolCalls, FormsAreToldByWhatTemplatesSay) {
  EXPECT_EQ(tool_call_form("... <tool_call>\n{\"name\": <function-name>, ..."), ToolCallForm::hermes);
  EXPECT_EQ(tool_call_form("{{- \"<|python_tag|>\" + x }}"), ToolCallForm::llama3);
  EXPECT_EQ(tool_call_form("{% for message in messages %}{{ message.content }}{% endfor %}"), ToolCallForm::none);
}

TEST(ToolCalls, FormsOfPublishedTemplatesAsTheyAre) {
  const std::filesystem::path folder = std::filesystem::path(ONSET_SOURCE_DIR) / "../shared/data/templates";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "../shared/data/templates is missing";
  const auto form_of = [&](const char* name) {
    std::stringstream text;
    text << std::ifstream(folder / name).rdbuf();
    return tool_call_form(text.str());
  };
  EXPECT_EQ(form_of("Qwen-Qwen2.5-7B-Instruct.jinja"), ToolCallForm::hermes);
  EXPECT_EQ(form_of("Qwen-Qwen3-0.6B.jinja"), ToolCallForm::hermes);
  EXPECT_EQ(form_of("NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja"), ToolCallForm::hermes);
  EXPECT_EQ(form_of("meta-llama-Llama-3.1-8B-Instruct.jinja"), ToolCallForm::llama3);
  EXPECT_EQ(form_of("google-gemma-2-2b-it.jinja"), ToolCallForm::none);
  EXPECT_EQ(form_of("microsoft-Phi-3.5-mini-instruct.jinja"), ToolCallForm::none);
}

const char* two_tools = R"([
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}},
                                                                  "required": ["a", "b"], "additionalProperties": false}}},
    {"type": "function", "function": {"name": "now"}}])";

bool accepts(const Result<Grammar>& grammar, std::string_view text) {
  EXPECT_TRUE(grammar.ok()) << grammar.status().message();
  if (!grammar.ok()) return false;
  GrammarRun run(std::make_shared<const Grammar>(*grammar));
  return run.accept(text) && run.may_end();
}

// Whatever the grammar demands is what the parser understands.
TEST(ToolCalls, DemandedCallsAreUnderstood) {
  const auto tools = nlohmann::ordered_json::parse(two_tools);
  const auto any = tool_call_grammar(ToolCallForm::hermes, tools);
  const std::string add = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n</tool_call>";
  const std::string now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"x\": []}}\n</tool_call>";
  EXPECT_TRUE(accepts(any, add));
  EXPECT_TRUE(accepts(any, now + "\n" + add));
  EXPECT_FALSE(accepts(any, "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>"));
  EXPECT_FALSE(accepts(any, "Hello"));
  EXPECT_FALSE(accepts(any, ""));
  expect(ToolCallForm::hermes, now + "\n" + add, "[now({\"x\": []})][add({\"a\": 1, \"b\": 2})]");
  const auto one = tool_call_grammar(ToolCallForm::hermes, tools, {.function = "now", .parallel = false});
  EXPECT_TRUE(accepts(one, now));
  EXPECT_FALSE(accepts(one, add));
  EXPECT_FALSE(accepts(one, now + "\n" + now));
  const auto llama = tool_call_grammar(ToolCallForm::llama3, tools);
  const std::string both = "{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}; {\"name\": \"now\", \"parameters\": {}}";
  EXPECT_TRUE(accepts(llama, both));
  expect(ToolCallForm::llama3, both, "[add({\"a\": 1, \"b\": 2})][now({})]");
}

TEST(ToolCalls, WrongToolsAreNamed) {
  const auto message = [](const char* tools, const ToolCallDemand& demand = {}) {
    const auto grammar = tool_call_grammar(ToolCallForm::hermes, nlohmann::ordered_json::parse(tools), demand);
    return grammar.ok() ? "" : grammar.status().message();
  };
  EXPECT_EQ(message("[]"), "tools: expected a list of functions");
  EXPECT_EQ(message("[{\"name\": \"x\"}]"), "tools[0]: expected {\"type\": \"function\", \"function\": {\"name\": ...}}");
  EXPECT_EQ(message(two_tools, {.function = "sub"}), "tool_choice: there is no function \"sub\" among the tools");
  EXPECT_EQ(message(R"([{"function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}}])"),
            "function f: parameters at /properties/a: the keyword \"not\" is not supported");
  EXPECT_EQ(message(R"([{"function": {"name": "f", "parameters": {"type": "string"}}}])"),
            "function f: parameters: expected the schema of an object");
  EXPECT_EQ(message(R"([{"function": {"name": "f"}}, {"function": {"name": "f"}}])"), "tools[1]: there are two functions \"f\"");
  EXPECT_EQ(tool_call_grammar(ToolCallForm::none, nlohmann::ordered_json::parse(two_tools)).status().code(), Code::unsupported);
}

}  // namespace
}  // namespace onset
