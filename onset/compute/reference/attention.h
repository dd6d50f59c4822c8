// Attention written straight from its definition in double precision: what the kernels are tested against.
#pragma once

#include <vector>

#include "onset/compute/attention.h"

namespace onset::reference {

// Keys and values as plain numbers: [length, heads, head_size] each.
struct PlainKeyValues {
  std::vector<double> keys, values;
};

// What the view's pages hold (quantisation undone); absent slots are zero.
PlainKeyValues read_view(const KeyValueView& view);

struct AttentionResult {
  std::vector<double> output;       // [rows, query_heads, head_size]
  std::vector<double> log_sum_exp;  // [rows, query_heads]
};

// For row r and head h: softmax(scale * q.k) times v over the slots that the plan shows it.
AttentionResult attention(const AttentionCall& call, const PlainKeyValues& stored);

// Whether row `row`, head `head` of the call sees `slot`.
bool sees(const AttentionCall& call, int32_t row, int32_t head, int32_t slot);

// The probabilities of one row and head over all slots (zero where it does not look).
std::vector<double> softmax_row(const AttentionCall& call, const PlainKeyValues& stored, int32_t row, int32_t head);

}  // namespace onset::reference
