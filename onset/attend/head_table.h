// Which way of looking each attention head was found to have (MInference, arXiv:2407.02490, section 3.1), as a file.
//
//   [{"0": ["vertical_and_slash", 1000, 6096, 336], "1": ["stream_llm", 64, 960, 0.1], ...}, ...]
//
// is a list with an object for each layer, heads as keys (the form of the official tables); budgets hold at any length. Or
//
//   {"model": "...", "reference_length": 8192, "layers": [...]}
//
// where budgets hold up to `reference_length` keys and grow in proportion beyond. A layer of no heads ({}) sees everything.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"

namespace onset {

enum class HeadShape : uint8_t {
  dense,           // "dense": everything
  a_shape,         // "stream_llm": the first `first` tokens and the last `second`
  vertical_slash,  // "vertical_and_slash": `first` columns and `second` diagonals
  block_sparse,    // "block_sparse": `first` tiles for each tile of queries
};

struct HeadPattern {
  HeadShape shape = HeadShape::dense;
  int32_t first = 0, second = 0;
  double score = 0;  // what the search said of it: lower is nearer to the dense head
};

struct HeadTable {
  std::string model;             // what it was made for; may be empty
  int32_t reference_length = 0;  // 0: budgets are the same at any length
  std::vector<std::vector<HeadPattern>> layers;
};

// `name` stands for the file in errors. Errors: invalid_argument naming the layer and head.
Result<HeadTable> parse_head_table(std::string_view json, const std::string& name);
// The second form above, or the first where reference_length is 0.
std::string head_table_json(const HeadTable& table);
// Errors: invalid_argument for a table of another number of layers, or heads in a layer.
Status check_head_table(const HeadTable& table, int32_t layers, int32_t query_heads);

// A table that is built in, by its name; null: there is none.
const HeadTable* shipped_head_table(std::string_view name);
// The one whose layers and heads are those of the model; null: none.
const HeadTable* shipped_head_table(int32_t layers, int32_t query_heads);
std::vector<std::string> shipped_head_table_names();

}  // namespace onset
