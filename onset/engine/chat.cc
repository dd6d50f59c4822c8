#include "onset/engine/chat.h"

#include <algorithm>

namespace onset {
namespace {

// Tokens that an answer should have room for, at least; smaller contexts give a quarter.
constexpr int32_t wanted_answer_tokens = 256;

std::string text_of(const Tokenizer& tokenizer, std::optional<TokenId> token) {
  return token ? std::string(tokenizer.text(*token)) : std::string();
}

}  // namespace

Result<std::optional<ChatTemplate>> load_chat_template(const Engine& engine) {
  const ModelFile& file = engine.model().file();
  const Tokenizer* tokenizer = engine.tokenizer();
  if (tokenizer == nullptr || !file.has("tokenizer.chat_template")) return std::optional<ChatTemplate>();
  ONSET_ASSIGN(const std::string_view source, file.text("tokenizer.chat_template"));
  auto parsed = ChatTemplate::parse(source, text_of(*tokenizer, tokenizer->bos()), text_of(*tokenizer, tokenizer->eos()));
  if (!parsed.ok()) return parsed.status().within(file.path().string());
  return std::optional<ChatTemplate>(*std::move(parsed));
}

Result<std::vector<int32_t>> render_chat(const Engine& engine, const ChatTemplate& chat_template,
                                         const std::vector<ChatMessage>& messages) {
  const Result<std::string> text = chat_template.render(messages);
  if (!text.ok()) return text.status().within("the model's chat template refuses");
  return engine.tokenizer()->encode(*text, {.add_special = false, .parse_special = true});
}

Result<std::vector<int32_t>> context_tokens(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.encode(text + "\n\n", {.add_special = false});
}

namespace {

std::string line_ends(int32_t count) {
  std::string text;
  text.assign(static_cast<size_t>(std::max(0, count)), '\n');
  return text;
}

}  // namespace

Result<PromptParts> split_prompt(const Tokenizer& tokenizer, const std::string& rendered, std::vector<std::vector<int32_t>> contexts,
                                 std::optional<int32_t> newlines) {
  const std::string place = contexts_place;
  const size_t begin = rendered.find(place);
  if (begin == std::string::npos) {
    return error(Code::unsupported, "the model's chat template changes the user's message: contexts need a prompt without it");
  }
  const EncodeOptions special{.add_special = false, .parse_special = true};
  PromptParts parts;
  parts.contexts = std::move(contexts);
  ONSET_ASSIGN(parts.prefix, tokenizer.encode(rendered.substr(0, begin) + line_ends(newlines.value_or(0)), special));
  ONSET_ASSIGN(parts.prompt, tokenizer.encode(rendered.substr(begin + place.size()), special));
  return parts;
}

Result<PromptParts> plain_parts(const Tokenizer& tokenizer, const std::string& text, std::vector<std::vector<int32_t>> contexts,
                                std::optional<int32_t> newlines) {
  PromptParts parts;
  if (contexts.empty()) {
    ONSET_ASSIGN(parts.prompt, tokenizer.encode(text));
    return parts;
  }
  parts.contexts = std::move(contexts);
  // Every context begins behind the same tokens: two line ends where there is nothing else.
  ONSET_ASSIGN(parts.prefix, tokenizer.encode(line_ends(newlines.value_or(2))));
  ONSET_ASSIGN(parts.prompt, tokenizer.encode(text, {.add_special = false}));
  return parts;
}

Result<PromptParts> prompt_parts(const Engine& engine, const std::optional<ChatTemplate>& chat_template, const std::string& system,
                                 const std::string& text, const std::vector<std::string>& contexts, std::optional<int32_t> newlines) {
  if (engine.tokenizer() == nullptr) {
    return error(Code::unsupported, "{} has no tokenizer", engine.model().file().path().string());
  }
  const Tokenizer& tokenizer = *engine.tokenizer();
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& context : contexts) {
    ONSET_ASSIGN(encoded.emplace_back(), context_tokens(tokenizer, context));
  }
  if (!chat_template) return plain_parts(tokenizer, text, std::move(encoded), newlines);
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.push_back({"user", text});
  if (contexts.empty()) {
    PromptParts parts;
    ONSET_ASSIGN(parts.prompt, render_chat(engine, *chat_template, messages));
    return parts;
  }
  messages.back().content = contexts_place + text;
  const Result<std::string> rendered = chat_template->render(messages);
  if (!rendered.ok()) return rendered.status().within("the model's chat template refuses");
  return split_prompt(tokenizer, *rendered, std::move(encoded), newlines);
}

Chat::Chat(Engine& engine, ChatTemplate chat_template, ChatOptions options)
    : engine_(engine), template_(std::move(chat_template)), options_(std::move(options)), session_(engine.open_session()) {
  reset();
}

Chat::~Chat() {
  engine_.close_session(session_);
}

Result<std::unique_ptr<Chat>> Chat::create(Engine& engine, ChatOptions options) {
  ONSET_ASSIGN(std::optional<ChatTemplate> chat_template, load_chat_template(engine));
  if (!chat_template) {
    return error(Code::unsupported, "{} has no chat template: it was not trained to chat (onset run --raw continues a text)",
                 engine.model().file().path().string());
  }
  return std::unique_ptr<Chat>(new Chat(engine, *std::move(chat_template), std::move(options)));
}

void Chat::reset() {
  messages_.clear();
  if (!options_.system.empty()) messages_.push_back({"system", options_.system});
}

void Chat::set_system(std::string system) {
  options_.system = std::move(system);
  reset();
}

// The conversation's tokens, after dropping its oldest turns until there is room for an answer.
Result<std::vector<int32_t>> Chat::fit(int32_t& dropped) {
  const int32_t room = std::min(wanted_answer_tokens, engine_.context() / 4);
  while (true) {
    ONSET_ASSIGN(std::vector<int32_t> tokens, render_chat(engine_, template_, messages_));
    const auto count = static_cast<int32_t>(tokens.size());
    if (count + room <= engine_.context()) return tokens;
    const auto first = messages_.begin() + (messages_.front().role == "system" ? 1 : 0);
    if (messages_.end() - first < 3) {
      return error(Code::invalid_argument,
                   "the message has {} tokens with all that belongs to it; the context of {} has room for {} and an answer", count,
                   engine_.context(), engine_.context() - room);
    }
    messages_.erase(first, first + 2);  // a question and its answer
    dropped += 2;
  }
}

Result<Chat::Turn> Chat::ask(const std::string& text, Engine::EventHandler handler) {
  Turn turn;
  messages_.push_back({"user", text});
  const auto fail = [&](Status status) {
    messages_.pop_back();
    return status;
  };
  Result<std::vector<int32_t>> fitted = fit(turn.dropped_messages);
  if (!fitted.ok()) return fail(fitted.status());
  const std::vector<int32_t>& tokens = *fitted;

  // What the session has read stays as far as it is how this prompt begins; one token at least is to be run.
  const std::vector<int32_t> known = engine_.session_tokens(session_);
  const auto differ = std::mismatch(known.begin(), known.end(), tokens.begin(), tokens.end() - 1).first;
  Result<int32_t> kept = engine_.truncate_session(session_, static_cast<int32_t>(differ - known.begin()));
  if (!kept.ok()) return fail(kept.status());
  turn.prompt_tokens = static_cast<int32_t>(tokens.size());
  turn.reused_tokens = *kept;

  answer_.clear();
  handler_ = std::move(handler);
  Request request{.tokens = {tokens.begin() + *kept, tokens.end()},
                  .most_new_tokens = options_.most_new_tokens,
                  .sampling = options_.sampling,
                  .stop = options_.stop,
                  .session = session_};
  Result<RequestId> id = engine_.submit(std::move(request), [this](const Event& event) { on_event(event); });
  if (!id.ok()) return fail(id.status());
  turn.request = *id;
  return turn;
}

void Chat::on_event(const Event& event) {
  answer_ += event.text;
  if (event.finish == Finish::failed) {
    messages_.pop_back();
  } else if (event.finish != Finish::none) {
    messages_.push_back({"assistant", answer_});
  }
  if (handler_) handler_(event);
}

}  // namespace onset
