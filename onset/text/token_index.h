// Two flat hash tables that a tokenizer asks for every pair of neighbours: token by its bytes, merge by two
// tokens.
//
// Open addressing with linear probing, at most half full. Built once, then read by any number of threads.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "onset/text/tokenizer_spec.h"

namespace onset {

inline constexpr TokenId kNoToken = -1;

// Token by its bytes. The texts belong to the caller and must outlive the table.
class TextIndex {
 public:
  explicit TextIndex(size_t expected_tokens = 0) : slots_(std::bit_ceil(2 * expected_tokens + 2)), mask_(slots_.size() - 1) {}

  // Keeps the first token of a text: returns the token that had it before, or kNoToken. At most the expected
  // number of texts may be inserted.
  TokenId insert(std::string_view text, TokenId id) {
    const size_t hash = std::hash<std::string_view>{}(text);
    for (size_t slot = hash & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot].id == kNoToken) {
        slots_[slot] = {text, id, static_cast<uint32_t>(hash >> 32)};
        return kNoToken;
      }
      if (slots_[slot].tag == static_cast<uint32_t>(hash >> 32) && slots_[slot].text == text) return slots_[slot].id;
    }
  }

  TokenId find(std::string_view text) const {
    const size_t hash = std::hash<std::string_view>{}(text);
    for (size_t slot = hash & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot].id == kNoToken) return kNoToken;
      if (slots_[slot].tag == static_cast<uint32_t>(hash >> 32) && slots_[slot].text == text) return slots_[slot].id;
    }
  }

 private:
  struct Slot {
    std::string_view text;
    TokenId id = kNoToken;
    uint32_t tag = 0;  // the hash's upper half, so that texts are compared only when they are probably equal
  };
  std::vector<Slot> slots_;
  size_t mask_;
};

// What two neighbouring tokens become; a lower rank is merged first.
struct PairMerge {
  uint32_t rank = 0;
  TokenId result = kNoToken;
};

class PairIndex {
 public:
  explicit PairIndex(size_t expected_pairs = 0)
      : slots_(std::bit_ceil(2 * expected_pairs + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  // A pair that comes again replaces the earlier one.
  void insert(TokenId left, TokenId right, PairMerge merge) {
    const uint64_t key = key_of(left, right);
    size_t slot = first_slot(key);
    while (slots_[slot].merge.result != kNoToken && slots_[slot].key != key) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = {key, merge};
  }

  // result is kNoToken where the pair has no merge.
  PairMerge find(TokenId left, TokenId right) const {
    const uint64_t key = key_of(left, right);
    size_t slot = first_slot(key);
    while (slots_[slot].merge.result != kNoToken && slots_[slot].key != key) slot = (slot + 1) & (slots_.size() - 1);
    return slots_[slot].merge;
  }

 private:
  struct Slot {
    uint64_t key = 0;
    PairMerge merge;
  };
  static uint64_t key_of(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t first_slot(uint64_t key) const { return static_cast<size_t>(key * 0x9e3779b97f4a7c15u >> shift_); }

  std::vector<Slot> slots_;
  int shift_;
};

}  // namespace onset
