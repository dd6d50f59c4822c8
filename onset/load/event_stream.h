// Server-sent events, as far as OpenAI's streams use them: the data of each event, whatever the pieces they
// come in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace onset {

class EventStream {
 public:
  // The data of the events that this piece completes; lines of one event are joined by line feeds.
  std::vector<std::string> push(std::string_view text);

 private:
  std::string line_, data_;
  bool any_ = false;
  bool carriage_return_ = false;  // the last byte: a line feed behind it belongs to it
};

// What one event of a completion's stream says.
struct CompletionEvent {
  bool piece = false;                                         // of the answer
  bool end = false;                                           // "[DONE]"
  std::optional<int> prompt_tokens = {}, output_tokens = {};  // the usage, where it is told
  std::string problem = {};                                   // an error's message, or that it is no JSON
};
CompletionEvent read_completion_event(std::string_view data);

}  // namespace onset
