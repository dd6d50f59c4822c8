// Scoring logical pages for AVX2.
#if defined(__x86_64__)
#include "onset/compute/lanes_256.inc"

#include "onset/compute/key_bounds_kernels.inc"

namespace onset {
const KeyBoundsKernels key_bounds_avx2 = key_bounds_kernels;
}  // namespace onset
#endif
