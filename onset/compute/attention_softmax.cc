// Column and diagonal sums of softmax rows: what selectors look at without computing values.
#include <cmath>

#include "onset/compute/attention_blocks.h"

namespace onset {

using namespace attention_blocks;

namespace {

// Where the sums of a query head go.
struct HeadSums {
  float* column;
  float* diagonal;
};

// Adds the probabilities of a tile in which lanes or slots are at positions of any kind; the order of additions is that of add_sums.
void add_scattered(const Worker& worker, const AttentionTile& tile, const HeadSums& sums) {
  const AttentionBlock& block = worker.scratch.block;
  const int64_t length = worker.call.keys.length;
  for (int32_t i = 0; i < tile.slots; ++i) {
    if ((tile.visible >> i & 1) == 0) continue;
    const int64_t position = tile.positions != nullptr ? tile.positions[i] : tile.base + i;
    float parts[sum_lanes] = {};
    for (int32_t lane = 0; lane < block.used_lanes; ++lane) {
      const int32_t chunk = lane / block.chunk_lanes;
      const float p = worker.scratch.probabilities[(chunk * tile_slots + i) * block.chunk_lanes + lane % block.chunk_lanes];
      parts[lane % sum_lanes] += p;
      const int64_t distance = block.query_positions[lane] - position;
      if (distance >= 0 && distance < length) sums.diagonal[distance] += p;
    }
    for (int32_t step = sum_lanes / 2; step > 0; step /= 2) {
      for (int32_t l = 0; l < step; ++l) parts[l] += parts[l + step];
    }
    sums.column[tile.base + i] += parts[0];
  }
}

// Two passes over the keys for a block of lanes that share a query head: the sums of exponentials, then the
// probabilities.
void sum_block(Worker& worker, const AttentionPattern& pattern, const PlanBlock& plan, int32_t used, const HeadSums& sums) {
  worker.begin_block(pattern, used, false);
  AttentionBlock& block = worker.scratch.block;
  const int32_t segments = segments_of(worker.call.keys);
  bool first = true;
  for (int32_t segment = 0; segment < segments; ++segment) {
    if (!worker.compute_segment(plan, segment, false)) continue;
    worker.merge_segment(first, false);
    first = false;
  }
  if (first) return;
  const float one = weight_one(worker.kernels, worker.call.keys.type);
  float* log2_sums = worker.scratch.factors;
  for (int32_t lane = 0; lane < block.chunks * block.chunk_lanes; ++lane) {
    const bool seen = block.total_maximum[lane] > seen_score;
    log2_sums[lane] = seen ? block.total_maximum[lane] + std::log2(block.total_sum[lane] / one) : -masked_score;
  }
  bool consecutive = used % sum_lanes == 0;
  for (int32_t lane = 1; lane < used; ++lane) {
    consecutive = consecutive && block.query_positions[lane] == block.query_positions[0] + lane;
  }
  for (int32_t segment = 0; segment < segments; ++segment) {
    list_tiles(worker.call, worker.kv_head, plan, segment, worker.queries, false, worker.layout, worker.scratch, worker.tiles);
    for (int t = 0; t < worker.tiles.count; ++t) {
      worker.kernels.probabilities(block, worker.tiles.tiles[t], log2_sums, worker.scratch.probabilities);
      const AttentionTile& tile = worker.tiles.tiles[t];
      if (consecutive && tile.positions == nullptr) {
        worker.kernels.add_sums(block, tile, worker.scratch.probabilities, worker.call.keys.length, sums.column + tile.base, sums.diagonal);
      } else {
        add_scattered(worker, tile, sums);
      }
    }
  }
}

}  // namespace

void add_softmax_sums(Isa isa, const AttentionCall& call, int32_t head, float* column, float* diagonal, std::byte* scratch) {
  Worker worker(kernels_for(isa), call, head / group_of(call), Pieces(scratch));
  const AttentionPattern& pattern = call.plan->pattern(head);
  for_each_plan_block(pattern, 0, call.rows, [&](const PlanBlock& plan, int32_t begin, int32_t end) {
    for (int32_t row = begin; row < end; row += block_lanes) {
      const int32_t used = std::min(block_lanes, end - row);
      for (int32_t i = 0; i < used; ++i) {
        worker.lanes.row[i] = row + i;
        worker.lanes.head[i] = head;
      }
      sum_block(worker, pattern, plan, used, {column, diagonal});
    }
  });
}

void softmax_sums(Isa isa, const AttentionCall& call, SoftmaxSums& sums, std::byte* scratch) {
  const size_t length = static_cast<size_t>(call.keys.length), numbers = static_cast<size_t>(call.query_heads) * length;
  sums.column.assign(numbers, 0.0f);
  sums.diagonal.assign(numbers, 0.0f);
  for (int32_t head = 0; head < call.query_heads; ++head) {
    const size_t at = static_cast<size_t>(head) * length;
    add_softmax_sums(isa, call, head, sums.column.data() + at, sums.diagonal.data() + at, scratch);
  }
}

}  // namespace onset
