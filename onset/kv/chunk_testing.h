// Chunks for tests of their stores.
#pragma once

#include <random>
#include <utility>
#include <vector>

#include "onset/kv/chunk_store.h"

namespace onset {

inline ChunkIdentity small_identity() {
  return {.model = "a model", .type = KvType::f32, .layers = 3, .head_groups = 2, .heads_per_group = 1, .head_size = 4};
}

// A chunk whose text and bytes follow from a number.
struct NumberedChunk {
  explicit NumberedChunk(int number, int32_t tokens = 70, ChunkIdentity identity = small_identity()) {
    chunk.identity = std::move(identity);
    chunk.text.lead = {1};
    for (int32_t i = 0; i < tokens; ++i) chunk.text.tokens.push_back(number * 1000 + i);
    bytes.resize(static_cast<size_t>(chunk_pages(chunk.text.slots())) * chunk.identity.head_groups * chunk.identity.layers *
                 chunk.identity.page_bytes());
    std::mt19937 random(static_cast<uint32_t>(number));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    chunk.pages = bytes;
    key = chunk_key(chunk.identity, chunk.text);
  }
  ChunkToStore chunk;
  std::vector<std::byte> bytes;
  std::string key;
};

// What a store has of a chunk: all bytes; nothing where it misses; an error where what it has is damaged.
inline Result<std::vector<std::byte>> read_all(ChunkStore& store, const NumberedChunk& wanted) {
  const auto found = store.find(wanted.key, wanted.chunk.identity);
  std::vector<std::byte> bytes;
  if (!found) return bytes;
  bytes.resize(wanted.bytes.size());
  const size_t size = wanted.chunk.identity.page_bytes(), layers = wanted.chunk.identity.layers, of_layer = bytes.size() / layers;
  for (size_t layer = 0; layer < layers; ++layer) {
    std::vector<std::byte*> pages;
    for (size_t at = 0; at < of_layer; at += size) pages.push_back(bytes.data() + layer * of_layer + at);
    ONSET_TRY(found->read_layer(static_cast<int32_t>(layer), pages));
  }
  return bytes;
}

}  // namespace onset
