#include "onset/tensor/block_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace onset {
namespace {

const std::string fixtures = std::string(ONSET_SOURCE_DIR) + "/tests/fixtures/formats/";

constexpr DType block_types[] = {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k};

std::vector<char> read_bytes(const std::string& name) {
  std::ifstream file(fixtures + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::byte> quantized(DType dtype, std::span<const float> values) {
  std::vector<std::byte> stored(row_bytes(dtype, static_cast<int64_t>(values.size())));
  quantize_row(dtype, values, stored.data());
  return stored;
}

std::vector<float> dequantized(DType dtype, std::span<const std::byte> stored) {
  std::vector<float> values(stored.size() / block_bytes(dtype) * static_cast<size_t>(block_size(dtype)));
  dequantize_row(dtype, stored.data(), values);
  return values;
}

double rms_error(DType dtype, std::span<const float> values) {
  const std::vector<float> read = dequantized(dtype, quantized(dtype, values));
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += std::pow(static_cast<double>(read[i]) - values[i], 2);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

std::vector<float> gaussian(size_t count, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(BlockFormats, EveryTypeReadsAsTheGgufPackageReadsIt) {
  const std::vector<char> bytes = read_bytes("block_vectors.bin");
  int records = 0;
  for (size_t at = 0; at < bytes.size(); ++records) {
    const auto dtype = dtype_from_name(std::string(bytes.data() + at).substr(0, 8));
    ASSERT_TRUE(dtype) << at;
    uint32_t count = 0, size = 0;
    std::memcpy(&count, bytes.data() + at + 8, 4);
    std::memcpy(&size, bytes.data() + at + 12, 4);
    std::vector<float> expected(count);
    std::memcpy(expected.data(), bytes.data() + at + 16 + size, 4 * size_t{count});
    std::vector<float> found(count);
    ASSERT_EQ(row_bytes(*dtype, count), size);
    dequantize_row(*dtype, reinterpret_cast<const std::byte*>(bytes.data()) + at + 16, found);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(expected[i], found[i]) << dtype_name(*dtype) << " value " << i;
    at += 16 + size + 4 * size_t{count};
  }
  EXPECT_EQ(records, 10);
}

TEST(BlockFormats, QuantisersAreAsGoodAsThoseOfLlamaCpp) {
  const std::vector<char> bytes = read_bytes("block_input.bin");
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  std::ifstream figures(fixtures + "block_rmse.txt");
  std::string name;
  double theirs = 0;
  int types = 0;
  while (figures >> name >> theirs) {
    const DType dtype = dtype_from_name(name).value();
    EXPECT_LE(rms_error(dtype, values), 1.0005 * theirs) << name;
    ++types;
  }
  EXPECT_EQ(types, 10);
}

TEST(BlockFormats, WhatWasQuantisedOnceComesThroughAgainUnchanged) {
  for (const DType dtype : {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0}) {
    const std::vector<float> once = dequantized(dtype, quantized(dtype, gaussian(64 * 256, 0.05f, 3)));
    double square = 0;
    for (const float value : once) square += static_cast<double>(value) * value;
    // All but the rare block whose codes stay away from both ends of the grid; one rounding alone makes 1e-2.
    EXPECT_LE(rms_error(dtype, once), 5e-4 * std::sqrt(square / once.size())) << dtype_name(dtype);
  }
}

TEST(BlockFormats, ConstantAndExtremeBlocksStayFinite) {
  for (const DType dtype : block_types) {
    for (const float value : {0.0f, 1.0f, -3.5f, 1e-30f, 1e-7f, -6e4f, 1e30f, -std::numeric_limits<float>::max()}) {
      const std::vector<std::byte> stored = quantized(dtype, std::vector<float>(256, value));
      EXPECT_TRUE(all_finite(dtype, stored)) << dtype_name(dtype) << " " << value;
      const std::vector<float> read = dequantized(dtype, stored);
      if (std::fabs(value) > 6.5e4f || std::fabs(value) < 1e-3f) continue;
      for (const float found : read) EXPECT_NEAR(found, value, 0.005f * std::fabs(value)) << dtype_name(dtype);
    }
    std::vector<float> mixed = gaussian(256, 1.0f, 5);
    mixed[7] = std::numeric_limits<float>::quiet_NaN();
    mixed[99] = std::numeric_limits<float>::infinity();
    quantized(dtype, mixed);  // stores nothing useful; the sanitizers see that it does nothing undefined
  }
}

TEST(BlockFormats, AllZeroBlocksReadAsZero) {
  for (const DType dtype : block_types) {
    for (const float value : dequantized(dtype, quantized(dtype, std::vector<float>(512, 0.0f)))) EXPECT_EQ(value, 0.0f);
  }
}

TEST(BlockFormats, NotANumberIsFoundInScalesAndInPlainNumbers) {
  for (const DType dtype : block_types) {
    std::vector<std::byte> stored = quantized(dtype, gaussian(1024, 1.0f, 6));
    ASSERT_TRUE(all_finite(dtype, stored));
    const size_t scale = dtype == DType::q6_k ? offsetof(BlockQ6_K, d) : 0;
    stored[stored.size() - block_bytes(dtype) + scale + 1] = std::byte{0x7e};
    EXPECT_FALSE(all_finite(dtype, stored)) << dtype_name(dtype);
  }
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<float> values = gaussian(1000, 1.0f, 7);
    ASSERT_TRUE(all_finite(dtype, quantized(dtype, values)));
    values[999] = -std::numeric_limits<float>::infinity();
    EXPECT_FALSE(all_finite(dtype, quantized(dtype, values)));
    values[999] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FALSE(all_finite(dtype, quantized(dtype, values)));
  }
}

}  // namespace
}  // namespace onset
