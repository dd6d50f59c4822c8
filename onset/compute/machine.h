// What this machine can do at best: multiplications from registers, reading from memory. Kernels are judged
// by their share.
#pragma once

#include <vector>

#include "onset/base/cpu_features.h"
#include "onset/base/thread_pool.h"

namespace onset {

// Operations count a multiplication and an addition as two.
struct MachinePeaks {
  Isa isa = Isa::generic;
  int threads = 1;
  double int8_operations_per_second = 0;     // the instructions with which `isa` multiplies int8 exactly
  double bf16_operations_per_second = 0;     // 0 where `isa` has no bf16 products
  double float32_operations_per_second = 0;  // fused where `isa` has that
  double read_bytes_per_second = 0;          // a sequential read of memory far larger than the caches
};

// Measures with every worker of `pool` busy; the best of short runs, some 0.2 seconds and 256 MiB of memory
// in all.
MachinePeaks measure_machine(Isa isa, ThreadPool& pool);

// Only one of them, for benchmarks that measure the peak beside themselves: clocks and neighbours change.
double measure_int8_peak(Isa isa, ThreadPool& pool);
double measure_read_peak(Isa isa, ThreadPool& pool);

// The same for 1..threads threads.
std::vector<MachinePeaks> measure_machine(Isa isa, int threads);

}  // namespace onset
