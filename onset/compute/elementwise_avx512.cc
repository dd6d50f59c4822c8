// Row functions for AVX-512.
#if defined(__x86_64__)
#include "onset/compute/lanes_512.inc"

#include "onset/compute/elementwise_kernels.inc"

namespace onset {
const ElementwiseKernels elementwise_avx512 = elementwise_kernels;
}  // namespace onset
#endif
