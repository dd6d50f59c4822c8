#include "onset/tensor/dtype.h"

#include <array>
#include <cctype>
#include <limits>

namespace onset {
namespace {

struct Traits {
  const char* name;
  int64_t block_size;
  size_t block_bytes;
};

// In the order of the enumeration.
constexpr std::array<Traits, dtype_count> traits = {{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q4_0", 32, 2 + 16},
    {"Q4_1", 32, 4 + 16},
    {"Q5_0", 32, 2 + 4 + 16},
    {"Q5_1", 32, 4 + 4 + 16},
    {"Q8_0", 32, 2 + 32},
    {"Q4_K", 256, 4 + 12 + 128},
    {"Q5_K", 256, 4 + 12 + 32 + 128},
    {"Q6_K", 256, 128 + 64 + 16 + 2},
    {"F64", 1, 8},
    {"I8", 1, 1},
    {"I16", 1, 2},
    {"I32", 1, 4},
    {"I64", 1, 8},
}};

const Traits& of(DType dtype) {
  return traits[static_cast<size_t>(dtype)];
}

}  // namespace

const char* dtype_name(DType dtype) {
  return of(dtype).name;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (int i = 0; i < dtype_count; ++i) {
    const std::string_view known = traits[static_cast<size_t>(i)].name;
    if (known.size() != name.size()) continue;
    bool same = true;
    for (size_t c = 0; c < name.size(); ++c) {
      same = same && std::toupper(static_cast<unsigned char>(name[c])) == known[c];
    }
    if (same) return static_cast<DType>(i);
  }
  return std::nullopt;
}

int64_t block_size(DType dtype) {
  return of(dtype).block_size;
}
size_t block_bytes(DType dtype) {
  return of(dtype).block_bytes;
}

size_t row_bytes(DType dtype, int64_t columns) {
  return static_cast<size_t>(columns / of(dtype).block_size) * of(dtype).block_bytes;
}

std::optional<size_t> tensor_bytes(DType dtype, std::span<const int64_t> shape) {
  if (shape.empty() || shape.back() < 1 || shape.back() % block_size(dtype) != 0) return std::nullopt;
  size_t rows = 1;
  for (const int64_t extent : shape.first(shape.size() - 1)) {
    if (extent < 1 || __builtin_mul_overflow(rows, static_cast<size_t>(extent), &rows)) return std::nullopt;
  }
  size_t bytes = 0;
  const size_t blocks = static_cast<size_t>(shape.back() / block_size(dtype));
  if (__builtin_mul_overflow(blocks, block_bytes(dtype), &bytes)) return std::nullopt;
  if (__builtin_mul_overflow(bytes, rows, &bytes)) return std::nullopt;
  // The number of values must be countable too: a block holds up to twice as many values as it has bytes.
  if (bytes > static_cast<size_t>(std::numeric_limits<int64_t>::max()) / 2) return std::nullopt;
  return bytes;
}

}  // namespace onset
