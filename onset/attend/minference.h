// MInference (arXiv:2407.02490): each head of a long prompt looks in the way that a search found for it (head_table.h); where exactly, a
// cheap estimate says.
//
// Rows of a prompt run together in blocks that begin at multiples of `every` positions. For each block and head the last 64 queries of the
// block say which columns and diagonals (or whose tiles, by their means) matter among all keys so far, and all rows of the block see those
// alone. So what a row sees depends on the text up to the end of its block, not on how a scheduler cuts prompts, and whole blocks can be
// shared by those who begin alike. Blocks that begin below `from`, blocks of fewer than 64 rows, rows behind the prompt and layers with
// windows of their own are dense.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "onset/attend/head_table.h"
#include "onset/attend/policy.h"
#include "onset/attend/vertical_slash.h"
#include "onset/base/aligned.h"

namespace onset {

struct MInferenceOptions {
  int32_t every = 1024;          // rows of a block, a multiple of page_tokens
  int32_t from = 1024;           // the first position that is not dense
  double ratio = 1;              // multiplies all budgets
  int32_t estimating_rows = 64;  // last_q of the paper
  int32_t first_columns = 30, near_diagonals = 64;
};

// Keys that the search gives a row of a text of this length.
int32_t target_slots(int64_t keys);
// A pattern's budgets where there are `keys` keys: those of the table, and beyond its reference length in proportion.
HeadPattern scaled_pattern(const HeadTable& table, const HeadPattern& pattern, int64_t keys, double ratio);

// Sums of the softmax rows of the last `rows` rows of a block that ends (in rows) at `row_end`, over all keys up to it, for one query head
// of the context: algorithm 2's estimate.
class HeadEstimator {
 public:
  explicit HeadEstimator(const AttendContext& context);
  // `worker`: of the pool; scratch is kept for each.
  void estimate(int head, int32_t row_end, int32_t rows, int worker, std::vector<float>& column, std::vector<float>& diagonal);

 private:
  const AttendContext& context_;
  std::vector<AlignedVector<std::byte>> scratch_;
};

// Means of the keys of each tile, of all KV heads of one layer and group; kept while a sequence grows.
class PooledKeys {
 public:
  // Makes sure of all tiles that begin below `keys`; one that is not full is made anew each time.
  void extend(const AttendContext& context, int32_t keys);
  // [head_size]
  std::span<const float> tile(int32_t tile, int kv_head) const;

 private:
  int32_t head_size_ = 0, heads_ = 0;
  int32_t keys_ = 0;
  std::vector<float> means_;  // [tile][head][head_size]
};

// The blocks by which the rows row_begin..row_end-1 (positions ascending by one) see what `pattern` says; budgets as they are. `worker` as
// in HeadEstimator.
std::vector<PlanBlock> pattern_blocks(const HeadPattern& pattern, const MInferenceOptions& options, const AttendContext& context, int head,
                                      int32_t row_begin, int32_t row_end, int worker, HeadEstimator& estimator, const PooledKeys& pooled);

class MInferenceAttend : public AttendPolicy {
 public:
  // The table has the model's layers and heads (check_head_table). prompt_tokens: rows from that position on are dense.
  MInferenceAttend(std::shared_ptr<const HeadTable> table, const MInferenceOptions& options, int32_t prompt_tokens)
      : table_(std::move(table)), options_(options), prompt_tokens_(prompt_tokens) {}
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  struct RowBlock {
    int32_t begin = 0, end = 0;  // rows
    bool sparse = false;
  };
  std::vector<RowBlock> row_blocks(const AttendContext& context) const;
  const HeadPattern* heads_of(const AttendContext& context) const;

  std::shared_ptr<const HeadTable> table_;
  MInferenceOptions options_;
  int32_t prompt_tokens_;
  DenseAttend dense_;
  AttentionPlan plan_;
  std::map<std::pair<int, int>, PooledKeys> pooled_;  // by layer and group; only where a head needs them
};

}  // namespace onset
