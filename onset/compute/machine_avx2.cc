// Peaks of AVX2, FMA, F16C.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/machine_kernels.h"

namespace onset {
namespace {

// As linear_avx2.cc multiplies: 16-bit products.
inline __m256i dot_256(__m256i sum, __m256i a, __m256i b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
constexpr int64_t dot_products = 16;

}  // namespace
}  // namespace onset

#include "onset/compute/machine_256.inc"
#include "onset/compute/machine_kernels.inc"

namespace onset {
const MachineKernels machine_avx2 = {turn_operations<Int8>,    multiply_loop<Int8>,    0,   nullptr,
                                     turn_operations<Float32>, multiply_loop<Float32>, read};
}  // namespace onset
#endif
