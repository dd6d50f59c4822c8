// The messages of /v1/chat/completions, as chat templates take them.
#include <algorithm>

#include "onset/serve/requests.h"

namespace onset::serve {
namespace {

constexpr size_t most_messages = 4096;

// A text, or a list of parts that are texts, joined.
std::optional<std::string> content_of(Fields& fields, Errors& errors) {
  const Json* value = fields.find("content");
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) {
    fields.fail("content", "expected a string or a list of parts, got " + shown(*value), "invalid_type");
    return {};
  }
  std::string joined;
  for (size_t i = 0; i < value->size(); ++i) {
    Fields part((*value)[i], fmt::format("{}[{}]", fields.path("content"), i), errors);
    const std::string type = part.need("type") != nullptr ? part.text("type").value_or("") : "";
    if (!errors.first && type != "text")
      part.fail("type", fmt::format("only \"text\" is supported, got {}", shown(type)), "unsupported_value");
    if (part.need("text") != nullptr) joined += part.text("text").value_or("");
    part.finish();
  }
  return joined;
}

Json read_calls(const Json& calls, const std::string& within, Errors& errors) {
  Json list = Json::array();
  if (!calls.is_array()) errors.add({.message = fmt::format("{}: expected a list, got {}", within, shown(calls)), .param = within});
  for (size_t i = 0; calls.is_array() && i < calls.size() && !errors.first; ++i) {
    Fields call(calls[i], fmt::format("{}[{}]", within, i), errors);
    const std::string id = call.need("id") != nullptr ? call.text("id").value_or("") : "";
    if (const auto type = call.text("type"); type && *type != "function") {
      call.fail("type", fmt::format("only \"function\" is supported, got {}", shown(*type)), "unsupported_value");
    }
    const Json* function = call.need("function");
    call.finish();
    if (function == nullptr) break;
    Fields inner(*function, call.path("function"), errors);
    const std::string name = inner.need("name") != nullptr ? inner.text("name").value_or("") : "";
    const std::string text = inner.need("arguments") != nullptr ? inner.text("arguments").value_or("") : "";
    inner.finish();
    if (errors.first) break;
    const Checked<Json> arguments = parse_body(text.empty() ? "{}" : text);
    if (!arguments.ok()) inner.fail("arguments", "expected a JSON object as a string, got " + shown(text), "invalid_value");
    if (errors.first) break;
    list.push_back({{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", *arguments}}}});
  }
  return list;
}

void read_assistant(Fields& fields, Errors& errors, Json& message) {
  // What answers carry and clients send back.
  for (const char* name : {"refusal", "annotations", "audio", "function_call"}) fields.ignore(name);
  if (const Json* calls = fields.find("tool_calls")) message["tool_calls"] = read_calls(*calls, fields.path("tool_calls"), errors);
  if (const auto reasoning = fields.text("reasoning_content")) message["reasoning_content"] = *reasoning;
}

Json read_message(const Json& from, const std::string& within, Errors& errors) {
  Fields fields(from, within, errors);
  Json message = Json::object();
  std::string role = fields.need("role") != nullptr ? fields.text("role").value_or("") : "";
  if (errors.first) return message;
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    fields.fail("role", "expected system, developer, user, assistant or tool, got " + shown(role), "invalid_value");
    return message;
  }
  message["role"] = role;
  const std::optional<std::string> content = content_of(fields, errors);
  message["content"] = content.value_or("");
  if (const auto name = fields.text("name")) message["name"] = *name;
  if (role == "assistant") read_assistant(fields, errors, message);
  if (role == "tool" && fields.need("tool_call_id") != nullptr) message["tool_call_id"] = fields.text("tool_call_id").value_or("");
  if (!content && !message.contains("tool_calls")) fields.fail("content", "is missing", "missing_required_parameter");
  fields.finish();
  return message;
}

// One entry of `tools`; its function's name.
std::string read_tool(const Json& tool, const std::string& within, Errors& errors) {
  Fields fields(tool, within, errors);
  const std::string type = fields.need("type") != nullptr ? fields.text("type").value_or("") : "";
  if (!errors.first && type != "function") fields.fail("type", "only \"function\" is supported, got " + shown(type), "unsupported_value");
  const Json* function = fields.need("function");
  fields.finish();
  if (function == nullptr) return {};
  Fields inner(*function, fields.path("function"), errors);
  const std::string name = inner.need("name") != nullptr ? inner.text("name").value_or("") : "";
  for (const char* known : {"description", "strict"}) inner.ignore(known);
  if (const Json* parameters = inner.find("parameters"); parameters != nullptr && !parameters->is_object()) {
    inner.fail("parameters", "expected a JSON schema, got " + shown(*parameters), "invalid_type");
  }
  inner.finish();
  return name;
}

}  // namespace

void read_tools(ChatRequest& request, Errors& errors) {
  const auto refuse = [&](const char* field, const std::string& sentence) {
    errors.add({.message = fmt::format("{}: {}", field, sentence), .param = field, .code = "invalid_value"});
  };
  if (request.tools.is_array()) {
    for (size_t i = 0; i < request.tools.size() && !errors.first; ++i) {
      request.functions.push_back(read_tool(request.tools[i], fmt::format("tools[{}]", i), errors));
    }
  } else if (!request.tools.is_null()) {
    refuse("tools", "expected a list, got " + shown(request.tools));
  }
  if (request.functions.empty()) request.tools = nullptr;
  const Json& choice = request.tool_choice;
  if (choice.is_null() || choice == "none" || choice == "auto") return;
  if (choice == "required") {
    if (request.functions.empty()) refuse("tool_choice", "\"required\" needs tools");
    return;
  }
  if (!choice.is_object()) return refuse("tool_choice", "expected none, auto, required or a function, got " + shown(choice));
  const std::string name = read_tool(choice, "tool_choice", errors);
  if (std::find(request.functions.begin(), request.functions.end(), name) == request.functions.end()) {
    refuse("tool_choice", "names the function " + shown(name) + ", which is not among the tools");
  }
}

Json read_messages(const Json& messages, Errors& errors) {
  Json read = Json::array();
  const auto refuse = [&](const std::string& sentence) {
    errors.add({.message = "messages: " + sentence, .param = "messages", .code = "invalid_value"});
  };
  if (!messages.is_array()) {
    refuse("expected a list, got " + shown(messages));
  } else if (messages.empty() || messages.size() > most_messages) {
    refuse(fmt::format("expected 1 to {} messages, got {}", most_messages, messages.size()));
  } else {
    for (size_t i = 0; i < messages.size() && !errors.first; ++i) {
      read.push_back(read_message(messages[i], fmt::format("messages[{}]", i), errors));
    }
  }
  return read;
}

}  // namespace onset::serve
