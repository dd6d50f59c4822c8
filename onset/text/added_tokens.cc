#include "onset/text/added_tokens.h"

#include <algorithm>
#include <tuple>

#include "onset/text/unicode.h"

namespace onset {
namespace {

// The code point that ends right before `position`; 0 where there is none.
char32_t character_before(std::string_view text, size_t position) {
  for (size_t length = 1; length <= 4 && length <= position; ++length) {
    const std::string_view tail = text.substr(position - length, length);
    const Utf8Unit unit = next_utf8_unit(tail);
    if (unit.well_formed && unit.length == length) return decode_utf8(tail);
  }
  return 0;
}

char32_t character_at(std::string_view text, size_t position) {
  if (position >= text.size()) return 0;
  return next_utf8_unit(text.substr(position)).well_formed ? decode_utf8(text.substr(position)) : 0;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  return !is_word_character(character_before(text, begin)) && !is_word_character(character_at(text, end));
}

size_t length_in_utf8(char32_t code_point) {
  return code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return std::tie(a.content, a.id) < std::tie(b.content, b.id); });
  for (const AddedToken& token : tokens_) first_byte_[static_cast<uint8_t>(token.content[0])] = true;
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t position, bool parse_special) const {
  // Narrows the sorted tokens to those that share one more byte with the text, until none is left.
  auto low = tokens_.begin();
  auto high = tokens_.end();
  const AddedToken* longest = nullptr;
  for (size_t depth = 0; low != high; ++depth) {
    // The tokens that end here come first among those that share `depth` bytes.
    for (; low != high && low->content.size() == depth; ++low) {
      if ((longest == nullptr || longest->content.size() < depth) && (parse_special || !low->special)) longest = &*low;
    }
    if (position + depth >= text.size()) break;
    const auto byte = static_cast<uint8_t>(text[position + depth]);
    const auto at_depth = [&](const AddedToken& token) { return static_cast<uint8_t>(token.content[depth]); };
    low = std::partition_point(low, high, [&](const AddedToken& token) { return at_depth(token) < byte; });
    high = std::partition_point(low, high, [&](const AddedToken& token) { return at_depth(token) == byte; });
  }
  return longest;
}

std::vector<AddedTokenMatch> AddedTokenMatcher::find_all(std::string_view text, bool parse_special) const {
  std::vector<AddedTokenMatch> matches;
  if (tokens_.empty()) return matches;
  size_t taken = 0;  // bytes that belong to earlier matches
  for (size_t position = 0; position < text.size();) {
    const AddedToken* token = first_byte_[static_cast<uint8_t>(text[position])] ? longest_at(text, position, parse_special) : nullptr;
    if (token == nullptr) {
      ++position;
      continue;
    }
    AddedTokenMatch match{position, position + token->content.size(), token->id};
    position = match.end;
    if (token->single_word && !stands_alone(text, match.begin, match.end)) continue;
    if (token->strip_left) {
      for (char32_t c; match.begin > taken && is_space(c = character_before(text, match.begin));) {
        match.begin -= length_in_utf8(c);
      }
    }
    if (token->strip_right) {
      for (char32_t c; is_space(c = character_at(text, match.end));) match.end += length_in_utf8(c);
    }
    position = taken = match.end;
    matches.push_back(match);
  }
  return matches;
}

}  // namespace onset
