// What reading and writing GGUF share: numbers of the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "onset/tensor/dtype.h"

namespace onset {

inline constexpr uint32_t gguf_magic = 0x46554747;  // "GGUF"
inline constexpr uint64_t gguf_default_alignment = 32;
inline constexpr uint64_t gguf_largest_key = 65535, gguf_largest_name = 1024;
inline constexpr size_t gguf_largest_extents = 4;
inline constexpr int64_t gguf_largest_part_count = 512;

// The element type of that number, if this program knows it; and the number of a type.
std::optional<DType> gguf_dtype_of(uint32_t number);
uint32_t gguf_number_of(DType dtype);

// "-00002-of-00005.gguf" for index 1 of 5.
std::string gguf_part_suffix(int64_t index, int64_t count);

}  // namespace onset
