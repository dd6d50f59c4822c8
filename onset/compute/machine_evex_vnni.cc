// Peaks of 256-bit VNNI in AVX-512's encoding.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/machine_kernels.h"

namespace onset {
namespace {

inline __m256i dot_256(__m256i sum, __m256i a, __m256i b) {
  return _mm256_dpbusd_epi32(sum, a, b);
}
constexpr int64_t dot_products = 32;

}  // namespace
}  // namespace onset

#include "onset/compute/machine_256.inc"
#include "onset/compute/machine_kernels.inc"

namespace onset {
const MachineKernels machine_evex_vnni = {turn_operations<Int8>,    multiply_loop<Int8>,    0,   nullptr,
                                          turn_operations<Float32>, multiply_loop<Float32>, read};
}  // namespace onset
#endif
