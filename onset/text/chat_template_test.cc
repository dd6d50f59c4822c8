// Chat templates against jinja2's outputs: SmolLM2's own and one written to use the whole subset. The
// templates of
// ../shared are compared with jinja2 itself by tests/fixtures/templates/compare_with_jinja2.py (a ctest of
// its own).
#include "onset/text/chat_template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "onset/base/mapped_file.h"
#include "onset/formats/gguf.h"

namespace onset {
namespace {

using nlohmann::ordered_json;

ordered_json read_fixture(const std::string& name) {
  const auto text = read_file(std::string(ONSET_SOURCE_DIR) + "/tests/fixtures/templates/" + name);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return text.ok() ? ordered_json::parse(*text, nullptr, false) : ordered_json();
}

// All conversations of a fixture through its template.
void check_fixture(const std::string& name, size_t least_texts) {
  const ordered_json fixture = read_fixture(name);
  ASSERT_TRUE(fixture.is_object());
  const auto chat =
      ChatTemplate::parse(fixture["source"].get<std::string>(), fixture["bos"].get<std::string>(), fixture["eos"].get<std::string>());
  ASSERT_TRUE(chat.ok()) << chat.status().message();
  std::tm now{};
  now.tm_year = fixture["now"][0].get<int>() - 1900;
  now.tm_mon = fixture["now"][1].get<int>() - 1;
  now.tm_mday = fixture["now"][2].get<int>();
  size_t texts = 0;
  for (const ordered_json& one : fixture["cases"]) {
    const ordered_json &input = one["case"], &expected = one["expected"];
    SCOPED_TRACE(input["name"].get<std::string>() + (input["tools"].is_null() ? "" : ", with tools"));
    ChatTemplate::Options options;
    options.add_generation_prompt = input["add_generation_prompt"].get<bool>();
    const ordered_json variables = input.value("variables", ordered_json());
    options.variables = &variables;
    options.now = now;
    const auto text = chat->render(input["messages"], input["tools"], options);
    if (expected.contains("text")) {
      ASSERT_TRUE(text.ok()) << text.status().message();
      EXPECT_EQ(*text, expected["text"].get<std::string>());
      ++texts;
    } else {
      ASSERT_FALSE(text.ok()) << *text;
      if (expected["type"] == "TemplateError") {
        EXPECT_EQ(text.status().message(), expected["error"].get<std::string>());
      }
    }
  }
  EXPECT_GE(texts, least_texts);
}

TEST(ChatTemplate, smollm2_equals_jinja2) {
  check_fixture("smollm2.json", 90);
}

TEST(ChatTemplate, a_template_with_everything_equals_jinja2) {
  check_fixture("typed_tools.json", 110);
}

TEST(ChatTemplate, the_default_model_has_the_template_of_the_fixture) {
  const auto path = cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there (tools/start fetches it)";
  const auto model = open_gguf(path);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto source = model->text("tokenizer.chat_template");
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ(*source, read_fixture("smollm2.json")["source"].get<std::string>());
}

constexpr const char* kPlain =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}";

TEST(ChatTemplate, renders_plain_messages) {
  const auto chat = ChatTemplate::parse(kPlain, "<s>", "</s>");
  ASSERT_TRUE(chat.ok());
  const std::vector<ChatMessage> messages{{"system", "Be brief."}, {"user", "Hi \xf0\x9f\x98\x80"}};
  EXPECT_EQ(*chat->render(messages), "<s>[system]Be brief.</s>[user]Hi \xf0\x9f\x98\x80</s>[assistant]");
  EXPECT_EQ(*chat->render(messages, false), "<s>[system]Be brief.</s>[user]Hi \xf0\x9f\x98\x80</s>");
  EXPECT_EQ(*chat->render(std::vector<ChatMessage>{}), "<s>[assistant]");
}

TEST(ChatTemplate, passes_tools_reasoning_and_variables) {
  const auto chat = ChatTemplate::parse(
      "{{ tools | tojson }}|{{ documents is none }}|{{ enable_thinking }}|"
      "{% for m in messages %}{{ m.thinking }},{{ m.reasoning_content }};{% endfor %}|{{ messages | length "
      "}}",
      "", "");
  ASSERT_TRUE(chat.ok());
  const ordered_json variables = {{"enable_thinking", false}, {"messages", {ordered_json::object()}}};
  ordered_json messages = ordered_json::array();
  messages.push_back({{"role", "assistant"}, {"reasoning", "so"}});
  messages.push_back({{"role", "assistant"}, {"thinking", "a"}, {"reasoning_content", "b"}});
  ChatTemplate::Options options;
  EXPECT_EQ(*chat->render(messages, ordered_json::array({{{"z", 1}, {"a", 2}}}), options), R"([{"z": 1, "a": 2}]|True||so,so;a,b;|2)");
  options.variables = &variables;
  EXPECT_EQ(*chat->render(messages, nullptr, options), "null|True|False|,;|1");
}

TEST(ChatTemplate, errors_say_what_was_expected) {
  const auto broken = ChatTemplate::parse("{% for m in messages %}", "", "");
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.status().code(), Code::invalid_argument);
  EXPECT_EQ(broken.status().message(), "chat: template line 1: Unexpected end of template. Jinja was looking for 'endfor' or 'else'");

  const auto chat = ChatTemplate::parse(kPlain, "", "");
  ASSERT_TRUE(chat.ok());
  const auto message = [&](const ordered_json& messages, const ordered_json& tools, const ordered_json& variables) {
    ChatTemplate::Options options;
    options.variables = &variables;
    const auto text = chat->render(messages, tools, options);
    EXPECT_FALSE(text.ok());
    return text.ok() ? std::string() : text.status().message();
  };
  const ordered_json none = ordered_json::array();
  EXPECT_EQ(message("hi", nullptr, nullptr), "chat messages: expected a JSON list");
  EXPECT_EQ(message(ordered_json::array({"hi"}), nullptr, nullptr), "chat message 1: expected a JSON object");
  EXPECT_EQ(message(none, 5, nullptr), "chat tools: expected a JSON list");
  EXPECT_EQ(message(none, nullptr, 5), "chat template variables: expected a JSON object");

  // As deep as a request's body can be; copying this would overflow the stack.
  ordered_json deep = ordered_json::parse(std::string(200'000, '[') + std::string(200'000, ']'));
  EXPECT_EQ(message(none, deep, nullptr), "chat messages: lists or objects nested more than 200 deep");

  const auto strict = ChatTemplate::parse("{{ raise_exception('Roles must alternate, not ' ~ messages[0].role) }}", "", "");
  ASSERT_TRUE(strict.ok());
  const auto text = strict->render(std::vector<ChatMessage>{{"tool", ""}});
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.status().code(), Code::invalid_argument);
  EXPECT_EQ(text.status().message(), "Roles must alternate, not tool");
}

}  // namespace
}  // namespace onset
