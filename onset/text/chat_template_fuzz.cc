// The Jinja interpreter on any bytes: the template, and behind a zero byte JSON for its variables (a few
// usual ones without).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "onset/text/chat_template.h"

namespace {

const nlohmann::ordered_json& conversation() {
  static const nlohmann::ordered_json messages = nlohmann::ordered_json::parse(R"([
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": [{"type": "text", "text": "Grüße 😀"}, {"type": "image"}]},
    {"role": "assistant", "content": null, "reasoning": "Hm.",
     "tool_calls": [{"id": "abcdefgh1", "type": "function",
                     "function": {"name": "f", "arguments": {"x": [1, 2.5, true, null], "items": "y"}}}]},
    {"role": "tool", "name": "f", "content": "{\"a\": 1}"}])");
  return messages;
}

const nlohmann::ordered_json& tools() {
  static const nlohmann::ordered_json list = nlohmann::ordered_json::parse(R"([
    {"type": "function", "function": {"name": "f", "description": "d",
     "parameters": {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}}}}])");
  return list;
}

// Those of the seeds (tests/fixtures/templates/expression_cases.py), shortened.
const nlohmann::ordered_json& usual_variables() {
  static const nlohmann::ordered_json variables = nlohmann::ordered_json::parse(R"({
    "people": [{"name": "Ada", "age": 36, "city": {"name": "London"}, "tags": ["x", "y"]},
               {"name": "bob", "age": 25, "city": {"name": "Paris"}, "tags": []},
               {"name": "Cyd", "age": 36, "city": {"name": "london"}}],
    "text": "Hello, World", "wide": "Grüße 世界 😀", "numbers": [3, 1, 2], "empty": [],
    "mapping": {"b": 1, "a": 2, "items": 3, "C": null}, "nothing": null, "yes": true, "no": false, "pi": 3.14159,
    "big": 9007199254740993, "nested": {"list": [1, [2, {"k": "v"}]], "text": "it's \"quoted\"", "real": 1e16},
    "lines": "one\ntwo\n\n  three\n", "padded": "  both  "})");
  return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), input.size());
  // Small limits: the aim is every path, not long loops.
  onset::jinja::Limits limits;
  limits.source_bytes = 1 << 16;
  limits.text_bytes = 1 << 18;
  limits.memory_bytes = 1 << 22;
  limits.steps = 100'000;
  const auto chat = onset::ChatTemplate::parse(input.substr(0, zero), "<s>", "</s>", limits);
  if (!chat.ok()) {
    if (chat.status().message().empty()) std::abort();
    return 0;
  }
  nlohmann::ordered_json variables = usual_variables();
  if (zero < input.size()) {
    const std::string_view json = input.substr(zero + 1);
    variables = nlohmann::ordered_json::parse(json.begin(), json.end(), nullptr, false);
    if (!variables.is_object()) variables = nullptr;
  }
  onset::ChatTemplate::Options options;
  options.variables = &variables;
  options.now = std::tm{};
  const auto text = chat->render(conversation(), tools(), options);
  if (text.ok() && text->size() > limits.text_bytes) std::abort();
  return 0;
}
