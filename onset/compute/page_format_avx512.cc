// Quantising keys and values for AVX-512.
#if defined(__x86_64__)
#include "onset/compute/lanes_512.inc"

#include "onset/compute/page_format_kernels.inc"

namespace onset {
const PageFormatKernels page_format_avx512 = page_format_kernels;
}  // namespace onset
#endif
