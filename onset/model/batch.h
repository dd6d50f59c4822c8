// A batch: flat ragged rows, one after another, each with its own position. Nothing is ever padded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "onset/attend/policy.h"
#include "onset/kv/sequence_cache.h"
#include "onset/select/policy.h"

namespace onset {

// The rows of one sequence in a step. They lie together in the batch, positions ascending; rows of earlier steps that may rejoin
// (SelectPolicy::earlier) come first.
struct BatchSequence {
  int32_t row_begin = 0, row_end = 0;
  SequenceCache* cache = nullptr;
  AttendPolicy* attend = nullptr;  // null: dense
  SelectPolicy* select = nullptr;  // null: every row runs through every layer
  // The layers these rows run through: layer_begin..layer_end-1. Rows that begin above layer 0 start from `hidden_in`; rows that end
  // below the last layer leave their hidden states in `hidden_out` (both [rows, hidden]).
  int32_t layer_begin = 0;
  int32_t layer_end = INT32_MAX;
  const float* hidden_in = nullptr;
  float* hidden_out = nullptr;
};

// What is wanted of a row after the last layer.
enum class OutputKind : uint8_t {
  logits,  // the output norm, then the head
  hidden,  // the output norm alone
};

struct BatchOutput {
  int32_t row = 0;
  OutputKind kind = OutputKind::logits;
  int32_t head = 0;  // logits: which head (0 = the model's own)
};

struct Batch {
  std::vector<int32_t> tokens;        // one for each row; -1 where the row's input is a vector
  std::vector<const float*> vectors;  // empty, or one for each row: its input vector [hidden] where the token is -1
  std::vector<int32_t> positions;
  std::vector<BatchSequence> sequences;
  std::vector<BatchOutput> outputs;  // rows ascending; a row that a selector has dropped gives none

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
};

// Receives outputs. Called from worker threads, for different outputs at once; `values` is valid during the call.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // `index` counts the batch's outputs; values: [vocabulary] logits or [hidden].
  virtual void output(int32_t index, std::span<const float> values) = 0;
};

}  // namespace onset
