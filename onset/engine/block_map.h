// Which blocks of keys the heads of a layer visited while a prompt was read, and how many rows ran in each layer.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "onset/engine/engine.h"

namespace onset {

// Counts pairs of a query and a key by their positions, whatever slots the keys lie in.
class BlockMap {
 public:
  // Of a prompt of `tokens` tokens; rows behind it are not counted. `kept`: layers whose blocks are kept one by one. recall: also how much
  // of their softmax is visited, which takes the time of dense attention and of the plan's once more.
  BlockMap(int32_t tokens, int32_t layers, int32_t query_heads, std::vector<int32_t> kept, bool recall = false,
           int32_t block = page_tokens);

  // What a plan visits.
  void add(const AttendContext& context, const AttentionPlan& plan);

  int32_t tokens() const { return tokens_; }
  int32_t block() const { return block_; }
  int32_t blocks() const { return blocks_; }  // along each side
  int32_t heads() const { return heads_; }
  const std::vector<int32_t>& kept() const { return kept_; }
  // Of a kept layer, a query head, and blocks of queries and keys; and what the model itself would visit there.
  int64_t visited(int32_t layer, int32_t head, int32_t query_block, int32_t key_block) const;
  int64_t dense(int32_t layer, int32_t query_block, int32_t key_block) const;
  int64_t visited(int32_t layer, int32_t head) const;  // of a kept layer
  int64_t dense(int32_t layer) const;                  // of one head
  // The share of a dense row's softmax (over the keys that the layer has) that lies on what was visited, the mean over the rows.
  double recall(int32_t layer, int32_t head) const;
  int64_t visited_in_layer(int32_t layer) const { return in_layer_[layer]; }  // by all heads; of any layer
  int32_t rows(int32_t layer) const { return rows_[layer]; }                  // rows of the prompt that ran
  int32_t window(int32_t layer) const { return windows_[layer]; }             // the model's own, 0 = none

 private:
  void add_block(const AttendContext& context, const AttentionPattern& pattern, const PlanBlock& block, std::span<const int32_t> heads);
  void add_pairs(const AttendContext& context, const AttentionPlan& plan);
  void add_recall(const AttendContext& context, const AttentionPlan& plan);
  void count(int32_t layer, std::span<const int32_t> heads, int32_t query_block, int32_t key_block, int64_t pairs);
  int32_t place_of(int32_t layer) const;
  int64_t dense_between(int32_t layer, int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end) const;

  int32_t tokens_, heads_, block_, blocks_;
  std::vector<int32_t> kept_;
  std::vector<std::vector<int64_t>> visited_;  // [kept layer][head][query block][key block]
  bool recalls_;
  std::vector<std::vector<double>> recall_;  // [kept layer][head]: the sum over rows
  std::vector<int64_t> in_layer_;
  std::vector<int32_t> rows_, windows_;
};

// The same policies, and what they visit is added to the map, which must outlive their requests.
std::shared_ptr<const AttendSpec> recorded(std::shared_ptr<const AttendSpec> spec, BlockMap& map);
std::shared_ptr<const SelectSpec> recorded(std::shared_ptr<const SelectSpec> spec, BlockMap& map);

// Reads a prompt with these policies (null: none). recall: as BlockMap. Errors: those of Engine::submit and what made the request fail;
// invalid_argument for a layer that the model does not have.
Result<BlockMap> map_blocks(Engine& engine, std::span<const int32_t> tokens, const std::shared_ptr<const AttendSpec>& attend,
                            const std::shared_ptr<const SelectSpec>& select, std::vector<int32_t> kept, bool recall = false);

}  // namespace onset
