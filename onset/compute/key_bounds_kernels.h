// What key_bounds.cc and its kernels compiled for each instruction set share.
#pragma once

#include <cstdint>

namespace onset {

inline constexpr int most_bound_queries = 4;

struct KeyBoundsKernels {
  // The largest and smallest of each run of `tokens` numbers (a power of two) of `count` numbers side by side.
  void (*extremes)(const float* numbers, int count, int tokens, float* largest, float* smallest);
  // sums[query][16]: of one tile, for 1 to most_bound_queries queries. parts: [d][query][2], a query's number where it is above zero and
  // where it is below, the other 0.
  void (*score)(const uint16_t* tile, int head_size, const float* parts, int queries, float* sums);
};

extern const KeyBoundsKernels key_bounds_generic;
#if defined(__x86_64__)
extern const KeyBoundsKernels key_bounds_avx2, key_bounds_avx512;
#endif

}  // namespace onset
