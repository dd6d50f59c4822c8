#include "onset/tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace onset {
namespace {

TEST(DType, NamesGoBothWays) {
  for (int i = 0; i < dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_from_name("q4_k"), DType::q4_k);
  EXPECT_EQ(dtype_from_name("Q4_K_M"), std::nullopt);
  EXPECT_EQ(dtype_from_name(""), std::nullopt);
}

TEST(DType, SizesOfTensors) {
  EXPECT_EQ(row_bytes(DType::q4_1, 576), 18u * 20u);
  EXPECT_EQ(tensor_bytes(DType::q6_k, std::vector<int64_t>{3, 512}), 3u * 2u * 210u);
  EXPECT_EQ(tensor_bytes(DType::q6_k, std::vector<int64_t>{3, 500}), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::f32, std::vector<int64_t>{}), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::f32, std::vector<int64_t>{0, 4}), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::f32, std::vector<int64_t>{-1, 4}), std::nullopt);
  const int64_t huge = int64_t{1} << 62;
  EXPECT_EQ(tensor_bytes(DType::f32, std::vector<int64_t>{huge}), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::q4_0, std::vector<int64_t>{huge, 32}), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::i8, std::vector<int64_t>{huge, huge, 32}), std::nullopt);
}

TEST(DType, HalvesComeThroughUnchanged) {
  for (uint32_t half = 0; half < 65536; ++half) {
    const float value = f16_to_f32(static_cast<uint16_t>(half));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      ASSERT_EQ(f32_to_f16(value), half) << half;
    }
    const float wide = bf16_to_f32(static_cast<uint16_t>(half));
    if (!std::isnan(wide)) {
      ASSERT_EQ(f32_to_bf16(wide), half) << half;
    }
  }
}

// The neighbouring halves of a value, and the nearer one by arithmetic in double precision.
TEST(DType, RoundsToTheNearestHalfAndTiesToEven) {
  std::mt19937 random(1);
  std::uniform_int_distribution<uint32_t> bits(0, 0x477fefffu);  // below what rounds to infinity
  const auto check = [](float value) {
    const uint16_t found = f32_to_f16(value);
    const double error = std::fabs(static_cast<double>(f16_to_f32(found)) - value);
    for (const int step : {-1, 1}) {
      const auto other = static_cast<uint16_t>(found + step);
      if ((other & 0x7fffu) > 0x7bffu || (found == 0 && step < 0)) continue;
      const double distance = std::fabs(static_cast<double>(f16_to_f32(other)) - value);
      ASSERT_TRUE(error < distance || (error == distance && found % 2 == 0)) << value;
    }
  };
  for (int i = 0; i < 100000; ++i) check(std::bit_cast<float>(bits(random)));
  for (uint32_t half = 0; half < 0x7bffu; ++half) {  // exactly between two halves
    const auto lower = static_cast<uint16_t>(half), upper = static_cast<uint16_t>(half + 1);
    check(0.5f * (f16_to_f32(lower) + f16_to_f32(upper)));
  }
  EXPECT_EQ(f32_to_f16(65519.99f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // ties to even
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
}

}  // namespace
}  // namespace onset
