// A layer as a list of named operations on the rows of a batch, run in order by an Executor.
//
// Operations name the buffers they read and write; a buffer holds one row of float32 for each running row. Which arithmetic a
// linear layer uses is its weight's affair, which rows run is the RowSet's, whom they see is the plan's.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "onset/compute/linear.h"
#include "onset/model/config.h"

namespace onset {

enum class Buffer : uint8_t {
  residual,   // [hidden], the stream that layers add to
  normed,     // [hidden], a norm's output
  projected,  // [(query_heads + 2 * kv_heads) * head_size]: queries, keys, values
  attended,   // [query_heads * head_size]
  branch,     // [hidden], a part's output before it joins the residual stream
  expanded,   // [2 * feed_forward]: gate, then up
  activated,  // [feed_forward]
};
inline constexpr int buffer_count = 7;

// output = gain * input / rms(input)  (RMSNorm, arXiv:1910.07467, equation 4)
struct NormOperation {
  Buffer input, output;
  const float* gain = nullptr;
};

// output = weight * input + bias, or added to what the output holds.
struct LinearOperation {
  Buffer input, output;
  int32_t weight = 0;  // index into Model::weights
  const float* bias = nullptr;
  bool accumulate = false;
  bool reduce = false;  // the weight is one shard's: the executor's reduce hook completes the sum
};

// RMS norm of each query and key head inside `projected`.
struct HeadNormOperation {
  const float* query_gain = nullptr;
  const float* key_gain = nullptr;
};

// Rotary position embedding of queries and keys inside `projected`.
struct RotaryOperation {
  int32_t rope = 0;
};

// Keys and values go from `projected` into the pages.
struct StoreOperation {};

// `attended` = what each query's plan gives. The only operation in which rows meet.
struct AttendOperation {};

// activated = activation(gate) * up
struct ActivateOperation {
  Activation activation = Activation::silu;
};

// output += input
struct AddOperation {
  Buffer input, output;
};

using OperationKind = std::variant<NormOperation, LinearOperation, HeadNormOperation, RotaryOperation, StoreOperation, AttendOperation,
                                   ActivateOperation, AddOperation>;

struct Operation {
  std::string name;  // "attention.query_key_value", as profiles and benchmarks show it
  OperationKind kind;
};

struct Layer {
  int32_t window = 0;
  std::vector<Operation> operations;
};

// The part of a model that one of `count` processes holds: a share of the heads and of the feed-forward columns.
struct Shard {
  int32_t index = 0;
  int32_t count = 1;
};

}  // namespace onset
