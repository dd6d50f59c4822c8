// The normaliser of a tokenizer: what happens to text between special tokens before anything else.
#pragma once

#include <string>
#include <string_view>

#include "onset/text/tokenizer_spec.h"

namespace onset {

// U+2581, SentencePiece's visible space.
inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

// `text` with each `from` replaced by `to`, from left to right.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

// SentencePiece-style: spaces become U+2581, and one stands in front where the spec wants it before every
// section. Byte-level: normalisation form C where the spec wants it (ill-formed text stays as it is).
std::string normalize(const TokenizerSpec& spec, std::string_view text);

}  // namespace onset
