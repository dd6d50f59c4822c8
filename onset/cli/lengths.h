// Prompt and answer lengths for benchmarks: given on the command line, or read from a published trace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset::cli {

struct RequestLength {
  int32_t prompt = 0, answer = 0;
};

// Reads a trace: CSV whose first line names its columns (num_prefill_tokens and num_decode_tokens, or ContextTokens and
// GeneratedTokens), or lines of JSON objects with input_length and output_length. Errors: those of read_file; invalid_argument naming the
// file and the line.
Result<std::vector<RequestLength>> read_lengths(const std::string& path);

// `count` entries drawn at random (the seed decides which), each length times `scale` (1 at least).
std::vector<RequestLength> sample_lengths(const std::vector<RequestLength>& all, int32_t count, double scale, uint64_t seed);

}  // namespace onset::cli
