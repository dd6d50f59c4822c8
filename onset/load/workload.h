// What a server is to be loaded with: requests with lengths and arrival times, from recorded traces or made
// up, always the same for one seed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// One request of a trace.
struct TraceEntry {
  std::optional<double> arrival_seconds = {};  // since the trace began; some traces have lengths only
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;
  std::vector<int64_t> blocks = {};  // ids of the prompt's blocks of 512 tokens; equal ids are equal text (Mooncake)
};

// Reads a trace by its columns: CSV with num_prefill_tokens and num_decode_tokens and perhaps arrived_at
// (ShareGPT, arXiv, Splitwise), CSV with TIMESTAMP, ContextTokens and GeneratedTokens (Azure), or JSON lines
// with timestamp in milliseconds, input_length, output_length and perhaps hash_ids (Mooncake). Entries of no
// tokens are left out. Errors: not_found, invalid_argument naming the file and line.
Result<std::vector<TraceEntry>> read_trace(const std::filesystem::path& path);

struct WorkloadOptions {
  int32_t requests = 100;
  double divide_lengths = 1;       // lengths of the trace are divided by this, at least 1 token is left
  int32_t most_prompt_tokens = 0;  // longer ones are passed over; 0: no limit
  int32_t most_output_tokens = 0;  // longer ones are cut; 0: no limit
  bool in_order = false;           // the trace's first requests, instead of a random choice
  // Arrivals: `rate` requests a second, at random (Poisson), or at the trace's own times, made faster by
  // `speed`.
  double rate = 1;
  double most_gap = 0;  // longer gaps between random arrivals are cut to so many mean gaps; 0: none (Sarathi-Serve's generator: 3)
  bool trace_arrivals = false;
  double speed = 1;
  uint64_t seed = 0;
};

struct LoadRequest {
  double arrival_seconds = 0;
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;
  std::vector<int64_t> blocks = {};
  uint64_t seed = 0;  // of the prompt's text
};

// Errors: invalid_argument for options that make no sense, a trace with too few entries of the wanted kind,
// or one without arrival times that are asked for.
Result<std::vector<LoadRequest>> make_workload(const std::vector<TraceEntry>& trace, const WorkloadOptions& options);

// The tokens of a prompt: random ids from `first_id` to `last_id`, equal for equal blocks.
std::vector<int32_t> prompt_ids(const LoadRequest& request, int32_t first_id, int32_t last_id);
// About as many tokens as a text: common short words.
std::string prompt_words(const LoadRequest& request);

}  // namespace onset
