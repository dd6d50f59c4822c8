// Linear layers for AVX2, FMA, F16C.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/linear_kernels.h"

namespace onset {
namespace {

constexpr uint8_t dot_bias = 0;
constexpr int dot_rows = 4;

// vpmaddubsw adds two products in 16 bits, which unsigned rows would overflow. With the weights' signs moved to the row's values
// both are at most 127: 2 * 127 * 127 < 2^15, so every step is exact.
inline __m256i dot_256(__m256i sum, __m256i four, __m256i weights) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(four, weights));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace
}  // namespace onset

#include "onset/compute/linear_256.inc"
#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_avx2 = {rotate_row, prepare, multiply, multiply_reference};
}  // namespace onset
#endif
