// Finds added tokens (special tokens, user-defined pieces) in text, before it is cut into words.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/text/tokenizer_spec.h"

namespace onset {

// A found token and the bytes of the text that it takes.
struct AddedTokenMatch {
  size_t begin = 0, end = 0;
  TokenId id = 0;
};

// A set of added tokens, all of them looked for at once. Immutable; shared by threads.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  // Tokens with an empty content are never found; of equal contents the lowest id is.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // The matches in `text` from left to right: at the leftmost place where any token stands the longest one,
  // then on behind it. Special tokens only if parse_special. White space beside a match goes to it as its
  // flags say.
  std::vector<AddedTokenMatch> find_all(std::string_view text, bool parse_special) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t position, bool parse_special) const;

  std::vector<AddedToken> tokens_;      // sorted by content
  std::array<bool, 256> first_byte_{};  // of any content
};

}  // namespace onset
