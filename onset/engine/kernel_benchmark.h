// The kernels of a loaded model one by one, at the shapes it has: time and share of what the machine can do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/base/thread_pool.h"
#include "onset/engine/engine.h"

namespace onset {

struct KernelTiming {
  std::string name;                // "linear", "attention", ...
  std::string shape;               // "512 x 576 -> 1536"
  double seconds = 0;              // of one call, the middle one of several
  double operations = 0;           // multiplications and additions, 0 where the kernel is not about them
  double bytes = 0;                // read from memory: weights, keys and values
  double share_of_arithmetic = 0;  // of the measured peak of the arithmetic in use
  double share_of_reading = 0;     // of the measured read bandwidth
};

// Times each distinct matrix of the model (quantising its input included) and attention, for each number of rows: one row reads keys of
// `keys` earlier tokens (decode); many rows are the last of a prompt of `keys` tokens (at least as many as rows).
struct KernelBenchmarkOptions {
  std::vector<int32_t> rows = {1, 512};
  int32_t keys = 2048;
  std::function<void(const std::string& what)> progress = {};
};
Result<std::vector<KernelTiming>> benchmark_kernels(const Engine& engine, ThreadPool& pool, const KernelBenchmarkOptions& options);

}  // namespace onset
