// Attention for AVX2 with AVX-VNNI.
#if defined(__x86_64__)
#include "onset/compute/lanes_256.inc"

#define ONSET_BYTE_PRODUCTS
namespace onset {
namespace {

ONSET_INLINE Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
  return _mm256_dpbusd_avx_epi32(sum, unsigned_bytes, signed_bytes);
}
constexpr int key_rows = 4, value_rows = 4;

}  // namespace
}  // namespace onset

#include "onset/compute/attention_kernels.inc"

namespace onset {
const AttentionKernels attention_avx_vnni = attention_kernels;
}  // namespace onset
#endif
