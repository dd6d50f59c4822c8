// Conversations with a model that was trained to chat: messages become a prompt through the model's chat template, and each turn
// reuses the pages of the turns before it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"
#include "onset/text/chat_template.h"

namespace onset {

// The model's chat template, or nothing if it has none (or no tokenizer). Errors: those of ChatTemplate::parse.
Result<std::optional<ChatTemplate>> load_chat_template(const Engine& engine);

// The tokens of a conversation that the assistant is to go on with.
Result<std::vector<int32_t>> render_chat(const Engine& engine, const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages);

// What a model reads of a question to contexts: what comes before them, the contexts, and the question with what belongs to it.
struct PromptParts {
  std::vector<int32_t> prefix;
  std::vector<std::vector<int32_t>> contexts;
  std::vector<int32_t> prompt;
};

// Stands in the user's message where the contexts belong while a chat template is rendered.
inline constexpr const char* contexts_place = "[contexts 7f3a9e]";
// The tokens of a context: its text with an empty line behind it.
Result<std::vector<int32_t>> context_tokens(const Tokenizer& tokenizer, const std::string& text);
// A rendered prompt with contexts_place in it, and the contexts' tokens. `newlines`: line ends before the first context (none unless said
// otherwise). Errors: unsupported where the place has not come through the template; those of the tokenizer.
Result<PromptParts> split_prompt(const Tokenizer& tokenizer, const std::string& rendered, std::vector<std::vector<int32_t>> contexts,
                                 std::optional<int32_t> newlines = {});
// A text without a template: contexts behind an empty line, then the text. `newlines`: as above, but two.
Result<PromptParts> plain_parts(const Tokenizer& tokenizer, const std::string& text, std::vector<std::vector<int32_t>> contexts,
                                std::optional<int32_t> newlines = {});

// Through the chat template if there is one (the system message, if any, goes with it): contexts stand before the question in the user's
// message. Errors: unsupported for a model without a tokenizer; those of split_prompt() and of the template.
Result<PromptParts> prompt_parts(const Engine& engine, const std::optional<ChatTemplate>& chat_template, const std::string& system,
                                 const std::string& text, const std::vector<std::string>& contexts, std::optional<int32_t> newlines = {});

struct ChatOptions {
  std::string system;  // the first message; empty: none (the template may have its own)
  SamplingOptions sampling = {};
  std::vector<std::string> stop = {};
  std::optional<int32_t> most_new_tokens = {};
};

class Chat {
 public:
  // Errors: unsupported for a model without a chat template or tokenizer; those of load_chat_template.
  static Result<std::unique_ptr<Chat>> create(Engine& engine, ChatOptions options);
  ~Chat();

  // What a question came to.
  struct Turn {
    RequestId request = 0;
    int32_t prompt_tokens = 0;     // the whole conversation up to the answer
    int32_t reused_tokens = 0;     // of these, read in earlier turns
    int32_t dropped_messages = 0;  // the oldest ones, which the context has no more room for
  };
  // Adds the user's message and submits the conversation; the answer comes as events, its last one ends the turn. An answer that
  // was cancelled stays in the history as far as it came; one that failed takes its question with it.
  // Errors: invalid_argument for a message that does not fit the context by itself (it is forgotten), those of the template.
  Result<Turn> ask(const std::string& text, Engine::EventHandler handler);

  // Begins anew, the system message apart.
  void reset();
  void set_system(std::string system);
  const std::vector<ChatMessage>& messages() const { return messages_; }
  int32_t tokens() const { return static_cast<int32_t>(engine_.session_tokens(session_).size()); }

 private:
  Chat(Engine& engine, ChatTemplate chat_template, ChatOptions options);
  Result<std::vector<int32_t>> fit(int32_t& dropped);
  void on_event(const Event& event);

  Engine& engine_;
  ChatTemplate template_;
  ChatOptions options_;
  int64_t session_ = 0;
  std::vector<ChatMessage> messages_;
  std::string answer_;
  Engine::EventHandler handler_;
};

}  // namespace onset
