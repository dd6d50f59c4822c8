#include "onset/text/detokenizer.h"

#include <utility>

#include "onset/text/unicode.h"

namespace onset {

std::string Detokenizer::push(TokenId id) {
  held_ += tokenizer_.decode_next(id, options_, text_start_);
  // Finds the unfinished character at the end, if there is one.
  size_t end = held_.size();
  for (size_t length = 1; length <= 3 && length <= held_.size(); ++length) {
    const std::string_view tail = std::string_view(held_).substr(held_.size() - length);
    const Utf8Unit unit = next_utf8_unit(tail);
    if (unit.incomplete && unit.length == length) end = held_.size() - length;
  }
  std::string complete = replace_ill_formed(std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  return complete;
}

std::string Detokenizer::finish() {
  text_start_ = options_.text_start;
  return replace_ill_formed(std::exchange(held_, std::string()));
}

}  // namespace onset
