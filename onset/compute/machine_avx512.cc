// Peaks of AVX-512 with VNNI and BF16.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/machine_kernels.h"

namespace onset {
namespace {

struct Int8 {
  static constexpr int sums = 24;
  static constexpr int64_t operations = 2 * 64;
  using Vector = __m512i;
  static Vector start(int seed) { return _mm512_set1_epi32(seed); }
  static Vector step(Vector sum, Vector a, Vector b) { return _mm512_dpbusd_epi32(sum, a, b); }
  static void keep(Vector& v) { asm volatile("" : "+v"(v)); }
};

struct Bf16 {
  static constexpr int sums = 24;
  static constexpr int64_t operations = 2 * 32;
  using Vector = __m512;
  static Vector start(int) { return _mm512_setzero_ps(); }
  static Vector step(Vector sum, Vector a, Vector b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static void keep(Vector& v) { asm volatile("" : "+v"(v)); }
};

struct Float32 {
  static constexpr int sums = 24;
  static constexpr int64_t operations = 2 * 16;
  using Vector = __m512;
  static Vector start(int seed) { return _mm512_set1_ps(1e-9f * static_cast<float>(seed)); }
  static Vector step(Vector sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
  static void keep(Vector& v) { asm volatile("" : "+v"(v)); }
};

uint64_t read(const std::byte* data, int64_t bytes) {
  __m512i folded[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; ++j) {
      folded[j] = _mm512_xor_si512(folded[j], _mm512_loadu_si512(data + i + 64 * j));
    }
  }
  const __m512i all = _mm512_xor_si512(_mm512_xor_si512(folded[0], folded[1]), _mm512_xor_si512(folded[2], folded[3]));
  return static_cast<uint64_t>(_mm512_reduce_or_epi64(all));
}

}  // namespace
}  // namespace onset

#include "onset/compute/machine_kernels.inc"

namespace onset {
const MachineKernels machine_avx512 = {turn_operations<Int8>,
                                       multiply_loop<Int8>,
                                       turn_operations<Bf16>,
                                       multiply_loop<Bf16>,
                                       turn_operations<Float32>,
                                       multiply_loop<Float32>,
                                       read};
}  // namespace onset
#endif
