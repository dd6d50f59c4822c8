// The row functions of elementwise.cc, compiled once for each instruction set. All treat one row (or one head
// of one row).
#pragma once

#include <cstddef>
#include <cstdint>

namespace onset {

struct ElementwiseKernels {
  void (*rms_norm)(const float* input, int64_t width, const float* gain, float epsilon, float* output);
  // cosines and sines: rotary_size / 2 each.
  void (*rotate_neighbours)(float* heads, int count, int head_size, int rotary_size, const float* cosines, const float* sines);
  void (*rotate_halves)(float* heads, int count, int head_size, int rotary_size, const float* cosines, const float* sines);
  void (*silu)(const float* gate, const float* up, int64_t width, float* output);
  void (*gelu_tanh)(const float* gate, const float* up, int64_t width, float* output);
  void (*add)(float* output, const float* input, int64_t width);
  void (*scale)(float* data, int64_t width, float factor);
  void (*soft_cap)(float* data, int64_t width, float cap);
  int64_t (*argmax)(const float* values,
                    int64_t width);  // the smallest index of the largest number; 0 if there is none
  double (*sum_of_exponentials)(const float* values, int64_t width, float shift);  // of exp(value - shift)
  void (*exponentials)(float* values, int64_t width, float shift);                 // exp(value - shift), in place
};

extern const ElementwiseKernels elementwise_generic;
#if defined(__x86_64__)
extern const ElementwiseKernels elementwise_avx2, elementwise_avx512;
#endif

}  // namespace onset
