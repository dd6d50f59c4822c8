// Which orthogonal transform the fast precision applies to rows of a given length before rounding them to
// int8.
//
// A few columns of a language model's activations are far larger than the others, and one scale for a row
// would leave the others three bits. Spread evenly by an orthogonal transform (applied to inputs and weights
// alike, so that products stay the same) they cost next to nothing. Hadamard matrices spread best, but exist
// only for some sizes and are fast only for powers of two; for the odd part a reflection I - (2/f) J mixes f
// blocks in two operations for each value. Measured on SmolLM2 (576 = 64 x 3 x 3, 1536 = 512 x 3), int8 with
// one scale for each channel and row, mean KL: blocks of 64 alone 0.0053, Hadamard matrices of the full size
// (4 x 12 x 12, 128 x 12) 0.0042, this 0.0043.
#pragma once

#include <cstdint>

#include "onset/compute/linear_kernels.h"

namespace onset {

// The largest power of two that divides `count` and its prime factors 3, 5, 7, 11 and 13; what is left of
// `count` then counts blocks that are not mixed.
Rotation rotation_for(int64_t count);

}  // namespace onset
