// How fast a loaded model is: prefill and decode as `onset bench` reports them, and its kernels one by one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"

namespace onset {

struct BenchmarkOptions {
  std::vector<int32_t> prompts;        // lengths, tokens
  std::vector<int32_t> contexts = {};  // lengths behind which `generate` tokens are decoded too
  int32_t generate = 64;               // 0: no decode
  int32_t repeat = 3;
  std::shared_ptr<const SelectSpec> select = {};                             // null: all rows
  std::function<void(const std::string& what, double share)> progress = {};  // share of all runs that is done
};

// One number per repeat, tokens per second.
struct PrefillSpeed {
  int32_t tokens = 0;
  std::vector<double> tokens_per_second;
};
struct Benchmark {
  std::vector<PrefillSpeed> prefill;
  PrefillSpeed decode;
  std::vector<PrefillSpeed> decode_behind;  // tokens: of the context
};

// Prefill is from an empty context to the logits of the last of some random tokens; decode is `generate` single tokens after one.
// Each runs once before it is measured (a prompt longer than 2,048 tokens only with its first 2,048). Decode behind a context is of as many
// tokens after a context whose own tokens have seen their neighbours alone: the keys and values are others than those of a text that was
// read whole, but as many, and 65,536 of them are there in seconds. The engine's own attend policy is for the answer then.
// Errors: invalid_argument for a length that makes no sense or is beyond the context.
Result<Benchmark> run_benchmark(Engine& engine, const BenchmarkOptions& options);

// A request of a context of `tokens` random tokens, that see their neighbours alone, and `generate` tokens behind it, by the engine's own
// policy. Errors: invalid_argument for lengths beyond the engine's context.
Result<Request> behind_context(const Engine& engine, int32_t tokens, int32_t generate, uint32_t seed);

// Seconds that `engine` takes for one token with a new context: what a first answer waits for beyond loading.
Result<double> first_token_seconds(Engine& engine);

// The middle value (of an even number, the mean of the middle two).
double median(std::vector<double> values);

}  // namespace onset
