#include "onset/serve/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "onset/text/unicode.h"

namespace onset::serve {
namespace {

std::string json_text(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

// JSON has no infinity; OpenAI says -9999 for what cannot happen.
double finite(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

// {"token": ..., "logprob": ..., "bytes": [...]  without the closing brace
void append_token(std::string& out, const Tokenizer& tokenizer, int32_t token, float logprob) {
  const std::string_view piece = tokenizer.piece(token);
  out += "{\"token\":";
  append_json_string(out, replace_ill_formed(piece));
  fmt::format_to(std::back_inserter(out), ",\"logprob\":{},\"bytes\":[", finite(logprob));
  for (size_t i = 0; i < piece.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "" : ",", static_cast<unsigned char>(piece[i]));
  }
  out += "]";
}

std::string chat_logprobs(const AnswerForm& form, const std::vector<SampledToken>& tokens) {
  std::string out = "{\"content\":[";
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ",";
    append_token(out, *form.tokenizer, tokens[i].token, tokens[i].logprob);
    out += ",\"top_logprobs\":[";
    for (size_t j = 0; j < tokens[i].alternatives.size(); ++j) {
      if (j > 0) out += ",";
      append_token(out, *form.tokenizer, tokens[i].alternatives[j].first, tokens[i].alternatives[j].second);
      out += "}";
    }
    out += "]}";
  }
  return out + "],\"refusal\":null}";
}

// The most likely tokens as an object. Tokens that are written alike (parts of characters) would be one name twice.
std::string alternatives_object(const Tokenizer& tokenizer, const SampledToken& token) {
  std::string out = "{";
  std::vector<std::string> names;
  for (const auto& [id, logprob] : token.alternatives) {
    std::string name = json_text(replace_ill_formed(tokenizer.piece(id)));
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    fmt::format_to(std::back_inserter(out), "{}{}:{}", names.empty() ? "" : ",", name, finite(logprob));
    names.push_back(std::move(name));
  }
  return out + "}";
}

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string completion_logprobs(const AnswerForm& form, const std::vector<SampledToken>& tokens, int64_t& offset) {
  std::string offsets, logprobs, names, alternatives;
  for (const SampledToken& token : tokens) {
    const char* comma = offsets.empty() ? "" : ",";
    const std::string name = replace_ill_formed(form.tokenizer->piece(token.token));
    offsets += fmt::format("{}{}", comma, offset);
    logprobs += fmt::format("{}{}", comma, finite(token.logprob));
    names += comma + json_text(name);
    alternatives += comma + alternatives_object(*form.tokenizer, token);
    offset += characters(name);
  }
  return fmt::format("{{\"text_offset\":[{}],\"token_logprobs\":[{}],\"tokens\":[{}],\"top_logprobs\":[{}]}}", offsets, logprobs, names, alternatives);
}

std::string logprobs_json(const AnswerForm& form, const std::vector<SampledToken>& tokens, int64_t& offset) {
  if (!form.logprobs) return "null";
  return form.chat ? chat_logprobs(form, tokens) : completion_logprobs(form, tokens, offset);
}

// The token of an event whose log-probability is reported: the end of the answer is no part of its text.
bool reports(const AnswerForm& form, const Event& event) {
  return form.logprobs && event.token && !(event.finish == Finish::stop && form.tokenizer->is_end_of_generation(event.token->token));
}

std::string head_of(const AnswerForm& form, bool streamed) {
  return fmt::format("{{\"id\":{},\"object\":\"{}\",\"created\":{},\"model\":{},\"choices\":[", json_text(form.id),
                     !form.chat ? "text_completion" : streamed ? "chat.completion.chunk" : "chat.completion", form.created, json_text(form.model));
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view hexadecimal = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20) {
          out += c;
        } else {
          out += "\\u00";
          out += hexadecimal[static_cast<unsigned char>(c) >> 4];
          out += hexadecimal[c & 15];
        }
    }
  }
  out += '"';
}

std::string usage_json(int64_t prompt_tokens, int64_t completion_tokens) {
  return fmt::format("{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{}}}", prompt_tokens, completion_tokens,
                     prompt_tokens + completion_tokens);
}

// --- whole --------------------------------------------------------------------------------------------------------

WholeAnswer::WholeAnswer(AnswerForm form) : form_(std::move(form)), choices_(form_.choices) {}

void WholeAnswer::fail(ApiError error) {
  if (!done()) error_ = std::move(error);
}

void WholeAnswer::add(int index, Event event) {
  if (done()) return;
  if (event.finish == Finish::failed) return fail(error_of(event.status));
  if (event.finish == Finish::cancelled) return fail(server_error("the request was cancelled"));
  Choice& choice = choices_[index];
  choice.text += event.text;
  new_tokens_ += event.token.has_value();
  if (reports(form_, event)) choice.tokens.push_back(*std::move(event.token));
  choice.finish = event.finish;
  ended_ += event.finish != Finish::none;
}

Checked<std::string> WholeAnswer::body() const {
  if (error_) return *error_;
  std::string out = head_of(form_, false);
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    int64_t offset = 0;
    const std::string logprobs = logprobs_json(form_, choice.tokens, offset);
    const std::string text = json_text(choice.text);
    const std::string said = form_.chat ? fmt::format("\"message\":{{\"role\":\"assistant\",\"content\":{},\"refusal\":null}}", text) : "\"text\":" + text;
    out += fmt::format("{}{{\"index\":{},{},\"logprobs\":{},\"finish_reason\":\"{}\"}}", i == 0 ? "" : ",", i, said, logprobs, finish_name(choice.finish));
  }
  return out + "],\"usage\":" + usage_json(form_.prompt_tokens, new_tokens_) + "}";
}

// --- streamed -----------------------------------------------------------------------------------------------------

StreamedAnswer::StreamedAnswer(AnswerForm form) : form_(std::move(form)), head_("data: " + head_of(form_, true)), choices_(form_.choices) {}

void StreamedAnswer::fail(ApiError error) {
  if (done()) return;
  error_ = std::move(error);
  ready_ = true;
}

void StreamedAnswer::add(int index, Event event) {
  if (done()) return;
  if (event.finish == Finish::failed) return fail(error_of(event.status));
  if (event.finish == Finish::cancelled) return fail(server_error("the request was cancelled"));
  Choice& choice = choices_[index];
  choice.text += event.text;
  waiting_bytes_ += event.text.size();
  new_tokens_ += event.token.has_value();
  if (reports(form_, event)) {
    waiting_bytes_ += sizeof(SampledToken) + event.token->alternatives.size() * sizeof(event.token->alternatives[0]);
    choice.tokens.push_back(*std::move(event.token));
  }
  choice.finish = event.finish;
  ended_ += event.finish != Finish::none;
  // A token in the middle of a character says nothing yet.
  choice.fresh = choice.fresh || !choice.begun || !choice.text.empty() || !choice.tokens.empty() || event.finish != Finish::none;
  ready_ = ready_ || choice.fresh;
}

void StreamedAnswer::write_chunk(int index, const std::string& delta, const std::string& logprobs, const char* finish, std::string& out) const {
  out += head_;
  fmt::format_to(std::back_inserter(out), "{{\"index\":{},", index);
  out += form_.chat ? "\"delta\":{" : "\"text\":";
  out += delta;
  out += form_.chat ? "},\"logprobs\":" : ",\"logprobs\":";
  out += logprobs;
  out += ",\"finish_reason\":";
  out += finish == nullptr ? "null}]" : fmt::format("\"{}\"}}]", finish);
  out += form_.include_usage ? ",\"usage\":null}\n\n" : "}\n\n";
}

void StreamedAnswer::write_choice(int index, Choice& choice, std::string& out) {
  if (form_.chat && !choice.begun) write_chunk(index, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null", "null", nullptr, out);
  choice.begun = true;
  const bool ends = choice.finish != Finish::none;
  const bool says = !choice.text.empty() || !choice.tokens.empty();
  const std::string logprobs = says ? logprobs_json(form_, choice.tokens, choice.text_offset) : "null";
  if (form_.chat) {
    if (says) write_chunk(index, "\"content\":" + json_text(choice.text), logprobs, nullptr, out);
    if (ends) write_chunk(index, "", "null", finish_name(choice.finish), out);
  } else if (says || ends) {
    write_chunk(index, json_text(choice.text), logprobs, ends ? finish_name(choice.finish) : nullptr, out);
  }
  choice.closed = ends;
  choice.fresh = false;
  choice.text = {};
  choice.tokens = {};
}

void StreamedAnswer::write(std::string& out) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].fresh && !choices_[i].closed) write_choice(static_cast<int>(i), choices_[i], out);
  }
  ready_ = false;
  waiting_bytes_ = 0;
  if (!done()) return;
  if (error_) {
    out += "data: " + error_->body() + "\n\n";
  } else if (form_.include_usage) {
    // A chunk without choices.
    out += head_ + "],\"usage\":" + usage_json(form_.prompt_tokens, new_tokens_) + "}\n\n";
  }
  out += "data: [DONE]\n\n";
}

}  // namespace onset::serve
