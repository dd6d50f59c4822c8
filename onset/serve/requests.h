// What clients ask for, as typed structs: pure functions from a request's JSON body, with an error for every field or value that is
// not known.
//
// Accepted without any effect, because they cannot change an answer: user, metadata, store (false), service_tier,
// safety_identifier, prompt_cache_key. Everything else that is not in these structs is refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "onset/engine/engine.h"
#include "onset/serve/fields.h"

namespace onset::serve {

// A text, or token ids.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

// The object "onset": texts that the prompt is about, and what becomes of those that were read before (docs/methods.md).
struct ReuseRequest {
  // A text, or the name of one that was a context before.
  struct Context {
    std::string text = {}, id = {};
  };
  std::vector<Context> contexts;
  std::string name = "prefix";        // as the request says it
  std::optional<int32_t> newlines;    // before the first context; none: 2 where nothing else comes before it
  std::optional<ContextReuse> reuse;  // none: one after the other, as a prompt's other tokens
  bool prefix_cache = true;           // false (reuse none): every token is computed, and none is kept
};

// What /v1/completions and /v1/chat/completions have in common.
struct GenerationRequest {
  std::string model;
  bool stream = false;
  bool include_usage = false;              // stream_options: a last chunk with the token counts
  int32_t choices = 1;                     // n: answers to each prompt
  std::optional<int32_t> most_new_tokens;  // none: up to the context's end
  SamplingOptions sampling;                // temperature 1 unless the request says otherwise
  bool seeded = false;                     // sampling.seed came with the request
  std::vector<std::string> stop;
  bool ignore_end = false;                   // ignore_eos: go on after end-of-answer tokens
  std::optional<ReuseRequest> onset;         // where it has contexts
  std::shared_ptr<const AttendSpec> attend;  // onset.attend; none: the server's own
  std::shared_ptr<const SelectSpec> select;  // onset.select; null: as the server does it
};

struct CompletionRequest : GenerationRequest {
  std::vector<Prompt> prompts;
};

struct ChatRequest : GenerationRequest {
  Json messages = Json::array();   // as a chat template takes them: contents are texts, arguments of calls are objects
  Json tools = nullptr;            // a list of {"type": "function", "function": {...}}, or null
  Json tool_choice = nullptr;      // "none", "auto", "required", {"type": "function", ...}, or null
  Json response_format = nullptr;  // {"type": "json_object"}, {"type": "json_schema", ...}, or null: any text
  bool parallel_tool_calls = true;

  // The tools' names. All of them may be called unless tool_choice says otherwise.
  std::vector<std::string> functions = {};
};

struct EmbeddingRequest {
  std::string model;
  std::vector<Prompt> inputs;
  bool base64 = false;                // encoding_format
  std::optional<int64_t> dimensions;  // must be the model's
};

struct TokenizeRequest {
  std::string model;
  std::string text;
  bool add_special = true;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};

Checked<CompletionRequest> parse_completion(const Json& body);
Checked<ChatRequest> parse_chat(const Json& body);
Checked<EmbeddingRequest> parse_embedding(const Json& body);
Checked<TokenizeRequest> parse_tokenize(const Json& body);
Checked<DetokenizeRequest> parse_detokenize(const Json& body);

// chat_messages.cc: the list of messages as a chat template takes it. A "developer" message is a system message; contents that are
// lists of texts are joined; arguments of tool calls become objects.
Json read_messages(const Json& messages, Errors& errors);
// Checks tools and tool_choice, and fills in `functions`.
void read_tools(ChatRequest& request, Errors& errors);

}  // namespace onset::serve
