#include "onset/compute/attention.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

#include "onset/compute/attention_kernels.h"
#include "onset/compute/page_format.h"

namespace onset {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr double log2_of_e = 1.4426950408889634;
constexpr int32_t segment_tiles = attention_segment_slots / tile_slots;
// Tiles with fewer visited slots than this, all of them columns, are gathered.
constexpr int gather_below = 16;
constexpr int32_t gathered_tiles = segment_tiles * gather_below / tile_slots;
static_assert(tile_slots == page_tokens);
static_assert(static_cast<int>(PageNumbers::int8) == static_cast<int>(KvType::int8));

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

int32_t segments_of(const KeyValueView& keys) {
  return (keys.length + attention_segment_slots - 1) / attention_segment_slots;
}

int32_t group_of(const AttentionCall& call) {
  return call.query_heads / call.keys.heads;
}

float weight_one(const AttentionKernels& kernels, KvType type) {
  return type == KvType::int8 ? kernels.weight_one : 1.0f;
}

// ---- a worker's scratch ----

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

// ---- which tiles a block of lanes visits ----

// Sets the bits of slots begin..end-1, counted from the segment's first slot.
void set_visible(uint64_t* tiles, int32_t begin, int32_t end) {
  while (begin < end) {
    const int32_t tile = begin / tile_slots, stop = std::min(end, (tile + 1) * tile_slots);
    const uint64_t below_stop =
        stop % tile_slots == 0 ? ~uint64_t{0} : (uint64_t{1} << stop % tile_slots) - 1;
    tiles[tile] |= below_stop & ~((uint64_t{1} << begin % tile_slots) - 1);
    begin = stop;
  }
}

// Copies the key and value of slot `from` of a head to slot `to` of another.
void copy_slot(KvType type, const HeadLayout& layout, const std::byte* source, int from, std::byte* target,
               int to) {
  const auto word = static_cast<size_t>(layout.word), padded = static_cast<size_t>(layout.padded);
  const size_t number = type == KvType::f32 ? 4 : type == KvType::int8 ? 1 : 2;
  const auto source_slot = static_cast<size_t>(from), target_slot = static_cast<size_t>(to);
  for (size_t w = 0; w < padded / word; ++w) {
    std::memcpy(target + layout.keys + (w * page_tokens + target_slot) * word * number,
                source + layout.keys + (w * page_tokens + source_slot) * word * number, word * number);
  }
  const std::byte* source_values =
      source + layout.values + (source_slot / word * padded * word + source_slot % word) * number;
  std::byte* target_values =
      target + layout.values + (target_slot / word * padded * word + target_slot % word) * number;
  for (size_t d = 0; d < padded; ++d) {
    std::memcpy(target_values + d * word * number, source_values + d * word * number, number);
  }
  if (type != KvType::int8) return;
  for (const size_t scales : {layout.key_scales, layout.value_log2, layout.value_inverse}) {
    std::memcpy(target + scales + target_slot * sizeof(float), source + scales + source_slot * sizeof(float),
                sizeof(float));
  }
}

// What is visited of one segment, tile by tile.
struct SegmentTiles {
  AttentionTile tiles[segment_tiles + gathered_tiles];
  int count = 0;
};

// The lanes' smallest and largest query positions.
struct PositionBounds {
  int64_t least = 0, most = 0;
};

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
    if (block.causal && queries.most - least < tile_slots - 1)
      tile.visible &= (uint64_t{2} << (queries.most - least)) - 1;
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
    copy_slot(call_.keys.type, layout_, page + static_cast<size_t>(kv_head_) * layout_.bytes,
              slot % page_tokens, head, filled_);
    scratch_.gathered_positions[tile_ * tile_slots + filled_] =
        call_.keys.positions != nullptr ? call_.keys.positions[slot] : slot;
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

// The tiles of segment `segment` that the lanes of `block` visit, as `plan` says.
void list_tiles(const AttentionCall& call, int32_t kv_head, const PlanBlock& plan, int32_t segment,
                PositionBounds queries, bool gather, const HeadLayout& layout, const Scratch& scratch,
                SegmentTiles& list) {
  const AttentionBlock& block = scratch.block;
  const KeyValueView& keys = call.keys;
  const int32_t begin = segment * attention_segment_slots;
  const int32_t end = std::min(begin + attention_segment_slots, keys.length);
  uint64_t in_ranges[segment_tiles] = {}, in_columns[segment_tiles] = {};
  auto range = std::partition_point(plan.ranges.begin(), plan.ranges.end(),
                                    [&](const KeyRange& r) { return r.end <= begin; });
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

// ---- blocks of lanes ----

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

  Worker(const AttentionKernels& kernels_in, const AttentionCall& call_in, int32_t kv_head_in, Pieces pieces)
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
    block.rotate_keys = rotates_keys(keys.type);
    block.rotate_values = rotates_values(keys.type);
    block.hadamard_block = hadamard_block(keys.head_size);
  }

  // Makes the block out of the first `used` names in `lanes` and packs their queries.
  void begin_block(const AttentionPattern& pattern, int32_t used, bool may_be_few) {
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
      block.outputs[lane] =
          call.output == nullptr ? nullptr : call.output + lanes.row[lane] * call.output_stride + head;
      const int32_t position = call.positions[lanes.row[lane]];
      block.query_positions[lane] = position;
      queries.least = std::min<int64_t>(queries.least, position);
      queries.most = std::max<int64_t>(queries.most, position);
    }
    for (int32_t lane = used; lane < block_lanes; ++lane)
      block.query_positions[lane] = block.query_positions[0];
    kernels.pack(block);
  }

  // Computes a segment into the block's state; false if no lane visits any of it.
  bool compute_segment(const PlanBlock& plan, int32_t segment, bool with_output) {
    list_tiles(call, kv_head, plan, segment, queries, with_output, layout, scratch, tiles);
    if (tiles.count == 0) return false;
    kernels.segment(scratch.block, tiles.tiles, tiles.count, with_output);
    return true;
  }

  // Adds the segment's state to the total; `first`: there is none yet.
  void merge_segment(bool first, bool with_output);
};

// How two states of a lane weigh in their union; its maximum.
struct MergeFactors {
  float maximum, total, segment;
};
MergeFactors merge_factors(float total_maximum, float segment_maximum) {
  if (total_maximum >= segment_maximum)
    return {total_maximum, 1.0f, std::exp2(segment_maximum - total_maximum)};
  return {segment_maximum, std::exp2(total_maximum - segment_maximum), 1.0f};
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
        block.total_output[at + lane] = block.total_output[at + lane] * total_factors[lane] +
                                        block.output[at + lane] * segment_factors[lane];
      }
    }
  }
}

float log_sum_exp_of(float maximum, float sum, float one) {
  if (!(maximum > seen_score)) return minus_infinity;
  return static_cast<float>((static_cast<double>(maximum) + std::log2(static_cast<double>(sum / one))) /
                            log2_of_e);
}

// ---- partial results ----

// A split's partial results are, for each segment, row and head of the group: maximum, sum, output[padded].
size_t partial_floats(const KeyValueView& keys) {
  return 2 + static_cast<size_t>(head_layout(keys.type, keys.head_size).padded);
}

float* partial_of(AttentionTasks& tasks, const AttentionTasks::Split& split, const AttentionCall& call,
                  int32_t segment, int32_t row, int32_t head) {
  const int32_t group = group_of(call);
  const auto rows = static_cast<size_t>(split.row_end - split.row_begin);
  const size_t line = (static_cast<size_t>(segment) * rows + static_cast<size_t>(row - split.row_begin)) *
                          static_cast<size_t>(group) +
                      static_cast<size_t>(head - split.kv_head * group);
  return tasks.partials.data() + split.partials + line * partial_floats(call.keys);
}

void store_partials(const Worker& worker, AttentionTasks& tasks, const AttentionTasks::Split& split,
                    int32_t segment) {
  const AttentionBlock& block = worker.scratch.block;
  for (int32_t lane = 0; lane < block.used_lanes; ++lane) {
    float* partial =
        partial_of(tasks, split, worker.call, segment, worker.lanes.row[lane], worker.lanes.head[lane]);
    partial[0] = block.maximum[lane];
    partial[1] = block.sum[lane];
    const int32_t chunk = lane / block.chunk_lanes;
    const float* output = block.output + chunk * block.padded * block.chunk_lanes + lane % block.chunk_lanes;
    for (int32_t d = 0; d < block.padded; ++d) partial[2 + d] = output[d * block.chunk_lanes];
  }
}

// ---- tasks ----

// Computes the block of `used` lanes over the task's segments and writes outputs or partial results.
void run_block(Worker& worker, const AttentionPattern& pattern, const PlanBlock& plan, int32_t used,
               const AttentionTask& task, AttentionTasks& tasks) {
  worker.begin_block(pattern, used, true);
  AttentionBlock& block = worker.scratch.block;
  const AttentionCall& call = worker.call;
  if (task.split >= 0) {
    for (int32_t segment = task.segment_begin; segment < task.segment_end; ++segment) {
      if (worker.compute_segment(plan, segment, true)) {
        store_partials(worker, tasks, tasks.splits[static_cast<size_t>(task.split)], segment);
      }
    }
    return;
  }
  bool first = true;
  for (int32_t segment = task.segment_begin; segment < task.segment_end; ++segment) {
    if (!worker.compute_segment(plan, segment, true)) continue;
    worker.merge_segment(first, true);
    first = false;
  }
  if (first) return;  // run_attention has set the outputs to what seeing nothing means
  float* factors = worker.scratch.factors;
  const float one = weight_one(worker.kernels, call.keys.type);
  for (int32_t lane = 0; lane < block.chunks * block.chunk_lanes; ++lane) {
    const float sum = block.total_sum[lane];
    factors[lane] = sum == 0 ? 0.0f : 1.0f / sum;
    if (lane >= used || call.log_sum_exp == nullptr) continue;
    call.log_sum_exp[static_cast<int64_t>(worker.lanes.row[lane]) * call.query_heads +
                     worker.lanes.head[lane]] = log_sum_exp_of(block.total_maximum[lane], sum, one);
  }
  worker.kernels.finish(block, factors);
}

// Calls body(pattern, heads, count) for each pattern that query heads of a KV head's group follow.
template <typename Body>
void for_each_pattern(const AttentionCall& call, int32_t kv_head, const Body& body) {
  const int32_t group = group_of(call), first = kv_head * group;
  std::vector<int32_t> heads;
  heads.reserve(static_cast<size_t>(group));
  for (int32_t head = first; head < first + group; ++head) {
    const uint16_t index = call.plan->pattern_of_head[static_cast<size_t>(head)];
    bool done = false;
    for (int32_t before = first; before < head; ++before) {
      done = done || call.plan->pattern_of_head[static_cast<size_t>(before)] == index;
    }
    if (done) continue;
    heads.clear();
    for (int32_t h = head; h < first + group; ++h) {
      if (call.plan->pattern_of_head[static_cast<size_t>(h)] == index) heads.push_back(h);
    }
    body(call.plan->patterns[index], heads);
  }
}

// Calls body(plan block, first row, last row + 1) for the blocks of a pattern that meet rows begin..end-1.
template <typename Body>
void for_each_plan_block(const AttentionPattern& pattern, int32_t begin, int32_t end, const Body& body) {
  auto block = std::partition_point(pattern.blocks.begin(), pattern.blocks.end(),
                                    [&](const PlanBlock& b) { return b.row_end <= begin; });
  for (; block != pattern.blocks.end() && block->row_begin < end; ++block) {
    body(*block, std::max(begin, block->row_begin), std::min(end, block->row_end));
  }
}

// What rows see that see nothing.
void clear_rows(const AttentionCall& call, const AttentionTask& task) {
  const int32_t group = group_of(call), first = task.kv_head * group;
  for (int32_t row = task.row_begin; row < task.row_end; ++row) {
    float* output =
        call.output + row * call.output_stride + static_cast<int64_t>(first) * call.keys.head_size;
    std::fill(output, output + static_cast<int64_t>(group) * call.keys.head_size, 0.0f);
    if (call.log_sum_exp == nullptr) continue;
    float* log_sum_exp = call.log_sum_exp + static_cast<int64_t>(row) * call.query_heads + first;
    std::fill(log_sum_exp, log_sum_exp + group, minus_infinity);
  }
}

void clear_partials(const AttentionCall& call, const AttentionTask& task, AttentionTasks& tasks) {
  const AttentionTasks::Split& split = tasks.splits[static_cast<size_t>(task.split)];
  const int32_t group = group_of(call);
  for (int32_t segment = task.segment_begin; segment < task.segment_end; ++segment) {
    float* partial = partial_of(tasks, split, call, segment, task.row_begin, task.kv_head * group);
    const size_t floats = partial_floats(call.keys);
    const size_t lines = static_cast<size_t>(task.row_end - task.row_begin) * static_cast<size_t>(group);
    std::fill(partial, partial + lines * floats, 0.0f);
    for (size_t line = 0; line < lines; ++line) partial[line * floats] = lowest_score;
  }
}

// Slots that row `row` visits by `plan`, roughly: exact where slots are positions.
double visited_slots(const AttentionCall& call, const AttentionPattern& pattern, const PlanBlock& plan,
                     int32_t row, int32_t begin, int32_t end) {
  const int64_t position = call.positions[row];
  int64_t low = begin, high = end, slots = 0;
  if (call.keys.positions == nullptr) {
    if (pattern.causal) high = std::min<int64_t>(high, position + 1);
    if (pattern.window != 0) low = std::max<int64_t>(low, position - pattern.window + 1);
  }
  for (const KeyRange& range : plan.ranges) {
    slots += std::max<int64_t>(0, std::min<int64_t>(range.end, high) - std::max<int64_t>(range.begin, low));
  }
  slots += static_cast<int64_t>(plan.columns.size());
  return static_cast<double>(slots);
}

double cost_of(const AttentionCall& call, const AttentionTask& task) {
  double slots = 0;
  for_each_pattern(
      call, task.kv_head, [&](const AttentionPattern& pattern, const std::vector<int32_t>& heads) {
        for_each_plan_block(
            pattern, task.row_begin, task.row_end, [&](const PlanBlock& plan, int32_t begin, int32_t end) {
              slots += static_cast<double>(heads.size()) * (end - begin) *
                       visited_slots(call, pattern, plan, begin + (end - begin) / 2,
                                     task.segment_begin * attention_segment_slots,
                                     std::min(task.segment_end * attention_segment_slots, call.keys.length));
            });
      });
  return 2 * slots * call.keys.head_size;
}

// Rows in a task: whole blocks of lanes if there is work enough for every thread.
constexpr int32_t most_task_rows = 64, fewest_task_rows = 16;
constexpr int tasks_for_each_thread = 4;

}  // namespace

AttentionTasks attention_tasks(const std::vector<AttentionCall>& calls, int threads) {
  const int64_t wanted = static_cast<int64_t>(threads) * tasks_for_each_thread;
  const auto count_tasks = [&](int32_t rows) {
    int64_t count = 0;
    for (const AttentionCall& call : calls)
      count += static_cast<int64_t>(call.keys.heads) * ((call.rows + rows - 1) / rows);
    return count;
  };
  int32_t rows = most_task_rows;
  while (rows > fewest_task_rows && count_tasks(rows) < wanted) rows /= 2;
  const bool split_keys = threads > 1 && count_tasks(rows) < wanted;
  AttentionTasks result;
  for (size_t c = 0; c < calls.size(); ++c) {
    const AttentionCall& call = calls[c];
    const int32_t segments = segments_of(call.keys);
    for (int32_t head = 0; head < call.keys.heads; ++head) {
      for (int32_t row = 0; row < call.rows; row += rows) {
        AttentionTask task{.call = static_cast<int32_t>(c),
                           .kv_head = head,
                           .row_begin = row,
                           .row_end = std::min(row + rows, call.rows),
                           .segment_begin = 0,
                           .segment_end = segments};
        if (!split_keys || segments < 2) {
          task.cost = cost_of(call, task);
          result.tasks.push_back(task);
          continue;
        }
        task.split = static_cast<int32_t>(result.splits.size());
        result.splits.push_back({task.call, head, row, task.row_end, result.partials.size()});
        const size_t lines = static_cast<size_t>(segments) * static_cast<size_t>(task.row_end - row) *
                             static_cast<size_t>(group_of(call));
        result.partials.resize(result.partials.size() + lines * partial_floats(call.keys));
        for (int32_t segment = 0; segment < segments; ++segment) {
          task.segment_begin = segment;
          task.segment_end = segment + 1;
          task.cost = cost_of(call, task);
          result.tasks.push_back(task);
        }
      }
    }
  }
  std::sort(result.tasks.begin(), result.tasks.end(), [](const AttentionTask& a, const AttentionTask& b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    return std::tie(a.call, a.kv_head, a.row_begin, a.segment_begin) <
           std::tie(b.call, b.kv_head, b.row_begin, b.segment_begin);
  });
  return result;
}

size_t attention_scratch_bytes(const std::vector<AttentionCall>& calls) {
  size_t bytes = 64;
  for (const AttentionCall& call : calls) {
    Pieces pieces(nullptr);
    cut_scratch(call.keys.type, call.keys.head_size, pieces);
    bytes = std::max(bytes, pieces.used());
  }
  return bytes;
}

void run_attention(Isa isa, const std::vector<AttentionCall>& calls, AttentionTasks& tasks, size_t index,
                   std::byte* scratch) {
  std::atomic_ref<Isa>(tasks.isa).store(isa, std::memory_order_relaxed);
  const AttentionTask& task = tasks.tasks[index];
  const AttentionCall& call = calls[static_cast<size_t>(task.call)];
  if (task.split >= 0) {
    clear_partials(call, task, tasks);
  } else {
    clear_rows(call, task);
  }
  Worker worker(kernels_for(isa), call, task.kv_head, Pieces(scratch));
  for_each_pattern(
      call, task.kv_head, [&](const AttentionPattern& pattern, const std::vector<int32_t>& heads) {
        const auto count = static_cast<int32_t>(heads.size());
        for_each_plan_block(pattern, task.row_begin, task.row_end,
                            [&](const PlanBlock& plan, int32_t begin, int32_t end) {
                              const int32_t all_lanes = (end - begin) * count;
                              for (int32_t lane = 0; lane < all_lanes; lane += block_lanes) {
                                const int32_t used = std::min(block_lanes, all_lanes - lane);
                                for (int32_t i = 0; i < used; ++i) {
                                  worker.lanes.row[i] = begin + (lane + i) / count;
                                  worker.lanes.head[i] = heads[static_cast<size_t>((lane + i) % count)];
                                }
                                run_block(worker, pattern, plan, used, task, tasks);
                              }
                            });
      });
}

void finish_attention(const std::vector<AttentionCall>& calls, AttentionTasks& tasks) {
  for (const AttentionTasks::Split& split : tasks.splits) {
    const AttentionCall& call = calls[static_cast<size_t>(split.call)];
    const int32_t group = group_of(call), segments = segments_of(call.keys), size = call.keys.head_size;
    const float one = weight_one(kernels_for(tasks.isa), call.keys.type);
    for (int32_t row = split.row_begin; row < split.row_end; ++row) {
      for (int32_t head = split.kv_head * group; head < (split.kv_head + 1) * group; ++head) {
        float* total = partial_of(tasks, split, call, 0, row, head);
        for (int32_t s = 1; s < segments; ++s) {
          const float* segment = partial_of(tasks, split, call, s, row, head);
          const MergeFactors factors = merge_factors(total[0], segment[0]);
          total[0] = factors.maximum;
          for (int32_t i = 1; i < 2 + size; ++i)
            total[i] = total[i] * factors.total + segment[i] * factors.segment;
        }
        // As Worker's blocks and finish_outputs() do it: outputs of split and whole tasks have equal bits.
        float* output = call.output + row * call.output_stride + static_cast<int64_t>(head) * size;
        const float factor = total[1] == 0 ? 0.0f : 1.0f / total[1];
        for (int32_t d = 0; d < size; ++d) output[d] = total[2 + d] * factor + 0.0f;
        if (rotates_values(call.keys.type)) rotate_head(output, size);
        if (call.log_sum_exp != nullptr) {
          call.log_sum_exp[static_cast<int64_t>(row) * call.query_heads + head] =
              log_sum_exp_of(total[0], total[1], one);
        }
      }
    }
  }
}

void merge_attention(int64_t rows, int heads, int head_size, float* output_a, float* lse_a,
                     const float* output_b, const float* lse_b) {
  for (int64_t i = 0; i < rows * heads; ++i) {
    const float largest = std::max(lse_a[i], lse_b[i]);
    if (!(largest > minus_infinity)) continue;
    const float a = std::exp(lse_a[i] - largest), b = std::exp(lse_b[i] - largest), inverse = 1.0f / (a + b);
    for (int64_t d = i * head_size; d < (i + 1) * head_size; ++d) {
      output_a[d] = (a * output_a[d] + b * output_b[d]) * inverse;
    }
    lse_a[i] = largest + std::log(a + b);
  }
}

namespace {

// Adds the probabilities of a tile to the sums of query head `head`.
void add_probabilities(const Worker& worker, const AttentionTile& tile, int32_t head, SoftmaxSums& sums) {
  const AttentionBlock& block = worker.scratch.block;
  const int32_t length = worker.call.keys.length;
  float* column = sums.column.data() + static_cast<int64_t>(head) * length;
  float* diagonal = sums.diagonal.data() + static_cast<int64_t>(head) * length;
  for (int32_t i = 0; i < tile.slots; ++i) {
    if ((tile.visible >> i & 1) == 0) continue;
    const int64_t position = tile.positions != nullptr ? tile.positions[i] : tile.base + i;
    for (int32_t lane = 0; lane < block.used_lanes; ++lane) {
      const int32_t chunk = lane / block.chunk_lanes;
      const float p =
          worker.scratch
              .probabilities[(chunk * tile_slots + i) * block.chunk_lanes + lane % block.chunk_lanes];
      column[tile.base + i] += p;
      const int64_t distance = block.query_positions[lane] - position;
      if (distance >= 0 && distance < length) diagonal[distance] += p;
    }
  }
}

// Two passes over the keys for a block of lanes that share a query head: the sums of exponentials, then the
// probabilities.
void sum_block(Worker& worker, const AttentionPattern& pattern, const PlanBlock& plan, int32_t used,
               int32_t head, SoftmaxSums& sums) {
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
    log2_sums[lane] =
        seen ? block.total_maximum[lane] + std::log2(block.total_sum[lane] / one) : -masked_score;
  }
  for (int32_t segment = 0; segment < segments; ++segment) {
    list_tiles(worker.call, worker.kv_head, plan, segment, worker.queries, false, worker.layout,
               worker.scratch, worker.tiles);
    for (int t = 0; t < worker.tiles.count; ++t) {
      worker.kernels.probabilities(block, worker.tiles.tiles[t], log2_sums, worker.scratch.probabilities);
      add_probabilities(worker, worker.tiles.tiles[t], head, sums);
    }
  }
}

}  // namespace

void softmax_sums(Isa isa, const AttentionCall& call, SoftmaxSums& sums, std::byte* scratch) {
  const size_t numbers = static_cast<size_t>(call.query_heads) * static_cast<size_t>(call.keys.length);
  sums.column.assign(numbers, 0.0f);
  sums.diagonal.assign(numbers, 0.0f);
  const int32_t group = group_of(call);
  for (int32_t head = 0; head < call.query_heads; ++head) {
    Worker worker(kernels_for(isa), call, head / group, Pieces(scratch));
    const AttentionPattern& pattern = call.plan->pattern(head);
    for_each_plan_block(pattern, 0, call.rows, [&](const PlanBlock& plan, int32_t begin, int32_t end) {
      for (int32_t row = begin; row < end; row += block_lanes) {
        const int32_t used = std::min(block_lanes, end - row);
        for (int32_t i = 0; i < used; ++i) {
          worker.lanes.row[i] = row + i;
          worker.lanes.head[i] = head;
        }
        sum_block(worker, pattern, plan, used, head, sums);
      }
    });
  }
}

}  // namespace onset
