// How keys and values lie inside a page, for each KvType; and writing and reading them.
//
// A page holds page_tokens slots of `heads` KV heads: for each head its keys, then its values, in the order the
// attention kernel reads them. The bytes of one slot depend only on that slot's key and value (scales are per slot and head), so
// pages fill in any order and in chunks of any size with equal results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "onset/base/cpu_features.h"
#include "onset/tensor/key_value_view.h"

namespace onset {

// Bytes of one page, a multiple of 64.
size_t page_bytes(KvType type, int heads, int head_size);

// Stores one token's key and value (each `heads` x `head_size` float32, keys already with their position's rotary
// embedding) in slot 0..page_tokens-1 of a page.
void write_slot(Isa isa, KvType type, int heads, int head_size, std::byte* page, int slot, const float* key,
                const float* value);

// The stored key and value of a slot, as float32 in the layout write_slot takes (quantisation undone).
void read_slot(KvType type, int heads, int head_size, const std::byte* page, int slot, float* key, float* value);

}  // namespace onset
