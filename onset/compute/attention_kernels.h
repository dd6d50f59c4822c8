// What attention.cc and the attention kernels compiled for each instruction set share. Plain structs only:
// kernel files may emit no inline function that the linker could merge with other files' copies.
//
// A *lane* is one query row of one query head. A *block* is up to block_lanes lanes that share a KV head, a
// pattern and what they visit; its lanes lie in chunks of chunk_lanes. Arrays marked [chunk][x][lane] hold
// chunks one after the other.
//
// Queries lie in lanes, keys in rows ("transposed"): the scores of one key are a vector, so maxima and sums
// over keys need no horizontal step, and a word of a key or value is one broadcast for all lanes. For each
// tile of 64 keys
//   score_j  = log2(e) * scale * q.k_j  (int8: + log2 of the value's scale, so that weights fold it in)
//   weight_j = 2^(score_j - largest score of the tile), rounded to the format of the products with the values
//   output   = output + 2^(largest score - reference) * (sum of weight_j * value_j), exact in int32 for int8
// where the reference, one for each lane, follows the largest score but only when that exceeds it by a factor
// of 2^8.
//
// The steps of one lane do not depend on the other lanes, on the number of lanes, or on which of the two
// kernels runs (`few` puts keys and the numbers of a head in lanes instead); a tile in which a lane sees
// nothing changes none of its bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onset {

inline constexpr int block_lanes = 64;
inline constexpr int tile_slots = 64;
inline constexpr int sum_lanes = 16;

// The order of KvType.
enum class PageNumbers : uint8_t { f32, f16, bf16, int8, int4 };

// 64 slots of one KV head.
struct AttentionTile {
  const std::byte* head = nullptr;     // as HeadLayout says
  const int32_t* positions = nullptr;  // of the slots; null: base, base + 1, ...
  int32_t base = 0;
  int32_t slots = 0;     // slots that hold something, 1..64
  uint64_t visible = 0;  // bit i: slot i is visited
  bool masked = false;   // whether some lane does not see some slot
};

struct AttentionBlock {
  PageNumbers numbers = PageNumbers::f32;
  int32_t head_size = 0, padded = 0;                                               // padded: to a multiple of 4
  size_t keys = 0, values = 0, key_scales = 0, value_log2 = 0, value_inverse = 0;  // offsets in a head
  size_t key_zeros = 0, value_zeros = 0;
  size_t head_bytes = 0;
  bool rotate_keys = false, rotate_values = false;
  int32_t hadamard_block = 1;

  int32_t used_lanes = 0;  // 1..block_lanes
  int32_t chunk_lanes = 0, chunks = 0;
  bool few = false;
  const float* queries[block_lanes];  // [head_size] each
  float* outputs[block_lanes];
  int32_t query_positions[block_lanes];  // of unused lanes: those of lane 0
  float scale = 0;                       // log2(e) * the plan's
  bool causal = true;
  int32_t window = 0, sink = 0;

  // Scratch, 64-byte aligned (attention_scratch() cuts it up).
  uint32_t* query_words = nullptr;  // [chunk][word][lane]
  float* query_scales = nullptr;    // [lane]
  int32_t* query_bias = nullptr;    // [lane]
  float* transposed = nullptr;      // [padded to 16][chunk_lanes]
  float* scores = nullptr;          // [tile_slots][chunk_lanes]
  uint32_t* weights = nullptr;      // [word][lane]
  uint32_t* key_tile = nullptr;     // a tile in another format than its page's
  uint32_t* value_tile = nullptr;
  uint32_t* byte_tile = nullptr;        // keys or values of an int4 page as bytes
  float* value_inverse_tile = nullptr;  // [tile_slots]
  float* row_output = nullptr;          // [lane][padded to 16], for `few`

  // The state of a segment, and of all segments so far.
  float* maximum = nullptr;  // [lane], the reference; lowest_score: nothing seen
  float* sum = nullptr;      // [lane]
  float* output = nullptr;   // [chunk][padded][lane]
  float* total_maximum = nullptr;
  float* total_sum = nullptr;
  float* total_output = nullptr;
};

inline constexpr float masked_score = -1e30f;
inline constexpr float lowest_score = -1e29f;
// Scores above lowest_score have been seen.
inline constexpr float seen_score = -0.99e29f;

struct AttentionKernels {
  int lanes;         // of a vector
  int chunk_lanes;   // of a chunk of a block with more lanes than a vector
  int few_lanes;     // up to so many lanes, `few` is faster
  float weight_one;  // what a weight of 1 counts in sums over int8 pages
  // Reads the queries into query_words, query_scales and query_bias.
  void (*pack)(AttentionBlock& block);
  // Computes maximum, sum and (if with_output) output over the tiles, from nothing.
  void (*segment)(AttentionBlock& block, const AttentionTile* tiles, int count, bool with_output);
  // total_output * factors[lane], rotated back, to the lanes' outputs. Overwrites total_output.
  void (*finish)(AttentionBlock& block, const float* factors);
  // probabilities[chunk][tile_slots][lane] = 2^(score - log2_sums[lane]), 0 where a lane does not look.
  void (*probabilities)(AttentionBlock& block, const AttentionTile& tile, const float* log2_sums, float* probabilities);
  // Adds the probabilities of a tile without positions, of a block whose lanes (a multiple of sum_lanes) are at positions that follow one
  // another: column[slot] += those of the slot, diagonal[distance] += those at it, for distances below `length`. Sums of a slot are made in
  // sum_lanes parts, whatever the vectors.
  void (*add_sums)(const AttentionBlock& block, const AttentionTile& tile, const float* probabilities, int64_t length, float* column,
                   float* diagonal);
};

extern const AttentionKernels attention_generic;
#if defined(__x86_64__)
extern const AttentionKernels attention_avx2, attention_avx_vnni, attention_evex_vnni, attention_avx512;
#endif

}  // namespace onset
