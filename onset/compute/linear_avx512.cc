// Linear layers for AVX-512 with VNNI.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/linear_kernels.h"
#include "onset/compute/linear_quantizer.inc"
#include "onset/compute/unroll.inc"

namespace onset {
namespace {

struct Ints {
  static constexpr int columns = 16;
  static constexpr int value_bytes = 1;
  static constexpr bool biased = true;
  static constexpr int registers = 24;  // with 2 vectors of weights and 1 of the row, 27 of 32
  using Vector = __m512i;
  using Weights = __m512i;

  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static Vector four(const std::byte* from) {
    int32_t bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return _mm512_set1_epi32(bytes);
  }
  static Vector weights(const std::byte* from) { return _mm512_loadu_si512(from); }
  static Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  static Vector dot(Vector sum, Vector four, Vector weights) { return _mm512_dpbusd_epi32(sum, four, weights); }
  template <int V>
  static ONSET_INLINE void to_floats(const Vector (&sums)[V], __m512 (&values)[V]) {
    ONSET_UNROLL
    for (int v = 0; v < V; ++v) values[v] = _mm512_cvtepi32_ps(sums[v]);
  }
};

struct Floats {
  static constexpr int lanes = 16, registers = 24;
  using Vector = __m512;
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  static Vector broadcast(float value) { return _mm512_set1_ps(value); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
};

struct Pairs {
  static constexpr int64_t value_bytes = 2, step_values = 2;
  using Weights = __m512bh;
  static __m512bh one_step(const std::byte* values) {
    int32_t two;
    __builtin_memcpy(&two, values, sizeof(two));
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(two));
  }
  static __m512bh weights(const std::byte* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }
  static __m512 dot(__m512 sum, __m512bh two, __m512bh weights) { return _mm512_dpbf16_ps(sum, two, weights); }
  static void store_row(const float* values, int64_t count, std::byte* stored) {
    for (int64_t k = 0; k < count; k += 16) {
      const __mmask16 there = count - k >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - k)) - 1);
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, values + k));
      _mm256_mask_storeu_epi16(stored + 2 * k, there, reinterpret_cast<__m256i>(rounded));
    }
  }
};

// The butterflies between the two halves of each pair of lanes: `swapped` is v with the halves exchanged,
// `sign` is -1 where the second half is. Multiplying by -1 is exact, so the fused operation rounds as one
// addition does.
inline __m512 butterfly(__m512 v, __m512 swapped, __m512 sign) {
  return _mm512_fmadd_ps(v, sign, swapped);
}

inline __m512 signs(__mmask16 minus) {
  return _mm512_mask_blend_ps(minus, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
}

// Strides 1, 2, 4 and 8.
inline __m512 hadamard_lanes(__m512 v) {
  v = butterfly(v, _mm512_permute_ps(v, 0xb1), signs(0xaaaa));
  v = butterfly(v, _mm512_permute_ps(v, 0x4e), signs(0xcccc));
  v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0xb1), signs(0xf0f0));
  return butterfly(v, _mm512_shuffle_f32x4(v, v, 0x4e), signs(0xff00));
}

QuantizerScale row_scale(const float* values, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (int64_t k = 0; k < count; k += 64) {
    for (int i = 0; i < 4; ++i) {
      const __m512i bits = _mm512_loadu_si512(values + k + 16 * i);
      largest[i] = _mm512_max_epi32(largest[i], _mm512_and_si512(bits, magnitude));
    }
  }
  const int bits =
      _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_max_epi32(largest[0], largest[1]), _mm512_max_epi32(largest[2], largest[3])));
  return quantizer_scale(static_cast<uint32_t>(bits));
}

void quantize_row(const float* values, int64_t count, float scale_inverse, std::byte* stored) {
  const __m512 inverse = _mm512_set1_ps(scale_inverse);
  const __m512i bias = _mm512_set1_epi8(static_cast<char>(0x80));
  // Packing works within 128-bit quarters: these are the places of the 32-bit groups afterwards.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int64_t k = 0; k < count; k += 64) {
    __m512i q[4];
    for (int i = 0; i < 4; ++i) {
      q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + k + 16 * i), inverse));
    }
    __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    packed = _mm512_xor_si512(_mm512_permutexvar_epi32(order, packed), bias);
    _mm512_storeu_si512(stored + k, packed);
  }
}

}  // namespace
}  // namespace onset

#include "onset/compute/rotation_kernels.inc"

#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_avx512 = {narrow_rows,           rotate, prepare, multiply, multiply_floats<Singles>, prepare_bf16,
                                     multiply_floats<Pairs>};
}  // namespace onset
#endif
