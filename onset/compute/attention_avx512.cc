// Attention for AVX-512 with VNNI and BF16.
#if defined(__x86_64__)
#include "onset/compute/lanes_512.inc"

#define ONSET_BYTE_PRODUCTS
#define ONSET_BF16_PRODUCTS
namespace onset {
namespace {

ONSET_INLINE Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
  return _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
}
template <typename To, typename From>
ONSET_INLINE To same_bits(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
ONSET_INLINE Floats dot_bf16(Floats sum, Ints a, Ints b) {
  return _mm512_dpbf16_ps(sum, same_bits<__m512bh>(a), same_bits<__m512bh>(b));
}
ONSET_INLINE Ints pack_bf16(Floats low, Floats high) {
  // One instruction rounds both; the numbers of `low` come first and have to be paired with those of `high`.
  const Ints both = same_bits<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  const Ints order = _mm512_set_epi32(0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009, 0x180008, 0x170007, 0x160006,
                                      0x150005, 0x140004, 0x130003, 0x120002, 0x110001, 0x100000);
  return _mm512_permutexvar_epi16(order, both);
}
ONSET_INLINE void store_bf16(void* to, Floats v) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), same_bits<__m256i>(_mm512_cvtneps_pbh(v)));
}
constexpr int key_rows = 8, value_rows = 8;

}  // namespace
}  // namespace onset

#include "onset/compute/attention_kernels.inc"

namespace onset {
const AttentionKernels attention_avx512 = attention_kernels;
}  // namespace onset
#endif
