#include "onset/cost/break_even.h"

#include <gtest/gtest.h>

#include <vector>

namespace onset {
namespace {

const ModelShape& shape(const std::string& name) {
  for (const ModelShape& each : published_shapes()) {
    if (each.name == name) return each;
  }
  throw std::runtime_error(name);
}

TEST(BreakEven, ShapesAreThePublishedOnes) {
  // Weights of the layers: 6.48, 6.98 and 68.5 billion (the models' sizes without embeddings, head and norms); two operations each.
  EXPECT_EQ(prefill_operations(shape("Llama-2-7B"), 1), 2 * 6476005376.0 + 4 * 32 * 4096);
  EXPECT_EQ(prefill_operations(shape("Mistral-7B"), 1), 2 * 6979321856.0 + 4 * 32 * 4096);
  EXPECT_EQ(prefill_operations(shape("Llama-2-70B"), 1), 2 * 68451041280.0 + 4 * 80 * 8192);
  // Four tokens see 1 + 2 + 3 + 4 keys.
  EXPECT_EQ(prefill_operations(shape("Llama-2-7B"), 4), 4 * 2 * 6476005376.0 + 10 * 4 * 32 * 4096);
  EXPECT_EQ(key_value_bytes(shape("Llama-2-7B"), 2), 524288);
  EXPECT_EQ(key_value_bytes(shape("Mistral-7B"), 2), 131072);
  EXPECT_EQ(key_value_bytes(shape("Llama-2-70B"), 2), 327680);
}

TEST(BreakEven, FitsAreWhatWasMeasured) {
  std::vector<TimedChunk> computing, loading;
  for (const double tokens : {64.0, 256.0, 1024.0, 4096.0}) {
    computing.push_back({.tokens = tokens, .seconds = 2e-3 + 3e-4 * tokens + 5e-8 * tokens * tokens});
    loading.push_back({.tokens = tokens, .bytes = 13000 * tokens, .seconds = 4e-4 + 13000 * tokens / 2e9});
  }
  const auto compute = fit_computing(computing);
  ASSERT_TRUE(compute.ok()) << compute.status().message();
  EXPECT_NEAR(compute->fixed, 2e-3, 1e-8);
  EXPECT_NEAR(compute->per_token, 3e-4, 1e-9);
  EXPECT_NEAR(compute->per_token_squared, 5e-8, 1e-13);
  EXPECT_NEAR(compute->seconds(2048), 2e-3 + 3e-4 * 2048 + 5e-8 * 2048 * 2048, 1e-6);
  const auto load = fit_loading(loading);
  ASSERT_TRUE(load.ok()) << load.status().message();
  EXPECT_NEAR(load->fixed, 4e-4, 1e-9);
  EXPECT_NEAR(load->bytes_per_second(), 2e9, 1e3);
  EXPECT_NEAR(load->seconds(1e9), 0.5004, 1e-6);

  // What takes no longer for more of it has no rate.
  const std::vector<TimedChunk> flat = {{.tokens = 1, .bytes = 100, .seconds = 2}, {.tokens = 2, .bytes = 200, .seconds = 1}};
  EXPECT_EQ(fit_loading(flat)->bytes_per_second(), 0);
  EXPECT_GT(fit_loading(flat)->fixed, 0);
  EXPECT_EQ(fit_loading({computing.data(), 1}).status().message(), "1 measured length, expected two or more");
  computing[1].seconds = 0;
  EXPECT_EQ(fit_computing(computing).status().message(), "256 tokens, 0 bytes in 0 s cannot be fitted: expected more than 0");
}

TEST(BreakEven, IsTheLengthFromWhichLoadingWins) {
  const auto line = [](double fixed, double per_token) {
    return [=](int64_t tokens) { return fixed + per_token * static_cast<double>(tokens); };
  };
  EXPECT_EQ(break_even_tokens(line(0, 2), line(10, 1), 1000), 10);
  EXPECT_EQ(break_even_tokens(line(0, 2), line(0, 1), 1000), 1);
  EXPECT_EQ(break_even_tokens(line(0, 1), line(0, 2), 1000), 0);
  EXPECT_EQ(break_even_tokens(line(0, 2), line(10, 1), 9), 0) << "beyond what is asked for";
  // Quicker at first by what computing costs once, slower then, quicker again as attention grows.
  const auto curve = [](int64_t tokens) { return 5 + 1e-2 * static_cast<double>(tokens * tokens); };
  EXPECT_EQ(break_even_tokens(curve, line(0, 1), 1000), 95);
}

// The paper's devices (section 5.1): what a slow disk is worth depends on the model.
TEST(BreakEven, LargeModelsAreWorthLoadingFromSlowerDevices) {
  const double peak = 1e12;
  const auto wins = [&](const char* name, double bytes_per_second) {
    const ModelShape& model = shape(name);
    return break_even_tokens([&](int64_t tokens) { return prefill_operations(model, static_cast<double>(tokens)) / peak; },
                             [&](int64_t tokens) { return static_cast<double>(tokens) * key_value_bytes(model, 2) / bytes_per_second; },
                             1 << 16);
  };
  EXPECT_EQ(wins("Llama-2-70B", 3e6), 1);
  EXPECT_GT(wins("Mistral-7B", 8e6), 1);
  EXPECT_EQ(wins("Mistral-7B", 1e7), 1);
  EXPECT_GT(wins("Llama-2-7B", 3e7), 1) << "without groups of heads there are four times as many bytes";
}

}  // namespace
}  // namespace onset
