// Keys and values of a text that was read by itself, moved to other positions: CacheBlend (arXiv:2405.16444, appendix A).
#pragma once

#include <vector>

#include "onset/base/thread_pool.h"
#include "onset/kv/sequence_cache.h"
#include "onset/model/model.h"

namespace onset {

// A move of slots first..last-1 of one cache to the slots (and positions) from `place` on of another. Keys turn by the rotary embedding's
// difference of angles: scores depend on distances alone, so they are the keys that the text has there behind the same beginning (up to
// rounding; angles are the model's own float32 products). In both caches slots are their positions; the other one holds the slots
// (SequenceCache::hold), and both have all pages. Linear, per-pair and yarn scaling turn alike: their frequencies are fixed.
class Repositioning {
 public:
  // The caches and the model must outlive it.
  Repositioning(const Model& model, const SequenceCache& from, int32_t first, int32_t last, SequenceCache& to, int32_t place,
                ThreadPool& workers);
  ~Repositioning();
  Repositioning(Repositioning&&) noexcept;
  // Moves one layer's keys and values.
  void move(int layer, ThreadPool& workers) const;

 private:
  class PageTurns;
  const Model* model_;
  const SequenceCache* from_;
  SequenceCache* to_;
  int32_t distance_, place_, end_;
  std::vector<PageTurns> turns_;  // of each page that it writes to
};

}  // namespace onset
