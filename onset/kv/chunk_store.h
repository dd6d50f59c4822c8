// Texts' keys and values outside of memory: pages of a text that was read by itself, found again by what was read.
//
// A chunk is what a SequenceCache holds after a text was read behind its lead (the tokens before it, which may be none): slot i is token i
// of lead and text, at position i, in every layer. It can go to any place of any prompt (model/reposition.h), or stay where it is (APE).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/kv/sequence_cache.h"

namespace onset {

// What a chunk must agree on with those who want it.
struct ChunkIdentity {
  std::string model;  // of whose weights and arithmetic the pages are (model_fingerprint(), Model::precision())
  KvType type = KvType::int8;
  int32_t layers = 0, head_groups = 0, heads_per_group = 0, head_size = 0;
  bool operator==(const ChunkIdentity&) const = default;
  size_t page_bytes() const;
};
ChunkIdentity chunk_identity(const std::string& model, const CacheLayout& layout);

// What was read, and for whom.
struct ChunkText {
  std::string space;  // an API key's namespace: nobody else finds the chunk
  std::vector<int32_t> lead, tokens;
  int32_t slots() const { return static_cast<int32_t>(lead.size() + tokens.size()); }
};

// SHA-256 of identity and text as 64 lower-case hexadecimal digits.
std::string chunk_key(const ChunkIdentity& identity, const ChunkText& text);

// Pages of one table (layer and group): those of slots 0.., the last one whole.
inline int32_t chunk_pages(int32_t slots) {
  return (slots + page_tokens - 1) / page_tokens;
}

// A chunk that was found. It stays readable although its store drops it meanwhile. For one thread at a time.
class StoredChunk {
 public:
  virtual ~StoredChunk() = default;
  virtual int64_t bytes() const = 0;  // that reading all layers takes
  // Reads a layer's pages to where they shall be: group after group, chunk_pages() of each, page_bytes() long. Errors: failed where it
  // cannot be read, or is not what was written; its store has forgotten it then, and what was read is worth nothing.
  virtual Status read_layer(int32_t layer, std::span<std::byte* const> pages) = 0;
};

// A chunk on its way into a store.
struct ChunkToStore {
  ChunkIdentity identity;
  ChunkText text;
  // [layer][group][page][page_bytes()]
  std::span<const std::byte> pages;
};

struct ChunkStoreStatistics {
  int64_t chunks = 0, bytes = 0;  // that it has
  int64_t hits = 0, misses = 0, stored = 0, evicted = 0;
  int64_t failures = 0;  // chunks that were lost or could not be kept, and why, of the last one
  std::string failure;
};

// Several threads may use a store at once.
class ChunkStore {
 public:
  virtual ~ChunkStore() = default;
  virtual const char* tier() const = 0;  // "disk", "redis"
  // Null: it has no such chunk, or one that is damaged (which is forgotten) or cannot be reached now.
  virtual std::unique_ptr<StoredChunk> find(const std::string& key, const ChunkIdentity& identity) = 0;
  // When it returns, the chunk is kept; one that was there already is not written again. Errors: resource_exhausted for a chunk that is
  // larger than the store may be, failed where it cannot be written; then nothing has changed.
  virtual Status put(const ChunkToStore& chunk) = 0;
  virtual ChunkStoreStatistics statistics() const = 0;
  // Of all chunks that it has now, whatever model they are of. Errors: failed where it cannot be asked.
  virtual Result<std::vector<std::string>> keys() = 0;
  // What was read for a chunk; not for whom (`space` is empty). Errors: not_found where it has none of this key and identity.
  virtual Result<ChunkText> text(const std::string& key, const ChunkIdentity& identity) = 0;
};

}  // namespace onset
