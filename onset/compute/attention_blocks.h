// What a worker of the attention kernel does with a block of lanes: which tiles of keys it visits by a plan, segment by segment,
// and how segments add up. Shared by attention.cc (outputs) and attention_softmax.cc (sums of softmax rows); nobody else's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "onset/compute/attention.h"
#include "onset/compute/attention_kernels.h"
#include "onset/compute/page_format.h"

namespace onset::attention_blocks {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
inline constexpr double log2_of_e = 1.4426950408889634;
inline constexpr int32_t segment_tiles = attention_segment_slots / tile_slots;
// Tiles with fewer visited slots than this, all of them columns, are gathered.
inline constexpr int gather_below = 16;
inline constexpr int32_t gathered_tiles = segment_tiles * gather_below / tile_slots;
static_assert(tile_slots == page_tokens);
static_assert(static_cast<int>(PageNumbers::int4) == static_cast<int>(KvType::int4));

// The kernels of an instruction set that this CPU supports.
const AttentionKernels& kernels_for(Isa isa);

inline int32_t segments_of(const KeyValueView& keys) {
  return (keys.length + attention_segment_slots - 1) / attention_segment_slots;
}

inline int32_t group_of(const AttentionCall& call) {
  return call.query_heads / call.keys.heads;
}

// What a probability of one is as the kernel weighs it.
inline float weight_one(const AttentionKernels& kernels, KvType type) {
  return is_integer(type) ? kernels.weight_one : 1.0f;
}

// Hands out 64-byte aligned pieces of a buffer; with no buffer, only counts.
class Pieces {
 public:
  explicit Pieces(std::byte* buffer) : buffer_(buffer) {}
  template <typename T>
  T* take(size_t count) {
    T* piece = buffer_ == nullptr ? nullptr : reinterpret_cast<T*>(buffer_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  std::byte* buffer_;
  size_t used_ = 0;
};

struct Scratch {
  AttentionBlock block;
  std::byte* gathered = nullptr;          // gathered_tiles heads
  int32_t* gathered_positions = nullptr;  // [gathered_tiles][tile_slots]
  float* factors = nullptr;               // [block_lanes]
  float* probabilities = nullptr;         // [chunk][tile_slots][lane], for softmax_sums
};

// Takes everything that a block needs.
Scratch cut_scratch(KvType type, int32_t head_size, Pieces& pieces);

// What is visited of one segment, tile by tile.
struct SegmentTiles {
  AttentionTile tiles[segment_tiles + gathered_tiles];
  int count = 0;
};

// The lanes' smallest and largest query positions.
struct PositionBounds {
  int64_t least = 0, most = 0;
};

// The tiles of segment `segment` that the lanes of `block` visit, as `plan` says.
void list_tiles(const AttentionCall& call, int32_t kv_head, const PlanBlock& plan, int32_t segment, PositionBounds queries, bool gather,
                const HeadLayout& layout, const Scratch& scratch, SegmentTiles& list);

// Row and query head of every lane.
struct LaneNames {
  int32_t row[block_lanes];
  int32_t head[block_lanes];
};

// Everything that the blocks of one task share.
struct Worker {
  const AttentionKernels& kernels;
  const AttentionCall& call;
  int32_t kv_head;
  HeadLayout layout;
  Scratch scratch;
  LaneNames lanes;
  PositionBounds queries;
  SegmentTiles tiles;

  // `pieces`: the worker's scratch, attention_scratch_bytes() long.
  Worker(const AttentionKernels& kernels_in, const AttentionCall& call_in, int32_t kv_head_in, Pieces pieces);

  // Makes the block out of the first `used` names in `lanes` and packs their queries.
  void begin_block(const AttentionPattern& pattern, int32_t used, bool may_be_few);

  // Computes a segment into the block's state; false if no lane visits any of it.
  bool compute_segment(const PlanBlock& plan, int32_t segment, bool with_output);

  // Adds the segment's state to the total; `first`: there is none yet.
  void merge_segment(bool first, bool with_output);
};

// How two states of a lane weigh in their union; its maximum.
struct MergeFactors {
  float maximum, total, segment;
};
MergeFactors merge_factors(float total_maximum, float segment_maximum);

// In natural logarithms, of a maximum and sum of a state; minus infinity if nothing was seen.
float log_sum_exp_of(float maximum, float sum, float one);

// Calls body(plan block, first row, last row + 1) for the blocks of a pattern that meet rows begin..end-1.
template <typename Body>
void for_each_plan_block(const AttentionPattern& pattern, int32_t begin, int32_t end, const Body& body) {
  auto block = std::partition_point(pattern.blocks.begin(), pattern.blocks.end(), [&](const PlanBlock& b) { return b.row_end <= begin; });
  for (; block != pattern.blocks.end() && block->row_begin < end; ++block) {
    body(*block, std::max(begin, block->row_begin), std::min(end, block->row_end));
  }
}

}  // namespace onset::attention_blocks
