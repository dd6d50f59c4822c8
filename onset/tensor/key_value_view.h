// What attention sees of the key/value cache: one sequence's pages of one layer and one group of KV heads.
//
// A slot is a place for one token's key and value; slots are numbered in the order tokens were stored, and pages
// hold `page_tokens` of them. Usually slot == position; explicit positions say otherwise (chunks that were moved,
// tokens that were dropped). How bytes lie inside a page belongs to the kernels: compute/page_format.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace onset {

inline constexpr int page_tokens = 64;

// How keys and values are stored in pages.
enum class KvType : uint8_t { f32, f16, bf16, int8, int4 };
inline constexpr KvType all_kv_types[] = {KvType::f32, KvType::f16, KvType::bf16, KvType::int8, KvType::int4};

// Whether keys and values are integers with scales.
constexpr bool is_integer(KvType type) {
  return type == KvType::int8 || type == KvType::int4;
}

// "f32", "f16", "bf16", "int8", "int4".
const char* kv_type_name(KvType type);

struct KeyValueView {
  KvType type = KvType::f32;
  int32_t length = 0;  // slots in use; slot s lies in pages[s / page_tokens]
  int32_t heads = 0;   // KV heads of this group
  int32_t head_size = 0;
  // One pointer for each page of the sequence; nullptr marks a page whose slots are absent (they left a window, or
  // were never stored): attention passes over them.
  std::span<const std::byte* const> pages;
  // The position of each slot, `length` long; nullptr: the slot's number is its position.
  const int32_t* positions = nullptr;
};

}  // namespace onset
