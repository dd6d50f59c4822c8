// Long texts that sentences are hidden in.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// A sentence of its own, and where it goes.
struct HiddenSentence {
  std::string text;
  double depth = 0;  // 0: before everything, 1: behind everything
};

class Haystack {
 public:
  // Short sentences that say nothing, over and over, as in RULER (arXiv:2404.06654).
  static Haystack noise();
  // The sentences of a text, with the white space behind each. Errors: invalid_argument where it has fewer than two.
  static Result<Haystack> of_text(const std::string& text);

  // `count` sentences in a row from number `first` on; behind the last one comes the first again. Hidden ones stand between two
  // sentences, so none is ever cut.
  std::string text(uint64_t first, int64_t count, std::span<const HiddenSentence> hidden) const;
  size_t sentences() const { return sentences_.size(); }

 private:
  explicit Haystack(std::vector<std::string> sentences) : sentences_(std::move(sentences)) {}
  std::vector<std::string> sentences_;
};

}  // namespace onset
