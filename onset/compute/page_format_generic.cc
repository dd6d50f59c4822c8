// Quantising keys and values for any CPU.
#include "onset/compute/lanes_generic.inc"

#include "onset/compute/page_format_kernels.inc"

namespace onset {
const PageFormatKernels page_format_generic = page_format_kernels;
}  // namespace onset
