#include "onset/load/event_stream.h"

#include <nlohmann/json.hpp>

namespace onset {

using Json = nlohmann::json;

std::vector<std::string> EventStream::push(std::string_view text) {
  std::vector<std::string> events;
  for (const char byte : text) {
    const bool second = carriage_return_ && byte == '\n';
    carriage_return_ = byte == '\r';
    if (second) continue;
    if (byte != '\n' && byte != '\r') {
      line_ += byte;
      continue;
    }
    if (line_.empty()) {  // ends an event
      if (any_) events.push_back(std::move(data_));
      data_.clear();
      any_ = false;
    } else if (line_.starts_with("data:")) {
      std::string_view value = std::string_view(line_).substr(5);
      if (value.starts_with(' ')) value.remove_prefix(1);
      if (any_) data_ += '\n';
      data_ += value;
      any_ = true;
    }
    line_.clear();
  }
  return events;
}

namespace {

std::optional<int> count(const Json& usage, const char* name) {
  const auto found = usage.find(name);
  if (found == usage.end() || !found->is_number_integer()) return {};
  return found->get<int>();
}

// The text of a choice: of a completion, or of a chat's answer.
bool has_text(const Json& choice) {
  const auto is_text = [](const Json& object, const char* name) {
    return object.contains(name) && object[name].is_string() && !object[name].get_ref<const std::string&>().empty();
  };
  return is_text(choice, "text") || (choice.contains("delta") && choice["delta"].is_object() && is_text(choice["delta"], "content"));
}

}  // namespace

CompletionEvent read_completion_event(std::string_view data) {
  CompletionEvent event;
  if (data == "[DONE]") {
    event.end = true;
    return event;
  }
  const Json json = Json::parse(data.begin(), data.end(), nullptr, false);
  if (!json.is_object()) {
    event.problem = "an event of the stream is not a JSON object";
    return event;
  }
  if (const auto error = json.find("error"); error != json.end() && !error->is_null()) {
    const bool message = error->is_object() && error->contains("message") && (*error)["message"].is_string();
    event.problem = message ? (*error)["message"].get<std::string>() : error->dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  if (const auto choices = json.find("choices");
      choices != json.end() && choices->is_array() && !choices->empty() && (*choices)[0].is_object()) {
    const Json& choice = (*choices)[0];
    const bool finished = choice.contains("finish_reason") && !choice["finish_reason"].is_null();
    const bool begins = choice.contains("delta") && choice["delta"].is_object() && choice["delta"].contains("role");
    // A token whose text is still incomplete may come as an empty piece; the last event and a chat's first
    // may be empty too.
    event.piece = has_text(choice) || (!finished && !begins);
  }
  if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
    event.prompt_tokens = count(*usage, "prompt_tokens");
    event.output_tokens = count(*usage, "completion_tokens");
  }
  return event;
}

}  // namespace onset
