// Linear layers for AVX-VNNI (VEX encoding).
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/linear_kernels.h"

namespace onset {
namespace {

constexpr uint8_t dot_bias = 0x80;
constexpr int dot_rows = 6;

inline __m256i dot_256(__m256i sum, __m256i four, __m256i weights) {
  return _mm256_dpbusd_avx_epi32(sum, four, weights);
}

}  // namespace
}  // namespace onset

#include "onset/compute/linear_256.inc"
#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_avx_vnni = {rotate_row, prepare, multiply, multiply_reference};
}  // namespace onset
#endif
