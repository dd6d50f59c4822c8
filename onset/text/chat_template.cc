#include "onset/text/chat_template.h"

#include <array>
#include <nlohmann/json.hpp>

namespace onset {
namespace {

using nlohmann::ordered_json;

// As transformers 5: the reasoning of an earlier answer under the names that templates look for.
ordered_json with_reasoning(const ordered_json& message) {
  static constexpr std::array<const char*, 3> kNames{"reasoning_content", "thinking", "reasoning"};
  for (const char* name : kNames) {
    const auto found = message.find(name);
    if (found == message.end() || found->is_null()) continue;
    ordered_json out;
    out["thinking"] = *found;
    for (const auto& [key, value] : message.items()) out[key] = value;
    out["reasoning_content"] = *found;
    return out;
  }
  return message;
}

// Copying JSON recurses, so what is too deep for the template is refused before.
constexpr int kMaxDepth = 200;

bool is_deeper_than(const ordered_json& json, int depth) {
  if (depth < 0) return true;
  if (!json.is_structured()) return false;
  for (const ordered_json& member : json) {
    if (is_deeper_than(member, depth - 1)) return true;
  }
  return false;
}

}  // namespace

ordered_json to_json(const std::vector<ChatMessage>& messages) {
  ordered_json out = ordered_json::array();
  for (const ChatMessage& message : messages) {
    out.push_back(ordered_json{{"role", message.role}, {"content", message.content}});
  }
  return out;
}

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, std::string bos_token, std::string eos_token,
                                         const jinja::Limits& limits) {
  auto parsed = jinja::Template::parse(source, limits);
  if (!parsed.ok()) return parsed.status().within("chat");
  return ChatTemplate(*std::move(parsed), std::move(bos_token), std::move(eos_token));
}

Result<std::string> ChatTemplate::render(const ordered_json& messages, const ordered_json& tools, const Options& options) const {
  if (!messages.is_array()) return error(Code::invalid_argument, "chat messages: expected a JSON list");
  if (!tools.is_null() && !tools.is_array()) return error(Code::invalid_argument, "chat tools: expected a JSON list");
  if (is_deeper_than(messages, kMaxDepth) || is_deeper_than(tools, kMaxDepth) ||
      (options.variables != nullptr && is_deeper_than(*options.variables, kMaxDepth))) {
    return error(Code::resource_exhausted, "chat messages: lists or objects nested more than {} deep", kMaxDepth);
  }
  ordered_json variables = ordered_json::object();
  ordered_json& list = variables["messages"] = ordered_json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) {
      return error(Code::invalid_argument, "chat message {}: expected a JSON object", i + 1);
    }
    list.push_back(with_reasoning(messages[i]));
  }
  variables["tools"] = tools;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = options.add_generation_prompt;
  variables["bos_token"] = bos_token_;
  variables["eos_token"] = eos_token_;
  if (options.variables != nullptr && !options.variables->is_null()) {
    if (!options.variables->is_object()) {
      return error(Code::invalid_argument, "chat template variables: expected a JSON object");
    }
    for (const auto& [name, value] : options.variables->items()) variables[name] = value;
  }
  return template_.render(variables, options.now);
}

Result<std::string> ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const {
  Options options;
  options.add_generation_prompt = add_generation_prompt;
  return render(to_json(messages), nullptr, options);
}

}  // namespace onset
