// Pre-tokenizers: the published patterns that cut text into words before byte-level merging.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// One compiled pattern (PCRE2, just-in-time compiled where the machine allows). Immutable; shared by threads.
class PreTokenizer {
 public:
  // name: "gpt2", "smollm", "llama-bpe" or "qwen2" (the .cc says what each is). Errors: unsupported, naming
  // the name and the known ones.
  static Result<PreTokenizer> create(std::string_view name);

  // Appends the words of a well-formed UTF-8 text: views of it that cover it without gaps. Stretches that the
  // pattern does not match (there are none with the patterns above) are words as well.
  // Errors: resource_exhausted if the matcher gives up.
  Status split(std::string_view text, std::vector<std::string_view>& words) const;

 private:
  struct Pattern;
  explicit PreTokenizer(std::shared_ptr<const Pattern> pattern) : pattern_(std::move(pattern)) {}
  std::shared_ptr<const Pattern> pattern_;
};

// All names with commas between, for errors.
std::string known_pre_tokenizers();

}  // namespace onset
