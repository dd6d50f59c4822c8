// Quantising keys and values for AVX2.
#if defined(__x86_64__)
#include "onset/compute/lanes_256.inc"

#include "onset/compute/page_format_kernels.inc"

namespace onset {
const PageFormatKernels page_format_avx2 = page_format_kernels;
}  // namespace onset
#endif
