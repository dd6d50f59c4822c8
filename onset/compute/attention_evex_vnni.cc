// Attention for CPUs that have 256-bit VNNI only in AVX-512's encoding.
#if defined(__x86_64__)
#include "onset/compute/lanes_256.inc"

#define ONSET_BYTE_PRODUCTS
namespace onset {
namespace {

ONSET_INLINE Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
  return _mm256_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
}
constexpr int key_rows = 8, value_rows = 8;

}  // namespace
}  // namespace onset

#include "onset/compute/attention_kernels.inc"

namespace onset {
const AttentionKernels attention_evex_vnni = attention_kernels;
}  // namespace onset
#endif
