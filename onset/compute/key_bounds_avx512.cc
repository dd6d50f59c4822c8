// Scoring logical pages for AVX-512.
#if defined(__x86_64__)
#include "onset/compute/lanes_512.inc"

#include "onset/compute/key_bounds_kernels.inc"

namespace onset {
const KeyBoundsKernels key_bounds_avx512 = key_bounds_kernels;
}  // namespace onset
#endif
