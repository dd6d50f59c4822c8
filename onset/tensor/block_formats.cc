#include "onset/tensor/block_formats.h"

#include <cassert>
#include <cstring>

namespace onset {

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);
static_assert(std::endian::native == std::endian::little, "GGUF's blocks are read as they are stored");

namespace {

void decode(const BlockQ4_0& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.nibbles[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block.nibbles[i] >> 4) - 8);
  }
}

void decode(const BlockQ4_1& block, float* out) {
  const float d = f16_to_f32(block.d), m = f16_to_f32(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block.nibbles[i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block.nibbles[i] >> 4) + m;
  }
}

// Bit `index` of the fifth bits of a block of 32, as 0 or 16.
int fifth(const uint8_t bits[4], int index) {
  return ((bits[index / 8] >> (index % 8)) & 1) << 4;
}

void decode(const BlockQ5_0& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(((block.nibbles[i] & 15) | fifth(block.fifth_bits, i)) - 16);
    out[i + 16] = d * static_cast<float>(((block.nibbles[i] >> 4) | fifth(block.fifth_bits, i + 16)) - 16);
  }
}

void decode(const BlockQ5_1& block, float* out) {
  const float d = f16_to_f32(block.d), m = f16_to_f32(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.nibbles[i] & 15) | fifth(block.fifth_bits, i)) + m;
    out[i + 16] = d * static_cast<float>((block.nibbles[i] >> 4) | fifth(block.fifth_bits, i + 16)) + m;
  }
}

void decode(const BlockQ8_0& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.values[i]);
}

// Q4_K and Q5_K: sub-blocks 2p and 2p + 1 share 32 bytes, low nibbles first; sub-block s owns bit s of the
// fifth bits.
template <typename Block>
void decode_scaled(const Block& block, float* out) {
  const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleAndMin pair = unpack_scale_and_min(block.scales, sub);
    const float scale = d * static_cast<float>(pair.scale), min = dmin * static_cast<float>(pair.min);
    const uint8_t* nibbles = block.nibbles + 32 * (sub / 2);
    const int shift = sub % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      int q = (nibbles[i] >> shift) & 15;
      if constexpr (sizeof(Block) == sizeof(BlockQ5_K)) q |= ((block.fifth_bits[i] >> sub) & 1) << 4;
      out[32 * sub + i] = scale * static_cast<float>(q) - min;
    }
  }
}

void decode(const BlockQ4_K& block, float* out) {
  decode_scaled(block, out);
}
void decode(const BlockQ5_K& block, float* out) {
  decode_scaled(block, out);
}

// Each half of 128 values: 64 bytes of nibbles hold groups 0, 1 (low) and 2, 3 (high), 32 bytes their upper
// two bits.
void decode(const BlockQ6_K& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int index = 0; index < 256; ++index) {
    const int half = index / 128, group = index % 128 / 32, i = index % 32;
    const int low = (block.nibbles[64 * half + 32 * (group % 2) + i] >> (group / 2 * 4)) & 15;
    const int high = (block.high_bits[32 * half + i] >> (2 * group)) & 3;
    const float scale = d * static_cast<float>(block.scales[index / 16]);
    out[index] = scale * static_cast<float>((low | (high << 4)) - 32);
  }
}

template <typename Block>
void decode_blocks(const std::byte* stored, std::span<float> row, size_t values) {
  for (size_t begin = 0; begin < row.size(); begin += values, stored += sizeof(Block)) {
    Block block;
    std::memcpy(&block, stored, sizeof(Block));
    decode(block, row.data() + begin);
  }
}

bool finite_half(const std::byte* stored) {
  uint16_t half;
  std::memcpy(&half, stored, 2);
  return (half & 0x7c00u) != 0x7c00u;
}

// Whether the halves at the given offsets of every block are finite.
bool finite_scales(std::span<const std::byte> stored, size_t bytes_of_block, std::initializer_list<size_t> offsets) {
  for (size_t begin = 0; begin < stored.size(); begin += bytes_of_block) {
    for (const size_t offset : offsets) {
      if (!finite_half(stored.data() + begin + offset)) return false;
    }
  }
  return true;
}

// Whether no number has all exponent bits set. Branch-free inside, so that the compiler can use vectors.
template <typename Word>
bool finite_words(std::span<const std::byte> stored, Word exponent) {
  constexpr size_t step = 1024 / sizeof(Word);
  const size_t count = stored.size() / sizeof(Word);
  Word words[step];
  for (size_t begin = 0; begin < count; begin += step) {
    const size_t length = count - begin < step ? count - begin : step;
    std::memcpy(words, stored.data() + begin * sizeof(Word), length * sizeof(Word));
    Word bad = 0;
    for (size_t i = 0; i < length; ++i) bad |= static_cast<Word>((words[i] & exponent) == exponent);
    if (bad != 0) return false;
  }
  return true;
}

}  // namespace

void dequantize_row(DType dtype, const std::byte* stored, std::span<float> row) {
  assert(is_weight_type(dtype) && static_cast<int64_t>(row.size()) % block_size(dtype) == 0);
  switch (dtype) {
    case DType::f32:
      std::memcpy(row.data(), stored, row.size_bytes());
      return;
    case DType::f16:
    case DType::bf16:
      for (size_t i = 0; i < row.size(); ++i) {
        uint16_t half;
        std::memcpy(&half, stored + 2 * i, 2);
        row[i] = dtype == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
      }
      return;
    case DType::q4_0:
      return decode_blocks<BlockQ4_0>(stored, row, 32);
    case DType::q4_1:
      return decode_blocks<BlockQ4_1>(stored, row, 32);
    case DType::q5_0:
      return decode_blocks<BlockQ5_0>(stored, row, 32);
    case DType::q5_1:
      return decode_blocks<BlockQ5_1>(stored, row, 32);
    case DType::q8_0:
      return decode_blocks<BlockQ8_0>(stored, row, 32);
    case DType::q4_k:
      return decode_blocks<BlockQ4_K>(stored, row, 256);
    case DType::q5_k:
      return decode_blocks<BlockQ5_K>(stored, row, 256);
    case DType::q6_k:
      return decode_blocks<BlockQ6_K>(stored, row, 256);
    case DType::f64:
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
      return;
  }
}

bool all_finite(DType dtype, std::span<const std::byte> stored) {
  switch (dtype) {
    case DType::f32:
      return finite_words<uint32_t>(stored, 0x7f800000u);
    case DType::f16:
      return finite_words<uint16_t>(stored, 0x7c00u);
    case DType::bf16:
      return finite_words<uint16_t>(stored, 0x7f80u);
    case DType::f64:
      return finite_words<uint64_t>(stored, 0x7ff0000000000000u);
    case DType::q4_0:
    case DType::q5_0:
    case DType::q8_0:
      return finite_scales(stored, block_bytes(dtype), {0});
    case DType::q4_1:
    case DType::q5_1:
    case DType::q4_k:
    case DType::q5_k:
      return finite_scales(stored, block_bytes(dtype), {0, 2});
    case DType::q6_k:
      return finite_scales(stored, block_bytes(dtype), {offsetof(BlockQ6_K, d)});
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
      return true;
  }
  return true;
}

}  // namespace onset
