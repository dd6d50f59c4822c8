#include "onset/compute/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "onset/compute/reference/elementwise.h"

namespace onset {
namespace {

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

std::vector<float> random_numbers(std::mt19937& random, int64_t count, float spread = 1.0f) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& x : numbers) x = normal(random);
  return numbers;
}

// Runs body(isa) with every instruction set; checks that all give the same bits and returns them.
std::vector<float> same_everywhere(const std::string& what, const std::function<std::vector<float>(Isa)>& body) {
  const std::vector<float> expected = body(Isa::generic);
  for (const Isa isa : supported_isas()) {
    const std::vector<float> result = body(isa);
    EXPECT_EQ(result.size(), expected.size());
    EXPECT_EQ(std::memcmp(result.data(), expected.data(), expected.size() * sizeof(float)), 0) << what << " " << isa_name(isa);
  }
  return expected;
}

constexpr int64_t widths[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 576, 640, 1000};

TEST(Elementwise, RmsNorm) {
  std::mt19937 random(1);
  for (const int64_t width : widths) {
    const std::vector<float> input = random_numbers(random, 3 * (width + 5), 2), gain = random_numbers(random, width);
    for (const float* weights : {gain.data(), static_cast<const float*>(nullptr)}) {
      const std::vector<float> output = same_everywhere("rms_norm", [&](Isa isa) {
        std::vector<float> result(static_cast<size_t>(3 * width));
        rms_norm(isa, {input.data(), width + 5}, 3, width, weights, 1e-5f, {result.data(), width});
        return result;
      });
      for (int64_t r = 0; r < 3; ++r) {
        const std::vector<float> row(input.begin() + r * (width + 5), input.begin() + r * (width + 5) + width);
        const std::vector<double> expected = reference::rms_norm(row, weights, 1e-5);
        for (int64_t i = 0; i < width; ++i) {
          const double x = expected[static_cast<size_t>(i)];
          EXPECT_NEAR(output[static_cast<size_t>(r * width + i)], x, 1e-6 * std::fabs(x) + 1e-30);
        }
      }
    }
  }
}

TEST(Elementwise, RmsNormOfHeadsIsThatOfEachHead) {
  std::mt19937 random(2);
  const int heads = 3, size = 20;
  const std::vector<float> input = random_numbers(random, 2 * 70), gain = random_numbers(random, size);
  const std::vector<float> output = same_everywhere("rms_norm_heads", [&](Isa isa) {
    std::vector<float> result = input;
    rms_norm_heads(isa, {result.data(), 70}, 2, heads, size, gain.data(), 1e-6f);
    return result;
  });
  for (size_t row = 0; row < 2; ++row) {
    for (size_t h = 0; h < heads; ++h) {
      const size_t at = row * 70 + h * size;
      const std::vector<float> head(input.begin() + static_cast<int64_t>(at), input.begin() + static_cast<int64_t>(at + size));
      const std::vector<double> expected = reference::rms_norm(head, gain.data(), 1e-6);
      for (size_t i = 0; i < size; ++i) EXPECT_NEAR(output[at + i], expected[i], 1e-5);
    }
    for (size_t i = row * 70 + 60; i < row * 70 + 70; ++i) EXPECT_EQ(output[i], input[i]);
  }
}

TEST(Elementwise, RotaryEmbedding) {
  std::mt19937 random(3);
  for (const RotaryPairs pairs : {RotaryPairs::neighbours, RotaryPairs::halves}) {
    for (const auto& [size, rotary] : {std::pair{64, 64}, {64, 32}, {256, 256}, {20, 12}, {8, 2}, {6, 6}, {80, 80}}) {
      std::vector<double> frequencies;
      for (int i = 0; i < rotary / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / rotary));
      std::vector<float> table(static_cast<size_t>(50 * rotary));
      for (int position = 0; position < 50; ++position) fill_rotary_line(position, frequencies, 1.5, table.data() + position * rotary);
      const int heads = 3;
      const std::vector<int32_t> lines = {7, 0, 49, 7};
      const int64_t stride = heads * size + 3;
      const std::vector<float> input = random_numbers(random, 4 * stride);
      const std::vector<float> output = same_everywhere("apply_rotary", [&](Isa isa) {
        std::vector<float> result = input;
        apply_rotary(isa, pairs, {result.data(), stride}, 4, heads, size, rotary, table.data(), lines.data());
        return result;
      });
      for (int64_t row = 0; row < 4; ++row) {
        for (int64_t h = 0; h < heads; ++h) {
          const auto begin = input.begin() + row * stride + h * size;
          const std::vector<double> expected =
              reference::rotate(pairs, {begin, begin + size}, frequencies, lines[static_cast<size_t>(row)], 1.5);
          for (int64_t i = 0; i < size; ++i) {
            EXPECT_NEAR(output[static_cast<size_t>(row * stride + h * size + i)], expected[static_cast<size_t>(i)], 2e-6);
          }
        }
        for (int64_t i = heads * size; i < stride; ++i) {
          EXPECT_EQ(output[static_cast<size_t>(row * stride + i)], input[static_cast<size_t>(row * stride + i)]);
        }
      }
      std::vector<float> by_row = input, by_line = input;
      const std::vector<int32_t> counting = {0, 1, 2, 3};
      apply_rotary(Isa::generic, pairs, {by_row.data(), stride}, 4, heads, size, rotary, table.data(), nullptr);
      apply_rotary(Isa::generic, pairs, {by_line.data(), stride}, 4, heads, size, rotary, table.data(), counting.data());
      EXPECT_EQ(by_row, by_line);
    }
  }
}

TEST(Elementwise, GatedActivations) {
  std::mt19937 random(4);
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    for (const int64_t width : widths) {
      std::vector<float> input = random_numbers(random, 2 * (2 * width + 1), 6);
      input[0] = 0;
      input[static_cast<size_t>(width - 1)] = -300;
      input[static_cast<size_t>(2 * width + 1)] = 300;
      const std::vector<float> output = same_everywhere("gated_activation", [&](Isa isa) {
        std::vector<float> result(static_cast<size_t>(2 * width));
        gated_activation(isa, activation, {input.data(), 2 * width + 1}, 2, width, {result.data(), width});
        return result;
      });
      for (int64_t row = 0; row < 2; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          const float gate = input[static_cast<size_t>(row * (2 * width + 1) + i)];
          const float up = input[static_cast<size_t>(row * (2 * width + 1) + width + i)];
          const double expected = reference::activate(activation, gate) * up;
          EXPECT_NEAR(output[static_cast<size_t>(row * width + i)], expected, 3e-6 * std::fabs(expected) + 1e-7) << gate;
        }
      }
    }
  }
}

TEST(Elementwise, AddScaleAndSoftCap) {
  std::mt19937 random(5);
  for (const int64_t width : widths) {
    const std::vector<float> a = random_numbers(random, width), b = random_numbers(random, width, 40);
    const std::vector<float> sum = same_everywhere("add", [&](Isa isa) {
      std::vector<float> result = a;
      add(isa, {result.data(), width}, {b.data(), width}, 1, width);
      scale(isa, {result.data(), width}, 1, width, 3);
      return result;
    });
    const std::vector<float> capped = same_everywhere("soft_cap", [&](Isa isa) {
      std::vector<float> result = b;
      soft_cap(isa, {result.data(), width}, 1, width, 30);
      return result;
    });
    for (size_t i = 0; i < sum.size(); ++i) {
      EXPECT_EQ(sum[i], (a[i] + b[i]) * 3);
      EXPECT_NEAR(capped[i], 30 * std::tanh(b[i] / 30.0), 1e-5);
    }
  }
}

TEST(Elementwise, StatisticsOfLogits) {
  std::mt19937 random(6);
  for (const int64_t width : {1, 5, 16, 100, 511, 512, 513, 1024, 1025, 5000}) {
    std::vector<float> logits = random_numbers(random, width, 5);
    if (width > 4) logits[static_cast<size_t>(width - 2)] = logits[static_cast<size_t>(width / 3)] = 30;
    if (width > 16) logits[2] = -std::numeric_limits<float>::infinity();
    const double expected = reference::log_sum_exp(logits);
    for (const Isa isa : supported_isas()) {
      const LogitStatistics statistics = logit_statistics(isa, logits);
      const int64_t largest = std::max_element(logits.begin(), logits.end()) - logits.begin();
      EXPECT_EQ(statistics.argmax, largest);
      EXPECT_EQ(argmax(isa, logits), largest);
      EXPECT_EQ(statistics.maximum, logits[static_cast<size_t>(largest)]);
      EXPECT_NEAR(statistics.log_sum_exp, expected, 1e-6);
      EXPECT_EQ(statistics.log_sum_exp, logit_statistics(Isa::generic, logits).log_sum_exp);
    }
    const std::vector<float> probabilities = same_everywhere("softmax", [&](Isa isa) {
      std::vector<float> result = logits;
      softmax(isa, result);
      return result;
    });
    std::vector<float> logarithms = logits;
    log_softmax(Isa::generic, logarithms);
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(logits[i] - expected);
      EXPECT_NEAR(probabilities[i], p, 3e-6 * p + 1e-37);
      if (std::isinf(logits[i])) continue;
      EXPECT_NEAR(logarithms[i], logits[i] - expected, 4e-6);
    }
  }
  EXPECT_EQ(argmax(Isa::generic, {}), 0);
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : supported_isas()) {
    EXPECT_EQ(argmax(isa, std::vector<float>{not_a_number, 1, 3, not_a_number, 3}), 2);
    EXPECT_EQ(argmax(isa, std::vector<float>{not_a_number}), 0);
  }
}

// Every 97th exponent from -87 to 87 against double precision.
TEST(Elementwise, ExponentialIsAccurate) {
  std::vector<float> inputs;
  for (float x = -87.0f; x <= 0.0f; x += 0.00097f) inputs.push_back(x);
  inputs.push_back(0.0f);
  const auto shift = static_cast<float>(reference::log_sum_exp(inputs));
  std::vector<float> values = inputs;
  softmax(Isa::generic, values);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const double expected = std::exp(static_cast<double>(inputs[i] - shift));
    if (inputs[i] - shift <= -87) continue;
    ASSERT_NEAR(values[i] / expected, 1.0, 2.5e-7) << inputs[i];
  }
}

}  // namespace
}  // namespace onset
