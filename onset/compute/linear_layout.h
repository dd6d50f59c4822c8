// The layouts of a weight's packed bytes and prepared rows (see linear_kernels.h), for packing, inspection
// and tests.
#pragma once

#include "onset/compute/linear.h"
#include "onset/compute/linear_kernels.h"

namespace onset {

FastLayout fast_layout(int64_t in, int64_t out);
FloatLayout reference_layout(int64_t in, int64_t out);
FloatLayout bf16_layout(int64_t in, int64_t out);

// The kernels of an instruction set that this CPU supports.
const LinearKernels& linear_kernels(Isa isa);

}  // namespace onset
