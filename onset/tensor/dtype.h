// The element types of stored tensors: plain numbers and the block formats of GGUF.
//
// A block format stores a row as blocks of 32 or 256 values; a block holds its small integers and the scales
// that turn them back into numbers. block_formats.h has the layouts and the conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace onset {

enum class DType : uint8_t {
  // Numbers.
  f32,
  f16,
  bf16,
  // Blocks of 32.
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  // Blocks of 256.
  q4_k,
  q5_k,
  q6_k,
  // Stored by some files, never weights of a layer.
  f64,
  i8,
  i16,
  i32,
  i64,
};
inline constexpr int dtype_count = 16;

// The name GGUF tools print: "F32", "BF16", "Q4_0", "Q6_K", "I32".
const char* dtype_name(DType dtype);

// The type of that name, in any case ("q4_k"), or nothing.
std::optional<DType> dtype_from_name(std::string_view name);

// Values in a block (1 for plain numbers) and the bytes that a block takes.
int64_t block_size(DType dtype);
size_t block_bytes(DType dtype);

inline bool is_block_format(DType dtype) {
  return block_size(dtype) > 1;
}

// Whether weights of this type can be turned into float32 and back (all but f64 and the integers).
inline bool is_weight_type(DType dtype) {
  return dtype <= DType::q6_k;
}

// Bytes of a row of `columns` values; `columns` is a multiple of block_size(dtype).
size_t row_bytes(DType dtype, int64_t columns);

// Bytes of a whole tensor of row-major `shape`, the last extent being the columns. Nothing if an extent is
// below 1, the columns are no multiple of the block size, or the size overflows.
std::optional<size_t> tensor_bytes(DType dtype, std::span<const int64_t> shape);

// Half precision (IEEE binary16) and bfloat16. To 16 bits: nearest, ties to even; not-a-number stays one.
inline float bf16_to_f32(uint16_t half) {
  return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float f16_to_f32(uint16_t half) {
  // The exponent is re-biased by multiplying with 2^112, which also turns subnormal halves into floats.
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u  // infinity or not a number
                                                 : std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  return std::bit_cast<float>(bits | sign);
}

inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 lets the float adder round to a multiple of 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace onset
