// How keys and values lie inside a page, for each KvType; and writing and reading them.
//
// A page holds page_tokens slots of `heads` KV heads: for each head its keys, then its values, in the order
// the attention kernel reads them. The bytes of one slot depend only on that slot's key and value (scales are
// per slot and head), so pages fill in any order and in chunks of any size with equal results. Bytes of slots
// that were never written may be anything.
//
// A "word" is what one multiply-add instruction takes from a lane: 4 int8, 2 bf16, 1 f16 or 1 f32
// (word_values()). With `padded` = head_size rounded up to a multiple of 4, one head lies like this, every
// part beginning at a multiple of 64 bytes:
//   keys           [padded / word][slot][word]     word of values d, d+1, ... of every slot side by side
//   values         [slot / word][padded][word]     word of slots s, s+1, ... of every d side by side
//   key scales     [slot] float32                  int8, int4
//   value scales   [slot] float32 log2 of the scale, then [slot] float32 one over the scale   int8, int4
//   zeros          [slot] bytes, of keys and then of values                                    int4 only
//
// int8: keys and values are multiplied by a blockwise Hadamard matrix (hadamard_block(); orthogonal, so q.k
// stays if the query is rotated too, and the output is rotated back), which spreads outliers, then divided by
// scale = largest magnitude / 127 and rounded. Keys are stored as unsigned bytes, 128 added; values as signed
// bytes.
//
// int4: rotated in the same way, then rounded to 0..15: number / scale + zero, where scale = (largest - smallest) / 15, with the smallest
// no larger and the largest no smaller than 0, and the zero, a whole number of 0..15 itself, is a byte for each slot. Two rows of int8's
// words of keys lie in one, the first in the low nibbles; of values, numbers d and d + padded / 2 of a slot lie in one byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "onset/base/cpu_features.h"
#include "onset/tensor/key_value_view.h"

namespace onset {

// Bytes of one page, a multiple of 64.
size_t page_bytes(KvType type, int heads, int head_size);

// Stores one token's key and value (each `heads` x `head_size` float32, keys already with their position's
// rotary embedding) in slot 0..page_tokens-1 of a page.
void write_slot(Isa isa, KvType type, int heads, int head_size, std::byte* page, int slot, const float* key, const float* value);

// The stored key and value of a slot, as float32 in the layout write_slot takes (quantisation undone).
void read_slot(KvType type, int heads, int head_size, const std::byte* page, int slot, float* key, float* value);

// The mean of the first `slots` keys of a page, [heads x head_size].
void mean_key(KvType type, int heads, int head_size, const std::byte* page, int slots, float* mean);

// The stored keys of all slots of one head (at `head` in a page), [head_size][page_tokens]: number d of every slot side by side.
void read_keys(Isa isa, KvType type, int head_size, const std::byte* head, float* plane);

// How keys turn when their slots go to other positions: pair p of the slot that comes to lie in slot s of its new page by the angle whose
// cosine and sine are at [p * page_tokens + s].
struct KeyTurn {
  const float* cosines = nullptr;
  const float* sines = nullptr;
  int pairs = 0;
  bool neighbours = false;  // pairs (0,1), (2,3), ... instead of (0, pairs), (1, pairs + 1), ...
};

// Copies `count` slots of a page to another one, which lie in one page each, and turns their keys. int8 and int4 keys are rounded again, by
// the rule of write_slot; values stay what they are.
void move_slots(Isa isa, KvType type, int heads, int head_size, const std::byte* from, int from_slot, std::byte* to, int to_slot, int count,
                const KeyTurn& turn);

// Adds to the keys and values of `count` slots of a page: keys[i] ([heads x head_size], one row for each slot) to the key of slot + i,
// `value` to every one's value. int8: rounded again, by the rule of write_slot.
void add_to_slots(Isa isa, KvType type, int heads, int head_size, std::byte* page, int slot, int count, const float* keys,
                  const float* value);

// Where the parts of one head lie, in bytes from the head's beginning.
struct HeadLayout {
  int word = 1;    // values in a word
  int padded = 0;  // head_size rounded up to a multiple of 4
  size_t keys = 0, values = 0, key_scales = 0, value_log2 = 0, value_inverse = 0;
  size_t key_zeros = 0, value_zeros = 0;
  size_t bytes = 0;  // of the whole head
};
HeadLayout head_layout(KvType type, int head_size);

// Whether pages of this type hold rotated keys and values.
constexpr bool rotates_keys(KvType type) {
  return is_integer(type);
}
constexpr bool rotates_values(KvType type) {
  return is_integer(type);
}

// The largest power of two that divides head_size: the order of the Hadamard blocks.
constexpr int hadamard_block(int head_size) {
  return head_size & -head_size;
}

// Multiplies `head_size` numbers by the blockwise Hadamard matrix (its own inverse), in place.
void rotate_head(float* values, int head_size);

}  // namespace onset
