// Byte-pair merging of one word, in O(n log n): the cheapest pair of neighbours first, the leftmost among
// equals.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "onset/text/token_index.h"

namespace onset {

// A stretch of the word that is one token, or (id kNoToken) a character that has none.
struct Symbol {
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

  uint32_t start = 0, length = 0;  // bytes of the word; length 0 once it went into its left neighbour
  TokenId id = kNoToken;
  uint32_t previous = kNone, next = kNone;
};

// Merges in place until no rule applies. Callers fill symbols() with neighbours in order (links are set here)
// and read back those with length > 0. Keeps its memory between words.
class Merger {
 public:
  std::vector<Symbol>& symbols() { return symbols_; }

  // rule(left, right) gives the PairMerge of two neighbouring symbols (result kNoToken: none).
  template <typename Rule>
  void merge(const Rule& rule) {
    const auto count = static_cast<uint32_t>(symbols_.size());
    candidates_.clear();
    for (uint32_t i = 0; i < count; ++i) {
      symbols_[i].previous = i == 0 ? Symbol::kNone : i - 1;
      symbols_[i].next = i + 1 == count ? Symbol::kNone : i + 1;
      if (i > 0) consider(i - 1, i, rule, /*ordered=*/false);
    }
    std::make_heap(candidates_.begin(), candidates_.end(), later);
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end(), later);
      const Candidate best = candidates_.back();
      candidates_.pop_back();
      Symbol& left = symbols_[best.left];
      Symbol& right = symbols_[best.right];
      // Symbols only grow, so the lengths tell whether this is still the pair that was considered.
      if (left.length == 0 || right.length == 0 || left.length + right.length != best.length) continue;
      left.length = best.length;
      left.id = best.result;
      right.length = 0;
      left.next = right.next;
      if (left.next != Symbol::kNone) symbols_[left.next].previous = best.left;
      if (left.previous != Symbol::kNone) consider(left.previous, best.left, rule, true);
      if (left.next != Symbol::kNone) consider(best.left, left.next, rule, true);
    }
  }

 private:
  struct Candidate {
    uint32_t rank, left, right, length;
    TokenId result;
  };
  static bool later(const Candidate& a, const Candidate& b) { return a.rank != b.rank ? a.rank > b.rank : a.left > b.left; }

  template <typename Rule>
  void consider(uint32_t left, uint32_t right, const Rule& rule, bool ordered) {
    const PairMerge merge = rule(symbols_[left], symbols_[right]);
    if (merge.result == kNoToken) return;
    candidates_.push_back({merge.rank, left, right, symbols_[left].length + symbols_[right].length, merge.result});
    if (ordered) std::push_heap(candidates_.begin(), candidates_.end(), later);
  }

  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;
};

}  // namespace onset
