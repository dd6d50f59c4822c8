// Row functions for AVX2 with FMA.
#if defined(__x86_64__)
#include "onset/compute/lanes_256.inc"

#include "onset/compute/elementwise_kernels.inc"

namespace onset {
const ElementwiseKernels elementwise_avx2 = elementwise_kernels;
}  // namespace onset
#endif
