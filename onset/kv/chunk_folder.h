// A folder of chunks, one file each (kv/chunk_header.h), for one or several processes.
//
// A file is written under a temporary name, synchronised, and renamed: what has a chunk's name is whole. Each layer lies in one piece from
// a multiple of 4 KiB on, under a checksum of its own, so that loading it is one read and nothing wrong is ever used. The files are read,
// not mapped: bytes go to their pages in one copy either way, and a file that somebody cuts off is an error then and not the process's end.
// The chunks' bytes, those being written included, never exceed the capacity: the least recently used ones go first.
#pragma once

#include <filesystem>
#include <memory>

#include "onset/kv/chunk_store.h"

namespace onset {

// A file of the folder, for lists.
struct ChunkFileInfo {
  std::string key, model;
  int32_t lead = 0, tokens = 0;
  int64_t bytes = 0;
  double age_seconds = 0;  // since it was written
};

class ChunkFolder : public ChunkStore {
 public:
  // Makes the folder, for its owner only, if it is not there; takes up what is there, and removes what was being written by processes that
  // are no more. An index that cannot be read is set aside and made again. Errors: failed, naming the folder; invalid_argument for a
  // capacity below 1.
  static Result<std::unique_ptr<ChunkFolder>> open(const std::filesystem::path& folder, int64_t capacity_bytes);
  ~ChunkFolder() override;

  const char* tier() const override { return "disk"; }
  std::unique_ptr<StoredChunk> find(const std::string& key, const ChunkIdentity& identity) override;
  Status put(const ChunkToStore& chunk) override;
  ChunkStoreStatistics statistics() const override;
  Result<std::vector<std::string>> keys() override;
  Result<ChunkText> text(const std::string& key, const ChunkIdentity& identity) override;

  // The least recently used first; files that are no chunks are left out.
  Result<std::vector<ChunkFileInfo>> list() const;
  // Reads a chunk as find() and read_layer() do. Errors: not_found; failed for one that is damaged, which is gone then.
  Status verify(const std::string& key);
  // Asks the system to let go of a chunk's file in memory, so that whoever reads it next reads the device (for measurements). Returns
  // whether it has: a folder that lies in memory stays there. Errors: not_found; failed, naming the file.
  Result<bool> drop_from_memory(const std::string& key) const;
  // Forgets chunks, the least recently used first, until no more than `bytes` are left. Returns how many went.
  Result<int64_t> prune(int64_t bytes);

 private:
  friend class FileChunk;
  struct State;
  explicit ChunkFolder(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;  // opened chunks have it too
};

}  // namespace onset
