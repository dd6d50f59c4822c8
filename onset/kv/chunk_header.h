// What is written before a chunk's layers, in a file or in Redis: whose it is, what was read, and how each layer's bytes are recognised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "onset/kv/chunk_store.h"

namespace onset {

inline constexpr size_t chunk_alignment = 4096;  // of each layer in a file

struct ChunkHeader {
  std::string key;
  ChunkIdentity identity;
  std::vector<int32_t> lead, tokens;
  std::vector<uint64_t> checksums;  // XXH3 of each layer

  int32_t slots() const { return static_cast<int32_t>(lead.size() + tokens.size()); }
  size_t layer_pages() const { return static_cast<size_t>(chunk_pages(slots())) * identity.head_groups; }
  size_t layer_bytes() const { return layer_pages() * identity.page_bytes(); }
};

// The header of a chunk, with the checksums of its layers.
ChunkHeader chunk_header(const ChunkToStore& chunk);

// Bytes of a header, with a checksum of its own at the end; little-endian:
//   "ONSETKV1", u32 bytes of the whole header, key (64 characters), u32 length and bytes of the model, u32 each: type, layers, groups,
//   heads of a group, head size, tokens of the lead, tokens of the text; i32 each token; u64 for each layer; u64 for all before.
std::vector<std::byte> encode(const ChunkHeader& header);
// The bytes may go on behind the header. Errors: invalid_argument for anything that is no whole, unchanged header that makes sense.
Result<ChunkHeader> decode_chunk_header(std::span<const std::byte> bytes);
// How many bytes the header that begins like this has (16 bytes are enough); 0 for what is none.
size_t chunk_header_bytes(std::span<const std::byte> beginning);

// Where a layer lies in a file, and how long the file is.
size_t chunk_layer_offset(const ChunkHeader& header, size_t header_bytes, int32_t layer);

uint64_t chunk_checksum(std::span<const std::byte> bytes);
// The same of pages that lie apart, each page_bytes long.
uint64_t chunk_checksum(std::span<std::byte* const> pages, size_t page_bytes);

}  // namespace onset
