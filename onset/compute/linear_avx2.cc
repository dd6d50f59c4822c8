// Linear layers for AVX2, FMA, F16C.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/linear_kernels.h"

#include "onset/compute/linear_256.inc"

namespace onset {
namespace {

// Multiplies in 16 bits (vpmaddwd), which is exact; the byte instruction (vpmaddubsw) would saturate, and
// moving the weights' signs to the row's values to prevent that takes a third instruction on the two
// multiplying ports. A vector holds four columns, two sums for each: k 0 and 1, k 2 and 3.
struct Ints {
  static constexpr int columns = 4;
  static constexpr int value_bytes = 2;
  static constexpr bool biased = false;
  static constexpr int registers = 12;
  using Vector = __m256i;
  using Weights = __m256i;

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const int32_t*) { return zero(); }  // only for biased values
  static Vector four(const std::byte* from) {
    int64_t values;
    __builtin_memcpy(&values, from, sizeof(values));
    return _mm256_set1_epi64x(values);
  }
  static Weights weights(const std::byte* from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
  static Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  static Vector dot(Vector sum, Vector four, Weights weights) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(four, weights));
    asm(""
        : "+x"(sum));  // keeps Clang from adding products to each other first, for which registers do not
                       // suffice
    return sum;
  }
  // Adds neighbours; vpermq puts the halves of two vectors in order.
  template <int V>
  static ONSET_INLINE void to_floats(const Vector (&sums)[V], __m256 (&values)[V / 2]) {
    ONSET_UNROLL
    for (int v = 0; v < V / 2; ++v) {
      const __m256i pairs = _mm256_hadd_epi32(sums[2 * v], sums[2 * v + 1]);
      values[v] = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(pairs, 0xd8));
    }
  }
};

void quantize_row(const float* values, int64_t count, float scale_inverse, std::byte* stored) {
  const __m256 inverse = _mm256_set1_ps(scale_inverse);
  for (int64_t k = 0; k < count; k += 16) {
    const __m256i packed = _mm256_packs_epi32(quantize_8(values + k, inverse), quantize_8(values + k + 8, inverse));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(stored + 2 * k), _mm256_permute4x64_epi64(packed, 0xd8));
  }
}

}  // namespace
}  // namespace onset

#include "onset/compute/rotation_kernels.inc"

#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_avx2 = {narrow_rows, rotate, prepare, multiply, multiply_floats<Singles>, prepare_bf16, multiply_floats<Pairs>};
}  // namespace onset
#endif
