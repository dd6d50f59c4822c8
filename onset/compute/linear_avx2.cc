// Linear layers for AVX2, FMA, F16C.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/linear_kernels.h"

#include "onset/compute/linear_256.inc"

namespace onset {
namespace {

// Multiplies in 16 bits (vpmaddwd), which is exact; the byte instruction (vpmaddubsw) would saturate, and moving the weights' signs
// to the row's values to prevent that takes a third instruction on the two multiplying ports. A vector holds four columns, two
// sums for each: k 0 and 1, k 2 and 3.
struct Ints {
  static constexpr int columns = 4;
  static constexpr int value_bytes = 2;
  static constexpr bool biased = false;
  static constexpr int registers = 12;
  using Vector = __m256i;
  using Weights = __m256i;

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const int32_t*) { return zero(); }  // only for biased values
  static void store(int32_t* to, Vector v) {
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_hadd_epi32(v, v), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(pairs));
  }
  static Vector four(const std::byte* from) {
    int64_t values;
    __builtin_memcpy(&values, from, sizeof(values));
    return _mm256_set1_epi64x(values);
  }
  static Weights weights(const std::byte* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  static Vector dot(Vector sum, Vector four, Weights weights) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(four, weights));
    asm("" : "+x"(sum));  // keeps Clang from adding products to each other first, for which registers do not suffice
    return sum;
  }
};

float quantize_group(const float* values, int64_t count, std::byte* stored) {
  const QuantizerScale scale = group_scale(values, count);
  const __m256 inverse = _mm256_set1_ps(scale.inverse);
  for (int64_t k = 0; k < count; k += 16) {
    const __m256i packed = _mm256_packs_epi32(quantize_8(values + k, inverse), quantize_8(values + k + 8, inverse));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(stored + 2 * k), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  return scale.scale;
}

}  // namespace
}  // namespace onset

#include "onset/compute/rotation_kernels.inc"
#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_avx2 = {rotate, prepare, multiply, multiply_reference};
}  // namespace onset
#endif
