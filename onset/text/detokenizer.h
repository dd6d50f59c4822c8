// Detokenising as tokens come: text for a reader who must never see half a character.
#pragma once

#include <string>

#include "onset/text/tokenizer.h"

namespace onset {

// Feed it ids one by one. All that push() and finish() return, joined, is replace_ill_formed(decode(ids)):
// whole UTF-8 characters, with U+FFFD for bytes that cannot be part of one.
class Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer, const DecodeOptions& options = {})
      : tokenizer_(std::move(tokenizer)), options_(options), text_start_(options.text_start) {}

  // The characters that `id` completes; up to three bytes of an unfinished one are held back. An id outside
  // the vocabulary adds nothing.
  std::string push(TokenId id);
  // What is held back (an unfinished character, as U+FFFD); begins anew.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  DecodeOptions options_;
  bool text_start_;
  std::string held_;
};

}  // namespace onset
