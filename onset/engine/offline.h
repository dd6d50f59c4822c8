// Prompts that are all known beforehand, read in batches: padded, ordered by length, prepacked or ragged. The answers are the same in
// each; what differs is how many rows are computed for them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"
#include "onset/schedule/packing.h"

namespace onset {

struct OfflineOptions {
  OfflinePolicy policy = OfflinePolicy::ragged;
  int32_t batch = 16;           // prompts in a batch
  bool whole_data_set = false;  // prepack: pack all prompts at once; `batch` counts lines then
  int32_t new_tokens = 1;       // of each prompt, the most likely ones
  // As the paper's own code does it: a prompt's last token is not read with the others but begins its answer, which costs a step.
  bool omit_last = false;
  std::function<void(double share)> progress = {};
  // Called once for each prompt when its batch has been read: its keys and values, and the logits after its last token (none where that
  // is not read with the others).
  std::function<void(int32_t prompt, const SequenceCache& cache, std::span<const float> logits)> on_read = {};
};

struct OfflineRun {
  std::vector<std::vector<int32_t>> tokens;  // of each prompt, in the order of the prompts
  double prefill_seconds = 0;                // packing and reading all prompts, up to their first tokens
  double packing_seconds = 0;                // of these, deciding on the batches
  double seconds = 0;                        // all tokens
  int64_t prompt_tokens = 0;
  int64_t computed_rows = 0;  // for prompts, padding included
  int64_t most_rows = 0;      // of a batch
  int64_t batches = 0, lines = 0;
  std::vector<double> batch_seconds;  // reading each batch: what its prompts wait for their first tokens
  std::vector<int64_t> batch_lines;   // of each batch
};

// Rows of padding are computed like any other row: through every layer; in padded batches attention too. Logits are computed of each
// prompt's last row alone. Uses the engine's model with a pool of its own, no larger than a batch needs.
// Errors: invalid_argument for prompts that are empty, too long or hold no token of the model; those of offline_batches;
// resource_exhausted.
Result<OfflineRun> run_offline(const Engine& engine, std::span<const std::vector<int32_t>> prompts, const OfflineOptions& options);

}  // namespace onset
