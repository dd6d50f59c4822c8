#include "onset/compute/attention_blocks.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace onset::attention_blocks {
namespace {

// Sets the bits of slots begin..end-1, counted from the segment's first slot.
void set_visible(uint64_t* tiles, int32_t begin, int32_t end) {
  while (begin < end) {
    const int32_t tile = begin / tile_slots, stop = std::min(end, (tile + 1) * tile_slots);
    const uint64_t below_stop = stop % tile_slots == 0 ? ~uint64_t{0} : (uint64_t{1} << stop % tile_slots) - 1;
    tiles[tile] |= below_stop & ~((uint64_t{1} << begin % tile_slots) - 1);
    begin = stop;
  }
}

// Copies the key and value of slot `from` of a head to slot `to` of another. A number has so many bytes, and a word so many numbers.
template <size_t number, size_t word>
void copy_numbers(const HeadLayout& layout, const std::byte* source, size_t from, std::byte* target, size_t to) {
  const auto padded = static_cast<size_t>(layout.padded);
  for (size_t w = 0; w < padded / word; ++w) {
    const size_t at = layout.keys + w * page_tokens * word * number;
    std::memcpy(target + at + to * word * number, source + at + from * word * number, word * number);
  }
  const std::byte* source_values = source + layout.values + (from / word * padded * word + from % word) * number;
  std::byte* target_values = target + layout.values + (to / word * padded * word + to % word) * number;
  for (size_t d = 0; d < padded; ++d) std::memcpy(target_values + d * word * number, source_values + d * word * number, number);
}

// The same for int4, whose numbers lie in nibbles.
void copy_nibbles(const HeadLayout& layout, const std::byte* source, size_t from, std::byte* target, size_t to) {
  const auto padded = static_cast<size_t>(layout.padded), half = padded / 2;
  for (size_t at = layout.keys; at < layout.values; at += 4 * page_tokens) std::memcpy(target + at + 4 * to, source + at + 4 * from, 4);
  const std::byte* source_values = source + layout.values + from / 4 * half * 4 + from % 4;
  std::byte* target_values = target + layout.values + to / 4 * half * 4 + to % 4;
  for (size_t d = 0; d < half; ++d) target_values[4 * d] = source_values[4 * d];
  target[layout.key_zeros + to] = source[layout.key_zeros + from];
  target[layout.value_zeros + to] = source[layout.value_zeros + from];
}

void copy_slot(KvType type, const HeadLayout& layout, const std::byte* source, int from, std::byte* target, int to) {
  const auto source_slot = static_cast<size_t>(from), target_slot = static_cast<size_t>(to);
  switch (type) {
    case KvType::f32:
      return copy_numbers<4, 1>(layout, source, source_slot, target, target_slot);
    case KvType::f16:
      return copy_numbers<2, 1>(layout, source, source_slot, target, target_slot);
    case KvType::bf16:
      return copy_numbers<2, 2>(layout, source, source_slot, target, target_slot);
    case KvType::int8:
      copy_numbers<1, 4>(layout, source, source_slot, target, target_slot);
      break;
    case KvType::int4:
      copy_nibbles(layout, source, source_slot, target, target_slot);
  }
  for (const size_t scales : {layout.key_scales, layout.value_log2, layout.value_inverse}) {
    std::memcpy(target + scales + target_slot * sizeof(float), source + scales + source_slot * sizeof(float), sizeof(float));
  }
}

// Adds a tile unless no lane sees any of it.
void add_tile(AttentionTile tile, const AttentionBlock& block, PositionBounds queries, SegmentTiles& list) {
  int64_t least = tile.base, most = tile.base;
  if (tile.positions != nullptr) {
    const auto [low, high] = std::minmax_element(tile.positions, tile.positions + tile.slots);
    least = *low;
    most = *high;
  } else {
    // What no lane can see need not be computed.
    if (block.causal && queries.most < least) return;
    if (block.causal && queries.most - least < tile_slots - 1) tile.visible &= (uint64_t{2} << (queries.most - least)) - 1;
    if (block.window != 0 && tile.base >= block.sink) {
      const int64_t gone = queries.least - block.window + 1 - least;
      if (gone >= tile_slots) return;
      if (gone > 0) tile.visible &= ~uint64_t{0} << gone;
    }
    if (tile.visible == 0) return;
    least += std::countr_zero(tile.visible);
    most += 63 - std::countl_zero(tile.visible);
  }
  if (block.causal && least > queries.most) return;
  if (block.window != 0 && least >= block.sink && queries.least - most >= block.window) return;
  const bool all_causal = !block.causal || most <= queries.least;
  const bool all_banded = block.window == 0 || most < block.sink || queries.most - least < block.window;
  tile.masked = tile.visible != ~uint64_t{0} || !all_causal || !all_banded;
  list.tiles[list.count++] = tile;
}

// Gathers the given slots, ascending, into tiles of their own.
class Gatherer {
 public:
  Gatherer(const AttentionCall& call, int32_t kv_head, const HeadLayout& layout, const Scratch& scratch)
      : call_(call), kv_head_(kv_head), layout_(layout), scratch_(scratch) {}

  void add(int32_t slot, const AttentionBlock& block, PositionBounds queries, SegmentTiles& list) {
    const std::byte* page = call_.keys.pages[static_cast<size_t>(slot / page_tokens)];
    std::byte* head = scratch_.gathered + static_cast<size_t>(tile_) * layout_.bytes;
    copy_slot(call_.keys.type, layout_, page + static_cast<size_t>(kv_head_) * layout_.bytes, slot % page_tokens, head, filled_);
    scratch_.gathered_positions[tile_ * tile_slots + filled_] = call_.keys.positions != nullptr ? call_.keys.positions[slot] : slot;
    if (++filled_ == tile_slots) flush(block, queries, list);
  }

  void flush(const AttentionBlock& block, PositionBounds queries, SegmentTiles& list) {
    if (filled_ == 0) return;
    AttentionTile tile;
    tile.head = scratch_.gathered + static_cast<size_t>(tile_) * layout_.bytes;
    tile.positions = scratch_.gathered_positions + tile_ * tile_slots;
    tile.slots = filled_;
    tile.visible = filled_ == tile_slots ? ~uint64_t{0} : (uint64_t{1} << filled_) - 1;
    add_tile(tile, block, queries, list);
    ++tile_;
    filled_ = 0;
  }

 private:
  const AttentionCall& call_;
  int32_t kv_head_;
  const HeadLayout& layout_;
  const Scratch& scratch_;
  int32_t tile_ = 0, filled_ = 0;
};

}  // namespace

const AttentionKernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::generic:
      break;
#if defined(__x86_64__)
    case Isa::avx2:
      return attention_avx2;
    case Isa::avx_vnni:
      return vnni256_is_evex() ? attention_evex_vnni : attention_avx_vnni;
    case Isa::avx512:
      return attention_avx512;
#else
    default:
      break;
#endif
  }
  return attention_generic;
}

Scratch cut_scratch(KvType type, int32_t head_size, Pieces& pieces) {
  const HeadLayout layout = head_layout(type, head_size);
  const auto padded = static_cast<size_t>((layout.padded + 15) / 16 * 16);
  Scratch scratch;
  AttentionBlock& block = scratch.block;
  block.query_words = pieces.take<uint32_t>(padded * block_lanes);
  block.query_scales = pieces.take<float>(block_lanes);
  block.query_bias = pieces.take<int32_t>(block_lanes);
  block.transposed = pieces.take<float>(padded * block_lanes);
  block.scores = pieces.take<float>(tile_slots * block_lanes);
  block.weights = pieces.take<uint32_t>(tile_slots * block_lanes);
  block.key_tile = pieces.take<uint32_t>(padded * tile_slots);
  block.value_tile = pieces.take<uint32_t>(padded * tile_slots);
  if (type == KvType::int4) block.byte_tile = pieces.take<uint32_t>(padded * tile_slots / 2);
  block.value_inverse_tile = pieces.take<float>(tile_slots);
  block.row_output = pieces.take<float>(padded * block_lanes);
  block.maximum = pieces.take<float>(block_lanes);
  block.sum = pieces.take<float>(block_lanes);
  block.output = pieces.take<float>(padded * block_lanes);
  block.total_maximum = pieces.take<float>(block_lanes);
  block.total_sum = pieces.take<float>(block_lanes);
  block.total_output = pieces.take<float>(padded * block_lanes);
  scratch.gathered = pieces.take<std::byte>(layout.bytes * gathered_tiles);
  scratch.gathered_positions = pieces.take<int32_t>(gathered_tiles * tile_slots);
  scratch.factors = pieces.take<float>(block_lanes);
  scratch.probabilities = pieces.take<float>(tile_slots * block_lanes);
  return scratch;
}

void list_tiles(const AttentionCall& call, int32_t kv_head, const PlanBlock& plan, int32_t segment, PositionBounds queries, bool gather,
                const HeadLayout& layout, const Scratch& scratch, SegmentTiles& list) {
  const AttentionBlock& block = scratch.block;
  const KeyValueView& keys = call.keys;
  const int32_t begin = segment * attention_segment_slots;
  const int32_t end = std::min(begin + attention_segment_slots, keys.length);
  uint64_t in_ranges[segment_tiles] = {}, in_columns[segment_tiles] = {};
  auto range = std::partition_point(plan.ranges.begin(), plan.ranges.end(), [&](const KeyRange& r) { return r.end <= begin; });
  for (; range != plan.ranges.end() && range->begin < end; ++range) {
    set_visible(in_ranges, std::max(range->begin, begin) - begin, std::min(range->end, end) - begin);
  }
  auto column = std::lower_bound(plan.columns.begin(), plan.columns.end(), begin);
  for (; column != plan.columns.end() && *column < end; ++column) {
    set_visible(in_columns, *column - begin, *column - begin + 1);
  }
  list.count = 0;
  Gatherer gatherer(call, kv_head, layout, scratch);
  for (int32_t t = 0; t * tile_slots < end - begin; ++t) {
    const int32_t base = begin + t * tile_slots;
    const std::byte* page = keys.pages[static_cast<size_t>(base / page_tokens)];
    if (page == nullptr || (in_ranges[t] | in_columns[t]) == 0) continue;
    if (gather && in_ranges[t] == 0 && std::popcount(in_columns[t]) < gather_below) {
      for (uint64_t bits = in_columns[t]; bits != 0; bits &= bits - 1) {
        gatherer.add(base + std::countr_zero(bits), block, queries, list);
      }
      continue;
    }
    AttentionTile tile;
    tile.head = page + static_cast<size_t>(kv_head) * layout.bytes;
    tile.positions = keys.positions != nullptr ? keys.positions + base : nullptr;
    tile.base = base;
    tile.slots = std::min(end - base, tile_slots);
    tile.visible = in_ranges[t] | in_columns[t];
    add_tile(tile, block, queries, list);
  }
  gatherer.flush(block, queries, list);
}

Worker::Worker(const AttentionKernels& kernels_in, const AttentionCall& call_in, int32_t kv_head_in, Pieces pieces)
    : kernels(kernels_in),
      call(call_in),
      kv_head(kv_head_in),
      layout(head_layout(call_in.keys.type, call_in.keys.head_size)),
      scratch(cut_scratch(call_in.keys.type, call_in.keys.head_size, pieces)) {
  const KeyValueView& keys = call.keys;
  AttentionBlock& block = scratch.block;
  block.numbers = static_cast<PageNumbers>(keys.type);
  block.head_size = keys.head_size;
  block.padded = layout.padded;
  block.keys = layout.keys;
  block.head_bytes = layout.bytes;
  block.values = layout.values;
  block.key_scales = layout.key_scales;
  block.value_log2 = layout.value_log2;
  block.value_inverse = layout.value_inverse;
  block.key_zeros = layout.key_zeros;
  block.value_zeros = layout.value_zeros;
  block.rotate_keys = rotates_keys(keys.type);
  block.rotate_values = rotates_values(keys.type);
  block.hadamard_block = hadamard_block(keys.head_size);
}

void Worker::begin_block(const AttentionPattern& pattern, int32_t used, bool may_be_few) {
  AttentionBlock& block = scratch.block;
  block.scale = static_cast<float>(static_cast<double>(pattern.scale) * log2_of_e);
  block.causal = pattern.causal;
  block.window = pattern.window;
  block.sink = pattern.sink;
  block.used_lanes = used;
  block.few = may_be_few && used <= kernels.few_lanes;
  block.chunk_lanes = used <= kernels.lanes ? kernels.lanes : kernels.chunk_lanes;
  block.chunks = (used + block.chunk_lanes - 1) / block.chunk_lanes;
  queries = {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
  for (int32_t lane = 0; lane < used; ++lane) {
    const int64_t head = static_cast<int64_t>(lanes.head[lane]) * call.keys.head_size;
    block.queries[lane] = call.queries + lanes.row[lane] * call.query_stride + head;
    block.outputs[lane] = call.output == nullptr ? nullptr : call.output + lanes.row[lane] * call.output_stride + head;
    const int32_t position = call.positions[lanes.row[lane]];
    block.query_positions[lane] = position;
    queries.least = std::min<int64_t>(queries.least, position);
    queries.most = std::max<int64_t>(queries.most, position);
  }
  for (int32_t lane = used; lane < block_lanes; ++lane) block.query_positions[lane] = block.query_positions[0];
  kernels.pack(block);
}

bool Worker::compute_segment(const PlanBlock& plan, int32_t segment, bool with_output) {
  list_tiles(call, kv_head, plan, segment, queries, with_output, layout, scratch, tiles);
  if (tiles.count == 0) return false;
  kernels.segment(scratch.block, tiles.tiles, tiles.count, with_output);
  return true;
}

void Worker::merge_segment(bool first, bool with_output) {
  AttentionBlock& block = scratch.block;
  if (first) {
    std::swap(block.maximum, block.total_maximum);
    std::swap(block.sum, block.total_sum);
    std::swap(block.output, block.total_output);
    return;
  }
  float total[block_lanes], segment[block_lanes];
  const int32_t all_lanes = block.chunks * block.chunk_lanes;
  for (int32_t lane = 0; lane < all_lanes; ++lane) {
    const MergeFactors factors = merge_factors(block.total_maximum[lane], block.maximum[lane]);
    total[lane] = factors.total;
    segment[lane] = factors.segment;
    block.total_maximum[lane] = factors.maximum;
    block.total_sum[lane] = block.total_sum[lane] * factors.total + block.sum[lane] * factors.segment;
  }
  if (!with_output) return;
  for (int32_t chunk = 0; chunk < block.chunks; ++chunk) {
    const float* total_factors = total + chunk * block.chunk_lanes;
    const float* segment_factors = segment + chunk * block.chunk_lanes;
    for (int32_t d = 0; d < block.padded; ++d) {
      const int32_t at = (chunk * block.padded + d) * block.chunk_lanes;
      for (int32_t lane = 0; lane < block.chunk_lanes; ++lane) {
        block.total_output[at + lane] =
            block.total_output[at + lane] * total_factors[lane] + block.output[at + lane] * segment_factors[lane];
      }
    }
  }
}

MergeFactors merge_factors(float total_maximum, float segment_maximum) {
  if (total_maximum >= segment_maximum) return {total_maximum, 1.0f, std::exp2(segment_maximum - total_maximum)};
  return {segment_maximum, std::exp2(total_maximum - segment_maximum), 1.0f};
}

float log_sum_exp_of(float maximum, float sum, float one) {
  if (!(maximum > seen_score)) return minus_infinity;
  return static_cast<float>((static_cast<double>(maximum) + std::log2(static_cast<double>(sum / one))) / log2_of_e);
}

}  // namespace onset::attention_blocks
