// Linear layers for 256-bit VNNI in AVX-512's encoding, for CPUs that lack AVX-VNNI.
#if defined(__x86_64__)
#include <immintrin.h>

#include "onset/compute/linear_kernels.h"

namespace onset {
namespace {

inline __m256i dot_256(__m256i sum, __m256i four, __m256i weights) {
  return _mm256_dpbusd_epi32(sum, four, weights);
}

}  // namespace
}  // namespace onset

#include "onset/compute/linear_vnni256.inc"

#include "onset/compute/rotation_kernels.inc"

#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_evex_vnni = {narrow_rows,           rotate, prepare, multiply, multiply_floats<Singles>, prepare_bf16,
                                        multiply_floats<Pairs>};
}  // namespace onset
#endif
