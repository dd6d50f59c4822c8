#include "onset/cost/loading.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace onset {
namespace {

TEST(Loading, BytesOfATokenAreThePapers) {
  EXPECT_EQ(key_value_bytes(30, 3, 64, 2), 23040);    // SmolLM2-135M
  EXPECT_EQ(key_value_bytes(32, 8, 128, 2), 131072);  // Mistral-7B
  EXPECT_EQ(key_value_bytes(80, 8, 128, 2), 327680);  // Llama-2-70B
}

// CacheBlend's examples (section 5.1): what 15 % of a layer takes to compute, and what the layer takes to load.
TEST(Loading, TheRatioHidesTheLoading) {
  EXPECT_NEAR(hiding_ratio(3e-3 / 0.15, 16e-3, 0.15), 0.80, 1e-12);
  EXPECT_NEAR(hiding_ratio(7e-3 / 0.15, 4e-3, 0.15), 0.15, 1e-12);
  EXPECT_EQ(hiding_ratio(1, 2, 0.15), 1) << "computing everything is quicker";
  EXPECT_EQ(hiding_ratio(0, 1, 0.15), 0.15) << "nothing is known of the computing yet";
  EXPECT_EQ(hiding_ratio(1, 0, 0.3), 0.3);
}

TEST(Loading, TheCheapestDeviceThatIsQuickEnough) {
  const std::vector<StorageDevice> devices = {{.name = "memory", .bytes_per_second = 1e10, .price = 20},
                                              {.name = "flash", .bytes_per_second = 5e9, .price = 2},
                                              {.name = "disk", .bytes_per_second = 2e8, .price = 1}};
  const auto chosen = [&](double bytes, double prefill, double ratio) { return choose_device(devices, bytes, prefill, ratio)->device; };
  EXPECT_EQ(chosen(1e8, 10, 0.15), 2) << "half a second of loading behind 1.5 of computing";
  EXPECT_EQ(chosen(1e9, 2, 0.15), 1);
  EXPECT_EQ(chosen(1e9, 0.7, 0.15), 0);
  EXPECT_EQ(chosen(1e9, 0.2, 0.15), 0) << "none is quick enough: the quickest";
  EXPECT_EQ(chosen(1e9, 0.05, 0.15), -1) << "computing everything is quicker than any";
  EXPECT_NEAR(choose_device(devices, 1e8, 10, 0.15)->load_seconds, 0.5, 1e-12);
  EXPECT_EQ(choose_device({}, 1, 1, 0.15).status().message(), "there is no device to choose from");
  const StorageDevice still{.name = "tape"};
  EXPECT_EQ(choose_device({&still, 1}, 1, 1, 0.15).status().message(), "device tape loads 0 bytes a second, expected more than 0");
}

TEST(Loading, ThePipelineIsAsLongAsItsSlowerHalf) {
  const std::vector<double> slow(10, 3.0), quick(10, 1.0);
  EXPECT_EQ(pipelined_seconds(slow, quick), 31) << "all loading, and the last layer's computing";
  EXPECT_EQ(pipelined_seconds(quick, slow), 31) << "the first layer's loading, and all computing";
  EXPECT_EQ(pipelined_seconds({}, slow), 30);
  // Never above the paper's bound: max of both, and one layer's loading or computing.
  const std::vector<double> load = {1, 5, 2, 2, 7, 1}, compute = {4, 1, 3, 3, 1, 2};
  const double all_load = std::accumulate(load.begin(), load.end(), 0.0),
               all_compute = std::accumulate(compute.begin(), compute.end(), 0.0);
  EXPECT_GE(pipelined_seconds(load, compute), std::max(all_load, all_compute));
  EXPECT_LT(pipelined_seconds(load, compute), all_load + all_compute);
}

}  // namespace
}  // namespace onset
