// Measures what steps cost: prompts' chunks of all sizes beside any number of answers, after short and long contexts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/cost/machine_file.h"
#include "onset/engine/engine.h"

namespace onset {

// What the step times of this model, run this way, are filed under.
StepModelKey step_model_key(const Model& model, int32_t threads, KvType kv_type);

struct StepBenchmarkOptions {
  int32_t samples = 300;      // steps that are measured
  int32_t most_rows = 512;    // of a prompt in a step
  int32_t most_answers = 32;  // beside it
  int32_t most_context = 4096;
  uint32_t seed = 1;
  std::function<void(const std::string& what, double share)> progress = {};
};

struct StepBenchmark {
  StepModel model;   // fitted to all samples
  StepFit held_out;  // fitted to one half, judged by the other
  std::vector<StepSample> samples;
};

// Tokens of pool that the benchmark needs: for EngineOptions::pool_tokens.
int64_t step_benchmark_tokens(const StepBenchmarkOptions& options);

// Runs the engine, which must have no work, by a schedule of its own, and leaves it with sarathi-serve. Errors: invalid_argument for
// options that make no sense or contexts beyond the engine's; those of the engine.
Result<StepBenchmark> benchmark_steps(Engine& engine, const StepBenchmarkOptions& options);

// Steps of one composition: `rows` of a prompt that is not at its end, after `context` tokens, and `answers` with `context` tokens behind
// each.
struct StepPoint {
  int32_t rows = 0, answers = 0, context = 0;
};
// Seconds of each repeat of each point, the points in turns. Engine and errors as above.
Result<std::vector<std::vector<double>>> measure_points(Engine& engine, std::span<const StepPoint> points, int32_t repeat,
                                                        const std::function<void(double share)>& progress);

}  // namespace onset
