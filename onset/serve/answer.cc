#include "onset/serve/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "onset/serve/prepare.h"
#include "onset/text/unicode.h"

namespace onset::serve {
namespace {

std::string json_text(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

// JSON has no infinity; OpenAI says -9999 for what cannot happen.
double finite(float logprob) {
  return std::isfinite(logprob) ? logprob : -9999.0;
}

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
    names.append(comma).append(json_text(name));
    alternatives.append(comma).append(alternatives_object(*form.tokenizer, token));
    offset += characters(name);
  }
  return fmt::format("{{\"text_offset\":[{}],\"token_logprobs\":[{}],\"tokens\":[{}],\"top_logprobs\":[{}]}}", offsets, logprobs, names,
                     alternatives);
}

std::string logprobs_json(const AnswerForm& form, const std::vector<SampledToken>& tokens, int64_t& offset) {
  if (!form.logprobs) return "null";
  return form.chat ? chat_logprobs(form, tokens) : completion_logprobs(form, tokens, offset);
}

// The token of an event whose log-probability is reported: the end of the answer is no part of its text.
bool reports(const AnswerForm& form, const Event& event) {
  return form.logprobs && event.token && !(event.finish == Finish::stop && form.tokenizer->is_end_of_generation(event.token->token));
}

const char* finish_reason(Finish finish, const ChoiceText& text) {
  return finish == Finish::stop && text.calls() > 0 ? "tool_calls" : finish_name(finish);
}

std::string content_of(const ChoiceText& text) {
  std::string content;
  for (const ChoiceText::Piece& piece : text.pieces) {
    if (piece.kind == ToolCallEvent::Kind::content) content += piece.text;
  }
  return content;
}

// {"role": "assistant", "content": ..., "refusal": null, "tool_calls": [...]}
std::string message_json(const ChoiceText& text) {
  const std::string content = content_of(text);
  std::string calls;
  for (size_t i = 0; i < text.pieces.size(); ++i) {
    if (text.pieces[i].kind != ToolCallEvent::Kind::begin) continue;
    const bool has_arguments = i + 1 < text.pieces.size() && text.pieces[i + 1].kind == ToolCallEvent::Kind::arguments;
    calls +=
        fmt::format("{}{{\"id\":\"{}\",\"type\":\"function\",\"function\":{{\"name\":{},\"arguments\":{}}}}}", calls.empty() ? "" : ",",
                    new_id("call_"), json_text(text.pieces[i].text), json_text(has_arguments ? text.pieces[i + 1].text : ""));
  }
  return fmt::format("{{\"role\":\"assistant\",\"content\":{},\"refusal\":null{}}}",
                     calls.empty() || !content.empty() ? json_text(content) : "null",
                     calls.empty() ? "" : ",\"tool_calls\":[" + calls + "]");
}

// A chunk's delta, without the braces.
std::string delta_json(const ChoiceText::Piece& piece) {
  if (piece.kind == ToolCallEvent::Kind::content) return "\"content\":" + json_text(piece.text);
  if (piece.kind == ToolCallEvent::Kind::begin) {
    return fmt::format(
        "\"tool_calls\":[{{\"index\":{},\"id\":\"{}\",\"type\":\"function\",\"function\":{{\"name\":{},\"arguments\":\"\"}}}}]", piece.call,
        new_id("call_"), json_text(piece.text));
  }
  return fmt::format("\"tool_calls\":[{{\"index\":{},\"function\":{{\"arguments\":{}}}}}]", piece.call, json_text(piece.text));
}

std::string head_of(const AnswerForm& form, bool streamed) {
  return fmt::format("{{\"id\":{},\"object\":\"{}\",\"created\":{},\"model\":{},\"choices\":[", json_text(form.id),
                     !form.chat ? "text_completion"
                     : streamed ? "chat.completion.chunk"
                                : "chat.completion",
                     form.created, json_text(form.model));
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view hexadecimal = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
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

void Usage::add(const AnswerForm& form, int choice, const Event& event) {
  new_tokens += event.token.has_value();
  if (event.finish != Finish::none && choice % form.choices_of_prompt == 0) cached_tokens += event.cached_tokens;
  if (event.attend && !attend) attend = AttendReport{event.attend->name, {}};
  if (event.attend) {
    attend->counts.visited += event.attend->counts.visited;
    attend->counts.dense += event.attend->counts.dense;
  }
  if (event.finish == Finish::none || choice != 0) return;
  contexts = event.contexts;
  blend = event.blend;
  select = event.select;
}

std::string Usage::onset_field(const AnswerForm& form) const {
  const bool found = form.reuse.empty() && blend && blend->reused_tokens > 0;
  const bool tells = found || !form.reuse.empty();
  std::string out;
  const auto begin = [&out] { out += out.empty() ? ",\"onset\":{" : ","; };
  if (tells) {
    begin();
    int64_t tokens = found ? blend->reused_tokens : 0;
    for (const AnswerForm::Context& context : form.contexts) tokens += context.tokens;
    out += fmt::format("\"reuse\":\"{}\",\"context_tokens\":{},\"cached_tokens\":{}", found ? "auto" : form.reuse, tokens, cached_tokens);
  }
  if (found) {
    out += fmt::format(",\"find_seconds\":{:.6f}", contexts->find_seconds);
  } else if (!form.reuse.empty()) {
    const char* comma = "";
    out += ",\"contexts\":[";
    for (const auto& [id, count] : form.contexts) {
      out += fmt::format("{}{{\"id\":\"{}\",\"tokens\":{}}}", std::exchange(comma, ","), id, count);
    }
    out += "]";
  }
  if (tells && contexts) {
    const char* comma = "";
    out += ",\"tiers\":{";
    for (const auto& [tier, tokens] : contexts->tokens) out += fmt::format("{}\"{}\":{}", std::exchange(comma, ","), tier, tokens);
    out += fmt::format("}},\"loaded_bytes\":{},\"load_seconds\":{:.6f},\"wait_seconds\":{:.6f}", contexts->loaded_bytes,
                       contexts->load_seconds, contexts->wait_seconds);
  }
  if (tells && blend) {
    out += fmt::format(",\"ratio\":{:.4g},\"reused_tokens\":{},\"fresh_tokens\":{},\"recomputed_tokens\":[{}]", blend->ratio,
                       blend->reused_tokens, blend->fresh_tokens, fmt::join(blend->recomputed, ","));
  }
  if (attend) {
    begin();
    out += "\"attend\":{\"name\":";
    append_json_string(out, attend->name);
    out += fmt::format(",\"pairs\":{},\"dense_pairs\":{},\"skipped\":{:.4f}}}", attend->counts.visited, attend->counts.dense,
                       skipped_share(attend->counts));
  }
  if (select) {
    begin();
    out += fmt::format("\"select\":{{\"policy\":\"{}\",\"prompt_rows\":[{}],\"rows_by_now\":[{}],\"revived\":{},\"stored_bytes\":{}}}",
                       select->policy, fmt::join(select->prompt_rows, ","), fmt::join(select->rows_by_now, ","), select->rejoined,
                       select->stored_bytes);
  }
  return out.empty() ? out : out + "}";
}

std::string Usage::json(const AnswerForm& form) const {
  return fmt::format(
      "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":{}}}}}",
      form.prompt_tokens, new_tokens, form.prompt_tokens + new_tokens, cached_tokens);
}

// --- what a choice says --------------------------------------------------------------------------------------------

ChoiceText::ChoiceText(const AnswerForm& form) {
  if (form.tool_form != ToolCallForm::none && !form.functions.empty()) parser_.emplace(form.tool_form, form.functions);
}

void ChoiceText::push(std::string text, bool last) {
  if (!parser_) {
    if (!text.empty()) add({.text = std::move(text)});
    return;
  }
  for (ToolCallEvent& event : parser_->push(text)) add(std::move(event));
  if (!last) return;
  for (ToolCallEvent& event : parser_->finish()) add(std::move(event));
}

void ChoiceText::add(ToolCallEvent event) {
  using Kind = ToolCallEvent::Kind;
  if (event.kind == Kind::end || event.kind == Kind::broken) return;
  calls_ += event.kind == Kind::begin;
  bytes += sizeof(Piece) + event.text.size();
  const bool joins = !pieces.empty() && event.kind != Kind::begin && pieces.back().kind == event.kind && pieces.back().call == event.call;
  if (joins) {
    pieces.back().text += event.text;
  } else {
    pieces.push_back({event.kind, event.call, std::move(event.text)});
  }
}

// --- whole --------------------------------------------------------------------------------------------------------

WholeAnswer::WholeAnswer(AnswerForm form) : form_(std::move(form)) {
  for (int32_t i = 0; i < form_.choices; ++i) choices_.push_back({ChoiceText(form_), {}, Finish::none});
}

void WholeAnswer::fail(ApiError error) {
  if (!done()) error_ = std::move(error);
}

void WholeAnswer::add(int index, Event event) {
  if (done()) return;
  if (event.finish == Finish::failed || event.finish == Finish::expired) return fail(error_of(event.status));
  if (event.finish == Finish::cancelled) return fail(server_error("the request was cancelled"));
  Choice& choice = choices_[index];
  choice.text.push(std::move(event.text), event.finish != Finish::none);
  usage_.add(form_, index, event);
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
    const std::string said = form_.chat ? "\"message\":" + message_json(choice.text) : "\"text\":" + json_text(content_of(choice.text));
    out += fmt::format("{}{{\"index\":{},{},\"logprobs\":{},\"finish_reason\":\"{}\"}}", i == 0 ? "" : ",", i, said, logprobs,
                       finish_reason(choice.finish, choice.text));
  }
  return out + "],\"usage\":" + usage_.json(form_) + usage_.onset_field(form_) + "}";
}

// --- streamed -----------------------------------------------------------------------------------------------------

StreamedAnswer::StreamedAnswer(AnswerForm form) : form_(std::move(form)), head_("data: " + head_of(form_, true)) {
  for (int32_t i = 0; i < form_.choices; ++i) choices_.push_back({.text = ChoiceText(form_)});
}

void StreamedAnswer::fail(ApiError error) {
  if (done()) return;
  error_ = std::move(error);
  ready_ = true;
}

void StreamedAnswer::add(int index, Event event) {
  if (done()) return;
  if (event.finish == Finish::failed || event.finish == Finish::expired) return fail(error_of(event.status));
  if (event.finish == Finish::cancelled) return fail(server_error("the request was cancelled"));
  Choice& choice = choices_[index];
  const size_t had = choice.text.bytes;
  choice.text.push(std::move(event.text), event.finish != Finish::none);
  waiting_bytes_ += choice.text.bytes - had;
  usage_.add(form_, index, event);
  if (reports(form_, event)) {
    waiting_bytes_ += sizeof(SampledToken) + event.token->alternatives.size() * sizeof(event.token->alternatives[0]);
    choice.tokens.push_back(*std::move(event.token));
  }
  choice.finish = event.finish;
  ended_ += event.finish != Finish::none;
  // A token in the middle of a character says nothing yet.
  choice.fresh = choice.fresh || !choice.begun || !choice.text.pieces.empty() || !choice.tokens.empty() || event.finish != Finish::none;
  ready_ = ready_ || choice.fresh;
}

void StreamedAnswer::write_chunk(int index, const std::string& delta, const std::string& logprobs, const char* finish,
                                 std::string& out) const {
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
  std::vector<ChoiceText::Piece>& pieces = choice.text.pieces;
  if (pieces.empty() && (!choice.tokens.empty() || (ends && !form_.chat))) pieces.push_back({});
  std::string logprobs = choice.tokens.empty() ? "null" : logprobs_json(form_, choice.tokens, choice.text_offset);
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (form_.chat) {
      write_chunk(index, delta_json(pieces[i]), logprobs, nullptr, out);
    } else {
      write_chunk(index, json_text(pieces[i].text), logprobs, ends && i + 1 == pieces.size() ? finish_name(choice.finish) : nullptr, out);
    }
    logprobs = "null";  // all of them went out with the first piece
  }
  if (ends && form_.chat) write_chunk(index, "", "null", finish_reason(choice.finish, choice.text), out);
  choice.closed = ends;
  choice.fresh = false;
  pieces = {};
  choice.text.bytes = 0;
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
    out += head_ + "],\"usage\":" + usage_.json(form_) + usage_.onset_field(form_) + "}\n\n";
  }
  out += "data: [DONE]\n\n";
}

}  // namespace onset::serve
