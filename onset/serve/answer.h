// From a request's events to what OpenAI's clients read: one JSON object, or chunks of server-sent events.
//
// Both are fed the events of all choices of one call, in any order, and know nothing of engines and sockets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "onset/engine/engine.h"
#include "onset/serve/api_error.h"
#include "onset/text/tokenizer.h"
#include "onset/text/tool_calls.h"

namespace onset::serve {

// What an answer looks like.
struct AnswerForm {
  bool chat = false;  // chat.completion, or text_completion
  std::string id;     // "chatcmpl-..." or "cmpl-..."
  std::string model;
  int64_t created = 0;  // seconds since 1970
  int32_t choices = 1;  // in all: prompts times n, those of a prompt one after the other
  int32_t choices_of_prompt = 1;
  int64_t prompt_tokens = 0;  // of all prompts, each counted once
  std::string reuse = {};     // how contexts are reused; empty: there are none
  // The contexts, by the names under which later requests can have them.
  struct Context {
    std::string id;
    int64_t tokens = 0;
  };
  std::vector<Context> contexts = {};
  bool logprobs = false;
  bool include_usage = false;                   // streams: token counts in a last chunk
  const Tokenizer* tokenizer = nullptr;         // names tokens in logprobs
  ToolCallForm tool_form = ToolCallForm::none;  // how calls of these functions are written in the answer
  std::vector<std::string> functions = {};
};

// What a choice says: text, and calls of functions where the answer may have them.
class ChoiceText {
 public:
  explicit ChoiceText(const AnswerForm& form);

  // The next piece of the answer; `last`: there is no more.
  void push(std::string text, bool last);
  int32_t calls() const { return calls_; }

  // In order; neighbours of one kind are joined.
  struct Piece {
    ToolCallEvent::Kind kind = ToolCallEvent::Kind::content;  // content, begin or arguments
    int32_t call = 0;
    std::string text;
  };
  std::vector<Piece> pieces;
  size_t bytes = 0;  // of the pieces

 private:
  void add(ToolCallEvent event);
  std::optional<ToolCallParser> parser_;
  int32_t calls_ = 0;
};

// What an answer has cost, as it comes to light.
struct Usage {
  void add(const AnswerForm& form, int choice, const Event& event);
  // {"prompt_tokens": ..., "completion_tokens": ..., "total_tokens": ..., "prompt_tokens_details": {"cached_tokens": ...}}
  std::string json(const AnswerForm& form) const;
  // What became of the contexts (and of known texts in prompts: reuse "auto"): nothing without any, or ,"onset":{"reuse": ...,
  // "context_tokens": ..., "cached_tokens": ..., "contexts": [{"id": ..., "tokens": ...}], "tiers": {"memory": ...}, "loaded_bytes": ...,
  // "load_seconds": ..., "wait_seconds": ...}, and of blended ones "reused_tokens", "fresh_tokens", "recomputed_tokens" (for each layer).
  // Of a select policy: "select": {"policy": ..., "prompt_rows": [for each layer], "rows_by_now": [...],
  // "revived": ..., "stored_bytes": ...}.
  // With an attend policy by name "attend": {"name": ..., "pairs": ..., "dense_pairs": ..., "skipped": ...}, of all choices.
  std::string onset_field(const AnswerForm& form) const;

  std::shared_ptr<const ContextsReport> contexts;  // the first choice's
  std::shared_ptr<const CacheBlendReport> blend;   // likewise
  std::shared_ptr<const SelectReport> select;      // likewise
  std::optional<AttendReport> attend;              // sums over the choices that have ended
  int64_t new_tokens = 0;
  int64_t cached_tokens = 0;  // of all prompts, each counted once: by its first choice
};

// An answer that is sent when it is whole.
class WholeAnswer {
 public:
  explicit WholeAnswer(AnswerForm form);

  void add(int choice, Event event);
  void fail(ApiError error);
  bool done() const { return error_.has_value() || ended_ == form_.choices; }
  bool failed() const { return error_.has_value(); }
  // Once done: the JSON text, or why there is none.
  Checked<std::string> body() const;
  int64_t completion_tokens() const { return usage_.new_tokens; }

 private:
  struct Choice {
    ChoiceText text;
    std::vector<SampledToken> tokens;  // if their log-probabilities are wanted
    Finish finish = Finish::none;
  };
  AnswerForm form_;
  std::vector<Choice> choices_;
  int32_t ended_ = 0;
  Usage usage_;
  std::optional<ApiError> error_;
};

// An answer that is sent as it comes. What a slow reader has not taken is kept as text and joined into one chunk when it can be
// written, so that what waits is as large as the answer's text and no larger.
class StreamedAnswer {
 public:
  explicit StreamedAnswer(AnswerForm form);

  void add(int choice, Event event);
  // Ends the stream with an error event.
  void fail(ApiError error);
  // Something can be written.
  bool ready() const { return ready_; }
  // Everything was added; after the next write() the stream is complete.
  bool done() const { return error_.has_value() || ended_ == form_.choices; }
  bool failed() const { return error_.has_value(); }
  // Why it failed, if it did: before anything was written, this may be sent instead of a stream.
  const std::optional<ApiError>& error() const { return error_; }
  // Appends all that waits, as events ("data: {...}\n\n"), after the last one "data: [DONE]\n\n".
  void write(std::string& out);
  // Bytes of memory that what waits takes.
  size_t waiting_bytes() const { return waiting_bytes_; }
  int64_t completion_tokens() const { return usage_.new_tokens; }

 private:
  struct Choice {
    ChoiceText text;                        // its pieces wait
    std::vector<SampledToken> tokens = {};  // likewise, if their log-probabilities are wanted
    int64_t text_offset = 0;                // characters of the tokens that were written
    Finish finish = Finish::none;
    bool begun = false, fresh = false, closed = false;  // the role was written; something waits; its finish_reason was written
  };
  void write_choice(int index, Choice& choice, std::string& out);
  void write_chunk(int index, const std::string& delta, const std::string& logprobs, const char* finish, std::string& out) const;

  AnswerForm form_;
  std::string head_;  // the beginning of every chunk
  std::vector<Choice> choices_;
  int32_t ended_ = 0;
  Usage usage_;
  size_t waiting_bytes_ = 0;
  bool ready_ = false;
  std::optional<ApiError> error_;
};

// Appends a JSON string of valid UTF-8, quotes included.
void append_json_string(std::string& out, std::string_view text);

}  // namespace onset::serve
