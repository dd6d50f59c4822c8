// What LServe (attend/lserve.h) is asked to do, as options say it: "[TABLE][:NAME=NUMBER...]".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "onset/attend/streaming_table.h"
#include "onset/base/status.h"

namespace onset {

struct LServeOptions {
  double sparsity = 0.5;      // share of the KV heads that stream
  int32_t sink = 128;         // first tokens that streaming heads see, a multiple of page_tokens
  int32_t prefill = 512;      // last ones in a prompt, the query's own counted; the same
  int32_t local = 256;        // and in an answer, no more than `prefill`; the same
  int32_t budget = 1024;      // tokens that a retrieval head reads for a row of an answer, the same
  int32_t interval = 4;       // positions that share a selection; divides page_tokens
  int32_t logical = 16;       // tokens of a logical page; divides page_tokens
  bool one_selection = true;  // for the query heads of a KV head; false: each has its own, as in the paper
  uint64_t seed = 42;         // breaks ties between heads
};

// What was asked for: numbers, and the table by its name, if it was named.
struct LServeRequest {
  LServeOptions options;
  std::shared_ptr<const StreamingTable> table;
};

// whole: all options; otherwise those that say what a cache keeps (sparsity, sink, local, seed). files: whether the table may be a file,
// which is read. Errors: invalid_argument naming what is not known or the number that makes no sense.
enum class LServeNames : uint8_t { all, cache };
Result<LServeRequest> parse_lserve(std::string_view text, LServeNames names, bool files);

// Which heads of a model stream: by the request's table or the built-in one of the model. With a sparsity of 0 or 1 there is no need of
// one. Errors: invalid_argument for a table of another model, or none.
Result<StreamingHeads> lserve_heads(const LServeRequest& request, int32_t layers, int32_t kv_heads);

}  // namespace onset
