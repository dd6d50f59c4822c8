// Row functions for any CPU.
#include "onset/compute/lanes_generic.inc"

#include "onset/compute/elementwise_kernels.inc"

namespace onset {
const ElementwiseKernels elementwise_generic = elementwise_kernels;
}  // namespace onset
