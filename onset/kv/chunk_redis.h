// Chunks in Redis, for hosts that share what they have read.
//
// A chunk is a header (kv/chunk_header.h) under "onset:chunk:KEY" and its layers under "onset:chunk:KEY:NUMBER"; the header is written
// last. How much is kept and what goes first is Redis' own matter (maxmemory, maxmemory-policy): a chunk of which a part has gone is a
// miss. A server that is not there is a miss too, and is asked again after a pause that grows from half a second to ten.
#pragma once

#include <memory>
#include <string>

#include "onset/kv/chunk_store.h"

namespace onset {

class ChunkRedis : public ChunkStore {
 public:
  // "redis://[:PASSWORD@]HOST[:PORT][/DATABASE]"; nothing is connected yet. Errors: invalid_argument for another form.
  static Result<std::unique_ptr<ChunkRedis>> open(const std::string& url);
  ~ChunkRedis() override;

  const char* tier() const override { return "redis"; }
  std::unique_ptr<StoredChunk> find(const std::string& key, const ChunkIdentity& identity) override;
  // What Redis has taken is kept as safely as Redis keeps things.
  Status put(const ChunkToStore& chunk) override;
  // `chunks` and `bytes` are those that this object has put.
  ChunkStoreStatistics statistics() const override;
  Result<std::vector<std::string>> keys() override;
  Result<ChunkText> text(const std::string& key, const ChunkIdentity& identity) override;
  // Takes a chunk of so many layers out. Errors: failed, where the server cannot be reached.
  Status erase(const std::string& key, int32_t layers);
  // Whether the server answers. Errors: failed, naming it and the reason.
  Status ping();

 private:
  friend class RedisChunk;
  struct State;
  explicit ChunkRedis(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;  // opened chunks have it too
};

}  // namespace onset
