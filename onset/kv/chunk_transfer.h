// Chunks on their way between stores and pages, by threads of their own: layer by layer, while the layers before are computed.
//
// A ChunkLoad looks texts up, and then brings those that were found to pages that its owner provides; CacheBlend's `synchronize`
// (arXiv:2405.16444, section 6) is wait(). Writing goes on in the background and never holds up whoever asks for it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "onset/kv/chunk_store.h"

namespace onset {

class ChunkLoad {
 public:
  // Where a chunk's pages are to be: [layer][group and page].
  using Pages = std::vector<std::vector<std::byte*>>;

  ~ChunkLoad();
  ChunkLoad(const ChunkLoad&) = delete;
  ChunkLoad& operator=(const ChunkLoad&) = delete;

  // Whether all texts are looked up; waits until they are.
  bool looked_up() const;
  void wait_for_look_up();
  // The tier that has text `index`, or null; after the look-up.
  const char* tier(size_t index) const;

  // Waits until the layer is there in all texts of the first `groups` groups. Errors: why one of them cannot be had; nothing more comes
  // then.
  Status wait(int32_t layer, int32_t groups);
  bool complete() const;  // all layers are there
  bool failed() const;
  // Ends it: when this returns nobody writes to the pages any more.
  void stop();

  int64_t loaded_bytes() const;
  double load_seconds() const;    // from ChunkTransfer::begin() until the last layer so far
  double waited_seconds() const;  // that wait() took

 private:
  friend class ChunkTransfer;
  ChunkLoad(std::vector<std::string> keys, ChunkIdentity identity) : keys_(std::move(keys)), identity_(std::move(identity)) {}

  const std::vector<std::string> keys_;
  const ChunkIdentity identity_;

  mutable std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  bool looked_up_ = false, began_ = false, stopped_ = false;
  bool reading_ = false;  // the loader writes to the pages right now
  std::vector<std::unique_ptr<StoredChunk>> chunks_;
  std::vector<const char*> tiers_;
  std::vector<Pages> pages_;
  std::vector<int32_t> groups_;  // of each text
  std::vector<int32_t> layers_;  // of each group, that are there
  std::chrono::steady_clock::time_point begin_{};
  Status status_;
  int64_t bytes_ = 0;
  double load_seconds_ = 0, waited_seconds_ = 0;
};

// A chunk with its bytes, to be kept.
struct OwnedChunk {
  ChunkIdentity identity;
  ChunkText text;
  std::vector<std::byte> pages;  // as in ChunkToStore
};

class ChunkTransfer {
 public:
  // Texts are looked up in the stores in their order, and kept in all of them. `bytes_per_second`: no faster than this, as if the stores
  // were on a slower device; 0: as fast as they go. `most_waiting_bytes`: what waits to be kept; beyond it chunks are not kept.
  ChunkTransfer(std::vector<std::shared_ptr<ChunkStore>> stores, double bytes_per_second, int64_t most_waiting_bytes = int64_t{1} << 29);
  // Keeps what waits, then ends.
  ~ChunkTransfer();
  ChunkTransfer(const ChunkTransfer&) = delete;
  ChunkTransfer& operator=(const ChunkTransfer&) = delete;

  // Texts with these keys. To be dropped before the transfer is.
  std::shared_ptr<ChunkLoad> look_up(std::vector<std::string> keys, const ChunkIdentity& identity);
  // Loads what was found: pages[i] are those of text i, empty for texts that are not wanted. All layers of the texts of group 0 come first,
  // then those of group 1: what is computed together waits for one group. groups[i] is that of text i. Once for each load, after its
  // look-up.
  void begin(const std::shared_ptr<ChunkLoad>& load, std::vector<ChunkLoad::Pages> pages, std::vector<int32_t> groups);
  void keep(OwnedChunk chunk);
  // Waits until all chunks are kept, or could not be.
  void wait_until_kept();

  const std::vector<std::shared_ptr<ChunkStore>>& stores() const { return stores_; }
  int64_t not_kept() const;  // chunks for which there was no room in the queue

 private:
  friend class ChunkLoad;
  void load_in_turn();
  void keep_in_turn();
  void find(ChunkLoad& load);
  void load(ChunkLoad& load);
  bool load_layer(ChunkLoad& load, int32_t group, int32_t layer);

  const std::vector<std::shared_ptr<ChunkStore>> stores_;
  const double bytes_per_second_;
  const int64_t most_waiting_bytes_;

  mutable std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::deque<std::shared_ptr<ChunkLoad>> loads_;
  std::deque<OwnedChunk> kept_;
  int64_t waiting_bytes_ = 0, not_kept_ = 0;
  bool keeping_ = false, ends_ = false;
  std::thread loader_, keeper_;
};

}  // namespace onset
