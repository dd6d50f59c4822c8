// The attention kernel: executes any AttentionPlan over any KeyValueView.
//
// For each query row and head: softmax(scale * q.k over the visible keys) times the values, and the natural
// logarithm of the sum of exponentials, so that two plans of one row merge exactly (merge_attention). Online
// softmax over tiles of 64 slots at absolute slot numbers, summed in segments of attention_segment_slots; so
// an output depends only on the row, the slots it visits and the pages: never on the other rows, on how work
// is split into tasks, or on the number of threads. How a plan writes down what is visited does not matter
// either, with one exception: tiles of which a block visits fewer than 16 slots, all of them columns, are
// gathered into shared tiles, which changes the order of addition.
//
// Arithmetic by page type (attention_kernels.h has the steps):
//
//   f32, f16   float32; a product and its sum are rounded once where the CPU can, else twice
//   bf16       products of bf16 summed in float32 where the CPU has them: queries and weights are rounded to
//              bf16; elsewhere as f32
//   int8       exact integer products: queries rounded to 8 bits with a scale for each row and head, weights
//              to 8 bits with a scale for each row, head and tile; the same bits with every instruction set
//   int4       as int8
#pragma once

#include <cstdint>
#include <vector>

#include "onset/base/cpu_features.h"
#include "onset/tensor/attention_plan.h"
#include "onset/tensor/key_value_view.h"

namespace onset {

// One sequence's query rows in one layer and what they see.
struct AttentionCall {
  const AttentionPlan* plan = nullptr;
  KeyValueView keys;
  int32_t rows = 0;
  int32_t query_heads = 0;             // a multiple of keys.heads; head h reads KV head h / (query_heads / keys.heads)
  const int32_t* positions = nullptr;  // [rows], the queries' positions, in any order
  // Row r, head h begins at queries + r * query_stride + h * head_size. Rotary embedding applied.
  const float* queries = nullptr;
  int64_t query_stride = 0;
  float* output = nullptr;  // same layout, with output_stride
  int64_t output_stride = 0;
  float* log_sum_exp = nullptr;  // [rows, query_heads], or none
};

// An independent part of a call, for one worker.
struct AttentionTask {
  int32_t call = 0;  // index into the calls
  int32_t kv_head = 0;
  int32_t row_begin = 0, row_end = 0;
  int32_t segment_begin = 0, segment_end = 0;  // which key segments; of a split, its `segments` number begin..end-1
  int32_t split = -1;                          // index into AttentionTasks::splits if the task covers only some segments; -1: whole
  double cost = 0;                             // products, for ordering
};

inline constexpr int32_t attention_segment_slots = 1024;

// Splits calls into tasks of similar size, largest first: by KV head, by blocks of query rows, and (where
// rows are few and keys are many, as in decode) by the key segments that are visited, whose partial results
// finish_attention() merges.
struct AttentionTasks {
  // Rows of one KV head whose segments several tasks compute.
  struct Split {
    int32_t call = 0, kv_head = 0, row_begin = 0, row_end = 0;
    size_t partials = 0;            // where its partial results begin
    std::vector<int32_t> segments;  // those that are visited, ascending
  };
  std::vector<AttentionTask> tasks;
  std::vector<Split> splits;
  std::vector<float> partials;  // room for partial results
  Isa isa = Isa::generic;       // set by run_attention
};
AttentionTasks attention_tasks(const std::vector<AttentionCall>& calls, int threads);

// Scratch one worker needs to run any of these tasks, in bytes.
size_t attention_scratch_bytes(const std::vector<AttentionCall>& calls);

// Runs one task on the calling thread. `scratch` is 64-byte aligned. All tasks of a step run with the same
// `isa`.
void run_attention(Isa isa, const std::vector<AttentionCall>& calls, AttentionTasks& tasks, size_t task, std::byte* scratch);

// Merges the partial results of rows that were split by key segments; after all tasks have run.
void finish_attention(const std::vector<AttentionCall>& calls, AttentionTasks& tasks);

// Merges two results over disjoint sets of keys (equation (3) of the FlashAttention-decoding write-up:
// weights exp(lse_i - lse)): output_a, lse_a become those of the union. `rows` x `heads` x `head_size`,
// packed.
void merge_attention(int64_t rows, int heads, int head_size, float* output_a, float* lse_a, const float* output_b, const float* lse_b);

// The results of the plan beside a call's own (AttentionPlan::beside).
struct BesideAttention {
  size_t call = 0;  // the one that it is merged into
  std::vector<float> output, log_sum_exp, own_log_sum_exp;
};
// Adds a call for the plan beside the last call's to the list, with its results in `part`, which must stay where it is.
void add_beside(std::vector<AttentionCall>& calls, BesideAttention& part);
// After finish_attention(): merges a row of `part` into the output of its call (arXiv:2502.05431, equation 5: the log-sum-exp of the part
// counts as beside_factor * itself + beside_shift). Rows are independent.
void merge_beside(const std::vector<AttentionCall>& calls, BesideAttention& part, int32_t row);

// Softmax rows of chosen queries, without values: what selectors look at.
struct SoftmaxSums {
  std::vector<float> column;    // [query_heads, length]: sum over the rows of the probability of slot j
  std::vector<float> diagonal;  // [query_heads, length]: sum over the rows of the probability at distance
                                // position(i) - position(j)
};
// `call.output` is not written and may be null. Distances of `length` or more are left out of `diagonal`.
// scratch as for run_attention.
void softmax_sums(Isa isa, const AttentionCall& call, SoftmaxSums& sums, std::byte* scratch);
// The same for one query head: adds to column and diagonal, [length] each.
void add_softmax_sums(Isa isa, const AttentionCall& call, int32_t head, float* column, float* diagonal, std::byte* scratch);

}  // namespace onset
