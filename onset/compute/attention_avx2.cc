// Attention for AVX2: int8 pages are multiplied as 16-bit numbers.
#if defined(__x86_64__)
#include "onset/compute/lanes_256.inc"

namespace onset {
namespace {

ONSET_INLINE Ints dot_shorts(Ints sum, Ints a, Ints b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
constexpr int key_rows = 4, value_rows = 4;

}  // namespace
}  // namespace onset

#include "onset/compute/attention_kernels.inc"

namespace onset {
const AttentionKernels attention_avx2 = attention_kernels;
}  // namespace onset
#endif
