// Scoring logical pages for any CPU.
#include "onset/compute/lanes_generic.inc"

#include "onset/compute/key_bounds_kernels.inc"

namespace onset {
const KeyBoundsKernels key_bounds_generic = key_bounds_kernels;
}  // namespace onset
