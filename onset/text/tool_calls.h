// Calls of tools (functions): the forms in which models write them, told from answers as they come, and
// demanded by a grammar.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/text/grammar.h"

namespace onset {

enum class ToolCallForm : uint8_t {
  none,    // the model was not trained to call tools
  hermes,  // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, any number of them; Hermes, Qwen
  llama3,  // {"name": ..., "parameters": {...}} as the whole answer, perhaps after <|python_tag|>, several
           // with ";" between
};

// The form that a model's chat template shows it.
ToolCallForm tool_call_form(std::string_view template_source);

// What an answer says, in order. Texts are whole UTF-8 characters if the pushed ones are.
struct ToolCallEvent {
  enum class Kind : uint8_t {
    content,    // text: of the answer itself
    begin,      // text: the function's name; `call` counts from 0
    arguments,  // text: the next piece of the arguments, JSON as the model wrote it
    end,        // the arguments are a complete JSON object
    broken,     // the answer ended, or stopped being JSON, within the arguments; what came instead follows as
                // content
  };
  Kind kind = Kind::content;
  int32_t call = 0;
  std::string text;
};

// Follows one JSON value byte by byte, whatever its white space.
class JsonScanner {
 public:
  enum class State : uint8_t { more, done, bad };
  // Bytes behind `done` or `bad` are not to be pushed. Numbers at the outermost level end with the byte
  // behind them, which is not part of them: their `done` comes one byte late.
  State push(char byte);

 private:
  enum class Next : uint8_t { value, first_value, name, first_name, colon, after };
  State begin_value(char byte);
  State end_value();
  State in_word(char byte);
  State in_string(char byte);

  std::vector<char> open_;  // braces and brackets
  Next next_ = Next::value;
  std::string word_;  // a number or name that is being read
  bool string_ = false, is_name_ = false;
  int escape_ = 0;  // characters of an escape that are still to come, -1: the letter
};

// Reads an answer in pieces, however it is cut. A call begins once its name is known; what looks like a call
// and is not (no JSON, no name, an unknown function) is content, to the last character. White space beside
// calls belongs to neither.
class ToolCallParser {
 public:
  // `functions`: the names that may be called.
  ToolCallParser(ToolCallForm form, std::vector<std::string> functions);

  std::vector<ToolCallEvent> push(std::string_view text);
  // The answer ended.
  std::vector<ToolCallEvent> finish();
  int32_t calls() const { return calls_; }

 private:
  enum class Place : uint8_t { content, begin, header, arguments, tail };
  using Events = std::vector<ToolCallEvent>;
  struct Header;
  void run(Events& events, bool last);
  bool in_content(Events& events, bool last);
  bool at_begin(Events& events, bool last);
  bool in_header(Events& events, bool last);
  bool in_arguments(Events& events, bool last);
  bool in_tail(bool last);
  void add_content(Events& events, std::string_view text);
  void no_call(Events& events);
  Header read_header() const;

  ToolCallForm form_;
  std::vector<std::string> functions_;
  Place place_;
  std::string held_;   // not yet told
  std::string front_;  // what stood before the call that is being read
  JsonScanner scanner_;
  bool after_call_ = false;  // white space is dropped
  bool plain_ = false;       // nothing but content from here on
  int32_t calls_ = 0;
};

struct ToolCallDemand {
  std::optional<std::string> function = {};  // this one; none: any of them
  bool parallel = true;                      // several calls in one answer
};

// A grammar of answers that are one call or more, with arguments as the functions' parameters say. `tools` is
// a list as in OpenAI's API: {"type": "function", "function": {"name": ..., "parameters": schema}}. Errors:
// unsupported for form none, those of compile_json_schema with the function's name in front, invalid_argument
// for a tool without a name, two with one name, or a demanded function that is not among them.
Result<Grammar> tool_call_grammar(ToolCallForm form, const nlohmann::ordered_json& tools, const ToolCallDemand& demand = {});

}  // namespace onset
