// Turning rows of weights into GGUF's block formats and back.
//
// Layouts (little-endian, as in GGUF files). d, m and dmin are half precision.
//   Q4_0  32 values: d, 16 bytes of 4 bits                     value = d * (q - 8)
//   Q4_1  32 values: d, m, 16 bytes of 4 bits                  value = d * q + m
//   Q5_0  32 values: d, 32 fifth bits, 16 bytes of 4 bits      value = d * (q - 16)
//   Q5_1  32 values: d, m, 32 fifth bits, 16 bytes of 4 bits   value = d * q + m
//   Q8_0  32 values: d, 32 signed bytes                        value = d * q
//   Q4_K  256 values: d, dmin, 8 sub-blocks' 6-bit scales and mins in 12 bytes, 128 bytes of 4 bits
//                                                              value = d * scale * q - dmin * min
//   Q5_K  256 values: as Q4_K with 32 bytes of fifth bits before the 4 bits
//   Q6_K  256 values: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales, d
//                                                              value = d * scale * (q - 32)
// In the blocks of 32 the low nibbles are values 0..15 and the high nibbles values 16..31.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "onset/tensor/dtype.h"

namespace onset {

struct BlockQ4_0 {
  uint16_t d;
  uint8_t nibbles[16];
};
struct BlockQ4_1 {
  uint16_t d, m;
  uint8_t nibbles[16];
};
struct BlockQ5_0 {
  uint16_t d;
  uint8_t fifth_bits[4];
  uint8_t nibbles[16];
};
struct BlockQ5_1 {
  uint16_t d, m;
  uint8_t fifth_bits[4];
  uint8_t nibbles[16];
};
struct BlockQ8_0 {
  uint16_t d;
  int8_t values[32];
};
struct BlockQ4_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t nibbles[128];
};
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t fifth_bits[32];
  uint8_t nibbles[128];
};
struct BlockQ6_K {
  uint8_t nibbles[128];
  uint8_t high_bits[64];
  int8_t scales[16];
  uint16_t d;
};

// The 6-bit scale and min of sub-block `index` (0..7) out of the 12 bytes of a Q4_K or Q5_K block: the first
// four pairs lie in the low six bits of bytes 0..7; the others have their low four bits in bytes 8..11, their
// high two above those.
struct ScaleAndMin {
  uint8_t scale, min;
};
inline ScaleAndMin unpack_scale_and_min(const uint8_t scales[12], int index) {
  if (index < 4) return {static_cast<uint8_t>(scales[index] & 63), static_cast<uint8_t>(scales[index + 4] & 63)};
  return {static_cast<uint8_t>((scales[index + 4] & 15) | ((scales[index - 4] >> 6) << 4)),
          static_cast<uint8_t>((scales[index + 4] >> 4) | ((scales[index] >> 6) << 4))};
}

// Writes row.size() float32 values read from row_bytes(dtype, row.size()) bytes at `stored` (any alignment).
// Needs is_weight_type(dtype) and whole blocks.
void dequantize_row(DType dtype, const std::byte* stored, std::span<float> row);

// Writes row_bytes(dtype, row.size()) bytes to `stored`. Needs is_weight_type(dtype), whole blocks and finite
// values (others store something, but nothing useful). The result depends on nothing but the values: the
// scales are searched for the smallest sum of squared errors within each block.
void quantize_row(DType dtype, std::span<const float> row, std::byte* stored);

// Whether no value of the stored blocks is infinite or not a number. Block formats only show it in their
// scales, so this reads one or two numbers of each block. `stored` holds whole blocks; integers are always
// finite.
bool all_finite(DType dtype, std::span<const std::byte> stored);

}  // namespace onset
