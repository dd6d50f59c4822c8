// AttentionPlan: whom each query sees. One of the two narrow waists of the design.
//
// A plan belongs to one sequence and one layer and is made by a policy in attend/. It names, for each query head, a
// pattern; a pattern lists what each block of query rows visits: ranges of key slots and single key columns. Inside what is
// visited a key j counts for a query i if all of these hold (positions, not slots):
//     causal:  position(j) <= position(i)
//     band:    window == 0, or position(j) < sink, or position(i) - position(j) < window
// Dense, causal, window, A-shape, vertical-slash, block-sparse, streaming heads, selected pages, packed prompts and
// parallel contexts are all plans; one attention kernel executes any of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace onset {

// Key slots begin..end-1.
struct KeyRange {
  int32_t begin = 0;
  int32_t end = 0;
};

// What the query rows row_begin..row_end-1 visit. Rows are numbered as in the plan's query rows (0 = the first row
// of this sequence in the batch). Ranges ascend and do not overlap; columns ascend and lie outside the ranges.
struct PlanBlock {
  int32_t row_begin = 0;
  int32_t row_end = 0;
  std::vector<KeyRange> ranges;
  std::vector<int32_t> columns;
};

// One way of looking, shared by any number of query heads. Its blocks cover the rows in ascending order without
// overlap; a row that no block covers sees nothing (output 0, log-sum-exp -infinity).
struct AttentionPattern {
  float scale = 1.0f;  // multiplies every query-key product before the softmax
  bool causal = true;
  int32_t window = 0;  // 0: no band
  int32_t sink = 0;    // positions below it are seen in spite of the window
  std::vector<PlanBlock> blocks;
};

struct AttentionPlan {
  std::vector<AttentionPattern> patterns;
  std::vector<uint16_t> pattern_of_head;  // one for each query head
  // One more plan for the same rows, or none: other keys, with a softmax of their own. The two are merged by their log-sum-exps, where this
  // plan's counts as it is and the other's as beside_factor * log-sum-exp + beside_shift (natural logarithms; 1 and 0: one softmax over all
  // keys).
  std::vector<AttentionPlan> beside = {};
  float beside_factor = 1.0f, beside_shift = 0.0f;

  const AttentionPattern& pattern(int query_head) const { return patterns[pattern_of_head[query_head]]; }
};

// The plan by which `rows` rows see every slot below `length` (causal, within the window if one is given).
AttentionPlan dense_plan(int32_t rows, int32_t length, int query_heads, float scale, int32_t window = 0);

// Empty if the plan makes sense for `rows` rows, `length` slots and `query_heads` heads; otherwise one sentence that
// says what is wrong (overlap, out of bounds, no such pattern, a scale that is not finite).
std::string check_plan(const AttentionPlan& plan, int32_t rows, int32_t length, int query_heads);

}  // namespace onset
