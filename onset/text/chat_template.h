// Chat templates: from a conversation to the text that a model was trained on.
//
// A model's file carries the template as a small Jinja program (jinja.h); it sees the messages, the tools and
// the special tokens, as Hugging Face's apply_chat_template passes them.
#pragma once

#include <ctime>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/text/jinja.h"

namespace onset {

// A plain message. What has more than a text (tool calls, tool results, images, reasoning) is written as
// JSON:
// {"role": "assistant", "content": null, "tool_calls": [...]}.
struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

// The messages as the JSON list that render() takes.
nlohmann::ordered_json to_json(const std::vector<ChatMessage>& messages);

class ChatTemplate {
 public:
  // `source` is the template's text, `bos_token` and `eos_token` the texts of the model's special tokens
  // (empty if it has none). Errors: as jinja::Template::parse, with "chat: " in front.
  static Result<ChatTemplate> parse(std::string_view source, std::string bos_token, std::string eos_token,
                                    const jinja::Limits& limits = {});

  struct Options {
    // Ends the text with the beginning of the assistant's answer.
    bool add_generation_prompt = true;
    // More variables, such as {"enable_thinking": false}: members of this object (null for none). They go
    // before the template's usual ones.
    const nlohmann::ordered_json* variables = nullptr;
    // What strftime_now tells; the local time if absent.
    std::optional<std::tm> now = {};
  };

  // The text of a conversation: `messages` is a JSON list of objects with a role and a content (a text, or a
  // list of parts) and whatever else the template knows of; `tools` a JSON list, or null for none. A
  // message's reasoning may be called `reasoning_content`, `thinking` or `reasoning`: the template finds it
  // under the first two. The result holds the special tokens as text, the first one (bos) usually included:
  // tokenise it with special tokens recognised and none added. Errors: invalid_argument with the template's
  // own message where it raises one ("Conversation roles must alternate..."), else as
  // jinja::Template::render.
  Result<std::string> render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools, const Options& options) const;
  Result<std::string> render(const std::vector<ChatMessage>& messages, bool add_generation_prompt = true) const;

 private:
  ChatTemplate(jinja::Template parsed, std::string bos_token, std::string eos_token)
      : template_(std::move(parsed)), bos_token_(std::move(bos_token)), eos_token_(std::move(eos_token)) {}

  jinja::Template template_;
  std::string bos_token_, eos_token_;
};

}  // namespace onset
