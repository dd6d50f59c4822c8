// One prefill as a time line: what ran when, summed up by operation, or as a trace for Chrome's viewer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"

namespace onset {

struct TimedOperation {
  std::string name;           // "attention.query_key_value"
  int32_t layer = 0;          // -1: belongs to none
  double begin = 0, end = 0;  // seconds since the prefill began
};

struct Profile {
  std::vector<TimedOperation> operations;  // as they came
  double seconds = 0;                      // of the whole prefill, all operations and what is between them
  int32_t tokens = 0;
  int32_t steps = 0;
};

// Runs the tokens as a prompt up to the logits of the last one (once before, unmeasured) with the time hook set. Errors: those of
// Engine::submit, and what made the request fail.
Result<Profile> profile_prefill(Engine& engine, std::span<const int32_t> tokens);

// The same of `generate` tokens behind a context of random ones that see their neighbours alone (engine/benchmark.h); the context and the
// first two tokens behind it are not measured.
Result<Profile> profile_decode(Engine& engine, int32_t context, int32_t generate);

// The operations of one name, over all layers and steps.
struct OperationTotal {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
};
// Longest first.
std::vector<OperationTotal> operation_totals(const Profile& profile);

// Chrome's trace event format (chrome://tracing, Perfetto): one complete event for each operation, microseconds.
std::string chrome_trace(const Profile& profile);

}  // namespace onset
