// Which KV heads may look at the beginning and the neighbours alone (DuoAttention, arXiv:2410.10819; LServe), as a file: for each KV head
// a number from 0 (loses nothing by it) to 1, either as
//
//   {"model": "...", "streaming": [[0.01, 1, 0.2], ...]}
//
// with a list for each layer, or as tab-separated numbers, a line for each layer and a column for each KV head (DuoAttention's form).
// A layer with a window of its own has none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"

namespace onset {

struct StreamingTable {
  std::string model;                        // what it was made for; may be empty
  std::vector<std::vector<double>> layers;  // [layer][KV head]
  int32_t clamped = 0;                      // numbers that lay outside of 0..1
};

// `name` stands for the file in errors. Numbers outside of 0..1 are clamped, and logged. Errors: invalid_argument naming layer and head.
Result<StreamingTable> parse_streaming_table(std::string_view text, const std::string& name);
std::string streaming_table_json(const StreamingTable& table);

// Errors: invalid_argument unless it has so many layers, each with so many heads or none.
Status check_streaming_table(const StreamingTable& table, int32_t layers, int32_t kv_heads);

// Whether a KV head streams: [layer][KV head], empty where a layer has none.
using StreamingHeads = std::vector<std::vector<bool>>;
// Those with the smallest numbers, `sparsity` of all (rounded); equals are told apart by a little noise from the seed.
StreamingHeads streaming_heads(const StreamingTable& table, double sparsity, uint64_t seed);

// A table that is built in, by its name; null: there is none.
const StreamingTable* shipped_streaming_table(std::string_view name);
// The one whose layers and heads are those of the model; null: none.
const StreamingTable* shipped_streaming_table(int32_t layers, int32_t kv_heads);
std::vector<std::string> shipped_streaming_table_names();

}  // namespace onset
